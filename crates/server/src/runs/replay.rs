//! Replays that do nothing: what a run would do again, with what was recorded in place of effects.

use std::collections::{BTreeMap, VecDeque};

use kernel::decision::Phase;
use kernel::failure::Failure;
use kernel::ids::{ActionId, StepId};
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::run::{self, Input, Next, Report, Run, Step};
use proto::runs::ReplayedStep;
use serde_json::Value;

use super::ahead::said;
use super::document::Document;
use super::history::history;
use super::trace::{Traced, digest_of, trace};
use crate::actions::{self, Asked, decide_plan, prepare};
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
    let Played { run: played, differs: calls } = play(shared, log, recorded, document)?;
    let mut steps = Vec::with_capacity(traced.steps.len());
    for (index, traced) in traced.steps.iter().enumerate() {
        let Some(again) = played.steps.get(index) else { break };
        let mut differ = calls.get(index).cloned().unwrap_or_default();
        differ.extend(differs(traced, again));
        let mut wire = ReplayedStep {
            step_id: traced.step.to_string(),
            tool: traced.tool.to_string(),
            recorded_state: traced.state.status.as_str().to_owned(),
            skipped: again.skipped,
            differs: differ,
            ..ReplayedStep::default()
        };
        if mode == Mode::Dry {
            judge(shared, caller, (recorded, document), traced, &mut wire)?;
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

/// A run that is played again, with what was recorded in place of effects.
struct Play<'a> {
    shared: &'a Shared,
    log: &'a LogId,
    recorded: &'a Run,
    /// The actions of each step that were not asked for again yet, the next one first.
    left: Vec<VecDeque<(u32, ActionId)>>,
    outputs: BTreeMap<StepId, Value>,
    /// Of each step, in what its calls are not as they were recorded.
    differs: Vec<Vec<String>>,
}

/// What came of playing a run again.
struct Played {
    run: Run,
    differs: Vec<Vec<String>>,
}

/// The rules of runs, applied anew to what was recorded of each action.
fn play(shared: &Shared, log: &LogId, recorded: &Run, document: &Document) -> Result<Played> {
    let input = document.input.to_value();
    let mut now = recorded.requested_at;
    let absent = || Refused::internal("a run without its request");
    let run = Run::requested(&recorded.id, recorded.request.clone(), now).ok_or_else(absent)?;
    let mut run = run.foresee(Input::Admit {}, now)?;
    let history = history(shared, log, recorded)?;
    let differs = vec![Vec::new(); history.len()];
    let left = history.into_iter().map(VecDeque::from).collect();
    let mut play = Play { shared, log, recorded, left, outputs: BTreeMap::new(), differs };
    for _ in 0..limits::RUN_MOVES_MAX {
        let steps = run::next(&run, &document.plan, &input, &play.outputs, now);
        let Some(next) = steps.into_iter().next() else {
            match run.due().filter(|due| *due > now && run.ending.is_none()) {
                Some(due) => now = due,
                None => break,
            }
            continue;
        };
        let Some(moves) = play.moves(&run, next)? else { break };
        for input in moves {
            run = run.foresee(input, now)?;
        }
    }
    // What was asked for then and is not now.
    for (left, differs) in play.left.iter().zip(&mut play.differs) {
        if !left.is_empty() {
            differs.push("calls".to_owned());
        }
    }
    Ok(Played { run, differs: play.differs })
}

impl Play<'_> {
    /// What a step that may start comes to; none where nothing of it was recorded.
    fn moves(&mut self, run: &Run, next: Next) -> Result<Option<Vec<Input>>> {
        Ok(Some(match next {
            Next::Start { index, params, .. } => return self.called(run, index, &params),
            Next::Skip { index } => {
                let step = name(run, index)?;
                self.outputs.insert(step.clone(), Value::Null);
                vec![Input::Skip { step }]
            }
            Next::Wait { index, until } => {
                vec![Input::Wait { step: name(run, index)?, until, timer: true }]
            }
            Next::Refuse { index, failure } => {
                vec![Input::Refuse { step: name(run, index)?, failure, output_of: None }]
            }
        }))
    }

    /// The recorded action of the next call of a step: that it was asked for, and how it ended.
    fn called(&mut self, run: &Run, index: usize, params: &RawJson) -> Result<Option<Vec<Input>>> {
        let call = self.left.get_mut(index).and_then(VecDeque::pop_front);
        let Some((iteration, id)) = call else { return Ok(None) };
        let step = name(run, index)?;
        let body = actions::open_result(self.shared, self.log, &id)?;
        let with = body.as_ref().and_then(|body| body.params);
        if with.is_some_and(|with| digest_of(params).ok() != Some(with)) {
            self.note(index, iteration, "params");
        }
        if run.steps.get(index).is_none_or(|step| step.iteration != iteration) {
            self.note(index, iteration, "iteration");
        }
        if let Some(result) = body.as_ref().and_then(|body| body.answered()) {
            self.outputs.insert(step.clone(), result.to_value());
        }
        let state = self.shared.ledger.read(self.log, Kind::Action, id.as_str())?;
        let Some(State::Action(action)) = state else { return Ok(None) };
        let Some(of) = &action.request.step else { return Ok(None) };
        let ended = run::report(&action, of);
        let asked = Report {
            status: kernel::action::Status::Executing,
            failure: None,
            cost: kernel::values::MicroUsd::ZERO,
            again: false,
            later_ms: None,
            anew: false,
            output_unknown: false,
            ..ended.clone()
        };
        let mut moves = vec![Input::Follow(Box::new(asked))];
        let last = self.recorded.steps.get(index);
        let refused = last.filter(|last| last.action.as_ref() == Some(&id));
        if let Some(failure) = refused.and_then(|last| last.refused.clone()) {
            moves.push(Input::Refuse { step, failure, output_of: Some(id) });
        }
        moves.push(Input::Follow(Box::new(ended)));
        Ok(Some(moves))
    }

    fn note(&mut self, index: usize, iteration: u32, what: &str) {
        let once = self.recorded.request.steps.get(index).is_some_and(|spec| spec.iterations == 1);
        let text = if once { what.to_owned() } else { format!("calls.{iteration}.{what}") };
        if let Some(differs) = self.differs.get_mut(index)
            && !differs.contains(&text)
        {
            differs.push(text);
        }
    }
}

