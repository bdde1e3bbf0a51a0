//! Runs: started, carried out step by step, shown.
//!
//! Every step is an action. The commit that ends one asks for the next too (`ahead`, `join`), so
//! that a plan of N steps takes N + 1 commits; whatever else lets a run go on makes it due, and it
//! is driven from there (`drive`). A crash leaves a run that is due, or one whose action is.

mod admission;
mod ahead;
mod api;
mod compare;
mod divergence;
mod document;
mod drive;
mod dry;
mod history;
mod join;
pub(crate) mod launch;
mod live;
mod members;
mod name;
mod refill;
mod replay;
mod retention;
mod settings;
mod start;
mod trace;
mod view;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use kernel::ids::{RunId, TenantId};
use kernel::machine::State;
use kernel::receipt::LogId;
use kernel::run::{Run, Status};
use ledger::{Clock, Committed};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::waiters::Waiters;
use admission::Admission;
use live::Live;

pub(crate) use api::RunsApi;
pub(crate) use drive::{begin, drive};
pub(crate) use join::keep;
pub(crate) use launch::{Launch, launch};
pub(crate) use members::Members;
pub(crate) use name::workflow_of;
pub(crate) use refill::count;
pub(crate) use retention::dropped;
pub use settings::RunsConfig;

/// The permission to see runs.
const READ: &str = "runs:read";

/// The runs of this server.
pub(crate) struct Runs {
    /// Those that are carried out, with their contents opened.
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    /// Held by who drives a run.
    locks: Mutex<HashMap<RunId, Arc<tokio::sync::Mutex<()>>>>,
    admission: Mutex<Admission>,
    /// Those that can go on.
    due: Mutex<BTreeSet<(LogId, RunId)>>,
    wake: Notify,
    waiters: Waiters<RunId>,
    clock: Clock,
}

impl Runs {
    pub(crate) fn new(config: &RunsConfig, clock: Clock) -> Self {
        Self {
            live: Mutex::default(),
            locks: Mutex::default(),
            admission: Mutex::new(Admission::new(config.clone())),
            due: Mutex::default(),
            wake: Notify::new(),
            waiters: Waiters::default(),
            clock,
        }
    }

    /// Takes notice of what a commit left behind. Called by the writer: it only makes notes.
    pub(crate) fn seen(&self, log: &LogId, committed: &Committed) {
        for (_, state) in &committed.states {
            if let State::Run(run) = state.as_ref() {
                self.saw(log, run, (state, &committed.checkpoint));
            }
        }
    }

    fn saw(&self, log: &LogId, run: &Run, (state, checkpoint): (&Arc<State>, &Arc<str>)) {
        {
            let mut live = self.live.lock();
            if run.status == Status::Running {
                if let Some(live) = live.get(&run.id) {
                    live.moved(state, checkpoint);
                }
            } else if let Some(live) = live.remove(&run.id) {
                match run.status.has_ended() {
                    // Who waits for its end has it.
                    true => live.moved(state, checkpoint),
                    false => live.leave(),
                }
            }
        }
        let now = (self.clock)();
        let due = run.due().is_some_and(|at| at <= now);
        let admits = self.admission.lock().track(log, run, due);
        if due {
            self.due.lock().insert((log.clone(), run.id.clone()));
        }
        if due || admits {
            self.wake.notify_one();
        }
        self.waiters.wake(&run.id);
    }

    /// How many runs of a tenant may go on at once, and how many do.
    pub(crate) fn places(&self, tenant: &TenantId) -> (usize, usize) {
        self.admission.lock().places(tenant)
    }

    /// The lock of one run. It is forgotten once nobody holds or wants it.
    fn lock(&self, id: &RunId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock();
        if locks.len() > crate::limits::RUN_LOCKS_SWEPT {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        locks.entry(id.clone()).or_default().clone()
    }
}
