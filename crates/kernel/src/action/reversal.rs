//! Undoing an action by another one: at most once, whatever crashes.
//!
//! What undoes an action is an action itself, decided and approved like every other. While it is
//! under way the first one is taken, so that no second can begin; that is recorded on the first
//! one, in the very commits that move the second ([`follow`]). One that came to nothing leaves the
//! first free again; one whose outcome nobody knows does not.

use serde::{Deserialize, Serialize};

use super::{Action, Change, Input, Status};
use crate::ids::ActionId;
use crate::machine::{self, Command, Kind, Refusal, State};

/// What undoes an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reversal {
    /// The action that does.
    pub by: ActionId,
    /// Whether it has.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub done: bool,
}

/// Where an action that undoes another stands, for that other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undoing {
    /// It may have its effect yet, or may have had it.
    UnderWay,
    /// It had its effect.
    Done,
    /// It never had and never will have one.
    Ended,
}

impl Undoing {
    fn of(status: Status) -> Self {
        match status {
            Status::Requested
            | Status::Quarantined
            | Status::AwaitingApproval
            | Status::Approved
            | Status::Executing
            | Status::Unknown => Self::UnderWay,
            Status::Executed => Self::Done,
            Status::Denied | Status::Failed | Status::Canceled | Status::Expired => Self::Ended,
        }
    }
}

/// The command that moves an action with the one that undoes it. Whoever carries out a command of
/// an action carries out this one in the same commit.
pub fn follow(before: Option<Status>, after: Option<&State>) -> Option<Command> {
    let Some(State::Action(after)) = after else { return None };
    let undone = after.request.reverses.as_ref()?;
    let to = Undoing::of(after.status);
    match before.map(Undoing::of) {
        // Refused at once: it was never under way.
        None if to == Undoing::Ended => return None,
        Some(before) if before == to => return None,
        _ => {}
    }
    let input = machine::Input::Action(Input::Undo { by: after.id.clone(), to });
    Some(Command::new(Kind::Action, undone.as_str(), input))
}

/// What an action that undoes `action` makes of it.
pub(super) fn step(action: &Action, by: ActionId, to: Undoing) -> Result<Change, Refusal> {
    let taken = |reversal: &Reversal| match reversal.done {
        true => Refusal::AlreadyReversed { by: reversal.by.clone() },
        false => Refusal::ReversalPending { by: reversal.by.clone() },
    };
    if to == Undoing::UnderWay {
        let kept = action.outcome.as_ref().is_some_and(|outcome| outcome.prior.is_some());
        if action.status != Status::Executed || !kept {
            return Err(Refusal::NotReversible);
        }
        return match &action.reversal {
            Some(reversal) => Err(taken(reversal)),
            None => Ok(Change::ReversalBegun { by }),
        };
    }
    match &action.reversal {
        Some(reversal) if reversal.by != by || reversal.done => Err(taken(reversal)),
        Some(_) if to == Undoing::Done => Ok(Change::Reversed { by }),
        Some(_) => Ok(Change::ReversalEnded { by }),
        None => Err(Refusal::Fenced),
    }
}
