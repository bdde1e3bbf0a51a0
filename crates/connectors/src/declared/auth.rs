//! What authorises requests. Values of secrets are looked up for each request and are in nothing
//! that is shown; tokens are kept in memory until they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use kernel::values::Timestamp;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use zeroize::Zeroizing;

use super::document::{AuthDocument, AuthKind, ClientAuth, Encoding, Signed};
use super::instance::{self, Instance};
use super::request::header_name;
use super::transport::Transport;
use crate::http::Progress;
use crate::http::request::{Request, Target};
use crate::limits;
use crate::mcp::Secrets;
use crate::tools::Fault;

/// The secrets of one tenant, some of which systems replace.
#[async_trait]
pub trait Credentials: Secrets {
    /// Keeps another value of the secret `name`: a refresh token that its server replaced.
    async fn replace(&self, name: &str, value: &str) -> Result<(), Failure>;
}

/// Where tokens are issued.
#[derive(Clone, Debug)]
pub(super) enum Endpoint {
    /// Below the base URL of the instance.
    Path(String),
    /// Somewhere else, which must be granted as well.
    Url(Box<Target>),
}

/// What a token is asked for with (RFC 6749, 4.4 and 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    ClientCredentials,
    Refresh,
}

/// How tokens are asked for.
#[derive(Clone, Debug)]
pub(super) struct Oauth {
    grant: Grant,
    endpoint: Endpoint,
    scopes: String,
    client: ClientAuth,
}

/// How requests are signed: HMAC with SHA-256.
#[derive(Clone, Debug)]
pub(super) struct Hmac {
    header: HeaderName,
    prefix: String,
    encoding: Encoding,
    signed: Vec<Signed>,
    timestamp: Option<HeaderName>,
}

/// A way to authorise requests.
#[derive(Clone, Debug)]
pub(super) enum Scheme {
    None,
    Bearer,
    Header { name: HeaderName, prefix: String },
    Basic,
    Oauth(Oauth),
    Hmac(Hmac),
}

impl Scheme {
    pub(super) fn new(source: &AuthDocument) -> Result<Self, String> {
        check_members(source)?;
        let prefix = source.prefix.clone().unwrap_or_default();
        let header = || header_name(source.header.as_deref().unwrap_or_default());
        Ok(match source.kind {
            AuthKind::None => Self::None,
            AuthKind::Bearer => Self::Bearer,
            AuthKind::Header => Self::Header { name: header()?, prefix },
            AuthKind::Basic => Self::Basic,
            AuthKind::Oauth2ClientCredentials => {
                Self::Oauth(Oauth::new(source, Grant::ClientCredentials)?)
            }
            AuthKind::Oauth2Refresh => Self::Oauth(Oauth::new(source, Grant::Refresh)?),
            AuthKind::Hmac => {
                let signed = source.signed.clone().unwrap_or_else(|| vec![Signed::Body]);
                let timestamp = source.timestamp_header.as_deref().map(header_name).transpose()?;
                if signed.is_empty() || (timestamp.is_none() && signed.contains(&Signed::Timestamp))
                {
                    return Err(
                        "`signed` names what is signed, `timestamp` with a header".to_owned()
                    );
                }
                let encoding = source.encoding.unwrap_or_default();
                Self::Hmac(Hmac { header: header()?, prefix, encoding, signed, timestamp })
            }
        })
    }

    /// The credentials that it needs.
    pub(super) fn roles(&self) -> &'static [&'static str] {
        match self {
            Self::None => &[],
            Self::Bearer => &["token"],
            Self::Header { .. } | Self::Hmac(_) => &["key"],
            Self::Basic => &["username", "password"],
            Self::Oauth(Oauth { grant: Grant::ClientCredentials, .. }) => {
                &["client_id", "client_secret"]
            }
            Self::Oauth(Oauth { grant: Grant::Refresh, .. }) => {
                &["client_id", "client_secret", "refresh_token"]
            }
        }
    }

    /// Whether a refused request may be sent again with a new token.
    pub(super) fn renews(&self) -> bool {
        matches!(self, Self::Oauth(_))
    }
}

