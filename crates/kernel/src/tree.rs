//! The Merkle tree of RFC 6962 over SHA-256: growing it, proving it, checking it.
//!
//! A tree of n leaves is never held whole. [`Frontier`] grows it with one hash per set bit of n;
//! proofs read stored hashes through [`HashReader`], which asks for what tlog-tiles store.

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::values::Digest;

/// Why there is no proof, or why a proof proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The leaf lies beyond the tree.
    #[error("leaf {index} lies beyond a tree of {size}: take an index below its size")]
    Index {
        /// Asked for.
        index: u64,
        /// The tree's size.
        size: u64,
    },
    /// The older tree is the larger one.
    #[error("a tree of {old} is no prefix of a tree of {new}: swap the sizes")]
    Sizes {
        /// The older tree's size.
        old: u64,
        /// The newer tree's size.
        new: u64,
    },
    /// The proof has too many or too few hashes for the sizes it is about.
    #[error("the proof has a wrong number of hashes: it is of another tree or cut off")]
    ProofLength,
    /// The proof leads to another root.
    #[error("the proof leads to another root: the leaf, the proof or the root was changed")]
    Root,
    /// A frontier whose peaks do not fit its size.
    #[error("a tree of {size} has {need} peaks: the frontier was changed")]
    Frontier {
        /// The tree's size.
        size: u64,
        /// The peaks such a tree has.
        need: u32,
    },
}

impl Error {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Index { .. } => "tree_index",
            Self::Sizes { .. } => "tree_sizes",
            Self::ProofLength => "tree_proof_length",
            Self::Root => "tree_root",
            Self::Frontier { .. } => "tree_frontier",
        }
    }
}

/// Why a proof could not be made from stored hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError<E> {
    /// There is no such proof.
    #[error(transparent)]
    Tree(#[from] Error),
    /// The reader failed.
    #[error("stored hashes could not be read: {0}")]
    Reader(E),
    /// The reader gave another number of hashes than asked for.
    #[error("level {level} of the tiles lacks {count} hashes from {first}: rebuild the tiles")]
    Missing {
        /// The tile level.
        level: u8,
        /// The first hash asked for.
        first: u64,
        /// How many.
        count: usize,
    },
}

/// Largest tree: sizes and indexes stay exact in every JSON reader.
pub const SIZE_MAX: u64 = 1 << 53;

/// The hash of a leaf: SHA-256(0x00 ‖ entry).
pub fn leaf_hash(entry: &[u8]) -> Digest {
    Digest(sha2::Sha256::new().chain_update([0]).chain_update(entry).finalize().into())
}

/// The hash of an inner node: SHA-256(0x01 ‖ left ‖ right).
pub fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let hash = sha2::Sha256::new().chain_update([1]).chain_update(left.0).chain_update(right.0);
    Digest(hash.finalize().into())
}

/// The root of the empty tree: SHA-256 of nothing.
pub fn empty_root() -> Digest {
    Digest::of(b"")
}

/// The root over a power of two of hashes; `None` for any other number.
pub fn subtree_root(hashes: &[Digest]) -> Option<Digest> {
    if !hashes.len().is_power_of_two() {
        return None;
    }
    let mut row = hashes.to_vec();
    while row.len() > 1 {
        row = row.as_chunks().0.iter().map(|[left, right]| node_hash(left, right)).collect();
    }
    row.first().copied()
}

/// A tree that can grow: its size and the roots of its full subtrees, largest (leftmost) first.
/// In JSON `{"size": n, "peaks": [hex, …]}`; one whose peaks do not fit its size is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Stored")]
pub struct Frontier {
    size: u64,
    peaks: Vec<Digest>,
}

/// A frontier as stored, not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    size: u64,
    peaks: Vec<Digest>,
}

impl TryFrom<Stored> for Frontier {
    type Error = Error;

    fn try_from(stored: Stored) -> Result<Self, Error> {
        Self::from_parts(stored.size, stored.peaks)
    }
}

