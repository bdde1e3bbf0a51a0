//! The tools: each is given all cases at once, and says of each what is wrong, if it sees it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ct_merkle::{InclusionProof, RootHash};

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use kernel::bundle::{CHECKPOINT, VERIFY, proof_path};
use serde_json::{Value, json};
use sha2::Sha256;
use signed_note::{Note, StandardVerifier, VerifierList};
use tlog_tiles::{Checkpoint, Hash, Tile, TileHashReader, TileReader};

use super::bundle::Bundle;
use super::scene::Scene;
use crate::common::{tally, text};

/// What a tool says of a bundle: nothing, or what is wrong.
pub(super) type Verdict = Result<(), String>;

/// A bundle to be judged.
pub(super) struct Subject {
    pub(super) bundle: Bundle,
    /// Where it is unpacked.
    pub(super) dir: PathBuf,
    /// A checkpoint of the log that whoever verifies held from before.
    pub(super) held: Option<Vec<u8>>,
}

/// Subjects by the names of their cases.
pub(super) type Subjects = BTreeMap<String, Subject>;

/// A tool by its name in the table.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) judge: fn(&Scene, &Subjects) -> BTreeMap<String, Verdict>,
}

/// All tools, in the order of the table's columns.
pub(super) const TOOLS: [Tool; 8] = [
    Tool { name: "sha256sum", judge: |scene, all| each(all, |one| sha256sum(scene, one)) },
    Tool { name: "openssl", judge: |scene, all| each(all, |one| openssl(scene, one)) },
    Tool { name: "securesystemslib, in-toto-attestation", judge: python },
    Tool { name: "@sigstore/verify", judge: sigstore },
    Tool {
        name: "tlog_tiles, signed_note",
        judge: |scene, all| each(all, |one| tiles(scene, one)),
    },
    Tool { name: "ct-merkle", judge: |_, all| each(all, ct_merkle) },
    Tool { name: "verifier.wasm", judge: wasm },
    Tool { name: "tally verify", judge: |scene, all| each(all, |one| own(scene, one)) },
];

fn each(all: &Subjects, judge: impl Fn(&Subject) -> Verdict) -> BTreeMap<String, Verdict> {
    all.iter().map(|(name, subject)| (name.clone(), judge(subject))).collect()
}

/// The `sh` blocks of the genuine VERIFY.md, in order.
fn blocks(scene: &Scene) -> Vec<String> {
    let text = String::from_utf8(scene.late.files[VERIFY].clone()).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn shell(block: &str, dir: &Path) -> Verdict {
    // What the blocks leave in temporary folders goes with the case.
    let temporary = dir.with_extension("tmp");
    fs::create_dir_all(&temporary).unwrap();
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", block]).current_dir(dir).env("TMPDIR", &temporary);
    let output = shell.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

/// The first block of VERIFY.md.
fn sha256sum(scene: &Scene, subject: &Subject) -> Verdict {
    shell(&blocks(scene)[0], &subject.dir)
}

/// The other blocks, after the keys were compared with the pinned ones, as VERIFY.md says.
fn openssl(scene: &Scene, subject: &Subject) -> Verdict {
    if let Err(error) = Command::new("openssl").arg("version").output() {
        panic!("openssl: {error}: install it, or run `cargo xtask test`, which does");
    }
    pinned(subject, "keys/", (&scene.pems, &scene.log_key))?;
    pinned(subject, "control/keys/", (&scene.control_pems, &scene.control_key))?;
    let blocks = blocks(scene);
    assert!(blocks.len() >= 4, "VERIFY.md has its blocks");
    blocks[1..].iter().try_for_each(|block| shell(block, &subject.dir))
}

/// Whether the keys below a folder are those that the tenant publishes.
fn pinned(subject: &Subject, folder: &str, (pems, log_key): (&[String], &str)) -> Verdict {
    let keys = subject.bundle.files.iter().filter(|(path, _)| path.starts_with(folder));
    for (path, file) in keys {
        let pinned = match path.strip_suffix(".pem") {
            Some(_) => pems.iter().any(|pem| *file == pem.as_bytes()),
            None => *file == format!("{log_key}\n").as_bytes(),
        };
        if !pinned {
            return Err(format!("{path} is not the pinned key"));
        }
    }
    Ok(())
}

/// The variable `name`, which `cargo xtask test` sets.
fn installed(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: run `cargo xtask test`, or `eval \"$(cargo xtask foreign)\"`")
    })
}

