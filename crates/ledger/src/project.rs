//! The projection: how receipts become states, and states become rows. The sequencer and the
//! rebuild go through here, so that what is stored is what the log folds to.

use std::sync::Arc;

use kernel::machine::{self, Applied, Change, Kind, State, Stream};
use kernel::meter::{self, Meter};
use kernel::receipt::LogId;
use kernel::values::Timestamp;

use crate::Error;
use crate::store::EntityRow;

/// Where a meter is kept.
pub(crate) fn meter_stream(meter: &Meter) -> Stream {
    Stream::new(Kind::Meter, meter.key.id())
}

/// A stream's state and how many changes made it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Versioned {
    pub(crate) version: u64,
    pub(crate) state: Option<Arc<State>>,
    /// Whether the store has a row of it, as old as it may be.
    pub(crate) stored: bool,
    /// Whether it has changed since it was read or stored.
    pub(crate) changed: bool,
}

impl Versioned {
    /// The state as a row has it.
    pub(crate) fn of(row: &EntityRow) -> Result<Self, Error> {
        let state = serde_json::from_str(&row.body)
            .map_err(|error| Error::Corrupt(format!("state of {}: {error}", row.stream)))?;
        let state = Some(Arc::new(state));
        Ok(Self { version: row.version, state, stored: true, changed: false })
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
        let changed = self.changed || version > self.version;
        Self { version, state: state.map(Arc::new), stored: self.stored, changed }
    }

    /// What the change that comes next adds to a meter.
    pub(crate) fn metered(&self, change: &Change, time: Timestamp) -> Option<Meter> {
        let Change::Action(change) = change else { return None };
        match self.state.as_deref() {
            None => meter::of(None, change, time),
            Some(State::Action(action)) => meter::of(Some(action), change, time),
            Some(_) => None,
        }
    }

    /// Adds to the sums of a meter.
    pub(crate) fn add(self, meter: Meter) -> Self {
        let Meter { key, sums } = meter;
        let sums = match self.state.as_deref() {
            Some(State::Meter(known)) => known.sums.plus(&sums),
            _ => sums,
        };
        let state = Some(Arc::new(State::Meter(Meter { key, sums })));
        let version = self.version.saturating_add(1);
        Self { version, state, stored: self.stored, changed: true }
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
