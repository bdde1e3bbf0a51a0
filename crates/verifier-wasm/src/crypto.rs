//! The signature algorithms in Rust alone.

use ed25519_dalek::Verifier as _;
use kernel::verify::SignatureVerifier;

/// What stands before the uncompressed point of a P-256 key in its SPKI. The only form of a key
/// that counts, so that a key has one id.
const P256_SPKI_HEADER: &[u8] = b"\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00";
/// Bytes of an uncompressed point.
const P256_POINT_BYTES: usize = 65;

/// Verifies with `p256` and `ed25519-dalek`.
#[derive(Clone, Copy, Debug, Default)]
pub struct PureVerifier;

impl SignatureVerifier for PureVerifier {
    fn p256_sha256(&self, spki_der: &[u8], message: &[u8], sig_der: &[u8]) -> bool {
        let point = spki_der.strip_prefix(P256_SPKI_HEADER);
        let Some(point) = point.filter(|point| point.len() == P256_POINT_BYTES) else {
            return false;
        };
        let key = p256::ecdsa::VerifyingKey::from_sec1_bytes(point);
        let signature = p256::ecdsa::Signature::from_der(sig_der);
        match (key, signature) {
            (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
            _ => false,
        }
    }

    fn ed25519(&self, public: &[u8; 32], message: &[u8], sig: &[u8]) -> bool {
        let key = ed25519_dalek::VerifyingKey::from_bytes(public);
        let signature = ed25519_dalek::Signature::from_slice(sig);
        match (key, signature) {
            (Ok(key), Ok(signature)) => key.verify(message, &signature).is_ok(),
            _ => false,
        }
    }
}
