//! An approver's own signature: checked against the keys that they registered.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kernel::approval::{Signature, signed_bytes};
use kernel::failure::Category;
use kernel::signer::PublicKey;
use kernel::values::{Digest, Timestamp};

use crate::error::{Refused, Result};
use crate::me;
use crate::shared::{Caller, Shared};

/// What was sent, with nothing proven yet.
pub(super) fn read(wire: &proto::approvals::Signature) -> Result<Signature> {
    let signature = Signature {
        key_id: me::key_id(&wire.key_id)?,
        public_key: String::new(),
        not_after: Timestamp(wire.not_after),
        sig: wire.sig.clone(),
    };
    if signature.well_formed() {
        Ok(signature)
    } else {
        Err(Refused::invalid("signature.sig: base64 of ECDSA in DER, or of Ed25519"))
    }
}

/// The signature with its key, where one of the caller's registered keys made it over `statement`.
pub(super) fn verify(
    shared: &Shared,
    caller: &Caller,
    signature: &Signature,
    statement: &[u8],
) -> Result<Signature> {
    let signer = me::signer(shared, caller)?;
    let key = signer.as_ref().and_then(|signer| signer.key(&signature.key_id));
    let key = key.ok_or_else(|| {
        let message = "this key is not among your registered signing keys: see GET \
                       /v1/me/signing-keys";
        Refused::new(Category::Permission, "signature_key_unknown", message)
    })?;
    let spki = BASE64.decode(&key.public_key).map_err(Refused::internal)?;
    let sig = BASE64.decode(&signature.sig).unwrap_or_default();
    let message = signed_bytes(statement);
    let good = match PublicKey::read(&spki) {
        Some(PublicKey::P256(point)) => {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(&message, &sig).is_ok()
        }
        Some(PublicKey::Ed25519(public)) => {
            UnparsedPublicKey::new(&ED25519, public).verify(&message, &sig).is_ok()
        }
        None => false,
    };
    debug_assert_eq!(Digest::of(&spki), signature.key_id, "a key is kept under its own id");
    if !good {
        let message = "the signature is not by this key over approval_id, plan_digest, decision, \
                       stage and not_after";
        return Err(Refused::new(Category::Permission, "signature_invalid", message));
    }
    Ok(Signature { public_key: key.public_key.clone(), ..signature.clone() })
}
