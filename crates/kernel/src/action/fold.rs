//! What the changes of an action fold to.

use super::{Action, Change, FailureCode, INTERRUPTED, LOST, Outcome, Scope, Status};
use crate::decision::Effect;
use crate::ids::ActionId;
use crate::machine::Applied;
use crate::units::Units;
use crate::values::{MicroUsd, Timestamp};

/// Folds one change into the state. Total: a change that does not fit leaves it as it was.
pub fn apply(state: &mut Option<Action>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Requested(request)) = (&state, change) {
        let Ok(id) = ActionId::new(applied.id) else { return };
        *state = Some(Action {
            id,
            status: Status::Requested,
            request: request.clone(),
            decision: None,
            decided_at: applied.time,
            principal_revision: 0,
            approval: None,
            approval_used: false,
            scope: Scope::default(),
            broken_glass: false,
            attempts: 0,
            interrupted: 0,
            in_doubt: false,
            attempt: None,
            retry_at: None,
            outcome: None,
            requested_at: applied.time,
            updated_at: applied.time,
            receipts: Vec::new(),
        });
    }
    let Some(action) = state else { return };
    action.updated_at = applied.time;
    if action.receipts.last() != Some(&applied.index) {
        action.receipts.push(applied.index);
    }
    action.fold(change, applied.time);
}

impl Action {
    fn fold(&mut self, change: &Change, time: Timestamp) {
        match change {
            Change::Requested(_) => {}
            Change::Decided { status, decision, principal_revision, approval, .. } => {
                self.status = *status;
                self.decision = Some(decision.clone());
                self.decided_at = time;
                self.principal_revision = *principal_revision;
                self.approval_used &= self.approval == *approval;
                self.approval = approval.clone();
                if *status == Status::Approved && decision.effect == Effect::Throttle {
                    let wait_ms = decision.obligations.retry_after_ms.unwrap_or_default();
                    let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
                    self.retry_at = Some(time.plus_millis(wait_ms));
                }
            }
            Change::Approved { narrow, broken_glass, .. } => {
                self.status = Status::Approved;
                self.broken_glass |= broken_glass;
                let last = |more: u32| self.attempts.saturating_add(more);
                let last_attempt = narrow.max_attempts.map(last);
                self.scope = Scope { last_attempt, exact: narrow.exact };
            }
            Change::Started(attempt) => {
                self.status = Status::Executing;
                self.attempts = attempt.number;
                self.approval_used = self.approval.is_some();
                self.attempt = Some(attempt.clone());
                self.retry_at = None;
            }
            Change::Retried { at, failure, cost, units, .. } => {
                self.status = Status::Approved;
                self.in_doubt |= failure.code == LOST;
                self.interrupted += u32::from(failure.code == INTERRUPTED);
                self.attempt = None;
                self.retry_at = Some(*at);
                let (cost, units) = (*cost, *units);
                self.outcome = Some(Outcome { cost, units, ..failed(failure) });
            }
            Change::Finished { outcome, .. } => {
                self.status = outcome.status;
                self.in_doubt = outcome.status == Status::Unknown;
                self.attempt = None;
                self.outcome = Some(outcome.clone());
            }
            Change::Denied { failure } => {
                self.close(Status::Denied);
                self.outcome = Some(failed(failure));
            }
            Change::Reconciled { status, cost, .. } => {
                self.status = *status;
                self.in_doubt = false;
                if let Some(outcome) = &mut self.outcome {
                    outcome.status = *status;
                    outcome.cost = *cost;
                    // That it was unknown is no failure of what turned out to have happened.
                    if *status == Status::Executed {
                        outcome.failure = None;
                    }
                }
            }
            Change::Canceled { .. } => self.close(Status::Canceled),
            Change::Expired {} => self.close(Status::Expired),
        }
    }

    /// Ends without a further attempt. Where an earlier one was lost, its effect may have happened:
    /// then nobody knows, whatever ends it.
    fn close(&mut self, status: Status) {
        self.status = if self.in_doubt { Status::Unknown } else { status };
    }
}

fn failed(failure: &FailureCode) -> Outcome {
    Outcome {
        status: Status::Failed,
        output: None,
        output_bytes: 0,
        cost: MicroUsd::ZERO,
        units: Units::NONE,
        failure: Some(failure.clone()),
        is_error: false,
        isolation: None,
        attestation: None,
    }
}
