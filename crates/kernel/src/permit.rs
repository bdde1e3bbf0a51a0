//! The permit: what an executor must hold to cause an effect. It is the second enforcement point.

use crate::ids::{AccountId, ActionId};
use crate::limits;
use crate::values::{Digest, MicroUsd, Timestamp};

/// A sealed right to run one attempt of one plan. Only [`crate::action::Action::permit`] makes
/// one, from a state that durable receipts put into `executing`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit {
    pub(crate) action: ActionId,
    pub(crate) attempt: u32,
    pub(crate) plan_digest: Digest,
    pub(crate) policy_revision: u64,
    pub(crate) principal_revision: u64,
    pub(crate) hold: Option<(AccountId, MicroUsd)>,
    pub(crate) exact: bool,
    pub(crate) not_after: Timestamp,
}

/// Why an executor refuses a permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is for another plan.
    #[error("the permit is for another plan")]
    OtherPlan,
    /// Its time has passed.
    #[error("the permit expired before the effect began")]
    Expired,
}

impl Permit {
    /// Checks that the permit covers `plan` at `now`. Every executor calls this before its effect.
    pub fn check(&self, plan: Digest, now: Timestamp) -> Result<(), Invalid> {
        if plan != self.plan_digest {
            return Err(Invalid::OtherPlan);
        }
        if now > self.not_after {
            return Err(Invalid::Expired);
        }
        Ok(())
    }

    /// The action that may run.
    pub fn action(&self) -> &ActionId {
        &self.action
    }

    /// Which attempt at it, from 1. It is the fence: a later attempt makes this one's outcome void.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The plan that may run.
    pub fn plan_digest(&self) -> Digest {
        self.plan_digest
    }

    /// The policy revision that allowed it.
    pub fn policy_revision(&self) -> u64 {
        self.policy_revision
    }

    /// The revision of the principal that it was decided for.
    pub fn principal_revision(&self) -> u64 {
        self.principal_revision
    }

    /// What is held for it, and where.
    pub fn hold(&self) -> Option<(&AccountId, MicroUsd)> {
        self.hold.as_ref().map(|(account, amount)| (account, *amount))
    }

    /// Whether an effect that differs from the plan is refused even where policy allows it: its
    /// approvers wanted no other.
    pub fn exact(&self) -> bool {
        self.exact
    }

    /// Until when the effect may begin.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// A key that is the same for every attempt at this action and for no other, for the
    /// idempotency header of the systems behind a tool.
    pub fn idempotency_key(&self) -> String {
        self.action.to_string()
    }

    /// When a permit given at `now` ends.
    pub(crate) fn end(now: Timestamp) -> Timestamp {
        now.plus_micros(limits::PERMIT_MICROS_MAX)
    }
}
