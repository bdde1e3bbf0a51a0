//! Checking evidence without a ledger: a bundle, an unpacked bundle or a single receipt. Nothing
//! that is read here is trusted, and nothing of it can make this fail but with a sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kernel::limits;
use kernel::note::{Checkpoint, Note, VerifierKey};
use kernel::proof::TlogProof;
use kernel::receipt::{ChainEnd, Statement};
use kernel::tile::{self, Tile};
use kernel::tree::{self, Frontier};
use kernel::values::{Digest, Timestamp};
use kernel::verify::{self, Keys, Trust, Verified};
use serde::Serialize;

use crate::archive::{self, Files};
use crate::evidence::{self, Manifest};
use crate::keys::{self, NativeVerifier};

/// Bytes of a file, or of all files of a folder, that are read.
const BYTES_MAX: u64 = 2 << 30;
/// Files of a folder: three for each receipt, the tiles, and a few.
const FILES_MAX: usize = 65_536;
/// Folders within folders: a tile's path has seven parts at most.
const DEPTH_MAX: usize = 12;
/// Errors that a report names.
const ERRORS_MAX: usize = 64;

/// The keys that whoever verifies got another way. Where there are some, those in the bundle do
/// not count.
#[derive(Clone, Debug)]
pub struct Pinned {
    /// Receipt keys: SubjectPublicKeyInfo in DER (see [`keys::from_pem`]). Empty: those in the
    /// bundle are used, and the report says so.
    pub keys: Vec<Vec<u8>>,
    /// The key of the log. None: the one in the bundle is used, and the report says so.
    pub vkey: Option<VerifierKey>,
    /// What vouches for them.
    pub trust: Trust,
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
    /// What vouches for the keys; the weakest counts.
    pub trust: Trust,
    /// The log's origin.
    pub origin: Option<String>,
    /// How many receipts the log had: none where there is no valid checkpoint.
    pub size: Option<u64>,
}

/// Checks a bundle, given as the bytes of its tar file.
pub fn verify_bundle(bytes: &[u8], pinned: Option<&Pinned>) -> BundleReport {
    match archive::read(bytes) {
        Ok(files) => check_files(&files, pinned),
        Err(error) => refused(error),
    }
}

/// Checks a single receipt: its signature and its form, not that it is in a log. The key has to be
/// given, since none comes along.
pub fn verify_receipt(envelope: &[u8], pinned: Option<&Pinned>) -> BundleReport {
    let files = Files::new();
    let mut check = Check::new(&files, pinned);
    let origin = check.statement("the receipt", envelope).map(|(_, s)| s.predicate.log.origin);
    BundleReport { receipts: u64::from(origin.is_some()), origin, ..check.report() }
}

/// Checks what is at `path`: a folder is an unpacked bundle, a file is a bundle or, where it
/// begins with `{`, a receipt.
pub fn verify_path(path: &Path, pinned: Option<&Pinned>) -> BundleReport {
    let named = |error: std::io::Error| refused(format!("{}: {error}", path.display()));
    let is_dir = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > BYTES_MAX => return refused("the file is too large"),
        Ok(metadata) if metadata.is_dir() => true,
        Ok(metadata) if metadata.is_file() => false,
        Ok(_) => return refused(format!("{} is no file and no folder", path.display())),
        Err(error) => return named(error),
    };
    if is_dir {
        let mut folder = Folder { files: BTreeMap::new(), bytes: 0 };
        return match folder.read(path, "", 0) {
            Ok(()) => check_files(&evidence::borrowed(&folder.files), pinned),
            Err(error) => refused(error),
        };
    }
    match fs::read(path) {
        Ok(bytes) if bytes.starts_with(b"{") => verify_receipt(&bytes, pinned),
        Ok(bytes) => verify_bundle(&bytes, pinned),
        Err(error) => named(error),
    }
}

fn refused(error: impl Into<String>) -> BundleReport {
    BundleReport {
        valid: false,
        receipts: 0,
        errors: vec![error.into()],
        trust: Trust::Unknown,
        origin: None,
        size: None,
    }
}

