//! The token endpoint: client credentials (RFC 6749), token exchange with a chain of actors
//! (RFC 8693), the key set and the metadata (RFC 8414). What crosses here is a form and OAuth's
//! own errors, so these routes are beside those of `proto/`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::{HeaderMap, StatusCode, header};
use kernel::control;
use kernel::delegation::{self, Delegation, delegable};
use kernel::failure::{Category, Failure};
use kernel::limits::TOKEN_MICROS_MAX;
use kernel::machine::{Command, Input, Kind};
use kernel::principal::{Actor, PrincipalKind, Role};
use kernel::session;
use kernel::values::Timestamp;
use ledger::Batch;
use serde::Serialize;
use serde_json::json;

use crate::credentials::{self, Credential, Holder};
use crate::error::Refused;
use crate::limits;
use crate::rate::Rates;
use crate::shared::Shared;
use crate::tokens::{Claims, Link, Tokens};

const CLIENT_CREDENTIALS: &str = "client_credentials";
const REFRESH_TOKEN: &str = "refresh_token";
const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// What a subject or actor token may be called. Each is told by what it is.
const TOKEN_TYPES: [&str; 3] = [
    ACCESS_TOKEN,
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:tally:params:oauth:token-type:api_key",
];
/// The bucket of those whose credentials are none.
const NOBODY: &str = "nobody";

#[derive(Clone)]
struct OAuth {
    shared: Arc<Shared>,
    rates: Arc<Rates>,
}

/// The routes of OAuth, public by themselves.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/oauth/token", post(token))
        .route("/v1/auth/token/exchange", post(token))
        .route("/v1/auth/service-token", post(token))
        .route("/.well-known/jwks.json", get(key_set))
        .route("/.well-known/oauth-authorization-server", get(metadata))
        .layer(DefaultBodyLimit::max(limits::TOKEN_BODY_BYTES_MAX))
        .with_state(OAuth { shared, rates: Arc::default() })
}

/// Why no token is issued, by RFC 6749 §5.2.
#[derive(Debug)]
struct Error {
    status: StatusCode,
    error: &'static str,
    description: String,
    retry_after_ms: Option<u64>,
}

type Result<T> = std::result::Result<T, Error>;

impl Error {
    fn new(error: &'static str, description: impl Into<String>) -> Self {
        let description = description.into();
        Self { status: StatusCode::BAD_REQUEST, error, description, retry_after_ms: None }
    }

    fn request(description: impl Into<String>) -> Self {
        Self::new("invalid_request", description)
    }

    fn client() -> Self {
        let description = "client_id is the id of an API key, client_secret the key";
        let status = StatusCode::UNAUTHORIZED;
        Self { status, ..Self::new("invalid_client", description) }
    }

    fn busy(wait_ms: u64) -> Self {
        let status = StatusCode::TOO_MANY_REQUESTS;
        let retry_after_ms = Some(wait_ms);
        Self { status, retry_after_ms, ..Self::new("slow_down", "too many requests for tokens") }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (status, error) = match failure.category {
            Category::Auth | Category::Conflict => (StatusCode::BAD_REQUEST, "invalid_grant"),
            Category::Permission => (StatusCode::FORBIDDEN, "access_denied"),
            Category::RateLimited => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable"),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, "server_error"),
        };
        Self { status, ..Self::new(error, failure.message) }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        refused.0.into()
    }
}

impl From<delegation::Error> for Error {
    fn from(error: delegation::Error) -> Self {
        use delegation::Error::{AgentToService, Chain, Empty, ToUser, Wider};
        let code = match error {
            Wider | Empty => "invalid_scope",
            ToUser | AgentToService | Chain => "invalid_grant",
        };
        Self::new(code, error.to_string())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let Self { status, error, description, retry_after_ms } = self;
        let body = json!({"error": error, "error_description": description});
        let mut response = (status, private(), axum::Json(body)).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            let basic = http::HeaderValue::from_static("Basic realm=\"tally\"");
            headers.insert(header::WWW_AUTHENTICATE, basic);
        }
        if let Some(ms) = retry_after_ms {
            headers.insert(header::RETRY_AFTER, ms.div_ceil(1_000).into());
        }
        response
    }
}

