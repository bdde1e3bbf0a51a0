//! What may be asked.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Deserializer};

/// Bytes, in base64.
#[derive(Debug)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Self).map_err(serde::de::Error::custom)
    }
}

/// What vouches for the keys of a question: a key of which nobody says so is just supplied.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trust {
    /// Whoever asks named them.
    #[default]
    CallerSupplied,
    /// The verifier was set up with them.
    Pinned,
}

impl From<Trust> for kernel::verify::Trust {
    fn from(trust: Trust) -> Self {
        match trust {
            Trust::CallerSupplied => Self::CallerSupplied,
            Trust::Pinned => Self::Pinned,
        }
    }
}

/// An index of a log. The API writes 64 bits as a text.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(try_from = "IndexForm")]
pub(crate) struct Index(pub(crate) u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum IndexForm {
    Number(u64),
    Text(String),
}

impl TryFrom<IndexForm> for Index {
    type Error = std::num::ParseIntError;

    fn try_from(form: IndexForm) -> Result<Self, Self::Error> {
        match form {
            IndexForm::Number(number) => Ok(Self(number)),
            IndexForm::Text(text) => text.parse().map(Self),
        }
    }
}

/// The keys of a tenant as it publishes them: the answer of `GET /v1/trust/tenants/{tenant}/keys`,
/// of which only this is read.
#[derive(Debug, Deserialize)]
pub(crate) struct Published {
    pub(crate) keys: Vec<PublishedKey>,
}

/// One key of them.
#[derive(Debug, Deserialize)]
pub(crate) struct PublishedKey {
    #[serde(default)]
    pub(crate) purpose: String,
    #[serde(default)]
    pub(crate) public_key_pem: String,
    #[serde(default)]
    pub(crate) origin: String,
    #[serde(default)]
    pub(crate) from_index: Index,
    #[serde(default)]
    pub(crate) to_index: Option<Index>,
}

/// One question.
#[derive(Debug, Deserialize)]
#[serde(tag = "check", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Is this receipt well formed and signed by one of these keys, or by the one of the published
    /// ones that is its log's at its index?
    Receipt {
        envelope: Bytes,
        #[serde(default)]
        keys: Vec<String>,
        #[serde(default)]
        published: Option<Published>,
        #[serde(default)]
        trust: Trust,
    },
    /// Is this checkpoint signed by the log?
    Checkpoint {
        checkpoint: Bytes,
        log_key: String,
        #[serde(default)]
        trust: Trust,
    },
    /// Does this tlog-proof show the receipt to be in the log?
    Inclusion {
        envelope: Bytes,
        proof: Bytes,
        log_key: String,
        #[serde(default)]
        trust: Trust,
    },
    /// Do these hashes show that the log under the old checkpoint only grew to the new one?
    Consistency {
        old: Bytes,
        new: Bytes,
        hashes: Vec<Bytes>,
        log_key: String,
        #[serde(default)]
        trust: Trust,
    },
    /// Is this evidence bundle whole and right? Without keys, those that it brings are used.
    Bundle {
        #[serde(default)]
        tar: Option<Bytes>,
        #[serde(default)]
        files: Option<BTreeMap<String, Bytes>>,
        #[serde(default)]
        keys: Vec<String>,
        /// Instead of `keys`.
        #[serde(default)]
        published: Option<Published>,
        #[serde(default)]
        log_key: Option<String>,
        #[serde(default)]
        trust: Trust,
        /// A checkpoint held from before, which the log has to continue.
        #[serde(default)]
        since: Option<Bytes>,
        /// Keys of witnesses, of whom `quorum` must have cosigned the checkpoint.
        #[serde(default)]
        witnesses: Vec<String>,
        #[serde(default)]
        quorum: usize,
    },
    /// Is this attestation of an execution what its receipt says, and of what ran? Without keys,
    /// those in the document are used.
    Attestation(Box<Attestation>),
}

/// A question about an attestation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attestation {
    pub(crate) document: Bytes,
    /// Now, in microseconds since 1970.
    pub(crate) now_us: i64,
    #[serde(default)]
    pub(crate) keys: Vec<String>,
    /// Instead of `keys`.
    #[serde(default)]
    pub(crate) published: Option<Published>,
    #[serde(default)]
    pub(crate) log_key: Option<String>,
    #[serde(default)]
    pub(crate) trust: Trust,
    /// How long ago the execution may have ended.
    #[serde(default)]
    pub(crate) max_age_s: Option<u32>,
    /// The execution that it has to be of.
    #[serde(default)]
    pub(crate) execution_id: Option<String>,
    /// What it has to tell at least.
    #[serde(default = "basic")]
    pub(crate) level: kernel::attestation::Level,
    /// The code.
    #[serde(default)]
    pub(crate) agent: Option<Bytes>,
    /// What it was given: JSON.
    #[serde(default)]
    pub(crate) input: Option<Bytes>,
    /// What it gave: JSON, or the text of its failure.
    #[serde(default)]
    pub(crate) output: Option<Bytes>,
}

fn basic() -> kernel::attestation::Level {
    kernel::attestation::Level::Basic
}
