//! Signed tokens of providers: compact JWS by RS256, ES256 or EdDSA.
//!
//! The form is read here and not by a library: what is accepted is these three algorithms, each
//! with keys of its own kind, so that no token can choose how it is verified.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use serde::Deserialize;
use serde_json::Value;

use crate::limits;

/// Why a token is not to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Error {
    /// Not a token of the accepted form.
    Malformed,
    /// `none`, a shared secret, or an algorithm that is not accepted.
    Algorithm,
    /// No key that is known made it: the provider may have new ones.
    UnknownKey,
    /// The signature is wrong.
    Signature,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A provider's public key.
#[derive(Clone, Debug)]
pub(super) struct Key {
    kid: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// The keys of a key set that can verify; those of other kinds and uses are left out.
pub(super) fn keys(set: &[u8]) -> Option<Vec<Key>> {
    let set: KeySet = serde_json::from_slice(set).ok()?;
    let keys = set.keys.into_iter().take(limits::PROVIDER_KEYS_MAX);
    Some(keys.filter_map(|key| read_key(serde_json::from_value(key).ok()?)).collect())
}

fn read_key(jwk: Jwk) -> Option<Key> {
    let part = |text: Option<String>| BASE64URL.decode(text?).ok();
    let sized = |bytes: Vec<u8>, length: usize| (bytes.len() == length).then_some(bytes);
    if jwk.usage.is_some_and(|usage| usage != "sig") {
        return None;
    }
    let (algorithm, material) = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
        ("RSA", _) => {
            let trimmed = |bytes: Vec<u8>| bytes.into_iter().skip_while(|b| *b == 0).collect();
            let (n, e) = (trimmed(part(jwk.n)?), trimmed(part(jwk.e)?));
            (Algorithm::Rs256, Material::Rsa { n, e })
        }
        ("EC", Some("P-256")) => {
            let (x, y) = (sized(part(jwk.x)?, 32)?, sized(part(jwk.y)?, 32)?);
            (Algorithm::Es256, Material::P256([vec![4], x, y].concat()))
        }
        ("OKP", Some("Ed25519")) => (Algorithm::EdDsa, Material::Ed25519(sized(part(jwk.x)?, 32)?)),
        _ => return None,
    };
    if jwk.alg.is_some_and(|alg| Algorithm::parse(&alg) != Some(algorithm)) {
        return None;
    }
    Some(Key { kid: jwk.kid, material })
}

