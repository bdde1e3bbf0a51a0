//! From an execution to its attestation, and to the document that strangers verify.

use std::collections::BTreeMap;

use kernel::action::{self, Action};
use kernel::attestation::{
    Attestation, Denial, Disclosure, Document, Facts, Files, Level, ToolCall, Written, salted,
};
use kernel::dsse::Envelope;
use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::machine::{Change, Kind};
use kernel::receipt::{LogId, Statement};
use kernel::values::Digest;
use ledger::{keys, proofs};

use super::execute::Ran;
use super::recording::disclosed;
use crate::error::{Refused, Result};
use crate::shared::Shared;

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;

/// What an execution is attested by and what its attestation has hashes of.
struct Said {
    denials: Vec<Denial>,
    files: Files,
    tools: BTreeMap<ToolId, Digest>,
    calls: Vec<ToolCall>,
}

impl Said {
    fn of(ran: &Ran, salt: &str) -> Self {
        let report = &ran.report;
        let denial = |denial: &::sandbox::Denial| Denial {
            capability: denial.capability,
            wanted: denial.wanted.clone(),
        };
        let written = |file: &::sandbox::Written| {
            (file.path.clone(), Written { digest: file.digest, bytes: file.bytes })
        };
        let call = |call: &super::door::Call| ToolCall {
            seq: call.seq,
            tool: call.tool.as_ref().map(|(tool, _)| tool.clone()),
            action: call.action.as_ref().map(|(action, _)| action.clone()),
            args: salted(salt, call.args.as_bytes()),
            result: match &call.result {
                Ok(text) => salted(salt, text.as_bytes()),
                Err((code, message)) => salted(salt, format!("{code}: {message}").as_bytes()),
            },
            failed: call.result.is_err(),
        };
        Self {
            denials: report.denials.iter().map(denial).collect(),
            files: Files {
                read: report.files_read.clone(),
                written: report.written.iter().map(written).collect(),
            },
            tools: ran.calls.iter().filter_map(|call| call.tool.clone()).collect(),
            calls: ran.calls.iter().map(call).collect(),
        }
    }
}

/// What is attested of an execution. The salt is that of its result.
pub(crate) fn attest(shared: &Shared, ran: &Ran, salt: &str) -> Result<Attestation> {
    let Ran { job, report, .. } = ran;
    let said = Said::of(ran, salt);
    let days = i64::from(shared.config.attestation.retention_days);
    let output = match &report.output {
        Ok(text) | Err(text) => text,
    };
    let facts = Facts {
        level: job.level,
        salt,
        sandbox_id: &ran.sandbox_id,
        sandbox_type: job.sandbox_type,
        code_kind: job.code.kind(),
        agent_hash: job.code.digest(),
        input: &job.input,
        output,
        ending: report.ending,
        started_at: ran.started_at,
        ended_at: ran.ended_at,
        not_after: Some(ran.ended_at.plus_micros(days.saturating_mul(DAY_MICROS))),
        seed: &ran.seed,
        limits: job.limits,
        fuel_used: report.fuel_used,
        memory_peak_bytes: report.memory_peak_bytes,
        capabilities: &job.capabilities,
        denied: &report.denied,
        denials: &said.denials,
        files: &said.files,
        runtime: &report.runtime,
        tools: &said.tools,
        calls: &said.calls,
    };
    Attestation::build(facts).map_err(Refused::internal)
}

/// What the attestation of an execution discloses: all that it has hashes of but input, output,
/// arguments and results, which are content.
pub(super) fn disclosure(ran: &Ran, salt: &str) -> Disclosure {
    let salted_only = Disclosure { salt: Some(salt.to_owned()), ..Disclosure::default() };
    if ran.job.level == Level::Basic {
        return salted_only;
    }
    let Said { denials, files, tools, calls } = Said::of(ran, salt);
    Disclosure {
        capabilities: Some(ran.job.capabilities.clone()),
        denials: Some(denials),
        files: Some(files),
        tools: Some(tools),
        tool_calls: Some(calls),
        ..salted_only
    }
}