impl Frontier {
    /// A tree of `size` with the roots of its full subtrees, largest first: one per set bit.
    pub fn from_parts(size: u64, peaks: Vec<Digest>) -> Result<Self, Error> {
        if size > SIZE_MAX || usize::try_from(size.count_ones()) != Ok(peaks.len()) {
            return Err(Error::Frontier { size, need: size.count_ones() });
        }
        Ok(Self { size, peaks })
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The roots of the full subtrees, largest first.
    pub fn peaks(&self) -> &[Digest] {
        &self.peaks
    }

    /// Appends a leaf by its hash. Starting at or below [`SIZE_MAX`], no number of calls that
    /// hardware can make overflows the size.
    pub fn push(&mut self, leaf: Digest) {
        let mut root = leaf;
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                root = node_hash(&left, &root);
            }
        }
        self.peaks.push(root);
        self.size += 1;
    }

    /// The tree's root.
    pub fn root(&self) -> Digest {
        join(&self.peaks)
    }
}

/// The root over neighbouring full subtrees, each smaller than the one before.
fn join(peaks: &[Digest]) -> Digest {
    let joined = peaks.iter().rev().copied().reduce(|right, left| node_hash(&left, &right));
    joined.unwrap_or_else(empty_root)
}

/// Reads the hashes that tlog-tiles store: at tile level `l`, hash `i` is the root of the leaves
/// `i × 256^l` to `(i + 1) × 256^l`. Level 0 holds leaf hashes.
pub trait HashReader {
    /// What may go wrong.
    type Error;

    /// The `count` hashes from `first` on at tile `level` (0 to 7). `count` is a power of two up
    /// to 128 that divides `first`, so they always lie in one tile. Only hashes of full subtrees
    /// within the tree that is proven are asked for.
    fn hashes(&self, level: u8, first: u64, count: usize) -> Result<Vec<Digest>, Self::Error>;
}

/// Leaf hashes held in memory, for small trees: a hash above level 0 costs as much as the leaves
/// below it.
impl HashReader for [Digest] {
    type Error = std::convert::Infallible;

    fn hashes(&self, level: u8, first: u64, count: usize) -> Result<Vec<Digest>, Self::Error> {
        let width = 256_u64.checked_pow(u32::from(level)).and_then(|w| usize::try_from(w).ok());
        let Some(width) = width else { return Ok(Vec::new()) };
        let skipped = usize::try_from(first).unwrap_or(usize::MAX);
        let subtrees = self.chunks_exact(width).skip(skipped).take(count);
        Ok(subtrees.filter_map(subtree_root).collect())
    }
}

/// A run of leaves: from `lo` up to, not including, `hi`.
#[derive(Clone, Copy)]
struct Range {
    lo: u64,
    hi: u64,
}

impl Range {
    fn len(self) -> u64 {
        self.hi - self.lo
    }

    /// The two halves of a run of at least two: the left one is the largest power of two below
    /// its length.
    fn split(self) -> (Self, Self) {
        let middle = self.lo + (1 << (self.len() - 1).ilog2());
        (Self { lo: self.lo, hi: middle }, Self { lo: middle, hi: self.hi })
    }

    /// The root over these leaves, as RFC 6962 splits a tree.
    fn root<R: HashReader + ?Sized>(self, reader: &R) -> Result<Digest, ReadError<R::Error>> {
        Ok(join(&self.peaks(reader)?))
    }

    /// The roots of the full subtrees of these leaves, largest first.
    fn peaks<R: HashReader + ?Sized>(self, reader: &R) -> Result<Vec<Digest>, ReadError<R::Error>> {
        let mut peaks = Vec::new();
        let mut lo = self.lo;
        while lo < self.hi {
            let height = (self.hi - lo).ilog2();
            peaks.push(full_root(height, lo >> height, reader)?);
            lo += 1 << height;
        }
        Ok(peaks)
    }
}

/// The root of the full subtree `index` of 2^`height` leaves.
fn full_root<R: HashReader + ?Sized>(
    height: u32,
    index: u64,
    reader: &R,
) -> Result<Digest, ReadError<R::Error>> {
    let level = u8::try_from(height / 8).unwrap_or(u8::MAX);
    let (first, count) = (index << (height % 8), 1 << (height % 8));
    let hashes = reader.hashes(level, first, count).map_err(ReadError::Reader)?;
    match subtree_root(&hashes) {
        Some(root) if hashes.len() == count => Ok(root),
        _ => Err(ReadError::Missing { level, first, count }),
    }
}

