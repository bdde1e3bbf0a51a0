//! Replays that do nothing: what a run would do again, with what was recorded in place of effects.

use std::collections::BTreeMap;

use kernel::decision::Phase;
use kernel::failure::Failure;
use kernel::ids::StepId;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::run::{self, Input, Next, Report, Run, Step, StepStatus};
use kernel::values::Timestamp;
use proto::runs::ReplayedStep;
use serde_json::Value;

use super::document::Document;
use super::trace::{Trace, Traced, digest_of, trace};
use crate::actions::{self, Asked, Claims, decide_plan, prepare};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// Which kind of replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Whether the same would be called, with the same, and come to the same.
    Mock,
    /// What policy would say of it now, and what it would cost.
    Dry,
}

/// Plays a run that has ended again. The failure is typed where its contents are no longer kept.
pub(super) fn replay(
    shared: &Shared,
    caller: &Caller,
    log: &LogId,
    recorded: &Run,
    document: &Document,
    mode: Mode,
) -> Result<Vec<ReplayedStep>> {
    let traced = trace(shared, log, recorded, document)?;
    if traced.gone {
        return Err(expired().into());
    }
    let outputs = recorded_outputs(&traced);
    let played = play(shared, log, recorded, document, &outputs)?;
    let mut steps = Vec::with_capacity(traced.steps.len());
    for (index, traced) in traced.steps.iter().enumerate() {
        let Some(again) = played.steps.get(index) else { break };
        let mut wire = ReplayedStep {
            step_id: traced.step.to_string(),
            tool: traced.tool.to_string(),
            recorded_state: traced.state.status.as_str().to_owned(),
            skipped: again.skipped,
            differs: differs(traced, again)?,
            ..ReplayedStep::default()
        };
        if mode == Mode::Dry {
            judge(shared, caller, recorded, traced, &mut wire)?;
        }
        steps.push(wire);
    }
    Ok(steps)
}

/// Contents are kept for a time; what is left then is their digests.
pub(super) fn expired() -> Failure {
    let message = "what the steps gave was kept for its time and is deleted";
    Failure::new(kernel::failure::Category::NotFound, "result_expired", message)
}

fn recorded_outputs(trace: &Trace) -> BTreeMap<StepId, Value> {
    let of = |traced: &Traced| {
        let output = traced.output.as_ref().map(|output| output.to_value());
        (traced.step.clone(), output.unwrap_or_default())
    };
    trace.steps.iter().map(of).collect()
}

/// The rules of runs, applied anew to what was recorded of each action.
fn play(
    shared: &Shared,
    log: &LogId,
    recorded: &Run,
    document: &Document,
    recorded_outputs: &BTreeMap<StepId, Value>,
) -> Result<Run> {
    let input = document.input.to_value();
    let mut now = recorded.requested_at;
    let absent = || Refused::internal("a run without its request");
    let run = Run::requested(&recorded.id, recorded.request.clone(), now).ok_or_else(absent)?;
    let mut run = run.foresee(Input::Admit {}, now)?;
    let mut outputs = BTreeMap::new();
    for _ in 0..limits::RUN_MOVES_MAX {
        let steps = run::next(&run, &document.plan, &input, &outputs, now);
        let Some(next) = steps.into_iter().next() else {
            match run.due().filter(|due| *due > now && run.ending.is_none()) {
                Some(due) => now = due,
                None => break,
            }
            continue;
        };
        let (index, moves) = match next {
            Next::Start { index, .. } => {
                let Some(moves) = reports(shared, log, recorded, index)? else { break };
                (index, moves)
            }
            Next::Skip { index } => (index, vec![Input::Skip { step: name(&run, index)? }]),
            Next::Wait { index, until } => {
                (index, vec![Input::Wait { step: name(&run, index)?, until, timer: true }])
            }
            Next::Refuse { index, failure } => {
                let step = name(&run, index)?;
                (index, vec![Input::Refuse { step, failure, output_of: None }])
            }
        };
        run = follow(run, recorded, index, moves, now)?;
        let step = name(&run, index)?;
        if run.steps.get(index).is_some_and(|step| step.status == StepStatus::Succeeded) {
            let output = recorded_outputs.get(&step).cloned().unwrap_or_default();
            outputs.insert(step, output);
        }
    }
    Ok(run)
}

