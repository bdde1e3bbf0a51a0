//! Signatures: who may sign bundles, and OPA's `.signatures.json` around ES256.

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED, EcdsaKeyPair,
    KeyPair, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Why something could not be signed or a key not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The key is no PKCS#8 P-256 private key.
    #[error("not a P-256 private key in PKCS#8 (PEM or DER)")]
    Key,
    /// The key is no P-256 public key.
    #[error("not a P-256 public key: give 65 bytes (04, X, Y) or a PEM `PUBLIC KEY`")]
    PublicKey,
    /// The signer failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

/// Signs with a P-256 key that it alone holds.
pub trait Signer: Send + Sync {
    /// The name under which verifiers know the public key.
    fn key_id(&self) -> &str;

    /// ECDSA over SHA-256 of `message`, as ASN.1 DER.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error>;
}

/// A signer with its key in memory, read from a PKCS#8 file.
pub struct P256Signer {
    key_id: String,
    pair: EcdsaKeyPair,
}

impl fmt::Debug for P256Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("P256Signer").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

impl P256Signer {
    /// Reads a PKCS#8 private key, PEM or DER.
    pub fn from_pkcs8(key_id: impl Into<String>, key: &[u8]) -> Result<Self, Error> {
        let der = from_pem(key, "PRIVATE KEY").unwrap_or_else(|| key.to_vec());
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der)
            .map_err(|_| Error::Key)?;
        Ok(Self { key_id: key_id.into(), pair })
    }

    /// Makes a new key. Returns the signer and the key as PKCS#8 PEM, to be kept secret.
    pub fn generate(key_id: impl Into<String>) -> Result<(Self, String), Error> {
        let failed = |_| Error::Signing("no entropy".to_owned());
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(failed)?;
        let der = pair.to_pkcs8v1().map_err(failed)?;
        let pem = to_pem(der.as_ref(), "PRIVATE KEY");
        Ok((Self { key_id: key_id.into(), pair }, pem))
    }

    /// The public key: 65 bytes, uncompressed.
    pub fn public_key(&self) -> Vec<u8> {
        self.pair.public_key().as_ref().to_vec()
    }

    /// The public key as PEM `PUBLIC KEY`.
    pub fn public_key_pem(&self) -> Result<String, Error> {
        let der = self.pair.public_key().as_der().map_err(|_| Error::PublicKey)?;
        Ok(to_pem(der.as_ref(), "PUBLIC KEY"))
    }
}

impl Signer for P256Signer {
    fn key_id(&self) -> &str {
        &self.key_id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| Error::Signing("the key refused".to_owned()))
    }
}

/// The public keys that may sign bundles, by key id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedKeys(BTreeMap<String, Vec<u8>>);

impl TrustedKeys {
    /// Trusts a P-256 public key: 65 uncompressed bytes, or PEM `PUBLIC KEY`.
    pub fn trust(&mut self, key_id: impl Into<String>, key: &[u8]) -> Result<(), Error> {
        self.0.insert(key_id.into(), public_point(key)?);
        Ok(())
    }

    /// Trusts one signer.
    pub fn of(signer: &P256Signer) -> Self {
        Self([(signer.key_id.clone(), signer.public_key())].into())
    }

    /// The key known as `key_id`.
    pub(crate) fn get(&self, key_id: &str) -> Option<&[u8]> {
        self.0.get(key_id).map(Vec::as_slice)
    }
}

/// What precedes the point in a `SubjectPublicKeyInfo` of P-256.
const SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const POINT_BYTES: usize = 65;

/// The uncompressed point of a public key in any accepted form.
pub(crate) fn public_point(key: &[u8]) -> Result<Vec<u8>, Error> {
    let der = from_pem(key, "PUBLIC KEY").unwrap_or_else(|| key.to_vec());
    let point = der.strip_prefix(SPKI_PREFIX.as_slice()).unwrap_or(&der);
    if point.len() == POINT_BYTES && point.first() == Some(&4) {
        Ok(point.to_vec())
    } else {
        Err(Error::PublicKey)
    }
}

/// Whether `der` is a signature of `message` by `point`.
pub(crate) fn verify_der(point: &[u8], message: &[u8], der: &[u8]) -> bool {
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, der).is_ok()
}

