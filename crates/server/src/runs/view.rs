//! Runs as callers see them.

use std::sync::Arc;

use kernel::action::FailureCode;
use kernel::decision::DecisionPoint as _;
use kernel::failure::Failure;
use kernel::json::RawJson;
use kernel::receipt::LogId;
use kernel::release::Ring;
use kernel::run::{Run, Status};
use proto::runs::{Run as WireRun, RunPin, RunState, RunStep};
use proto::wire::{Json, Timestamp};

use super::document;
use super::live::{self, Live};
use super::trace::{Traced, digest_of, told};
use crate::actions::{actors, sentence};
use crate::error::{self, Result};
use crate::shared::Shared;

pub(super) fn wire_state(status: Status) -> RunState {
    match status {
        Status::Queued => RunState::Queued,
        Status::Running => RunState::Running,
        Status::Paused => RunState::Paused,
        Status::WaitingApproval => RunState::WaitingApproval,
        Status::Succeeded => RunState::Succeeded,
        Status::FailedRetryable => RunState::FailedRetryable,
        Status::FailedTerminal => RunState::FailedTerminal,
        Status::Canceled => RunState::Canceled,
    }
}

fn failure(code: &FailureCode) -> Failure {
    Failure::new(code.category, &code.code, sentence(&code.code))
}

fn json(raw: &RawJson) -> Json {
    Json { text: raw.as_str().to_owned() }
}

/// What of a run is in its state.
pub(super) fn brief(log: &LogId, run: &Run) -> WireRun {
    let time = |at: kernel::values::Timestamp| Some(Timestamp::from_micros(at.0));
    let request = &run.request;
    let failed = run.ending.as_ref().and_then(|ending| ending.failure.as_ref());
    let text = |id: Option<&str>| id.unwrap_or_default().to_owned();
    WireRun {
        run_id: run.id.to_string(),
        state: wire_state(run.status).into(),
        environment: request.environment.to_string(),
        error: failed.map(|code| {
            let mut wire = error::wire(failure(code));
            wire.receipt_id = log.receipt_id(run.last_receipt);
            // A dead letter may be replayed, whatever its failure was.
            wire.retryable = run.status == Status::FailedRetryable;
            wire
        }),
        cost_micro_usd: run.cost.0,
        budget_micro_usd: request.budget.map(|budget| budget.0),
        account_id: text(request.account.as_ref().map(|id| id.as_str())),
        writes: run.writes,
        replay_of: text(request.of.as_ref().map(|id| id.as_str())),
        replays: run.replays,
        actor_chain: actors(&request.actors),
        first_receipt: log.receipt_id(run.first_receipt),
        last_receipt: log.receipt_id(run.last_receipt),
        created_at: time(run.requested_at),
        updated_at: time(run.updated_at),
        ended_at: run.ended_at.and_then(time),
        deadline: request.deadline.and_then(time),
        ..WireRun::default()
    }
}

/// What a run is bound to, and whether the policy that goes with it is still the one in force.
pub(super) fn pinned(shared: &Shared, log: &LogId, run: &Run) -> Option<RunPin> {
    let pinned = run.request.release.as_ref()?;
    let LogId::Workspace(tenant, _) = log else { return None };
    let text = |id: Option<&str>| id.unwrap_or_default().to_owned();
    let model = pinned.model_pin.as_ref();
    Some(RunPin {
        workflow: pinned.workflow.to_string(),
        version: pinned.version.to_string(),
        digest: pinned.digest.to_string(),
        release_id: text(pinned.release.as_ref().map(|id| id.as_str())),
        ring: text(pinned.ring.map(Ring::as_str)),
        policy_revision: u32::try_from(pinned.policy_revision).unwrap_or(u32::MAX),
        policy_in_force: shared.policy.current(tenant).revision == pinned.policy_revision,
        model_provider: text(model.map(|pin| pin.provider.as_str())),
        model: text(model.map(|pin| pin.model.as_str())),
    })
}

