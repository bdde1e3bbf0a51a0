//! The growing edge of a log's tree: which hashes above the leaves become complete as it grows.

use kernel::receipt::LogId;
use kernel::tree::Frontier;
use kernel::values::Digest;

use crate::Error;
use crate::store::{Store, TreeHash};

/// Hashes in a full tile.
const WIDTH: u64 = 256;
/// Tile levels above the leaves: 256^8 leaves are more than a log can have.
const LEVELS: u8 = 7;

/// For each tile level, the hashes of the tile that is not full yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Edges {
    size: u64,
    levels: Vec<Frontier>,
}

impl Edges {
    /// The edge of a stored tree of `size` leaves.
    pub(crate) fn load(store: &dyn Store, log: &LogId, size: u64) -> Result<Self, Error> {
        let mut levels = Vec::new();
        let mut items = size;
        let mut level = 0;
        while items > 0 && level <= LEVELS {
            let full = items / WIDTH * WIDTH;
            let count = u32::try_from(items - full).unwrap_or(0);
            let hashes = store.hashes(log, level, full, count)?;
            if u32::try_from(hashes.len()) != Ok(count) {
                return Err(Error::Corrupt(format!("{log:?} lacks hashes of level {level}")));
            }
            let mut frontier = Frontier::default();
            hashes.into_iter().for_each(|hash| frontier.push(hash));
            levels.push(frontier);
            items /= WIDTH;
            level += 1;
        }
        Ok(Self { size, levels })
    }

    /// Appends a leaf and adds to `complete` each hash above it that becomes complete.
    pub(crate) fn push(&mut self, log: &LogId, leaf: Digest, complete: &mut Vec<TreeHash>) {
        let mut hash = leaf;
        let mut index = self.size;
        self.size += 1;
        for level in 0..=LEVELS {
            let at = usize::from(level);
            if self.levels.len() <= at {
                self.levels.push(Frontier::default());
            }
            let Some(tile) = self.levels.get_mut(at) else { return };
            tile.push(hash);
            if tile.size() < WIDTH {
                return;
            }
            hash = tile.root();
            *tile = Frontier::default();
            index /= WIDTH;
            complete.push(TreeHash { log: log.clone(), level: level + 1, index, hash });
        }
    }
}