/// The root of the first `size` leaves.
pub fn root<R: HashReader + ?Sized>(size: u64, reader: &R) -> Result<Digest, ReadError<R::Error>> {
    Range { lo: 0, hi: size }.root(reader)
}

/// The tree of the first `size` leaves, as it was when it had so many.
pub fn frontier<R: HashReader + ?Sized>(
    size: u64,
    reader: &R,
) -> Result<Frontier, ReadError<R::Error>> {
    Ok(Frontier::from_parts(size, Range { lo: 0, hi: size }.peaks(reader)?)?)
}

/// The hashes that lead from leaf `index` to the root of the first `size` leaves, the leaf's
/// sibling first.
pub fn inclusion_proof<R: HashReader + ?Sized>(
    index: u64,
    size: u64,
    reader: &R,
) -> Result<Vec<Digest>, ReadError<R::Error>> {
    if index >= size {
        return Err(Error::Index { index, size }.into());
    }
    let mut proof = Vec::new();
    let mut range = Range { lo: 0, hi: size };
    while range.len() > 1 {
        let (left, right) = range.split();
        let (here, sibling) = if index < left.hi { (left, right) } else { (right, left) };
        proof.push(sibling.root(reader)?);
        range = here;
    }
    proof.reverse();
    Ok(proof)
}

/// The hashes that show the first `old` leaves to be a prefix of the first `new` ones. None are
/// needed from the empty tree or between equal trees.
pub fn consistency_proof<R: HashReader + ?Sized>(
    old: u64,
    new: u64,
    reader: &R,
) -> Result<Vec<Digest>, ReadError<R::Error>> {
    if old > new {
        return Err(Error::Sizes { old, new }.into());
    }
    let mut proof = Vec::new();
    if old == 0 {
        return Ok(proof);
    }
    let mut range = Range { lo: 0, hi: new };
    while range.hi != old {
        let (left, right) = range.split();
        let (here, sibling) = if old <= left.hi { (left, right) } else { (right, left) };
        proof.push(sibling.root(reader)?);
        range = here;
    }
    // Where the old tree is a subtree from leaf 0 on, the verifier already has its root.
    if range.lo != 0 {
        proof.push(range.root(reader)?);
    }
    proof.reverse();
    Ok(proof)
}

/// Checks that the leaf with `leaf` as its hash is number `index` of the `size` leaves under
/// `root` (RFC 9162, 2.1.3.2).
pub fn verify_inclusion(
    leaf: &Digest,
    index: u64,
    size: u64,
    root: &Digest,
    proof: &[Digest],
) -> Result<(), Error> {
    if index >= size {
        return Err(Error::Index { index, size });
    }
    let mut walk = Walk { node: index, last: size - 1 };
    let mut hash = *leaf;
    for sibling in proof {
        hash = match walk.up()? {
            Side::Left => node_hash(sibling, &hash),
            Side::Right => node_hash(&hash, sibling),
        };
    }
    walk.done()?;
    if hash == *root { Ok(()) } else { Err(Error::Root) }
}

/// Checks that the `old` leaves under `old_root` are a prefix of the `new` ones under `new_root`
/// (RFC 9162, 2.1.4.2). The empty tree is a prefix of every tree.
pub fn verify_consistency(
    old: u64,
    new: u64,
    old_root: &Digest,
    new_root: &Digest,
    proof: &[Digest],
) -> Result<(), Error> {
    if old > new {
        return Err(Error::Sizes { old, new });
    }
    if old == 0 || old == new {
        let same = if old == 0 { *old_root == empty_root() } else { old_root == new_root };
        let empty_new = new > 0 || *new_root == empty_root();
        return match proof {
            [] if same && empty_new => Ok(()),
            [] => Err(Error::Root),
            _ => Err(Error::ProofLength),
        };
    }
    let (start, rest) = match proof.split_first() {
        _ if old.is_power_of_two() => (old_root, proof),
        Some(split) => split,
        None => return Err(Error::ProofLength),
    };
    let (old_hash, new_hash) = fold_consistency(old, new, start, rest)?;
    if old_hash == *old_root && new_hash == *new_root { Ok(()) } else { Err(Error::Root) }
}