/// Runs a script that reads all cases and answers all of them.
fn script(command: &mut Command, questions: &Value) -> BTreeMap<String, Verdict> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    // It reads all of it before it writes anything.
    child.stdin.take().unwrap().write_all(questions.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    let answers: BTreeMap<String, Option<String>> = serde_json::from_slice(&output.stdout).unwrap();
    answers.into_iter().map(|(name, wrong)| (name, wrong.map_or(Ok(()), Err))).collect()
}

fn path_of(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(script)
}

fn questions(scene: &Scene, all: &Subjects) -> Value {
    let ask = |subject: &Subject| {
        let held = subject.held.as_deref().map(|held| str::from_utf8(held).unwrap());
        json!({
            "dir": subject.dir, "keys": scene.pems, "control_keys": scene.control_pems,
            "published": scene.published,
            "log_key": scene.log_key, "since": held, "hashes": growth(subject),
        })
    };
    all.iter().map(|(name, subject)| (name.clone(), ask(subject))).collect()
}

/// The consistency proof that whoever made the bundle would give, from the held checkpoint.
fn growth(subject: &Subject) -> Vec<String> {
    let (size, held) = (subject.bundle.size(), subject.held.as_deref().map(unverified));
    match held.filter(|held| held.size() < size) {
        Some(held) => {
            let proof =
                tlog_tiles::prove_tree(size, held.size(), &Leaves::of(&subject.bundle)).unwrap();
            proof.iter().map(|hash| hex::encode(hash.0)).collect()
        }
        None => Vec::new(),
    }
}

/// The stored hashes of the leaves of a bundle, as tlog_tiles numbers them.
struct Leaves(Vec<Hash>);

impl Leaves {
    fn of(bundle: &Bundle) -> Self {
        let mut stored = Self(Vec::new());
        for (index, entry) in (0..).zip(bundle.receipts()) {
            let hashes = tlog_tiles::stored_hashes(index, &entry, &stored).unwrap();
            stored.0.extend(hashes);
        }
        stored
    }
}

impl tlog_tiles::HashReader for Leaves {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
    }
}

fn python(scene: &Scene, all: &Subjects) -> BTreeMap<String, Verdict> {
    let mut python = Command::new(installed("TALLY_FOREIGN_PYTHON"));
    script(python.arg(path_of("verify.py")), &questions(scene, all))
}

fn sigstore(scene: &Scene, all: &Subjects) -> BTreeMap<String, Verdict> {
    let modules = installed("TALLY_FOREIGN_NODE_MODULES");
    let mut node = Command::new("node");
    script(node.arg(path_of("sigstore.mjs")).arg(modules), &questions(scene, all))
}

/// None of the cases where it cannot be built on this machine, which `cargo xtask test` says.
fn wasm(scene: &Scene, all: &Subjects) -> BTreeMap<String, Verdict> {
    let verifier = installed("TALLY_FOREIGN_VERIFIER");
    if verifier == "not-checked" {
        println!("verifier.wasm: NOT CHECKED (no wasm32 target)");
        return BTreeMap::new();
    }
    let mut node = Command::new("node");
    script(node.arg(path_of("verifier.mjs")).arg(verifier), &questions(scene, all))
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn unverified(note: &[u8]) -> Checkpoint {
    Checkpoint::from_bytes(Note::from_bytes(note).unwrap().text()).unwrap()
}

/// The checkpoint that the pinned key signed.
fn signed(key: &str, note: &[u8]) -> Result<Checkpoint, String> {
    let verifier = StandardVerifier::new(key).unwrap();
    let note = Note::from_bytes(note).map_err(said)?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(said)?;
    Checkpoint::from_bytes(note.text()).map_err(|_| "malformed".to_owned())
}

/// The hash tiles of a bundle.
struct BundleTiles<'a>(&'a Bundle);