/// Why a step did not succeed.
fn why(traced: &Traced) -> Option<Failure> {
    let code = traced.failure.as_ref()?;
    let Some(lacks) = &traced.lacks else { return Some(failure(code)) };
    let message = format!(
        "it reads what `{lacks}` gave, which nobody knows: people established that the action of \
         `{lacks}` was carried out, and it had no answer"
    );
    Some(Failure::new(code.category, &code.code, message))
}

/// Says of a run that a step ended, for what nobody knows, which step and why.
fn name_lack(wire: &mut WireRun, steps: &[Traced]) {
    let lacking = steps.iter().find(|step| step.lacks.is_some());
    let Some((step, failure)) = lacking.and_then(|step| Some((step, why(step)?))) else { return };
    if let Some(error) = wire.error.as_mut().filter(|error| error.code == failure.code) {
        error.message = format!("`{}` failed: {}", step.step, failure.message);
    }
}

fn step(traced: Traced) -> RunStep {
    let error = why(&traced).map(error::wire);
    let state = traced.state;
    RunStep {
        step_id: traced.step.to_string(),
        tool: traced.tool.to_string(),
        state: state.status.as_str().to_owned(),
        iteration: state.iteration,
        tries: state.tries,
        action_id: traced.action.map(|id| id.to_string()).unwrap_or_default(),
        skipped: state.skipped,
        wait_until: state.wait_until.map(|at| Timestamp::from_micros(at.0)),
        error,
        cost_micro_usd: traced.cost.0,
        output: traced.output.as_ref().map(json),
        group: traced.group.map(|id| id.to_string()).unwrap_or_default(),
        params: traced.params.as_ref().map(json),
        output_unknown: state.output_unknown,
    }
}

/// A run with its steps, as far as its content is kept.
pub(super) fn whole(
    shared: &Shared,
    log: &LogId,
    run: &Run,
    checkpoint: Arc<str>,
    known: Option<&Live>,
) -> Result<WireRun> {
    let mut wire = brief(log, run);
    wire.pinned = pinned(shared, log, run);
    wire.checkpoint = match checkpoint.is_empty() {
        false => checkpoint.to_string(),
        true => shared.ledger.store().head(log)?.map_or_else(String::new, |head| head.checkpoint),
    };
    let trace = match known.filter(|live| live.is_whole()) {
        Some(live) => {
            named(&mut wire, &live.document)?;
            told(run, &live.document, Some(live.outputs()))?
        }
        None => {
            let Some(document) = document::open(shared, log, &run.id)? else {
                wire.steps = bare(run);
                return Ok(wire);
            };
            named(&mut wire, &document)?;
            told(run, &document, live::outputs(shared, log, run)?)?
        }
    };
    if run.status.has_ended() {
        wire.root_hash = trace.root_hash()?.map(|hash| hash.to_string()).unwrap_or_default();
    }
    name_lack(&mut wire, &trace.steps);
    wire.output = trace.steps.last().and_then(|step| step.output.as_ref()).map(json);
    wire.steps = trace.steps.into_iter().map(step).collect();
    Ok(wire)
}

/// Adds what the plan is called.
pub(super) fn named(wire: &mut WireRun, document: &document::Document) -> Result<()> {
    let plan = &document.plan;
    wire.name = plan.name.clone();
    wire.version = plan.version.as_ref().map(|version| version.to_string()).unwrap_or_default();
    wire.plan_digest = plan.digest().to_string();
    wire.input_digest = digest_of(&document.input)?.to_string();
    Ok(())
}

/// The steps of a run whose plan is no longer kept.
fn bare(run: &Run) -> Vec<RunStep> {
    let steps = run.each().map(|(spec, state)| RunStep {
        step_id: spec.id.to_string(),
        state: state.status.as_str().to_owned(),
        iteration: state.iteration,
        tries: state.tries,
        action_id: state.action.as_ref().map(ToString::to_string).unwrap_or_default(),
        skipped: state.skipped,
        error: state.failure.as_ref().map(|code| error::wire(failure(code))),
        cost_micro_usd: state.cost.0,
        group: spec.group.as_ref().map(ToString::to_string).unwrap_or_default(),
        output_unknown: state.output_unknown,
        ..RunStep::default()
    });
    steps.collect()
}