/// Members that do not belong to the kind are mistakes.
fn check_members(source: &AuthDocument) -> Result<(), String> {
    let oauth = matches!(source.kind, AuthKind::Oauth2ClientCredentials | AuthKind::Oauth2Refresh);
    let hmac = source.kind == AuthKind::Hmac;
    let header = source.kind == AuthKind::Header || hmac;
    let foreign = [
        (source.token_path.is_some() && !oauth, "tokenPath"),
        (source.token_url.is_some() && !oauth, "tokenUrl"),
        (!source.scopes.is_empty() && !oauth, "scopes"),
        (source.client.is_some() && !oauth, "client"),
        (source.header.is_some() && !header, "header"),
        (source.prefix.is_some() && !header, "prefix"),
        (source.encoding.is_some() && !hmac, "encoding"),
        (source.signed.is_some() && !hmac, "signed"),
        (source.timestamp_header.is_some() && !hmac, "timestampHeader"),
    ];
    match foreign.iter().find(|(wrong, _)| *wrong) {
        Some((_, name)) => Err(format!("`{name}` does not belong to this type")),
        None => Ok(()),
    }
}

impl Oauth {
    fn new(source: &AuthDocument, grant: Grant) -> Result<Self, String> {
        let endpoint = match (&source.token_path, &source.token_url) {
            (Some(path), None) => {
                let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
                let dots = path.split('/').any(|part| part == "." || part == "..");
                if !path.starts_with('/')
                    || path.starts_with("//")
                    || dots
                    || !path.bytes().all(plain)
                {
                    return Err("`tokenPath` is a plain path that begins with `/`".to_owned());
                }
                Endpoint::Path(path.clone())
            }
            (None, Some(url)) => Endpoint::Url(Box::new(instance::base(url)?)),
            _ => return Err("either `tokenPath` or `tokenUrl`".to_owned()),
        };
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        if source.scopes.iter().any(|scope| scope.is_empty() || !scope.bytes().all(plain)) {
            return Err("a scope is visible ASCII without spaces".to_owned());
        }
        let (scopes, client) = (source.scopes.join(" "), source.client.unwrap_or_default());
        Ok(Self { grant, endpoint, scopes, client })
    }

    fn target(&self, base: &Target) -> Result<Target, Failure> {
        match &self.endpoint {
            Endpoint::Url(target) => Ok(target.as_ref().clone()),
            Endpoint::Path(path) => {
                let mut url = base.url.clone();
                url.set_path(&format!("{}{path}", base.url.path().trim_end_matches('/')));
                Target::new(url)
            }
        }
    }
}

/// A token and until when it is good.
struct Token {
    value: Zeroizing<String>,
    until: Timestamp,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The tokens in use, by tenant and instance.
#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<String, Slot>>);

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

impl Tokens {
    fn slot(&self, key: &str) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !slots.contains_key(key) && slots.len() >= limits::CONNECTOR_TOKENS_MAX {
            // Whoever is asked next gets another one.
            slots.clear();
        }
        slots.entry(key.to_owned()).or_default().clone()
    }
}

/// Who authorises: for one tenant's instance, at one time.
pub(super) struct Authority<'a> {
    pub(super) tenant: &'a str,
    pub(super) instance: &'a Instance,
    pub(super) credentials: &'a dyn Credentials,
    pub(super) tokens: &'a Tokens,
    pub(super) now: Timestamp,
}

