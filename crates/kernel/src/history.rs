//! Whether a log kept its word: that a checkpoint continues an older one that somebody held, and
//! that enough witnesses vouch for it.

use crate::bundle::{self, Files};
use crate::cosignature::{CosignerKey, count_cosigners};
use crate::note::{Checkpoint, Note, VerifierKey};
use crate::tile::{self, Kind, Tile};
use crate::tree::{self, HashReader};
use crate::values::Digest;
use crate::verify::{self, SignatureVerifier, verify_checkpoint};

/// Why a checkpoint does not continue an older one, or is not vouched for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One of the checkpoints is malformed or not signed by the log.
    #[error("{which} checkpoint: {error}")]
    Checkpoint {
        /// `the older` or `the newer`.
        which: &'static str,
        /// What is wrong.
        error: verify::Error,
    },
    /// The newer tree is the smaller one.
    #[error(
        "the log had {old} receipts under the older checkpoint and has {new} here: its tail was \
         cut off, or this was made before that checkpoint"
    )]
    Truncated {
        /// Under the older checkpoint.
        old: u64,
        /// Under this one.
        new: u64,
    },
    /// The older tree is no prefix of the newer one.
    #[error(
        "the first {old} receipts are not shown to be those of the older checkpoint: the log was \
         rewritten or forked; keep both checkpoints, which the log's key signed"
    )]
    Forked {
        /// How many receipts the older tree has.
        old: u64,
    },
    /// There is nothing to prove it with.
    #[error("nothing here shows how the log grew from {old} to {new} receipts: {reason}")]
    Unproven {
        /// Under the older checkpoint.
        old: u64,
        /// Under this one.
        new: u64,
        /// What is missing.
        reason: String,
    },
    /// Too few witnesses cosigned.
    #[error("{have} of the given witnesses cosigned the checkpoint, {need} are demanded")]
    Witnesses {
        /// How many did.
        have: usize,
        /// How many are demanded.
        need: usize,
    },
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Checkpoint { error, .. } => error.code(),
            Self::Truncated { .. } => "history_truncated",
            Self::Forked { .. } => "history_forked",
            Self::Unproven { .. } => "history_unproven",
            Self::Witnesses { .. } => "history_witnesses",
        }
    }
}

/// What is demanded of a checkpoint besides the log's signature.
#[derive(Clone, Debug, Default)]
pub struct Demands {
    /// An older checkpoint of the same log, as somebody held it.
    pub since: Option<Vec<u8>>,
    /// The witnesses that count.
    pub witnesses: Vec<CosignerKey>,
    /// How many of them must have cosigned.
    pub quorum: usize,
}

impl Demands {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        self.since.is_none() && self.quorum == 0
    }
}

/// The checkpoint that the log named by `key` signed.
fn read(
    which: &'static str,
    bytes: &[u8],
    key: &VerifierKey,
    verifier: &dyn SignatureVerifier,
) -> Result<(Note, Checkpoint), Error> {
    let note = Note::parse(bytes).map_err(verify::Error::from);
    let checked = note.and_then(|note| {
        let checkpoint = verify_checkpoint(&note, key, verifier)?;
        Ok((note, checkpoint))
    });
    checked.map_err(|error| Error::Checkpoint { which, error })
}

/// Checks the checkpoint `newer` of the log named by `key` against the demands. `prove` gives the
/// hashes of the consistency proof from the first size to the second, or says why it cannot; it is
/// asked only where the sizes need a proof.
pub fn verify_demands(
    newer: &[u8],
    key: &VerifierKey,
    demands: &Demands,
    verifier: &dyn SignatureVerifier,
    prove: impl FnOnce(u64, u64) -> Result<Vec<Digest>, String>,
) -> Result<Checkpoint, Error> {
    let (note, new) = read("the newer", newer, key, verifier)?;
    let have = count_cosigners(&note, &demands.witnesses, verifier)
        .map_err(|error| Error::Checkpoint { which: "the newer", error })?;
    if let Some(since) = &demands.since {
        let (_, old) = read("the older", since, key, verifier)?;
        verify_growth(&old, &new, prove)?;
    }
    if have < demands.quorum {
        return Err(Error::Witnesses { have, need: demands.quorum });
    }
    Ok(new)
}

/// Checks that the tree of `old` is a prefix of that of `new`, both verified and of one log.
fn verify_growth(
    old: &Checkpoint,
    new: &Checkpoint,
    prove: impl FnOnce(u64, u64) -> Result<Vec<Digest>, String>,
) -> Result<(), Error> {
    if old.size > new.size {
        return Err(Error::Truncated { old: old.size, new: new.size });
    }
    let unproven = |reason| Error::Unproven { old: old.size, new: new.size, reason };
    let proof = match old.size {
        0 => Vec::new(),
        size if size == new.size => Vec::new(),
        size => prove(size, new.size).map_err(unproven)?,
    };
    match tree::verify_consistency(old.size, new.size, &old.root, &new.root, &proof) {
        Ok(()) => Ok(()),
        Err(tree::Error::Root) => Err(Error::Forked { old: old.size }),
        Err(error) => Err(unproven(error.to_string())),
    }
}

/// The hash tiles of a log as files, by their paths below `prefix`.
#[derive(Clone, Copy, Debug)]
pub struct TileFiles<'a> {
    /// The files.
    pub files: &'a Files<'a>,
    /// What stands before `tile/…` in their paths.
    pub prefix: &'a str,
    /// How many leaves the log has.
    pub size: u64,
}

impl HashReader for TileFiles<'_> {
    type Error = String;

    fn hashes(&self, level: u8, first: u64, count: usize) -> Result<Vec<Digest>, String> {
        let beyond = || format!("a log of {} has no such hashes", self.size);
        let tile = Tile::holding(Kind::Hashes(level), first, self.size).ok_or_else(beyond)?;
        let path = format!("{}{tile}", self.prefix);
        let content = self.files.get(path.as_str()).ok_or_else(|| format!("{path} is missing"))?;
        let hashes = tile::decode_hashes(content, tile.width())
            .map_err(|error| format!("{path}: {error}"))?;
        let skipped = usize::try_from(first % u64::from(tile::TILE_WIDTH)).unwrap_or(usize::MAX);
        Ok(hashes.into_iter().skip(skipped).take(count).collect())
    }
}

/// Checks the demands on an evidence bundle, given as its files: the growth of its log is proven
/// by its hash tiles. The bundle itself is checked elsewhere.
pub fn verify_bundle_demands(
    files: &Files<'_>,
    key: &VerifierKey,
    demands: &Demands,
    verifier: &dyn SignatureVerifier,
) -> Result<Checkpoint, Error> {
    let newer = files.get(bundle::CHECKPOINT).copied().unwrap_or_default();
    let prove = |old, new| {
        let tiles = TileFiles { files, prefix: bundle::LOG, size: new };
        tree::consistency_proof(old, new, &tiles).map_err(|error| error.to_string())
    };
    verify_demands(newer, key, demands, verifier, prove)
}
