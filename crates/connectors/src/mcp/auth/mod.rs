//! Authorisation at an upstream: what goes into the header `authorization`.
//!
//! Whatever an upstream is shown was issued for it: by a login, by its client's own credentials,
//! or by exchange of a token that Tally makes for the purpose. What a client of Tally shows is
//! never passed on.

mod client;
mod exchange;
mod http;
mod login;
mod spec;
mod token;

use std::fmt;
use std::sync::Arc;

use ::http::HeaderValue;
use async_trait::async_trait;
use kernel::failure::{Category, Failure};
use url::Url;
use zeroize::Zeroizing;

pub use login::LoginAuthorizer;
pub use spec::{Algorithm, AuthSpec, ClientCredentials, Exchange, Login, SecretRef};

use super::spec::Secrets;
use crate::address::Resolver;
use crate::http::wire;

/// What an upstream demands of a call that it refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// 401 or 403.
    pub status: u16,
    /// The header of that name.
    pub www_authenticate: String,
}

/// Makes a Tally token for an audience.
pub type Mint = Arc<dyn Fn(&str) -> Result<String, Failure> + Send + Sync>;

/// For whom a call is made.
#[derive(Clone)]
pub struct Subject {
    /// The same for the same actor chain, and for no other.
    pub key: String,
    /// Makes a Tally token of the actor chain for an audience.
    pub token: Mint,
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subject").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Answers what authorises a request to one upstream.
#[async_trait]
pub trait Authorizer: Send + Sync {
    /// The header `authorization` for a request on behalf of `subject`. After a refusal it is
    /// asked again with the `challenge`, at most three times a request.
    async fn authorization(
        &self,
        subject: Option<&Subject>,
        challenge: Option<&Challenge>,
    ) -> Result<Option<HeaderValue>, Failure>;
}

/// Where the tokens of one upstream's login last.
#[async_trait]
pub trait TokenStore: Send + Sync {
    /// Which version is kept; none where there is none.
    fn version(&self) -> Option<u64>;
    /// What is kept.
    fn load(&self) -> Result<Option<Zeroizing<String>>, Failure>;
    /// Keeps `text` from now on, and says which version that is: what `by` came to by logging in,
    /// or else what the login before was renewed to.
    async fn save(&self, text: &str, by: Option<&str>) -> Result<u64, Failure>;
}

/// The person who can be asked to log in, where somebody waits for it.
#[async_trait]
pub trait Browser: Send + Sync {
    /// Where the person is to be sent back to.
    fn redirect_uri(&self) -> String;
    /// Sends the person to `address`; the URL that they were sent back to.
    async fn visit(&self, address: &str) -> Result<String, Failure>;
}

/// What authorisation at an upstream needs of its surroundings.
#[derive(Clone)]
pub struct AuthParts {
    /// The name of the upstream.
    pub name: String,
    /// Its URL: the resource that tokens are for.
    pub url: String,
    /// Whether it, and its authorization server, may be on this machine or its network.
    pub private: bool,
    /// What turns host names into addresses.
    pub resolver: Arc<dyn Resolver>,
    /// A PEM file's text with further certificate authorities to trust.
    pub extra_ca_pem: Option<String>,
    /// The secrets of the tenant.
    pub secrets: Arc<dyn Secrets>,
    /// Where the tokens of a login last.
    pub tokens: Arc<dyn TokenStore>,
    /// Who can be asked to log in; none in a server.
    pub browser: Option<Arc<dyn Browser>>,
}

impl fmt::Debug for AuthParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthParts").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What authorises at one upstream.
#[derive(Clone)]
pub struct Authorization {
    /// It.
    pub authorizer: Arc<dyn Authorizer>,
    /// The same where it takes a login.
    pub login: Option<Arc<LoginAuthorizer>>,
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorization").field("login", &self.login).finish_non_exhaustive()
    }
}

fn invalid(message: &str) -> Failure {
    Failure::new(Category::Validation, "upstream_auth_invalid", message)
}

/// What authorises by `spec`; none where nothing does.
pub fn authorization(spec: &AuthSpec, parts: AuthParts) -> Result<Option<Authorization>, Failure> {
    spec.check().map_err(invalid)?;
    if *spec == AuthSpec::None {
        return Ok(None);
    }
    let url: Url = match parts.url.parse() {
        Ok(url) if !parts.url.contains("${") => url,
        _ => return Err(invalid("auth: the URL of a resource has no secret in it")),
    };
    let tls = wire::tls(parts.extra_ca_pem.as_deref());
    let tls = tls.map_err(|error| invalid(&error.to_string()))?;
    let (private, resolver) = (parts.private, parts.resolver.clone());
    let http = Arc::new(http::Guarded { private, resolver, tls });
    let authorizer: Arc<dyn Authorizer> = match spec.clone() {
        AuthSpec::None => return Ok(None),
        AuthSpec::Oauth(login) => {
            let login = Arc::new(LoginAuthorizer::new(login, url, parts, http));
            return Ok(Some(Authorization { authorizer: login.clone(), login: Some(login) }));
        }
        AuthSpec::ClientCredentials(spec) => {
            Arc::new(client::ClientAuthorizer::new(spec, url, parts, http))
        }
        AuthSpec::Exchange(spec) => {
            Arc::new(exchange::ExchangeAuthorizer::new(spec, url, parts, http))
        }
    };
    Ok(Some(Authorization { authorizer, login: None }))
}
