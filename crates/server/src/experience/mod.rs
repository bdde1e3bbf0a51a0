//! What earlier attempts came to, workspace by workspace: folded from each commit as it is made,
//! kept beside the log now and then, and read back from there and the receipts since.
//!
//! A copy that is kept names the receipt that it reaches to, so a start reads only what came
//! later. Losing it loses nothing: without one, the whole log is read.

mod keep;

use std::collections::HashMap;
use std::sync::Arc;

use kernel::dsse::Envelope;
use kernel::experience::Experience;
use kernel::ids::ActionId;
use kernel::machine::{Kind, State};
use kernel::receipt::{LogId, Statement};
use ledger::{Committed, Ledger};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::error::{Refused, Result};
use crate::limits;

pub(crate) use keep::{load, serve};

/// What is known of one workspace.
#[derive(Default)]
struct Book {
    experience: Experience,
    /// How many receipts the copy that is kept follows from.
    kept: u64,
    /// Whether receipts were passed over: they are read back before anything is said.
    behind: bool,
}

/// What is known of all workspaces.
#[derive(Default)]
pub(crate) struct Experiences {
    books: RwLock<HashMap<LogId, Arc<Mutex<Book>>>>,
    /// Wakes who keeps copies.
    wake: Notify,
}

impl Experiences {
    fn book(&self, log: &LogId) -> Arc<Mutex<Book>> {
        if let Some(book) = self.books.read().get(log) {
            return book.clone();
        }
        self.books.write().entry(log.clone()).or_default().clone()
    }

    fn books(&self) -> Vec<(LogId, Arc<Mutex<Book>>)> {
        self.books.read().iter().map(|(log, book)| (log.clone(), book.clone())).collect()
    }

    /// Takes a commit. The sequencer calls this, so commits come in the order of their receipts.
    pub(crate) fn observe(&self, log: &LogId, committed: &Committed) {
        let (LogId::Workspace(..), Some(index)) = (log, committed.index) else { return };
        let book = self.book(log);
        let mut book = book.lock();
        match index.cmp(&book.experience.next) {
            std::cmp::Ordering::Less => return,
            std::cmp::Ordering::Greater => {
                book.behind = true;
                return;
            }
            std::cmp::Ordering::Equal => {}
        }
        let actions = committed.states.iter().filter_map(|(_, state)| match state.as_ref() {
            State::Action(action) => Some(action),
            _ => None,
        });
        book.experience.take(index, committed.time, actions);
        let unkept = book.experience.next.saturating_sub(book.kept);
        if unkept == limits::EXPERIENCE_KEEP_RECEIPTS {
            self.wake.notify_one();
        }
    }

    /// Reads what is known of a workspace as of its last commit.
    pub(crate) fn read<T>(
        &self,
        ledger: &Ledger,
        log: &LogId,
        see: impl FnOnce(&Experience) -> T,
    ) -> Result<T> {
        let book = self.book(log);
        let mut book = book.lock();
        if book.behind {
            catch_up(ledger, log, &mut book.experience)?;
            book.behind = false;
        }
        Ok(see(&book.experience))
    }
}

/// Folds the receipts that it does not know yet.
fn catch_up(ledger: &Ledger, log: &LogId, experience: &mut Experience) -> Result<()> {
    loop {
        let rows = ledger.store().receipts(log, experience.next, limits::EXPERIENCE_PAGE)?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            let envelope = Envelope::parse(&row.envelope).map_err(Refused::internal)?;
            let statement: Statement =
                serde_json::from_slice(&envelope.payload).map_err(Refused::internal)?;
            if statement.predicate.log.index != experience.next {
                return Err(Refused::internal("a receipt is missing from the log"));
            }
            let find = |id: &ActionId| match ledger.read(log, Kind::Action, id.as_str())? {
                Some(State::Action(action)) => Ok(action.request),
                _ => {
                    Err(Refused::internal(format!("the log has an attempt of {id}, and no action")))
                }
            };
            experience.replay(&statement, find)?;
        }
    }
}