fn from_pem(text: &[u8], label: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let body = text.split_once(&format!("-----BEGIN {label}-----"))?.1;
    let body = body.split_once(&format!("-----END {label}-----"))?.0;
    let compact: String = body.split_whitespace().collect();
    base64::engine::general_purpose::STANDARD.decode(compact).ok()
}

fn to_pem(der: &[u8], label: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<String> =
        text.as_bytes().chunks(64).map(|c| String::from_utf8_lossy(c).into_owned()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// The header of the JSON Web Token.
#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
}

/// One file as signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SignedFile {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) algorithm: String,
}

/// What is signed: the files of a bundle.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Payload {
    pub(crate) files: Vec<SignedFile>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) keyid: Option<String>,
}

/// Why a token was not accepted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TokenError {
    Malformed(&'static str),
    UnknownKey(String),
    BadSignature,
}

/// Signs `payload` as a compact JSON Web Signature (ES256).
pub(crate) fn make_token(payload: &Payload, signer: &dyn Signer) -> Result<String, Error> {
    let header = Header { alg: "ES256".to_owned(), kid: Some(signer.key_id().to_owned()) };
    let json = |bytes: Result<Vec<u8>, serde_json::Error>| {
        bytes.map(|b| B64.encode(b)).map_err(|e| Error::Signing(e.to_string()))
    };
    let head = json(serde_json::to_vec(&header))?;
    let body = json(serde_json::to_vec(payload))?;
    let signed = format!("{head}.{body}");
    let der = signer.sign(signed.as_bytes())?;
    let raw = raw_signature(&der)
        .ok_or_else(|| Error::Signing("the signer's answer is no ASN.1 signature".to_owned()))?;
    Ok(format!("{signed}.{}", B64.encode(raw)))
}

/// Verifies a token. Returns what was signed and the id of the key that did.
pub(crate) fn open_token(
    token: &str,
    trusted: &TrustedKeys,
) -> Result<(Payload, String), TokenError> {
    let malformed = TokenError::Malformed;
    let (signed, signature) =
        token.rsplit_once('.').ok_or(malformed("the signature is no token of three parts"))?;
    let (head, body) =
        signed.split_once('.').ok_or(malformed("the signature is no token of three parts"))?;
    let decode = |part: &str| B64.decode(part).map_err(|_| malformed("the token is not base64url"));
    let header: Header = serde_json::from_slice(&decode(head)?)
        .map_err(|_| malformed("the token's header is not JSON"))?;
    if header.alg != "ES256" {
        return Err(malformed("the token's `alg` must be ES256"));
    }
    let payload: Payload = serde_json::from_slice(&decode(body)?)
        .map_err(|_| malformed("the token's payload has no list of files"))?;
    let key_id = header.kid.or_else(|| payload.keyid.clone()).unwrap_or_default();
    let point = trusted.get(&key_id).ok_or_else(|| TokenError::UnknownKey(key_id.clone()))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point)
        .verify(signed.as_bytes(), &decode(signature)?)
        .map_err(|_| TokenError::BadSignature)?;
    Ok((payload, key_id))
}

/// The 64 bytes (r, s) of an ASN.1 DER signature.
fn raw_signature(der: &[u8]) -> Option<[u8; 64]> {
    let [0x30, length, body @ ..] = der else { return None };
    if usize::from(*length) != body.len() {
        return None;
    }
    let (r, rest) = integer(body)?;
    let (s, rest) = integer(rest)?;
    if !rest.is_empty() {
        return None;
    }
    let mut raw = [0; 64];
    let (left, right) = raw.split_at_mut(32);
    left.get_mut(32 - r.len()..)?.copy_from_slice(r);
    right.get_mut(32 - s.len()..)?.copy_from_slice(s);
    Some(raw)
}

/// One DER integer of at most 32 bytes without its leading zeros, and what follows it.
fn integer(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let [0x02, length, rest @ ..] = der else { return None };
    let (mut value, rest) = rest.split_at_checked(usize::from(*length))?;
    while let [0, tail @ ..] = value {
        value = tail;
    }
    (value.len() <= 32).then_some((value, rest))
}
