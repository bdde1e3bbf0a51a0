//! What is asked of an action.

use super::{FailureCode, Outcome, Request, Status, Undoing};
use crate::approval::Narrow;
use crate::decision::{Decision, Phase};
use crate::ids::{ActionId, ApprovalId, PrincipalId};
use crate::units::Units;
use crate::values::{MicroUsd, Shared, Timestamp};

/// What is asked of an action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Ask for it, with what policy said.
    Request {
        /// What is asked for.
        request: Shared<Request>,
        /// What policy said.
        decision: Shared<Decision>,
        /// The revision of the acting principal.
        principal_revision: u64,
        /// The approval to be opened in the same commit, where policy demands one.
        approval: Option<ApprovalId>,
    },
    /// Ask for it and refuse it at once, whatever policy said: the budget does not cover it, or
    /// it asks for more than the operator lets code have.
    Refuse {
        /// What is asked for.
        request: Shared<Request>,
        /// What policy said.
        decision: Shared<Decision>,
        /// The revision of the acting principal.
        principal_revision: u64,
        /// Why it is refused.
        failure: FailureCode,
    },
    /// Its approval was granted (in the same commit).
    Approve {
        /// Which.
        approval: ApprovalId,
        /// To how much less than was asked for people said yes.
        narrow: Narrow,
        /// Whether an emergency took the place of those who must approve.
        broken_glass: bool,
    },
    /// Refuse it: the approval was rejected or the budget does not cover it.
    Deny {
        /// The approval that ends in the same commit: the open one, if there is one.
        open: Option<ApprovalId>,
        /// Why.
        failure: FailureCode,
    },
    /// Decide it anew, before execution or on release.
    Redecide {
        /// `execute`, or `submit` on release from quarantine.
        phase: Phase,
        /// What policy says now.
        decision: Shared<Decision>,
        /// The revision of the acting principal now.
        principal_revision: u64,
        /// The open approval that was taken into account, if there is one.
        open: Option<ApprovalId>,
        /// Whether the approval that the action has satisfies what is demanded now.
        satisfied: bool,
        /// The approval to be opened in the same commit where it does not.
        approval: Option<ApprovalId>,
    },
    /// Draw a permit for the next attempt.
    Start {
        /// The policy revision now.
        policy_revision: u64,
        /// The revision of the acting principal now.
        principal_revision: u64,
        /// The approval consumed in the same commit, on the first attempt under one.
        consumed: Option<ApprovalId>,
        /// What is held for it.
        hold: Option<MicroUsd>,
        /// Whether that was held before, for an attempt that was lost, and not in the same commit.
        held: bool,
        /// The epoch of the server that runs it.
        epoch: u64,
    },
    /// An attempt ended.
    Finish {
        /// Which attempt.
        attempt: u32,
        /// How.
        outcome: Outcome,
        /// When to try again, where that is wanted and allowed.
        retry_at: Option<Timestamp>,
    },
    /// The server that ran the attempt is gone.
    Lost {
        /// Which attempt.
        attempt: u32,
        /// The epoch of the server that says so.
        epoch: u64,
    },
    /// Establish an unknown outcome.
    Reconcile {
        /// Of which attempt.
        attempt: u32,
        /// `executed` or `failed`.
        status: Status,
        /// What it cost.
        cost: MicroUsd,
        /// What it used.
        units: Units,
        /// Who says so.
        by: PrincipalId,
    },
    /// Withdraw it.
    Cancel {
        /// The approval that ends in the same commit: the open one, if there is one.
        open: Option<ApprovalId>,
        /// By whom.
        by: PrincipalId,
    },
    /// Its approval expired (in the same commit).
    Expire {
        /// Which.
        approval: ApprovalId,
    },
    /// An action that undoes it was asked for or moved (in the same commit). Made by [`follow`]
    /// alone.
    Undo {
        /// That action.
        by: ActionId,
        /// Where that stands.
        to: Undoing,
    },
}
