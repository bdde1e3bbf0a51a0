//! Secrets: what upstreams are shown and nobody else. A value comes in by the API, is sealed under
//! the tenant's key beside the log, and goes out to upstreams alone.

mod api;
mod upstream;

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use connectors::mcp::auth::LoginAuthorizer;
use kernel::failure::{Category, Failure};
use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{self, Command, Kind};
use kernel::receipt::LogId;
use kernel::secret::{Input, Secret};
use ledger::content::Vault;
use ledger::store::{Class, SideRow};
use ledger::{Batch, Clock, Committed, Ledger};
use parking_lot::Mutex;
use zeroize::Zeroizing;

pub(crate) use api::SecretsApi;
pub(crate) use upstream::OfTenant;

use crate::directory::Directory;
use crate::doubt::Doubt;
use crate::error::{Refused, Result};
use crate::follow::Follower;
use crate::limits;
use crate::shared::commit;

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
    ledger: Ledger,
    clock: Clock,
    /// Values in use: each is opened once a version.
    opened: Mutex<HashMap<(TenantId, String), Opened>>,
    /// The upstreams that people log in at.
    logins: Mutex<HashMap<(TenantId, String), Weak<LoginAuthorizer>>>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Secrets").finish_non_exhaustive()
    }
}

impl Secrets {
    pub(crate) fn new(
        (directory, doubt): (Arc<Directory>, Arc<Doubt>),
        (vault, ledger): (Arc<Vault>, Ledger),
        clock: Clock,
    ) -> Self {
        let (opened, logins) = (Mutex::default(), Mutex::default());
        Self { directory, doubt, vault, ledger, clock, opened, logins }
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

    /// A secret that has a value.
    pub(crate) fn live(&self, tenant: &TenantId, name: &str) -> Option<Arc<Secret>> {
        self.directory.secret(tenant, name).filter(|secret| !secret.removed)
    }

    /// The value as it is kept. Its text is not said again: not even in a refusal.
    async fn seal(&self, tenant: &TenantId, name: &str, value: &str) -> Result<SideRow> {
        if value.is_empty() || value.len() > limits::SECRET_BYTES_MAX {
            return Err(Refused::invalid("a secret's value: 1 byte to 64 KiB"));
        }
        let (tenant, id, plain) = (tenant.as_str(), content_id(name), value.as_bytes());
        let (class, now) = (Class::Record, (self.clock)());
        Ok(self.vault.seal(tenant, &id, VALUE, class, plain, now).await?)
    }

    /// Keeps a value that the server itself was given, such as an upstream's tokens: the first one,
    /// or another. It is `by` whoever brought it about, or else whoever did so before.
    async fn keep(
        &self,
        tenant: &TenantId,
        name: &str,
        value: &str,
        by: Option<PrincipalId>,
    ) -> Result<()> {
        let known = self.live(tenant, name);
        let by = by.or_else(|| known.as_ref().map(|secret| secret.by.clone()));
        let by = by.ok_or_else(|| Refused::not_found("secret"))?;
        let input = match known {
            Some(_) => Input::Rotate { by },
            None => Input::Put { name: name.to_owned(), by },
        };
        let side = vec![self.seal(tenant, name, value).await?];
        let log = LogId::Control(tenant.clone());
        let batch = Batch { side, ..Batch::new(log, vec![command(name, input)]) };
        let (directory, doubt) = (self.directory.clone(), self.doubt.clone());
        let moved =
            move |log: &LogId, committed: &Committed| directory.take(log, &committed.states);
        commit(self.ledger.clone(), doubt, batch, moved).await?;
        Ok(())
    }
}

fn command(name: &str, input: Input) -> Command {
    Command::new(Kind::Secret, name, machine::Input::Secret(input))
}

fn drop_value(tenant: &TenantId, name: &str) -> SideRow {
    SideRow::DropContent { tenant: tenant.to_string(), id: content_id(name), part: VALUE }
}
