//! An approver's own key, on the approver's own machine: the server sees signatures only.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kernel::approval::{Verdict, signed_bytes, signed_statement};
use kernel::ids::ApprovalId;
use kernel::values::{Digest, Timestamp};
use proto::approvals::stage::State;
use proto::approvals::{Approval, Signature};

use crate::exit::Failure;

/// Bytes of a key file that are read: a private key in PEM has a few hundred.
const FILE_BYTES_MAX: u64 = 16 * 1024;

/// A private key for decisions.
pub(crate) enum Key {
    P256(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl Key {
    /// Reads a private key in PEM, as openssl writes it: P-256 or Ed25519, without a passphrase.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let bad = |what: &str| Failure::Usage(format!("`{shown}` {what}"));
        let size = fs::metadata(path).with_context(|| format!("cannot read `{shown}`"))?.len();
        if size > FILE_BYTES_MAX {
            return Err(bad("is too long for a key").into());
        }
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
        let der = ["PRIVATE KEY", "EC PRIVATE KEY"].iter().find_map(|kind| block(&text, kind));
        let der = der.ok_or_else(|| bad("holds no private key in PEM without a passphrase"))?;
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der) {
            return Ok(Self::Ed25519(pair));
        }
        let pair = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der);
        let pair = pair.map_err(|_| bad("is no P-256 or Ed25519 key"))?;
        Ok(Self::P256(pair))
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    pub(crate) fn spki_der(&self) -> anyhow::Result<Vec<u8>> {
        let spki = match self {
            Self::P256(pair) => pair.public_key().as_der(),
            Self::Ed25519(pair) => pair.public_key().as_der(),
        };
        Ok(spki.context("the public key cannot be written")?.as_ref().to_vec())
    }

    fn sign(&self, message: &[u8]) -> anyhow::Result<Vec<u8>> {
        Ok(match self {
            Self::P256(pair) => {
                let signature = pair.sign(&SystemRandom::new(), message);
                signature.context("the key does not sign")?.as_ref().to_vec()
            }
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        })
    }
}

/// The DER of the first block of a kind in PEM.
fn block(text: &str, kind: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {kind}-----"), format!("-----END {kind}-----"));
    let (_, rest) = text.split_once(&begin)?;
    let (body, _) = rest.split_once(&end)?;
    BASE64.decode(body.split_ascii_whitespace().collect::<String>()).ok()
}

/// The stage that a decision is for: the one that was named, else the only open one.
fn stage(seen: &Approval, named: Option<String>) -> Result<String, Failure> {
    if let Some(named) = named {
        return Ok(named);
    }
    let mut open = seen.stages.iter().filter(|stage| stage.state() == State::Open);
    match (open.next(), open.next()) {
        (Some(only), None) => Ok(only.name.clone()),
        (None, _) => Err(Failure::Usage("no stage of this approval is open".to_owned())),
        _ => Err(Failure::Usage("several stages are open: name yours with --stage".to_owned())),
    }
}

/// Signs a decision about what was shown. It holds as long as the approval could.
pub(crate) fn sign(
    key: &Key,
    seen: &Approval,
    plan_digest: &str,
    verdict: Verdict,
    named: Option<String>,
) -> anyhow::Result<(String, Signature)> {
    let stage = stage(seen, named)?;
    let id = ApprovalId::new(&seen.approval_id)?;
    let digest = Digest::parse(plan_digest)
        .ok_or_else(|| Failure::Usage("--plan-digest: `sha256:` and 64 hex digits".to_owned()))?;
    let expires_at = seen.expires_at.as_ref().context("an approval without an end")?.micros();
    let granted = i64::from(seen.valid_s.unwrap_or_default()).saturating_mul(1_000_000);
    let not_after = Timestamp(expires_at.saturating_add(granted));
    let statement = signed_statement(&id, digest, verdict, &stage, not_after)?;
    let sig = key.sign(&signed_bytes(&statement))?;
    let signature = Signature {
        key_id: Digest::of(&key.spki_der()?).hex(),
        sig: BASE64.encode(sig),
        not_after: not_after.0,
        public_key: String::new(),
    };
    Ok((stage, signature))
}
