//! Proofs about a log, made from stored hashes: that a receipt is in it, that it has only grown.

use kernel::note::{Checkpoint, Note};
use kernel::proof::TlogProof;
use kernel::receipt::LogId;
use kernel::tile::{self, Tile};
use kernel::tree::{self, HashReader, ReadError};
use kernel::values::Digest;

use crate::store::{Head, Store};
use crate::{Error, Ledger};

/// The stored hashes of a log's first `size` leaves.
#[derive(Clone, Copy)]
pub struct StoreHashes<'a> {
    /// Where they are stored.
    pub store: &'a dyn Store,
    /// Of which log.
    pub log: &'a LogId,
    /// How many leaves. What lies beyond is not read.
    pub size: u64,
}

impl std::fmt::Debug for StoreHashes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { log, size, .. } = self;
        f.debug_struct("StoreHashes").field("log", log).field("size", size).finish_non_exhaustive()
    }
}

impl HashReader for StoreHashes<'_> {
    type Error = Error;

    fn hashes(&self, level: u8, first: u64, count: usize) -> Result<Vec<Digest>, Error> {
        let available = self.size.checked_shr(8 * u32::from(level)).unwrap_or(0);
        let count = u64::try_from(count).unwrap_or(u64::MAX);
        let end = first.checked_add(count).filter(|end| *end <= available);
        let (Some(_), Ok(limit)) = (end, u32::try_from(count)) else {
            return Err(Error::Invalid(format!("a log of {} has no such hashes", self.size)));
        };
        self.store.hashes(self.log, level, first, limit)
    }
}

impl From<ReadError<Error>> for Error {
    fn from(error: ReadError<Error>) -> Self {
        match error {
            ReadError::Tree(error) => Self::Invalid(error.to_string()),
            ReadError::Reader(error) => error,
            ReadError::Missing { .. } => Self::Corrupt(error.to_string()),
        }
    }
}

/// The log's signed checkpoint: none before its first receipt.
pub fn checkpoint(ledger: &Ledger, log: &LogId) -> Result<Option<String>, Error> {
    Ok(ledger.store().head(log)?.map(|head| head.checkpoint))
}

/// The hashes that lead from receipt `index` to the root of the first `size` receipts, the leaf's
/// sibling first. [`Error::Absent`] where the log has not so many, [`Error::Invalid`] where the
/// index is not among them.
pub fn inclusion(
    ledger: &Ledger,
    log: &LogId,
    index: u64,
    size: u64,
) -> Result<Vec<Digest>, Error> {
    Ok(tree::inclusion_proof(index, size, &hashes(ledger, log, size)?)?)
}

/// The hashes that show the first `old` receipts to be a prefix of the first `new` ones.
/// [`Error::Absent`] where the log has not so many, [`Error::Invalid`] where `old` is the larger.
pub fn consistency(ledger: &Ledger, log: &LogId, old: u64, new: u64) -> Result<Vec<Digest>, Error> {
    Ok(tree::consistency_proof(old, new, &hashes(ledger, log, new)?)?)
}

/// The bytes of a file of the tiled log, partial or full. [`Error::Absent`] where the log has not
/// grown so far.
pub fn tile(ledger: &Ledger, log: &LogId, tile: &Tile) -> Result<Vec<u8>, Error> {
    let size = known(ledger.store().as_ref(), log)?.frontier.size();
    tile_of(ledger.store().as_ref(), log, size, tile)
}

/// The proof, complete in itself, that receipt `index` is under the log's current checkpoint.
/// [`Error::Absent`] where there is no such receipt.
pub fn tlog_proof(ledger: &Ledger, log: &LogId, index: u64) -> Result<TlogProof, Error> {
    let store = ledger.store().as_ref();
    let head = known(store, log)?;
    if index >= head.frontier.size() {
        return Err(Error::Absent(format!("receipt {}", log.receipt_id(index))));
    }
    proof_under(store, log, index, &head)
}

/// The proof that receipt `index` is under the checkpoint of `head`.
pub(crate) fn proof_under(
    store: &dyn Store,
    log: &LogId,
    index: u64,
    head: &Head,
) -> Result<TlogProof, Error> {
    let size = head.frontier.size();
    let hashes = tree::inclusion_proof(index, size, &StoreHashes { store, log, size })?;
    let checkpoint = Note::parse(head.checkpoint.as_bytes())
        .map_err(|error| Error::Corrupt(format!("checkpoint of {log:?}: {error}")))?;
    Ok(TlogProof { extra: Vec::new(), index, hashes, checkpoint })
}

/// The bytes of a tile of the first `size` receipts.
pub(crate) fn tile_of(
    store: &dyn Store,
    log: &LogId,
    size: u64,
    tile: &Tile,
) -> Result<Vec<u8>, Error> {
    let width = usize::from(tile.width());
    let first = tile.index().checked_mul(tile::TILE_WIDTH.into());
    let widest = first.and_then(|first| Tile::holding(tile.kind(), first, size));
    let (Some(first), Some(_)) = (first, widest.filter(|most| tile.width() <= most.width())) else {
        return Err(Error::Absent(tile.to_string()));
    };
    let lacking = || Error::Corrupt(format!("{tile} of {log:?} lacks stored rows"));
    match tile.kind() {
        tile::Kind::Hashes(level) => {
            let hashes = store.hashes(log, level, first, tile.width().into())?;
            if hashes.len() == width { Ok(tile::encode_hashes(&hashes)) } else { Err(lacking()) }
        }
        tile::Kind::Entries => {
            let rows = store.receipts(log, first, tile.width().into())?;
            if rows.len() != width {
                return Err(lacking());
            }
            tile::encode_entries(rows.iter().map(|row| row.envelope.as_slice()))
                .map_err(|error| Error::Corrupt(error.to_string()))
        }
    }
}

pub(crate) fn known(store: &dyn Store, log: &LogId) -> Result<Head, Error> {
    store.head(log)?.ok_or_else(|| Error::Absent(format!("log {}/{}", log.tenant(), log.name())))
}

/// The end that the log had under `note`, a checkpoint of it. [`Error::Invalid`] where the log
/// never had this tree.
pub(crate) fn head_under(store: &dyn Store, log: &LogId, note: &Note) -> Result<Head, Error> {
    let invalid = |reason: &dyn std::fmt::Display| {
        Error::Invalid(format!("this is no checkpoint of the log: {reason}"))
    };
    let checkpoint = Checkpoint::parse(note.text()).map_err(|error| invalid(&error))?;
    let head = known(store, log)?;
    let size = checkpoint.size;
    if size > head.frontier.size() {
        return Err(invalid(&"it is of a larger tree"));
    }
    let frontier = tree::frontier(size, &StoreHashes { store, log, size })?;
    if frontier.root() != checkpoint.root {
        return Err(invalid(&"it has another root"));
    }
    Ok(Head { frontier, checkpoint: note.to_string(), ..head })
}

/// The hashes of the first `size` receipts, where the log has so many.
fn hashes<'a>(ledger: &'a Ledger, log: &'a LogId, size: u64) -> Result<StoreHashes<'a>, Error> {
    let store = ledger.store().as_ref();
    let has = known(store, log)?.frontier.size();
    if size > has {
        return Err(Error::Absent(format!("tree of {size} receipts yet: the log has {has}")));
    }
    Ok(StoreHashes { store, log, size })
}
