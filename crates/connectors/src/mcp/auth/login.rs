//! Authorisation by a person who logged in: authorization code with PKCE. The tokens last in the
//! store of secrets; a call never waits for a person.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use http::HeaderValue;
use kernel::failure::{Category, Failure};
use rmcp::transport::auth::{
    AuthError, AuthorizationManager, AuthorizationMetadata, CredentialStore as _,
    InMemoryCredentialStore, OAuthClientConfig, StoredCredentials, WWWAuthenticateParams,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use url::Url;
use zeroize::Zeroizing;

use super::http::Guarded;
use super::spec::Login;
use super::token::{self, Answer, Held, code, failure, scopes};
use super::{AuthParts, Authorizer, Browser, Challenge, Subject};
use crate::limits;

/// What a login came to, as it lasts.
#[derive(Serialize, Deserialize)]
struct Record {
    /// The upstream's URL. Its tokens are shown nowhere else.
    resource: String,
    client_id: String,
    /// The secret of a client that registered itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    redirect_uri: String,
    /// The authorization server. Nothing of this is ever shown to another.
    issuer: Option<String>,
    /// What was asked for.
    asked: BTreeSet<String>,
    credentials: StoredCredentials,
}

impl Record {
    /// The token, with how long ago it was issued.
    fn held(&self) -> Result<Held, Failure> {
        let answer = self.credentials.token_response.as_ref();
        let answer = answer.and_then(|answer| serde_json::to_value(answer).ok());
        let answer: Option<Answer> = answer.and_then(|json| serde_json::from_value(json).ok());
        let answer = answer.ok_or_else(corrupt)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let age = self.credentials.token_received_at.map_or(0, |at| now.saturating_sub(at));
        Held::new(&answer, Duration::from_secs(age))
    }
}

fn corrupt() -> Failure {
    let message = "what was kept of the login cannot be read: log in again";
    Failure::new(Category::Internal, "authorization_corrupt", message)
}

/// A login that a person is about to make.
struct Pending {
    manager: AuthorizationManager,
    kept: InMemoryCredentialStore,
    client: OAuthClientConfig,
    issuer: Option<String>,
    asked: BTreeSet<String>,
    by: String,
    since: Instant,
}

#[derive(Default)]
struct State {
    /// The token in use, of that version of the store.
    held: Option<(u64, Held)>,
    /// What the upstream demanded last.
    demanded: Option<Challenge>,
    /// By their `state`.
    pending: BTreeMap<String, Pending>,
}

/// Authorises by one login that lasts.
pub struct LoginAuthorizer {
    spec: Login,
    url: Url,
    parts: AuthParts,
    http: Arc<Guarded>,
    state: Mutex<State>,
}

impl std::fmt::Debug for LoginAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoginAuthorizer").field("spec", &self.spec).finish_non_exhaustive()
    }
}

impl LoginAuthorizer {
    pub(super) fn new(spec: Login, url: Url, parts: AuthParts, http: Arc<Guarded>) -> Self {
        Self { spec, url, parts, http, state: Mutex::default() }
    }

    /// Begins a login whose end comes to `redirect_uri`: where to send the person. `more` is asked
    /// for besides what the upstream demanded. Only `by` can end it.
    pub async fn begin(
        &self,
        redirect_uri: &str,
        more: &[String],
        by: &str,
    ) -> Result<String, Failure> {
        let mut state = self.state.lock().await;
        self.start(&mut state, redirect_uri, more, by).await
    }

