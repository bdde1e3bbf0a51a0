//! Which change an input makes to an approval, or why it makes none.

use std::collections::BTreeSet;

use super::{
    Approval, Change, Delegation, GlassBroken, Input, Narrow, Signature, Status, Verdict, Vote,
};
use crate::decision::BreakGlass;
use crate::demand::is_word;
use crate::ids::PrincipalId;
use crate::limits;
use crate::machine::Refusal;
use crate::principal::{PrincipalKind, Role, permitted};
use crate::values::{Digest, Timestamp};

/// The permission to say yes or no.
const DECIDE: &str = "approvals:decide";

/// The change that `input` makes, or why it makes none.
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
        Input::Decide { plan_digest, kind, stage, vote } => {
            approval.decide(plan_digest, kind, stage.as_deref(), vote, now)
        }
        Input::Delegate { from, to } => approval.delegate(from, to, now),
        Input::Escalate { stage } => approval.escalate(stage, now),
        Input::BreakGlass { plan_digest, kind, step_up, broken } => {
            approval.break_glass(plan_digest, kind, step_up, broken, now)
        }
        Input::Use { plan_digest } => approval.may_use(plan_digest, now).map(|()| Change::Used {}),
        Input::Expire {} if !approval.over(now) => Err(Refusal::NotDue),
        Input::Expire {} if open => Ok(Change::Expired {}),
        Input::Cancel {} if open => Ok(Change::Canceled {}),
        Input::Expire {} | Input::Cancel {} => Err(Refusal::State(approval.status.as_str())),
    }
}

impl Approval {
    /// Whether it still waits for people.
    fn waits(&self, now: Timestamp) -> Result<(), Refusal> {
        if self.status != Status::Requested {
            return Err(Refusal::State(self.status.as_str()));
        }
        if now >= self.request.expires_at {
            return Err(Refusal::ApprovalExpired);
        }
        Ok(())
    }

    fn decide(
        &self,
        plan_digest: Digest,
        kind: PrincipalKind,
        wanted: Option<&str>,
        mut vote: Box<Vote>,
        now: Timestamp,
    ) -> Result<Change, Refusal> {
        self.waits(now)?;
        if plan_digest != self.request.plan_digest {
            return Err(Refusal::OtherPlan);
        }
        if self.asked(&vote.by) {
            return Err(Refusal::SelfApproval);
        }
        if kind == PrincipalKind::Agent {
            return Err(Refusal::NotAnApprover);
        }
        if self.has_spoken(&vote.by) {
            return Err(Refusal::AlreadyDecided);
        }
        if self.delegated(&vote.by).is_some() {
            return Err(Refusal::SayDelegated);
        }
        (vote.stage, vote.delegated_by) = self.place(&vote, wanted)?;
        self.check_form(&vote, now)?;
        let status = match vote.verdict {
            Verdict::Reject => Status::Rejected,
            Verdict::Approve if self.grants(&vote.stage) => Status::Approved,
            Verdict::Approve => Status::Requested,
        };
        Ok(Change::Decided { status, vote })
    }

    /// What a yes must have, and what a yes and a no may carry.
    fn check_form(&self, vote: &Vote, now: Timestamp) -> Result<(), Refusal> {
        if vote.signature.as_ref().is_some_and(|signature| now >= signature.not_after) {
            return Err(Refusal::InvalidInput("signature: its not_after has passed"));
        }
        if let Some(code) = &vote.reason_code
            && (vote.verdict == Verdict::Approve || !is_word(code))
        {
            let message = "reason_code: 1 to 64 of a-z, 0-9 and `_`, and only with a no";
            return Err(Refusal::InvalidInput(message));
        }
        if vote.verdict == Verdict::Reject {
            let message = "narrow goes with a yes only";
            return if vote.narrow.is_none() {
                Ok(())
            } else {
                Err(Refusal::InvalidInput(message))
            };
        }
        self.narrows(&vote.narrow)?;
        if self.request.demand.signed && vote.signature.is_none() {
            return Err(Refusal::SignatureRequired);
        }
        if self.request.step_up && !vote.step_up {
            return Err(Refusal::StepUpRequired);
        }
        Ok(())
    }