struct Folder {
    files: BTreeMap<String, Vec<u8>>,
    bytes: u64,
}

impl Folder {
    fn read(&mut self, dir: &Path, prefix: &str, depth: usize) -> Result<(), String> {
        let named = |error: std::io::Error| format!("{}: {error}", dir.display());
        for entry in fs::read_dir(dir).map_err(named)? {
            let entry = entry.map_err(named)?;
            let name = entry.file_name();
            let name = name.to_str().ok_or("a file's name is not UTF-8")?;
            let path = format!("{prefix}{name}");
            // Of the entry itself: a link is neither a file nor a folder.
            let metadata = entry.metadata().map_err(named)?;
            self.bytes = self.bytes.saturating_add(metadata.len());
            let bounded = self.bytes <= BYTES_MAX && self.files.len() < FILES_MAX;
            if !bounded || depth > DEPTH_MAX {
                return Err("the folder has more than a bundle can have".to_owned());
            }
            if metadata.is_dir() {
                self.read(&entry.path(), &format!("{path}/"), depth + 1)?;
            } else if metadata.is_file() {
                let bytes = fs::read(entry.path()).map_err(named)?;
                self.files.insert(path, bytes);
            } else {
                return Err(format!("{path} is neither a file nor a folder"));
            }
        }
        Ok(())
    }
}

/// A receipt that is signed and reads.
struct Receipt {
    prev: Digest,
    digest: Digest,
    time: Timestamp,
    leaf: Digest,
}

/// The log as its signed checkpoint has it.
struct Log {
    note: Note,
    checkpoint: Checkpoint,
}

