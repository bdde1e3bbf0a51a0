//! Running an execution again on what was recorded of it: no tool is called, no host spoken to and
//! no file put in place. Where the two differ is said field by field.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectors::{Executed, Meta, Outcome as ToolOutcome};
use kernel::attestation::{CodeKind, SandboxType};
use kernel::capability::Network;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::permit::Permit;
use kernel::units::Units;
use kernel::values::Digest;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::door::Call;
use super::execute::{ready, used};
use super::job::JobCode;
use super::limits;
use super::recording::{Recording, recorded};
use crate::actions::{Ended, Plan, find};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use ::sandbox::{
    Door, DoorAnswer, DoorFailure, Egress, EgressBody, EgressFailure, Report, Run, Written,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    execution_id: String,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    component: Option<String>,
}

/// Something in which the two differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Difference {
    pub(super) field: String,
    pub(super) recorded: String,
    pub(super) replayed: String,
}

/// What a repetition came to.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Replayed {
    pub(super) matches: bool,
    pub(super) differences: Vec<Difference>,
}

/// One attempt at repeating an execution.
pub(super) async fn call(
    shared: &Arc<Shared>,
    caller: &Caller,
    plan: Plan<'_>,
    permit: (&Permit, Digest),
) -> Ended {
    let outcome = match repeat(shared, caller, plan, permit).await {
        Ok((result, units)) => {
            let (cost, meta) = (plan.request.estimate, Meta { units, ..Meta::default() });
            let (prior, model) = (None, None);
            ToolOutcome::Executed(Executed { result, cost, meta, prior, model })
        }
        Err(Refused(failure)) => ToolOutcome::Failed(failure.retryable(false)),
    };
    outcome.into()
}

async fn repeat(
    shared: &Arc<Shared>,
    caller: &Caller,
    plan: Plan<'_>,
    (permit, plan_digest): (&Permit, Digest),
) -> Result<(RawJson, Units)> {
    let params: Params =
        serde_json::from_str(plan.document.params.as_str()).map_err(Refused::internal)?;
    let action = find(shared, caller, &params.execution_id)?;
    let recording = recorded(shared, &caller.log(), &action.id)?;
    let recording = recording.ok_or_else(not_kept)?;
    if recording.sandbox_type == SandboxType::Light {
        let message = "a process is not deterministic: only WebAssembly is repeated";
        return Err(Failure::new(Category::Sandbox, "not_replayable", message).into());
    }
    let own = recording.code(shared, &caller.tenant)?;
    let before = own.digest();
    let job = recording.job(instead(own, &params)?)?;
    let (door, hosts) = (Arc::new(Recorded::new(&recording)), Arc::new(NoHosts::default()));
    let live = shared.sandbox.runs.enter(permit.action());
    let sandbox_id = hex::encode(ledger::keys::random::<16>()?.as_ref());
    let ready = ready(shared, caller, &job.code).await?;
    let run = Run {
        permit,
        plan_digest,
        now: shared.now(),
        tenant: &caller.tenant,
        sandbox_id: &sandbox_id,
        sandbox_type: job.sandbox_type,
        code: ready.code.clone(),
        input: &job.input,
        capabilities: &job.capabilities,
        environment: &shared.config.sandbox.env.0,
        limits: job.limits,
        seed: recording.seed()?,
        started_at: recording.started_at,
        door: door.clone(),
        egress: hosts.clone(),
        cancel: live.cancel.clone(),
        rehearsal: true,
    };
    let report = shared.sandbox.boxes.run(run).await?;
    let mut differences = Vec::new();
    let now = job.code.digest();
    if now != before {
        differences.push(differs("code", before.to_string(), now.to_string()));
    }
    compare(&recording, &report, &mut differences);
    differences.extend(door.differences());
    differences.extend(hosts.differences());
    let replayed = Replayed { matches: differences.is_empty(), differences };
    let raw = serde_json::value::to_raw_value(&replayed).map_err(Refused::internal)?;
    let result = RawJson::result(raw).map_err(Refused::internal)?;
    Ok((result, used(&report, &job)))
}

fn not_kept() -> Refused {
    let message = "no execution, or its recording is not kept any more: it is for a day";
    Refused::new(Category::NotFound, "recording_not_kept", message)
}

/// The code to run: its own, or other code of the same kind.
fn instead(own: JobCode, params: &Params) -> Result<JobCode> {
    let other = |message: &str| Err(Refused::invalid(message));
    match (&params.source, &params.component, own.kind()) {
        (None, None, _) => Ok(own),
        (Some(_), Some(_), _) => other("name `source` or `component`, not both"),
        (Some(_), None, CodeKind::Component) => other("a component ran: name `component`"),
        (Some(text), None, _) if text.len() > limits::SOURCE_BYTES_MAX => {
            other("source: longer than code may be")
        }
        (Some(text), None, kind) => Ok(JobCode::Source { kind, text: Arc::from(text.as_str()) }),
        (None, Some(text), CodeKind::Component) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|_| Refused::invalid("component: no base64"))?;
            Ok(JobCode::Inline(bytes.into()))
        }
        (None, Some(_), _) => other("source text ran: name `source`"),
    }
}