/// Nobody keeps what has a token in it.
fn private() -> [(header::HeaderName, &'static str); 2] {
    [(header::CACHE_CONTROL, "no-store"), (header::PRAGMA, "no-cache")]
}

#[derive(Serialize)]
struct Issued {
    access_token: String,
    issued_token_type: &'static str,
    token_type: &'static str,
    expires_in: i64,
    scope: String,
}

/// The form of a request for a token; each field at most once.
struct Form(BTreeMap<String, String>);

impl Form {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self> {
        let form = "application/x-www-form-urlencoded";
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let essence = content_type.and_then(|value| value.split(';').next()).map(str::trim);
        if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case(form)) {
            return Err(Error::request(format!("send {form}")));
        }
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            // A field without a value is none, by RFC 6749 §3.2.
            if !value.is_empty() && fields.insert(name.to_string(), value.to_string()).is_some() {
                return Err(Error::request(format!("`{name}` is given twice")));
            }
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn need(&self, name: &str) -> Result<&str> {
        self.get(name).ok_or_else(|| Error::request(format!("`{name}` is missing")))
    }

    /// The permissions asked for; none where everything is.
    fn scope(&self) -> Option<BTreeSet<String>> {
        let scope = self.get("scope")?;
        Some(scope.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect())
    }

    /// For whom the token is to be: this server where nobody else is named. `resource` is the
    /// word of RFC 8707, `audience` that of RFC 8693; a token has one of both.
    fn audience(&self, shared: &Shared) -> Result<String> {
        let (resource, audience) = (self.get("resource"), self.get("audience"));
        let Some(named) = resource.or(audience) else {
            return Ok(shared.tokens.issuer().to_owned());
        };
        let plain = named.bytes().all(|b| b.is_ascii_graphic());
        if named.len() > limits::AUDIENCE_BYTES_MAX || !plain {
            return Err(Error::new("invalid_target", "a target has at most 255 ASCII characters"));
        }
        if audience.is_some_and(|audience| audience != named) {
            return Err(Error::new("invalid_target", "name one target: resource or audience"));
        }
        let absolute = |uri: &str| uri.parse::<url::Url>().is_ok_and(|u| u.fragment().is_none());
        if resource.is_some_and(|resource| !absolute(resource)) {
            let description = "resource is an absolute URI without a fragment";
            return Err(Error::new("invalid_target", description));
        }
        Ok(named.to_owned())
    }

    /// When the token is to end at the latest. `expires_in` is ours: OAuth has no word for it.
    fn until(&self, now: Timestamp) -> Result<Timestamp> {
        let lifetime = match self.get("expires_in") {
            None => limits::TOKEN_MICROS_DEFAULT,
            Some(text) => {
                let seconds = text.parse::<u32>().ok().filter(|seconds| *seconds > 0);
                let micros = seconds.map(|seconds| i64::from(seconds).saturating_mul(1_000_000));
                micros
                    .filter(|micros| *micros <= TOKEN_MICROS_MAX)
                    .ok_or_else(|| Error::request("expires_in: 1 to 3600 seconds"))?
            }
        };
        Ok(now.plus_micros(lifetime))
    }
}

/// One side of an exchange: who holds a credential, and what it rests on.
struct Party {
    holder: Holder,
    links: Vec<Link>,
    /// Whether it shows the secret of a key or session itself, and no token.
    by_secret: bool,
    /// What the credential may, now.
    held: BTreeSet<String>,
}

impl Party {
    fn new(holder: Holder, credential: &Credential) -> Self {
        let caller = &holder.caller;
        let links = match credential {
            Credential::Secret { base, .. } => {
                vec![Link { principal: caller.id.clone(), base: base.clone() }]
            }
            Credential::Token(claims) => claims.links.clone(),
        };
        let mut held = delegation::granted(caller.roles.iter(), None);
        held.retain(|permission| caller.may(permission));
        let by_secret = matches!(credential, Credential::Secret { .. });
        Self { holder, links, by_secret, held }
    }

    /// The claims of a token for `links`, no longer than this party's credential.
    fn claims(
        &self,
        links: Vec<Link>,
        scope: BTreeSet<String>,
        audience: String,
        until: Timestamp,
    ) -> Claims {
        let caller = &self.holder.caller;
        let until = self.holder.expires_at.map_or(until, |end| end.min(until));
        let place = (caller.tenant.clone(), caller.workspace.clone(), caller.environment.clone());
        Claims::new(place, links, scope, audience, until)
    }
}

impl OAuth {
    /// Who holds the credential `text`. Guessing is slowed down for everybody together.
    fn party(&self, text: &str) -> Result<Party> {
        let read = credentials::read(&self.shared, text);
        let found = read.ok_or_else(credentials::invalid).and_then(|credential| {
            let holder = credentials::holder(&self.shared, &credential)?;
            Ok(Party::new(holder, &credential))
        });
        let now = self.shared.now();
        let (bucket, rate) = match &found {
            Ok(party) => (party.holder.base.as_str(), limits::TOKENS_PER_MIN),
            Err(_) => (NOBODY, limits::TOKENS_REFUSED_PER_MIN),
        };
        self.rates.take(bucket, rate, now).map_err(|(_, wait_ms)| Error::busy(wait_ms))?;
        Ok(found?)
    }

    fn issue(&self, claims: &Claims) -> Result<Issued> {
        let left = claims.expires_at.0.saturating_sub(self.shared.now().0);
        if left <= 0 {
            return Err(Error::new("invalid_grant", "the credential ends before the token could"));
        }
        Ok(Issued {
            access_token: self.shared.tokens.issue(&self.shared, claims)?,
            issued_token_type: ACCESS_TOKEN,
            token_type: "Bearer",
            expires_in: left.div_euclid(1_000_000),
            scope: claims.scope.iter().map(String::as_str).collect::<Vec<_>>().join(" "),
        })
    }

    /// A token for a program that shows its own key.
    fn client_credentials(&self, headers: &HeaderMap, form: &Form) -> Result<Issued> {
        let (id, secret) = client(headers, form)?;
        let party = self.party(&secret).map_err(|error| match error.error {
            "invalid_grant" => Error::client(),
            _ => error,
        })?;
        if !party.by_secret || party.holder.base != id {
            return Err(Error::client());
        }
        if party.holder.caller.kind == PrincipalKind::User {
            let description = "this grant is for services and agents: a person exchanges a token";
            return Err(Error::new("unauthorized_client", description));
        }
        self.own(form, &party)
    }

    /// A short token of a session that lasts.
    fn refresh(&self, form: &Form) -> Result<Issued> {
        let party = self.party(form.need("refresh_token")?)?;
        if !party.by_secret || !party.holder.base.starts_with("ses_") {
            return Err(Error::new("invalid_grant", "refresh_token is the secret of a session"));
        }
        self.own(form, &party)
    }

    /// A token for the same chain, with the same scope or less of it.
    fn own(&self, form: &Form, party: &Party) -> Result<Issued> {
        let scope = delegation::narrow(party.held.clone(), form.scope())?;
        let until = form.until(self.shared.now())?;
        let audience = form.audience(&self.shared)?;
        self.issue(&party.claims(party.links.clone(), scope, audience, until))
    }

    /// A token by which the actor acts for the subject: the chain grows, the scope shrinks.
    async fn exchange(&self, form: &Form) -> Result<Issued> {
        let subject = typed(form, "subject_token", "subject_token_type")?
            .ok_or_else(|| Error::request("`subject_token` is missing"))?;
        if form.get("requested_token_type").is_some_and(|kind| !TOKEN_TYPES[..2].contains(&kind)) {
            return Err(Error::request("requested_token_type: access tokens are what there is"));
        }
        let subject = self.party(subject)?;
        let Some(actor) = typed(form, "actor_token", "actor_token_type")? else {
            return self.own(form, &subject);
        };
        let actor = self.party(actor)?;
        let [link] = actor.links.as_slice() else {
            return Err(Error::new("invalid_grant", "actor_token is one of its own, undelegated"));
        };
        let (from, to) = (&subject.holder.caller, &actor.holder.caller);
        let place = |caller: &crate::shared::Caller| {
            (caller.tenant.clone(), caller.workspace.clone(), caller.environment.clone())
        };
        if place(from) != place(to) {
            let description = "subject and actor belong to one workspace and environment";
            return Err(Error::new("invalid_grant", description));
        }
        let next = Actor { id: to.id.clone(), kind: to.kind };
        let actors = delegation::extend(&from.actors(), next)?;
        let both = subject.held.intersection(&actor.held).filter(|held| delegable(held));
        let scope = delegation::narrow(both.cloned().collect(), form.scope())?;
        let until = form.until(self.shared.now())?;
        let until = actor.holder.expires_at.map_or(until, |end| end.min(until));
        let links = subject.links.iter().chain([link]).cloned().collect();
        let claims = subject.claims(links, scope.clone(), form.audience(&self.shared)?, until);
        let issued = self.issue(&claims)?;
        let (token, expires_at) = (claims.id.clone(), claims.expires_at);
        let delegation = Delegation { token, actors, scope, expires_at };
        self.record(&subject, delegation).await?;
        Ok(issued)
    }

    /// Makes a delegation durable before its token is given away.
    async fn record(&self, subject: &Party, delegation: Delegation) -> Result<()> {
        let root = subject.links.first().ok_or_else(credentials::invalid)?;
        let delegation = Box::new(delegation);
        let command = if root.base.starts_with("ses_") {
            let input = Input::Session(session::Input::Delegate(delegation));
            Command::new(Kind::Session, &root.base, input)
        } else {
            let input = Input::Control(control::Input::DelegateKey(delegation));
            Command::new(Kind::Key, &root.base, input)
        };
        let log = subject.holder.caller.control_log();
        self.shared.commit_control(Batch::new(log, vec![command])).await?;
        Ok(())
    }
}

/// The token in `name`, which must say what it is.
fn typed<'a>(form: &'a Form, name: &str, kind: &str) -> Result<Option<&'a str>> {
    match (form.get(name), form.get(kind)) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::request(format!("`{name}` is missing"))),
        (Some(_), None) => Err(Error::request(format!("`{kind}` is missing"))),
        (Some(token), Some(kind)) if TOKEN_TYPES.contains(&kind) => Ok(Some(token)),
        (Some(_), Some(_)) => {
            Err(Error::request(format!("`{kind}` is one of {}", TOKEN_TYPES.join(", "))))
        }
    }
}

