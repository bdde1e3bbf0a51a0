//! The state machine of one action: requested → decided → (approved) → executing → outcome.

use serde::{Deserialize, Serialize};

use crate::approval::Narrow;
use crate::attestation::Attestation;
use crate::decision::{Decision, Phase};
use crate::failure::Category;
use crate::ids::{AccountId, ActionId, ApprovalId, EnvironmentId, PrincipalId, RunId, ToolId};
use crate::permit::Permit;
use crate::principal::ActorChain;
use crate::risk::Risk;
use crate::run::StepRef;
use crate::units::{Unit, Units};
use crate::values::{Digest, MicroUsd, Shared, Timestamp};

mod fold;
mod input;
mod reversal;
mod step;

pub use fold::apply;
pub(crate) use fold::failed;
pub use input::Input;
pub use reversal::{Reversal, Undoing, follow};
pub use step::step;

/// Where an action stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Submitted and not yet decided. Never stored alone: request and decision are one commit.
    Requested,
    /// Policy or a person said no, or the budget did not cover it. Final.
    Denied,
    /// Held until an admin releases it.
    Quarantined,
    /// Waits for people.
    AwaitingApproval,
    /// May run, as soon as a permit is drawn. Also between two attempts.
    Approved,
    /// A permit was drawn; the effect may have happened.
    Executing,
    /// The effect happened. Final.
    Executed,
    /// It surely failed. Final.
    Failed,
    /// Nobody knows whether the effect happened. An operator reconciles it.
    Unknown,
    /// Withdrawn before it ran. Final.
    Canceled,
    /// Nobody approved in time. Final.
    Expired,
}

impl Status {
    /// Whether nothing can follow.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::Denied | Self::Executed | Self::Failed | Self::Canceled | Self::Expired
        )
    }

    /// Whether a caller that waits should be answered: final, or out of Tally's hands.
    pub fn is_settled(self) -> bool {
        self.is_final() || matches!(self, Self::Unknown)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Denied => "denied",
            Self::Quarantined => "quarantined",
            Self::AwaitingApproval => "awaiting_approval",
            Self::Approved => "approved",
            Self::Executing => "executing",
            Self::Executed => "executed",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }
}

/// What was asked for: the facts of a request that never change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The tool that is to run.
    pub tool: ToolId,
    /// The digest of its manifest.
    pub tool_digest: Digest,
    /// The tool that was asked for, where policy routed the action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed_from: Option<ToolId>,
    /// From the credential.
    pub environment: EnvironmentId,
    /// Who acts for whom.
    pub actors: ActorChain,
    /// The digest of the canonical action document.
    pub action_digest: Digest,
    /// The digest of the document and the tool: what is approved and what runs.
    pub plan_digest: Digest,
    /// How risky.
    pub risk: Risk,
    /// The worst case of its cost.
    pub estimate: MicroUsd,
    /// The worst case of what one attempt uses.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// Who pays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// Whether repeating the effect changes nothing more, so that a lost attempt is repeated.
    pub idempotent: bool,
    /// How long one attempt may take.
    pub timeout_ms: u64,
    /// The execution whose code asked for it, where a sandbox did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<ActionId>,
    /// The call of a run that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<StepRef>,
    /// The run whose step's code asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub within: Option<RunId>,
    /// How many attempts there may be, where that is less than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// The action that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverses: Option<ActionId>,
}

impl Request {
    /// The run that it is part of: as a step, or as what the code of a step asked for.
    pub fn run(&self) -> Option<&RunId> {
        self.step.as_ref().map(|step| &step.run).or(self.within.as_ref())
    }

    /// Whether an attempt costs or uses anything, so that its account may have to hold it.
    pub fn is_counted(&self) -> bool {
        self.estimate > MicroUsd::ZERO || !self.units.is_empty()
    }

    /// What an attempt that ended so used, where its tool tells only what nobody else can.
    ///
    /// What surely failed changed nothing; what an unknown attempt used is not known.
    pub fn used(&self, status: Status, told: &Units) -> Units {
        let writes = if status == Status::Executed { self.units.get(Unit::Writes) } else { 0 };
        match status {
            Status::Unknown => Units::NONE,
            _ => told.with(Unit::Calls, self.units.get(Unit::Calls)).with(Unit::Writes, writes),
        }
    }
}

