//! The keys that sign a tenant's receipts: which there are, and going over to a new one.
//!
//! The control log of a tenant is handed over first and says which key is the newest; its other
//! logs follow. Where that is cut off, the next rotation or start goes on with it.

use std::collections::BTreeMap;

use kernel::ids::TenantId;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::reservation;
use kernel::signing_key::{KeyRanges, LogKeys};
use kernel::values::Digest;
use ledger::keys::{self, PublicKey, Purpose};
use ledger::{Batch, log_keys};
use proto::identity::trust_key::Purpose as WirePurpose;
use proto::identity::{GetTenantKeysResponse, KeyState, TrustKey};

use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

/// What an idempotency key of a rotation is for.
const ENDPOINT: &str = "signing_keys.rotate";

/// The receipt keys of a tenant and what each is valid for.
pub(crate) struct Trusted {
    /// Each key's SubjectPublicKeyInfo in DER.
    pub(crate) keys: BTreeMap<Digest, Vec<u8>>,
    pub(crate) logs: LogKeys,
}

/// The receipt keys of every log of a tenant, of both planes.
pub(crate) fn trusted(shared: &Shared, tenant: &str) -> Result<Trusted> {
    let mut trusted = Trusted { keys: BTreeMap::new(), logs: LogKeys::default() };
    for ledger in [&shared.control.ledger, &shared.ledger] {
        for (log, ranges) in log_keys::of_tenant(ledger, tenant)? {
            for range in ranges.as_slice() {
                let key = ledger.keys().p256_by_id(tenant, Purpose::Receipt, &range.key_id)?;
                trusted.keys.insert(range.key_id, key.spki_der().to_vec());
            }
            trusted.logs.insert(log.origin(ledger.host()), ranges);
        }
    }
    Ok(trusted)
}

/// The keys of a tenant as its control log has them; none before it was furnished.
fn of_control(shared: &Shared, tenant: &TenantId) -> Result<Option<KeyRanges>> {
    let log = LogId::Control(tenant.clone());
    Ok(log_keys::of_log(shared.control.ledger.store().as_ref(), &log)?)
}

/// The keys of a tenant's receipts and policies, and of every log of both planes.
pub(crate) fn public(shared: &Shared, tenant: &str) -> Result<GetTenantKeysResponse> {
    let unknown = || Refused::not_found("tenant");
    let id = TenantId::new(tenant).map_err(|_| unknown())?;
    if shared.control.directory.tenant(&id).is_none() {
        return Err(unknown());
    }
    let newest = of_control(shared, &id)?.and_then(|ranges| ranges.current());
    let mut found = keys::public_keys(&shared.control.ledger, tenant)?;
    for key in keys::public_keys(&shared.ledger, tenant)? {
        // The key of policies serves both planes.
        if !found.contains(&key) {
            found.push(key);
        }
    }
    let state = |key: &PublicKey| {
        let Some(range) = &key.range else { return KeyState::Active };
        let same = |other: &&PublicKey| other.range.is_some_and(|r| r.key_id == range.key_id);
        let signs = |other: &PublicKey| other.range.is_some_and(|r| r.to.is_none());
        if newest == Some(range.key_id) {
            KeyState::Active
        } else if found.iter().filter(same).any(signs) {
            KeyState::Retiring
        } else {
            KeyState::Retired
        }
    };
    let states: Vec<_> = found.iter().map(state).collect();
    let keys = found.into_iter().zip(states).map(|(key, state)| wire(key, state));
    Ok(GetTenantKeysResponse { keys: keys.collect::<Result<_>>()? })
}

fn wire(key: PublicKey, state: KeyState) -> Result<TrustKey> {
    let purpose = match key.purpose {
        "receipt" => WirePurpose::Receipt,
        "policy" => WirePurpose::Policy,
        "checkpoint" => WirePurpose::Log,
        other => return Err(Refused::internal(format!("a key for `{other}`"))),
    };
    let spki = keys::from_pem(&key.pem).ok_or_else(|| Refused::internal("a key without PEM"))?;
    Ok(TrustKey {
        key_id: Digest::of(&spki).hex(),
        algorithm: key.algorithm.to_owned(),
        purpose: purpose.into(),
        public_key_pem: key.pem,
        vkey: key.vkey.unwrap_or_default(),
        state: state.into(),
        from_index: key.range.map_or(0, |range| range.from),
        to_index: key.range.and_then(|range| range.to),
        origin: key.origin.unwrap_or_default(),
    })
}

/// Makes a new receipt key and has every log of the caller's tenant sign with it.
pub(crate) async fn rotate(shared: &Shared, caller: &Caller, body: Digest) -> Result<()> {
    let _one_at_a_time = shared.control.rotating.lock().await;
    let tenant = caller.tenant.as_str();
    if !repeated(shared, caller, body)? {
        let current = of_control(shared, &caller.tenant)?.and_then(|ranges| ranges.current());
        let current = current.ok_or_else(|| Refused::internal("a tenant without a log"))?;
        let ledger = &shared.control.ledger;
        let new = ledger.keys().create_p256(tenant, Purpose::Receipt)?;
        let command = log_keys::activate(new.as_ref(), current);
        let batch = Batch::new(caller.control_log(), vec![command]);
        shared.mutate(caller, ENDPOINT, body, &new.key_id().hex(), batch).await?;
        tracing::info!(tenant, key_id = %new.key_id(), "a new key signs receipts");
    }
    hand_over(shared, &caller.tenant).await
}

/// Whether the same request made a key before: no further one is made then.
fn repeated(shared: &Shared, caller: &Caller, body: Digest) -> Result<bool> {
    let now = shared.now();
    let Some((id, input)) = caller.reserve(ENDPOINT, body, "", now) else { return Ok(false) };
    let ledger = &shared.control.ledger;
    let held = match ledger.read(&caller.control_log(), Kind::Idempotency, &id)? {
        Some(State::Reservation(held)) => Some(held),
        _ => None,
    };
    match reservation::step(held.as_ref(), input, now) {
        Ok(_) => Ok(false),
        Err(kernel::machine::Refusal::Duplicate { .. }) => Ok(true),
        Err(refusal) => Err(ledger::Error::from(refusal).into()),
    }
}

/// Has the tenant's other logs follow its control log.
async fn hand_over(shared: &Shared, tenant: &TenantId) -> Result<()> {
    let Some(ranges) = of_control(shared, tenant)? else { return Ok(()) };
    if let (Some(newest), true) = (ranges.current(), ranges.as_slice().len() > 1) {
        log_keys::hand_over(&shared.ledger, tenant.as_str(), &newest).await?;
    }
    Ok(())
}

/// Goes on with every rotation that was cut off.
pub(crate) async fn resume(shared: &Shared) -> Result<()> {
    for tenant in shared.control.directory.tenants() {
        hand_over(shared, &tenant.id).await?;
    }
    Ok(())
}