impl Key {
    fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match (algorithm, &self.material) {
            (Algorithm::Rs256, Material::Rsa { n, e }) => RsaPublicKeyComponents { n, e }
                .verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
                .is_ok(),
            (Algorithm::Es256, Material::P256(point)) => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                key.verify(message, signature).is_ok()
            }
            (Algorithm::EdDsa, Material::Ed25519(key)) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// The payload of a token that one of `keys` signed.
pub(super) fn verify(token: &str, keys: &[Key]) -> Result<Vec<u8>, Error> {
    if token.len() > limits::ID_TOKEN_BYTES_MAX {
        return Err(Error::Malformed);
    }
    let decode = |text: &str| BASE64URL.decode(text).map_err(|_| Error::Malformed);
    let (message, signature) = token.rsplit_once('.').ok_or(Error::Malformed)?;
    let (header, payload) = message.split_once('.').ok_or(Error::Malformed)?;
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Error::Malformed)?;
    let (payload, signature) = (decode(payload)?, decode(signature)?);
    if header.crit.is_some() {
        return Err(Error::Malformed);
    }
    let algorithm = Algorithm::parse(&header.alg).ok_or(Error::Algorithm)?;
    // A token that names its key is verified by that one; one that does not, by any.
    let named = |key: &&Key| header.kid.is_none() || key.kid == header.kid;
    let mut named = keys.iter().filter(named).peekable();
    if named.peek().is_none() {
        return Err(Error::UnknownKey);
    }
    if named.any(|key| key.verifies(algorithm, message.as_bytes(), &signature)) {
        return Ok(payload);
    }
    Err(if header.kid.is_some() { Error::Signature } else { Error::UnknownKey })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::hmac;
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::{KeyPair as Rsa, KeySize};
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
        RSA_PKCS1_SHA256,
    };
    use serde_json::json;

    use super::*;

    const CLAIMS: &str = r#"{"sub":"ann"}"#;

    struct Signers {
        rsa: Rsa,
        ec: EcdsaKeyPair,
        ed: Ed25519KeyPair,
    }

    impl Signers {
        fn new() -> Self {
            Self {
                rsa: Rsa::generate(KeySize::Rsa2048).unwrap(),
                ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
                ed: Ed25519KeyPair::generate().unwrap(),
            }
        }

        fn keys(&self) -> Vec<Key> {
            // PKCS#1: nine bytes of headers, then the 256 of the modulus.
            let n = BASE64URL.encode(&self.rsa.public_key().as_ref()[9..265]);
            let point = self.ec.public_key().as_ref();
            let (x, y) = (BASE64URL.encode(&point[1..33]), BASE64URL.encode(&point[33..]));
            let ed = BASE64URL.encode(self.ed.public_key().as_ref());
            let set = json!({"keys": [
                {"kty": "RSA", "kid": "r", "use": "sig", "e": "AQAB", "n": n},
                {"kty": "RSA", "kid": "enc", "use": "enc", "e": "AQAB", "n": n},
                {"kty": "EC", "kid": "e", "crv": "P-256", "x": x, "y": y},
                {"kty": "OKP", "kid": "d", "crv": "Ed25519", "alg": "EdDSA", "x": ed},
                {"kty": "oct", "kid": "o", "k": "c2VjcmV0"},
                "rubbish",
            ]});
            keys(set.to_string().as_bytes()).unwrap()
        }

        fn token(&self, header: &Value) -> String {
            let part = |text: &str| BASE64URL.encode(text);
            let message = format!("{}.{}", part(&header.to_string()), part(CLAIMS));
            let bytes = message.as_bytes();
            let signature = match header["alg"].as_str().unwrap() {
                "RS256" => {
                    let mut signature = vec![0; self.rsa.public_modulus_len()];
                    let random = SystemRandom::new();
                    self.rsa.sign(&RSA_PKCS1_SHA256, &random, bytes, &mut signature).unwrap();
                    signature
                }
                "ES256" => self.ec.sign(&SystemRandom::new(), bytes).unwrap().as_ref().to_vec(),
                "EdDSA" => self.ed.sign(bytes).as_ref().to_vec(),
                // The old trick: what everybody knows, used as a shared secret.
                "HS256" => {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, self.rsa.public_key().as_ref());
                    hmac::sign(&key, bytes).as_ref().to_vec()
                }
                _ => Vec::new(),
            };
            format!("{message}.{}", BASE64URL.encode(signature))
        }
    }

    #[test]
    fn three_algorithms_each_with_keys_of_its_own() {
        let signers = Signers::new();
        let keys = signers.keys();
        assert_eq!(keys.len(), 3);
        let check = |header: Value, expected: Result<(), Error>| {
            let verified = verify(&signers.token(&header), &keys);
            let expected = expected.map(|()| CLAIMS.as_bytes().to_vec());
            assert_eq!(verified, expected, "{header}");
        };
        for (alg, kid) in [("RS256", "r"), ("ES256", "e"), ("EdDSA", "d")] {
            check(json!({"alg": alg, "kid": kid}), Ok(()));
            check(json!({"alg": alg, "kid": kid, "typ": "JWT"}), Ok(()));
            check(json!({"alg": alg}), Ok(()));
            check(json!({"alg": alg, "kid": "new"}), Err(Error::UnknownKey));
            check(json!({"alg": alg, "kid": kid, "crit": ["b64"]}), Err(Error::Malformed));
        }
        check(json!({"alg": "RS256", "kid": "e"}), Err(Error::Signature));
        check(json!({"alg": "ES256", "kid": "d"}), Err(Error::Signature));
        check(json!({"alg": "RS256", "kid": "enc"}), Err(Error::UnknownKey));
        for alg in ["none", "None", "HS256", "RS512", "PS256", ""] {
            check(json!({"alg": alg, "kid": "r"}), Err(Error::Algorithm));
            check(json!({"alg": alg}), Err(Error::Algorithm));
        }
    }

    #[test]
    fn no_byte_can_be_changed() {
        let signers = Signers::new();
        let keys = signers.keys();
        let token = signers.token(&json!({"alg": "EdDSA", "kid": "d"}));
        for at in 0..token.len() - 1 {
            let mut bytes = token.clone().into_bytes();
            bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(bytes).unwrap();
            assert!(verify(&changed, &keys).is_err(), "{at}");
        }
        for garbage in ["", "a", "a.b", "..", "a.b.c", &format!("{token}.x")] {
            assert_eq!(verify(garbage, &keys), Err(Error::Malformed), "{garbage}");
        }
        assert_eq!(verify(&token, &Signers::new().keys()), Err(Error::Signature), "another's");
    }
}
