//! DSSE v1 envelopes in one fixed, compact form: these bytes are the leaves of a log.
//!
//! ```text
//! {"payloadType":"application/vnd.in-toto+json","payload":"<base64>",
//!  "signatures":[{"keyid":"<64 hex>","sig":"<base64>"}]}        (on one line, no spaces)
//! ```

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::values::Digest;

/// The type of every payload: an in-toto statement.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

/// What stands between the parts that vary.
const BEFORE_PAYLOAD: &str = r#"{"payloadType":"application/vnd.in-toto+json","payload":""#;
const BEFORE_KEY_ID: &str = r#"","signatures":[{"keyid":""#;
const BEFORE_SIGNATURE: &str = r#"","sig":""#;
const END: &str = r#""}]}"#;

/// Why bytes are no envelope of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Other fields, another order, spaces, another payload type or another number of signatures.
    #[error("the envelope differs from the fixed form at byte {0}: pass on the stored bytes")]
    Form(usize),
    /// The payload or signature is not canonical base64.
    #[error("the envelope's {0} is not canonical base64: pass on the stored bytes")]
    Base64(&'static str),
    /// The key id is not 64 lower-case hex digits.
    #[error("the envelope's keyid is not 64 lower-case hex digits")]
    KeyId,
}

impl Error {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Form(_) => "dsse_form",
            Self::Base64(_) => "dsse_base64",
            Self::KeyId => "dsse_key_id",
        }
    }
}

/// What is signed in place of `payload`: `DSSEv1 <length> <type> <length> <payload>`.
pub fn pae(payload: &[u8]) -> Vec<u8> {
    pae_of(PAYLOAD_TYPE, payload)
}

/// The same for a payload of another type.
pub fn pae_of(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

/// The bytes of an envelope. `key_id` is the SHA-256 of the key's SPKI in DER; `signature` is
/// ECDSA in ASN.1 DER over [`pae`] of the payload.
pub fn envelope(payload: &[u8], key_id: &Digest, signature: &[u8]) -> Vec<u8> {
    let fixed = BEFORE_PAYLOAD.len() + BEFORE_KEY_ID.len() + BEFORE_SIGNATURE.len() + END.len();
    let base64 = |bytes: &[u8]| bytes.len().div_ceil(3) * 4;
    let mut out = String::with_capacity(fixed + base64(payload) + 64 + base64(signature));
    out.push_str(BEFORE_PAYLOAD);
    BASE64.encode_string(payload, &mut out);
    out.push_str(BEFORE_KEY_ID);
    out.push_str(&key_id.hex());
    out.push_str(BEFORE_SIGNATURE);
    BASE64.encode_string(signature, &mut out);
    out.push_str(END);
    out.into_bytes()
}

/// An envelope, its signature not yet verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The statement's bytes.
    pub payload: Vec<u8>,
    /// Which key signed: the SHA-256 of its SPKI in DER.
    pub key_id: Digest,
    /// ECDSA in ASN.1 DER.
    pub signature: Vec<u8>,
}

impl Envelope {
    /// Reads the one form that [`envelope`] writes, so that printing gives the same bytes again.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader { bytes, rest: bytes };
        reader.pass(BEFORE_PAYLOAD)?;
        let payload = reader.text();
        reader.pass(BEFORE_KEY_ID)?;
        let key_id = reader.text();
        reader.pass(BEFORE_SIGNATURE)?;
        let signature = reader.text();
        reader.pass(END)?;
        if !reader.rest.is_empty() {
            return Err(reader.error());
        }
        let mut id = [0; 32];
        let upper = key_id.iter().any(u8::is_ascii_uppercase);
        if upper || hex::decode_to_slice(key_id, &mut id).is_err() {
            return Err(Error::KeyId);
        }
        Ok(Self {
            payload: BASE64.decode(payload).map_err(|_| Error::Base64("payload"))?,
            key_id: Digest(id),
            signature: BASE64.decode(signature).map_err(|_| Error::Base64("sig"))?,
        })
    }

    /// The bytes of this envelope.
    pub fn print(&self) -> Vec<u8> {
        envelope(&self.payload, &self.key_id, &self.signature)
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn error(&self) -> Error {
        Error::Form(self.bytes.len() - self.rest.len())
    }

    fn pass(&mut self, fixed: &str) -> Result<(), Error> {
        self.rest = self.rest.strip_prefix(fixed.as_bytes()).ok_or_else(|| self.error())?;
        Ok(())
    }

    /// What stands before the next quote.
    fn text(&mut self) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| *byte == b'"').unwrap_or(self.rest.len());
        let (text, rest) = self.rest.split_at_checked(end).unwrap_or((self.rest, &[]));
        self.rest = rest;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_the_specification() {
        // The DSSE documents sign "hello world" under another type; ours is 28 bytes long.
        assert_eq!(pae(b"hello world"), b"DSSEv1 28 application/vnd.in-toto+json 11 hello world");
        assert_eq!(pae(b""), b"DSSEv1 28 application/vnd.in-toto+json 0 ");
    }

    #[test]
    fn other_forms_are_refused() {
        let good = String::from_utf8(envelope(b"{}", &Digest::of(b"k"), b"sig!")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&good).unwrap();
        assert_eq!(json["payload"], "e30=");
        assert_eq!(json["signatures"][0]["keyid"], Digest::of(b"k").hex());
        let id = Digest::of(b"k").hex();
        for (bytes, code) in [
            (good.replace("\"payload\"", " \"payload\""), "dsse_form"),
            (good.replace("in-toto+json", "in-toto"), "dsse_form"),
            (good.replace("\"}]", "\",\"x\":1}]"), "dsse_form"),
            (good.replace("}]}", "},{\"keyid\":\"\",\"sig\":\"\"}]}"), "dsse_form"),
            (good.replace("}]}", "}],\"x\":1}"), "dsse_form"),
            (good.replace("[{", "[]"), "dsse_form"),
            (good.clone() + "\n", "dsse_form"),
            (good.replace("e30=", "e30"), "dsse_base64"),
            (good.replace("e30=", "e31="), "dsse_base64"),
            (good.replace("e30=", "e30=\\u0041"), "dsse_base64"),
            (good.replace("c2lnIQ==", "c2lnIR=="), "dsse_base64"),
            (good.replace(&id, &id.to_uppercase()), "dsse_key_id"),
            (good.replace(&id, ""), "dsse_key_id"),
            (String::new(), "dsse_form"),
        ] {
            assert_ne!(bytes, good);
            assert_eq!(Envelope::parse(bytes.as_bytes()).unwrap_err().code(), code, "{bytes}");
        }
    }

    proptest! {
        #[test]
        fn what_parses_prints_the_same(
            payload in prop::collection::vec(any::<u8>(), 0..200),
            signature in prop::collection::vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let mut bytes = envelope(&payload, &Digest::of(&payload), &signature);
            let parsed = Envelope::parse(&bytes).unwrap();
            prop_assert_eq!((&parsed.payload, &parsed.signature), (&payload, &signature));
            prop_assert_eq!(&parsed.print(), &bytes);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            if let Ok(parsed) = Envelope::parse(&bytes) {
                prop_assert_eq!(parsed.print(), bytes);
            }
        }
    }
}