/// A receipt as it is in the log, and its key.
struct Signed {
    index: u64,
    envelope: String,
    key: Digest,
}

/// The document of an execution that has ended: none where nothing is attested of it.
pub(super) fn document(shared: &Shared, log: &LogId, action: &Action) -> Result<Option<Document>> {
    let outcome = action.outcome.as_ref();
    let Some((outcome, attestation)) =
        outcome.and_then(|outcome| Some((outcome, outcome.attestation.as_ref()?)))
    else {
        return Ok(None);
    };
    let mut permit = None;
    let mut finished = None;
    let mut attempt = 0;
    for index in &action.receipts {
        let (signed, statement) = read(shared, log, *index)?;
        let ours = statement.predicate.transitions.into_iter().filter(|transition| {
            transition.stream.kind == Kind::Action && *transition.stream.id == *action.id.as_str()
        });
        let (mut starts, mut ends) = (false, false);
        for transition in ours {
            match transition.change {
                Change::Action(action::Change::Started(_)) => starts = true,
                Change::Action(action::Change::Finished { attempt: number, .. }) => {
                    (ends, attempt) = (true, number);
                }
                _ => {}
            }
        }
        match (ends, starts) {
            (true, _) => finished = Some(signed),
            (_, true) => permit = Some(signed),
            _ => {}
        }
    }
    let (Some(finished), Some(permit)) = (finished, permit) else {
        return Err(Refused::internal("an attestation without its receipts"));
    };
    let proof = proofs::tlog_proof(&shared.ledger, log, finished.index)?;
    let origin = log.origin(shared.ledger.host());
    let log_key = shared.ledger.keys().note(log.tenant(), &origin)?.verifier_key().to_string();
    let other = permit.key != finished.key;
    Ok(Some(Document {
        execution_id: action.id.clone(),
        attempt,
        status: outcome.status,
        receipt_key: pem_of(shared, log, finished.key)?,
        permit_receipt_key: other.then(|| pem_of(shared, log, permit.key)).transpose()?,
        receipt: finished.envelope,
        permit_receipt: permit.envelope,
        checkpoint: proof.checkpoint.to_string(),
        proof: proof.to_string(),
        log_key,
        attestation: Attestation::clone(attestation),
        // What was disclosed is kept for as long as the attestation is relied on.
        disclosure: disclosed(shared, log, &action.id)?.unwrap_or_default(),
    }))
}

fn read(shared: &Shared, log: &LogId, index: u64) -> Result<(Signed, Statement)> {
    let row = shared.ledger.store().receipts(log, index, 1)?.pop();
    let row = row.filter(|row| row.index == index);
    let row = row.ok_or_else(|| Refused::internal("an action without its receipt"))?;
    let envelope = Envelope::parse(&row.envelope).map_err(Refused::internal)?;
    let statement = Statement::parse(&envelope.payload).map_err(Refused::internal)?;
    let key = envelope.key_id;
    let envelope = String::from_utf8(row.envelope).map_err(Refused::internal)?;
    Ok((Signed { index, envelope, key }, statement))
}

fn pem_of(shared: &Shared, log: &LogId, key: Digest) -> Result<String> {
    let id = key.hex();
    let found = keys::public_keys(&shared.ledger, log.tenant())?;
    let found = found.into_iter().find(|known| known.key_id == id);
    found.map(|known| known.pem).ok_or_else(|| Refused::internal("a receipt of no key"))
}

/// Why there is no document.
pub(super) fn nothing_attested(action: &Action) -> Refused {
    let message = if action.status.is_settled() {
        "nothing ran, so nothing is attested"
    } else {
        "the execution has not ended: ask again"
    };
    Failure::new(Category::NotFound, "not_attested", message)
        .retryable(!action.status.is_settled())
        .into()
}
