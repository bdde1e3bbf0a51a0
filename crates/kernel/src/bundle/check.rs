//! Checking a bundle, or a single receipt. Nothing that is read here is trusted, and nothing of it
//! can make this fail but with a sentence.

mod control;
mod of_run;
mod signed;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use self::signed::signed_by;
use super::names::{any_index, known, receipt_index, tile_of};
use super::{Error, Files, Manifest, archive};
use crate::limits;
use crate::machine::Stream;
use crate::note::{Checkpoint, Note, VerifierKey};
use crate::pem;
use crate::proof::TlogProof;
use crate::receipt::{ChainEnd, STATEMENT_TYPE, Statement, Transition};
use crate::signing_key::{Handover, KeyRange, KeyRanges, LogKeys};
use crate::tile::{self, Tile};
use crate::tree::{self, Frontier};
use crate::values::{Digest, Timestamp};
use crate::verify::{self, Keys, SignatureVerifier, Trust, Verified};

/// Errors that a report names.
const ERRORS_MAX: usize = 64;

/// The keys that whoever verifies got another way. Where there are some, those in the bundle do
/// not count.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// Receipt keys: SubjectPublicKeyInfo in DER (see [`pem::decode`]). Empty: those in the
    /// bundle are used, and the report says so.
    pub keys: Vec<Vec<u8>>,
    /// The key of the log. None: the one in the bundle is used, and the report says so.
    pub vkey: Option<VerifierKey>,
    /// What vouches for them.
    pub trust: Trust,
    /// What receipt keys are valid for, as far as it is known beforehand.
    pub logs: LogKeys,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BundleReport {
    /// Whether nothing is wrong. Says nothing of whose keys signed: see `trust`.
    pub valid: bool,
    /// How many receipts were read.
    pub receipts: u64,
    /// What is wrong, in sentences; at most 64.
    pub errors: Vec<String>,
    /// The stable code of each error, in the same order.
    pub codes: Vec<&'static str>,
    /// What vouches for the keys; the weakest counts.
    pub trust: Trust,
    /// The log's origin.
    pub origin: Option<String>,
    /// How many receipts the log had: none where there is no valid checkpoint.
    pub size: Option<u64>,
}

impl BundleReport {
    /// The report on what cannot be read at all.
    pub fn refused(error: &Error) -> Self {
        Self {
            valid: false,
            receipts: 0,
            errors: vec![error.to_string()],
            codes: vec![error.code()],
            trust: Trust::Unknown,
            origin: None,
            size: None,
        }
    }
}

/// Checks a bundle, given as the bytes of its tar file.
pub fn verify_bundle(
    bytes: &[u8],
    pinned: Option<&Pinned>,
    verifier: &dyn SignatureVerifier,
) -> BundleReport {
    match archive::read(bytes) {
        Ok(files) => verify_files(&files, pinned, verifier),
        Err(error) => BundleReport::refused(&error),
    }
}

/// Checks a single receipt: its signature and its form, not that it is in a log. The key has to be
/// given, since none comes along.
pub fn verify_receipt(
    envelope: &[u8],
    pinned: Option<&Pinned>,
    verifier: &dyn SignatureVerifier,
) -> BundleReport {
    let files = Files::new();
    let mut check = Check::new(&files, pinned, verifier);
    let origin = check.statement("the receipt", envelope).map(|(_, s)| s.predicate.log.origin);
    BundleReport { receipts: u64::from(origin.is_some()), origin, ..check.report() }
}

/// A receipt that is signed and reads.
struct Receipt {
    prev: Digest,
    digest: Digest,
    time: Timestamp,
    leaf: Digest,
    key_id: Digest,
    handover: Option<Handover>,
    /// Where it is told from what they are.
    transitions: Vec<Transition>,
}

/// The log as its signed checkpoint has it.
struct Log {
    note: Note,
    checkpoint: Checkpoint,
}

