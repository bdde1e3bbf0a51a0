//! Keys in files, encrypted.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::hkdf;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use kernel::note::VerifierKey;
use kernel::values::Digest;
use parking_lot::Mutex;
use zeroize::Zeroizing;

use super::{KeyProvider, NoteSigner, P256Signer, Purpose, key_error, open, random, seal};
use crate::Error;

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

/// Keys in files below one folder. `master.key` (32 random bytes, mode 0600) wraps all others;
/// whoever reads it reads everything, so keep the folder as you keep a private key.
///
/// A tenant's first receipt key is `<tenant>/receipt.key`, a later one has its id in its name:
/// `<tenant>/receipt-<key id>.key`.
pub struct FileKeys {
    dir: PathBuf,
    master: Zeroizing<Vec<u8>>,
    p256: Mutex<BTreeMap<(String, String), Arc<P256>>>,
    notes: Mutex<BTreeMap<String, Arc<Note>>>,
    /// Held while a first key is looked for and made.
    making: Mutex<()>,
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
        Ok(Self {
            dir: dir.to_owned(),
            master,
            p256: Mutex::default(),
            notes: Mutex::default(),
            making: Mutex::default(),
        })
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

    /// The PKCS#8 bytes in the wrapped file `name`, where it is there.
    fn load(&self, tenant: &str, name: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Error> {
        match fs::read(self.dir.join(tenant).join(format!("{name}.key"))) {
            Ok(wrapped) => self.unwrap(tenant, name, &wrapped).map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(key_error(name, error)),
        }
    }

    /// Wraps PKCS#8 bytes into the file `name`, durable before this returns.
    fn keep(&self, tenant: &str, name: &str, secret: &[u8]) -> Result<(), Error> {
        let io = |error: std::io::Error| key_error(name, error);
        let dir = self.dir.join(tenant);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(io)?;
        let wrapped = self.wrap(tenant, name, secret)?;
        write_new(&dir.join(format!("{name}.key")), &wrapped).map_err(io)
    }

    /// The key in the file `name`, where it is there.
    fn known(&self, tenant: &str, name: &str) -> Result<Option<Arc<P256>>, Error> {
        let place = (tenant.to_owned(), name.to_owned());
        if let Some(key) = self.p256.lock().get(&place) {
            return Ok(Some(key.clone()));
        }
        let Some(pkcs8) = self.load(tenant, name)? else { return Ok(None) };
        let key = Arc::new(P256::from_pkcs8(name, &pkcs8)?);
        self.p256.lock().insert(place, key.clone());
        Ok(Some(key))
    }
}

fn generate_p256(name: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
        .and_then(|pair| pair.to_pkcs8v1())
        .map(|document| Zeroizing::new(document.as_ref().to_vec()))
        .map_err(|error| key_error(name, error))
}

/// The name of a key that is not a tenant's first.
fn later(purpose: Purpose, key_id: &Digest) -> String {
    format!("{}-{}", purpose.as_str(), key_id.hex())
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
        let _one_at_a_time = self.making.lock();
        let name = purpose.as_str();
        if let Some(key) = self.known(tenant, name)? {
            return Ok(key);
        }
        let pkcs8 = generate_p256(name)?;
        let key = Arc::new(P256::from_pkcs8(name, &pkcs8)?);
        self.keep(tenant, name, &pkcs8)?;
        self.p256.lock().insert((tenant.to_owned(), name.to_owned()), key.clone());
        Ok(key)
    }

    fn p256_by_id(
        &self,
        tenant: &str,
        purpose: Purpose,
        key_id: &Digest,
    ) -> Result<Arc<dyn P256Signer>, Error> {
        for name in [later(purpose, key_id), purpose.as_str().to_owned()] {
            let known = self.known(tenant, &name)?;
            if let Some(key) = known.filter(|key| key.id == *key_id) {
                return Ok(key);
            }
        }
        let name = format!("{tenant}/{}", later(purpose, key_id));
        Err(key_error(&name, "it is not in the key folder"))
    }

    fn create_p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        let pkcs8 = generate_p256(purpose.as_str())?;
        let key = Arc::new(P256::from_pkcs8(purpose.as_str(), &pkcs8)?);
        let name = later(purpose, &key.id);
        self.keep(tenant, &name, &pkcs8)?;
        self.p256.lock().insert((tenant.to_owned(), name), key.clone());
        Ok(key)
    }

    fn note(&self, tenant: &str, origin: &str) -> Result<Arc<dyn NoteSigner>, Error> {
        let mut known = self.notes.lock();
        if let Some(key) = known.get(origin) {
            return Ok(key.clone());
        }
        let name = format!("log-{}", Digest::of(origin.as_bytes()).hex());
        let pkcs8 = match self.load(tenant, &name)? {
            Some(pkcs8) => pkcs8,
            None => {
                let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                    .map(|document| Zeroizing::new(document.as_ref().to_vec()))
                    .map_err(|error| key_error(origin, error))?;
                self.keep(tenant, &name, &pkcs8)?;
                pkcs8
            }
        };
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