impl TileReader for BundleTiles<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let read = |tile: &Tile| {
            // Their paths name the height too.
            let path = format!("log/{}", tile.path().replacen("tile/8/", "tile/", 1));
            self.0.files.get(&path).cloned().ok_or(tlog_tiles::Error::InvalidTile)
        };
        tiles.iter().map(read).collect()
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

/// The checkpoint's signature, each receipt under it by the tiles and by its proof, and that the
/// log grew from the held checkpoint.
fn tiles(scene: &Scene, subject: &Subject) -> Verdict {
    let bundle = &subject.bundle;
    let checkpoint = signed(&scene.log_key, &bundle.checkpoint())?;
    let (size, root) = (checkpoint.size(), *checkpoint.hash());
    let tiles = BundleTiles(bundle);
    let reader = TileHashReader::new(size, root, &tiles);
    for index in bundle.indices() {
        let leaf = tlog_tiles::record_hash(&bundle.receipt(index));
        let by_tiles = tlog_tiles::prove_record(size, index, &reader).map_err(said)?;
        tlog_tiles::check_record(&by_tiles, size, root, index, leaf).map_err(said)?;
        let (stated, hashes, under) = proof(&bundle.files[&proof_path(index)])?;
        if stated != index || under != bundle.files[CHECKPOINT] {
            return Err("the proof is of something else".to_owned());
        }
        tlog_tiles::check_record(&hashes, size, root, index, leaf).map_err(said)?;
    }
    if let Some(control) = bundle.control() {
        // Of the control log there are proofs, and no tiles.
        let checkpoint = signed(&scene.control_key, &control.checkpoint())?;
        for index in control.indices() {
            let (stated, hashes, under) = proof(&control.files[&proof_path(index)])?;
            if stated != index || under != control.files[CHECKPOINT] {
                return Err("a proof of the control log is of something else".to_owned());
            }
            let leaf = tlog_tiles::record_hash(&control.receipt(index));
            let (size, root) = (checkpoint.size(), *checkpoint.hash());
            tlog_tiles::check_record(&hashes, size, root, index, leaf).map_err(said)?;
        }
    }
    let Some(held) = subject.held.as_deref() else { return Ok(()) };
    let held = signed(&scene.log_key, held)?;
    if held.size() > size {
        return Err(format!("{} receipts, {} before", size, held.size()));
    }
    let grown = tlog_tiles::prove_tree(size, held.size(), &reader).map_err(said)?;
    tlog_tiles::check_tree(&grown, size, root, held.size(), *held.hash()).map_err(said)
}

/// Index, hashes and checkpoint of a tlog-proof, read as C2SP describes it.
fn proof(text: &[u8]) -> Result<(u64, Vec<Hash>, Vec<u8>), String> {
    let text = str::from_utf8(text).map_err(said)?;
    let (head, checkpoint) = text.split_once("\n\n").ok_or("no empty line")?;
    let mut lines = head.lines();
    if lines.next() != Some("c2sp.org/tlog-proof@v1") {
        return Err("another header".to_owned());
    }
    let index = lines.next().and_then(|line| line.strip_prefix("index ")).ok_or("no index")?;
    let hashes = lines.map(|line| BASE64.decode(line).map_err(said)).map(|hash| {
        let hash = <[u8; 32]>::try_from(hash?).map_err(|_| "no hash".to_owned());
        hash.map(Hash)
    });
    let hashes = hashes.collect::<Result<_, _>>()?;
    Ok((index.parse().map_err(said)?, hashes, checkpoint.as_bytes().to_vec()))
}