/// The root that the first `old` of the `new` leaves under `new_root` have, where `proof` shows
/// it: no other root fits that tree. Where `old` is a power of two a proof does not hold it.
pub fn proven_prefix(old: u64, new: u64, new_root: &Digest, proof: &[Digest]) -> Option<Digest> {
    if old == 0 || old >= new || old.is_power_of_two() {
        return None;
    }
    let (start, rest) = proof.split_first()?;
    let (old_hash, new_hash) = fold_consistency(old, new, start, rest).ok()?;
    (new_hash == *new_root).then_some(old_hash)
}

/// The roots of both trees that a consistency proof leads to, for 0 < old < new.
fn fold_consistency(
    old: u64,
    new: u64,
    start: &Digest,
    rest: &[Digest],
) -> Result<(Digest, Digest), Error> {
    let skipped = (old - 1).trailing_ones();
    let mut walk = Walk { node: (old - 1) >> skipped, last: (new - 1) >> skipped };
    let (mut old_hash, mut new_hash) = (*start, *start);
    for sibling in rest {
        match walk.up()? {
            Side::Left => {
                old_hash = node_hash(sibling, &old_hash);
                new_hash = node_hash(sibling, &new_hash);
            }
            Side::Right => new_hash = node_hash(&new_hash, sibling),
        }
    }
    walk.done()?;
    Ok((old_hash, new_hash))
}

/// On which side of a node its sibling lies.
enum Side {
    Left,
    Right,
}

/// The way from a node up to the root, one sibling at a time.
struct Walk {
    node: u64,
    /// The rightmost node of the same height.
    last: u64,
}

impl Walk {
    /// Goes up past the next sibling.
    fn up(&mut self) -> Result<Side, Error> {
        if self.last == 0 {
            return Err(Error::ProofLength);
        }
        let rightmost = self.node == self.last;
        if rightmost {
            // A rightmost node without a sibling is its own parent.
            let alone = self.node.trailing_zeros();
            (self.node, self.last) = (self.node >> alone, self.last >> alone);
        }
        let side = if self.node & 1 == 1 { Side::Left } else { Side::Right };
        (self.node, self.last) = (self.node >> 1, self.last >> 1);
        Ok(side)
    }

