//! The projection: how receipts become states, and states become rows. The sequencer and the
//! rebuild go through here, so that what is stored is what the log folds to.

use std::sync::Arc;

use kernel::machine::{self, Applied, Change, State, Stream};
use kernel::receipt::LogId;
use kernel::values::Timestamp;

use crate::Error;
use crate::store::EntityRow;

/// A stream's state and how many changes made it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) state: Option<Arc<State>>,
    /// Whether the store has a row of it, as old as it may be.
    pub(crate) stored: bool,
}

impl Versioned {
    /// The state as a row has it.
    pub(crate) fn of(row: &EntityRow) -> Result<Self, Error> {
        let state = serde_json::from_str(&row.body)
            .map_err(|error| Error::Corrupt(format!("state of {}: {error}", row.stream)))?;
        Ok(Self { version: row.version, state: Some(Arc::new(state)), stored: true })
    }

    /// Folds the changes that the receipt at `index` makes to this stream, in order.
    pub(crate) fn fold<'a>(
        self,
        id: &str,
        changes: impl IntoIterator<Item = &'a Change>,
        index: u64,
        time: Timestamp,
    ) -> Self {
        let mut version = self.version;
        let mut state = self.state.map(Arc::unwrap_or_clone);
        for change in changes {
            version = version.saturating_add(1);
            machine::apply(&mut state, change, &Applied { id, index, time });
        }
        Self { version, state: state.map(Arc::new), stored: self.stored }
    }

    /// The row of this state; none where the stream has none.
    pub(crate) fn row(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        let Some(state) = &self.state else { return Ok(None) };
        let body = serde_json::to_string(state.as_ref())
            .map_err(|error| Error::Corrupt(format!("state of {stream}: {error}")))?;
        Ok(Some(EntityRow {
            log: log.clone(),
            stream: stream.clone(),
            version: self.version,
            status: state.status().to_owned(),
            due_at: state.due(),
            body,
        }))
    }
}