impl Authority<'_> {
    /// Another configuration, or another definition, has tokens of its own.
    fn key(&self) -> String {
        let Instance { config_digest, definition, .. } = self.instance;
        format!("{}/{}/{}", self.tenant, config_digest.hex(), definition.digest.hex())
    }

    fn secret(&self, role: &str) -> Result<Zeroizing<String>, Failure> {
        self.credentials.reveal(self.instance.secret(role))
    }

    /// Authorises `request`. `anew` asks for another token than the one in use.
    pub(super) async fn authorise(
        &self,
        request: &mut Request,
        transport: &dyn Transport,
        anew: bool,
    ) -> Result<(), Failure> {
        let (name, value) = match &self.instance.scheme {
            Scheme::None => return Ok(()),
            Scheme::Bearer => (header::AUTHORIZATION, bearer(&self.secret("token")?)),
            Scheme::Header { name, prefix } => {
                let key = self.secret("key")?;
                (name.clone(), Zeroizing::new(format!("{prefix}{}", key.as_str())))
            }
            Scheme::Basic => {
                let (user, password) = (self.secret("username")?, self.secret("password")?);
                (header::AUTHORIZATION, basic(&user, &password))
            }
            Scheme::Oauth(oauth) => {
                let token = self.token(oauth, transport, anew).await?;
                (header::AUTHORIZATION, bearer(&token))
            }
            Scheme::Hmac(hmac) => {
                let key = self.secret("key")?;
                (hmac.header.clone(), hmac.sign(request, &key, self.now)?)
            }
        };
        insert(&mut request.headers, name, &value)
    }

    async fn token(
        &self,
        oauth: &Oauth,
        transport: &dyn Transport,
        anew: bool,
    ) -> Result<Zeroizing<String>, Failure> {
        let slot = self.tokens.slot(&self.key());
        // One asks, the others wait for what it gets.
        let mut token = slot.lock().await;
        if anew {
            *token = None;
        }
        if let Some(token) = token.as_ref().filter(|token| token.until > self.now) {
            return Ok(token.value.clone());
        }
        let fresh = self.ask(oauth, transport).await?;
        let value = fresh.value.clone();
        *token = Some(fresh);
        Ok(value)
    }

    async fn ask(&self, oauth: &Oauth, transport: &dyn Transport) -> Result<Token, Failure> {
        let request = self.token_request(oauth)?;
        let answer = transport.send(&request, &Progress::default()).await;
        let answer = answer.map_err(|fault| match fault {
            Fault::Failed(failure) | Fault::Unknown(failure) => failure,
        })?;
        let status = answer.status;
        if !status.is_success() {
            let failure = match status.as_u16() {
                400 | 401 | 403 => refused(),
                429 | 500..=599 => {
                    let message = format!("no token for the moment: its issuer answered {status}");
                    Failure::new(Category::Upstream, "token_unavailable", message)
                }
                _ => {
                    let message = format!("no token: its issuer answered {status}");
                    Failure::new(Category::Auth, "credential_refused", message)
                }
            };
            return Err(failure);
        }
        let issued: Value = serde_json::from_slice(&answer.body).map_err(|_| unreadable())?;
        let text = |name: &str| issued.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
        let value = text("access_token").ok_or_else(unreadable)?;
        if value.len() > limits::CONNECTOR_TOKEN_BYTES_MAX {
            return Err(unreadable());
        }
        if let Some(next) = text("refresh_token").filter(|_| oauth.grant == Grant::Refresh)
            && *self.secret("refresh_token")? != *next
        {
            self.credentials.replace(self.instance.secret("refresh_token"), next).await?;
        }
        let seconds =
            issued.get("expires_in").and_then(|s| s.as_u64().or_else(|| s.as_str()?.parse().ok()));
        let seconds = seconds.unwrap_or(limits::CONNECTOR_TOKEN_S).min(limits::OAUTH_TOKEN_S_MAX);
        let good = seconds.saturating_sub(limits::OAUTH_TOKEN_MARGIN.as_secs());
        let until = self.now.plus_millis(i64::try_from(good).unwrap_or(0).saturating_mul(1_000));
        Ok(Token { value: Zeroizing::new(value.to_owned()), until })
    }

    fn token_request(&self, oauth: &Oauth) -> Result<Request, Failure> {
        let (id, secret) = (self.secret("client_id")?, self.secret("client_secret")?);
        let mut headers = HeaderMap::new();
        let mut form = Zeroizing::new(String::new());
        let mut say = |name: &str, value: &str| {
            if !form.is_empty() {
                form.push('&');
            }
            form.push_str(name);
            form.push('=');
            form.extend(utf8_percent_encode(value, NON_ALPHANUMERIC));
        };
        match oauth.grant {
            Grant::ClientCredentials => say("grant_type", "client_credentials"),
            Grant::Refresh => {
                say("grant_type", "refresh_token");
                say("refresh_token", &self.secret("refresh_token")?);
            }
        }
        if !oauth.scopes.is_empty() {
            say("scope", &oauth.scopes);
        }
        match oauth.client {
            ClientAuth::Body => {
                say("client_id", &id);
                say("client_secret", &secret);
            }
            ClientAuth::Basic => {
                let encode = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
                let value = basic(&encode(&id), &Zeroizing::new(encode(&secret)));
                insert(&mut headers, header::AUTHORIZATION, &value)?;
            }
        }
        let fixed = [
            (header::ACCEPT, "application/json"),
            (header::ACCEPT_ENCODING, "identity"),
            (header::CONTENT_TYPE, "application/x-www-form-urlencoded"),
            (header::USER_AGENT, "tally/1"),
        ];
        headers.extend(fixed.map(|(name, value)| (name, HeaderValue::from_static(value))));
        Ok(Request {
            method: Method::POST,
            target: oauth.target(&self.instance.base)?,
            headers,
            body: Bytes::copy_from_slice(form.as_bytes()),
            timeout: limits::OAUTH_TIMEOUT,
            max_bytes: limits::OAUTH_ANSWER_BYTES_MAX,
        })
    }
}

