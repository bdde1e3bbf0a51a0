//! Carrying out an execution: one attempt, in a sandbox, under its permit.

use std::sync::Arc;

use connectors::{Executed, Meta, Outcome as ToolOutcome};
use kernel::action::{Action, INTERRUPTED};
use kernel::attestation::Ending;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::permit::Permit;
use kernel::units::{Unit, Units};
use kernel::values::{Digest, MicroUsd, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;

use super::door::{Call, GovernedDoor};
use super::job::{Job, JobCode};
use super::registry::WasmTool;
use super::runs::{self, Ready};
use super::tool::{EXECUTE, REPLAY, attempt_ms};
use super::{limits, registry, replay};
use crate::actions::{Ended, Plan};
use crate::shared::{Caller, Shared};
use crate::toolbox::{self, Found};
use ::sandbox::{Code, Denial, Report, Run, Seed, Written};

/// An execution that came to an end by itself, with all that is attested and recorded of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(super) job: Job,
    pub(super) sandbox_id: String,
    pub(super) seed: Seed,
    pub(super) started_at: Timestamp,
    pub(super) ended_at: Timestamp,
    pub(super) report: Report,
    pub(super) calls: Vec<Call>,
    /// Why it could not go on, where a call ended it.
    fatal: Option<Failure>,
    /// Whether its code is a tool of its own, and was called as such.
    own: bool,
    /// What is shown of one that did not succeed.
    pub(crate) shown: Option<RawJson>,
    /// What it cost, however it ended.
    pub(crate) cost: MicroUsd,
}

impl Ran {
    /// What its code used. By how much later than at its limit it was stopped is the sandbox's.
    pub(crate) fn units(&self) -> Units {
        used(&self.report, &self.job)
    }
}

/// The processor time that code used, as far as it was granted.
pub(super) fn used(report: &Report, job: &Job) -> Units {
    Units::of(Unit::CpuMs, report.cpu_us.div_ceil(1_000).min(job.limits.cpu_ms))
}

/// One attempt at an action that runs code.
pub(crate) async fn call(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    permit: &Permit,
    plan_digest: Digest,
) -> Ended {
    let now = shared.now();
    if let Err(invalid) = permit.check(plan_digest, now) {
        let failure = Failure::new(Category::Permission, "permit_invalid", invalid.to_string());
        return ToolOutcome::Failed(failure).into();
    }
    if action.request.tool.as_str() == REPLAY {
        return replay::call(shared, caller, plan, (permit, plan_digest)).await;
    }
    match attempt(shared, caller, action, plan, (permit, plan_digest, now)).await {
        Ok(ended) => ended,
        Err(failure) => ToolOutcome::Failed(failure).into(),
    }
}

/// The job of an action, checked anew: what was decided long ago may be too much by now.
fn job(
    shared: &Shared,
    caller: &Caller,
    action: &Action,
    params: &RawJson,
) -> Result<Job, Failure> {
    let request = &action.request;
    match toolbox::find(shared, &caller.tenant, &request.tool) {
        Some(found) if found.digest() != request.tool_digest => Err(changed()),
        Some(Found::Wasm(tool)) => Job::of_tool(&shared.config, tool, params),
        Some(Found::Code(_)) => Job::read(shared, caller, params),
        _ => Err(changed()),
    }
}

fn changed() -> Failure {
    let message = "the tool is no longer the one that was decided: ask again";
    Failure::new(Category::PolicyDenied, "tool_changed", message)
}

