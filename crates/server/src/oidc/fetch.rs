//! Calls to providers: small answers, soon, and from the host that was named.

use std::sync::Arc;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::Url;

use crate::limits;

/// Sends requests to providers. It follows no redirect and keeps no connection.
#[derive(Clone, Debug)]
pub(super) struct Fetch(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

/// What a provider answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl Fetch {
    /// TLS trusts the roots of the operating system and those in `extra_ca_pem`.
    pub(super) fn new(extra_ca_pem: Option<&str>) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        // Certificates that cannot be read leave their authorities untrusted: the safe side.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        for der in CertificateDer::pem_slice_iter(extra_ca_pem.unwrap_or_default().as_bytes()) {
            let der = der.map_err(|error| error.to_string())?;
            roots.add(der).map_err(|error| error.to_string())?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let mut builder = Client::builder(TokioExecutor::new());
        Ok(Self(builder.pool_max_idle_per_host(0).build(connector)))
    }

    /// Reads `url`, with an access token where there is one.
    pub(super) async fn get(&self, url: &Url, bearer: Option<&str>) -> Result<Answer, String> {
        let authorization = bearer.map(|token| format!("Bearer {token}"));
        self.send(Method::GET, url, authorization, None).await
    }

    /// Sends a form to `url`.
    pub(super) async fn post(
        &self,
        url: &Url,
        authorization: Option<String>,
        form: String,
    ) -> Result<Answer, String> {
        self.send(Method::POST, url, authorization, Some(form)).await
    }

    async fn send(
        &self,
        method: Method,
        url: &Url,
        authorization: Option<String>,
        form: Option<String>,
    ) -> Result<Answer, String> {
        let mut request =
            Request::builder().method(method).uri(url.as_str()).header(ACCEPT, "application/json");
        if let Some(text) = authorization {
            let mut value = HeaderValue::try_from(text).map_err(|error| error.to_string())?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if form.is_some() {
            request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        }
        let request = request
            .body(Full::new(Bytes::from(form.unwrap_or_default())))
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.0.request(request).await.map_err(|error| innermost(&error))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, limits::PROVIDER_ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| innermost(error.as_ref()))?.to_bytes();
            Ok(Answer { status: head.status, body })
        };
        let answered = tokio::time::timeout(limits::PROVIDER_TIMEOUT, exchange).await;
        let seconds = limits::PROVIDER_TIMEOUT.as_secs();
        answered.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
    }
}

/// The first cause, which says most.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
