//! The server itself: whether it lives, whether it is ready, and what it is.

use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;
use ledger::Ledger;
use proto::system::system_service_server::SystemService;
use proto::system::{
    Check, GetHealthRequest, GetReadyRequest, GetVersionRequest, Health, Ready, Version,
};
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::shared::Shared;

/// The version of the protocol.
const PROTOCOL_VERSION: u32 = 1;
/// The version of the receipts' schema.
const SCHEMA_VERSION: u32 = 1;

/// Serves what is asked of the server itself.
pub(crate) struct SystemApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

impl SystemApi {
    fn ready(&self) -> Result<Ready> {
        let stores =
            [store("control_store", &self.0.control.ledger), store("store", &self.0.ledger)];
        if let Some(failed) = stores.iter().find(|check| !check.ok) {
            let message = format!("not ready: {}: {}", failed.name, failed.detail);
            let failure = Failure::new(Category::Internal, "not_ready", message);
            return Err(Refused(failure.retryable(true)));
        }
        if self.0.control.doubt.is_open() {
            let message = "not ready: directory: it is being read again";
            let failure = Failure::new(Category::Internal, "not_ready", message);
            return Err(Refused(failure.retryable(true)));
        }
        let mut checks = Vec::from(stores);
        checks.push(self.policy()?);
        checks.extend(self.witnesses());
        Ok(Ready { ready: true, checks })
    }

    /// Tells whether a witness stands against one of the logs. The server goes on: what is in doubt
    /// is its past, and stopping would not mend it.
    fn witnesses(&self) -> Option<Check> {
        let witnesses = Some(&self.0.witnesses).filter(|witnesses| witnesses.asked())?;
        let accused = witnesses.accused();
        let detail = "a witness says that a log was cut off or rewritten: see the server's log";
        let detail = if accused { detail } else { "" };
        Some(Check { name: "witnesses".to_owned(), ok: !accused, detail: detail.to_owned() })
    }

    /// Tells how the operating tenant's policy stands. A server without one is ready: it takes
    /// requests and denies them.
    fn policy(&self) -> Result<Check> {
        let tenant = TenantId::new(&self.0.config.tenant).map_err(Refused::internal)?;
        let status = self.0.policy.status(&tenant);
        let detail = match (status.policy.revision, status.fresh) {
            (0, _) => "no policy is published: every action is denied",
            (_, false) => "the policy cannot be used or is not confirmed: every action is denied",
            (_, true) => "",
        };
        Ok(Check { name: "policy".to_owned(), ok: true, detail: detail.to_owned() })
    }
}

fn store(name: &str, ledger: &Ledger) -> Check {
    let store = ledger.store();
    let answered = store.logs().and_then(|_| store.writable());
    if let Err(error) = &answered {
        tracing::warn!(%error, name, "a store does not answer");
    }
    // Anybody may ask: why it does not answer is for the server's log.
    let detail = if answered.is_ok() { "" } else { "does not answer" };
    Check { name: name.to_owned(), ok: answered.is_ok(), detail: detail.to_owned() }
}

#[tonic::async_trait]
impl SystemService for SystemApi {
    async fn get_health(&self, _request: Request<GetHealthRequest>) -> Reply<Health> {
        Ok(Response::new(Health { status: "ok".to_owned() }))
    }

    async fn get_ready(&self, _request: Request<GetReadyRequest>) -> Reply<Ready> {
        Ok(Response::new(self.ready()?))
    }

    async fn get_version(&self, _request: Request<GetVersionRequest>) -> Reply<Version> {
        Ok(Response::new(Version {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("TALLY_COMMIT").unwrap_or("unknown").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            schema_version: SCHEMA_VERSION,
        }))
    }
}