impl Hmac {
    fn sign(
        &self,
        request: &mut Request,
        key: &Zeroizing<String>,
        now: Timestamp,
    ) -> Result<Zeroizing<String>, Failure> {
        let at = now.0.div_euclid(1_000_000).to_string();
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        let mut context = hmac::Context::with_key(&key);
        for (index, part) in self.signed.iter().enumerate() {
            if index > 0 {
                context.update(b".");
            }
            match part {
                Signed::Timestamp => context.update(at.as_bytes()),
                Signed::Method => context.update(request.method.as_str().as_bytes()),
                Signed::Path => context.update(request.target.path_and_query().as_bytes()),
                Signed::Body => context.update(&request.body),
            }
        }
        let tag = context.sign();
        let signature = match self.encoding {
            Encoding::Hex => tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect(),
            Encoding::Base64 => STANDARD.encode(tag.as_ref()),
        };
        if let Some(name) = &self.timestamp {
            insert(&mut request.headers, name.clone(), &Zeroizing::new(at))?;
        }
        Ok(Zeroizing::new(format!("{}{signature}", self.prefix)))
    }
}

fn bearer(token: &Zeroizing<String>) -> Zeroizing<String> {
    Zeroizing::new(format!("Bearer {}", token.as_str().trim()))
}

fn basic(user: &str, password: &Zeroizing<String>) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{user}:{}", password.as_str()));
    Zeroizing::new(format!("Basic {}", STANDARD.encode(pair.as_bytes())))
}

fn insert(
    headers: &mut HeaderMap,
    name: HeaderName,
    value: &Zeroizing<String>,
) -> Result<(), Failure> {
    let mut value = HeaderValue::from_str(value).map_err(|_| {
        let message = format!("the credential for the header `{name}` is not visible ASCII");
        Failure::new(Category::Auth, "credential_refused", message)
    })?;
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

fn refused() -> Failure {
    let message = "the issuer of tokens does not accept the credential of the instance";
    Failure::new(Category::Auth, "credential_refused", message)
}

fn unreadable() -> Failure {
    let message = "the issuer of tokens answered with something else than a token";
    Failure::new(Category::Upstream, "token_unavailable", message).retryable(false)
}
