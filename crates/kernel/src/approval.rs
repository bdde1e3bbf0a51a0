//! The state machine of one approval: who may say yes to exactly one plan, how many must, once.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::decision::{ApprovalDemand, BreakGlass, SeparationOfDuties};
use crate::ids::{ActionId, ApprovalId, PrincipalId};
use crate::principal::{ActorChain, PrincipalKind, Role};
use crate::values::{Digest, Timestamp};

mod fold;
mod rules;
mod signed;
mod step;

pub use fold::apply;
pub use signed::{SIGNED_PAYLOAD_TYPE, Signature, signed_bytes, signed_statement};
pub use step::step;

/// Where an approval stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for people.
    Requested,
    /// Enough people said yes. Good for one use until it expires.
    Approved,
    /// Somebody said no. Final.
    Rejected,
    /// Its time passed. Final.
    Expired,
    /// Its action was withdrawn, or policy now demands another. Final.
    Canceled,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Approved => "approved",
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::Canceled => "canceled",
        }
    }
}

/// What is put before people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The action that asks.
    pub action: ActionId,
    /// Exactly what would run.
    pub plan_digest: Digest,
    /// Who asks: none of them may approve.
    pub actors: ActorChain,
    /// What is needed.
    pub demand: ApprovalDemand,
    /// Whether each approver must prove a second factor.
    pub step_up: bool,
    /// How far requester and approver must be apart.
    pub sod: SeparationOfDuties,
    /// Whether an emergency may take its place.
    #[serde(default, skip_serializing_if = "is_allowed")]
    pub break_glass: BreakGlass,
    /// Until when it can be decided.
    pub expires_at: Timestamp,
}

fn is_allowed(glass: &BreakGlass) -> bool {
    *glass == BreakGlass::Allowed
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Yes.
    Approve,
    /// No.
    Reject,
}

impl Verdict {
    /// The name in receipts and in what an approver signs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
        }
    }
}

/// How an approver says yes to less than was asked for. The strictest of all yeses holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Narrow {
    /// Seconds from the grant that the approval is good for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid_s: Option<u32>,
    /// How often the action may be attempted under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u32>,
    /// Whether an effect that differs from the plan is refused even where policy allows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exact: bool,
}

impl Narrow {
    /// Whether it narrows nothing.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// The strictest of both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let least = |one: Option<u32>, other: Option<u32>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        Self {
            valid_s: least(self.valid_s, other.valid_s),
            max_attempts: least(self.max_attempts, other.max_attempts),
            exact: self.exact || other.exact,
        }
    }
}

/// What one person said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vote {
    /// Who.
    pub by: PrincipalId,
    /// With which roles.
    pub roles: BTreeSet<Role>,
    /// What.
    pub verdict: Verdict,
    /// In which stage. Empty: in that of a demand without stages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Whose say it is, where another handed it over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delegated_by: Option<PrincipalId>,
    /// Whether a second factor was proven.
    pub step_up: bool,
    /// With a no: why, as a code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// With a yes: to how much less than was asked for.
    #[serde(default, skip_serializing_if = "Narrow::is_none")]
    pub narrow: Narrow,
    /// The approver's own signature over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
}

impl Vote {
    /// A plain yes or no.
    pub fn new(by: PrincipalId, roles: BTreeSet<Role>, verdict: Verdict) -> Self {
        Self {
            by,
            roles,
            verdict,
            stage: String::new(),
            delegated_by: None,
            step_up: false,
            reason_code: None,
            narrow: Narrow::default(),
            signature: None,
        }
    }
}

/// A say that was handed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delegation {
    /// By whom.
    pub from: PrincipalId,
    /// With which roles they would have spoken.
    pub roles: BTreeSet<Role>,
    /// To whom.
    pub to: PrincipalId,
    /// In which stages.
    pub stages: BTreeSet<String>,
}

