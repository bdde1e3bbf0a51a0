//! What the server is told: one file, a few overrides, checked before a port is bound.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use connectors::{EmailConfig, Grants, TenantPrices};
use kernel::ids::{TenantId, ToolId};
use kernel::values::MicroUsd;
use ledger::postgres::Database;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::witnesses::{self, WitnessConfig};

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read `{path}`")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("`{path}`: {reason}")]
    Parse {
        /// Which file.
        path: PathBuf,
        /// What is wrong and where.
        reason: String,
    },
    /// A value that cannot be.
    #[error("`{key}`: {reason}")]
    Value {
        /// Which setting.
        key: &'static str,
        /// What to write instead.
        reason: String,
    },
}

/// The whole configuration: `tally.yaml`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The folder of the logs and keys.
    pub data: PathBuf,
    /// The database of the logs, instead of files in `data`: `postgres://USER@HOST/NAME`.
    pub database: Option<DatabaseUrl>,
    /// The folder of the keys; `keys` in `data` where absent. Servers of one database share it.
    pub keys_dir: Option<PathBuf>,
    /// Where to listen: `127.0.0.1:8480`. Port 0 takes a free one.
    pub listen: String,
    /// Certificate and key; without them the server speaks plain HTTP.
    pub tls: Option<Tls>,
    /// The name that begins every log's origin. It must never change once logs exist.
    pub host: String,
    /// Where people and programs reach the server, such as `https://tally.example.com`. It is the
    /// issuer of access tokens; without it, where the server listens.
    pub public_url: Option<String>,
    /// The tenant that is made on the first start; its owner may create further tenants.
    pub tenant: String,
    /// Its first workspace.
    pub workspace: String,
    /// What the tools may reach.
    pub grants: Grants,
    /// The server that e-mail is handed to; without it there is no `email.send`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailConfig>,
    /// The price of one call of a tool, in micro-USD.
    pub prices: BTreeMap<ToolId, MicroUsd>,
    /// What tenants pay that have prices of their own, in place of `prices` and of those in
    /// `models`. A tenant need not be there yet.
    pub tenant_prices: BTreeMap<TenantId, TenantPrices>,
    /// The providers of models that `llm.invoke` asks, and what their models cost.
    pub models: connectors::llm::ModelsConfig,
    /// A PEM file with further certificate authorities that tools trust.
    pub extra_ca: Option<PathBuf>,
    /// Policy.
    pub policy: Policy,
    /// The OpenID Connect providers that people log in with.
    pub oidc: Vec<crate::OidcProvider>,
    /// The witnesses that are asked to cosign checkpoints.
    pub witnesses: Vec<WitnessConfig>,
    /// How many of them have to cosign a checkpoint for it to be shown as cosigned. 0: as many as
    /// answer, at least one.
    pub witness_quorum: usize,
    /// How often they are asked, in seconds.
    pub witness_every_s: u32,
    /// Where keys are.
    pub keys: crate::KeysConfig,
    /// MCP servers and the endpoint for MCP clients.
    pub mcp: crate::McpConfig,
    /// What untrusted code runs in, and the most that it may be granted.
    pub sandbox: crate::SandboxConfig,
    /// What is attested of it.
    pub attestation: crate::AttestationConfig,
    /// How many runs there may be.
    pub runs: crate::RunsConfig,
    /// Which definitions of connectors tenants may install.
    pub connectors: crate::ConnectorsConfig,
    /// How many writes there may be in a minute.
    pub caps: crate::CapsConfig,
    /// When a connector's system is left alone, and for how long.
    pub circuits: connectors::breaker::Settings,
}

/// The URL of a database. It may hold a password, so it is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(pub String);

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(…)")
    }
}

impl DatabaseUrl {
    /// The database. Where the URL has no password, `PGPASSWORD` may have it.
    pub fn open(&self) -> Result<Database, Error> {
        let password = std::env::var("PGPASSWORD").ok();
        Database::parse(&self.0, password.as_deref()).map_err(|error| match error {
            ledger::Error::Database(reason) => Error::Value { key: "database", reason },
            other => Error::Value { key: "database", reason: other.to_string() },
        })
    }
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// How policy is kept fresh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How long a confirmed revision may be used without being confirmed again, in seconds.
    pub ttl_s: u32,
    /// How often control confirms it, in seconds; a third of `ttl_s` where absent.
    pub confirm_every_s: Option<u32>,
    /// How long one decision may take, in milliseconds.
    pub decision_limit_ms: u64,
}

