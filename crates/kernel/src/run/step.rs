//! Which changes an input makes to a run, or why it makes none.

use super::{Change, Ending, Input, Report, Request, Run, Status, Step, StepSpec, StepStatus};
use crate::action::{self, FailureCode};
use crate::failure::Category;
use crate::ids::{ActionId, PrincipalId, StepId};
use crate::machine::Refusal;
use crate::values::{MicroUsd, Shared, Timestamp};
use crate::{limits, retry};

/// The changes that `input` makes to `run`, or why it makes none.
pub fn step(run: Option<&Run>, input: Input, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    let Some(run) = run else {
        return match input {
            Input::Request(request) => {
                check(&request)?;
                Ok(vec![Change::Requested(request)])
            }
            Input::Take { request, at } => take(request, at, now),
            _ => Err(Refusal::Absent),
        };
    };
    match input {
        Input::Request(_) | Input::Take { .. } => Err(Refusal::Exists),
        Input::Admit {} => {
            run.expect(&[Status::Queued])?;
            Ok(vec![Change::Admitted {}])
        }
        Input::Follow(report) => run.follow(*report, now),
        Input::Write { action } => run.wrote(action),
        // A fact, also of a run that has ended.
        Input::Spend { action, cost } => Ok(vec![Change::Spent { action, cost }]),
        Input::Skip { step } => {
            run.startable_step(&step)?;
            Ok(run.with(Change::StepSkipped { step }, now))
        }
        Input::Wait { step, until, timer } => {
            let (_, waiting) = run.startable_step(&step)?;
            if timer && waiting.timed {
                return Err(Refusal::Exists);
            }
            if until > now.plus_micros(limits::RUN_WAIT_MICROS_MAX) {
                return Err(Refusal::InvalidInput("a step waits at most 366 days"));
            }
            Ok(vec![Change::StepWaits { step, until, timer }])
        }
        Input::Refuse { step, failure, output_of } => run.refuse(step, failure, output_of, now),
        Input::Pause { by } => {
            run.expect(&[Status::Queued, Status::Running, Status::WaitingApproval])?;
            run.expect_open()?;
            Ok(vec![Change::Paused { by }])
        }
        Input::Resume { by } => {
            run.expect(&[Status::Paused])?;
            Ok(vec![Change::Resumed { by }])
        }
        Input::Cancel { by } => {
            run.open()?;
            let (status, failure) = (Status::Canceled, None);
            Ok(run.with(Change::Ending { status, failure, by: Some(by) }, now))
        }
        Input::Fail { failure } => {
            run.open()?;
            run.expect_open()?;
            let failure = Some(failure);
            Ok(run.with(Change::Ending { status: Status::FailedTerminal, failure, by: None }, now))
        }
        Input::Replay { by, from } => run.replayed(by, from),
        Input::Discard { by } => {
            run.expect(&[Status::FailedRetryable])?;
            Ok(vec![Change::Discarded { by }])
        }
        Input::Settle {} if run.owes() => Ok(vec![Change::Settled {}]),
        Input::DropContent {} if run.leaves_content() => Ok(vec![Change::ContentDropped {}]),
        Input::Settle {} | Input::DropContent {} => Err(Refusal::State(run.status.as_str())),
    }
}

fn check(request: &Request) -> Result<(), Refusal> {
    let fits = (1..=limits::PLAN_STEPS_MAX).contains(&request.steps.len());
    let spec = |spec: &StepSpec| {
        (1..=limits::ITERATIONS_MAX).contains(&spec.iterations)
            && (1..=limits::ATTEMPTS_MAX).contains(&spec.attempts)
            && spec.backoff_ms <= limits::STEP_BACKOFF_MS_MAX
    };
    let budget = request.budget.is_none_or(|budget| budget.0 > 0 && request.account.is_some());
    if fits && request.steps.iter().all(spec) && budget {
        Ok(())
    } else {
        Err(Refusal::InvalidInput("a run has 1 to 100 steps within their limits"))
    }
}

impl Run {
    fn expect(&self, any: &[Status]) -> Result<(), Refusal> {
        if any.contains(&self.status) { Ok(()) } else { Err(Refusal::State(self.status.as_str())) }
    }

    fn open(&self) -> Result<(), Refusal> {
        if self.status.has_ended() { Err(Refusal::State(self.status.as_str())) } else { Ok(()) }
    }

    /// Nothing new is asked of a run that is about to end.
    fn expect_open(&self) -> Result<(), Refusal> {
        if self.ending.is_some() { Err(Refusal::State("ending")) } else { Ok(()) }
    }

    fn startable_step(&self, id: &StepId) -> Result<(&StepSpec, &Step), Refusal> {
        self.expect(&[Status::Running, Status::WaitingApproval])?;
        self.expect_open()?;
        let index = self.position(id).ok_or(Refusal::Absent)?;
        if !self.startable().contains(&index) {
            let step = self.steps.get(index).ok_or(Refusal::Absent)?;
            return Err(Refusal::State(step.status.as_str()));
        }
        self.at(index)
    }