/// How an attempt ended, as the receipt tells it: digests and codes, never content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Outcome {
    /// `executed`, `failed` or `unknown`.
    pub status: Status,
    /// The salted commitment of the result: SHA-256(salt ‖ result).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// The bytes of the result.
    pub output_bytes: u64,
    /// What it really cost.
    pub cost: MicroUsd,
    /// What it really used.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// Whether the tool says of its own result that it is an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
    /// What kept the tool's code apart, where that is worth knowing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub isolation: Option<Isolation>,
    /// What ran in a sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Shared<Attestation>>,
    /// The salted commitment of what was there before, where that was kept so that the action can
    /// be undone: SHA-256(salt ‖ prior).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prior: Option<Digest>,
    /// The model that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelUsed>,
}

/// A model that was asked, by its names: they are no content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelUsed {
    /// Who runs it, as the operator calls them.
    pub provider: String,
    /// As it was asked for.
    pub model: String,
    /// Which one answered, as the provider says, where one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<String>,
}

/// What keeps the code of a tool apart from everything else on its machine while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// Nothing: it is a process like any other of whoever runs Tally.
    None,
    /// A process with a folder of its own, none of the server's environment, and bounded means.
    Process,
}

/// The failure of an attempt whose server went away.
pub(crate) const LOST: &str = "attempt_lost";

/// The failure of an attempt that a stopping server cut short, knowing that all it did is found
/// again. It does not count.
pub const INTERRUPTED: &str = "server_stopped";

/// A failure without its words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureCode {
    /// Stable and lower-case.
    pub code: String,
    /// What kind.
    pub category: Category,
}

impl FailureCode {
    /// Whether an attempt at an idempotent tool is repeated after it.
    pub fn retryable(&self) -> bool {
        let by_server = matches!(self.code.as_str(), INTERRUPTED | LOST);
        self.category.retryable() || by_server
    }
}

/// An attempt that is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// From 1. The fence: an outcome that names another attempt is refused.
    pub number: u32,
    /// The epoch of the server that runs it.
    pub epoch: u64,
    /// Until when the effect may begin.
    pub not_after: Timestamp,
    /// When the attempt counts as lost.
    pub lease_until: Timestamp,
    /// What is held for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<MicroUsd>,
}

/// What changes an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was asked for.
    #[serde(rename = "action.requested")]
    Requested(Shared<Request>),
    /// Policy decided.
    #[serde(rename = "action.decided")]
    Decided {
        /// When in its life.
        phase: Phase,
        /// What follows.
        status: Status,
        /// What policy said.
        decision: Shared<Decision>,
        /// The revision of the acting principal that was decided for.
        principal_revision: u64,
        /// The approval that it now waits for or has.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approval: Option<ApprovalId>,
    },
    /// Its approval was granted.
    #[serde(rename = "action.approved")]
    Approved {
        /// Which approval.
        approval: ApprovalId,
        /// To how much less than was asked for people said yes.
        #[serde(default, skip_serializing_if = "Narrow::is_none")]
        narrow: Narrow,
        /// Whether an emergency took the place of those who must approve.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        broken_glass: bool,
    },
    /// A permit was drawn.
    #[serde(rename = "action.started")]
    Started(Attempt),
    /// An attempt failed and another follows.
    #[serde(rename = "action.retried")]
    Retried {
        /// The attempt that failed.
        attempt: u32,
        /// When the next may begin.
        at: Timestamp,
        /// Why.
        failure: FailureCode,
        /// What it cost all the same.
        #[serde(default, skip_serializing_if = "MicroUsd::is_zero")]
        cost: MicroUsd,
        /// What it used.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
    },
    /// An attempt ended the action.
    #[serde(rename = "action.finished")]
    Finished {
        /// Which attempt.
        attempt: u32,
        /// How.
        outcome: Outcome,
    },
    /// Refused without an effect after it was decided: a rejected approval, an empty budget.
    #[serde(rename = "action.denied")]
    Denied {
        /// Why.
        failure: FailureCode,
    },
    /// An operator established what an unknown outcome was.
    #[serde(rename = "action.reconciled")]
    Reconciled {
        /// `executed` or `failed`.
        status: Status,
        /// What it cost.
        cost: MicroUsd,
        /// What it used.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// Who established it.
        by: PrincipalId,
    },
    /// Withdrawn.
    #[serde(rename = "action.canceled")]
    Canceled {
        /// By whom.
        by: PrincipalId,
    },
    /// Nobody approved in time.
    #[serde(rename = "action.expired")]
    Expired {},
    /// Another action was asked for that undoes it.
    #[serde(rename = "action.reversal_begun")]
    ReversalBegun {
        /// That action.
        by: ActionId,
    },
    /// That action undid it. Nothing undoes it again.
    #[serde(rename = "action.reversed")]
    Reversed {
        /// That action.
        by: ActionId,
    },
    /// That action came to nothing: another may undo it.
    #[serde(rename = "action.reversal_ended")]
    ReversalEnded {
        /// That action.
        by: ActionId,
    },
}

