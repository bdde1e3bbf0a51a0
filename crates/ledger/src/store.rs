//! The seam to storage. One writer commits; everything else reads.
//!
//! Three classes of tables: the log (`receipt`, `tree_hash`, `ledger_head`), one projection
//! (`entity`: the state of every stream, which can be dropped and rebuilt), and side tables
//! (`content`, `content_key`, `blob`), which never decide safety.

use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::tree::Frontier;
use kernel::values::{Digest, Timestamp};

use crate::Error;

/// The end of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The digest of the last payload.
    pub prev: Digest,
    /// The time of the last receipt.
    pub time: Timestamp,
    /// The tree.
    pub frontier: Frontier,
    /// The signed checkpoint of that tree.
    pub checkpoint: String,
}

/// A log moves on.
#[derive(Clone, Debug)]
pub struct HeadUpdate {
    /// Which log.
    pub log: LogId,
    /// How many receipts it must have for the update to hold.
    pub old_size: u64,
    /// Its new end.
    pub head: Head,
}

/// A log entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// Of which log.
    pub log: LogId,
    /// From 0.
    pub index: u64,
    /// The bytes of the DSSE envelope: the leaf.
    pub envelope: Vec<u8>,
    /// The RFC 6962 hash of the leaf.
    pub leaf: Digest,
}

/// A hash of the tree above the leaves: at tile level `level`, the root of 256^level leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeHash {
    /// Of which log.
    pub log: LogId,
    /// 1 to 7.
    pub level: u8,
    /// Its place in the level.
    pub index: u64,
    /// The hash.
    pub hash: Digest,
}

/// The state of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityRow {
    /// In which log.
    pub log: LogId,
    /// Which thing.
    pub stream: Stream,
    /// How many changes it has seen.
    pub version: u64,
    /// Where it stands.
    pub status: String,
    /// When somebody must look at it.
    pub due_at: Option<Timestamp>,
    /// The state as JSON.
    pub body: String,
}

/// What content is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// Parameters and action documents: until the action ends, at most 31 days.
    Request,
    /// Results: the idempotency window.
    Result,
    /// What attestations disclose: as long as they are relied on.
    Attestation,
    /// What was there before a write that can be undone: longer than its result.
    Prior,
    /// Names and reasons: as long as the tenant.
    Record,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Request, Self::Result, Self::Attestation, Self::Prior, Self::Record];

    /// The name in rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Result => "result",
            Self::Attestation => "attestation",
            Self::Prior => "prior",
            Self::Record => "record",
        }
    }
}

/// Something kept beside the log.
#[derive(Clone, Debug)]
pub enum SideRow {
    /// Keep sealed content, replacing what has the same tenant, id and part.
    Content(ContentRow),
    /// Forget content.
    DropContent {
        /// Whose.
        tenant: String,
        /// Of what.
        id: String,
        /// Which part of it.
        part: &'static str,
    },
    /// Keep a wrapped content key.
    ContentKey(ContentKeyRow),
    /// Keep bytes under their digest.
    Blob {
        /// Whose.
        tenant: String,
        /// Of the bytes.
        digest: Digest,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

/// Sealed content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentRow {
    /// Whose.
    pub tenant: String,
    /// Of what.
    pub id: String,
    /// Which part of it.
    pub part: &'static str,
    /// Which class.
    pub class: Class,
    /// The day whose key seals it.
    pub day: i64,
    /// Nonce and ciphertext.
    pub sealed: Vec<u8>,
}

/// The wrapped key of one tenant, class and day. Destroying it deletes that day's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContentKeyRow {
    /// Whose.
    pub tenant: String,
    /// Which class.
    pub class: Class,
    /// Which day.
    pub day: i64,
    /// The key, wrapped by the tenant's key.
    pub wrapped: Vec<u8>,
}

/// One physical commit: of all logs that moved on, or of side rows alone.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    /// The writer's epoch: the fence.
    pub epoch: u64,
    /// The logs that move on.
    pub heads: Vec<HeadUpdate>,
    /// Their new entries.
    pub receipts: Vec<ReceiptRow>,
    /// New hashes of their trees.
    pub hashes: Vec<TreeHash>,
    /// The states of streams that are new: one that is there already fails the commit.
    pub created: Vec<EntityRow>,
    /// The states that changed.
    pub entities: Vec<EntityRow>,
    /// What is kept beside.
    pub side: Vec<SideRow>,
}

