//! The ledger: signed receipts in logs, the states folded from them, content kept beside them,
//! and the proofs that strangers check.

pub mod content;
mod edges;
mod error;
pub mod evidence;
mod folder;
pub mod keys;
pub mod log_keys;
mod migrations;
pub mod postgres;
mod project;
pub mod proofs;
pub mod rebuild;
mod sequencer;
mod sign;
mod sql;
pub mod sqlite;
pub mod store;

use std::collections::HashMap;
use std::sync::Arc;

use kernel::machine::{Command, Kind, State, Stream};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

pub use crate::error::Error;
use crate::keys::KeyProvider;
use crate::sequencer::{Request, Sequencer};
use crate::store::{EntityRow, Page, SideRow, Store};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// With which of its keys a tenant's logs begin, where it is not the first.
pub(crate) type Beginnings = Arc<Mutex<HashMap<String, Digest>>>;

/// Who is told of every commit that made a receipt, log by log in the order of the receipts and
/// before anybody is answered. It holds up the sequencer: it must be quick.
pub type Observer = Arc<dyn Fn(&LogId, &Committed) + Send + Sync>;

/// Commits that may wait for the sequencer. A commit that finds the queue full waits its turn, so
/// the number of requests in flight bounds memory.
const QUEUE: usize = 4096;

/// What is to be committed together: all of it or nothing. One batch touches one log.
#[derive(Debug)]
pub struct Batch {
    /// Which log.
    pub log: LogId,
    /// What is asked of which state machine, in order.
    pub commands: Vec<Command>,
    /// The versions that streams must have; a batch that was made from older ones is refused.
    pub expect: Vec<(Stream, u64)>,
    /// Streams whose ids were made up for this batch: they are not looked for. Should there be one
    /// after all, the commit fails.
    pub fresh: Vec<Stream>,
    /// What is kept beside.
    pub side: Vec<SideRow>,
    /// The W3C trace id of the request.
    pub trace_id: Option<String>,
}

impl Batch {
    /// Commands for the state machines of a log.
    pub fn new(log: LogId, commands: Vec<Command>) -> Self {
        let (expect, fresh, side) = (Vec::new(), Vec::new(), Vec::new());
        Self { log, commands, expect, fresh, side, trace_id: None }
    }

    /// Side rows alone: no receipt comes of it.
    pub fn side(log: LogId, side: Vec<SideRow>) -> Self {
        Self { side, ..Self::new(log, Vec::new()) }
    }
}

/// What a commit made.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The index of the receipt; none where nothing changed.
    pub index: Option<u64>,
    /// The id of the receipt.
    pub receipt_id: Option<String>,
    /// The time of the receipt.
    pub time: Timestamp,
    /// A signed checkpoint that covers it. Empty where nothing changed.
    pub checkpoint: Arc<str>,
    /// The states that it left behind.
    pub states: Vec<(Stream, Arc<State>)>,
}

impl Committed {
    /// The state of `id` after the commit, where the commit was about it.
    pub fn state(&self, kind: Kind, id: &str) -> Option<&State> {
        let found = self.states.iter().find(|(s, _)| s.kind == kind && *s.id == *id);
        found.map(|(_, state)| state.as_ref())
    }
}

/// A handle on the ledger. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    store: Arc<dyn Store>,
    keys: Arc<dyn KeyProvider>,
    beginnings: Beginnings,
    host: Arc<str>,
    epoch: u64,
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("host", &self.host).field("epoch", &self.epoch).finish()
    }
}

impl Ledger {
    /// Takes over as the writer of `store` and starts the sequencer.
    ///
    /// `host` begins every log's origin. It must not change while a log lives.
    pub fn start(
        store: Arc<dyn Store>,
        keys: Arc<dyn KeyProvider>,
        clock: Clock,
        host: &str,
    ) -> Result<Self, Error> {
        let epoch = store.acquire()?;
        Self::start_at(store, keys, clock, host, epoch)
    }

    /// Starts the sequencer of a writer that has taken over under `epoch` already.
    pub fn start_at(
        store: Arc<dyn Store>,
        keys: Arc<dyn KeyProvider>,
        clock: Clock,
        host: &str,
        epoch: u64,
    ) -> Result<Self, Error> {
        Self::start_observed(store, keys, clock, host, epoch, Arc::new(|_, _| ()))
    }

    /// The same, with somebody who is told of every commit.
    pub fn start_observed(
        store: Arc<dyn Store>,
        keys: Arc<dyn KeyProvider>,
        clock: Clock,
        host: &str,
        epoch: u64,
        observer: Observer,
    ) -> Result<Self, Error> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let beginnings = Beginnings::default();
        let seams = sequencer::Seams {
            store: store.clone(),
            keys: keys.clone(),
            beginnings: beginnings.clone(),
            clock,
            observer,
        };
        let sequencer = Sequencer::new(seams, host.to_owned(), epoch);
        std::thread::Builder::new()
            .name("tally-sequencer".to_owned())
            .spawn(move || sequencer.run(queue))
            .map_err(|error| Error::Store(error.to_string()))?;
        Ok(Self { requests, store, keys, beginnings, host: host.into(), epoch })
    }

    /// Commits a batch: returns when it is durable.
    pub async fn commit(&self, batch: Batch) -> Result<Committed, Error> {
        let (answer, committed) = oneshot::channel();
        self.requests.send(Request { batch, answer }).await.map_err(|_| Error::Stopped)?;
        committed.await.map_err(|_| Error::Stopped)?
    }

    /// The store, for reading.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The keys.
    pub fn keys(&self) -> &Arc<dyn KeyProvider> {
        &self.keys
    }

    /// Has the logs of a tenant that have no receipt yet begin with the key `key_id`. Not kept: a
    /// server says it again on each start.
    pub fn begin_logs_with(&self, tenant: &str, key_id: Digest) {
        self.beginnings.lock().insert(tenant.to_owned(), key_id);
    }

    /// What begins every log's origin.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// This writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The state of one thing, as of the last commit.
    pub fn read(&self, log: &LogId, kind: Kind, id: &str) -> Result<Option<State>, Error> {
        let row = self.store.entity(log, &Stream::new(kind, id))?;
        row.map(|row| decode(&row)).transpose()
    }

    /// A page of the states of a kind, the newest first.
    pub fn list(&self, log: &LogId, kind: Kind, page: &Page) -> Result<Vec<State>, Error> {
        self.store.entities(log, kind, page)?.iter().map(decode).collect()
    }
}

pub(crate) fn decode(row: &EntityRow) -> Result<State, Error> {
    serde_json::from_str(&row.body)
        .map_err(|error| Error::Corrupt(format!("state of {}: {error}", row.stream)))
}
