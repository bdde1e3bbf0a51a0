//! Which changes an input makes to an action, or why it makes none.

use super::{Action, Attempt, Change, FailureCode, Input, LOST, Outcome, Status, reversal};
use crate::decision::{Decision, Effect, Phase};
use crate::failure::Category;
use crate::ids::ApprovalId;
use crate::limits;
use crate::machine::Refusal;
use crate::permit::Permit;
use crate::units::Units;
use crate::values::{MicroUsd, Shared, Timestamp};

/// The changes that `input` makes to `action`, or why it makes none.
pub fn step(action: Option<&Action>, input: Input, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    let Some(action) = action else {
        return begin(input);
    };
    match input {
        Input::Request { .. } | Input::Refuse { .. } => Err(Refusal::Exists),
        Input::Approve { approval, narrow, broken_glass } => {
            action.expect(Status::AwaitingApproval)?;
            if action.approval.as_ref() != Some(&approval) {
                return Err(Refusal::OtherApproval);
            }
            Ok(vec![Change::Approved { approval, narrow, broken_glass }])
        }
        Input::Deny { open, failure } => {
            action.expect_any(&[Status::AwaitingApproval, Status::Approved])?;
            action.expect_open(open.as_ref())?;
            Ok(vec![Change::Denied { failure }])
        }
        Input::Redecide { open, phase, decision, principal_revision, satisfied, approval } => {
            action.expect(match phase {
                Phase::Execute => Status::Approved,
                Phase::Submit => Status::Quarantined,
                Phase::Effect | Phase::List => {
                    return Err(Refusal::InvalidInput("an action is not decided in this phase"));
                }
            })?;
            action.expect_open(open.as_ref())?;
            let satisfied = satisfied && action.approval.is_some();
            let waits = phase == Phase::Execute && decision.effect == Effect::Throttle;
            let approval = if satisfied || waits { action.approval.clone() } else { approval };
            let change = decide(phase, decision, principal_revision, satisfied, approval)?;
            Ok(vec![action.doubted(change)])
        }
        Input::Start { .. } => action.start(&input, now).map(|c| vec![c]),
        Input::Finish { attempt, outcome, retry_at } => {
            action.finish(attempt, outcome, retry_at).map(|c| vec![c])
        }
        Input::Lost { attempt, epoch } => action.lost(attempt, epoch, now).map(|c| vec![c]),
        Input::Reconcile { attempt, status, cost, units, by } => {
            action.expect(Status::Unknown)?;
            if action.attempts != attempt {
                return Err(Refusal::Fenced);
            }
            if !matches!(status, Status::Executed | Status::Failed) || cost.0 < 0 {
                return Err(Refusal::InvalidInput("an outcome is `executed` or `failed`"));
            }
            Ok(vec![Change::Reconciled { status, cost, units, by }])
        }
        Input::Cancel { open, by } => {
            action.expect_any(&[
                Status::Quarantined,
                Status::AwaitingApproval,
                Status::Approved,
            ])?;
            action.expect_open(open.as_ref())?;
            Ok(vec![Change::Canceled { by }])
        }
        Input::Expire { approval } => {
            action.expect_any(&[Status::AwaitingApproval, Status::Approved])?;
            if action.open_approval() != Some(&approval) {
                return Err(Refusal::OtherApproval);
            }
            Ok(vec![Change::Expired {}])
        }
        Input::Undo { by, to } => reversal::step(action, by, to).map(|c| vec![c]),
    }
}

/// The first changes of an action.
fn begin(input: Input) -> Result<Vec<Change>, Refusal> {
    match input {
        Input::Request { request, decision, principal_revision, approval } => {
            let decided = decide(Phase::Submit, decision, principal_revision, false, approval)?;
            Ok(vec![Change::Requested(request), decided])
        }
        Input::Refuse { request, decision, principal_revision, failure } => {
            let (phase, status) = (Phase::Submit, Status::Denied);
            let decided =
                Change::Decided { phase, status, decision, principal_revision, approval: None };
            Ok(vec![Change::Requested(request), decided, Change::Denied { failure }])
        }
        _ => Err(Refusal::Absent),
    }
}

/// The change that a decision makes. `satisfied`: the approval at hand meets what is demanded.
fn decide(
    phase: Phase,
    decision: Shared<Decision>,
    principal_revision: u64,
    satisfied: bool,
    approval: Option<ApprovalId>,
) -> Result<Change, Refusal> {
    let (status, approval) = match decision.effect {
        Effect::Allow => (Status::Approved, approval.filter(|_| satisfied)),
        Effect::RequireApproval | Effect::RequireStepUp if satisfied => {
            (Status::Approved, approval)
        }
        Effect::RequireApproval | Effect::RequireStepUp => {
            let approval = approval.ok_or(Refusal::InvalidInput("an approval must be opened"))?;
            (Status::AwaitingApproval, Some(approval))
        }
        Effect::Quarantine => (Status::Quarantined, None),
        // What may run may wait: it is decided anew after `retry_after_ms`.
        Effect::Throttle if phase == Phase::Execute => (Status::Approved, approval),
        // A route is followed before the action is requested; one that is left is a loop.
        Effect::Throttle | Effect::Route | Effect::Deny => (Status::Denied, None),
    };
    Ok(Change::Decided { phase, status, decision, principal_revision, approval })
}

impl Action {
    /// A decision that ends an action whose earlier attempt was lost leaves it unknown.
    fn doubted(&self, mut change: Change) -> Change {
        if let Change::Decided { status, .. } = &mut change
            && *status == Status::Denied
            && self.in_doubt
        {
            *status = Status::Unknown;
        }
        change
    }

