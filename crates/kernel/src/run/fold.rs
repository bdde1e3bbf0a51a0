//! What the changes of a run fold to.

use super::follow::is_overtaken;
use super::{Change, Ending, Run, Status, Step, StepStatus};
use crate::action;
use crate::ids::{RunId, StepId};
use crate::machine::Applied;
use crate::values::{MicroUsd, Timestamp};

/// Folds one change into the state. Total: a change that does not fit leaves it as it was.
pub fn apply(state: &mut Option<Run>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Requested(request)) = (&state, change) {
        let Ok(id) = RunId::new(applied.id) else { return };
        let first = || Step { iteration: 1, ..Step::default() };
        *state = Some(Run {
            id,
            status: Status::Queued,
            steps: request.steps.iter().map(|_| first()).collect(),
            request: request.clone(),
            admitted: false,
            ending: None,
            writes: 0,
            cost: MicroUsd::ZERO,
            replays: 0,
            settled: false,
            requested_at: applied.time,
            updated_at: applied.time,
            ended_at: None,
            first_receipt: applied.index,
            last_receipt: applied.index,
            receipts: Vec::new(),
            content_dropped: false,
        });
    }
    let Some(run) = state else { return };
    run.updated_at = applied.time;
    run.last_receipt = applied.index;
    if run.receipts.last() != Some(&applied.index) {
        run.receipts.push(applied.index);
    }
    run.fold(change, applied.time);
}

impl Run {
    pub(super) fn fold(&mut self, change: &Change, time: Timestamp) {
        match change {
            Change::Requested(_) => {}
            Change::Admitted {} => {
                self.admitted = true;
                self.status = Status::Running;
            }
            Change::StepStarted { step, action, writes, .. } => {
                self.writes = self.writes.saturating_add(u32::from(*writes));
                if let Some(step) = self.step_mut(step) {
                    step.status = StepStatus::Running;
                    step.action = Some(action.clone());
                    step.tries = step.tries.saturating_add(1);
                    (step.wait_until, step.failure) = (None, None);
                }
            }
            Change::StepMoved { step, cost, .. } => {
                add(&mut self.cost, *cost);
                let iterations = self.iterations(step);
                if let Some(step) = self.step_mut(step) {
                    step.moved(change, iterations);
                }
                self.fail_with(step);
            }
            Change::StepSkipped { step } => {
                if let Some(step) = self.step_mut(step) {
                    (step.status, step.skipped) = (StepStatus::Succeeded, true);
                }
            }
            Change::StepWaits { step, until, timer } => {
                if let Some(step) = self.step_mut(step) {
                    step.wait_until = Some(*until);
                    step.timed |= timer;
                }
            }
            Change::StepRefused { step, failure, output } => {
                if let Some(step) = self.step_mut(step) {
                    match output {
                        true => step.refused = Some(failure.clone()),
                        false => {
                            step.status = StepStatus::FailedTerminal;
                            step.failure = Some(failure.clone());
                        }
                    }
                }
                self.fail_with(step);
            }
            Change::Paused { .. } => self.status = Status::Paused,
            Change::Resumed { .. } => {
                self.status = if self.admitted { Status::Running } else { Status::Queued };
            }
            Change::Ending { status, failure, .. } => {
                self.ending = Some(Ending { status: *status, failure: failure.clone() });
            }
            Change::Ended { status, failure } => self.end(*status, failure.clone(), time),
            Change::Replayed { from, .. } => self.replay(from),
            Change::Discarded { .. } => self.status = Status::FailedTerminal,
            Change::Spent { cost, .. } => add(&mut self.cost, *cost),
            Change::Wrote { .. } => self.writes = self.writes.saturating_add(1),
            Change::Settled {} => self.settled = true,
            Change::ContentDropped {} => self.content_dropped = true,
        }
        self.status = self.derived();
    }

    fn step_mut(&mut self, id: &StepId) -> Option<&mut Step> {
        let index = self.position(id)?;
        self.steps.get_mut(index)
    }

