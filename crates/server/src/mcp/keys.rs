//! The secret of a tenant's gateway: it seals what clients carry for us, and names held calls.
//!
//! It is kept as sealed content of the tenant, so it outlasts restarts, and it is opened once: a
//! hardware module is not asked for each call.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::ids::TenantId;
use kernel::receipt::LogId;
use ledger::Batch;
use ledger::keys::Sealer;
use ledger::store::Class;
use parking_lot::RwLock;
use zeroize::Zeroizing;

use crate::error::{Refused, Result};
use crate::shared::Shared;

/// Where the secret is kept: of what, and which part.
const SECRET: (&str, &str) = ("mcp", "gateway");
/// Its bytes.
const SECRET_BYTES: usize = 32;

/// The sealers of the tenants that have been asked for.
#[derive(Default)]
pub(crate) struct Keys {
    open: RwLock<HashMap<TenantId, Arc<Sealer>>>,
    making: tokio::sync::Mutex<()>,
}

impl Keys {
    /// The sealer of a tenant.
    pub(crate) async fn of(&self, shared: &Shared, tenant: &TenantId) -> Result<Arc<Sealer>> {
        if let Some(sealer) = self.open.read().get(tenant) {
            return Ok(sealer.clone());
        }
        let _one_at_a_time = self.making.lock().await;
        let secret = match kept(shared, tenant)? {
            Some(secret) => secret,
            None => make(shared, tenant).await?,
        };
        let secret = <&[u8; SECRET_BYTES]>::try_from(secret.as_slice());
        let sealer = Arc::new(Sealer::new(secret.map_err(Refused::internal)?)?);
        self.open.write().insert(tenant.clone(), sealer.clone());
        Ok(sealer)
    }
}

fn kept(shared: &Shared, tenant: &TenantId) -> Result<Option<Zeroizing<Vec<u8>>>> {
    let (id, part) = SECRET;
    Ok(shared.vault.open(tenant.as_str(), id, part)?.map(Zeroizing::new))
}

/// Makes the secret. It is durable before anything is sealed or named with it.
async fn make(shared: &Shared, tenant: &TenantId) -> Result<Zeroizing<Vec<u8>>> {
    let (id, part) = SECRET;
    let secret = ledger::keys::random::<SECRET_BYTES>()?;
    let (tenant, now) = (tenant.as_str(), shared.now());
    let row = shared.vault.seal(tenant, id, part, Class::Record, secret.as_ref(), now).await?;
    shared.ledger.commit(Batch::side(LogId::System, vec![row])).await?;
    Ok(Zeroizing::new(secret.to_vec()))
}
