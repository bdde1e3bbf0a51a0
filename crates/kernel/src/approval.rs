//! The state machine of one approval: who may say yes to exactly one plan, how many must, once.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

use crate::decision::{ApprovalDemand, SeparationOfDuties};
use crate::ids::{ActionId, ApprovalId, PrincipalId};
use crate::machine::{Applied, Refusal};
use crate::principal::{ActorChain, PrincipalKind, Role};
use crate::values::{Digest, Timestamp};

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

/// What is put before people. The stages of a later version are further entries of `demand`.
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
    /// Until when it can be decided and used.
    pub expires_at: Timestamp,
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
    /// Whether a second factor was proven.
    pub step_up: bool,
    /// The approver's own signature over (plan digest, verdict, stage, not_after), base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
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
        /// What the person says.
        vote: Box<Vote>,
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

/// The state of one approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Which.
    pub id: ApprovalId,
    /// Where it stands.
    pub status: Status,
    /// What is asked.
    pub request: Box<Request>,
    /// Who said what, when.
    pub votes: Vec<(Vote, Timestamp)>,
    /// When it was used.
    pub used_at: Option<Timestamp>,
    /// When it was opened.
    pub requested_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The log indices of its receipts.
    pub receipts: Vec<u64>,
}

/// The changes that `input` makes, or why it makes none.
pub fn step(state: Option<&Approval>, input: Input, now: Timestamp) -> Result<Change, Refusal> {
    let Some(approval) = state else {
        return match input {
            Input::Request(request) => Ok(Change::Requested(request)),
            _ => Err(Refusal::Absent),
        };
    };
    let open = matches!(approval.status, Status::Requested | Status::Approved)
        && approval.used_at.is_none();
    match input {
        Input::Request(_) => Err(Refusal::Exists),
        Input::Decide { plan_digest, kind, vote } => {
            approval.may_decide(plan_digest, kind, &vote, now)?;
            let status = match vote.verdict {
                Verdict::Reject => Status::Rejected,
                Verdict::Approve if approval.quorum_with(&vote) => Status::Approved,
                Verdict::Approve => Status::Requested,
            };
            Ok(Change::Decided { status, vote })
        }
        Input::Use { plan_digest } => approval.may_use(plan_digest, now).map(|()| Change::Used {}),
        Input::Expire {} if now < approval.request.expires_at => Err(Refusal::NotDue),
        Input::Expire {} if open => Ok(Change::Expired {}),
        Input::Cancel {} if open => Ok(Change::Canceled {}),
        Input::Expire {} | Input::Cancel {} => Err(Refusal::State(approval.status.as_str())),
    }
}

impl Approval {
    fn may_decide(
        &self,
        plan_digest: Digest,
        kind: PrincipalKind,
        vote: &Vote,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.status != Status::Requested {
            return Err(Refusal::State(self.status.as_str()));
        }
        if now >= self.request.expires_at {
            return Err(Refusal::ApprovalExpired);
        }
        if plan_digest != self.request.plan_digest {
            return Err(Refusal::OtherPlan);
        }
        let strict = self.request.sod == SeparationOfDuties::Strict;
        if self.request.actors.is_requester(&vote.by, strict) {
            return Err(Refusal::SelfApproval);
        }
        if kind == PrincipalKind::Agent || !eligible(vote, &self.request.demand) {
            return Err(Refusal::NotAnApprover);
        }
        if self.votes.iter().any(|(earlier, _)| earlier.by == vote.by) {
            return Err(Refusal::AlreadyDecided);
        }
        if self.request.step_up && !vote.step_up && vote.verdict == Verdict::Approve {
            return Err(Refusal::StepUpRequired);
        }
        Ok(())
    }

    fn quorum_with(&self, vote: &Vote) -> bool {
        let yes = self.approvals().saturating_add(1);
        vote.verdict == Verdict::Approve && yes >= self.request.demand.quorum
    }

    /// How many distinct people said yes.
    pub fn approvals(&self) -> u32 {
        let yes: BTreeSet<_> = self.yes().map(|vote| &vote.by).collect();
        u32::try_from(yes.len()).unwrap_or(u32::MAX)
    }

    /// Whether everyone who said yes proved a second factor.
    pub fn stepped_up(&self) -> bool {
        self.yes().all(|vote| vote.step_up)
    }

    fn yes(&self) -> impl Iterator<Item = &Vote> {
        self.votes.iter().map(|(vote, _)| vote).filter(|v| v.verdict == Verdict::Approve)
    }

    fn may_use(&self, plan_digest: Digest, now: Timestamp) -> Result<(), Refusal> {
        if self.used_at.is_some() {
            return Err(Refusal::ApprovalUsed);
        }
        if self.status != Status::Approved {
            return Err(Refusal::State(self.status.as_str()));
        }
        if now >= self.request.expires_at {
            return Err(Refusal::ApprovalExpired);
        }
        if plan_digest != self.request.plan_digest {
            return Err(Refusal::OtherPlan);
        }
        Ok(())
    }

    /// Whether what was granted satisfies what is demanded now: the same plan, and enough of
    /// those who said yes are eligible under the new demand.
    pub fn satisfies(
        &self,
        demand: &ApprovalDemand,
        step_up: bool,
        sod: SeparationOfDuties,
        now: Timestamp,
    ) -> bool {
        let strict = sod == SeparationOfDuties::Strict;
        let eligible: BTreeSet<_> = self
            .yes()
            .filter(|vote| eligible(vote, demand))
            .filter(|vote| !step_up || vote.step_up)
            .filter(|vote| !self.request.actors.is_requester(&vote.by, strict))
            .map(|vote| &vote.by)
            .collect();
        self.status == Status::Approved
            && now < self.request.expires_at
            && u32::try_from(eligible.len()).is_ok_and(|n| n >= demand.quorum)
    }

    /// When somebody must look at it again, if ever.
    pub fn due(&self) -> Option<Timestamp> {
        let open = matches!(self.status, Status::Requested | Status::Approved);
        (open && self.used_at.is_none()).then_some(self.request.expires_at)
    }
}

/// Whether the voter is among those whom `demand` names.
fn eligible(vote: &Vote, demand: &ApprovalDemand) -> bool {
    let by_role = if demand.roles.is_empty() {
        vote.roles.contains(&Role::Approver)
    } else {
        !demand.roles.is_disjoint(&vote.roles)
    };
    by_role && (demand.approvers.is_empty() || demand.approvers.contains(&vote.by))
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Approval>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Requested(request)) = (&state, change) {
        let Ok(id) = ApprovalId::new(applied.id) else { return };
        *state = Some(Approval {
            id,
            status: Status::Requested,
            request: request.clone(),
            votes: Vec::new(),
            used_at: None,
            requested_at: applied.time,
            updated_at: applied.time,
            receipts: Vec::new(),
        });
    }
    let Some(approval) = state else { return };
    approval.updated_at = applied.time;
    if approval.receipts.last() != Some(&applied.index) {
        approval.receipts.push(applied.index);
    }
    match change {
        Change::Requested(_) => {}
        Change::Decided { status, vote } => {
            approval.status = *status;
            approval.votes.push(((**vote).clone(), applied.time));
        }
        Change::Used {} => approval.used_at = Some(applied.time),
        Change::Expired {} => approval.status = Status::Expired,
        Change::Canceled {} => approval.status = Status::Canceled,
    }
}