/// Only the last action of a step is in the state of its run: it stands for the last try of the
/// last call.
fn follow(
    mut run: Run,
    recorded: &Run,
    index: usize,
    moves: Vec<Input>,
    now: Timestamp,
) -> Result<Run> {
    let last = recorded.steps.get(index);
    if let (Some(step), Some(last)) = (run.steps.get_mut(index), last)
        && moves.iter().any(|input| matches!(input, Input::Follow(_)))
    {
        step.iteration = last.iteration;
        step.tries = last.tries.saturating_sub(1);
        step.refused = last.refused.clone();
    }
    for input in moves {
        run = run.foresee(input, now)?;
    }
    Ok(run)
}

/// What was recorded of the action of a step: that it was asked for, and how it ended.
fn reports(
    shared: &Shared,
    log: &LogId,
    recorded: &Run,
    index: usize,
) -> Result<Option<Vec<Input>>> {
    let action = recorded.steps.get(index).and_then(|step| step.action.as_ref());
    let Some(action) = action else { return Ok(None) };
    let state = shared.ledger.read(log, Kind::Action, action.as_str())?;
    let Some(State::Action(action)) = state else { return Ok(None) };
    let Some(step) = &action.request.step else { return Ok(None) };
    let ended = run::report(&action, step);
    let asked = Report {
        status: kernel::action::Status::Executing,
        failure: None,
        cost: kernel::values::MicroUsd::ZERO,
        again: false,
        later_ms: None,
        ..ended.clone()
    };
    Ok(Some(vec![Input::Follow(Box::new(asked)), Input::Follow(Box::new(ended))]))
}

fn name(run: &Run, index: usize) -> Result<StepId> {
    let spec = run.request.steps.get(index);
    spec.map(|spec| spec.id.clone()).ok_or_else(|| Refused::internal("a step without its run"))
}

/// In what the step played again is not as it was recorded.
fn differs(traced: &Traced, again: &Step) -> Result<Vec<String>> {
    let mut differs = Vec::new();
    let params = traced.params.as_ref().map(digest_of).transpose()?;
    if traced.called_with.is_some() && params != traced.called_with {
        differs.push("params".to_owned());
    }
    let recorded = &traced.state;
    for (field, same) in [
        ("state", recorded.status == again.status),
        ("skipped", recorded.skipped == again.skipped),
        ("action", recorded.action == again.action),
        ("tries", recorded.tries == again.tries),
        ("error", recorded.failure == again.failure),
    ] {
        if !same {
            differs.push(field.to_owned());
        }
    }
    Ok(differs)
}

/// What policy says of the step now, and what it costs at most.
fn judge(
    shared: &Shared,
    caller: &Caller,
    run: &Run,
    traced: &Traced,
    wire: &mut ReplayedStep,
) -> Result<()> {
    let Some(params) = &traced.params else { return Ok(()) };
    let asked = Asked {
        tool: traced.tool.clone(),
        params: params.clone(),
        claims: Claims::new(None)?,
        account: run.request.account.clone(),
        through: None,
        under: None,
        step: Some(std::sync::Arc::new(actions::AsStep {
            step: run::StepRef { run: run.id.clone(), step: traced.step.clone(), iteration: 1 },
            approval: None,
            timeout_ms: None,
            max_attempts: None,
        })),
    };
    match prepare(shared, caller, &asked, None) {
        Ok(prepared) => {
            let decision = decide_plan(shared, caller, prepared.plan(), Phase::Submit, None);
            wire.effect = Some(actions::effect(decision.effect).into());
            wire.reasons = decision.reasons;
            wire.estimate_micro_usd = prepared.request.estimate.0;
        }
        Err(Refused(failure)) => wire.error = Some(crate::error::wire(failure)),
    }
    Ok(())
}