    fn at(&self, index: usize) -> Result<(&StepSpec, &Step), Refusal> {
        let spec = self.request.steps.get(index).ok_or(Refusal::Absent)?;
        Ok((spec, self.steps.get(index).ok_or(Refusal::Absent)?))
    }

    /// `change`, and the end of the run where nothing is left to be done.
    fn with(&self, change: Change, now: Timestamp) -> Vec<Change> {
        let mut after = self.clone();
        after.fold(&change, now);
        let mut changes = vec![change];
        changes.extend(after.conclusion());
        changes
    }

    fn conclusion(&self) -> Option<Change> {
        if self.status.has_ended() {
            return None;
        }
        // What nobody knows the end of keeps a run open, but not one that is given up. One that may
        // be replayed is not: the effect could happen twice.
        let given_up = |ending: &Ending| ending.status != Status::FailedRetryable;
        let given_up = self.ending.as_ref().is_some_and(given_up);
        let under_way = |step: &Step| match step.status {
            StepStatus::Running => true,
            StepStatus::WaitingApproval => !(step.in_doubt && given_up),
            _ => false,
        };
        if self.steps.iter().any(under_way) {
            return None;
        }
        // Where every step succeeded all the same, whoever wanted to end it came too late.
        if self.steps.iter().all(|step| step.status == StepStatus::Succeeded) {
            return Some(Change::Ended { status: Status::Succeeded, failure: None });
        }
        let Ending { status, failure } = self.ending.clone()?;
        Some(Change::Ended { status, failure })
    }

    /// An action of a step was asked for, or moved.
    fn follow(&self, report: Report, now: Timestamp) -> Result<Vec<Change>, Refusal> {
        let index = self.position(&report.step).ok_or(Refusal::Absent)?;
        let (spec, step) = self.at(index)?;
        if step.action.as_ref() == Some(&report.action) {
            if let Some(change) = self.made_known(spec, step, &report) {
                return Ok(vec![change]);
            }
            // What a run that has ended, or a step that goes on without it, still hears of an
            // action changes nothing there.
            let listens = matches!(step.status, StepStatus::Running | StepStatus::WaitingApproval)
                && !self.status.has_ended();
            return Ok(match self.moved(spec, step, report, now).filter(|_| listens) {
                Some(change) => self.with(change, now),
                None => Vec::new(),
            });
        }
        if self.status.has_ended() || step.iteration > report.iteration {
            return Ok(Vec::new());
        }
        self.started(report, now)
    }

    /// Code of a step writes: one of the calls that may.
    fn wrote(&self, action: ActionId) -> Result<Vec<Change>, Refusal> {
        self.open()?;
        if self.request.writes_max.is_some_and(|max| self.writes >= max) {
            return Err(Refusal::WritesExceeded);
        }
        Ok(vec![Change::Wrote { action }])
    }

    /// What an action came to that nobody knew the end of when the run ended: it costs what it
    /// cost, and moves nothing.
    fn made_known(&self, spec: &StepSpec, step: &Step, report: &Report) -> Option<Change> {
        let late = self.status.has_ended() && step.in_doubt && report.status.is_final();
        (late && report.cost > MicroUsd::ZERO).then(|| Change::StepMoved {
            step: spec.id.clone(),
            iteration: report.iteration,
            action: report.action.clone(),
            to: step.status,
            state: report.status,
            cost: report.cost,
            failure: step.failure.clone(),
            wait_until: None,
            approved: false,
            output_unknown: step.output_unknown,
        })
    }

