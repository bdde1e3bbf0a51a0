//! Keys in a hardware security module, by PKCS#11. Private and secret keys are made in the token
//! and cannot leave it.
//!
//! One token holds the keys of a server. Each tenant has keys of its own there, told apart by
//! their labels: `tally/<tenant>/receipt` (the first), `tally/<tenant>/receipt/later` (every key
//! that was rotated in), `tally/<tenant>/policy`, `tally/<tenant>/log-<digest of the origin>` and
//! `tally/<tenant>/wrap`.

use std::collections::BTreeMap;
use std::sync::Arc;

use cryptoki::error::Error as TokenError;
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::aead::GcmParams;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use kernel::note::VerifierKey;
use kernel::values::Digest;
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub use super::token::{Config, OpenError, read_pin};
use super::token::{Token, lost};
use super::{
    KeyProvider, NONCE_BYTES, NoteSigner, P256_SPKI_HEADER, P256Signer, Purpose, key_error, random,
};
use crate::Error;

/// Bits of the tag of AES-GCM.
const TAG_BITS: u64 = 128;
/// Bytes of an AES-256 key.
const AES_BYTES: u64 = 32;
/// Bytes of each half of a P-256 signature.
const SCALAR_BYTES: usize = 32;
/// The curve P-256, as CKA_EC_PARAMS has it: its object identifier.
const P256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
/// The curve Ed25519: its name as a PrintableString.
const ED25519: &[u8] = b"\x13\x0cedwards25519";
/// An OCTET STRING of an uncompressed point of P-256, up to its bytes.
const P256_POINT: &[u8] = b"\x04\x41";
/// An OCTET STRING of an Ed25519 key, up to its bytes.
const ED25519_POINT: &[u8] = b"\x04\x20";

/// Which key: its label, and its CKA_ID where more than one has the label.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    label: String,
    id: Vec<u8>,
}

impl Place {
    fn template(&self, class: ObjectClass) -> Vec<Attribute> {
        vec![
            Attribute::Class(class),
            Attribute::Token(true),
            Attribute::Label(self.label.clone().into_bytes()),
            Attribute::Id(self.id.clone()),
        ]
    }
}

/// A public key: its CKA_ID, and its point as CKA_EC_POINT has it.
type Public = (Vec<u8>, Vec<u8>);

/// The one object like this. None or two are no key to go on with.
fn only(session: &Session, template: &[Attribute]) -> Result<ObjectHandle, TokenError> {
    match session.find_objects(template)?.as_slice() {
        [object] => Ok(*object),
        _ => Err(TokenError::InvalidValue),
    }
}

/// Keys in one token of a PKCS#11 module.
pub struct Pkcs11Keys {
    token: Arc<Token>,
    p256: Mutex<BTreeMap<(String, Digest), Arc<P256Key>>>,
    first: Mutex<BTreeMap<String, Digest>>,
    notes: Mutex<BTreeMap<String, Arc<NoteKey>>>,
    wrapping: Mutex<BTreeMap<String, Place>>,
    /// Held while a first key is looked for and made.
    making: Mutex<()>,
}

impl std::fmt::Debug for Pkcs11Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pkcs11Keys").field("token", &self.token.label).finish_non_exhaustive()
    }
}

