//! Cosignatures (C2SP tlog-cosignature, version 1): somebody other than the log says that, when it
//! signed, this was the largest tree of the log that it had seen, and that all it had seen before
//! is a prefix of it.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::note::{self, Error, Note, NoteSignature};
use crate::verify::{self, SignatureVerifier};

/// The signature type of timestamped Ed25519.
const COSIGNATURE: u8 = 4;

/// The Ed25519 key of a witness. Prints and parses as `name+hexid+base64(0x04 ‖ key)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CosignerKey {
    name: String,
    public: [u8; 32],
}

impl CosignerKey {
    /// The key `public` by this name.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, Error> {
        note::check_name(name)?;
        Ok(Self { name: name.to_owned(), public })
    }

    /// Its name: that of the witness.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// SHA-256(name ‖ newline ‖ 0x04 ‖ key), its first four bytes.
    pub fn key_id(&self) -> [u8; 4] {
        note::key_id(&self.name, COSIGNATURE, &self.public)
    }

    /// The line of a note for `sig`, the Ed25519 signature over [`message`] at `time_s`.
    pub fn signature(&self, time_s: u64, sig: &[u8]) -> NoteSignature {
        let sig = [time_s.to_be_bytes().as_slice(), sig].concat();
        NoteSignature { name: self.name.clone(), key_id: self.key_id(), sig }
    }
}

impl fmt::Display for CosignerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&note::vkey(&self.name, COSIGNATURE, &self.public))
    }
}

impl FromStr for CosignerKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, public) = note::parse_vkey(text, COSIGNATURE).ok_or(Error::CosignerKey)?;
        Self::new(name, public)
    }
}

/// What a witness signs: a header, the time in seconds since 1970, and the whole text of the note.
pub fn message(time_s: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {time_s}\n{text}")
}

/// Checks that the witness `key` cosigned the note and returns when: the latest time, where it did
/// so more than once. Signatures by other keys are passed over; each by this key has to be right.
pub fn verify_cosignature(
    note: &Note,
    key: &CosignerKey,
    verifier: &dyn SignatureVerifier,
) -> Result<u64, verify::Error> {
    let id = key.key_id();
    let own = note.signatures().iter().filter(|s| s.name == key.name && s.key_id == id);
    let mut latest = None;
    for signature in own {
        let time_s = check(note.text(), &signature.sig, key, verifier);
        let time_s = time_s.ok_or_else(|| verify::Error::Signature(key.to_string()))?;
        latest = latest.max(Some(time_s));
    }
    latest.ok_or_else(|| verify::Error::Unsigned(key.to_string()))
}

fn check(
    text: &str,
    sig: &[u8],
    key: &CosignerKey,
    verifier: &dyn SignatureVerifier,
) -> Option<u64> {
    let (time_s, sig) = sig.split_first_chunk()?;
    let time_s = u64::from_be_bytes(*time_s);
    i64::try_from(time_s).ok()?;
    let signed = message(time_s, text);
    verifier.ed25519(&key.public, signed.as_bytes(), sig).then_some(time_s)
}

/// How many of the witnesses `keys` cosigned the note. One key counts once, whatever its names. A
/// wrong signature by one of them is an error.
pub fn count_cosigners(
    note: &Note,
    keys: &[CosignerKey],
    verifier: &dyn SignatureVerifier,
) -> Result<usize, verify::Error> {
    let mut signed = BTreeSet::new();
    for key in keys {
        match verify_cosignature(note, key, verifier) {
            Ok(_) => {
                signed.insert(key.public);
            }
            Err(verify::Error::Unsigned(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(signed.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::{Signer as _, SigningKey};

    const TEXT: &str = "log.example/a\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";

    struct Dalek;

    impl SignatureVerifier for Dalek {
        fn p256_sha256(&self, _: &[u8], _: &[u8], _: &[u8]) -> bool {
            false
        }

        fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
            let key = ed25519_dalek::VerifyingKey::from_bytes(public);
            let sig = ed25519_dalek::Signature::from_slice(sig);
            key.is_ok_and(|key| sig.is_ok_and(|sig| key.verify_strict(message, &sig).is_ok()))
        }
    }

    fn signing(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn key(name: &str, seed: u8) -> CosignerKey {
        CosignerKey::new(name, signing(seed).verifying_key().to_bytes()).unwrap()
    }

    fn cosign(name: &str, seed: u8, time_s: u64) -> NoteSignature {
        let sig = signing(seed).sign(message(time_s, TEXT).as_bytes()).to_bytes();
        key(name, seed).signature(time_s, &sig)
    }

    #[test]
    fn keys_have_one_spelling() {
        let text = key("witness.example/w1", 8).to_string();
        assert_eq!(text.parse(), Ok(key("witness.example/w1", 8)));
        let plain = note::VerifierKey::new("witness.example/w1", *key("x", 8).public()).unwrap();
        let id = hex::encode(key("witness.example/w1", 8).key_id());
        for text in [
            plain.to_string(),
            text.replace(&id, "00000000"),
            text.replace("w1", "w2"),
            format!("{text} "),
            String::new(),
        ] {
            assert_eq!(text.parse::<CosignerKey>(), Err(Error::CosignerKey), "{text}");
        }
    }

    #[test]
    fn a_cosignature_counts_once_and_must_be_right() {
        let (w1, w2) = (key("w1", 1), key("w2", 2));
        let note = Note::new(TEXT, vec![cosign("w1", 1, 5), cosign("w1", 1, 9)]).unwrap();
        assert_eq!(verify_cosignature(&note, &w1, &Dalek), Ok(9));
        let unsigned = verify_cosignature(&note, &w2, &Dalek).unwrap_err();
        assert_eq!(unsigned.code(), "verify_unsigned");
        let alias = key("alias", 1);
        let both = note.with(&[cosign("alias", 1, 7), cosign("w1", 1, 6)]).unwrap();
        assert_eq!(both.signatures().len(), 2, "the same key signs anew");
        let keys = [w1.clone(), w2, alias];
        assert_eq!(count_cosigners(&both, &keys, &Dalek), Ok(1), "one key by two names");

        let earlier = NoteSignature {
            sig: [&[0; 8], &cosign("w1", 1, 5).sig[8..]].concat(),
            ..cosign("w1", 1, 5)
        };
        let short = NoteSignature { sig: vec![0; 7], ..cosign("w1", 1, 5) };
        let late = cosign("w1", 1, u64::MAX);
        for wrong in [earlier, short, late] {
            let note = Note::new(TEXT, vec![cosign("w1", 1, 5), wrong]).unwrap();
            let error = count_cosigners(&note, &keys, &Dalek).unwrap_err();
            assert_eq!(error.code(), "verify_signature");
        }
    }
}
