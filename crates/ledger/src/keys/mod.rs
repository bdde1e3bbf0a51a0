//! Keys: who signs receipts and checkpoints, and what content keys are wrapped with.

mod file;
pub mod pkcs11;
mod sealer;
mod token;

use std::cell::RefCell;
use std::sync::Arc;

use aws_lc_rs::aead::{Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, ParsedPublicKey, UnparsedPublicKey};
use kernel::note::VerifierKey;
use kernel::pem;
pub use kernel::pem::decode as from_pem;
use kernel::signing_key::KeyRange;
use kernel::values::Digest;
use kernel::verify::SignatureVerifier;
use zeroize::Zeroizing;

pub use self::file::FileKeys;
pub use self::sealer::Sealer;
use crate::log_keys;
use crate::{Error, Ledger};

/// A public key, as those who verify need it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PublicKey {
    /// SHA-256 of the SPKI in hex; of a log's key the four bytes that its signatures begin with.
    pub key_id: String,
    /// `receipt`, `policy` or `checkpoint`.
    pub purpose: &'static str,
    /// `ecdsa-p256-sha256` or `ed25519`.
    pub algorithm: &'static str,
    /// SubjectPublicKeyInfo in PEM.
    pub pem: String,
    /// The verifier key as signed notes write it; of a log's key only.
    pub vkey: Option<String>,
    /// The origin of the log whose checkpoints or receipts the key signs.
    pub origin: Option<String>,
    /// The indices of that log which a receipt key is valid for.
    pub range: Option<KeyRange>,
}

/// Every public key of a tenant: of each log its receipt keys with their ranges and its checkpoint
/// key, and the key of policies. None for a tenant without a log.
pub fn public_keys(ledger: &Ledger, tenant: &str) -> Result<Vec<PublicKey>, Error> {
    let mut logs = ledger.store().logs()?;
    logs.retain(|log| log.tenant() == tenant);
    if logs.is_empty() {
        return Ok(Vec::new());
    }
    let provider = ledger.keys();
    let mut keys = vec![p256(provider.p256(tenant, Purpose::Policy)?.as_ref(), Purpose::Policy)];
    for log in logs {
        let origin = log.origin(ledger.host());
        let known = log_keys::of_log(ledger.store().as_ref(), &log)?;
        for range in known.iter().flat_map(|ranges| ranges.as_slice()) {
            let key = provider.p256_by_id(tenant, Purpose::Receipt, &range.key_id)?;
            let key = p256(key.as_ref(), Purpose::Receipt);
            keys.push(PublicKey { origin: Some(origin.clone()), range: Some(*range), ..key });
        }
        let key = provider.note(tenant, &origin)?;
        let key = key.verifier_key();
        keys.push(PublicKey {
            key_id: hex::encode(key.key_id()),
            purpose: "checkpoint",
            algorithm: "ed25519",
            pem: pem::encode(&[ED25519_SPKI_HEADER, key.public().as_slice()].concat()),
            vkey: Some(key.to_string()),
            origin: Some(origin),
            range: None,
        });
    }
    Ok(keys)
}

fn p256(key: &dyn P256Signer, purpose: Purpose) -> PublicKey {
    PublicKey {
        key_id: key.key_id().hex(),
        purpose: purpose.as_str(),
        algorithm: "ecdsa-p256-sha256",
        pem: pem::encode(key.spki_der()),
        vkey: None,
        origin: None,
        range: None,
    }
}

/// What stands before the 32 bytes of an Ed25519 key in its SPKI.
const ED25519_SPKI_HEADER: &[u8] = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
/// What a tenant's P-256 key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Signs receipts and evidence manifests.
    Receipt,
    /// Signs policy bundles and their confirmations.
    Policy,
}

impl Purpose {
    /// The name in files and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Receipt => "receipt",
            Self::Policy => "policy",
        }
    }
}

