//! What a login leaves with the person's browser or program, sealed by the key provider.
//!
//! The server remembers nothing of a login under way, so that it survives a restart and may be
//! ended on another server than it was begun on.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use kernel::ids::PrincipalId;
use kernel::receipt::SYSTEM;
use kernel::values::{Digest, Timestamp};
use ledger::keys::KeyProvider;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use subtle::ConstantTimeEq as _;

use super::error::{Error, Result};
use crate::error::Refused;

/// A login under way.
#[derive(Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) provider: String,
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) verifier: String,
    pub(super) return_to: String,
    pub(super) program: Option<Program>,
    pub(super) until: Timestamp,
}

/// A program on the person's own machine that waits for a login.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Program {
    pub(super) port: u16,
    pub(super) challenge: String,
    pub(super) state: String,
}

/// What a program's login came to: good once, for the program that began it.
#[derive(Serialize, Deserialize)]
pub(super) struct Code {
    pub(super) id: String,
    pub(super) provider: String,
    pub(super) principal: PrincipalId,
    pub(super) challenge: String,
    pub(super) until: Timestamp,
}

/// What is sealed, and as what: one cannot be shown for the other.
pub(super) trait Sealed: Serialize + DeserializeOwned {
    const LABEL: &str;
    fn until(&self) -> Timestamp;
}

impl Sealed for Begun {
    const LABEL: &str = "oidc/login";
    fn until(&self) -> Timestamp {
        self.until
    }
}

impl Sealed for Code {
    const LABEL: &str = "oidc/code";
    fn until(&self) -> Timestamp {
        self.until
    }
}

pub(super) fn seal<T: Sealed>(keys: &dyn KeyProvider, value: &T) -> Result<String> {
    let text = serde_json::to_vec(value).map_err(Refused::internal)?;
    Ok(BASE64URL.encode(keys.wrap(SYSTEM, T::LABEL, &text)?))
}

/// The inverse of [`seal`]; none where it was not sealed here.
pub(super) fn open<T: Sealed>(
    keys: &dyn KeyProvider,
    text: &str,
    now: Timestamp,
) -> Result<Option<T>> {
    let opened = BASE64URL.decode(text).ok().and_then(|sealed| {
        let plain = keys.unwrap(SYSTEM, T::LABEL, &sealed).ok()?;
        serde_json::from_slice::<T>(&plain).ok()
    });
    match opened {
        Some(value) if now >= value.until() => Err(Error::Expired),
        opened => Ok(opened),
    }
}

/// 256 random bits as text: a state, a nonce, a verifier.
pub(super) fn random() -> Result<String> {
    Ok(BASE64URL.encode(ledger::keys::random::<32>()?.as_ref()))
}

/// The S256 challenge of a PKCE verifier.
pub(super) fn challenge(verifier: &str) -> String {
    BASE64URL.encode(Digest::of(verifier.as_bytes()).0)
}

pub(super) fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}

#[cfg(test)]
mod tests {
    use ledger::keys::FileKeys;

    use super::*;

    fn code(until: i64) -> Code {
        Code {
            id: "one".to_owned(),
            provider: "corp".to_owned(),
            principal: PrincipalId::new("usr_1").unwrap(),
            challenge: challenge("verifier"),
            until: Timestamp(until),
        }
    }

    #[test]
    fn good_until_its_time_and_as_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let keys = FileKeys::open(folder.path()).unwrap();
        let sealed = seal(&keys, &code(10)).unwrap();
        assert_eq!(open::<Code>(&keys, &sealed, Timestamp(9)).unwrap().unwrap().id, "one");
        for late in [10, 11] {
            assert!(matches!(open::<Code>(&keys, &sealed, Timestamp(late)), Err(Error::Expired)));
        }
        assert!(open::<Begun>(&keys, &sealed, Timestamp(9)).unwrap().is_none(), "no login");
        let other = tempfile::tempdir().unwrap();
        let others = FileKeys::open(other.path()).unwrap();
        assert!(open::<Code>(&others, &sealed, Timestamp(9)).unwrap().is_none(), "not ours");
        assert_ne!(seal(&keys, &code(10)).unwrap(), sealed, "nobody sees that it is the same");
    }

    #[test]
    fn the_challenge_of_rfc_7636() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        assert_eq!(challenge(verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }
}
