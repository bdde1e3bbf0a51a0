//! Keys: who signs receipts and checkpoints, and what content keys are wrapped with.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ED25519, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair, ParsedPublicKey, UnparsedPublicKey,
};
use aws_lc_rs::{hkdf, rand};
use kernel::note::VerifierKey;
use kernel::pem;
pub use kernel::pem::decode as from_pem;
use kernel::values::Digest;
use kernel::verify::SignatureVerifier;
use parking_lot::Mutex;
use zeroize::Zeroizing;

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
    /// The origin of the log whose checkpoints the key signs.
    pub origin: Option<String>,
}

/// Every public key of a tenant: of receipts and policies, and of each of its logs. None for a
/// tenant without a log.
pub fn public_keys(ledger: &Ledger, tenant: &str) -> Result<Vec<PublicKey>, Error> {
    let mut logs = ledger.store().logs()?;
    logs.retain(|log| log.tenant() == tenant);
    if logs.is_empty() {
        return Ok(Vec::new());
    }
    let mut keys = Vec::new();
    for purpose in [Purpose::Receipt, Purpose::Policy] {
        let key = ledger.keys().p256(tenant, purpose)?;
        keys.push(PublicKey {
            key_id: key.key_id().hex(),
            purpose: purpose.as_str(),
            algorithm: "ecdsa-p256-sha256",
            pem: pem::encode(key.spki_der()),
            vkey: None,
            origin: None,
        });
    }
    for log in logs {
        let origin = log.origin(ledger.host());
        let key = ledger.keys().note(tenant, &origin)?;
        let key = key.verifier_key();
        keys.push(PublicKey {
            key_id: hex::encode(key.key_id()),
            purpose: "checkpoint",
            algorithm: "ed25519",
            pem: pem::encode(&[ED25519_SPKI_HEADER, key.public().as_slice()].concat()),
            vkey: Some(key.to_string()),
            origin: Some(origin),
        });
    }
    Ok(keys)
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

/// Where keys are. A key is made when it is first asked for and is durable before it is used.
pub trait KeyProvider: Send + Sync {
    /// A tenant's signing key.
    fn p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error>;
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

/// What stands before the uncompressed point of a P-256 key in its SPKI.
const P256_SPKI_HEADER: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
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
                    let Some(point) = spki_der.strip_prefix(P256_SPKI_HEADER) else {
                        return false;
                    };
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

struct P256 {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
    id: Digest,
}

impl P256 {
    fn from_pkcs8(name: &str, pkcs8: &[u8]) -> Result<Self, Error> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8)
            .map_err(|error| key_error(name, error))?;
        let spki = pair.public_key().as_der().map_err(|error| key_error(name, error))?;
        let spki = spki.as_ref().to_vec();
        Ok(Self { id: Digest::of(&spki), spki, pair })
    }
}

impl P256Signer for P256 {
    fn key_id(&self) -> Digest {
        self.id
    }

    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let signature = self.pair.sign(&SystemRandom::new(), message);
        let signature = signature.map_err(|error| key_error(&self.id.hex(), error))?;
        Ok(signature.as_ref().to_vec())
    }
}

struct Note {
    pair: Ed25519KeyPair,
    public: VerifierKey,
}

impl Note {
    fn from_pkcs8(origin: &str, pkcs8: &[u8]) -> Result<Self, Error> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| key_error(origin, error))?;
        let public = <[u8; 32]>::try_from(pair.public_key().as_ref())
            .map_err(|error| key_error(origin, error))?;
        let public = VerifierKey::new(origin, public).map_err(|error| key_error(origin, error))?;
        Ok(Self { pair, public })
    }
}

impl NoteSigner for Note {
    fn verifier_key(&self) -> &VerifierKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.pair.sign(message).as_ref().to_vec())
    }
}

fn key_error(name: &str, reason: impl std::fmt::Display) -> Error {
    Error::Key { name: name.to_owned(), reason: reason.to_string() }
}

/// Keys in files below one folder. `master.key` (32 random bytes, mode 0600) wraps all others;
/// whoever reads it reads everything, so keep the folder as you keep a private key.
pub struct FileKeys {
    dir: PathBuf,
    master: Zeroizing<Vec<u8>>,
    p256: Mutex<BTreeMap<(String, Purpose), Arc<P256>>>,
    notes: Mutex<BTreeMap<String, Arc<Note>>>,
}