    /// Ends a login by the URL that the person was sent back to. `by` is who they are here.
    pub async fn finish(&self, callback: &str, by: &str) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        self.end(&mut state, callback, by).await
    }

    fn required(&self) -> Failure {
        let name = &self.parts.name;
        let message = format!("the upstream `{name}` wants a login: tally mcp login {name}");
        Failure::new(Category::Upstream, "authorization_required", message).retryable(false)
    }

    fn load(&self) -> Result<Option<Record>, Failure> {
        let Some(text) = self.parts.tokens.load()? else { return Ok(None) };
        let record: Record = serde_json::from_str(&text).map_err(|_| corrupt())?;
        Ok(Some(record).filter(|record| record.resource == self.url.as_str()))
    }

    async fn save(
        &self,
        state: &mut State,
        record: &Record,
        by: Option<&str>,
    ) -> Result<HeaderValue, Failure> {
        let text = serde_json::to_string(record).map(Zeroizing::new).map_err(|_| corrupt())?;
        let held = record.held()?;
        let header = held.header();
        let version = self.parts.tokens.save(&text, by).await?;
        state.held = Some((version, held));
        Ok(header)
    }

    /// The token as it is, renewed where it is about to end; none where nobody has logged in.
    async fn current(&self, state: &mut State) -> Result<Option<HeaderValue>, Failure> {
        let Some(version) = self.parts.tokens.version() else {
            state.held = None;
            return Ok(None);
        };
        if let Some((of, held)) = &state.held
            && *of == version
            && held.good()
        {
            return Ok(Some(held.header()));
        }
        let Some(record) = self.load()? else { return Ok(None) };
        let held = record.held()?;
        if held.good() {
            let header = held.header();
            state.held = Some((version, held));
            return Ok(Some(header));
        }
        self.renew(state, record).await.map(Some)
    }

    /// A further token by the refresh token, from the same authorization server alone.
    async fn renew(&self, state: &mut State, record: Record) -> Result<HeaderValue, Failure> {
        let challenge = state.demanded.clone();
        let (mut manager, metadata) = self.discover(challenge.as_ref()).await?;
        if metadata.issuer != record.issuer {
            return Err(self.required());
        }
        let secret = match &self.spec.client_secret {
            Some(secret) => Some(self.parts.secrets.reveal(secret.name())?.to_string()),
            None => record.client_secret.clone(),
        };
        let mut client = OAuthClientConfig::new(&record.client_id, &record.redirect_uri);
        client.client_secret = secret;
        manager.configure_client(client).map_err(|error| failure(&error))?;
        let kept = InMemoryCredentialStore::new();
        kept.save(record.credentials.clone()).await.map_err(|error| failure(&error))?;
        manager.set_credential_store(kept.clone());
        match manager.refresh_token().await {
            Ok(_) => {}
            Err(AuthError::AuthorizationRequired | AuthError::TokenRefreshRejected(_)) => {
                return Err(self.required());
            }
            Err(error) => return Err(failure(&error)),
        }
        let credentials = kept.load().await.map_err(|error| failure(&error))?;
        let credentials = credentials.ok_or_else(corrupt)?;
        self.save(state, &Record { credentials, ..record }, None).await
    }

    /// A manager that knows the upstream's authorization server, and what that says of itself.
    async fn discover(
        &self,
        challenge: Option<&Challenge>,
    ) -> Result<(AuthorizationManager, AuthorizationMetadata), Failure> {
        let url = self.url.clone();
        let manager = AuthorizationManager::new_with_oauth_http_client(url, self.http.clone());
        let mut manager = manager.await.map_err(|error| failure(&error))?;
        let text = challenge.map(|challenge| challenge.www_authenticate.as_str());
        let found = manager.resolve_metadata_from_challenge(text).await;
        let found = found.map_err(|error| failure(&error))?;
        let metadata = found.metadata;
        let issuer = metadata.issuer.as_deref();
        trusted(found.source.is_discovered(), issuer, self.spec.issuer.as_deref())?;
        manager.set_metadata(metadata.clone());
        Ok((manager, metadata))
    }

    async fn start(
        &self,
        state: &mut State,
        redirect_uri: &str,
        more: &[String],
        by: &str,
    ) -> Result<String, Failure> {
        let (mut manager, metadata) = self.discover(state.demanded.as_ref()).await?;
        let before = self.load()?.filter(|record| record.issuer == metadata.issuer);
        let mut asked: BTreeSet<String> = match self.spec.scopes.as_slice() {
            [] => manager.select_initial_scopes(&[]).await.into_iter().collect(),
            scopes => scopes.iter().cloned().collect(),
        };
        if let Some(challenge) = state.demanded.as_ref().filter(|c| c.status == 403) {
            // More than before is asked for: what was granted stays asked for.
            asked.extend(self.demanded(challenge));
            asked.extend(before.iter().flat_map(|record| record.asked.iter().cloned()));
        }
        asked.extend(more.iter().cloned());
        let list: Vec<&str> = asked.iter().map(String::as_str).collect();
        let documents = takes_documents(&metadata);
        let client = match self.client(redirect_uri, before.as_ref(), documents)? {
            Some(client) => client,
            None => {
                let client = manager.register_client("Tally", redirect_uri, &list).await;
                client.map_err(|error| failure(&error))?
            }
        };
        manager.configure_client(client.clone()).map_err(|error| failure(&error))?;
        let kept = InMemoryCredentialStore::new();
        manager.set_credential_store(kept.clone());
        let address = manager.get_authorization_url(&list).await.map_err(|e| failure(&e))?;
        let key = self.checked(&address)?;
        let (since, oldest) = (Instant::now(), limits::OAUTH_LOGIN_MAX);
        state.pending.retain(|_, pending| pending.since.elapsed() < oldest);
        if state.pending.len() >= limits::OAUTH_LOGINS_MAX {
            let message = "too many logins at this upstream have begun and not ended";
            return Err(Failure::new(Category::RateLimited, "too_many_logins", message));
        }
        let (issuer, by) = (metadata.issuer, by.to_owned());
        state.pending.insert(key, Pending { manager, kept, client, issuer, asked, by, since });
        Ok(address)
    }

    /// The client as which to ask: the one of the specification, one known by its document, or the
    /// one that registered itself before; none where it has to register.
    fn client(
        &self,
        redirect_uri: &str,
        before: Option<&Record>,
        documents: bool,
    ) -> Result<Option<OAuthClientConfig>, Failure> {
        if let Some(id) = &self.spec.client_id {
            let mut client = OAuthClientConfig::new(id, redirect_uri);
            if let Some(secret) = &self.spec.client_secret {
                client.client_secret = Some(self.parts.secrets.reveal(secret.name())?.to_string());
            }
            return Ok(Some(client));
        }
        if let Some(url) = self.spec.client_metadata_url.as_ref().filter(|_| documents) {
            return Ok(Some(OAuthClientConfig::new(url, redirect_uri)));
        }
        Ok(before.filter(|record| record.redirect_uri == redirect_uri).map(|record| {
            let mut client = OAuthClientConfig::new(&record.client_id, redirect_uri);
            client.client_secret.clone_from(&record.client_secret);
            client
        }))
    }

    /// The `state` of an address that a person may be sent to.
    fn checked(&self, address: &str) -> Result<String, Failure> {
        let bad = || {
            let message = "the authorization server names no page to log in at";
            Failure::new(Category::Upstream, "authorization_metadata_invalid", message)
                .retryable(false)
        };
        let url: Url = address.parse().map_err(|_| bad())?;
        if !(url.scheme() == "https" || (url.scheme() == "http" && self.parts.private)) {
            return Err(bad());
        }
        let state = url.query_pairs().find(|(name, _)| name == "state");
        state.map(|(_, value)| value.into_owned()).ok_or_else(bad)
    }

    async fn end(&self, state: &mut State, callback: &str, by: &str) -> Result<(), Failure> {
        let refused = |message: String| {
            Failure::new(Category::Upstream, "authorization_failed", message).retryable(false)
        };
        let url: Url = callback.parse().map_err(|_| refused("this is no URL".to_owned()))?;
        let get = |name: &str| {
            let found = url.query_pairs().find(|(key, _)| key == name);
            found.map(|(_, value)| value.into_owned())
        };
        let key = get("state").unwrap_or_default();
        let pending = state.pending.get(&key);
        let pending = pending.filter(|pending| {
            pending.by == by && pending.since.elapsed() < limits::OAUTH_LOGIN_MAX
        });
        let pending = pending.ok_or_else(|| refused("no such login has begun".to_owned()))?;
        let issuer = get("iss");
        if get("error").is_none() {
            let authorization = get("code").unwrap_or_default();
            let ended = pending.manager.exchange_code_for_token_with_issuer(
                &authorization,
                &key,
                issuer.as_deref(),
            );
            ended.await.map_err(|error| failure(&error))?;
        } else {
            state.pending.remove(&key);
            let why = get("error").unwrap_or_default();
            return Err(refused(format!("nobody logged in: {}", code(&why))));
        }
        let Some(pending) = state.pending.remove(&key) else { return Err(corrupt()) };
        let Pending { kept, client, issuer, asked, .. } = pending;
        let credentials = kept.load().await.map_err(|error| failure(&error))?;
        let own = self.spec.client_secret.is_none();
        let record = Record {
            resource: self.url.to_string(),
            client_id: client.client_id,
            client_secret: client.client_secret.filter(|_| own),
            redirect_uri: client.redirect_uri,
            issuer,
            asked,
            credentials: credentials.ok_or_else(corrupt)?,
        };
        self.save(state, &record, Some(by)).await?;
        state.demanded = None;
        Ok(())
    }

    /// Has the person at the browser log in, where there is one.
    async fn log_in(&self, state: &mut State) -> Result<HeaderValue, Failure> {
        let Some(browser) = self.parts.browser.clone() else { return Err(self.required()) };
        let address = self.start(state, &browser.redirect_uri(), &[], "").await?;
        let callback = visit(browser.as_ref(), &address).await?;
        self.end(state, &callback, "").await?;
        let held = state.held.as_ref().map(|(_, held)| held.header());
        held.ok_or_else(|| self.required())
    }

    /// The scopes that a challenge names.
    fn demanded(&self, challenge: &Challenge) -> BTreeSet<String> {
        let params = WWWAuthenticateParams::parse(&challenge.www_authenticate, &self.url);
        scopes(params.scope.as_deref().unwrap_or_default())
    }

    async fn refused(
        &self,
        state: &mut State,
        challenge: &Challenge,
    ) -> Result<HeaderValue, Failure> {
        if challenge.status == 403 {
            let params = WWWAuthenticateParams::parse(&challenge.www_authenticate, &self.url);
            let demanded = self.demanded(challenge);
            let asked = self.load()?.map(|record| record.asked).unwrap_or_default();
            if !params.is_insufficient_scope() || demanded.is_subset(&asked) {
                return Err(token_refused());
            }
            state.demanded = Some(challenge.clone());
            return self.log_in(state).await;
        }
        state.demanded = Some(challenge.clone());
        if let Some((_, held)) = &state.held {
            if !held.is_refused() {
                return Ok(held.header());
            }
            if let Some(record) = self.load()? {
                match self.renew(state, record).await {
                    Err(error) if error.code == "authorization_required" => {}
                    ended => return ended,
                }
            }
        }
        self.log_in(state).await
    }
}

