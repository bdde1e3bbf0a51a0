//! Starting: open the stores, load what is known, recover what was cut off, serve.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use connectors::Tools;
use kernel::receipt::LogId;
use ledger::keys::{FileKeys, KeyProvider};
use proto::identity::CreateKeyResponse;
use proto::rest::{BodyLimits, Services};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accounts::AccountsApi;
use crate::actions::{ActionsApi, queue};
use crate::agents::AgentsApi;
use crate::approvals::ApprovalsApi;
use crate::auth::{Gate, gate};
use crate::error::Refused;
use crate::evidence::EvidenceApi;
use crate::experience;
use crate::factory::{self, ReleasesApi, UseCasesApi, WorkflowsApi};
use crate::identity::Identity;
use crate::identity_api::IdentityApi;
use crate::instances::ConnectorsApi;
use crate::ledger_api::LedgerApi;
use crate::listen::{self, Listener};
use crate::me::MeApi;
use crate::metering::MeteringApi;
use crate::open::{open, tools};
use crate::policies::{self, PoliciesApi};
use crate::receipts::ReceiptsApi;
use crate::recent;
use crate::recovery::RecoveryApi;
use crate::runs::{self, RunsApi};
use crate::runtime::RuntimeApi;
use crate::sandbox::{self, SandboxesApi};
use crate::secrets::SecretsApi;
use crate::shared::Shared;
use crate::standby::{self, Front};
use crate::stores::{Epochs, Stores};
use crate::system::SystemApi;
use crate::tools::ToolsApi;
use crate::triggers::{self, TriggersApi};
use crate::upstreams::{self, UpstreamsApi};
use crate::witnesses;
use crate::{
    Config, ConfigError, cards, doubt, grpc, keys, limits, mcp, oauth, oidc, pages, signing_keys,
};

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The data folder cannot be used.
    #[error("cannot use `{path}`")]
    Data {
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process serves the data folder.
    #[error("`{path}` is in use by another server")]
    InUse {
        /// The file of the lock.
        path: PathBuf,
    },
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The tools cannot be set up.
    #[error(transparent)]
    Tools(#[from] connectors::Error),
    /// The server cannot listen.
    #[error(transparent)]
    Listen(#[from] listen::Error),
    /// Something else went wrong while starting.
    #[error("{0}")]
    Start(String),
}

impl Error {
    /// Whether it takes another configuration to start.
    pub fn is_configuration(&self) -> bool {
        let tls = matches!(self, Self::Listen(listen::Error::Tls { .. }));
        let database =
            matches!(self, Self::Ledger(ledger::Error::Database(_) | ledger::Error::Schema(_)));
        tls || database || matches!(self, Self::Config(_) | Self::Tools(_))
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        Self::Start(refused.0.to_string())
    }
}

/// The owner's way in, written on the first start.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credentials {
    /// Where the server listened then.
    pub url: String,
    /// The tenant.
    pub tenant: String,
    /// The workspace that the key is bound to.
    pub workspace: String,
    /// The environment that the key is bound to.
    pub environment: String,
    /// Whose key it is.
    pub principal_id: String,
    /// The API key.
    pub key: String,
}

/// A server that runs, or stands by.
pub struct Running {
    url: String,
    credentials: Option<PathBuf>,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: TaskTracker,
    stores: Arc<Stores>,
    /// Why it stopped by itself.
    ended: Arc<OnceLock<String>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Running {
    /// Where it listens: `http://127.0.0.1:8480`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The file with the owner's key, where this was the first start.
    pub fn credentials_path(&self) -> Option<&Path> {
        self.credentials.as_deref()
    }

    /// Stops: no new requests, and requests and actions under way may end, for a while.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.running.close();
        if tokio::time::timeout(limits::STOP_WAIT, self.running.wait()).await.is_err() {
            tracing::warn!("some actions did not end in time: the next start takes them up");
        }
        standby::release(&self.stores);
    }

    /// Returns when the server stops by itself, and says why. What is under way need not have
    /// ended: a server whose place another has taken must not go on.
    pub async fn wait(&self) -> String {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = self.tasks.wait() => {}
        }
        self.ended.get().cloned().unwrap_or_else(|| "the server stopped by itself".to_owned())
    }
}