    fn expect(&self, status: Status) -> Result<(), Refusal> {
        self.expect_any(&[status])
    }

    fn expect_any(&self, any: &[Status]) -> Result<(), Refusal> {
        if any.contains(&self.status) { Ok(()) } else { Err(Refusal::State(self.status.as_str())) }
    }

    /// Whoever looked at the action before another approval was opened must look again: else that
    /// one would stay open with nobody waiting for it.
    fn expect_open(&self, seen: Option<&ApprovalId>) -> Result<(), Refusal> {
        if self.open_approval() == seen { Ok(()) } else { Err(Refusal::Moved) }
    }

    /// Draws a permit: only for a decision that is fresh, made under the revisions in force, and
    /// whose approval (if it demands one) is consumed in this very commit.
    fn start(&self, input: &Input, now: Timestamp) -> Result<Change, Refusal> {
        let Input::Start { policy_revision, principal_revision, consumed, hold, held, epoch } =
            input
        else {
            return Err(Refusal::InvalidInput("not a start"));
        };
        self.expect(Status::Approved)?;
        let decision = self.decision.as_ref().ok_or(Refusal::DecisionStale)?;
        let fresh = now <= self.decided_at.plus_micros(limits::PERMIT_MICROS_MAX)
            && decision.policy.revision == *policy_revision
            && self.principal_revision == *principal_revision;
        if !fresh {
            return Err(Refusal::DecisionStale);
        }
        if self.retry_at.is_some_and(|at| now < at) || self.attempts >= self.attempts_max() {
            return Err(Refusal::NotDue);
        }
        let gated = matches!(decision.effect, Effect::RequireApproval | Effect::RequireStepUp);
        if !gated && decision.effect != Effect::Allow {
            return Err(Refusal::DecisionStale);
        }
        if gated && !self.approval_used && (consumed.is_none() || *consumed != self.approval) {
            return Err(Refusal::ApprovalMissing);
        }
        // What costs something has an account, and its worst case is held there.
        let priced = self.request.estimate > MicroUsd::ZERO;
        if priced && (*hold != Some(self.request.estimate) || self.request.account.is_none()) {
            return Err(Refusal::HoldMissing);
        }
        // Whoever believes that the money is held already may have looked before it was settled.
        if *held != self.held() {
            return Err(Refusal::Moved);
        }
        Ok(Change::Started(Attempt {
            number: self.attempts.saturating_add(1),
            epoch: *epoch,
            not_after: Permit::end(now),
            lease_until: Permit::end(now)
                .plus_millis(i64::try_from(self.request.timeout_ms).unwrap_or(i64::MAX)),
            hold: *hold,
        }))
    }

    fn finish(
        &self,
        attempt: u32,
        mut outcome: Outcome,
        retry_at: Option<Timestamp>,
    ) -> Result<Change, Refusal> {
        self.expect(Status::Executing)?;
        if self.attempt.as_ref().is_none_or(|current| current.number != attempt) {
            return Err(Refusal::Fenced);
        }
        let ended = matches!(outcome.status, Status::Executed | Status::Failed | Status::Unknown);
        if !ended || outcome.cost.0 < 0 {
            return Err(Refusal::InvalidInput("an outcome is executed, failed or unknown"));
        }
        match (retry_at, &outcome.failure) {
            (Some(at), Some(failure)) if self.may_retry(failure, &outcome) => {
                let (failure, cost) = (failure.clone(), outcome.cost);
                Ok(Change::Retried { attempt, at, failure, cost, units: outcome.units })
            }
            _ => {
                if self.in_doubt && outcome.status == Status::Failed {
                    // This attempt failed; what the lost one did is not known by that.
                    outcome.status = Status::Unknown;
                }
                Ok(Change::Finished { attempt, outcome })
            }
        }
    }

    fn may_retry(&self, failure: &FailureCode, outcome: &Outcome) -> bool {
        self.request.idempotent
            && outcome.status == Status::Failed
            && failure.retryable()
            && self.attempts < self.attempts_max()
    }

    /// How many attempts there may be: fewer where its approvers said so. Those that stopping
    /// servers cut short are not among them.
    pub fn attempts_max(&self) -> u32 {
        let asked = self.request.max_attempts.unwrap_or(u32::MAX);
        let counted = self.scope.last_attempt.unwrap_or(u32::MAX).min(asked);
        let counted = counted.min(limits::ATTEMPTS_MAX);
        counted.saturating_add(self.interrupted.min(limits::INTERRUPTIONS_MAX))
    }

    /// The server of the running attempt is gone: what can be repeated is, the rest is unknown.
    fn lost(&self, attempt: u32, epoch: u64, now: Timestamp) -> Result<Change, Refusal> {
        self.expect(Status::Executing)?;
        let running = self.attempt.as_ref().filter(|running| running.number == attempt);
        let running = running.ok_or(Refusal::Fenced)?;
        if running.epoch == epoch && now < running.lease_until {
            return Err(Refusal::LeaseHeld);
        }
        let failure = FailureCode { code: LOST.to_owned(), category: Category::Internal };
        if self.request.idempotent && self.attempts < self.attempts_max() {
            let (cost, units) = (MicroUsd::ZERO, Units::NONE);
            return Ok(Change::Retried { attempt, at: now, failure, cost, units });
        }
        let outcome = Outcome {
            status: Status::Unknown,
            output: None,
            output_bytes: 0,
            cost: MicroUsd::ZERO,
            units: Units::NONE,
            failure: Some(failure),
            is_error: false,
            isolation: None,
            attestation: None,
            prior: None,
            model: None,
        };
        Ok(Change::Finished { attempt, outcome })
    }
}
