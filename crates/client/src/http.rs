//! Sends calls over pooled HTTP/1.1 and HTTP/2 connections.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use ::http::header::{CONTENT_TYPE, USER_AGENT};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use proto::client::{HttpCall, HttpReply, Transport};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::time::{sleep, timeout};

use crate::error::{SetupError, TransportError, innermost};
use crate::{limits, retry};

/// The environment variable that names a PEM file of certificate authorities to trust.
pub const CA_FILE: &str = "TALLY_CA_FILE";

pub(crate) const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
pub(crate) const AGENT: &str = concat!("tally/", env!("CARGO_PKG_VERSION"));

/// The transport of [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Http {
    pub(crate) url: Arc<str>,
    pub(crate) key: Option<HeaderValue>,
    pub(crate) pool: Pool<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

impl Http {
    /// See [`crate::Client::new`].
    pub(crate) fn new(url: &str, key: &str) -> Result<Self, SetupError> {
        let url = checked(url)?;
        let mut value = HeaderValue::from_str(key).map_err(|_| SetupError::Key)?;
        value.set_sensitive(true);
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(limits::CONNECT_TIMEOUT));
        http.set_nodelay(true);
        http.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls()?)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::POOL_IDLE)
            .pool_max_idle_per_host(limits::POOL_CONNECTIONS_MAX)
            .build(connector);
        Ok(Self { url: url.into(), key: (!key.is_empty()).then_some(value), pool })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    fn request(&self, call: &HttpCall) -> Result<Request<Full<Bytes>>, TransportError> {
        let invalid = |error: ::http::Error| TransportError::Request(error.to_string());
        let mut request = Request::builder()
            .method(call.method)
            .uri(format!("{}{}", self.url, call.path_and_query))
            .header(USER_AGENT, AGENT);
        if let Some(key) = &self.key {
            request = request.header(API_KEY, key);
        }
        if let Some(content_type) = &call.content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(key) = &call.idempotency_key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        request.body(Full::new(Bytes::from(call.body.clone()))).map_err(invalid)
    }

    /// One attempt, with its whole answer.
    async fn attempt(&self, call: &HttpCall) -> Result<Answer, TransportError> {
        let request = self.request(call)?;
        let exchange = async {
            let response = self.pool.request(request).await.map_err(|e| self.failed(&e))?;
            self.read(response).await
        };
        timeout(limits::REQUEST_TIMEOUT, exchange).await.unwrap_or_else(|_| {
            let seconds = limits::REQUEST_TIMEOUT.as_secs();
            Err(TransportError::Timeout { url: self.url.to_string(), seconds })
        })
    }

    async fn read(&self, response: Response<Incoming>) -> Result<Answer, TransportError> {
        let (head, body) = response.into_parts();
        let body = Limited::new(body, limits::REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| TransportError::Broken {
            url: self.url.to_string(),
            reason: innermost(error.as_ref()),
        })?;
        Ok(Answer { status: head.status, headers: head.headers, body: body.to_bytes() })
    }

    pub(crate) fn failed(&self, error: &PoolError) -> TransportError {
        let (url, reason) = (self.url.to_string(), innermost(error));
        if error.is_connect() {
            TransportError::Connect { url, reason }
        } else {
            TransportError::Broken { url, reason }
        }
    }
}

impl Transport for Http {
    type Error = TransportError;

    async fn send(&self, mut call: HttpCall) -> Result<HttpReply, TransportError> {
        if call.idempotency_key.is_none() && retry::needs_key(&call) {
            call.idempotency_key = Some(ulid::Ulid::generate().to_string());
        }
        for next in 2..=limits::ATTEMPTS_MAX {
            let attempt = self.attempt(&call).await;
            let pause = match &attempt {
                Ok(answer) => retry::pause(answer.status, &answer.headers),
                Err(TransportError::Connect { .. }) => Some(retry::backoff(next)),
                Err(_) => None,
            };
            match pause.filter(|_| retry::is_repeatable(&call)) {
                Some(pause) => sleep(pause).await,
                None => return attempt.map(Answer::reply),
            }
        }
        self.attempt(&call).await.map(Answer::reply)
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    fn reply(self) -> HttpReply {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        HttpReply {
            status: self.status.as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: self.body.into(),
        }
    }
}

/// The URL without a trailing slash, if it is one of a server.
fn checked(url: &str) -> Result<String, SetupError> {
    let error = |reason| SetupError::Url { url: url.to_owned(), reason };
    let trimmed = url.trim_end_matches('/');
    let parsed: Uri = trimmed.parse().map_err(|_| error("write it like http://127.0.0.1:8480"))?;
    if !matches!(parsed.scheme_str(), Some("http" | "https")) {
        return Err(error("begin it with http:// or https://"));
    }
    if parsed.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(error("name a host, without user or password"));
    }
    if !matches!(parsed.path(), "" | "/") || parsed.query().is_some() {
        return Err(error("leave out the path: it is added by each call"));
    }
    Ok(trimmed.to_owned())
}

/// TLS that trusts the system's authorities and those of [`CA_FILE`].
fn tls() -> Result<rustls::ClientConfig, SetupError> {
    let mut roots = RootCertStore::empty();
    // Certificates that cannot be read leave their authorities untrusted, which is the safe side.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = env::var_os(CA_FILE).map(PathBuf::from) {
        let error = |reason: String| SetupError::CaFile { path: path.clone(), reason };
        let mut found = false;
        for der in CertificateDer::pem_file_iter(&path).map_err(|e| error(e.to_string()))? {
            let der = der.map_err(|e| error(e.to_string()))?;
            roots.add(der).map_err(|e| error(e.to_string()))?;
            found = true;
        }
        if !found {
            return Err(error("holds no certificate in PEM".to_owned()));
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SetupError::Tls(error.to_string()))?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
