//! People log in: OpenID Connect by authorization code with PKCE, as a relying party.
//!
//! These routes are for browsers, so they are beside those of `proto/`: they answer redirects and
//! pages. Calls to providers are the installation's own, by its configuration; no action of an
//! agent leaves through them.

mod admit;
mod claims;
mod error;
mod fetch;
mod jws;
mod link;
mod login;
mod page;
mod provider;
mod sealed;
mod settings;

use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use zeroize::Zeroizing;

pub(crate) use self::admit::salt;
pub(crate) use self::link::{link, principal_of, unlink};
pub(crate) use self::page::{escape, private};
pub use self::settings::Provider as OidcProvider;
pub(crate) use self::settings::check;

use self::fetch::Fetch;
use self::provider::Provider;
use crate::rate::Rates;
use crate::shared::Shared;
use crate::{Config, ConfigError, limits};

/// Where providers send people back to.
const CALLBACK: &str = "/auth/callback";

/// The providers of the configuration, with what they take to be asked.
pub(crate) struct Providers(Vec<Provider>);

#[derive(Clone)]
struct Oidc {
    shared: Arc<Shared>,
    providers: Arc<Vec<Provider>>,
    rates: Arc<Rates>,
}

impl Providers {
    /// Reads the secrets that the configuration names.
    pub(crate) fn open(config: &Config) -> Result<Self, ConfigError> {
        let value = |reason| ConfigError::Value { key: "oidc", reason };
        if config.oidc.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let extra_ca = config.extra_ca.as_deref().map(read).transpose()?;
        let fetch = Fetch::new(extra_ca.as_deref().map(String::as_str)).map_err(value)?;
        let provider = |settings: &OidcProvider| {
            let secret = settings.client_secret_file.as_deref().map(read).transpose()?;
            let secret = secret.map(|secret| Zeroizing::new(secret.trim().to_owned()));
            if secret.as_ref().is_some_and(|secret| secret.is_empty()) {
                return Err(value(format!("`{}`: client_secret_file is empty", settings.name)));
            }
            Ok(Provider::new(settings.clone(), secret, fetch.clone()))
        };
        Ok(Self(config.oidc.iter().map(provider).collect::<Result<_, _>>()?))
    }
}

fn read(path: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    std::fs::read_to_string(path).map(Zeroizing::new).map_err(failed)
}

/// The routes of a login.
pub(crate) fn router(shared: Arc<Shared>, providers: Providers) -> Router {
    let oidc = Oidc { shared, providers: Arc::new(providers.0), rates: Arc::default() };
    Router::new()
        .route("/auth/login", get(login::login))
        .route(CALLBACK, get(login::callback))
        .route("/auth/cli-token", post(login::cli_token))
        .route("/auth/logout", post(login::logout))
        .layer(DefaultBodyLimit::max(limits::LOGIN_BODY_BYTES_MAX))
        .with_state(oidc)
}