impl Default for Policy {
    fn default() -> Self {
        let defaults = policy::Config::default();
        Self {
            ttl_s: u32::try_from(defaults.confirmation_ttl_s).unwrap_or(600),
            confirm_every_s: None,
            decision_limit_ms: defaults.decision_limit_ms,
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("tally-data"),
            database: None,
            keys_dir: None,
            listen: "127.0.0.1:8480".to_owned(),
            tls: None,
            host: "localhost".to_owned(),
            public_url: None,
            tenant: "main".to_owned(),
            workspace: "main".to_owned(),
            grants: Grants::default(),
            email: None,
            prices: BTreeMap::new(),
            tenant_prices: BTreeMap::new(),
            models: connectors::llm::ModelsConfig::default(),
            extra_ca: None,
            policy: Policy::default(),
            oidc: Vec::new(),
            witnesses: Vec::new(),
            witness_quorum: 0,
            witness_every_s: witnesses::EVERY_S_DEFAULT,
            keys: crate::KeysConfig::default(),
            mcp: crate::McpConfig::default(),
            sandbox: crate::SandboxConfig::default(),
            attestation: crate::AttestationConfig::default(),
            runs: crate::RunsConfig::default(),
            connectors: crate::ConnectorsConfig::default(),
            caps: crate::CapsConfig::default(),
            circuits: connectors::breaker::Settings::default(),
        }
    }
}

/// What the command line says; it wins over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// See [`Config::data`].
    pub data: Option<PathBuf>,
    /// See [`Config::database`].
    pub database: Option<DatabaseUrl>,
    /// See [`Config::listen`].
    pub listen: Option<String>,
    /// See [`Config::tls`].
    pub tls: Option<Tls>,
}

impl Config {
    /// Reads `path` (or takes the defaults), applies `overrides` and checks everything.
    pub fn load(path: Option<&Path>, overrides: Overrides) -> Result<Self, Error> {
        let mut config = match path {
            None => Self::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| Error::Read { path: path.to_owned(), source })?;
                serde_yaml_ng::from_str(&text).map_err(|error| Error::Parse {
                    path: path.to_owned(),
                    reason: error.to_string(),
                })?
            }
        };
        config.data = overrides.data.unwrap_or(config.data);
        config.database = overrides.database.or(config.database);
        config.listen = overrides.listen.unwrap_or(config.listen);
        config.tls = overrides.tls.or(config.tls);
        config.check()?;
        Ok(config)
    }

    /// The database, where there is one.
    pub fn database(&self) -> Result<Option<Database>, Error> {
        self.database.as_ref().map(DatabaseUrl::open).transpose()
    }

    /// The folder of the keys.
    pub fn keys_dir(&self) -> PathBuf {
        self.keys_dir.clone().unwrap_or_else(|| self.data.join("keys"))
    }

    /// Checks what serde cannot.
    pub fn check(&self) -> Result<(), Error> {
        let value = |key, reason: &str| Err(Error::Value { key, reason: reason.to_owned() });
        if self.listen.parse::<std::net::SocketAddr>().is_err() {
            return value("listen", "write an address and a port, such as 127.0.0.1:8480");
        }
        let host = !self.host.is_empty()
            && self.host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:".contains(&b));
        if !host {
            return value("host", "write a host name: letters, digits, `.`, `-` and `:`");
        }
        self.database()?;
        if self.public_url.as_deref().is_some_and(|url| !is_issuer(url)) {
            return value("public_url", "write http:// or https:// and a host, and no path");
        }
        if kernel::ids::TenantId::new(&self.tenant).is_err()
            || self.tenant == kernel::receipt::SYSTEM
        {
            return value("tenant", "write a-z, 0-9, `-` and `_`; not `system`");
        }
        if kernel::ids::WorkspaceId::new(&self.workspace).is_err()
            || self.workspace == kernel::receipt::CONTROL
        {
            return value("workspace", "write a-z, 0-9, `-` and `_`; not `control`");
        }
        crate::oidc::check(&self.oidc)?;
        if self.policy.ttl_s == 0 || self.policy.confirm_every_s == Some(0) {
            return value("policy", "ttl_s and confirm_every_s are at least 1");
        }
        let models = self.models.check();
        models.map_err(|error| Error::Value { key: "models", reason: error.to_string() })?;
        self.check_tenant_prices()?;
        self.keys.check()?;
        self.mcp.check()?;
        self.sandbox.check()?;
        self.runs.check()?;
        self.caps.check()?;
        let circuits = self.circuits.check();
        circuits.map_err(|reason| Error::Value { key: "circuits", reason })?;
        self.attestation.check(self.public_url.as_deref())?;
        witnesses::check(self)
    }

    /// Tools are looked at where they are made; that a tenant's models are there is seen here.
    fn check_tenant_prices(&self) -> Result<(), Error> {
        let value = |reason| Error::Value { key: "tenant_prices", reason };
        if self.tenant_prices.len() > limits::TENANT_PRICES_MAX {
            let most = limits::TENANT_PRICES_MAX;
            return Err(value(format!("at most {most} tenants have prices of their own")));
        }
        for (tenant, prices) in &self.tenant_prices {
            let models = self.models.at(&prices.models);
            models.map_err(|error| value(format!("{tenant}: {error}")))?;
        }
        Ok(())
    }
}

/// Whether `url` can name an issuer of tokens: an origin, as browsers write it.
fn is_issuer(url: &str) -> bool {
    let uri = url.parse::<http::Uri>();
    let good = |uri: http::Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path() == "/"
            && uri.query().is_none()
    };
    !url.ends_with('/') && !url.contains('#') && uri.is_ok_and(good)
}