/// An emergency that took the place of an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GlassBroken {
    /// By whom.
    pub by: PrincipalId,
    /// With which roles.
    pub roles: BTreeSet<Role>,
    /// The salted commitments of both reasons: SHA-256(salt ‖ reason).
    pub reasons: [Digest; 2],
}

/// What changes an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was opened.
    #[serde(rename = "approval.requested")]
    Requested(Box<Request>),
    /// A person spoke.
    #[serde(rename = "approval.decided")]
    Decided {
        /// What follows: still `requested`, `approved` or `rejected`.
        status: Status,
        /// What was said.
        vote: Box<Vote>,
    },
    /// A person handed over their say.
    #[serde(rename = "approval.delegated")]
    Delegated(Box<Delegation>),
    /// A stage took too long: others may speak too.
    #[serde(rename = "approval.escalated")]
    Escalated {
        /// Which. Empty: that of a demand without stages.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        stage: String,
    },
    /// An emergency took the place of those who must approve.
    #[serde(rename = "approval.glass_broken")]
    GlassBroken(Box<GlassBroken>),
    /// It was used, in the commit that started the execution.
    #[serde(rename = "approval.used")]
    Used {},
    /// Its time passed.
    #[serde(rename = "approval.expired")]
    Expired {},
    /// It is no longer wanted.
    #[serde(rename = "approval.canceled")]
    Canceled {},
}

/// What is asked of an approval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Open it.
    Request(Box<Request>),
    /// Say yes or no.
    Decide {
        /// The plan that the person saw.
        plan_digest: Digest,
        /// What the person is.
        kind: PrincipalKind,
        /// In which stage; none: the first open one in which the person may speak.
        stage: Option<String>,
        /// What the person says.
        vote: Box<Vote>,
    },
    /// Hand one's say to somebody else.
    Delegate {
        /// Who, and with which roles.
        from: (PrincipalId, BTreeSet<Role>),
        /// To whom, what they are, and with which roles.
        to: (PrincipalId, PrincipalKind, BTreeSet<Role>),
    },
    /// Let others speak too, because a stage took too long.
    Escalate {
        /// Which stage.
        stage: String,
    },
    /// Let the action run without those who must approve.
    BreakGlass {
        /// The plan that the person saw.
        plan_digest: Digest,
        /// What the person is.
        kind: PrincipalKind,
        /// Whether a second factor was proven.
        step_up: bool,
        /// Who, and why.
        broken: Box<GlassBroken>,
    },
    /// Use it to start an execution of `plan_digest`.
    Use {
        /// The plan that is to run.
        plan_digest: Digest,
    },
    /// End it because its time passed.
    Expire {},
    /// End it because it is no longer wanted.
    Cancel {},
}

/// How far a stage is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Since when people may speak in it.
    pub opened_at: Option<Timestamp>,
    /// Since when it is escalated.
    pub escalated_at: Option<Timestamp>,
    /// Since when enough people have said yes.
    pub completed_at: Option<Timestamp>,
}

impl Progress {
    /// Whether people may speak in it now.
    pub fn open(&self) -> bool {
        self.opened_at.is_some() && self.completed_at.is_none()
    }
}

/// The state of one approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Which.
    pub id: ApprovalId,
    /// Where it stands.
    pub status: Status,
    /// What is asked.
    pub request: Box<Request>,
    /// How far each stage is, in the order of the demand.
    pub progress: Vec<Progress>,
    /// Who said what, when.
    pub votes: Vec<(Vote, Timestamp)>,
    /// Who handed their say to whom.
    pub delegations: Vec<Delegation>,
    /// Who let it run without those who must approve.
    pub broken: Option<GlassBroken>,
    /// When it was granted.
    pub granted_at: Option<Timestamp>,
    /// When it was used.
    pub used_at: Option<Timestamp>,
    /// When it was opened.
    pub requested_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The log indices of its receipts.
    pub receipts: Vec<u64>,
}