fn check_files(files: &Files<'_>, pinned: Option<&Pinned>) -> BundleReport {
    let mut check = Check::new(files, pinned);
    check.names();
    check.sums();
    let log = check.log(pinned);
    check.manifest(log.as_ref());
    let receipts = check.receipts(log.as_ref());
    check.chain(&receipts);
    check.policies();
    if let Some(log) = &log {
        check.tiles(&log.checkpoint, &receipts);
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
    keys: Keys,
    errors: Vec<String>,
    trust: Option<Trust>,
}

impl<'a> Check<'a> {
    fn new(files: &'a Files<'a>, pinned: Option<&Pinned>) -> Self {
        let mut check = Self { files, keys: Keys::default(), errors: Vec::new(), trust: None };
        let given = pinned.filter(|pinned| !pinned.keys.is_empty());
        for spki in given.iter().flat_map(|pinned| &pinned.keys) {
            check.keys.insert(spki, given.map_or(Trust::Unknown, |pinned| pinned.trust));
        }
        for (path, pem) in files.iter().filter(|(path, _)| path.ends_with(".pem")) {
            let spki = str::from_utf8(pem).ok().and_then(keys::from_pem);
            match spki {
                Some(spki) if evidence::key_path(&Digest::of(&spki)) == **path => {
                    if given.is_none() {
                        check.keys.insert(&spki, Trust::Unknown);
                    }
                }
                _ => check.error(format!("{path} is not the key that its name says")),
            }
        }
        check
    }

    fn error(&mut self, error: impl Into<String>) {
        if self.errors.len() < ERRORS_MAX {
            self.errors.push(error.into());
        }
    }

    fn report(self) -> BundleReport {
        BundleReport {
            valid: self.errors.is_empty(),
            receipts: 0,
            errors: self.errors,
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
            self.error(format!("{path} is missing"));
        }
        file
    }

    fn names(&mut self) {
        let unknown: Vec<&str> = self.files.keys().copied().filter(|path| !known(path)).collect();
        for path in unknown {
            self.error(format!("{path} is not a file of a bundle"));
        }
        self.file(evidence::VERIFY);
        let cost = self.file(evidence::COST);
        if cost.is_some_and(|c| serde_json::from_slice::<serde::de::IgnoredAny>(c).is_err()) {
            self.error("cost.json is not JSON");
        }
    }

    fn sums(&mut self) {
        let Some(listed) = self.file(evidence::SUMS) else { return };
        let expected = evidence::sums(self.files);
        if listed == expected.as_bytes() {
            return;
        }
        let listed: BTreeSet<&[u8]> = listed.split(|byte| *byte == b'\n').collect();
        self.error("SHA256SUMS does not list exactly these files");
        for line in expected.lines().filter(|line| !listed.contains(line.as_bytes())) {
            let path = line.split_once("  ").map_or(line, |(_, path)| path);
            self.error(format!("{path} was changed: SHA256SUMS lists other bytes"));
        }
    }

    /// The signed payload of an envelope.
    fn envelope(&mut self, name: &str, bytes: &[u8]) -> Option<Verified> {
        match verify::verify_envelope(bytes, &self.keys, &NativeVerifier) {
            Ok(verified) => {
                self.rests_on(verified.trust);
                Some(verified)
            }
            Err(error) => {
                self.error(format!("{name}: {error}"));
                None
            }
        }
    }

    fn statement(&mut self, name: &str, bytes: &[u8]) -> Option<(Verified, Statement)> {
        let verified = self.envelope(name, bytes)?;
        match Statement::parse(&verified.payload) {
            Ok(statement) => Some((verified, statement)),
            Err(error) => {
                self.error(format!("{name}: {error}"));
                None
            }
        }
    }

    fn log(&mut self, pinned: Option<&Pinned>) -> Option<Log> {
        let brought = self.file(evidence::VKEY);
        let note = self.file(evidence::CHECKPOINT)?;
        let brought = brought.and_then(|text| str::from_utf8(text).ok()?.trim_end().parse().ok());
        let given = pinned.and_then(|p| p.vkey.clone().map(|vkey| (vkey, p.trust)));
        let Some((vkey, trust)) = given.or_else(|| Some((brought?, Trust::Unknown))) else {
            self.error(format!("{} is not a verifier key", evidence::VKEY));
            return None;
        };
        let checked = Note::parse(note).map_err(verify::Error::from).and_then(|note| {
            let checkpoint = verify::verify_checkpoint(&note, &vkey, &NativeVerifier)?;
            Ok(Log { note, checkpoint })
        });
        match checked {
            Ok(log) => {
                self.rests_on(trust);
                Some(log)
            }
            Err(error) => {
                self.error(format!("{}: {error}", evidence::CHECKPOINT));
                None
            }
        }
    }

    fn manifest(&mut self, log: Option<&Log>) {
        let Some(bytes) = self.file(evidence::MANIFEST) else { return };
        let Some(verified) = self.envelope(evidence::MANIFEST, bytes) else { return };
        let Ok(manifest) = serde_json::from_slice::<Manifest>(&verified.payload) else {
            self.error("the manifest is not a statement of an evidence bundle");
            return;
        };
        let types = (manifest.statement_type.as_str(), manifest.predicate_type.as_str());
        if types != (kernel::receipt::STATEMENT_TYPE, evidence::PREDICATE_TYPE) {
            self.error("the manifest is not a statement of an evidence bundle");
        }
        if manifest.subject != evidence::subjects(self.files) {
            self.error("the manifest does not name exactly these files with these digests");
        }
        let contents = &manifest.predicate;
        if log.is_some_and(|Log { checkpoint, .. }| {
            let Checkpoint { origin, size, root } = checkpoint;
            (&contents.origin, &contents.size, &contents.root) != (origin, size, root)
        }) {
            self.error("the manifest is of another checkpoint");
        }
        let full = self.files.keys().any(|path| path.starts_with("log/tile/entries/"));
        let receipts = self.files.keys().filter_map(|path| receipt_index(path)).count();
        if full != contents.full_log || u64::try_from(receipts) != Ok(contents.receipts) {
            self.error("the manifest says that other receipts are here");
        }
    }

    /// Checks each receipt by itself and against the checkpoint.
    fn receipts(&mut self, log: Option<&Log>) -> BTreeMap<u64, Receipt> {
        let indices: BTreeSet<u64> = self.files.keys().filter_map(|path| any_index(path)).collect();
        if indices.is_empty() {
            self.error("there is no receipt");
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
        let path = evidence::receipt_path(index);
        let sigstore = self.file(&evidence::sigstore_path(index));
        let proof = self.file(&evidence::proof_path(index));
        let bytes = self.file(&path)?;
        let (verified, statement) = self.statement(&path, bytes)?;
        if sigstore.is_some_and(|s| s != evidence::sigstore_bundle(bytes, &verified.key_id)) {
            self.error(format!("{} is not the receipt", evidence::sigstore_path(index)));
        }
        let position = &statement.predicate.log;
        if position.index != index {
            self.error(format!("{path} is receipt {}", position.index));
        }
        let leaf = tree::leaf_hash(bytes);
        if let Some(log) = log {
            if position.origin != log.checkpoint.origin {
                self.error(format!("{path} is of the log {}", position.origin));
            }
            if let Some(error) = proof.and_then(|proof| check_proof(proof, index, &leaf, log)) {
                self.error(format!("{}: {error}", evidence::proof_path(index)));
            }
        }
        let digest = Digest::of(&verified.payload);
        Some(Receipt { prev: position.prev, digest, time: statement.predicate.time_us, leaf })
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
                self.error(format!("receipt {index} does not follow the one before it"));
            }
            before = Some((*index, receipt));
        }
    }

    fn policies(&mut self) {
        let policies = self.files.iter().filter(|(path, _)| path.starts_with("policy/"));
        let changed: Vec<&str> = policies
            .filter(|(path, bytes)| evidence::policy_path(&Digest::of(bytes)) != **path)
            .map(|(path, _)| *path)
            .collect();
        for path in changed {
            self.error(format!("{path} is not the policy that its name says"));
        }
    }

    /// The tiles are all there or none, and lead from the receipts to the checkpoint.
    fn tiles(&mut self, checkpoint: &Checkpoint, receipts: &BTreeMap<u64, Receipt>) {
        let size = checkpoint.size;
        let tiles: BTreeSet<Tile> = self.files.keys().filter_map(|path| tile_of(path)).collect();
        if size > evidence::TILED_LOG_MAX {
            if !tiles.is_empty() {
                self.error("so large a log has no tiles in a bundle");
            }
            return;
        }
        let full = tiles.iter().any(|tile| tile.kind() == tile::Kind::Entries);
        if full && size > limits::BUNDLE_RECEIPTS_MAX {
            self.error("so large a log has no entry tiles in a bundle");
            return;
        }
        let entries = tile::entry_tiles(0, if full { size } else { 0 });
        let expected: BTreeSet<Tile> = tile::hash_tiles(0, size).chain(entries).collect();
        if tiles != expected {
            self.error("log/tile does not have exactly the tiles of this log");
            return;
        }
        let Some(leaves) = self.hash_tiles(size) else { return };
        let mut frontier = Frontier::default();
        leaves.iter().for_each(|leaf| frontier.push(*leaf));
        if frontier.root() != checkpoint.root {
            self.error("the hash tiles lead to another root than the checkpoint");
        }
        for (index, receipt) in receipts {
            let leaf = usize::try_from(*index).ok().and_then(|at| leaves.get(at));
            if leaf != Some(&receipt.leaf) {
                self.error(format!("the hash tiles have another receipt {index}"));
            }
        }
        if full {
            self.entries(checkpoint, &leaves);
        }
    }

    /// The leaf hashes, where the tiles of each level are those of the level below.
    fn hash_tiles(&mut self, size: u64) -> Option<Vec<Digest>> {
        let mut levels: BTreeMap<tile::Kind, Vec<Digest>> = BTreeMap::new();
        for tile in tile::hash_tiles(0, size) {
            let content = self.file(&format!("{}{tile}", evidence::LOG))?;
            match tile::decode_hashes(content, tile.width()) {
                Ok(hashes) => levels.entry(tile.kind()).or_default().extend(hashes),
                Err(error) => self.error(format!("{tile}: {error}")),
            }
        }
        let mut levels = levels.into_values();
        let leaves = levels.next()?;
        let mut below = leaves.clone();
        for level in levels {
            let full = below.chunks_exact(tile::TILE_WIDTH.into());
            let roots: Vec<Digest> = full.filter_map(tree::subtree_root).collect();
            if roots != level {
                self.error("a hash tile does not follow from those below it");
            }
            below = level;
        }
        Some(leaves)
    }

    /// Every entry of a full log is a signed receipt that follows the one before.
    fn entries(&mut self, checkpoint: &Checkpoint, leaves: &[Digest]) {
        let mut end = ChainEnd::start(checkpoint.origin.as_str());
        let mut leaves = leaves.iter();
        for tile in tile::entry_tiles(0, checkpoint.size) {
            let Some(content) = self.file(&format!("{}{tile}", evidence::LOG)) else { return };
            let entries = match tile::decode_entries(content, tile.width()) {
                Ok(entries) => entries,
                Err(error) => return self.error(format!("{tile}: {error}")),
            };
            for entry in entries {
                let name = format!("entry {}", end.size);
                if leaves.next() != Some(&tree::leaf_hash(entry)) {
                    return self.error(format!("{name} is not that of the hash tiles"));
                }
                let Some(verified) = self.envelope(&name, entry) else { return };
                if let Err(error) = end.follow(&verified.payload) {
                    return self.error(format!("{name}: {error}"));
                }
            }
        }
    }
}

