//! What runs are asked.

use super::{Report, Request};
use crate::action::FailureCode;
use crate::ids::{ActionId, PrincipalId, StepId};
use crate::values::{MicroUsd, Shared, Timestamp};

/// What is asked of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Ask for it.
    Request(Shared<Request>),
    /// Ask for one of a release, which was looked up before: it is not looked up again.
    Take {
        /// What is asked for.
        request: Shared<Request>,
        /// When it was looked up.
        at: Timestamp,
    },
    /// Its turn has come.
    Admit {},
    /// An action of its steps was asked for, or moved. Made by [`super::follow`] alone.
    Follow(Box<Report>),
    /// Code of one of its steps asks for an action that writes. Made by [`super::follow`] alone.
    Write {
        /// The action.
        action: ActionId,
    },
    /// What code of one of its steps asked for has ended. Made by [`super::follow`] alone.
    Spend {
        /// The action.
        action: ActionId,
        /// What it cost.
        cost: MicroUsd,
    },
    /// The condition of a step does not hold.
    Skip {
        /// Which.
        step: StepId,
    },
    /// Have a step wait.
    Wait {
        /// Which.
        step: StepId,
        /// Until when.
        until: Timestamp,
        /// Whether that is its timer.
        timer: bool,
    },
    /// A step cannot ask for its action, or has an output that it may not have.
    Refuse {
        /// Which.
        step: StepId,
        /// Why.
        failure: FailureCode,
        /// The action whose output it is; it ends in the same commit.
        output_of: Option<ActionId>,
    },
    /// Start nothing new.
    Pause {
        /// By whom.
        by: PrincipalId,
    },
    /// Go on.
    Resume {
        /// By whom.
        by: PrincipalId,
    },
    /// End it.
    Cancel {
        /// By whom.
        by: PrincipalId,
    },
    /// End it: it cannot go on.
    Fail {
        /// Why.
        failure: FailureCode,
    },
    /// Go on from the step that failed, or from an earlier one.
    Replay {
        /// By whom.
        by: PrincipalId,
        /// From which step.
        from: Option<StepId>,
    },
    /// Give it up.
    Discard {
        /// By whom.
        by: PrincipalId,
    },
    /// What was left of its budget went back (in the same commit).
    Settle {},
    /// Its content is deleted (in the same commit).
    DropContent {},
}
