//! Secrets: what upstreams are shown and nobody else. A value comes in by the API, is sealed under
//! the tenant's key beside the log, and goes out to upstreams alone.

mod api;

use std::collections::HashMap;
use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{self, Command, Kind};
use kernel::receipt::LogId;
use kernel::secret::{Input, Secret};
use ledger::Batch;
use ledger::content::Vault;
use ledger::store::{Class, SideRow};
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub(crate) use api::SecretsApi;

use crate::directory::Directory;
use crate::doubt::Doubt;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// The part of a secret's content that is its value.
const VALUE: &str = "value";

/// What a secret's content is kept under.
fn content_id(name: &str) -> String {
    format!("secret/{name}")
}

/// A value that was opened, and the version that it was of then.
type Opened = (u64, Arc<Zeroizing<String>>);

/// Opens the values of secrets.
pub(crate) struct Secrets {
    directory: Arc<Directory>,
    doubt: Arc<Doubt>,
    vault: Arc<Vault>,
    /// Values in use: each is opened once a version.
    opened: Mutex<HashMap<(TenantId, String), Opened>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    pub(crate) fn new(directory: Arc<Directory>, doubt: Arc<Doubt>, vault: Arc<Vault>) -> Self {
        Self { directory, doubt, vault, opened: Mutex::default() }
    }

    /// The present value of a tenant's secret.
    pub(crate) fn reveal(
        &self,
        tenant: &TenantId,
        name: &str,
    ) -> std::result::Result<Zeroizing<String>, Failure> {
        if self.doubt.is_open() {
            let message = "it is not known for the moment which secrets there are";
            let failure = Failure::new(Category::Internal, "unavailable", message);
            return Err(failure.retry_after_ms(limits::DOUBT_RETRY_MS));
        }
        let missing = || {
            let message = format!("there is no secret `{name}`: tally secret put {name}");
            Failure::new(Category::Permanent, "secret_missing", message)
        };
        let key = (tenant.clone(), name.to_owned());
        let Some(secret) = self.directory.secret(tenant, name).filter(|known| !known.removed)
        else {
            self.opened.lock().remove(&key);
            return Err(missing());
        };
        let known = self.opened.lock().get(&key).cloned();
        if let Some((_, value)) = known.filter(|(version, _)| *version == secret.version) {
            return Ok(Zeroizing::new(value.as_str().to_owned()));
        }
        let sealed = self.vault.open(tenant.as_str(), &content_id(name), VALUE);
        let plain = sealed.map_err(|error| Refused::from(error).0)?.map(Zeroizing::new);
        let plain = plain.ok_or_else(missing)?;
        let text = std::str::from_utf8(&plain).map_err(|error| Refused::internal(error).0)?;
        let value = Arc::new(Zeroizing::new(text.to_owned()));
        self.opened.lock().insert(key, (secret.version, value.clone()));
        Ok(Zeroizing::new(value.as_str().to_owned()))
    }
}

/// The present value of a tenant's secret.
pub(crate) fn reveal(
    shared: &Shared,
    tenant: &TenantId,
    name: &str,
) -> std::result::Result<Zeroizing<String>, Failure> {
    shared.secrets.reveal(tenant, name)
}

fn command(name: &str, input: Input) -> Command {
    Command::new(Kind::Secret, name, machine::Input::Secret(input))
}

/// The value as it is kept. Its text is not said again: not even in a refusal.
async fn seal(shared: &Shared, tenant: &TenantId, name: &str, value: &str) -> Result<SideRow> {
    if value.is_empty() || value.len() > limits::SECRET_BYTES_MAX {
        return Err(Refused::invalid("a secret's value: 1 byte to 64 KiB"));
    }
    let (tenant, id, plain) = (tenant.as_str(), content_id(name), value.as_bytes());
    let vault = &shared.control.vault;
    Ok(vault.seal(tenant, &id, VALUE, Class::Record, plain, shared.now()).await?)
}

fn drop_value(tenant: &TenantId, name: &str) -> SideRow {
    SideRow::DropContent { tenant: tenant.to_string(), id: content_id(name), part: VALUE }
}

/// Keeps a value that the server itself was given on behalf of `by`, such as an upstream's token:
/// the first one, or another.
pub(crate) async fn keep(
    shared: &Shared,
    tenant: &TenantId,
    name: &str,
    value: &str,
    by: &PrincipalId,
) -> Result<()> {
    let by = by.clone();
    let input = match live(shared, tenant, name) {
        Some(_) => Input::Rotate { by },
        None => Input::Put { name: name.to_owned(), by },
    };
    let side = vec![seal(shared, tenant, name, value).await?];
    let log = LogId::Control(tenant.clone());
    let batch = Batch { side, ..Batch::new(log, vec![command(name, input)]) };
    shared.commit_control(batch).await.map(drop)
}

/// A secret that has a value.
pub(crate) fn live(shared: &Shared, tenant: &TenantId, name: &str) -> Option<Arc<Secret>> {
    shared.control.directory.secret(tenant, name).filter(|secret| !secret.removed)
}