fn differs(field: &str, recorded: impl AsRef<str>, replayed: impl AsRef<str>) -> Difference {
    let (recorded, replayed) = (short(recorded.as_ref()), short(replayed.as_ref()));
    Difference { field: field.to_owned(), recorded, replayed }
}

/// A text as far as it is shown: the digest of a long one tells it from others that begin alike.
fn short(text: &str) -> String {
    if text.chars().count() <= limits::DIFFERENCE_CHARS_MAX {
        return text.to_owned();
    }
    let begin: String = text.chars().take(limits::DIFFERENCE_CHARS_MAX).collect();
    format!("{begin}… ({})", Digest::of(text.as_bytes()))
}

fn compare(recording: &Recording, report: &Report, differences: &mut Vec<Difference>) {
    let name = |ending| serde_json::to_string(&ending).unwrap_or_default();
    let said = |output: &std::result::Result<String, String>| match output {
        Ok(text) => text.clone(),
        Err(reason) => format!("failed: {reason}"),
    };
    let written: BTreeMap<&str, Digest> = report
        .written
        .iter()
        .map(|Written { path, digest, .. }| (path.as_str(), *digest))
        .collect();
    let before: BTreeMap<&str, Digest> =
        recording.written.iter().map(|(path, digest)| (path.as_str(), *digest)).collect();
    let files = |read: &BTreeMap<String, Digest>| {
        read.iter().map(|(path, digest)| format!("{path} {digest}")).collect::<Vec<_>>().join("\n")
    };
    let each = [
        ("outcome", name(recording.ending), name(report.ending)),
        ("output", said(&recording.output), said(&report.output)),
        ("fuel_used", recording.fuel_used.to_string(), report.fuel_used.to_string()),
        ("files_read", files(&recording.files_read), files(&report.files_read)),
        ("written", listed(&before), listed(&written)),
    ];
    let other = each.into_iter().filter(|(_, recorded, replayed)| recorded != replayed);
    differences.extend(other.map(|(field, recorded, replayed)| differs(field, recorded, replayed)));
}

fn listed(files: &BTreeMap<&str, Digest>) -> String {
    files.iter().map(|(path, digest)| format!("{path} {digest}")).collect::<Vec<_>>().join("\n")
}

/// Answers calls as they were answered before.
#[derive(Debug)]
struct Recorded {
    calls: Vec<Call>,
    made: Mutex<usize>,
    other: Mutex<Option<Difference>>,
}

impl Recorded {
    fn new(recording: &Recording) -> Self {
        let (made, other) = (Mutex::default(), Mutex::default());
        Self { calls: recording.calls.clone(), made, other }
    }

    fn differences(&self) -> Option<Difference> {
        let other = self.other.lock().clone();
        let (made, recorded) = (*self.made.lock(), self.calls.len());
        let fewer = || {
            let missing =
                self.calls.get(made).map(|call| written(call.seq, &call.name, &call.args));
            differs("tool_calls", missing.unwrap_or_default(), "no call")
        };
        other.or_else(|| (made < recorded).then(fewer))
    }
}

fn written(seq: u32, name: &str, args: &str) -> String {
    format!("{seq}: {name} {args}")
}

#[async_trait]
impl Door for Recorded {
    async fn call(&self, seq: u32, tool: &str, args: &str) -> DoorAnswer {
        let call = self.calls.iter().find(|call| call.seq == seq);
        let same = call.filter(|call| call.name == tool && call.args == args);
        let result = match same {
            Some(call) => {
                *self.made.lock() += 1;
                let failed = |(code, message): (String, String)| {
                    let denied = call.denied(&code);
                    DoorFailure { code, message, fatal: false, denied }
                };
                call.result.clone().map_err(failed)
            }
            None => {
                let before = call.map(|call| written(seq, &call.name, &call.args));
                let before = before.unwrap_or_else(|| "no call".to_owned());
                let difference = differs("tool_calls", before, written(seq, tool, args));
                self.other.lock().get_or_insert(difference);
                let message = format!("call {seq} is not the one that was recorded");
                Err(DoorFailure {
                    code: "not_recorded".to_owned(),
                    message,
                    fatal: true,
                    denied: false,
                })
            }
        };
        DoorAnswer { result, held_ms: 0 }
    }
}

/// Speaks to nobody: what hosts say is not recorded.
#[derive(Debug, Default)]
struct NoHosts(Mutex<Option<String>>);

impl NoHosts {
    fn differences(&self) -> Option<Difference> {
        let host = self.0.lock().clone()?;
        Some(differs("network", "not recorded", host))
    }
}

#[async_trait]
impl Egress for NoHosts {
    async fn send(
        &self,
        _network: &Network,
        request: http::Request<EgressBody>,
    ) -> std::result::Result<http::Response<EgressBody>, EgressFailure> {
        let host = request.uri().authority().map(ToString::to_string).unwrap_or_default();
        self.0.lock().get_or_insert(host);
        let message = "what hosts say is not recorded: nothing is sent again".to_owned();
        Err(EgressFailure { code: "not_recorded".to_owned(), message, denied: false })
    }
}