/// The client's id and secret, by Basic or in the form, not both.
fn client(headers: &HeaderMap, form: &Form) -> Result<(String, String)> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        let (id, secret) = (form.get("client_id"), form.get("client_secret"));
        let (Some(id), Some(secret)) = (id, secret) else { return Err(Error::client()) };
        return Ok((id.to_owned(), secret.to_owned()));
    };
    if form.get("client_secret").is_some() {
        return Err(Error::request("give the client's secret once: by Basic or in the form"));
    }
    let basic = || {
        let (scheme, text) = value.to_str().ok()?.split_once(' ')?;
        let text = BASE64.decode(text.trim()).ok().filter(|_| scheme.eq_ignore_ascii_case("basic"));
        let text = String::from_utf8(text?).ok()?;
        let (id, secret) = text.split_once(':')?;
        Some((id.to_owned(), secret.to_owned()))
    };
    basic().ok_or_else(Error::client)
}

async fn token(State(oauth): State<OAuth>, headers: HeaderMap, body: Bytes) -> Response {
    let answer = async {
        let form = Form::read(&headers, &body)?;
        match form.need("grant_type")? {
            CLIENT_CREDENTIALS => oauth.client_credentials(&headers, &form),
            REFRESH_TOKEN => oauth.refresh(&form),
            TOKEN_EXCHANGE => oauth.exchange(&form).await,
            _ => Err(Error::new("unsupported_grant_type", "see the metadata of this server")),
        }
    };
    match answer.await {
        Ok(issued) => (private(), axum::Json(issued)).into_response(),
        Err(error) => error.into_response(),
    }
}

async fn key_set(State(oauth): State<OAuth>) -> Response {
    match Tokens::key_set(&oauth.shared) {
        // A verifier sees a new key soon after a rotation.
        Ok(keys) => {
            let cache = [(header::CACHE_CONTROL, "public, max-age=60")];
            (cache, axum::Json(json!({"keys": keys}))).into_response()
        }
        Err(refused) => Error::from(refused).into_response(),
    }
}

async fn metadata(State(oauth): State<OAuth>) -> Response {
    let issuer = oauth.shared.tokens.issuer();
    let scopes: BTreeSet<&str> =
        Role::ALL.into_iter().flat_map(Role::permissions).copied().collect();
    axum::Json(json!({
        "issuer": issuer,
        "token_endpoint": format!("{issuer}/oauth/token"),
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "response_types_supported": [],
        "grant_types_supported": [CLIENT_CREDENTIALS, REFRESH_TOKEN, TOKEN_EXCHANGE],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "scopes_supported": scopes,
    }))
    .into_response()
}