/// How its approvers narrowed an action.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The number of the last attempt that they allow.
    pub last_attempt: Option<u32>,
    /// Whether an effect that differs from the plan is refused even where policy allows it.
    pub exact: bool,
}

/// The state of one action: the fold of its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Which.
    pub id: ActionId,
    /// Where it stands.
    pub status: Status,
    /// What was asked for.
    pub request: Shared<Request>,
    /// What policy said last.
    pub decision: Option<Shared<Decision>>,
    /// When it said so.
    pub decided_at: Timestamp,
    /// The revision of the acting principal then.
    pub principal_revision: u64,
    /// The approval that it waits for or has.
    pub approval: Option<ApprovalId>,
    /// Whether an attempt has used that approval.
    pub approval_used: bool,
    /// How its approvers narrowed it. Holds whatever policy says later, until others approve.
    pub scope: Scope,
    /// Whether an emergency ever took the place of those who must approve.
    pub broken_glass: bool,
    /// Attempts begun.
    pub attempts: u32,
    /// Attempts that stopping servers cut short: they do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interrupted: u32,
    /// Whether an attempt was lost whose effect may have happened, and none since has ended well.
    pub in_doubt: bool,
    /// The attempt under way.
    pub attempt: Option<Attempt>,
    /// When the next attempt may begin.
    pub retry_at: Option<Timestamp>,
    /// How the last attempt ended.
    pub outcome: Option<Outcome>,
    /// What all attempts together cost.
    #[serde(default, skip_serializing_if = "MicroUsd::is_zero")]
    pub spent: MicroUsd,
    /// What all attempts together used.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub used: Units,
    /// What attempts came to while it was not known what an earlier one did: as long as that holds
    /// back what is held, nothing is paid.
    #[serde(default, skip_serializing_if = "Open::is_nothing")]
    pub open: Open,
    /// The action that undoes it, or has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reversal: Option<Reversal>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The log indices of its receipts.
    pub receipts: Vec<u64>,
}

/// What is to be paid once an outcome is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// How much.
    pub cost: MicroUsd,
    /// How many units.
    pub units: Units,
}

impl Open {
    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// This and more.
    pub(crate) fn and(&self, cost: MicroUsd, units: &Units) -> Self {
        let cost = MicroUsd(self.cost.0.saturating_add(cost.0));
        Self { cost, units: self.units.saturating_add(units) }
    }
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

impl Action {
    /// The permit of the running attempt.
    pub fn permit(&self) -> Option<Permit> {
        let attempt = self.attempt.as_ref().filter(|_| self.status == Status::Executing)?;
        Some(Permit {
            action: self.id.clone(),
            attempt: attempt.number,
            plan_digest: self.request.plan_digest,
            policy_revision: self.decision.as_ref()?.policy.revision,
            principal_revision: self.principal_revision,
            hold: self.request.account.clone().zip(attempt.hold),
            exact: self.scope.exact,
            not_after: attempt.not_after,
        })
    }

    /// The approval that can still be decided or used for it.
    pub fn open_approval(&self) -> Option<&ApprovalId> {
        self.approval.as_ref().filter(|_| !self.approval_used && !self.status.is_settled())
    }

    /// Whether its account has set aside for it what it counts: while an attempt runs, and while
    /// the outcome of one is not known.
    pub fn held(&self) -> bool {
        (matches!(self.status, Status::Executing | Status::Unknown) || self.in_doubt)
            && self.request.is_counted()
            && self.request.account.is_some()
    }

    /// Whether it was carried out, as people established, and nobody knows what it gave.
    pub fn output_unknown(&self) -> bool {
        let nothing = |outcome: &Outcome| outcome.output.is_none();
        self.status == Status::Executed && self.outcome.as_ref().is_some_and(nothing)
    }

    /// When somebody must look at it again, if ever. The queue of work is made of this.
    pub fn due(&self) -> Option<Timestamp> {
        match self.status {
            Status::Approved => Some(self.retry_at.unwrap_or(self.updated_at)),
            Status::Executing => self.attempt.as_ref().map(|attempt| attempt.lease_until),
            _ => None,
        }
    }
}
