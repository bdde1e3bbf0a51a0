//! How a step follows its action.

use super::{Input, StepRef};
use crate::action::{self, Action, FailureCode};
use crate::decision::Effect;
use crate::failure::Category;
use crate::ids::{ActionId, StepId};
use crate::machine::{Command, Input as MachineInput, Kind, State};
use crate::units::Unit;
use crate::values::MicroUsd;

/// Where the action of a step stands, for the step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which call it is.
    pub step: StepId,
    /// Which iteration.
    pub iteration: u32,
    /// The action.
    pub action: ActionId,
    /// Where it stands.
    pub status: action::Status,
    /// Why it did not end well.
    pub failure: Option<FailureCode>,
    /// What all its attempts cost, once it has ended.
    pub cost: MicroUsd,
    /// Whether it writes.
    pub writes: bool,
    /// Whether people approved it, other than in an emergency.
    pub approved: bool,
    /// Whether another action may be asked for in its place: it surely failed, in a way that may
    /// pass, and was not repeated.
    pub again: bool,
    /// Policy may decide otherwise after so long: nothing has left.
    pub later_ms: Option<u64>,
    /// What it was decided by was over before its effect began: it surely failed, and is decided
    /// anew as another action.
    pub anew: bool,
    /// Whether it was carried out, as people established, and nobody knows what it gave.
    pub output_unknown: bool,
}

/// Where the action in `state` stands, if it is one: what [`follow`] compares with.
pub fn standing(state: Option<&State>) -> Option<action::Status> {
    match state {
        Some(State::Action(action)) => Some(action.status),
        _ => None,
    }
}

/// The command that moves a run where an action of its steps was asked for or moved. Whoever
/// carries out a command of an action carries out this one in the same commit.
pub fn follow(before: Option<action::Status>, after: Option<&State>) -> Option<Command> {
    let Some(State::Action(after)) = after else { return None };
    if let Some(run) = &after.request.within {
        let input = within(before, after)?;
        return Some(Command::new(Kind::Run, run.as_str(), MachineInput::Run(input)));
    }
    let step = after.request.step.as_ref()?;
    if before == Some(after.status) {
        return None;
    }
    let under_way = |status| matches!(status, action::Status::Approved | action::Status::Executing);
    if before.is_some_and(under_way) && under_way(after.status) {
        return None;
    }
    let input = Input::Follow(Box::new(report(after, step)));
    Some(Command::new(Kind::Run, step.run.as_str(), MachineInput::Run(input)))
}

/// What a run hears of an action that the code of one of its steps asked for.
fn within(before: Option<action::Status>, after: &Action) -> Option<Input> {
    let (action, writes) = (after.id.clone(), after.request.units.get(Unit::Writes) > 0);
    if before.is_none() {
        let asked = writes && after.status != action::Status::Denied;
        return asked.then_some(Input::Write { action });
    }
    let ends = after.status.is_final() && !before.is_some_and(action::Status::is_final);
    let cost = after.outcome.as_ref().filter(|_| ends).map_or(MicroUsd::ZERO, |o| o.cost);
    (cost > MicroUsd::ZERO).then_some(Input::Spend { action, cost })
}

/// Failures of an executor that found its permit no longer good, and did nothing.
const OVERTAKEN: [&str; 2] = ["permit_expired", "permit_overtaken"];

/// Whether what an action was decided by was over before its effect began: the clock jumped, or
/// policy changed.
pub(super) fn is_overtaken(failure: &FailureCode) -> bool {
    OVERTAKEN.contains(&failure.code.as_str())
}

/// Where `action` stands, for its step.
pub fn report(action: &Action, step: &StepRef) -> Report {
    use action::Status;
    let outcome = action.outcome.as_ref();
    let code = |code: &str, category| FailureCode { code: code.to_owned(), category };
    let failed = outcome.and_then(|outcome| outcome.failure.clone());
    let by_policy = || {
        let reason = action.decision.as_ref().and_then(|decision| decision.reasons.first());
        code(reason.map_or("policy_denied", String::as_str), Category::PolicyDenied)
    };
    let failure = match action.status {
        Status::Denied => Some(failed.unwrap_or_else(by_policy)),
        Status::Failed => failed.or_else(|| Some(code("failed", Category::Permanent))),
        Status::Unknown => Some(code("outcome_unknown", Category::Internal)),
        Status::Canceled => Some(code("action_canceled", Category::Conflict)),
        Status::Expired => Some(code("approval_expired", Category::PolicyDenied)),
        Status::Executed if outcome.is_some_and(|outcome| outcome.is_error) => {
            Some(code("tool_error", Category::Upstream))
        }
        _ => None,
    };
    let decision = action.decision.as_ref().filter(|_| outcome.is_none());
    let put_off = decision.filter(|d| action.status == Status::Denied && d.retryable());
    let later_ms = put_off.map(|decision| match decision.effect {
        Effect::Throttle => decision.obligations.retry_after_ms.unwrap_or_default(),
        _ => 0,
    });
    let again = action.status == Status::Failed
        && !action.request.idempotent
        && failure.as_ref().is_some_and(FailureCode::retryable);
    let anew = action.status == Status::Failed && failure.as_ref().is_some_and(is_overtaken);
    Report {
        step: step.step.clone(),
        iteration: step.iteration,
        action: action.id.clone(),
        status: action.status,
        failure,
        cost: if action.status.is_final() { action.spent } else { MicroUsd::ZERO },
        writes: action.request.units.get(Unit::Writes) > 0,
        approved: action.approval_used && !action.broken_glass,
        again,
        later_ms,
        anew,
        output_unknown: action.output_unknown(),
    }
}
