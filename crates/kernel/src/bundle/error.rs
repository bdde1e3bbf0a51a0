//! What can be wrong with evidence.

use super::run;
use crate::{proof, receipt, signing_key, tile, verify};

/// What is wrong with a bundle, or with a receipt by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nothing could be read.
    #[error("{0}")]
    Unreadable(String),
    /// Not an archive in the form of a bundle.
    #[error("not an evidence bundle: byte {0} of the tar is not as we write it")]
    Archive(usize),
    /// A file lacks.
    #[error("{0} is missing")]
    Missing(String),
    /// A file that no bundle has.
    #[error("{0} is not a file of a bundle")]
    Unknown(String),
    /// A key file of another key, or of none.
    #[error("{0} is not the key that its name says")]
    KeyName(String),
    /// Something is wrong with what is of the control log.
    #[error("of the control log: {0}")]
    Control(Box<Error>),
    /// What is of the control log is of another log.
    #[error("control/ is of the log {0}, which is not the control log of this one")]
    ControlLog(String),
    /// More of the control log than tells of what the run rests on, or of a run at all.
    #[error("control/ has what no run here rests on")]
    ControlSurplus,
    /// Policies lack or are too many.
    #[error("policy/ does not have exactly the policies that decided in the run")]
    Policies,
    /// A workflow's text that is not the one that ran, or none where there should be one.
    #[error("workflow/ does not have exactly the text that the run was bound to")]
    Workflow,
    /// The receipts do not tell of the run, or tell something else.
    #[error(transparent)]
    Run(run::Error),
    /// The manifest says that it is about something else.
    #[error("the manifest has another digest of what the bundle is about")]
    ManifestContent,
    /// The costs are not JSON.
    #[error("cost.json is not JSON")]
    Cost,
    /// The list of digests is not that of these files.
    #[error("SHA256SUMS does not list exactly these files")]
    Sums,
    /// A file has another digest than its list says.
    #[error("{0} was changed: SHA256SUMS lists other bytes")]
    Changed(String),
    /// A signature does not count.
    #[error("{name}: {error}")]
    Signature {
        /// What is signed.
        name: String,
        /// Why not.
        error: verify::Error,
    },
    /// What is signed is no receipt, or not the one that is due.
    #[error("{name}: {error}")]
    Receipt {
        /// Which one.
        name: String,
        /// Why not.
        error: receipt::Error,
    },
    /// A key signed what was not its own, or the log hands over wrongly.
    #[error(transparent)]
    Key(signing_key::Error),
    /// An entry hands over where the receipts do not.
    #[error("entry {0} hands over to a key that is not the log's next")]
    HiddenHandover(u64),
    /// The log hands over to keys that are known not to be its own.
    #[error("the log hands over to other keys than those that are known to be its own")]
    KnownKeys,
    /// Key files lack or are too many.
    #[error("keys/ does not have exactly the receipt keys of this log")]
    KeyFiles,
    /// The manifest names other keys than the handovers do.
    #[error("the manifest says that the log has other receipt keys")]
    ManifestKeys,
    /// The manifest is signed by a key that is not the log's any more, or not yet.
    #[error("the manifest is not signed by the key that signs the log")]
    ManifestSigner,
    /// A receipt under the name of another.
    #[error("{path} is receipt {index}")]
    Place {
        /// Its file.
        path: String,
        /// The index that it names.
        index: u64,
    },
    /// A receipt of another log.
    #[error("{path} is of the log {origin}")]
    OtherLog {
        /// Its file.
        path: String,
        /// The log that it names.
        origin: String,
    },
    /// A Sigstore bundle of something else.
    #[error("{0} is not the receipt")]
    Sigstore(String),
    /// A proof that proves nothing.
    #[error("{path}: {error}")]
    Proof {
        /// Its file.
        path: String,
        /// Why not.
        error: proof::Error,
    },
    /// A proof about something else.
    #[error("{0}: it is of another receipt or checkpoint")]
    ProofOfOther(String),
    /// No verifier key.
    #[error("keys/log.vkey is not a verifier key")]
    VerifierKey,
    /// No statement of a bundle.
    #[error("the manifest is not a statement of an evidence bundle")]
    Manifest,
    /// The manifest is of other files.
    #[error("the manifest does not name exactly these files with these digests")]
    ManifestFiles,
    /// The manifest is of another checkpoint.
    #[error("the manifest is of another checkpoint")]
    ManifestCheckpoint,
    /// The manifest counts other receipts.
    #[error("the manifest says that other receipts are here")]
    ManifestReceipts,
    /// A bundle of nothing.
    #[error("there is no receipt")]
    Empty,
    /// A gap, a repetition or another order.
    #[error("receipt {0} does not follow the one before it")]
    Chain(u64),
    /// A policy file of another policy.
    #[error("{0} is not the policy that its name says")]
    Policy(String),
    /// Tiles where there can be none.
    #[error("so large a log has no {0}tiles in a bundle")]
    TilesTooMany(&'static str),
    /// Tiles lack or are too many.
    #[error("log/tile does not have exactly the tiles of this log")]
    Tiles,
    /// A tile is malformed.
    #[error("{name}: {error}")]
    Tile {
        /// Which one.
        name: String,
        /// Why.
        error: tile::Error,
    },
    /// A level of tiles does not have the roots of the one below.
    #[error("a hash tile does not follow from those below it")]
    TileLevel,
    /// The tiles are of another tree.
    #[error("the hash tiles lead to another root than the checkpoint")]
    TileRoot,
    /// The tiles have another leaf.
    #[error("the hash tiles have another receipt {0}")]
    TileLeaf(u64),
    /// The entries have another leaf.
    #[error("{0} is not that of the hash tiles")]
    Entry(String),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable(_) => "bundle_unreadable",
            Self::Archive(_) => "bundle_archive",
            Self::Missing(_) => "bundle_file_missing",
            Self::Unknown(_) => "bundle_file_unknown",
            Self::KeyName(_) => "bundle_key_name",
            Self::Control(error) => error.code(),
            Self::ControlLog(_) => "bundle_control_log",
            Self::ControlSurplus => "bundle_control_surplus",
            Self::Policies => "bundle_policies",
            Self::Workflow => "bundle_workflow",
            Self::Run(error) => error.code(),
            Self::ManifestContent => "bundle_manifest_content",
            Self::Cost => "bundle_cost",
            Self::Sums => "bundle_sums",
            Self::Changed(_) => "bundle_file_changed",
            Self::Signature { error, .. } => error.code(),
            Self::Receipt { error, .. } => error.code(),
            Self::Key(error) => error.code(),
            Self::HiddenHandover(_) => "bundle_handover",
            Self::KnownKeys => "bundle_known_keys",
            Self::KeyFiles => "bundle_key_files",
            Self::ManifestKeys => "bundle_manifest_keys",
            Self::ManifestSigner => "bundle_manifest_signer",
            Self::Place { .. } => "bundle_receipt_place",
            Self::OtherLog { .. } => "bundle_receipt_log",
            Self::Sigstore(_) => "bundle_sigstore",
            Self::Proof { error, .. } => error.code(),
            Self::ProofOfOther(_) => "bundle_proof",
            Self::VerifierKey => "note_verifier_key",
            Self::Manifest => "bundle_manifest",
            Self::ManifestFiles => "bundle_manifest_files",
            Self::ManifestCheckpoint => "bundle_manifest_checkpoint",
            Self::ManifestReceipts => "bundle_manifest_receipts",
            Self::Empty => "bundle_empty",
            Self::Chain(_) => "bundle_chain",
            Self::Policy(_) => "bundle_policy",
            Self::TilesTooMany(_) | Self::Tiles => "bundle_tiles",
            Self::Tile { error, .. } => error.code(),
            Self::TileLevel => "bundle_tile_level",
            Self::TileRoot => "bundle_tile_root",
            Self::TileLeaf(_) => "bundle_tile_leaf",
            Self::Entry(_) => "bundle_entry",
        }
    }

    pub(super) fn checkpoint(error: impl Into<verify::Error>) -> Self {
        Self::Signature { name: super::CHECKPOINT.to_owned(), error: error.into() }
    }

    pub(super) fn proof(path: &str, error: impl Into<proof::Error>) -> Self {
        Self::Proof { path: path.to_owned(), error: error.into() }
    }
}