/// Signs with ECDSA P-256 over SHA-256.
pub trait P256Signer: Send + Sync {
    /// SHA-256 of the SPKI.
    fn key_id(&self) -> Digest;
    /// The public key as SubjectPublicKeyInfo in DER.
    fn spki_der(&self) -> &[u8];
    /// The signature over `message`, ASN.1 DER.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// Signs notes with Ed25519.
pub trait NoteSigner: Send + Sync {
    /// The public half, named like the log.
    fn verifier_key(&self) -> &VerifierKey;
    /// The signature over `message`.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// Where keys are. A first key is made when it is first asked for, and every key is durable before
/// it is used.
pub trait KeyProvider: Send + Sync {
    /// A tenant's first key for this purpose.
    fn p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error>;
    /// The key of that id, the first or a later one. [`Error::Key`] where it is not here.
    fn p256_by_id(
        &self,
        tenant: &str,
        purpose: Purpose,
        key_id: &Digest,
    ) -> Result<Arc<dyn P256Signer>, Error>;
    /// Makes a further key. It signs nothing until a log says that it does.
    fn create_p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error>;
    /// A log's checkpoint key.
    fn note(&self, tenant: &str, origin: &str) -> Result<Arc<dyn NoteSigner>, Error>;
    /// Encrypts a small secret under the tenant's key, bound to `label`.
    fn wrap(&self, tenant: &str, label: &str, secret: &[u8]) -> Result<Vec<u8>, Error>;
    /// The inverse of [`Self::wrap`].
    fn unwrap(
        &self,
        tenant: &str,
        label: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error>;
}

/// Verifies with aws-lc-rs.
#[derive(Clone, Copy, Debug, Default)]
pub struct NativeVerifier;

/// Bytes of both coordinates of a point of P-256.
const P256_COORDINATES_BYTES: usize = 64;
/// What stands before the uncompressed point of a P-256 key in its SPKI.
pub(crate) const P256_SPKI_HEADER: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";

thread_local! {
    /// The key that this thread verified with last, read: receipts by the thousand have one key.
    static LAST_KEY: RefCell<Option<(Vec<u8>, ParsedPublicKey)>> = const { RefCell::new(None) };
}

impl SignatureVerifier for NativeVerifier {
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool {
        LAST_KEY.with_borrow_mut(|last| {
            let key = match last {
                Some((known, key)) if known == spki_der => key,
                _ => {
                    // Other encodings of a point would give one key several ids.
                    let point = spki_der.strip_prefix(P256_SPKI_HEADER);
                    let Some(point @ [0x04, coordinates @ ..]) = point else { return false };
                    if coordinates.len() != P256_COORDINATES_BYTES {
                        return false;
                    }
                    let Ok(key) = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point) else {
                        return false;
                    };
                    &mut last.insert((spki_der.to_vec(), key)).1
                }
            };
            key.verify_sig(message, sig_der).is_ok()
        })
    }

    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, public).verify(message, sig).is_ok()
    }
}

pub(crate) fn key_error(name: &str, reason: impl std::fmt::Display) -> Error {
    Error::Key { name: name.to_owned(), reason: reason.to_string() }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0u8; N]);
    rand::fill(bytes.as_mut()).map_err(|error| key_error("random", error))?;
    Ok(bytes)
}

pub(crate) const NONCE_BYTES: usize = 12;

/// Nonce and ciphertext of `plain`, bound to `label`.
pub(crate) fn seal(key: &RandomizedNonceKey, label: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
    let mut text = plain.to_vec();
    let nonce = key
        .seal_in_place_append_tag(Aad::from(label.as_bytes()), &mut text)
        .map_err(|error| key_error(label, error))?;
    let mut sealed = nonce.as_ref().to_vec();
    sealed.append(&mut text);
    Ok(sealed)
}

/// The inverse of [`seal`].
pub(crate) fn open(key: &RandomizedNonceKey, label: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let (nonce, text) = sealed.split_at_checked(NONCE_BYTES).ok_or(Error::Sealed)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Sealed)?;
    let mut text = text.to_vec();
    let plain = key.open_in_place(nonce, Aad::from(label.as_bytes()), &mut text);
    plain.map(|plain| plain.to_vec()).map_err(|_| Error::Sealed)
}