/// Checks an unpacked bundle, given as its files by their paths.
pub fn verify_files(
    files: &Files<'_>,
    pinned: Option<&Pinned>,
    verifier: &dyn SignatureVerifier,
) -> BundleReport {
    let mut check = Check::new(files, pinned, verifier);
    check.names();
    check.sums();
    let log = check.log(pinned);
    let receipts = check.receipts(log.as_ref());
    check.chain(&receipts);
    let ranges = check.ranges(&receipts, log.as_ref());
    let signer = check.manifest(log.as_ref(), ranges.as_ref());
    check.digests();
    if let Some(log) = &log {
        let control = check.control(&log.checkpoint.origin, signer);
        check.run(&receipts, &log.checkpoint.origin, control);
        check.tiles(&log.checkpoint, &receipts, ranges.as_ref());
    }
    BundleReport {
        receipts: u64::try_from(receipts.len()).unwrap_or(u64::MAX),
        origin: log.as_ref().map(|log| log.checkpoint.origin.clone()),
        size: log.map(|log| log.checkpoint.size),
        ..check.report()
    }
}

struct Check<'a> {
    files: &'a Files<'a>,
    verifier: &'a dyn SignatureVerifier,
    keys: Keys,
    logs: LogKeys,
    errors: Vec<Error>,
    trust: Option<Trust>,
    /// What the run is made of that the bundle is about.
    of_run: BTreeSet<Stream>,
    /// Whether something is told from what changed.
    tells: bool,
}

impl<'a> Check<'a> {
    fn new(
        files: &'a Files<'a>,
        pinned: Option<&Pinned>,
        verifier: &'a dyn SignatureVerifier,
    ) -> Self {
        let logs = pinned.map(|pinned| pinned.logs.clone()).unwrap_or_default();
        let given = pinned.filter(|pinned| !pinned.keys.is_empty());
        let mut keys = Keys::default();
        for spki in given.iter().flat_map(|pinned| &pinned.keys) {
            keys.insert(spki, given.map_or(Trust::Unknown, |pinned| pinned.trust));
        }
        let brought = given.is_none().then_some(Trust::Unknown);
        Self::with_keys(files, verifier, (keys, logs), brought)
    }

    /// A check by keys that are known. `brought`: what vouches for those among the files, where
    /// they count.
    fn with_keys(
        files: &'a Files<'a>,
        verifier: &'a dyn SignatureVerifier,
        (keys, logs): (Keys, LogKeys),
        brought: Option<Trust>,
    ) -> Self {
        let (of_run, tells) = (BTreeSet::new(), files.contains_key(super::RUN));
        let errors = Vec::new();
        let mut check = Self { files, verifier, keys, logs, errors, trust: None, of_run, tells };
        for (path, pem) in files.iter().filter(|(path, _)| is_key(path)) {
            let spki = str::from_utf8(pem).ok().and_then(pem::decode);
            match spki {
                Some(spki) if super::key_path(&Digest::of(&spki)) == **path => {
                    if let Some(trust) = brought {
                        check.keys.insert(&spki, trust);
                    }
                }
                _ => check.error(Error::KeyName((*path).to_owned())),
            }
        }
        check
    }

