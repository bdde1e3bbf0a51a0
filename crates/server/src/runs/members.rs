//! What a run is made of: its actions, those of the code that they ran, those that undid any of
//! them, the approvals of all of them, and the receipts that tell of it. Found from the receipts
//! that the states name.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kernel::action::{self, Action};
use kernel::approval::Approval;
use kernel::bundle::run::Told;
use kernel::dsse::Envelope;
use kernel::ids::{ActionId, ApprovalId};
use kernel::machine::{Change, Kind, State};
use kernel::receipt::{LogId, Statement, Transition};
use kernel::run::{self, Run};
use kernel::values::Timestamp;

use crate::error::{Refused, Result};
use crate::sandbox;
use crate::shared::Shared;

/// All of a run, as of a size of its log.
pub(crate) struct Members {
    /// Without those that undo others: they have a life of their own.
    pub(crate) actions: Vec<Action>,
    /// Of these.
    pub(crate) approvals: Vec<Approval>,
    receipts: BTreeMap<u64, (Timestamp, Vec<Transition>)>,
}

impl Members {
    /// What a run is made of by the first `size` receipts.
    pub(crate) fn of(shared: &Shared, log: &LogId, run: &Run, size: u64) -> Result<Self> {
        let (actions, approvals, receipts) = (Vec::new(), Vec::new(), BTreeMap::new());
        let mut members = Self { actions, approvals, receipts };
        members.read(shared, log, &run.receipts, size)?;
        let mut next: VecDeque<ActionId> = members.started(run).into();
        let mut seen = BTreeSet::new();
        while let Some(id) = next.pop_front() {
            if !seen.insert(id.clone()) {
                continue;
            }
            let state = shared.ledger.read(log, Kind::Action, id.as_str())?;
            let Some(State::Action(action)) = state else {
                return Err(Refused::internal("a run without one of its actions"));
            };
            // Asked for since.
            if action.receipts.first().is_none_or(|first| *first >= size) {
                continue;
            }
            members.read(shared, log, &action.receipts, size)?;
            next.extend(sandbox::called(shared, log, &action)?);
            next.extend(members.undone_by(&action));
            if action.request.reverses.is_none() {
                members.actions.push(action);
            }
        }
        for id in members.asked() {
            let state = shared.ledger.read(log, Kind::Approval, id.as_str())?;
            let Some(State::Approval(approval)) = state else {
                return Err(Refused::internal("an action without its approval"));
            };
            members.read(shared, log, &approval.receipts, size)?;
            if members.actions.iter().any(|action| action.id == approval.request.action) {
                members.approvals.push(approval);
            }
        }
        Ok(members)
    }

    /// The receipts that tell of it.
    pub(crate) fn indices(&self) -> Vec<u64> {
        self.receipts.keys().copied().collect()
    }

    /// What they say.
    pub(crate) fn told(&self) -> Vec<Told<'_>> {
        let told = self.receipts.iter().map(|(index, (time, transitions))| Told {
            index: *index,
            time: *time,
            transitions,
        });
        told.collect()
    }

    fn read(&mut self, shared: &Shared, log: &LogId, indices: &[u64], size: u64) -> Result<()> {
        for index in indices.iter().filter(|index| **index < size) {
            if self.receipts.contains_key(index) {
                continue;
            }
            let row = shared.ledger.store().receipts(log, *index, 1)?.pop();
            let row = row.filter(|row| row.index == *index);
            let row = row.ok_or_else(|| Refused::internal("a receipt is missing from the log"))?;
            let payload = Envelope::parse(&row.envelope).map_err(Refused::internal)?.payload;
            let predicate = Statement::parse(&payload).map_err(Refused::internal)?.predicate;
            self.receipts.insert(*index, (predicate.time_us, predicate.transitions));
        }
        Ok(())
    }

    fn changes(&self) -> impl Iterator<Item = &Transition> {
        self.receipts.values().flat_map(|(_, transitions)| transitions)
    }

    /// The actions that the run asked for.
    fn started(&self, run: &Run) -> Vec<ActionId> {
        let of = |transition: &Transition| match &transition.change {
            Change::Run(run::Change::StepStarted { action, .. })
                if *transition.stream.id == *run.id.as_str() =>
            {
                Some(action.clone())
            }
            _ => None,
        };
        self.changes().filter_map(of).collect()
    }

    /// The actions that undid it, or were to.
    fn undone_by(&self, action: &Action) -> Vec<ActionId> {
        let of = |transition: &Transition| match &transition.change {
            Change::Action(action::Change::ReversalBegun { by })
                if *transition.stream.id == *action.id.as_str() =>
            {
                Some(by.clone())
            }
            _ => None,
        };
        self.changes().filter_map(of).collect()
    }

    /// The approvals that its actions asked for.
    fn asked(&self) -> BTreeSet<ApprovalId> {
        let own = |id: &str| self.actions.iter().any(|action| action.id.as_str() == id);
        let of = |transition: &Transition| match &transition.change {
            Change::Action(action::Change::Decided { approval: Some(approval), .. })
                if own(&transition.stream.id) =>
            {
                Some(approval.clone())
            }
            _ => None,
        };
        self.changes().filter_map(of).collect()
    }
}