fn name(run: &Run, index: usize) -> Result<StepId> {
    let spec = run.request.steps.get(index);
    spec.map(|spec| spec.id.clone()).ok_or_else(|| Refused::internal("a step without its run"))
}

/// In what the step ended otherwise than it was recorded.
fn differs(traced: &Traced, again: &Step) -> Vec<String> {
    let recorded = &traced.state;
    let fields = [
        ("state", recorded.status == again.status),
        ("skipped", recorded.skipped == again.skipped),
        ("action", recorded.action == again.action),
        ("tries", recorded.tries == again.tries),
        ("error", recorded.failure == again.failure),
    ];
    let others = fields.into_iter().filter(|(_, same)| !same);
    others.map(|(field, _)| field.to_owned()).collect()
}

/// What policy says of the step now, and what it costs at most.
fn judge(
    shared: &Shared,
    caller: &Caller,
    (run, document): (&Run, &Document),
    traced: &Traced,
    wire: &mut ReplayedStep,
) -> Result<()> {
    let Some(params) = &traced.params else { return Ok(()) };
    let mut facts = run.facts();
    let here = run.position(&traced.step);
    facts.approved_steps.retain(|step| run.position(step) < here);
    let asked = Asked {
        tool: traced.tool.clone(),
        params: params.clone(),
        claims: said(traced.claims.clone())?,
        account: run.request.account.clone(),
        through: None,
        under: None,
        step: Some(std::sync::Arc::new(actions::AsStep {
            step: run::StepRef { run: run.id.clone(), step: traced.step.clone(), iteration: 1 },
            approval: None,
            timeout_ms: None,
            max_attempts: None,
            run: facts,
            model_pin: document.plan.model_pin.clone(),
        })),
        reverses: None,
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
