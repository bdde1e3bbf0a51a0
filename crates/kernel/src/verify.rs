//! Whether a key that is trusted signed an envelope or a checkpoint.
//!
//! But for where a receipt stands, which says whether its key was valid there, this knows nothing
//! of what a receipt says. The signature algorithms are injected: native code
//! and WebAssembly bring their own.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::dsse::{self, Envelope};
use crate::note::{self, Checkpoint, Note, VerifierKey};
use crate::receipt::{self, Statement};
use crate::signing_key::{self, LogKeys};
use crate::values::Digest;

/// The two signature algorithms of the formats. Malformed keys and signatures are just not valid.
pub trait SignatureVerifier {
    /// Whether `sig_der` (ASN.1 DER) is an ECDSA P-256 signature over the SHA-256 of `message` by
    /// the key `spki_der` (SubjectPublicKeyInfo in DER).
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool;

    /// Whether `sig` is an Ed25519 signature (RFC 8032) over `message` by the key `public`.
    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool;
}

/// What vouches for a key, weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trust {
    /// Nothing: it came along with what it signed.
    Unknown,
    /// Whoever asked for the check named it.
    CallerSupplied,
    /// The verifier was set up with it.
    Pinned,
}

/// Why nothing was verified.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The envelope is malformed.
    #[error(transparent)]
    Envelope(#[from] dsse::Error),
    /// The note is malformed, or is no checkpoint.
    #[error(transparent)]
    Note(#[from] note::Error),
    /// The envelope names a key that is not among those given.
    #[error("no key {0} is known: supply the public key whose SPKI has this SHA-256")]
    UnknownKey(Digest),
    /// The key of the log has not signed the note.
    #[error("the note has no signature by {0}: supply the verifier key of this log")]
    Unsigned(String),
    /// The signature is wrong.
    #[error("the signature by {0} does not fit: the bytes were changed or another key signed")]
    Signature(String),
    /// The envelope holds no receipt.
    #[error(transparent)]
    Receipt(#[from] receipt::Error),
    /// The key was not the log's at that index.
    #[error(transparent)]
    Key(#[from] signing_key::Error),
    /// A key signed a checkpoint of another log.
    #[error("the key {key} signed a checkpoint of {origin}: a log's key is named like the log")]
    Origin {
        /// The key's name.
        key: String,
        /// The checkpoint's origin.
        origin: String,
    },
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Envelope(error) => error.code(),
            Self::Note(error) => error.code(),
            Self::UnknownKey(_) => "verify_unknown_key",
            Self::Unsigned(_) => "verify_unsigned",
            Self::Signature(_) => "verify_signature",
            Self::Receipt(_) => "verify_receipt",
            Self::Key(error) => error.code(),
            Self::Origin { .. } => "verify_origin",
        }
    }
}

/// P-256 keys by their id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys(BTreeMap<Digest, (Vec<u8>, Trust)>);

impl Keys {
    /// Adds a key (SubjectPublicKeyInfo in DER) and returns its id. Where it is there already, the
    /// stronger trust counts.
    pub fn insert(&mut self, spki_der: &[u8], trust: Trust) -> Digest {
        let key_id = Digest::of(spki_der);
        let (_, known) = self.0.entry(key_id).or_insert_with(|| (spki_der.to_vec(), trust));
        *known = trust.max(*known);
        key_id
    }
}

/// What a verified envelope holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The statement's bytes.
    pub payload: Vec<u8>,
    /// The key that signed them.
    pub key_id: Digest,
    /// What vouches for that key.
    pub trust: Trust,
}

/// Checks the signature of an envelope in its fixed form.
pub fn verify_envelope(
    bytes: &[u8],
    keys: &Keys,
    verifier: &dyn SignatureVerifier,
) -> Result<Verified, Error> {
    let Envelope { payload, key_id, signature } = Envelope::parse(bytes)?;
    let (spki_der, trust) = keys.0.get(&key_id).ok_or(Error::UnknownKey(key_id))?;
    if !verifier.p256_sha256(spki_der, &dsse::pae(&payload), &signature) {
        return Err(Error::Signature(key_id.to_string()));
    }
    Ok(Verified { payload, key_id, trust: *trust })
}

/// Checks a receipt by itself: that a key that is trusted signed it, that it reads, and that the
/// key was valid at its index, as far as the keys of its log are known.
pub fn verify_receipt(
    bytes: &[u8],
    keys: &Keys,
    logs: &LogKeys,
    verifier: &dyn SignatureVerifier,
) -> Result<(Verified, Statement), Error> {
    let verified = verify_envelope(bytes, keys, verifier)?;
    let statement = Statement::parse(&verified.payload)?;
    let log = &statement.predicate.log;
    logs.check(&log.origin, log.index, &verified.key_id)?;
    Ok((verified, statement))
}

/// Checks that the log named by `key` signed the note, and reads its checkpoint. Signatures by
/// other keys are passed over; each one by this key has to be right.
pub fn verify_checkpoint(
    note: &Note,
    key: &VerifierKey,
    verifier: &dyn SignatureVerifier,
) -> Result<Checkpoint, Error> {
    let id = key.key_id();
    let own = note.signatures().iter().filter(|s| s.name == key.name() && s.key_id == id);
    let mut signed = false;
    for signature in own {
        if !verifier.ed25519(key.public(), note.text().as_bytes(), &signature.sig) {
            return Err(Error::Signature(key.to_string()));
        }
        signed = true;
    }
    if !signed {
        return Err(Error::Unsigned(key.to_string()));
    }
    let checkpoint = Checkpoint::parse(note.text())?;
    if checkpoint.origin != key.name() {
        return Err(Error::Origin { key: key.name().to_owned(), origin: checkpoint.origin });
    }
    Ok(checkpoint)
}