/// Starts the server. It serves when this returns, or stands by while another does.
pub async fn start(config: Config) -> Result<Running, Error> {
    config.check()?;
    let tools = tools(&config)?;
    let hardware = keys::connect(&config.keys)?;
    let providers = oidc::Providers::open(&config)?;
    let listener = Listener::bind(&config.listen, config.tls.as_ref()).await?;
    let url = format!("{}://{}", listener.scheme(), listener.address);
    let issuer = config.public_url.clone().unwrap_or_else(|| issuer(&config, &listener));
    let stores = Arc::new(Stores::open(&config, &url)?);
    let mut running = Running {
        url,
        credentials: None,
        stop: CancellationToken::new(),
        tasks: TaskTracker::new(),
        running: TaskTracker::new(),
        ended: Arc::default(),
        stores,
    };
    let parts = Parts { tools, hardware, providers };
    let start = Start::of(&running, config, parts, issuer);
    let router = match running.stores.occupied()? {
        None => {
            let epochs = running.stores.acquire()?;
            let (router, credentials) = start.serve(epochs).await?;
            running.credentials = credentials;
            router
        }
        Some(address) => {
            tracing::info!(address, "another server writes to this database: standing by");
            let front = Front::default();
            running.tasks.spawn(start.stand_by(front.clone()));
            front.router()
        }
    };
    running.tasks.spawn(listener.serve(router, running.stop.clone()));
    running.tasks.close();
    Ok(running)
}

/// What is made of the configuration alone, so that a bad one is refused before a port is bound.
struct Parts {
    tools: Tools,
    /// Where keys are in a hardware module.
    hardware: Option<Arc<dyn KeyProvider>>,
    /// With whom people log in.
    providers: oidc::Providers,
}

/// A server before it serves.
struct Start {
    config: Config,
    parts: Parts,
    url: String,
    issuer: String,
    stores: Arc<Stores>,
    stop: CancellationToken,
    tasks: TaskTracker,
    running: TaskTracker,
    ended: Arc<OnceLock<String>>,
}

impl Start {
    fn of(running: &Running, config: Config, parts: Parts, issuer: String) -> Self {
        Self {
            config,
            parts,
            issuer,
            url: running.url.clone(),
            stores: running.stores.clone(),
            stop: running.stop.clone(),
            tasks: running.tasks.clone(),
            running: running.running.clone(),
            ended: running.ended.clone(),
        }
    }

    /// Takes over when it is due, and serves then.
    async fn stand_by(self, front: Front) {
        let (stop, ended, stores) = (self.stop.clone(), self.ended.clone(), self.stores.clone());
        let served = match standby::take_over(&stores, &stop).await {
            Ok(None) => return,
            Ok(Some(epochs)) => self.serve(epochs).await,
            Err(error) => Err(error),
        };
        match served {
            Ok((router, _)) => {
                front.open(router);
                tracing::info!("this server has taken over");
            }
            Err(error) => end(&stop, &ended, format!("taking over failed: {error}")),
        }
    }

