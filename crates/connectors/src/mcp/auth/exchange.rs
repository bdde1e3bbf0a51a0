//! Authorisation by whom a call is for: a token of Tally, made for the actor chain and for nobody
//! but the token endpoint, is exchanged for one of the upstream's (RFC 8693). The chain stands in
//! the subject token as `act`. What the client of Tally showed goes nowhere.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderValue, Request, header};
use kernel::failure::{Category, Failure};
use rmcp::transport::auth::WWWAuthenticateParams;
use tokio::sync::Mutex;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};
use zeroize::Zeroizing;

use super::http::Guarded;
use super::login::token_refused;
use super::spec::Exchange;
use super::token::{Answer, Held, code, scopes};
use super::{AuthParts, Authorizer, Challenge, Subject, invalid};
use crate::limits;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The type of a token of Tally: a JWT.
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

struct Entry {
    held: Held,
    asked: BTreeSet<String>,
}

/// One chain's token. Its calls wait for one exchange; those of other chains do not.
type Slot = Arc<Mutex<Option<Entry>>>;

/// Authorises each actor chain by a token of its own.
pub(super) struct ExchangeAuthorizer {
    spec: Exchange,
    url: Url,
    parts: AuthParts,
    http: Arc<Guarded>,
    slots: Mutex<HashMap<String, Slot>>,
}

impl ExchangeAuthorizer {
    pub(super) fn new(spec: Exchange, url: Url, parts: AuthParts, http: Arc<Guarded>) -> Self {
        Self { spec, url, parts, http, slots: Mutex::default() }
    }

    async fn slot(&self, key: &str) -> Slot {
        let mut slots = self.slots.lock().await;
        if slots.len() >= limits::OAUTH_SUBJECTS_MAX {
            // Those that nobody uses now and whose token is over; where all are good, all go.
            slots.retain(|_, slot| {
                let entry = slot.try_lock();
                entry.map_or(true, |entry| entry.as_ref().is_some_and(|e| e.held.good()))
            });
            if slots.len() >= limits::OAUTH_SUBJECTS_MAX {
                slots.clear();
            }
        }
        slots.entry(key.to_owned()).or_default().clone()
    }

    /// The request for a token: for `subject`, else for the upstream's own client.
    fn request(
        &self,
        subject: Option<&Subject>,
        asked: &BTreeSet<String>,
    ) -> Result<Request<Vec<u8>>, Failure> {
        let spec = &self.spec;
        let mut form = Serializer::new(String::new());
        if let Some(subject) = subject {
            let audience = spec.subject_audience.as_ref().unwrap_or(&spec.token_endpoint);
            let token = Zeroizing::new((subject.token)(audience)?);
            form.append_pair("grant_type", GRANT);
            form.append_pair("subject_token", &token);
            form.append_pair("subject_token_type", JWT);
            form.append_pair("requested_token_type", ACCESS_TOKEN);
        } else {
            form.append_pair("grant_type", "client_credentials");
        }
        form.append_pair("resource", spec.resource.as_deref().unwrap_or(self.url.as_str()));
        if let Some(audience) = &spec.audience {
            form.append_pair("audience", audience);
        }
        let scope = asked.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        if !scope.is_empty() {
            form.append_pair("scope", &scope);
        }
        let mut request = Request::post(&spec.token_endpoint)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded");
        match (&spec.client_id, &spec.client_secret) {
            (Some(id), Some(secret)) => {
                let secret = self.parts.secrets.reveal(secret.name())?;
                request = request.header(header::AUTHORIZATION, basic(id, &secret)?);
            }
            (Some(id), None) => {
                form.append_pair("client_id", id);
            }
            (None, _) => {}
        }
        let request = request.body(form.finish().into_bytes());
        request.map_err(|_| invalid("auth.token_endpoint"))
    }

    async fn issue(
        &self,
        subject: Option<&Subject>,
        asked: BTreeSet<String>,
    ) -> Result<Entry, Failure> {
        let answer = self.http.send(self.request(subject, &asked)?).await?;
        if !answer.status().is_success() {
            let text = String::from_utf8_lossy(answer.body());
            let message = format!("the token endpoint exchanges no token: {}", code(&text));
            let failure = Failure::new(Category::Upstream, "authorization_failed", message);
            return Err(failure.retryable(answer.status().is_server_error()));
        }
        let answer = serde_json::from_slice::<Answer>(answer.body()).map_err(|_| {
            let message = "the token endpoint's answer is none of OAuth";
            Failure::new(Category::Upstream, "authorization_failed", message).retryable(false)
        })?;
        Ok(Entry { held: Held::new(&answer, Duration::ZERO)?, asked })
    }
}

/// Basic authentication of a client, by RFC 6749 §2.3.1.
fn basic(id: &str, secret: &str) -> Result<HeaderValue, Failure> {
    let part = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", part(id), part(secret)));
    let text = Zeroizing::new(format!("Basic {}", BASE64.encode(pair.as_bytes())));
    let mut value = HeaderValue::from_str(&text).map_err(|_| invalid("auth.client_secret"))?;
    value.set_sensitive(true);
    Ok(value)
}

#[async_trait]
impl Authorizer for ExchangeAuthorizer {
    async fn authorization(
        &self,
        subject: Option<&Subject>,
        challenge: Option<&Challenge>,
    ) -> Result<Option<HeaderValue>, Failure> {
        // Lists and the like are for nobody: the client asks for them itself, where it can.
        if subject.is_none() && self.spec.client_secret.is_none() {
            return Ok(None);
        }
        let slot = self.slot(subject.map_or("", |subject| &subject.key)).await;
        let mut entry = slot.lock().await;
        let mut asked: BTreeSet<String> = self.spec.scopes.iter().cloned().collect();
        match (challenge, entry.as_ref()) {
            (None, Some(entry)) if entry.held.good() => return Ok(Some(entry.held.header())),
            (Some(challenge), Some(entry)) if challenge.status == 403 => {
                let params = WWWAuthenticateParams::parse(&challenge.www_authenticate, &self.url);
                let more = scopes(params.scope.as_deref().unwrap_or_default());
                if !params.is_insufficient_scope() || more.is_subset(&entry.asked) {
                    return Err(token_refused());
                }
                asked.extend(more.into_iter().chain(entry.asked.iter().cloned()));
            }
            (Some(_), Some(entry)) if !entry.held.is_refused() => {
                return Ok(Some(entry.held.header()));
            }
            (_, Some(entry)) => asked.clone_from(&entry.asked),
            (_, None) => {}
        }
        let new = self.issue(subject, asked).await?;
        let header = new.held.header();
        *entry = Some(new);
        Ok(Some(header))
    }
}
