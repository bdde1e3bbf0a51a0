//! Public keys in PEM (RFC 7468).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

const BEGIN: &str = "-----BEGIN PUBLIC KEY-----";
const END: &str = "-----END PUBLIC KEY-----";

/// A key's SubjectPublicKeyInfo in PEM.
pub fn encode(spki_der: &[u8]) -> String {
    let base64 = BASE64.encode(spki_der);
    let mut pem = format!("{BEGIN}\n");
    for (at, character) in base64.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            pem.push('\n');
        }
        pem.push(character);
    }
    pem + "\n" + END + "\n"
}

/// The SubjectPublicKeyInfo in DER of a key in PEM; none where it is not one.
pub fn decode(pem: &str) -> Option<Vec<u8>> {
    let body = pem.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    BASE64.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}