    /// Loads what is known, recovers what was cut off, and starts to serve.
    async fn serve(self, epochs: Epochs) -> Result<(Router, Option<PathBuf>), Error> {
        let Self { config, parts, url, issuer, stores, stop, tasks, running, ended } = self;
        let Parts { tools, hardware, providers } = parts;
        // From the first moment: what was lost while starting must not be served.
        let (watched, stopped) = (stores.clone(), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = standby::fenced(&watched.leases) => {
                    let reason = "another server has taken over: this one stops";
                    end(&stopped, &ended, reason.to_owned());
                }
            }
        });
        let keys = match hardware {
            Some(hardware) => hardware,
            None => Arc::new(FileKeys::open(&config.keys_dir())?),
        };
        let shared = Arc::new(open(config, tools, issuer, keys, &stores, epochs, running)?);
        experience::load(&shared)?;
        signing_keys::resume(&shared).await?;
        recent::refill(&shared)?;
        queue::recover(&shared).await?;
        factory::recover(&shared).await?;
        shared.gateway.held.load(&shared.ledger, shared.now())?;
        let credentials = first_start(&shared, &url).await?;
        for tenant in shared.control.directory.tenants() {
            policies::install(&shared, &tenant.id)?;
        }
        upstreams::declare(&shared).await?;
        tasks.spawn(queue::serve(shared.clone(), stop.clone()));
        tasks.spawn(runs::begin(&shared, stop.clone())?);
        tasks.spawn(factory::serve(shared.clone(), stop.clone()));
        tasks.spawn(sandbox::interrupt(shared.clone(), stop.clone()));
        tasks.spawn(sandbox::prepare(shared.clone(), stop.clone()));
        tasks.spawn(upstreams::serve(shared.clone(), stop.clone()));
        tasks.spawn(doubt::settle(shared.clone(), stop.clone()));
        tasks.spawn(confirm(shared.clone(), stop.clone()));
        tasks.spawn(sweep(shared.clone(), stop.clone()));
        tasks.spawn(experience::serve(shared.clone(), stop.clone()));
        let surface = mcp::Surface::new(shared.clone(), &url);
        tasks.spawn(mcp::serve(surface.clone(), stop.clone()));
        tasks.spawn(triggers::serve(shared.clone(), stop.clone()));
        tasks.spawn(cards::begin(&shared, stop.clone())?);
        tasks.spawn(witnesses::serve(shared.clone(), stop));
        Ok((router(shared, surface, providers), credentials))
    }
}

/// Ends the server by itself.
fn end(stop: &CancellationToken, ended: &OnceLock<String>, reason: String) {
    tracing::error!("{reason}");
    // The first reason is the one that counts.
    let _first = ended.set(reason);
    stop.cancel();
}

/// Who issues tokens where nobody says: where the server listens, by name where that is anywhere.
fn issuer(config: &Config, listener: &Listener) -> String {
    let (scheme, address) = (listener.scheme(), listener.address);
    match address.ip().is_unspecified() {
        true => format!("{scheme}://{}:{}", config.host, address.port()),
        false => format!("{scheme}://{address}"),
    }
}

/// Makes the first tenant and writes its owner's key, on the first start.
pub(crate) async fn first_start(shared: &Arc<Shared>, url: &str) -> Result<Option<PathBuf>, Error> {
    if shared.control.ledger.store().head(&LogId::System)?.is_some() {
        return Ok(None);
    }
    let path = shared.config.data.join("credentials.json");
    let config = &shared.config;
    let keep = |owner: CreateKeyResponse| {
        let credentials = Credentials {
            url: url.to_owned(),
            tenant: config.tenant.clone(),
            workspace: owner.workspace,
            environment: owner.environment,
            principal_id: owner.principal_id,
            key: owner.key,
        };
        write_credentials(&path, &credentials)
    };
    Identity(shared.clone()).create_first_tenant(&config.tenant, keep).await?;
    Ok(Some(path))
}

fn write_credentials(path: &Path, credentials: &Credentials) -> Result<(), Error> {
    let failed = |source| Error::Data { path: path.to_owned(), source };
    let text = serde_json::to_string_pretty(credentials)
        .map_err(|error| Error::Start(error.to_string()))?;
    let mut file = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Confirms every policy, as often as the configuration says.
async fn confirm(shared: Arc<Shared>, stop: CancellationToken) {
    let policy = &shared.config.policy;
    let every = policy.confirm_every_s.unwrap_or_else(|| (policy.ttl_s / 3).max(1));
    let every = i64::from(every) * 1_000_000;
    let mut last = shared.now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(limits::CONFIRM_LOOK) => {}
        }
        // By the clock that confirmations grow old by: it may have jumped.
        let now = shared.now();
        if now < last.plus_micros(every) {
            continue;
        }
        last = now;
        if let Err(refused) = policies::confirm_all(&shared) {
            tracing::error!(error = %refused.0, "policies could not be confirmed");
        }
    }
}