async fn attempt(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    (permit, plan_digest, now): (&Permit, Digest, Timestamp),
) -> Result<Ended, Failure> {
    let job = job(shared, caller, action, &plan.document.params)?;
    let live = shared.sandbox.runs.enter(&action.id);
    let asked = (action, plan.document);
    let door = Arc::new(GovernedDoor::new(shared, caller, asked, live.cancel.clone()));
    let (seed, started_at) = (seed(&plan.document.nonce), action.requested_at);
    let sandbox_id = ledger::keys::random::<16>()
        .map_err(|error| crate::error::Refused::from(error).0)
        .map(|bytes| hex::encode(bytes.as_ref()))?;
    let ready = ready(shared, caller, &job.code).await?;
    let run = Run {
        permit,
        plan_digest,
        now,
        tenant: &caller.tenant,
        sandbox_id: &sandbox_id,
        sandbox_type: job.sandbox_type,
        code: ready.code.clone(),
        input: &job.input,
        capabilities: &job.capabilities,
        environment: &shared.config.sandbox.env.0,
        limits: job.limits,
        seed,
        started_at,
        door: door.clone(),
        egress: shared.sandbox.hosts.clone(),
        cancel: live.cancel.clone(),
        rehearsal: false,
    };
    let lease = std::time::Duration::from_millis(attempt_ms(&shared.config, job.limits.wall_ms));
    let reported = {
        let running = shared.sandbox.boxes.run(run);
        tokio::pin!(running);
        tokio::select! {
            reported = &mut running => reported,
            // Its lease is over soon, and then it would be repeated beside itself.
            () = tokio::time::sleep(lease.saturating_sub(limits::LEASE_MARGIN)) => {
                live.cancel.cancel();
                running.await
            }
        }
    };
    if shared.sandbox.runs.is_stopping() && action.request.idempotent {
        // What it called is found again by whoever repeats it.
        return Err(interrupted());
    }
    door.close().await;
    let report = reported.map_err(|failure| refused(failure, permit))?;
    let price = plan.request.estimate;
    let ran = Ran {
        job,
        sandbox_id,
        seed,
        started_at,
        ended_at: shared.now(),
        report,
        calls: door.calls(),
        fatal: door.fatal(),
        own: action.request.tool.as_str() != EXECUTE,
        shown: None,
        cost: price,
    };
    Ok(ended(ran))
}

/// Why nothing ran. Whoever just asked is told at once; what waited in the queue is tried again
/// where that helps.
fn refused(failure: Failure, permit: &Permit) -> Failure {
    if permit.attempt() == 1 { failure.retryable(false) } else { failure }
}

/// The server stops: the execution is repeated by the next one.
fn interrupted() -> Failure {
    let message = "the server stopped in the middle: the execution is repeated";
    let ms = u64::try_from(limits::INTERRUPTED_MS).unwrap_or_default();
    Failure::new(Category::Conflict, INTERRUPTED, message).retry_after_ms(ms)
}

/// What the sandbox has for randomness: the same in each attempt, and nobody's to guess.
fn seed(nonce: &str) -> Seed {
    Digest::of(format!("tally sandbox seed\n{nonce}").as_bytes()).0
}

/// The code, as the sandbox takes it: a component that came along is bound first.
pub(super) async fn ready(
    shared: &Arc<Shared>,
    caller: &Caller,
    code: &JobCode,
) -> Result<Ready, Failure> {
    match code {
        JobCode::Source { kind, text } => {
            Ok(Code::Source { kind: *kind, text: text.clone() }.into())
        }
        JobCode::Registered(tool) => {
            registry::ready(shared, &caller.tenant, tool).await.map(Ready::from)
        }
        JobCode::Inline(bytes) => runs::bind(shared, &caller.tenant, bytes).await,
    }
}

/// What an execution came to, as its caller is shown it.
#[derive(Serialize)]
struct Shown<'a> {
    outcome: Ending,
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Said<'a>>,
    sandbox_id: &'a str,
    denials: Vec<Denied<'a>>,
    fuel_used: u64,
    memory_peak_bytes: u64,
    written: Vec<InPlace<'a>>,
    tool_calls: Vec<Called<'a>>,
}

#[derive(Serialize)]
struct Said<'a> {
    code: &'a str,
    message: &'a str,
}

#[derive(Serialize)]
struct Denied<'a> {
    capability: kernel::capability::Capability,
    wanted: &'a str,
}

#[derive(Serialize)]
struct InPlace<'a> {
    path: &'a str,
    digest: Digest,
    bytes: u64,
}