    fn error(&mut self, error: Error) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error);
        }
    }

    fn report(self) -> BundleReport {
        BundleReport {
            valid: self.errors.is_empty(),
            receipts: 0,
            errors: self.errors.iter().map(Error::to_string).collect(),
            codes: self.errors.iter().map(Error::code).collect(),
            trust: self.trust.unwrap_or(Trust::Unknown),
            origin: None,
            size: None,
        }
    }

    /// A signature counts: the weakest trust is that of the whole.
    fn rests_on(&mut self, trust: Trust) {
        self.trust = Some(self.trust.map_or(trust, |weakest| weakest.min(trust)));
    }

    fn file(&mut self, path: &str) -> Option<&'a [u8]> {
        let file = self.files.get(path).copied();
        if file.is_none() {
            self.error(Error::Missing(path.to_owned()));
        }
        file
    }

    fn names(&mut self) {
        let unknown: Vec<&str> = self.files.keys().copied().filter(|path| !known(path)).collect();
        for path in unknown {
            self.error(Error::Unknown(path.to_owned()));
        }
        self.file(super::VERIFY);
        let cost = self.file(super::COST);
        if cost.is_some_and(|c| serde_json::from_slice::<serde::de::IgnoredAny>(c).is_err()) {
            self.error(Error::Cost);
        }
    }

    fn sums(&mut self) {
        let Some(listed) = self.file(super::SUMS) else { return };
        let expected = super::sums(self.files);
        if listed == expected.as_bytes() {
            return;
        }
        let listed: BTreeSet<&[u8]> = listed.split(|byte| *byte == b'\n').collect();
        self.error(Error::Sums);
        for line in expected.lines().filter(|line| !listed.contains(line.as_bytes())) {
            let path = line.split_once("  ").map_or(line, |(_, path)| path);
            self.error(Error::Changed(path.to_owned()));
        }
    }

    /// The signed payload of an envelope.
    fn envelope(&mut self, name: &str, bytes: &[u8]) -> Option<Verified> {
        match verify::verify_envelope(bytes, &self.keys, self.verifier) {
            Ok(verified) => {
                self.rests_on(verified.trust);
                Some(verified)
            }
            Err(error) => {
                self.error(Error::Signature { name: name.to_owned(), error });
                None
            }
        }
    }

    fn statement(&mut self, name: &str, bytes: &[u8]) -> Option<(Verified, Statement)> {
        match verify::verify_receipt(bytes, &self.keys, &self.logs, self.verifier) {
            Ok((verified, statement)) => {
                self.rests_on(verified.trust);
                Some((verified, statement))
            }
            Err(error) => {
                let name = name.to_owned();
                self.error(match error {
                    verify::Error::Receipt(error) => Error::Receipt { name, error },
                    error => Error::Signature { name, error },
                });
                None
            }
        }
    }

    fn log(&mut self, pinned: Option<&Pinned>) -> Option<Log> {
        let brought = self.file(super::VKEY);
        let note = self.file(super::CHECKPOINT)?;
        let brought = brought.and_then(|text| str::from_utf8(text).ok()?.trim_end().parse().ok());
        let given = pinned.and_then(|p| p.vkey.clone().map(|vkey| (vkey, p.trust)));
        let Some((vkey, trust)) = given.or_else(|| Some((brought?, Trust::Unknown))) else {
            self.error(Error::VerifierKey);
            return None;
        };
        let checked = Note::parse(note).map_err(verify::Error::from).and_then(|note| {
            let checkpoint = verify::verify_checkpoint(&note, &vkey, self.verifier)?;
            Ok(Log { note, checkpoint })
        });
        match checked {
            Ok(log) => {
                self.rests_on(trust);
                Some(log)
            }
            Err(error) => {
                self.error(Error::checkpoint(error));
                None
            }
        }
    }

    /// The log's keys, as the receipts here hand them on: every receipt is signed by the key that
    /// is the log's at its index. That none of them is missing is for the manifest to say.
    fn ranges(
        &mut self,
        receipts: &BTreeMap<u64, Receipt>,
        log: Option<&Log>,
    ) -> Option<KeyRanges> {
        let handovers: Vec<&Handover> =
            receipts.values().filter_map(|receipt| receipt.handover.as_ref()).collect();
        let first = match handovers.first() {
            Some(first) => first.replaces,
            None => receipts.values().next()?.key_id,
        };
        let mut ranges = KeyRanges::start(first);
        for handover in handovers {
            if let Err(error) = ranges.hand_over(handover) {
                self.error(Error::Key(error));
                return None;
            }
        }
        for (index, receipt) in receipts {
            if let Err(error) = ranges.check(*index, &receipt.key_id) {
                self.error(Error::Key(error));
            }
        }
        let known = log.and_then(|log| self.logs.of(&log.checkpoint.origin));
        if known.is_some_and(|known| !known.agrees(&ranges)) {
            self.error(Error::KnownKeys);
        }
        let named = |range: &KeyRange| super::key_path(&range.key_id);
        let expected: BTreeSet<String> = ranges.as_slice().iter().map(named).collect();
        let brought = self.files.keys().filter(|path| is_key(path));
        if brought.map(|path| (*path).to_owned()).collect::<BTreeSet<_>>() != expected {
            self.error(Error::KeyFiles);
        }
        Some(ranges)
    }

    /// What comes back vouches for every file that the manifest names.
    fn manifest(&mut self, log: Option<&Log>, ranges: Option<&KeyRanges>) -> Option<Trust> {
        let bytes = self.file(super::MANIFEST)?;
        let verified = self.envelope(super::MANIFEST, bytes)?;
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&verified.payload) else {
            self.error(Error::Manifest);
            return None;
        };
        let types = (manifest.statement_type.as_str(), manifest.predicate_type.as_str());
        if types != (STATEMENT_TYPE, super::PREDICATE_TYPE) {
            self.error(Error::Manifest);
        }
        if manifest.subject != super::subjects(self.files) {
            self.error(Error::ManifestFiles);
        }
        let contents = &manifest.predicate;
        if let Some(ranges) = ranges {
            if contents.keys != ranges.as_slice() {
                self.error(Error::ManifestKeys);
            }
            let known = self.logs.check(&contents.origin, contents.size, &verified.key_id);
            if ranges.current() != Some(verified.key_id) || known.is_err() {
                self.error(Error::ManifestSigner);
            }
        }
        if log.is_some_and(|Log { checkpoint, .. }| {
            let Checkpoint { origin, size, root } = checkpoint;
            (&contents.origin, &contents.size, &contents.root) != (origin, size, root)
        }) {
            self.error(Error::ManifestCheckpoint);
        }
        if contents.content != super::content(self.files) {
            self.error(Error::ManifestContent);
        }
        let full = self.files.keys().any(|path| path.starts_with("log/tile/entries/"));
        let receipts = self.files.keys().filter_map(|path| receipt_index(path)).count();
        if full != contents.full_log || u64::try_from(receipts) != Ok(contents.receipts) {
            self.error(Error::ManifestReceipts);
        }
        Some(verified.trust)
    }

    /// Checks each receipt by itself and against the checkpoint.
    fn receipts(&mut self, log: Option<&Log>) -> BTreeMap<u64, Receipt> {
        let indices: BTreeSet<u64> = self.files.keys().filter_map(|path| any_index(path)).collect();
        if indices.is_empty() {
            self.error(Error::Empty);
        }
        let mut receipts = BTreeMap::new();
        for index in indices {
            if let Some(receipt) = self.receipt(index, log) {
                receipts.insert(index, receipt);
            }
        }
        receipts
    }

    fn receipt(&mut self, index: u64, log: Option<&Log>) -> Option<Receipt> {
        let path = super::receipt_path(index);
        let sigstore = self.file(&super::sigstore_path(index));
        let proof = self.file(&super::proof_path(index));
        let bytes = self.file(&path)?;
        let (verified, statement) = self.statement(&path, bytes)?;
        if sigstore.is_some_and(|s| s != super::sigstore_bundle(bytes, &verified.key_id)) {
            self.error(Error::Sigstore(super::sigstore_path(index)));
        }
        let position = &statement.predicate.log;
        if position.index != index {
            self.error(Error::Place { path: path.clone(), index: position.index });
        }
        let leaf = tree::leaf_hash(bytes);
        if let Some(log) = log {
            if position.origin != log.checkpoint.origin {
                let origin = position.origin.clone();
                self.error(Error::OtherLog { path: path.clone(), origin });
            }
            let proven = proof.map_or(Ok(()), |proof| check_proof(proof, index, &leaf, log));
            if let Err(error) = proven {
                self.error(error);
            }
        }
        let handover = match Handover::read(index, &statement.predicate.transitions) {
            Ok(handover) => handover,
            Err(error) => {
                self.error(Error::Key(error));
                None
            }
        };
        if let Some(Handover { spki_der, .. }) = &handover {
            // Whoever trusts the old key trusts what it hands over to, as far and no further.
            self.keys.insert(spki_der, verified.trust);
        }
        let digest = Digest::of(&verified.payload);
        let (prev, time) = (position.prev, statement.predicate.time_us);
        let transitions = match self.tells {
            true => statement.predicate.transitions,
            false => Vec::new(),
        };
        let key_id = verified.key_id;
        Some(Receipt { prev, digest, time, leaf, key_id, handover, transitions })
    }

    /// Neighbours must follow one another.
    fn chain(&mut self, receipts: &BTreeMap<u64, Receipt>) {
        let mut before: Option<(u64, &Receipt)> = None;
        for (index, receipt) in receipts {
            let prev = match before {
                _ if *index == 0 => Some((Digest::of(b""), receipt.time)),
                Some((last, before)) if last.checked_add(1) == Some(*index) => {
                    Some((before.digest, before.time))
                }
                _ => None,
            };
            if prev.is_some_and(|(digest, time)| digest != receipt.prev || time > receipt.time) {
                self.error(Error::Chain(*index));
            }
            before = Some((*index, receipt));
        }
    }

    /// The tiles are all there or none, and lead from the receipts to the checkpoint.
    fn tiles(
        &mut self,
        checkpoint: &Checkpoint,
        receipts: &BTreeMap<u64, Receipt>,
        ranges: Option<&KeyRanges>,
    ) {
        let size = checkpoint.size;
        let tiles: BTreeSet<Tile> = self.files.keys().filter_map(|path| tile_of(path)).collect();
        if size > super::TILED_LOG_MAX {
            if !tiles.is_empty() {
                self.error(Error::TilesTooMany(""));
            }
            return;
        }
        let full = tiles.iter().any(|tile| tile.kind() == tile::Kind::Entries);
        if full && size > limits::BUNDLE_RECEIPTS_MAX {
            self.error(Error::TilesTooMany("entry "));
            return;
        }
        let entries = tile::entry_tiles(0, if full { size } else { 0 });
        let expected: BTreeSet<Tile> = tile::hash_tiles(0, size).chain(entries).collect();
        if tiles != expected {
            self.error(Error::Tiles);
            return;
        }
        let Some(leaves) = self.hash_tiles(size) else { return };
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        if frontier.root() != checkpoint.root {
            self.error(Error::TileRoot);
        }
        for (index, receipt) in receipts {
            let leaf = usize::try_from(*index).ok().and_then(|at| leaves.get(at));
            if leaf != Some(&receipt.leaf) {
                self.error(Error::TileLeaf(*index));
            }
        }
        if let Some(ranges) = ranges.filter(|_| full) {
            self.entries(checkpoint, &leaves, ranges);
        }
    }

    /// The leaf hashes, where the tiles of each level are those of the level below.
    fn hash_tiles(&mut self, size: u64) -> Option<Vec<Digest>> {
        let mut levels: BTreeMap<tile::Kind, Vec<Digest>> = BTreeMap::new();
        for tile in tile::hash_tiles(0, size) {
            let content = self.file(&format!("{}{tile}", super::LOG))?;
            match tile::decode_hashes(content, tile.width()) {
                Ok(hashes) => levels.entry(tile.kind()).or_default().extend(hashes),
                Err(error) => self.error(Error::Tile { name: tile.to_string(), error }),
            }
        }
        let mut levels = levels.into_values();
        let leaves = levels.next()?;
        let mut below = leaves.clone();
        for level in levels {
            let full = below.chunks_exact(tile::TILE_WIDTH.into());
            let roots: Vec<Digest> = full.filter_map(tree::subtree_root).collect();
            if roots != level {
                self.error(Error::TileLevel);
            }
            below = level;
        }
        Some(leaves)
    }

    /// Every entry of a full log is a signed receipt that follows the one before.
    fn entries(&mut self, checkpoint: &Checkpoint, leaves: &[Digest], ranges: &KeyRanges) {
        let mut end = ChainEnd::start(checkpoint.origin.as_str());
        let mut leaves = leaves.iter();
        for tile in tile::entry_tiles(0, checkpoint.size) {
            let Some(content) = self.file(&format!("{}{tile}", super::LOG)) else { return };
            let entries = match tile::decode_entries(content, tile.width()) {
                Ok(entries) => entries,
                Err(error) => {
                    return self.error(Error::Tile { name: tile.to_string(), error });
                }
            };
            for entry in entries {
                let name = format!("entry {}", end.size);
                if leaves.next() != Some(&tree::leaf_hash(entry)) {
                    return self.error(Error::Entry(name));
                }
                let Some(verified) = self.envelope(&name, entry) else { return };
                let index = end.size;
                let fits = end
                    .follow(&verified.payload)
                    .map_err(|error| Error::Receipt { name: name.clone(), error })
                    .and_then(|statement| {
                        self.not_omitted(index, &statement)?;
                        signed_by(&verified, index, &statement, ranges)
                    });
                if let Err(error) = fits {
                    return self.error(error);
                }
            }
        }
    }
}

/// Whether a file is a receipt key of the log.
fn is_key(path: &str) -> bool {
    path.starts_with("keys/") && path.ends_with(".pem")
}

fn check_proof(proof: &[u8], index: u64, leaf: &Digest, log: &Log) -> Result<(), Error> {
    let path = super::proof_path(index);
    let proof = TlogProof::parse(proof).map_err(|error| Error::proof(&path, error))?;
    // The very checkpoint that is verified already, so that its signature need not be again.
    if proof.index != index || proof.checkpoint != log.note || !proof.extra.is_empty() {
        return Err(Error::ProofOfOther(path));
    }
    let Checkpoint { size, root, .. } = &log.checkpoint;
    tree::verify_inclusion(leaf, index, *size, root, &proof.hashes)
        .map_err(|error| Error::proof(&path, error))
}
