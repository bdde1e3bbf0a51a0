//! What a stranger is handed: the signed receipt, its proof, and what it says, in the open.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Attestation, ToolCall};
use crate::action::Status;
use crate::capability::{Capabilities, Capability};
use crate::ids::{ActionId, ToolId};
use crate::values::Digest;

/// An attestation with all that it takes to check it offline. Signed is the receipt alone; each
/// other field is compared with it or hashes to what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The execution: the action.
    pub execution_id: ActionId,
    /// The attempt that is attested.
    pub attempt: u32,
    /// How the action ended.
    pub status: Status,
    /// The envelope of the receipt of the outcome, as it is in the log.
    pub receipt: String,
    /// The envelope of the receipt by which a permit was drawn for the attempt.
    pub permit_receipt: String,
    /// The tlog-proof that the first of them is in the log.
    pub proof: String,
    /// The checkpoint that the proof leads to: a signed note.
    pub checkpoint: String,
    /// The key that signed the receipt of the outcome, PEM.
    pub receipt_key: String,
    /// The key that signed the other, PEM, where that is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub permit_receipt_key: Option<String>,
    /// The key of the log.
    pub log_key: String,
    /// What the receipt attests.
    pub attestation: Attestation,
    /// What it attests by hashes.
    pub disclosure: Disclosure,
}

/// What an attestation has hashes of. Whatever is absent is withheld.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disclosure {
    /// The salt: 32 hex digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub salt: Option<String>,
    /// What the code was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// What it wanted and was not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denials: Option<Vec<Denial>>,
    /// The files that it had and wrote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// The digests of the manifests of all the tools that it called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<BTreeMap<ToolId, Digest>>,
    /// All its calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
}

/// What a sandbox wanted and was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Denial {
    /// What kind.
    pub capability: Capability,
    /// What exactly: a path, a host and port, a name.
    pub wanted: String,
}

/// The files of an execution.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Files {
    /// Digests of the files that it had, by path.
    pub read: BTreeMap<String, Digest>,
    /// What it wrote, by path.
    pub written: BTreeMap<String, Written>,
}

/// A file that an execution wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// Of its content.
    pub digest: Digest,
    /// How long it is.
    pub bytes: u64,
}