#[derive(Serialize)]
struct Called<'a> {
    seq: u32,
    tool: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action_id: Option<&'a str>,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

fn denied(Denial { capability, wanted }: &Denial) -> Denied<'_> {
    Denied { capability: *capability, wanted }
}

fn in_place(Written { path, digest, bytes }: &Written) -> InPlace<'_> {
    InPlace { path, digest: *digest, bytes: *bytes }
}

fn called(call: &Call) -> Called<'_> {
    Called {
        seq: call.seq,
        tool: &call.name,
        action_id: call.action.as_ref().map(|(id, _)| id.as_str()),
        // Without an action it was refused before there was one.
        status: call.action.as_ref().map_or("refused", |(_, status)| status.as_str()),
        error: call.result.as_ref().err().map(|(code, _)| code.as_str()),
    }
}

/// Why an execution did not succeed: a code, which is never empty, and words.
fn why(ran: &Ran) -> (&str, &str) {
    let message = ran.report.output.as_ref().err().map_or("", String::as_str);
    // What the door said is more exact than that a call ended it.
    let said = ran.fatal.as_ref().filter(|_| ran.report.ending == Ending::Crash);
    if let Some(failure) = said {
        return (&failure.code, &failure.message);
    }
    let code = ran.report.code.unwrap_or(match ran.report.ending {
        Ending::Success => "success",
        Ending::Timeout => "timeout",
        Ending::MemoryExceeded => "memory_exceeded",
        Ending::PermissionDenied => "capability_denied",
        Ending::Crash => "crash",
    });
    (code, message)
}

fn shown(ran: &Ran) -> Result<RawJson, String> {
    let report = &ran.report;
    let output = report.output.as_ref().ok().map(|text| RawValue::from_string(text.clone()));
    let (code, message) = why(ran);
    let shown = Shown {
        outcome: report.ending,
        output: output.transpose().map_err(|error| error.to_string())?,
        error: report.output.is_err().then_some(Said { code, message }),
        sandbox_id: &ran.sandbox_id,
        denials: report.denials.iter().map(denied).collect(),
        fuel_used: report.fuel_used,
        memory_peak_bytes: report.memory_peak_bytes,
        written: report.written.iter().map(in_place).collect(),
        tool_calls: ran.calls.iter().map(called).collect(),
    };
    let raw = serde_json::value::to_raw_value(&shown).map_err(|error| error.to_string())?;
    RawJson::result(raw).map_err(|error| error.to_string())
}

/// What a registered tool answered, by its own schema.
fn own(tool: &WasmTool, ran: &Ran) -> Result<RawJson, String> {
    let Ok(text) = &ran.report.output else { return shown(ran) };
    let raw = RawValue::from_string(text.clone()).map_err(|error| error.to_string())?;
    let result = RawJson::result(raw).map_err(|error| error.to_string())?;
    tool.check_output(&result).map_err(|failure| failure.message)?;
    Ok(result)
}

/// The end of an attempt whose code ran. What it did not succeed in is a failure, known as such:
/// nothing is repeated.
fn ended(mut ran: Ran) -> Ended {
    let shown = match &ran.job.code {
        // A tool of its own answers as that tool does.
        JobCode::Registered(tool) if ran.own => own(tool, &ran),
        _ => shown(&ran),
    };
    let (ending, price) = (ran.report.ending, ran.cost);
    let outcome = match (ending, shown) {
        (_, Err(reason)) => {
            let message = format!("the result cannot be kept: {reason}");
            ToolOutcome::Failed(Failure::new(Category::Sandbox, "result_invalid", message))
        }
        (Ending::Success, Ok(result)) => {
            let (meta, prior, model) = (Meta::default(), None, None);
            ToolOutcome::Executed(Executed { result, cost: price, meta, prior, model })
        }
        (_, Ok(result)) => {
            let (code, message) = why(&ran);
            let failure = Failure::new(Category::Sandbox, code, message);
            ran.shown = Some(result);
            ToolOutcome::Failed(failure)
        }
    };
    Ended { ran: Some(Box::new(ran)), ..outcome.into() }
}
