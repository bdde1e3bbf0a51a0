//! What a run does next: a pure function of its state, its plan and the outputs so far.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Run, Status, TIMER};
use crate::action::FailureCode;
use crate::failure::Category;
use crate::ids::StepId;
use crate::json::RawJson;
use crate::limits;
use crate::values::Timestamp;
use crate::workflow::claims::Claims;
use crate::workflow::template::{self, Context, Source, Unrendered};
use crate::workflow::{Plan, Step};

/// The failure of a step that reads an output which nobody knows.
pub const OUTPUT_UNKNOWN: &str = "output_unknown";

/// What a step that may start does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// It asks for an action with these parameters.
    Start {
        /// Which.
        index: usize,
        /// The parameters of the tool.
        params: RawJson,
        /// What the step says of itself.
        claims: Option<Claims>,
    },
    /// Its condition does not hold.
    Skip {
        /// Which.
        index: usize,
    },
    /// Its timer is set.
    Wait {
        /// Which.
        index: usize,
        /// Until when.
        until: Timestamp,
    },
    /// It cannot be started.
    Refuse {
        /// Which.
        index: usize,
        /// Why.
        failure: FailureCode,
    },
}

/// What the steps of `run` that may start now do. `outputs` has what the steps so far gave: `null`
/// of a step that did not run.
pub fn next(
    run: &Run,
    plan: &Plan,
    input: &Value,
    outputs: &BTreeMap<StepId, Value>,
    now: Timestamp,
) -> Vec<Next> {
    let goes_on = matches!(run.status, Status::Running | Status::WaitingApproval);
    if !goes_on || run.ending.is_some() {
        return Vec::new();
    }
    let mut all = Vec::new();
    for index in run.startable() {
        let (Some(step), Some(state)) = (plan.steps.get(index), run.steps.get(index)) else {
            continue;
        };
        if state.wait_until.is_some_and(|until| now < until) {
            continue;
        }
        if reads_unknown(run, plan, index).is_some() {
            let code = OUTPUT_UNKNOWN.to_owned();
            let failure = FailureCode { code, category: Category::NotFound };
            all.push(Next::Refuse { index, failure });
            continue;
        }
        let context = Context { input, outputs, previous: plan.previous(index) };
        // A condition is asked once, before anything of the step has happened.
        let untouched = state.iteration == 1 && state.action.is_none() && !state.timed;
        let holds = step.when.as_ref().is_none_or(|when| !untouched || when.holds(&context));
        all.push(match holds {
            false => Next::Skip { index },
            true => start(step, index, state.timed, &context, now),
        });
    }
    all
}

/// The first step whose output the step at `index` reads and nobody knows. A condition that reads
/// one is not guessed either.
pub fn reads_unknown(run: &Run, plan: &Plan, index: usize) -> Option<StepId> {
    let is_unknown = |id: &StepId| {
        let step = run.position(id).and_then(|index| run.steps.get(index));
        step.is_some_and(|step| step.output_unknown)
    };
    if !run.steps.iter().any(|step| step.output_unknown) {
        return None;
    }
    let step = plan.steps.get(index)?;
    let source = |source: Source| match source {
        Source::Input => None,
        Source::Previous => plan.previous(index).cloned(),
        Source::Step(id) => Some(id),
    };
    step.reads().into_iter().filter_map(source).find(is_unknown)
}

fn start(step: &Step, index: usize, timed: bool, context: &Context<'_>, now: Timestamp) -> Next {
    let refuse = |code: &str| {
        let failure = FailureCode { code: code.to_owned(), category: Category::Validation };
        Next::Refuse { index, failure }
    };
    let params = match template::render(&step.params, context) {
        Ok(params) => params,
        Err(error) => return refuse(Unrendered::code(&error)),
    };
    let claims = match step.claims.as_ref().map(|claims| claims.render(context)).transpose() {
        Ok(claims) => claims,
        Err(error) => return refuse(error.code()),
    };
    if step.tool.as_str() != TIMER || timed {
        return Next::Start { index, params, claims };
    }
    match Timer::of(&params) {
        Some(timer) => Next::Wait { index, until: timer.until(now) },
        None => refuse("timer_invalid"),
    }
}

/// How long a timer waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// So many microseconds.
    For(i64),
    /// Until then.
    Until(Timestamp),
}

impl Timer {
    /// Reads `{"seconds": 90}` or `{"until_us": 1795226400000000}`.
    pub fn of(params: &RawJson) -> Option<Self> {
        let Value::Object(params) = params.to_value() else { return None };
        let (Some((name, value)), 1) = (params.iter().next(), params.len()) else { return None };
        let most = limits::RUN_WAIT_MICROS_MAX;
        match name.as_str() {
            "seconds" => {
                let micros = value.as_i64()?.checked_mul(1_000_000)?;
                (0..=most).contains(&micros).then_some(Self::For(micros))
            }
            "until_us" => Some(Self::Until(Timestamp(value.as_i64()?))),
            _ => None,
        }
    }

    /// When it is over, set at `now`.
    pub fn until(self, now: Timestamp) -> Timestamp {
        let most = now.plus_micros(limits::RUN_WAIT_MICROS_MAX);
        match self {
            Self::For(micros) => now.plus_micros(micros),
            Self::Until(at) => at.min(most),
        }
    }
}
