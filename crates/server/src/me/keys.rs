//! Signing keys: the public keys with which approvers sign, in the control log.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kernel::machine::{self, Command, Kind, State};
use kernel::pem;
use kernel::signer::{Input, PublicKey, Signer, SigningKey};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::Class;
use proto::me::{AddSigningKeyRequest, SigningKey as WireKey};
use proto::wire::Timestamp;

use super::a_person;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// The part of a signing key's content that is its name.
const NAME: &str = "name";

fn command(caller: &Caller, input: Input) -> Command {
    Command::new(Kind::Signer, caller.id.as_str(), machine::Input::Signer(input))
}

fn content(caller: &Caller, key_id: &Digest) -> String {
    format!("{}/{}", caller.id, key_id.hex())
}

/// The caller's signing keys.
pub(crate) fn signer(shared: &Shared, caller: &Caller) -> Result<Option<Signer>> {
    let id = caller.id.as_str();
    match shared.control.ledger.read(&caller.control_log(), Kind::Signer, id)? {
        Some(State::Signer(signer)) => Ok(Some(signer)),
        _ => Ok(None),
    }
}

/// Reads the id of a key.
pub(crate) fn key_id(text: &str) -> Result<Digest> {
    Digest::parse(text).ok_or_else(|| Refused::invalid("key_id: 64 lower-case hex digits"))
}

/// Registers a public key of the caller's.
pub(super) async fn add(
    shared: &Shared,
    caller: &Caller,
    wire: &AddSigningKeyRequest,
    body: Digest,
) -> Result<WireKey> {
    a_person(caller)?;
    if wire.name.is_empty() || wire.name.len() > limits::TEXT_BYTES_MAX {
        return Err(Refused::invalid("name: 1 to 2000 characters"));
    }
    let bad = || Refused::invalid("public_key_pem: a public key, ECDSA P-256 or Ed25519, as PEM");
    let spki = pem::decode(&wire.public_key_pem).ok_or_else(bad)?;
    let public = PublicKey::read(&spki).ok_or_else(bad)?;
    if let PublicKey::P256(point) = public {
        // A point that is not on the curve verifies nothing.
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).map_err(|_| bad())?;
    }
    let key_id = Digest::of(&spki);
    let (tenant, now) = (caller.tenant.as_str(), shared.now());
    let (vault, name) = (&shared.control.vault, wire.name.as_bytes());
    let row = vault.seal(tenant, &content(caller, &key_id), NAME, Class::Record, name, now).await?;
    let (algorithm, public_key) = (public.algorithm(), BASE64.encode(&spki));
    let commands = vec![command(caller, Input::Register { key_id, algorithm, public_key })];
    let batch = Batch { side: vec![row], ..Batch::new(caller.control_log(), commands) };
    shared.mutate(caller, "me_signing_key", body, &key_id.hex(), batch).await?;
    shown(shared, caller, &key_id)
}

/// Removes a key of the caller's.
pub(super) async fn remove(
    shared: &Shared,
    caller: &Caller,
    key_id: &Digest,
    body: Digest,
) -> Result<WireKey> {
    let commands = vec![command(caller, Input::Remove { key_id: *key_id })];
    let batch = Batch::new(caller.control_log(), commands);
    shared.mutate(caller, "me_signing_key_remove", body, &key_id.hex(), batch).await?;
    shown(shared, caller, key_id)
}

/// Every key that the caller registered.
pub(super) fn list(shared: &Shared, caller: &Caller) -> Result<Vec<WireKey>> {
    let keys = signer(shared, caller)?.map(|signer| signer.keys).unwrap_or_default();
    keys.iter().map(|key| wire(shared, caller, key)).collect()
}

fn shown(shared: &Shared, caller: &Caller, key_id: &Digest) -> Result<WireKey> {
    let signer = signer(shared, caller)?;
    let known = signer.as_ref().and_then(|s| s.keys.iter().find(|key| key.key_id == *key_id));
    wire(shared, caller, known.ok_or_else(|| Refused::not_found("signing key"))?)
}

fn wire(shared: &Shared, caller: &Caller, key: &SigningKey) -> Result<WireKey> {
    let tenant = caller.tenant.as_str();
    let name = shared.control.vault.open(tenant, &content(caller, &key.key_id), NAME)?;
    let spki = BASE64.decode(&key.public_key).map_err(Refused::internal)?;
    Ok(WireKey {
        key_id: key.key_id.hex(),
        name: String::from_utf8(name.unwrap_or_default()).map_err(Refused::internal)?,
        algorithm: key.algorithm.as_str().to_owned(),
        public_key_pem: pem::encode(&spki),
        registered_at: Some(Timestamp::from_micros(key.registered_at.0)),
        removed_at: key.removed_at.map(|at| Timestamp::from_micros(at.0)),
    })
}
