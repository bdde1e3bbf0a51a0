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

/// One question.
#[derive(Debug, Deserialize)]
#[serde(tag = "check", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Question {
    /// Is this receipt signed by one of these keys, and well formed?
    Receipt {
        envelope: Bytes,
        keys: Vec<String>,
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
}