/// Each receipt by its proof, and of a full log the tree built anew. It checks no signature.
fn ct_merkle(subject: &Subject) -> Verdict {
    let bundle = &subject.bundle;
    let checkpoint = unverified(&bundle.checkpoint());
    let root_of = |checkpoint: &Checkpoint| {
        RootHash::<Sha256>::new(checkpoint.hash().0.into(), checkpoint.size())
    };
    let root = root_of(&checkpoint);
    let mut tree = MemoryBackedTree::<Sha256, Vec<u8>>::new();
    for index in bundle.indices() {
        let (stated, hashes, _) = proof(&bundle.files[&proof_path(index)])?;
        let hashes = hashes.iter().flat_map(|hash| hash.0).collect();
        let proof = InclusionProof::try_from_bytes(hashes).map_err(|e| format!("{e:?}"))?;
        let receipt = bundle.receipt(index);
        root.verify_inclusion(&receipt, stated, &proof).map_err(|e| format!("{e:?}"))?;
        tree.push(receipt);
    }
    if let Some(control) = bundle.control() {
        let root = root_of(&unverified(&control.checkpoint()));
        for index in control.indices() {
            let (stated, hashes, _) = proof(&control.files[&proof_path(index)])?;
            let hashes = hashes.iter().flat_map(|hash| hash.0).collect();
            let proof = InclusionProof::try_from_bytes(hashes).map_err(|e| format!("{e:?}"))?;
            let receipt = control.receipt(index);
            root.verify_inclusion(&receipt, stated, &proof).map_err(|e| format!("{e:?}"))?;
        }
    }
    let full = bundle.files.keys().any(|path| path.starts_with("log/tile/entries/"));
    if full && tree.root() != root {
        return Err("the receipts lead to another root".to_owned());
    }
    let Some(held) = subject.held.as_deref().map(unverified) else { return Ok(()) };
    let more = checkpoint.size().checked_sub(held.size()).ok_or("the tree has shrunk")?;
    let grown = tree.prove_consistency(usize::try_from(more).unwrap());
    tree.root().verify_consistency(&root_of(&held), &grown).map_err(|error| format!("{error:?}"))
}

/// Our own program, on a folder with the log's first key pinned and on an archive with all that the
/// tenant publishes, and the server, which pins its own keys and compares with no older checkpoint:
/// they have to agree.
fn own(scene: &Scene, subject: &Subject) -> Verdict {
    let named = ["pem", "json", "tar", "held"].map(|name| subject.dir.with_extension(name));
    let [key, keys, tar, held] = named;
    fs::write(&key, &scene.pems[0]).unwrap();
    fs::write(&keys, scene.published.to_string()).unwrap();
    fs::write(&tar, subject.bundle.tar()).unwrap();
    let name = |path: &Path| path.to_str().unwrap().to_owned();
    let mut pins = ["--json", "--log-key", &scene.log_key].map(str::to_owned).to_vec();
    if let Some(checkpoint) = &subject.held {
        fs::write(&held, checkpoint).unwrap();
        pins.extend(["--since".to_owned(), name(&held)]);
    }
    let verify = |path: &Path, option: &str, keys: &Path| {
        let given = ["verify".to_owned(), name(path), option.to_owned(), name(keys)];
        let arguments = [given.as_slice(), &pins].concat();
        tally(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let folder = verify(&subject.dir, "--key", &key);
    let archive = verify(&tar, "--keys", &keys);
    let arguments = ["evidence", "verify", tar.to_str().unwrap()];
    let server = scene.server.tally(&scene.server.owner_key(), &arguments);
    let outputs = [&folder, &archive, &server];
    let (codes, texts) = (outputs.map(|output| output.status.code()), outputs.map(text));
    match codes {
        [Some(0), Some(0), Some(0)] => Ok(()),
        [Some(6), Some(6), Some(6)] => Err(texts.join("\n")),
        // Good by itself, and not what was held.
        [Some(8), Some(8), Some(0)] if subject.held.is_some() => Err(texts.join("\n")),
        _ => panic!("they do not agree: {codes:?} {texts:?}"),
    }
}