    fn done(&self) -> Result<(), Error> {
        if self.last == 0 { Ok(()) } else { Err(Error::ProofLength) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;
    use sha2::Sha256;

    fn entry(index: u64) -> Vec<u8> {
        index.to_be_bytes().to_vec()
    }

    fn leaves(size: u64) -> Vec<Digest> {
        (0..size).map(|index| leaf_hash(&entry(index))).collect()
    }

    fn oracle(size: u64) -> MemoryBackedTree<Sha256, Vec<u8>> {
        let mut tree = MemoryBackedTree::new();
        (0..size).for_each(|index| tree.push(entry(index)));
        tree
    }

    fn bytes(proof: &[Digest]) -> Vec<u8> {
        proof.iter().flat_map(|digest| digest.0).collect()
    }

    fn frontier(leaves: &[Digest]) -> Frontier {
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        frontier
    }

    #[test]
    fn roots_agree_with_the_oracle_while_growing() {
        let leaves = leaves(300);
        let (mut frontier, mut oracle) = (Frontier::default(), oracle(0));
        assert_eq!(frontier.root(), empty_root());
        for (index, leaf) in leaves.iter().enumerate() {
            frontier.push(*leaf);
            oracle.push(entry(index as u64));
            assert_eq!(frontier.root().0, <[u8; 32]>::from(*oracle.root().as_bytes()));
            assert_eq!(root(frontier.size(), leaves.as_slice()).unwrap(), frontier.root());
        }
    }

    #[test]
    fn a_frontier_survives_storage_and_refuses_a_wrong_size() {
        let before = frontier(&leaves(11));
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Frontier>(&text).unwrap(), before);
        for size in ["12", "15", "18446744073709551615"] {
            let changed = text.replace("\"size\":11", &format!("\"size\":{size}"));
            assert!(serde_json::from_str::<Frontier>(&changed).is_err(), "{size}");
        }
    }

    #[test]
    fn large_and_hostile_numbers_are_refused() {
        let d = empty_root();
        for (index, size) in [(u64::MAX, u64::MAX), (5, 5), (0, 0)] {
            assert!(verify_inclusion(&d, index, size, &d, &[]).is_err());
        }
        for index in [0, 1, u64::MAX / 2, u64::MAX - 1] {
            assert!(verify_inclusion(&d, index, u64::MAX, &d, &[d; 64]).is_err());
            assert!(verify_consistency(index + 1, u64::MAX, &d, &d, &[d; 65]).is_err());
        }
        let none: &[Digest] = &[];
        assert!(inclusion_proof(u64::MAX - 1, u64::MAX, none).is_err());
        assert!(consistency_proof(u64::MAX - 1, u64::MAX, none).is_err());
        assert_eq!(consistency_proof(2, 1, none), Err(Error::Sizes { old: 2, new: 1 }.into()));
    }

    #[test]
    fn consistency_at_the_ends() {
        let leaves = leaves(5);
        let (full, empty) = (frontier(&leaves).root(), empty_root());
        assert_eq!(verify_consistency(0, 5, &empty, &full, &[]), Ok(()));
        assert_eq!(verify_consistency(5, 5, &full, &full, &[]), Ok(()));
        assert_eq!(verify_consistency(0, 0, &empty, &empty, &[]), Ok(()));
        assert_eq!(verify_consistency(0, 0, &empty, &full, &[]), Err(Error::Root));
        assert_eq!(verify_consistency(0, 5, &full, &full, &[]), Err(Error::Root));
        assert_eq!(verify_consistency(5, 5, &full, &empty, &[]), Err(Error::Root));
        assert_eq!(verify_consistency(5, 5, &full, &full, &[full]), Err(Error::ProofLength));
        assert_eq!(verify_consistency(3, 5, &full, &full, &[]), Err(Error::ProofLength));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn inclusion_agrees_with_the_oracle(
            size in 1_u64..700,
            pick in any::<u64>(),
            flip in any::<u16>(),
        ) {
            let (leaves, index) = (leaves(size), pick % size);
            let root = frontier(&leaves).root();
            let proof = inclusion_proof(index, size, leaves.as_slice()).unwrap();
            let theirs = oracle(size).prove_inclusion(usize::try_from(index).unwrap());
            prop_assert_eq!(bytes(&proof), theirs.as_bytes());
            let leaf = leaf_hash(&entry(index));
            let verify = |index, proof: &[Digest]| {
                verify_inclusion(&leaf, index, size, &root, proof)
            };
            prop_assert_eq!(verify(index, &proof), Ok(()));
            prop_assert!(verify(index, &[&proof[..], &[leaf]].concat()).is_err());
            prop_assert!(verify((index + 1) % size, &proof).is_err() || size == 1);
            if let Some(kept) = proof.len().checked_sub(1) {
                prop_assert!(verify(index, &proof[..kept]).is_err());
                let mut changed = proof.clone();
                changed[usize::from(flip) % proof.len()].0[usize::from(flip) % 32] ^= 1;
                prop_assert_eq!(verify(index, &changed), Err(Error::Root));
            }
        }

        #[test]
        fn consistency_agrees_with_the_oracle(
            new in 2_u64..700,
            pick in any::<u64>(),
            flip in any::<u16>(),
        ) {
            let (leaves, old) = (leaves(new), 1 + pick % (new - 1));
            let old_root = root(old, leaves.as_slice()).unwrap();
            let new_root = root(new, leaves.as_slice()).unwrap();
            let proof = consistency_proof(old, new, leaves.as_slice()).unwrap();
            let theirs = oracle(new).prove_consistency(usize::try_from(new - old).unwrap());
            prop_assert_eq!(bytes(&proof), theirs.as_bytes());
            prop_assert_eq!(verify_consistency(old, new, &old_root, &new_root, &proof), Ok(()));
            prop_assert!(verify_consistency(old, new, &new_root, &new_root, &proof).is_err());
            prop_assert!(verify_consistency(old, new, &old_root, &new_root, &proof[1..]).is_err());
            let mut changed = proof.clone();
            changed[usize::from(flip) % proof.len()].0[usize::from(flip) % 32] ^= 1;
            prop_assert!(verify_consistency(old, new, &old_root, &new_root, &changed).is_err());
        }
    }
}