impl Pkcs11Keys {
    /// Loads the module and logs in to the token.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        Ok(Self {
            token: Arc::new(Token::open(config)?),
            p256: Mutex::default(),
            first: Mutex::default(),
            notes: Mutex::default(),
            wrapping: Mutex::default(),
            making: Mutex::default(),
        })
    }

    /// Every public key with this label.
    fn public(&self, label: &str) -> Result<Vec<Public>, Error> {
        let template = [
            Attribute::Class(ObjectClass::PUBLIC_KEY),
            Attribute::Token(true),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        self.token.run(label, |session| {
            let mut found = Vec::new();
            for object in session.find_objects(&template)? {
                let (mut id, mut point) = (None, None);
                let wanted = [AttributeType::Id, AttributeType::EcPoint];
                for attribute in session.get_attributes(object, &wanted)? {
                    match attribute {
                        Attribute::Id(bytes) => id = Some(bytes),
                        Attribute::EcPoint(bytes) => point = Some(bytes),
                        _ => {}
                    }
                }
                found.push(id.zip(point).ok_or(TokenError::InvalidValue)?);
            }
            Ok(found)
        })
    }

    /// Makes a pair of keys on a curve, the private one for signing alone.
    fn generate(&self, label: &str, curve: &[u8]) -> Result<(), Error> {
        let id = random::<16>()?;
        let place = Place { label: label.to_owned(), id: id.to_vec() };
        let (kind, mechanism) = match curve {
            ED25519 => (KeyType::EC_EDWARDS, Mechanism::EccEdwardsKeyPairGen),
            _ => (KeyType::EC, Mechanism::EccKeyPairGen),
        };
        let mut public = place.template(ObjectClass::PUBLIC_KEY);
        public.extend([
            Attribute::KeyType(kind),
            Attribute::Private(false),
            Attribute::Verify(true),
            Attribute::EcParams(curve.to_vec()),
        ]);
        let mut private = place.template(ObjectClass::PRIVATE_KEY);
        private.extend([
            Attribute::KeyType(kind),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Sign(true),
        ]);
        let made = self
            .token
            .make(label, |session| session.generate_key_pair(&mechanism, &public, &private));
        made.map(|_| ())
    }

    fn p256_key(&self, label: &str, (id, point): Public) -> Result<P256Key, Error> {
        let uncompressed = point.strip_prefix(P256_POINT).filter(|point| point.len() == 65);
        let point = uncompressed.ok_or_else(|| key_error(label, "it is no key on P-256"))?;
        let spki = [P256_SPKI_HEADER, point].concat();
        let place = Place { label: label.to_owned(), id };
        Ok(P256Key { token: self.token.clone(), place, id: Digest::of(&spki), spki })
    }

    fn remember(&self, tenant: &str, key: P256Key) -> Arc<P256Key> {
        let key = Arc::new(key);
        self.p256.lock().insert((tenant.to_owned(), key.id), key.clone());
        key
    }

    /// The tenant's AES-256 key, made where there is none.
    fn wrapping(&self, tenant: &str) -> Result<Place, Error> {
        let _one_at_a_time = self.making.lock();
        if let Some(place) = self.wrapping.lock().get(tenant) {
            return Ok(place.clone());
        }
        let place = Place { label: label(tenant, "wrap"), id: b"wrap".to_vec() };
        let template = place.template(ObjectClass::SECRET_KEY);
        let found = self.token.run(&place.label, |session| session.find_objects(&template))?;
        if found.is_empty() {
            let mut secret = template;
            secret.extend([
                Attribute::KeyType(KeyType::AES),
                Attribute::ValueLen(AES_BYTES.into()),
                Attribute::Private(true),
                Attribute::Sensitive(true),
                Attribute::Extractable(false),
                Attribute::Encrypt(true),
                Attribute::Decrypt(true),
            ]);
            self.token.make(&place.label, |session| {
                session.generate_key(&Mechanism::AesKeyGen, &secret)
            })?;
        }
        self.wrapping.lock().insert(tenant.to_owned(), place.clone());
        Ok(place)
    }
}

fn label(tenant: &str, name: &str) -> String {
    format!("tally/{tenant}/{name}")
}

fn later(tenant: &str, purpose: Purpose) -> String {
    label(tenant, &format!("{}/later", purpose.as_str()))
}

impl KeyProvider for Pkcs11Keys {
    fn p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        let label = label(tenant, purpose.as_str());
        let _one_at_a_time = self.making.lock();
        let known = self.first.lock().get(&label).copied();
        if let Some(key) = known.and_then(|id| self.p256.lock().get(&(tenant.into(), id)).cloned())
        {
            return Ok(key);
        }
        if self.public(&label)?.is_empty() {
            self.generate(&label, P256)?;
        }
        let [found] = <[_; 1]>::try_from(self.public(&label)?)
            .map_err(|_| key_error(&label, "more than one key has this label"))?;
        let key = self.remember(tenant, self.p256_key(&label, found)?);
        self.first.lock().insert(label, key.id);
        Ok(key)
    }

    fn p256_by_id(
        &self,
        tenant: &str,
        purpose: Purpose,
        key_id: &Digest,
    ) -> Result<Arc<dyn P256Signer>, Error> {
        if let Some(key) = self.p256.lock().get(&(tenant.to_owned(), *key_id)) {
            return Ok(key.clone());
        }
        for label in [label(tenant, purpose.as_str()), later(tenant, purpose)] {
            for found in self.public(&label)? {
                let key = self.p256_key(&label, found)?;
                if key.id == *key_id {
                    return Ok(self.remember(tenant, key));
                }
            }
        }
        let name = format!("{}/{}", label(tenant, purpose.as_str()), key_id.hex());
        Err(key_error(&name, "it is not in the token"))
    }

    fn create_p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        let label = later(tenant, purpose);
        let _one_at_a_time = self.making.lock();
        let before = self.public(&label)?;
        self.generate(&label, P256)?;
        let made = self.public(&label)?.into_iter().find(|key| !before.contains(key));
        let made = made.ok_or_else(|| key_error(&label, "the token does not show the new key"))?;
        Ok(self.remember(tenant, self.p256_key(&label, made)?))
    }

    fn note(&self, tenant: &str, origin: &str) -> Result<Arc<dyn NoteSigner>, Error> {
        let mut known = self.notes.lock();
        if let Some(key) = known.get(origin) {
            return Ok(key.clone());
        }
        let label = label(tenant, &format!("log-{}", Digest::of(origin.as_bytes()).hex()));
        if self.public(&label)?.is_empty() {
            self.generate(&label, ED25519)?;
        }
        let [(id, point)] = <[_; 1]>::try_from(self.public(&label)?)
            .map_err(|_| key_error(&label, "more than one key has this label"))?;
        let public =
            point.strip_prefix(ED25519_POINT).and_then(|key| <[u8; 32]>::try_from(key).ok());
        let public = public.ok_or_else(|| key_error(&label, "it is no Ed25519 key"))?;
        let public = VerifierKey::new(origin, public).map_err(|error| key_error(origin, error))?;
        let place = Place { label, id };
        let key = Arc::new(NoteKey { token: self.token.clone(), place, public });
        known.insert(origin.to_owned(), key.clone());
        Ok(key)
    }

    fn wrap(&self, tenant: &str, label: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        let place = self.wrapping(tenant)?;
        let nonce = random::<NONCE_BYTES>()?;
        let text = self.token.run(&place.label, |session| {
            let key = only(session, &place.template(ObjectClass::SECRET_KEY))?;
            let mut iv = *nonce;
            let params = GcmParams::new(&mut iv, label.as_bytes(), TAG_BITS.into())?;
            session.encrypt(&Mechanism::AesGcm(params), key, secret)
        })?;
        Ok([nonce.as_slice(), &text].concat())
    }

    fn unwrap(
        &self,
        tenant: &str,
        label: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        let place = self.wrapping(tenant)?;
        let (nonce, text) = wrapped.split_at_checked(NONCE_BYTES).ok_or(Error::Sealed)?;
        let nonce = <[u8; NONCE_BYTES]>::try_from(nonce).map_err(|_| Error::Sealed)?;
        let opened = self.token.run(&place.label, |session| {
            let key = only(session, &place.template(ObjectClass::SECRET_KEY))?;
            let mut iv = nonce;
            let params = GcmParams::new(&mut iv, label.as_bytes(), TAG_BITS.into())?;
            match session.decrypt(&Mechanism::AesGcm(params), key, text) {
                Ok(secret) => Ok(Some(Zeroizing::new(secret))),
                Err(error) if lost(&error) => Err(error),
                // Tokens do not agree on the code for a tag that does not fit.
                Err(_) => Ok(None),
            }
        })?;
        opened.ok_or(Error::Sealed)
    }
}