/// What no engine keeps: PostgreSQL has no text with a NUL in it.
pub(crate) fn check_text(text: &str) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(Error::Invalid("an id or a text has a NUL character in it".to_owned()));
    }
    Ok(())
}

impl SideRow {
    /// Refuses texts that an engine cannot keep.
    pub(crate) fn check_texts(&self) -> Result<(), Error> {
        match self {
            Self::Content(ContentRow { tenant, id, .. }) | Self::DropContent { tenant, id, .. } => {
                check_text(tenant).and_then(|()| check_text(id))
            }
            Self::ContentKey(ContentKeyRow { tenant, .. }) | Self::Blob { tenant, .. } => {
                check_text(tenant)
            }
        }
    }
}

impl Commit {
    /// Refuses texts that an engine cannot keep.
    pub(crate) fn check_texts(&self) -> Result<(), Error> {
        self.side.iter().try_for_each(SideRow::check_texts)?;
        for row in self.created.iter().chain(&self.entities) {
            check_text(&row.stream.id)?;
            check_text(&row.body)?;
        }
        Ok(())
    }
}

/// Which part of a list is wanted: ids descending (the newest first) below `before`.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Only ids below this one, byte by byte; without it, from the highest there is.
    pub before: Option<String>,
    /// Only this status.
    pub status: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Where logs and states are kept. Each call is one transaction. Calls block: they take as long
/// as the disk or the database does.
pub trait Store: Send + Sync + 'static {
    /// Takes over as the one writer and returns its epoch, larger than every earlier one.
    fn acquire(&self) -> Result<u64, Error>;

    /// Makes a commit durable, whole or not at all. [`Error::Fenced`] where the epoch is not the
    /// writer's or a head is not where it should be.
    fn commit(&self, commit: &Commit) -> Result<(), Error>;

    /// Whether a commit would be taken, as far as can be told without one.
    fn writable(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Every log that has a receipt.
    fn logs(&self) -> Result<Vec<LogId>, Error>;

    /// The end of a log.
    fn head(&self, log: &LogId) -> Result<Option<Head>, Error>;

    /// The state of a stream.
    fn entity(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error>;

    /// The same, as the writer has it: for the sequencer, which has just written. An engine whose
    /// readers lose their cache at every commit reads on the writer's connection.
    fn latest(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        self.entity(log, stream)
    }

    /// A page of the states of a kind.
    fn entities(&self, log: &LogId, kind: Kind, page: &Page) -> Result<Vec<EntityRow>, Error>;

    /// The states of all logs that are due at `now`, the longest due first.
    fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<(LogId, Stream)>, Error>;

    /// When the next state is due.
    fn next_due(&self) -> Result<Option<Timestamp>, Error>;

    /// The entries `from` to `from + limit` of a log.
    fn receipts(&self, log: &LogId, from: u64, limit: u32) -> Result<Vec<ReceiptRow>, Error>;

    /// The `count` hashes from `first` on at a tile level: leaf hashes at level 0.
    fn hashes(&self, log: &LogId, level: u8, first: u64, count: u32) -> Result<Vec<Digest>, Error>;

    /// Sealed content.
    fn content(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
    ) -> Result<Option<ContentRow>, Error>;

    /// A wrapped content key.
    fn content_key(&self, tenant: &str, class: Class, day: i64) -> Result<Option<Vec<u8>>, Error>;

    /// Destroys every key of a class from before `day`, and what it sealed.
    fn destroy_content(&self, class: Class, day: i64) -> Result<u64, Error>;

    /// Bytes by their digest.
    fn blob(&self, tenant: &str, digest: Digest) -> Result<Option<Vec<u8>>, Error>;

    /// Every state of a log, in order of kind and id, above `after`.
    fn scan(
        &self,
        log: &LogId,
        after: Option<&Stream>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, Error>;

    /// Drops every state of a log and stores `rows` in their place.
    fn replace_entities(
        &self,
        log: &LogId,
        rows: &mut dyn Iterator<Item = EntityRow>,
    ) -> Result<(), Error>;
}
