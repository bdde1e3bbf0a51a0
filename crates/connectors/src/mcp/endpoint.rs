//! The HTTP endpoint of an upstream: its address, its headers, and what authorises requests.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::response::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};

use super::auth::{Authorizer, Challenge, Subject};
use super::connection::Lost;
use super::error::Error;
use super::http::{LAST_EVENT, METHOD, NAME, SESSION, VERSION};
use super::pool::{Body, Pool};
use super::serve::Caller;
use super::spec::{self, Parts, Secrets};
use crate::http::request::{Scheme, Target, header_map, parse_url};
use crate::http::wire;
use crate::limits;

/// The MCP endpoint of one upstream.
pub(super) struct Endpoint {
    pool: Arc<Pool>,
    /// What the request line asks for, secrets not yet in place.
    path: String,
    /// The same where there are none.
    uri: Option<Uri>,
    /// Headers without secrets.
    fixed: HeaderMap,
    /// Headers with secrets.
    secret: Vec<(HeaderName, String)>,
    secrets: Arc<dyn Secrets>,
    authorizer: Option<Arc<dyn Authorizer>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(super) fn new(
        url: &str,
        headers: &BTreeMap<String, String>,
        private: bool,
        parts: &Parts,
    ) -> Result<Self, Error> {
        let (target, path) = target(url)?;
        let host = HeaderValue::from_str(&target.authority())
            .map_err(|_| Error::Url("names a host that cannot be sent".to_owned()))?;
        let (open, secret): (Vec<_>, Vec<_>) =
            headers.iter().partition(|(_, value)| !value.contains("${"));
        let open = open.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut fixed = header_map(&open).map_err(|failure| header_error(&failure))?;
        let mut hidden = Vec::new();
        for (name, value) in secret {
            // Checked with a value in place of the secret.
            let probe = [(name.clone(), "x".to_owned())].into();
            header_map(&probe).map_err(|failure| header_error(&failure))?;
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::Header { name: name.clone(), reason: "is malformed" })?;
            hidden.push((parsed, value.clone()));
        }
        for name in fixed.keys().chain(hidden.iter().map(|(name, _)| name)) {
            if ours(name) {
                let reason = "is set by Tally: leave it out";
                return Err(Error::Header { name: name.to_string(), reason });
            }
        }
        fixed.insert(header::HOST, host);
        let uri = match path.contains("${") {
            true => None,
            false => Some(parse_path(&path).map_err(|failure| Error::Url(failure.message))?),
        };
        let tls = match target.scheme {
            Scheme::Http => None,
            Scheme::Https => Some(
                wire::tls(parts.extra_ca_pem.as_deref())
                    .map_err(|e| Error::Certificate(e.to_string()))?,
            ),
        };
        Ok(Self {
            pool: Arc::new(Pool::new(target, private, Arc::clone(&parts.resolver), tls)),
            path,
            uri,
            fixed,
            secret: hidden,
            secrets: Arc::clone(&parts.secrets),
            authorizer: parts.authorizer.clone(),
        })
    }

    /// The headers that every request starts from.
    pub(super) fn headers(&self) -> HeaderMap {
        self.fixed.clone()
    }

    /// Puts the secrets in place.
    fn complete(&self, headers: &mut HeaderMap) -> Result<Uri, Failure> {
        for (name, value) in &self.secret {
            let value = spec::reveal(value, self.secrets.as_ref())?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                let message = format!("the secret in the header `{name}` cannot be sent in one");
                Failure::new(Category::Validation, "header_refused", message)
            })?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        match &self.uri {
            Some(uri) => Ok(uri.clone()),
            None => parse_path(&spec::reveal(&self.path, self.secrets.as_ref())?),
        }
    }

    /// Sends one request, authorised, and gives the answer that is no demand for authorisation.
    /// `headers` start from those of [`Self::headers`].
    pub(super) async fn send(
        &self,
        method: Method,
        mut headers: HeaderMap,
        body: Bytes,
        way: &Way<'_>,
    ) -> Result<(Head, Body), Lost> {
        let mut challenge: Option<Challenge> = None;
        for _ in 0..=limits::MCP_CHALLENGES_MAX {
            let mut request = Request::new(Full::new(body.clone()));
            // Nothing is sent twice where nobody authorises.
            let mut own = match &self.authorizer {
                None => std::mem::take(&mut headers),
                Some(_) => headers.clone(),
            };
            *request.method_mut() = method.clone();
            *request.uri_mut() = self.complete(&mut own)?;
            if let Some(authorizer) = &self.authorizer {
                let value = authorizer.authorization(way.subject, challenge.as_ref()).await?;
                if let Some(mut value) = value {
                    value.set_sensitive(true);
                    own.insert(header::AUTHORIZATION, value);
                }
            }
            *request.headers_mut() = own;
            let (head, answer) = self.pool.send(request, way.repeatable, way.caller).await?;
            if !matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Ok((head, answer));
            }
            // Refused, so not acted upon.
            if let Some(caller) = way.caller {
                caller.not_sent();
            }
            let demanded = head.headers.get(header::WWW_AUTHENTICATE);
            let demanded = demanded.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = head.status.as_u16();
            let www_authenticate = match (&self.authorizer, demanded) {
                (Some(_), Some(demanded)) => demanded,
                (Some(_), None) if status == 401 => String::new(),
                _ => return Err(unauthorized(head.status).into()),
            };
            challenge = Some(Challenge { status, www_authenticate });
        }
        Err(unauthorized(StatusCode::UNAUTHORIZED).into())
    }
}

/// How a request is sent.
pub(super) struct Way<'a> {
    pub(super) subject: Option<&'a Subject>,
    /// Whether it may be sent again over another connection.
    pub(super) repeatable: bool,
    pub(super) caller: Option<&'a Caller>,
}

/// Splits a URL into its origin, which has no secrets, and the rest.
fn target(url: &str) -> Result<(Target, String), Error> {
    let invalid = |failure: Failure| Error::Url(failure.message);
    if spec::secret_names(url).is_none() {
        return Err(Error::Secret { place: "the URL".to_owned() });
    }
    let (origin, path) = match url.split_once("${") {
        None => (url, None),
        Some((before, _)) => {
            let rest = before.split_once("://").map_or("", |(_, rest)| rest);
            if !rest.contains('/') {
                let reason = "may hold secrets in its path and query only";
                return Err(Error::Url(reason.to_owned()));
            }
            (before, url.splitn(4, '/').nth(3).map(|path| format!("/{path}")))
        }
    };
    let parsed = parse_url(origin).map_err(invalid)?;
    let target = Target::new(parsed).map_err(invalid)?;
    let path = path.unwrap_or_else(|| target.path_and_query());
    Ok((target, path))
}

fn parse_path(path: &str) -> Result<Uri, Failure> {
    path.parse().map_err(|_| {
        let message = "the URL's path cannot be sent";
        Failure::new(Category::Validation, "url_invalid", message)
    })
}

fn header_error(failure: &Failure) -> Error {
    Error::Header { name: failure.message.clone(), reason: "cannot be set" }
}

/// Headers that this client sets.
fn ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    [SESSION, VERSION, METHOD, NAME, LAST_EVENT].contains(name)
        || matches!(text, "accept" | "content-type" | "origin")
        || text.starts_with("mcp-param-")
}

fn unauthorized(status: StatusCode) -> Failure {
    let message = format!("the MCP server demands authorisation: it answered {status}");
    Failure::new(Category::Auth, "upstream_unauthorized", message)
}