fn check_proof(proof: &[u8], index: u64, leaf: &Digest, log: &Log) -> Option<String> {
    let proof = match TlogProof::parse(proof) {
        Ok(proof) => proof,
        Err(error) => return Some(error.to_string()),
    };
    // The very checkpoint that is verified already, so that its signature need not be again.
    if proof.index != index || proof.checkpoint != log.note || !proof.extra.is_empty() {
        return Some("it is of another receipt or checkpoint".to_owned());
    }
    let Checkpoint { size, root, .. } = &log.checkpoint;
    let proven = tree::verify_inclusion(leaf, index, *size, root, &proof.hashes);
    proven.err().map(|error| error.to_string())
}

fn number(path: &str, prefix: &str, suffix: &str) -> Option<u64> {
    let digits = path.strip_prefix(prefix)?.strip_suffix(suffix)?;
    let number: u64 = digits.parse().ok()?;
    (number.to_string() == digits).then_some(number)
}

fn receipt_index(path: &str) -> Option<u64> {
    number(path, "receipts/", ".dsse.json")
}

/// The index of the receipt that a file belongs to.
fn any_index(path: &str) -> Option<u64> {
    receipt_index(path)
        .or_else(|| number(path, "receipts/", ".sigstore.json"))
        .or_else(|| number(path, "proofs/", ".tlog-proof"))
}

fn digest(path: &str, prefix: &str, suffix: &str) -> Option<Digest> {
    let digest = Digest::parse(path.strip_prefix(prefix)?.strip_suffix(suffix)?)?;
    (path == format!("{prefix}{}{suffix}", digest.hex())).then_some(digest)
}

fn tile_of(path: &str) -> Option<Tile> {
    path.strip_prefix(evidence::LOG)?.parse().ok()
}

/// Whether a bundle has files of this name.
fn known(path: &str) -> bool {
    let fixed = [
        evidence::CHECKPOINT,
        evidence::VKEY,
        evidence::COST,
        evidence::MANIFEST,
        evidence::SUMS,
        evidence::VERIFY,
    ];
    fixed.contains(&path)
        || any_index(path).is_some()
        || tile_of(path).is_some()
        || digest(path, "keys/", ".pem").is_some()
        || digest(path, "policy/", ".tar.gz").is_some()
}
