//! Authorisation by the upstream's own client: client credentials, with a secret or a signature.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use kernel::failure::Failure;
use rmcp::transport::auth::{
    AuthorizationManager, AuthorizationMetadata, ClientCredentialsConfig, JwtSigningAlgorithm,
    WWWAuthenticateParams,
};
use serde_json::json;
use tokio::sync::Mutex;
use url::Url;

use super::http::Guarded;
use super::login::{token_refused, trusted};
use super::spec::{Algorithm, ClientCredentials};
use super::token::{Answer, Held, failure, scopes};
use super::{AuthParts, Authorizer, Challenge, Subject, invalid};

#[derive(Default)]
struct State {
    held: Option<Held>,
    asked: BTreeSet<String>,
}

/// Authorises by a client that proves itself. Its token is kept in memory.
pub(super) struct ClientAuthorizer {
    spec: ClientCredentials,
    url: Url,
    parts: AuthParts,
    http: Arc<Guarded>,
    state: Mutex<State>,
}

impl ClientAuthorizer {
    pub(super) fn new(
        spec: ClientCredentials,
        url: Url,
        parts: AuthParts,
        http: Arc<Guarded>,
    ) -> Self {
        Self { spec, url, parts, http, state: Mutex::default() }
    }

    fn config(&self, scopes: Vec<String>) -> Result<ClientCredentialsConfig, Failure> {
        let client_id = self.spec.client_id.clone();
        let resource = Some(self.url.to_string());
        match (&self.spec.client_secret, &self.spec.private_key) {
            (Some(secret), _) => Ok(ClientCredentialsConfig::ClientSecret {
                client_id,
                client_secret: self.parts.secrets.reveal(secret.name())?.to_string(),
                scopes,
                resource,
            }),
            (None, Some(key)) => Ok(ClientCredentialsConfig::PrivateKeyJwt {
                client_id,
                signing_key: self.parts.secrets.reveal(key.name())?.as_bytes().to_vec(),
                signing_algorithm: match self.spec.algorithm.unwrap_or_default() {
                    Algorithm::ES256 => JwtSigningAlgorithm::ES256,
                    Algorithm::ES384 => JwtSigningAlgorithm::ES384,
                    Algorithm::RS256 => JwtSigningAlgorithm::RS256,
                    Algorithm::RS384 => JwtSigningAlgorithm::RS384,
                    Algorithm::RS512 => JwtSigningAlgorithm::RS512,
                },
                token_endpoint_audience: None,
                scopes,
                resource,
            }),
            (None, None) => Err(invalid("auth: give either client_secret or private_key")),
        }
    }

    async fn metadata(
        &self,
        manager: &AuthorizationManager,
        challenge: Option<&Challenge>,
    ) -> Result<AuthorizationMetadata, Failure> {
        if let Some(endpoint) = &self.spec.token_endpoint {
            // The library wants a page to log in at, and never sends anybody to it here.
            let issuer = self.spec.issuer.as_ref().unwrap_or(endpoint);
            let told = json!({
                "authorization_endpoint": endpoint,
                "token_endpoint": endpoint,
                "issuer": issuer,
            });
            return serde_json::from_value(told).map_err(|_| invalid("auth.token_endpoint"));
        }
        let text = challenge.map(|challenge| challenge.www_authenticate.as_str());
        let found = manager.resolve_metadata_from_challenge(text).await;
        let found = found.map_err(|error| failure(&error))?;
        let issuer = found.metadata.issuer.as_deref();
        trusted(found.source.is_discovered(), issuer, self.spec.issuer.as_deref())?;
        Ok(found.metadata)
    }

    /// Has a token issued.
    async fn issue(
        &self,
        state: &mut State,
        challenge: Option<&Challenge>,
        more: BTreeSet<String>,
    ) -> Result<HeaderValue, Failure> {
        let (url, http) = (self.url.clone(), self.http.clone());
        let manager = AuthorizationManager::new_with_oauth_http_client(url, http).await;
        let mut manager = manager.map_err(|error| failure(&error))?;
        let metadata = self.metadata(&manager, challenge).await?;
        manager.set_metadata(metadata);
        let mut asked: BTreeSet<String> = match self.spec.scopes.as_slice() {
            [] => manager.select_initial_scopes(&[]).await.into_iter().collect(),
            scopes => scopes.iter().cloned().collect(),
        };
        asked.extend(more);
        let config = self.config(asked.iter().cloned().collect())?;
        let checked = manager.validate_client_credentials_metadata(&config);
        checked.map_err(|error| failure(&error))?;
        manager.configure_client_credentials(&config).map_err(|error| failure(&error))?;
        // The library's future stays on one thread, so it gets one that may wait.
        let here = tokio::runtime::Handle::current();
        let issued = tokio::task::spawn_blocking(move || {
            here.block_on(manager.exchange_client_credentials(&config))
        });
        let issued = issued.await.map_err(|_| token_refused())?.map_err(|error| failure(&error))?;
        let answer = serde_json::to_value(&issued).and_then(serde_json::from_value::<Answer>);
        let answer = answer.map_err(|_| token_refused())?;
        let held = Held::new(&answer, Duration::ZERO)?;
        let header = held.header();
        *state = State { held: Some(held), asked };
        Ok(header)
    }
}

#[async_trait]
impl Authorizer for ClientAuthorizer {
    async fn authorization(
        &self,
        _subject: Option<&Subject>,
        challenge: Option<&Challenge>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut state = self.state.lock().await;
        let mut more = BTreeSet::new();
        match (challenge, &state.held) {
            (None, Some(held)) if held.good() => return Ok(Some(held.header())),
            (Some(challenge), held) if challenge.status == 403 => {
                let params = WWWAuthenticateParams::parse(&challenge.www_authenticate, &self.url);
                more = scopes(params.scope.as_deref().unwrap_or_default());
                let refused = !params.is_insufficient_scope() || more.is_subset(&state.asked);
                if held.is_some() && refused {
                    return Err(token_refused());
                }
                more.extend(state.asked.iter().cloned());
            }
            (Some(_), Some(held)) if !held.is_refused() => return Ok(Some(held.header())),
            _ => {}
        }
        self.issue(&mut state, challenge, more).await.map(Some)
    }
}