impl std::fmt::Debug for FileKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileKeys").field("dir", &self.dir).finish_non_exhaustive()
    }
}

const MASTER_BYTES: usize = 32;

impl FileKeys {
    /// Opens the folder, making it and its master key where they are absent.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let io = |error: std::io::Error| key_error(&dir.display().to_string(), error);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io)?;
        let path = dir.join("master.key");
        let master = match fs::read(&path) {
            Ok(bytes) if bytes.len() == MASTER_BYTES => Zeroizing::new(bytes),
            Ok(_) => return Err(key_error("master.key", "it must have 32 bytes")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let bytes = random::<MASTER_BYTES>()?;
                write_new(&path, bytes.as_ref()).map_err(io)?;
                Zeroizing::new(bytes.to_vec())
            }
            Err(error) => return Err(io(error)),
        };
        Ok(Self { dir: dir.to_owned(), master, p256: Mutex::default(), notes: Mutex::default() })
    }

    /// The tenant's own AES-256-GCM key, derived from the master key.
    fn tenant_key(&self, tenant: &str) -> Result<RandomizedNonceKey, Error> {
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, b"tally/tenant-key/v1");
        let mut key = Zeroizing::new([0u8; 32]);
        salt.extract(&self.master)
            .expand(&[tenant.as_bytes()], &AES_256_GCM)
            .and_then(|okm| okm.fill(key.as_mut()))
            .and_then(|()| RandomizedNonceKey::new(&AES_256_GCM, key.as_ref()))
            .map_err(|error| key_error(tenant, error))
    }

    /// The PKCS#8 bytes in the wrapped file `name`, made by `generate` where it is absent.
    fn load_or_make(
        &self,
        tenant: &str,
        name: &str,
        generate: impl FnOnce() -> Result<Zeroizing<Vec<u8>>, Error>,
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let dir = self.dir.join(tenant);
        let path = dir.join(format!("{name}.key"));
        match fs::read(&path) {
            Ok(wrapped) => self.unwrap(tenant, name, &wrapped),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let io = |error: std::io::Error| key_error(name, error);
                fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
                let secret = generate()?;
                write_new(&path, &self.wrap(tenant, name, &secret)?).map_err(io)?;
                Ok(secret)
            }
            Err(error) => Err(key_error(name, error)),
        }
    }
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, Error> {
    let mut bytes = Zeroizing::new([0u8; N]);
    rand::fill(bytes.as_mut()).map_err(|error| key_error("random", error))?;
    Ok(bytes)
}

/// Writes a new file, durable before this returns. Two processes that race end with one of the
/// two files, whole.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

impl KeyProvider for FileKeys {
    fn p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        let mut known = self.p256.lock();
        if let Some(key) = known.get(&(tenant.to_owned(), purpose)) {
            return Ok(key.clone());
        }
        let pkcs8 = self.load_or_make(tenant, purpose.as_str(), || {
            EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
                .and_then(|pair| pair.to_pkcs8v1())
                .map(|document| Zeroizing::new(document.as_ref().to_vec()))
                .map_err(|error| key_error(purpose.as_str(), error))
        })?;
        let key = Arc::new(P256::from_pkcs8(purpose.as_str(), &pkcs8)?);
        known.insert((tenant.to_owned(), purpose), key.clone());
        Ok(key)
    }

    fn note(&self, tenant: &str, origin: &str) -> Result<Arc<dyn NoteSigner>, Error> {
        let mut known = self.notes.lock();
        if let Some(key) = known.get(origin) {
            return Ok(key.clone());
        }
        let name = format!("log-{}", Digest::of(origin.as_bytes()).hex());
        let pkcs8 = self.load_or_make(tenant, &name, || {
            Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map(|document| Zeroizing::new(document.as_ref().to_vec()))
                .map_err(|error| key_error(origin, error))
        })?;
        let key = Arc::new(Note::from_pkcs8(origin, &pkcs8)?);
        known.insert(origin.to_owned(), key.clone());
        Ok(key)
    }

    fn wrap(&self, tenant: &str, label: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        seal(&self.tenant_key(tenant)?, label, secret)
    }

    fn unwrap(
        &self,
        tenant: &str,
        label: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        open(&self.tenant_key(tenant)?, label, wrapped).map(Zeroizing::new)
    }
}

const NONCE_BYTES: usize = 12;

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