/// Destroys the keys of content whose time is over.
async fn sweep(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let sweeping = shared.clone();
        let swept = tokio::task::spawn_blocking(move || sweeping.vault.sweep(sweeping.now())).await;
        if let Ok(Err(error)) = swept {
            tracing::error!(%error, "old content could not be destroyed");
        }
        let sweeping = shared.clone();
        let swept = tokio::task::spawn_blocking(move || {
            let days = sweeping.config.attestation.retention_days;
            sweeping.vault.sweep_attestations(sweeping.now(), days)
        });
        if let Ok(Err(error)) = swept.await {
            tracing::error!(%error, "what old attestations disclose could not be destroyed");
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(limits::SWEEP_EVERY) => {}
        }
    }
}

/// The services, as REST and gRPC share them.
pub(crate) type Served = Services<
    AccountsApi,
    ActionsApi,
    AgentsApi,
    ApprovalsApi,
    ConnectorsApi,
    EvidenceApi,
    IdentityApi,
    LedgerApi,
    MeApi,
    MeteringApi,
    PoliciesApi,
    ReceiptsApi,
    RecoveryApi,
    ReleasesApi,
    RunsApi,
    RuntimeApi,
    SandboxesApi,
    SecretsApi,
    SystemApi,
    ToolsApi,
    TriggersApi,
    UpstreamsApi,
    UseCasesApi,
    WorkflowsApi,
>;

/// Every surface, behind the one gate.
pub(crate) fn router(
    shared: Arc<Shared>,
    surface: Arc<mcp::Surface>,
    providers: oidc::Providers,
) -> Router {
    let identity = Identity(shared.clone());
    let services: Served = Services {
        accounts: Arc::new(AccountsApi(shared.clone())),
        actions: Arc::new(ActionsApi(shared.clone())),
        agents: Arc::new(AgentsApi(identity.clone())),
        approvals: Arc::new(ApprovalsApi(shared.clone())),
        connectors: Arc::new(ConnectorsApi(shared.clone())),
        evidence: Arc::new(EvidenceApi(shared.clone())),
        identity: Arc::new(IdentityApi(identity)),
        ledger: Arc::new(LedgerApi(shared.clone())),
        me: Arc::new(MeApi(shared.clone())),
        metering: Arc::new(MeteringApi(shared.clone())),
        policies: Arc::new(PoliciesApi(shared.clone())),
        receipts: Arc::new(ReceiptsApi(shared.clone())),
        recovery: Arc::new(RecoveryApi(shared.clone())),
        releases: Arc::new(ReleasesApi(shared.clone())),
        runs: Arc::new(RunsApi(shared.clone())),
        runtime: Arc::new(RuntimeApi(shared.clone())),
        sandboxes: Arc::new(SandboxesApi(shared.clone())),
        secrets: Arc::new(SecretsApi(shared.clone())),
        system: Arc::new(SystemApi(shared.clone())),
        tools: Arc::new(ToolsApi(shared.clone())),
        triggers: Arc::new(TriggersApi(shared.clone())),
        upstreams: Arc::new(UpstreamsApi(shared.clone())),
        usecases: Arc::new(UseCasesApi(shared.clone())),
        workflows: Arc::new(WorkflowsApi(shared.clone())),
    };
    let grpc = grpc::router(&services);
    let body = BodyLimits { json: limits::BODY_BYTES_MAX, raw: limits::RAW_BODY_BYTES_MAX };
    let metrics = shared.clone();
    proto::rest::router(services, body)
        .route("/metrics", get(move || async move { metrics.scraped() }))
        .route("/openapi.json", get(openapi))
        .merge(oauth::router(shared.clone()))
        .merge(oidc::router(shared.clone(), providers))
        .merge(pages::router(shared.clone()))
        .merge(triggers::router(shared.clone()))
        .merge(mcp::auth::router(shared.clone()))
        .merge(mcp::router(surface))
        .merge(grpc)
        .fallback(proto::rest::not_found)
        .layer(axum::middleware::from_fn_with_state(Gate::new(shared), gate))
}

async fn openapi() -> impl IntoResponse {
    ([(http::header::CONTENT_TYPE, "application/json")], proto::OPENAPI_JSON)
}
