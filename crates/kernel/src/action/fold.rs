//! What the changes of an action fold to.

use super::{
    Action, Change, FailureCode, INTERRUPTED, LOST, Open, Outcome, Reversal, Scope, Status,
};
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
            spent: MicroUsd::ZERO,
            used: Units::NONE,
            open: Open::default(),
            reversal: None,
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
                self.retried(*at, failure, *cost, *units);
            }
            Change::Finished { outcome, .. } => {
                self.status = outcome.status;
                self.in_doubt = outcome.status == Status::Unknown;
                self.attempt = None;
                self.open = self.open.and(outcome.cost, &outcome.units);
                if outcome.status != Status::Unknown {
                    self.pay_open();
                }
                self.outcome = Some(outcome.clone());
            }
            Change::Denied { failure } => {
                self.close(Status::Denied);
                self.outcome = Some(failed(failure));
            }
            Change::Reconciled { status, cost, units, .. } => {
                self.reconciled(*status, *cost, *units);
            }
            Change::Canceled { .. } => self.close(Status::Canceled),
            Change::Expired {} => self.close(Status::Expired),
            Change::ReversalBegun { by } => {
                self.reversal = Some(Reversal { by: by.clone(), done: false });
            }
            Change::Reversed { by } => {
                self.reversal = Some(Reversal { by: by.clone(), done: true });
            }
            Change::ReversalEnded { .. } => self.reversal = None,
        }
    }

    fn retried(&mut self, at: Timestamp, failure: &FailureCode, cost: MicroUsd, units: Units) {
        self.status = Status::Approved;
        self.interrupted += u32::from(failure.code == INTERRUPTED);
        self.attempt = None;
        self.retry_at = Some(at);
        if self.in_doubt {
            self.open = self.open.and(cost, &units);
        } else {
            self.charge(cost, &units);
        }
        self.in_doubt |= failure.code == LOST;
        self.outcome = Some(Outcome { cost, units, ..failed(failure) });
    }

    fn reconciled(&mut self, status: Status, cost: MicroUsd, units: Units) {
        // Who establishes it says what all of it cost.
        self.open = Open { cost, units };
        self.pay_open();
        self.status = status;
        self.in_doubt = false;
        if let Some(outcome) = &mut self.outcome {
            (outcome.status, outcome.cost, outcome.units) = (status, cost, units);
            // That it was unknown is no failure of what turned out to have happened, and what a
            // failed attempt had to show is not what it gave.
            if status == Status::Executed {
                (outcome.failure, outcome.output, outcome.output_bytes) = (None, None, 0);
            }
        }
    }

    fn pay_open(&mut self) {
        let Open { cost, units } = std::mem::take(&mut self.open);
        self.charge(cost, &units);
    }

    fn charge(&mut self, cost: MicroUsd, units: &Units) {
        self.spent.0 = self.spent.0.saturating_add(cost.0);
        self.used = self.used.saturating_add(units);
    }

    /// Ends without a further attempt. Where an earlier one was lost, its effect may have happened:
    /// then nobody knows, whatever ends it.
    fn close(&mut self, status: Status) {
        self.status = if self.in_doubt { Status::Unknown } else { status };
    }
}

/// The outcome of an attempt that failed and is told by its failure alone.
pub(crate) fn failed(failure: &FailureCode) -> Outcome {
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
        prior: None,
        model: None,
    }
}