struct P256Key {
    token: Arc<Token>,
    place: Place,
    id: Digest,
    spki: Vec<u8>,
}

impl P256Signer for P256Key {
    fn key_id(&self) -> Digest {
        self.id
    }

    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        let digest = Digest::of(message);
        let raw = self.token.run(&self.place.label, |session| {
            let key = only(session, &self.place.template(ObjectClass::PRIVATE_KEY))?;
            session.sign(&Mechanism::Ecdsa, key, &digest.0)
        })?;
        let halves = raw.split_at_checked(SCALAR_BYTES).filter(|(_, s)| s.len() == SCALAR_BYTES);
        let (r, s) = halves.ok_or_else(|| key_error(&self.place.label, "no P-256 signature"))?;
        Ok(der_signature(r, s))
    }
}

struct NoteKey {
    token: Arc<Token>,
    place: Place,
    public: VerifierKey,
}

impl NoteSigner for NoteKey {
    fn verifier_key(&self) -> &VerifierKey {
        &self.public
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.token.run(&self.place.label, |session| {
            let key = only(session, &self.place.template(ObjectClass::PRIVATE_KEY))?;
            let params = EddsaParams::new(EddsaSignatureScheme::Pure);
            session.sign(&Mechanism::Eddsa(params), key, message)
        })
    }
}

/// ECDSA-Sig-Value (RFC 3279) of the two halves, each 32 bytes big-endian.
fn der_signature(r: &[u8], s: &[u8]) -> Vec<u8> {
    let body = [der_integer(r), der_integer(s)].concat();
    [&[0x30, der_length(&body)], body.as_slice()].concat()
}

/// An INTEGER that is not negative: no zeros in front, but one where the first bit is set.
fn der_integer(bytes: &[u8]) -> Vec<u8> {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    let digits = bytes.get(zeros..).unwrap_or_default();
    let sign: &[u8] = if digits.first().is_none_or(|byte| *byte >= 0x80) { &[0] } else { &[] };
    let value = [sign, digits].concat();
    [&[0x02, der_length(&value)], value.as_slice()].concat()
}

/// The one byte of a length below 128: two integers of 33 bytes at most take 70.
fn der_length(body: &[u8]) -> u8 {
    u8::try_from(body.len()).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_der() {
        let check = |r: &[u8], s: &[u8], expect: &str| {
            assert_eq!(hex::encode(der_signature(r, s)), expect);
        };
        let half = |last: &[u8]| [&vec![0; 32 - last.len()], last].concat();
        check(&half(&[1]), &half(&[0x80]), "300702010102020080");
        check(&half(&[0x7f, 0xff]), &half(&[]), "300702027fff020100");
        let full = "30460221".to_owned() + "00" + &"ff".repeat(32) + "0221" + "00";
        check(&[0xff; 32], &[0xff; 32], &(full + &"ff".repeat(32)));
    }
}
