//! The error budget of a canary: how many of the runs that ended last have failed.

use std::collections::BTreeMap;

use super::{Cause, ErrorBudget};
use crate::ids::RunId;
use crate::run::{Run, Status};
use crate::values::Timestamp;

/// The runs of a release that ended last. A run that was withdrawn says nothing and is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    budget: ErrorBudget,
    runs: BTreeMap<(Timestamp, RunId), bool>,
}

impl Window {
    /// No run has ended yet.
    pub fn new(budget: ErrorBudget) -> Self {
        Self { budget, runs: BTreeMap::new() }
    }

    /// Takes a run as it stands. Whether one that counted counts no more (it was replayed): what it
    /// had pushed out is not known here, and has to be counted anew.
    pub fn take(&mut self, run: &Run) -> bool {
        let known = self.runs.keys().find(|(_, id)| *id == run.id).cloned();
        let was_there = known.is_some_and(|key| self.runs.remove(&key).is_some());
        !self.put(run) && was_there
    }

    /// Counts a run as it was stored, unless it was taken since.
    pub fn count(&mut self, run: &Run) {
        if !self.runs.keys().any(|(_, id)| *id == run.id) {
            self.put(run);
        }
    }

    /// Whether it has ended.
    fn put(&mut self, run: &Run) -> bool {
        let Some((at, failed)) = ended(run) else { return false };
        self.runs.insert((at, run.id.clone()), failed);
        let size = usize::try_from(self.budget.window_runs).unwrap_or(usize::MAX);
        while self.runs.len() > size {
            self.runs.pop_first();
        }
        true
    }

    /// Why the release goes out of force, where it does.
    pub fn spent(&self) -> Option<Cause> {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let failures = count(self.runs.values().filter(|failed| **failed).count());
        let runs = count(self.runs.len());
        (failures >= self.budget.failures_max).then_some(Cause::ErrorBudget { runs, failures })
    }
}

/// When a run ended, and whether it failed.
fn ended(run: &Run) -> Option<(Timestamp, bool)> {
    let failed = match run.status {
        Status::Succeeded => false,
        Status::FailedRetryable | Status::FailedTerminal => true,
        _ => return None,
    };
    run.ended_at.map(|at| (at, failed))
}
