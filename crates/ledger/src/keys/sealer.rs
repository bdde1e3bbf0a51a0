//! A key of one's own making, for texts that leave the server and come back: they are sealed, and
//! things are named so that nobody else can tell after what.

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use aws_lc_rs::hmac;

use super::key_error;
use crate::Error;

/// Both keys come from one secret, which the caller keeps wrapped by the key provider.
pub struct Sealer {
    seal: RandomizedNonceKey,
    name: hmac::Key,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

impl Sealer {
    /// The keys of `secret`: each for one purpose, so that neither says anything of the other.
    pub fn new(secret: &[u8; 32]) -> Result<Self, Error> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let seal = hmac::sign(&root, b"tally/seal");
        let name = hmac::sign(&root, b"tally/name");
        Ok(Self {
            seal: RandomizedNonceKey::new(&AES_256_GCM, seal.as_ref())
                .map_err(|error| key_error("sealer", error))?,
            name: hmac::Key::new(hmac::HMAC_SHA256, name.as_ref()),
        })
    }

    /// Nonce and ciphertext of `plain` (AES-256-GCM), bound to `label`.
    pub fn seal(&self, label: &str, plain: &[u8]) -> Result<Vec<u8>, Error> {
        super::seal(&self.seal, label, plain)
    }

    /// The inverse of [`Self::seal`]; [`Error::Sealed`] for whatever was not sealed so.
    pub fn open(&self, label: &str, sealed: &[u8]) -> Result<Vec<u8>, Error> {
        super::open(&self.seal, label, sealed)
    }

    /// A name for `thing`: the same each time, and nothing to anybody without the secret.
    pub fn name(&self, thing: &[u8]) -> [u8; 32] {
        let mut name = [0; 32];
        name.copy_from_slice(hmac::sign(&self.name, thing).as_ref());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seals_for_one_secret_and_one_label() {
        let (ours, theirs) = (Sealer::new(&[1; 32]).unwrap(), Sealer::new(&[2; 32]).unwrap());
        let sealed = ours.seal("a", b"text").unwrap();
        assert_eq!(ours.open("a", &sealed).unwrap(), b"text");
        assert_ne!(ours.seal("a", b"text").unwrap(), sealed, "nobody sees that it is the same");
        assert!(matches!(ours.open("b", &sealed), Err(Error::Sealed)));
        assert!(matches!(theirs.open("a", &sealed), Err(Error::Sealed)));
        for at in 0..sealed.len() {
            let mut other = sealed.clone();
            other[at] ^= 1;
            assert!(matches!(ours.open("a", &other), Err(Error::Sealed)), "byte {at}");
        }
        assert!(matches!(ours.open("a", &sealed[..8]), Err(Error::Sealed)));
    }

    #[test]
    fn names_hold_still_for_one_secret() {
        let (ours, theirs) = (Sealer::new(&[1; 32]).unwrap(), Sealer::new(&[2; 32]).unwrap());
        assert_eq!(ours.name(b"thing"), Sealer::new(&[1; 32]).unwrap().name(b"thing"));
        assert_ne!(ours.name(b"thing"), ours.name(b"other"));
        assert_ne!(ours.name(b"thing"), theirs.name(b"thing"));
    }
}
