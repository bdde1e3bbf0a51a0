//! What the process keeps in memory of the control logs, and how it moves on.

use std::sync::Arc;

use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use ledger::Ledger;

use crate::limits;

/// A fold of the control logs in memory.
pub(crate) trait Follower: Send + Sync {
    /// Takes the states that a commit left behind, and passes over those that are of no concern to
    /// it. Commits are heard of in any order: a state that a newer one has passed is left out.
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]);
}

/// Everything that follows the control logs, in the order in which it is told.
pub(crate) struct Followers(Vec<Arc<dyn Follower>>);

impl Followers {
    /// Has each of them take everything that is stored.
    pub(crate) fn load(
        control: &Ledger,
        followers: Vec<Arc<dyn Follower>>,
    ) -> Result<Self, ledger::Error> {
        let followers = Self(followers);
        followers.refill(control)?;
        Ok(followers)
    }

    /// Has each of them take every stored state, those too whose commit was not heard of.
    pub(crate) fn refill(&self, control: &Ledger) -> Result<(), ledger::Error> {
        for log in control.store().logs()? {
            let mut after: Option<Stream> = None;
            loop {
                let rows = control.store().scan(&log, after.as_ref(), limits::FOLLOW_PAGE)?;
                let Some(last) = rows.last() else { break };
                after = Some(last.stream.clone());
                let mut states = Vec::with_capacity(rows.len());
                for row in rows {
                    let state: State = serde_json::from_str(&row.body)
                        .map_err(|e| ledger::Error::Corrupt(format!("{}: {e}", row.stream)))?;
                    states.push((row.stream, Arc::new(state)));
                }
                self.take(&log, &states);
            }
        }
        Ok(())
    }

    /// Has each of them take the states that a commit left behind.
    pub(crate) fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        for follower in &self.0 {
            follower.take(log, states);
        }
    }
}