    fn started(&self, report: Report, now: Timestamp) -> Result<Vec<Change>, Refusal> {
        let (spec, step) = self.startable_step(&report.step)?;
        if step.iteration != report.iteration || step.tries >= spec.attempts {
            return Err(Refusal::Fenced);
        }
        if step.wait_until.is_some_and(|until| now < until) {
            return Err(Refusal::NotDue);
        }
        if report.writes && self.request.writes_max.is_some_and(|max| self.writes >= max) {
            return Err(Refusal::WritesExceeded);
        }
        if self.request.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::State("past its deadline"));
        }
        let change = Change::StepStarted {
            step: report.step.clone(),
            iteration: report.iteration,
            action: report.action.clone(),
            writes: report.writes,
        };
        let mut after = self.clone();
        after.fold(&change, now);
        let mut changes = vec![change];
        let index = after.position(&report.step).ok_or(Refusal::Absent)?;
        let (spec, step) = after.at(index)?;
        if let Some(moved) = after.moved(spec, step, report, now) {
            changes.extend(after.with(moved, now));
        }
        Ok(changes)
    }

    /// Where a step stands once its action has moved; none where that is where it stands.
    fn moved(
        &self,
        spec: &StepSpec,
        step: &Step,
        report: Report,
        now: Timestamp,
    ) -> Option<Change> {
        use action::Status as Action;
        let Report { iteration, action, status, cost, .. } = report;
        let (mut failure, mut wait_until) = (report.failure, None);
        let to = match status {
            Action::Requested | Action::Approved | Action::Executing => StepStatus::Running,
            Action::Quarantined | Action::AwaitingApproval | Action::Unknown => {
                StepStatus::WaitingApproval
            }
            Action::Executed if step.refused.is_some() => {
                failure = step.refused.clone();
                StepStatus::FailedTerminal
            }
            Action::Executed if failure.is_none() => StepStatus::Succeeded,
            Action::Canceled => StepStatus::Canceled,
            Action::Denied if report.later_ms.is_some() => {
                let own = limits::PUT_OFF_MS.saturating_mul(1 << step.put_off.min(6));
                let wait_ms = own.max(report.later_ms.unwrap_or(0));
                wait_until = Some(now.plus_millis(i64::try_from(wait_ms).unwrap_or(i64::MAX)));
                StepStatus::Ready
            }
            Action::Failed if report.anew && step.put_off == 0 => {
                wait_until = Some(now);
                StepStatus::Ready
            }
            Action::Failed if report.again && step.tries < spec.attempts => {
                wait_until = Some(self.retry_at(spec, step, failure.as_ref(), now));
                StepStatus::Ready
            }
            Action::Failed if failure.as_ref().is_some_and(FailureCode::retryable) => {
                StepStatus::FailedRetryable
            }
            _ => StepStatus::FailedTerminal,
        };
        if to == step.status && !step.in_doubt && cost == MicroUsd::ZERO && failure.is_none() {
            return None;
        }
        let step = spec.id.clone();
        let approved = report.approved && to == StepStatus::Succeeded;
        let output_unknown = report.output_unknown && to == StepStatus::Succeeded;
        Some(Change::StepMoved {
            step,
            iteration,
            action,
            to,
            state: status,
            cost,
            failure,
            wait_until,
            approved,
            output_unknown,
        })
    }

    fn retry_at(
        &self,
        spec: &StepSpec,
        step: &Step,
        failure: Option<&FailureCode>,
        now: Timestamp,
    ) -> Timestamp {
        let category = failure.map_or(Category::Upstream, |failure| failure.category);
        let mut rule = retry::rule(category);
        if spec.backoff_ms > 0 {
            let (base_ms, max_ms) = (spec.backoff_ms, limits::STEP_BACKOFF_MS_MAX);
            rule = retry::Rule { base_ms, max_ms, factor_percent: 200, ..rule };
        }
        let seed = format!("{}/{}/{}", self.id, spec.id, step.iteration);
        let wait_ms = rule.spread_wait_ms(step.tries, &seed);
        now.plus_millis(i64::try_from(wait_ms).unwrap_or(i64::MAX))
    }

    fn refuse(
        &self,
        step: StepId,
        failure: FailureCode,
        output_of: Option<ActionId>,
        now: Timestamp,
    ) -> Result<Vec<Change>, Refusal> {
        let Some(action) = output_of else {
            self.startable_step(&step)?;
            return Ok(self.with(Change::StepRefused { step, failure, output: false }, now));
        };
        let index = self.position(&step).ok_or(Refusal::Absent)?;
        let (_, running) = self.at(index)?;
        if running.action.as_ref() != Some(&action) || running.status != StepStatus::Running {
            return Err(Refusal::Fenced);
        }
        Ok(vec![Change::StepRefused { step, failure, output: true }])
    }

    /// A dead letter goes on from the first step that failed, or from one before it.
    fn replayed(&self, by: PrincipalId, from: Option<StepId>) -> Result<Vec<Change>, Refusal> {
        self.expect(&[Status::FailedRetryable])?;
        let failed = self.steps.iter().position(|step| step.status != StepStatus::Succeeded);
        let failed = failed.ok_or(Refusal::State(self.status.as_str()))?;
        let from = match from {
            None => self.at(failed)?.0.id.clone(),
            Some(from) => match self.position(&from) {
                Some(index) if index <= failed => from,
                Some(_) => {
                    return Err(Refusal::InvalidInput(
                        "a run is replayed from the step that failed, or from one before it",
                    ));
                }
                None => return Err(Refusal::Absent),
            },
        };
        Ok(vec![Change::Replayed { by, from }])
    }
}

/// Makes a run of a release that was looked up at `at`.
fn take(request: Shared<Request>, at: Timestamp, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    check(&request)?;
    if now > at.plus_micros(limits::RELEASE_TAKEN_MICROS) {
        return Err(Refusal::ReleaseStale);
    }
    Ok(vec![Change::Requested(request)])
}