/// Whether an authorization server reads metadata documents of clients.
fn takes_documents(metadata: &AuthorizationMetadata) -> bool {
    let field = metadata.additional_fields.get("client_id_metadata_document_supported");
    field.and_then(serde_json::Value::as_bool).unwrap_or(false)
}

async fn visit(browser: &dyn Browser, address: &str) -> Result<String, Failure> {
    let visited = tokio::time::timeout(limits::OAUTH_LOGIN_MAX, browser.visit(address)).await;
    visited.unwrap_or_else(|_| {
        let message = "nobody logged in in time";
        Err(Failure::new(Category::Timeout, "authorization_timeout", message))
    })
}

/// A token that nothing can be done about is refused.
pub(super) fn token_refused() -> Failure {
    let message = "the upstream refuses this: what it was authorised for does not cover it";
    Failure::new(Category::Permission, "authorization_insufficient", message)
}

/// Whether an authorization server is one that may be asked.
pub(super) fn trusted(
    discovered: bool,
    issuer: Option<&str>,
    pinned: Option<&str>,
) -> Result<(), Failure> {
    if !discovered {
        return Err(token::failure(&AuthError::NoAuthorizationSupport));
    }
    match pinned {
        Some(pinned) if issuer != Some(pinned) => {
            let message = "the upstream names an authorization server that is not the one of its \
                           auth.issuer";
            let failure =
                Failure::new(Category::Permission, "authorization_issuer_mismatch", message);
            Err(failure)
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Authorizer for LoginAuthorizer {
    async fn authorization(
        &self,
        _subject: Option<&Subject>,
        challenge: Option<&Challenge>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let mut state = self.state.lock().await;
        match challenge {
            None => self.current(&mut state).await,
            Some(challenge) => self.refused(&mut state, challenge).await.map(Some),
        }
    }
}