    /// What is narrowed must not be wider than what was asked for.
    fn narrows(&self, narrow: &Narrow) -> Result<(), Refusal> {
        let most = self.request.demand.valid_s_max();
        let time = narrow.valid_s.is_none_or(|valid_s| (1..=most).contains(&valid_s));
        let attempts = narrow.max_attempts.is_none_or(|n| (1..=limits::ATTEMPTS_MAX).contains(&n));
        if time && attempts { Ok(()) } else { Err(Refusal::NarrowWidens) }
    }

    /// Whether one more yes in `stage` is all that is missing.
    fn grants(&self, name: &str) -> bool {
        self.stages().all(|(stage, progress)| {
            progress.completed_at.is_some() || (stage.name == name && self.completes(stage))
        })
    }

    fn delegate(
        &self,
        (from, roles): (PrincipalId, BTreeSet<Role>),
        (to, kind, to_roles): (PrincipalId, PrincipalKind, BTreeSet<Role>),
        now: Timestamp,
    ) -> Result<Change, Refusal> {
        self.waits(now)?;
        let refuse = |why| Err(Refusal::DelegationRefused(why));
        if self.asked(&from) {
            return Err(Refusal::SelfApproval);
        }
        if self.has_spoken(&from) {
            return Err(Refusal::AlreadyDecided);
        }
        if self.delegated(&from).is_some() {
            return Err(Refusal::SayDelegated);
        }
        if self.delegations.iter().any(|handed| handed.to == from) {
            return refuse("whoever was handed a say does not hand one on");
        }
        let stages = self.open_to(&from, &roles);
        if stages.is_empty() {
            return Err(Refusal::NotAnApprover);
        }
        if to == from || kind != PrincipalKind::User || !permitted(&to_roles, DECIDE) {
            return refuse("a say goes to another user who may decide approvals");
        }
        if self.asked(&to) {
            return refuse("a say does not go to who asked");
        }
        if self.has_spoken(&to) || self.delegated(&to).is_some() {
            return refuse("they have spoken already, or handed over their own say");
        }
        if self.delegations.len() >= limits::DELEGATIONS_MAX {
            return refuse("too many approvers have handed over their say");
        }
        Ok(Change::Delegated(Box::new(Delegation { from, roles, to, stages })))
    }

    fn escalate(&self, stage: String, now: Timestamp) -> Result<Change, Refusal> {
        self.waits(now)?;
        match self.deadline(&stage) {
            Some(at) if now >= at => Ok(Change::Escalated { stage }),
            Some(_) => Err(Refusal::NotDue),
            None => Err(Refusal::StageNotOpen),
        }
    }

    fn break_glass(
        &self,
        plan_digest: Digest,
        kind: PrincipalKind,
        step_up: bool,
        broken: Box<GlassBroken>,
        now: Timestamp,
    ) -> Result<Change, Refusal> {
        self.waits(now)?;
        if plan_digest != self.request.plan_digest {
            return Err(Refusal::OtherPlan);
        }
        if self.request.break_glass == BreakGlass::Forbidden {
            return Err(Refusal::GlassForbidden);
        }
        if self.request.actors.contains(&broken.by) {
            return Err(Refusal::SelfApproval);
        }
        if kind != PrincipalKind::User {
            return Err(Refusal::NotAnApprover);
        }
        if !step_up {
            return Err(Refusal::StepUpRequired);
        }
        let [one, other] = broken.reasons;
        if one == other {
            return Err(Refusal::InvalidInput("reasons: two that differ"));
        }
        Ok(Change::GlassBroken(broken))
    }

    fn may_use(&self, plan_digest: Digest, now: Timestamp) -> Result<(), Refusal> {
        if self.used_at.is_some() {
            return Err(Refusal::ApprovalUsed);
        }
        if self.status != Status::Approved {
            return Err(Refusal::State(self.status.as_str()));
        }
        if self.over(now) {
            return Err(Refusal::ApprovalExpired);
        }
        if plan_digest != self.request.plan_digest {
            return Err(Refusal::OtherPlan);
        }
        Ok(())
    }
}

impl Signature {
    /// Whether its parts are within the limits.
    pub fn well_formed(&self) -> bool {
        let fits = |text: &str, bytes: usize| text.len() <= bytes.div_ceil(3).saturating_mul(4);
        fits(&self.public_key, limits::SIGNING_KEY_BYTES_MAX)
            && fits(&self.sig, limits::SIGNATURE_BYTES_MAX)
    }
}
