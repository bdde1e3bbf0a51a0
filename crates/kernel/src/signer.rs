//! The state machine of one principal's signing keys: the public keys with which approvers sign.

use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// How a key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// ECDSA P-256 with SHA-256, in ASN.1 DER.
    EcdsaP256Sha256,
    /// Ed25519.
    Ed25519,
}

impl Algorithm {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EcdsaP256Sha256 => "ecdsa_p256_sha256",
            Self::Ed25519 => "ed25519",
        }
    }
}

/// What changes the signing keys of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// A key was registered.
    #[serde(rename = "signer.key_registered")]
    Registered {
        /// The SHA-256 of its SubjectPublicKeyInfo in DER.
        key_id: Digest,
        /// How it signs.
        algorithm: Algorithm,
        /// That SubjectPublicKeyInfo, base64.
        public_key: String,
    },
    /// A key was removed: what it signs from then on counts for nothing.
    #[serde(rename = "signer.key_removed")]
    Removed {
        /// Which.
        key_id: Digest,
    },
}

/// What is asked of a principal's signing keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Register a key.
    Register {
        /// The SHA-256 of its SubjectPublicKeyInfo in DER.
        key_id: Digest,
        /// How it signs.
        algorithm: Algorithm,
        /// That SubjectPublicKeyInfo, base64.
        public_key: String,
    },
    /// Remove a key.
    Remove {
        /// Which.
        key_id: Digest,
    },
}

/// One public key of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The SHA-256 of its SubjectPublicKeyInfo in DER.
    pub key_id: Digest,
    /// How it signs.
    pub algorithm: Algorithm,
    /// That SubjectPublicKeyInfo, base64.
    pub public_key: String,
    /// Since when.
    pub registered_at: Timestamp,
    /// When it was removed.
    pub removed_at: Option<Timestamp>,
}

/// The signing keys of a principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signer {
    /// Whose.
    pub principal: PrincipalId,
    /// Every one that was registered, in order.
    pub keys: Vec<SigningKey>,
}

impl Signer {
    /// The key of that id, where it counts.
    pub fn key(&self, key_id: &Digest) -> Option<&SigningKey> {
        self.active().find(|key| key.key_id == *key_id)
    }

    /// The keys that count.
    pub fn active(&self) -> impl Iterator<Item = &SigningKey> {
        self.keys.iter().filter(|key| key.removed_at.is_none())
    }
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Signer>, input: Input) -> Result<Change, Refusal> {
    match input {
        Input::Register { key_id, algorithm, public_key } => {
            if public_key.len() > limits::SIGNING_KEY_BYTES_MAX.div_ceil(3).saturating_mul(4) {
                return Err(Refusal::InvalidInput("public_key: too long for a key of its kind"));
            }
            if let Some(signer) = state {
                // One that was removed may be in other hands: it does not come back.
                if signer.keys.iter().any(|key| key.key_id == key_id) {
                    return Err(Refusal::Exists);
                }
                let full = signer.active().count() >= limits::SIGNING_KEYS_MAX
                    || signer.keys.len() >= limits::SIGNING_KEYS_EVER_MAX;
                if full {
                    return Err(Refusal::InvalidInput("too many signing keys: remove one first"));
                }
            }
            Ok(Change::Registered { key_id, algorithm, public_key })
        }
        Input::Remove { key_id } => match state.and_then(|signer| signer.key(&key_id)) {
            Some(_) => Ok(Change::Removed { key_id }),
            None => Err(Refusal::Absent),
        },
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Signer>, change: &Change, applied: &Applied<'_>) {
    match change {
        Change::Registered { key_id, algorithm, public_key } => {
            if state.is_none() {
                let Ok(principal) = PrincipalId::new(applied.id) else { return };
                *state = Some(Signer { principal, keys: Vec::new() });
            }
            let Some(signer) = state else { return };
            signer.keys.push(SigningKey {
                key_id: *key_id,
                algorithm: *algorithm,
                public_key: public_key.clone(),
                registered_at: applied.time,
                removed_at: None,
            });
        }
        Change::Removed { key_id } => {
            let Some(signer) = state else { return };
            let found = signer.keys.iter_mut().find(|key| key.key_id == *key_id);
            if let Some(key) = found.filter(|key| key.removed_at.is_none()) {
                key.removed_at = Some(applied.time);
            }
        }
    }
}

/// What stands before the uncompressed point of a P-256 key in its SubjectPublicKeyInfo.
const P256_SPKI: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo.
const ED25519_SPKI: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

/// A public key out of its SubjectPublicKeyInfo, by how it signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublicKey<'a> {
    /// The uncompressed point of a P-256 key.
    P256(&'a [u8; 65]),
    /// An Ed25519 key.
    Ed25519(&'a [u8; 32]),
}

impl<'a> PublicKey<'a> {
    /// Reads a SubjectPublicKeyInfo in DER; none where it is of another kind of key.
    pub fn read(spki_der: &'a [u8]) -> Option<Self> {
        if let Some(point) = spki_der.strip_prefix(P256_SPKI) {
            return point.try_into().ok().map(Self::P256);
        }
        spki_der.strip_prefix(ED25519_SPKI)?.try_into().ok().map(Self::Ed25519)
    }

    /// How it signs.
    pub fn algorithm(self) -> Algorithm {
        match self {
            Self::P256(_) => Algorithm::EcdsaP256Sha256,
            Self::Ed25519(_) => Algorithm::Ed25519,
        }
    }
}
