//! Evidence bundles: which files there are, what they are named and what they hold, and the one
//! check of them, whoever runs it.

pub mod archive;
mod check;
mod error;
mod names;
pub mod run;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::check::{BundleReport, Pinned, verify_bundle, verify_files, verify_receipt};
pub use self::error::Error;
use crate::receipt::{Sha256, Subject};
use crate::signing_key::KeyRange;
use crate::values::{Digest, Timestamp};

/// Files by their path.
pub type Files<'a> = BTreeMap<&'a str, &'a [u8]>;

/// The type of a manifest's predicate.
pub const PREDICATE_TYPE: &str = "https://tally.dev/evidence/v1";
/// Receipts of a log whose bundles have its hash tiles: they take 134 MB then. Beyond it each
/// receipt still has its proof.
pub const TILED_LOG_MAX: u64 = 1 << 22;

/// The log's checkpoint.
pub const CHECKPOINT: &str = "log/checkpoint";
/// What the paths of the log's files begin with.
pub const LOG: &str = "log/";
/// The log's verifier key and a newline.
pub const VKEY: &str = "keys/log.vkey";
/// What the paths begin with of what is of the control log: its receipts, proofs, checkpoint and
/// keys, each under the name that it would have in a bundle of its own.
pub const CONTROL: &str = "control/";
/// What it cost, as JSON.
pub const COST: &str = "cost.json";
/// What a run did, where the bundle is about one.
pub const RUN: &str = "run.json";
/// The signed list of all other files.
pub const MANIFEST: &str = "manifest.dsse.json";
/// The list for `sha256sum -c`.
pub const SUMS: &str = "SHA256SUMS";
/// How to check all this with programs that are not ours.
pub const VERIFY: &str = "VERIFY.md";

/// An in-toto statement whose subjects are all files of a bundle but itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`crate::receipt::STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// Every file of the bundle but the manifest, by its path.
    pub subject: Vec<Subject>,
    /// [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it says of them.
    pub predicate: Contents,
}

/// What a manifest says of its bundle.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// The log.
    pub origin: String,
    /// How many receipts the log has under the checkpoint.
    pub size: u64,
    /// The root of the checkpoint.
    pub root: Digest,
    /// How many receipts the bundle has.
    pub receipts: u64,
    /// Whether all entries of the log are here too.
    pub full_log: bool,
    /// The log's receipt keys, each with the indices that it is valid for.
    pub keys: Vec<KeyRange>,
    /// The time of the last receipt under the checkpoint.
    pub created_us: Timestamp,
    /// [`content`] of the files: the same for the same receipts, whatever the log has had since.
    pub content: Digest,
}

/// The path of a receipt's envelope.
pub fn receipt_path(index: u64) -> String {
    format!("receipts/{index}.dsse.json")
}

/// The path of a receipt's Sigstore bundle.
pub fn sigstore_path(index: u64) -> String {
    format!("receipts/{index}.sigstore.json")
}

/// The path of a receipt's proof of inclusion.
pub fn proof_path(index: u64) -> String {
    format!("proofs/{index}.tlog-proof")
}

/// The path of a receipt key.
pub fn key_path(key_id: &Digest) -> String {
    format!("keys/{}.pem", key_id.hex())
}

/// The path of a policy bundle.
pub fn policy_path(digest: &Digest) -> String {
    format!("policy/{}.tar.gz", digest.hex())
}

/// The path of a workflow's text.
pub fn workflow_path(digest: &Digest) -> String {
    format!("workflow/{}.yaml", digest.hex())
}

/// The Sigstore bundle (v0.3) of an envelope, whose bytes stand in it unchanged.
pub fn sigstore_bundle(envelope: &[u8], key_id: &Digest) -> Vec<u8> {
    let head = format!(
        "{{\"mediaType\":\"application/vnd.dev.sigstore.bundle.v0.3+json\",\
         \"verificationMaterial\":{{\"publicKey\":{{\"hint\":\"{}\"}}}},\"dsseEnvelope\":",
        key_id.hex()
    );
    [head.as_bytes(), envelope, b"}"].concat()
}

/// The list that `sha256sum -c` reads: every file but the list itself and the manifest, which
/// names the list.
pub fn sums(files: &Files<'_>) -> String {
    let listed = files.iter().filter(|(path, _)| **path != SUMS && **path != MANIFEST);
    listed.map(|(path, bytes)| format!("{}  {path}\n", Digest::of(bytes).hex())).collect()
}

/// The subjects of the manifest: every file but itself.
pub fn subjects(files: &Files<'_>) -> Vec<Subject> {
    let named = files.iter().filter(|(path, _)| **path != MANIFEST);
    named
        .map(|(path, bytes)| {
            let digest = Sha256 { sha256: Digest::of(bytes) };
            Subject { name: (*path).to_owned(), digest }
        })
        .collect()
}

/// The digest of what a bundle is about: of the lines that [`sums`] has for its receipts (those of
/// the control log too), policies, workflow, costs and run. Checkpoint, tiles and proofs change as
/// the log grows, and so do its keys.
pub fn content(files: &Files<'_>) -> Digest {
    let listed = sums(files);
    let about = |path: &str| {
        let path = path.strip_prefix(CONTROL).unwrap_or(path);
        ["receipts/", "policy/", "workflow/"].iter().any(|folder| path.starts_with(folder))
            || [COST, RUN].contains(&path)
    };
    let lines = listed.split_inclusive('\n');
    let lines =
        lines.filter(|line| line.split_once("  ").is_some_and(|(_, p)| about(p.trim_end())));
    Digest::of(lines.collect::<String>().as_bytes())
}

/// Owned files as [`Files`].
pub fn borrowed(files: &BTreeMap<String, Vec<u8>>) -> Files<'_> {
    files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect()
}