    fn iterations(&self, id: &StepId) -> u32 {
        let spec = self.request.steps.iter().find(|spec| spec.id == *id);
        spec.map_or(1, |spec| spec.iterations)
    }

    /// A step that failed ends the run; the worse of two failures decides how.
    fn fail_with(&mut self, step: &StepId) {
        let failed = self.position(step).and_then(|index| self.steps.get(index));
        let Some(step) = failed else { return };
        let status = match step.status {
            StepStatus::FailedRetryable => Status::FailedRetryable,
            StepStatus::FailedTerminal => Status::FailedTerminal,
            StepStatus::Canceled => Status::Canceled,
            _ => return,
        };
        let failure = step.failure.clone();
        let worse = |ending: &Ending| {
            ending.status == Status::FailedRetryable && status != Status::FailedRetryable
        };
        if self.ending.as_ref().is_none_or(worse) {
            self.ending = Some(Ending { status, failure });
        }
    }

    fn end(&mut self, status: Status, failure: Option<action::FailureCode>, time: Timestamp) {
        self.status = status;
        self.ended_at = Some(time);
        self.ending = Some(Ending { status, failure });
        if status == Status::FailedRetryable {
            return;
        }
        let open = |step: &&mut Step| {
            matches!(
                step.status,
                StepStatus::Ready | StepStatus::Running | StepStatus::WaitingApproval
            )
        };
        for step in self.steps.iter_mut().filter(open) {
            (step.status, step.wait_until) = (StepStatus::Canceled, None);
        }
    }

    /// From `from` on nothing has happened.
    fn replay(&mut self, from: &StepId) {
        let Some(from) = self.position(from) else { return };
        self.replays = self.replays.saturating_add(1);
        (self.ending, self.ended_at) = (None, None);
        (self.admitted, self.status) = (false, Status::Queued);
        for (index, step) in self.steps.iter_mut().enumerate() {
            let failed = matches!(
                step.status,
                StepStatus::FailedRetryable | StepStatus::FailedTerminal | StepStatus::Canceled
            );
            if index >= from || failed {
                let cost = step.cost;
                *step = Step { iteration: 1, cost, ..Step::default() };
            }
        }
    }

    /// `waiting_approval` says that all that goes on waits for people.
    fn derived(&self) -> Status {
        if !matches!(self.status, Status::Running | Status::WaitingApproval) {
            return self.status;
        }
        let waits = self.steps.iter().any(|step| step.status == StepStatus::WaitingApproval);
        if waits && !self.is_active() { Status::WaitingApproval } else { Status::Running }
    }
}

impl Step {
    fn moved(&mut self, change: &Change, iterations: u32) {
        let Change::StepMoved {
            to,
            state,
            cost,
            failure,
            wait_until,
            approved,
            output_unknown,
            ..
        } = change
        else {
            return;
        };
        add(&mut self.cost, *cost);
        let anew = failure.as_ref().is_some_and(is_overtaken);
        self.stands(*to, *state, anew, iterations);
        (self.failure, self.wait_until) = (failure.clone(), *wait_until);
        self.approved = self.approved.saturating_add(u32::from(*approved));
        self.output_unknown = *output_unknown;
    }

    fn stands(&mut self, to: StepStatus, state: action::Status, anew: bool, iterations: u32) {
        self.in_doubt = state == action::Status::Unknown;
        let next = to == StepStatus::Succeeded && self.iteration < iterations;
        if next {
            self.iteration = self.iteration.saturating_add(1);
            (self.tries, self.put_off, self.timed) = (0, 0, false);
            self.status = StepStatus::Ready;
            return;
        }
        self.status = to;
        let put_off = to == StepStatus::Ready && (state == action::Status::Denied || anew);
        self.put_off = if put_off { self.put_off.saturating_add(1) } else { 0 };
        // What policy put off, or what began too late, was no attempt.
        self.tries = self.tries.saturating_sub(u32::from(put_off));
    }
}

fn add(to: &mut MicroUsd, amount: MicroUsd) {
    to.0 = to.0.saturating_add(amount.0);
}
