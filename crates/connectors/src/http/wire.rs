//! One request on one connection to one of the addresses that were checked.

use std::net::SocketAddr;
use std::sync::Arc;

use http::{HeaderValue, Response, Uri, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kernel::failure::{Category, Failure};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Host;

use super::Progress;
use super::request::{Request, Scheme, Target};
use crate::limits;
use crate::tools::{Error, Fault};

/// An answer whose body is still to be read, and the connection that it comes from.
pub(crate) struct Exchange {
    pub(crate) response: Response<Incoming>,
    /// Ends with the exchange: connections are not reused.
    pub(crate) connection: AbortOnDropHandle<()>,
}

/// TLS that trusts the roots of the operating system and those in `extra_ca_pem`.
pub(crate) fn tls(extra_ca_pem: Option<&str>) -> Result<TlsConnector, Error> {
    let certificate = |e: &dyn std::fmt::Display| Error::Certificate(e.to_string());
    let mut roots = RootCertStore::empty();
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        tracing::warn!(%error, "a certificate authority of the system cannot be read");
    }
    roots.add_parsable_certificates(native.certs);
    let system = roots.len();
    for der in CertificateDer::pem_slice_iter(extra_ca_pem.unwrap_or_default().as_bytes()) {
        let der = der.map_err(|e| certificate(&e))?;
        roots.add(der).map_err(|e| certificate(&e))?;
    }
    if extra_ca_pem.is_some() && roots.len() == system {
        return Err(certificate(&"holds no certificate in PEM"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| certificate(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Sends `request` to the first of `addresses` that accepts a connection.
pub(crate) async fn exchange(
    tls: &TlsConnector,
    request: &Request,
    addresses: &[SocketAddr],
    progress: &Progress,
) -> Result<Exchange, Fault> {
    let stream = connect(addresses).await?;
    match request.target.scheme {
        Scheme::Http => send(stream, request, progress).await,
        Scheme::Https => {
            let name = server_name(&request.target)?;
            let stream = tls.connect(name, stream).await.map_err(|e| {
                let message = format!("no TLS connection to {}: {e}", request.target.host);
                Failure::new(Category::Network, "tls_failed", message)
            })?;
            send(stream, request, progress).await
        }
    }
}

/// A connection to the first of `addresses` that accepts one.
pub(crate) async fn connect(addresses: &[SocketAddr]) -> Result<TcpStream, Failure> {
    let mut why = String::from("there is no address");
    for address in addresses {
        match tokio::time::timeout(limits::CONNECT_TIMEOUT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => why = error.kind().to_string(),
            Err(_) => why = format!("no answer within {} s", limits::CONNECT_TIMEOUT.as_secs()),
        }
    }
    let message = format!("cannot connect: {why}");
    Err(Failure::new(Category::Network, "connect_failed", message))
}

/// What a certificate has to be for.
pub(crate) fn server_name(target: &Target) -> Result<ServerName<'static>, Failure> {
    match &target.host {
        Host::Domain(name) => ServerName::try_from(name.clone()).map_err(|_| {
            let message = "the URL's host is no name that a certificate can be for";
            Failure::new(Category::Validation, "url_invalid", message)
        }),
        Host::Ipv4(ip) => Ok(ServerName::IpAddress(std::net::IpAddr::V4(*ip).into())),
        Host::Ipv6(ip) => Ok(ServerName::IpAddress(std::net::IpAddr::V6(*ip).into())),
    }
}

async fn send<S>(stream: S, request: &Request, progress: &Progress) -> Result<Exchange, Fault>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let head = head(request)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::RESPONSE_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| {
            Failure::new(Category::Network, "connect_failed", format!("cannot connect: {e}"))
        })?;
    // Its error is also the error of the request or of the body, where it is reported.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _reported_there = connection.await;
    }));
    progress.sending();
    let response = sender.send_request(head).await.map_err(|e| lost(&e))?;
    Ok(Exchange { response, connection })
}

fn head(request: &Request) -> Result<http::Request<Full<Bytes>>, Failure> {
    let invalid = |e: &dyn std::fmt::Display| {
        Failure::new(Category::Validation, "url_invalid", format!("the URL cannot be sent: {e}"))
    };
    let target = &request.target;
    let uri: Uri = target.path_and_query().parse().map_err(|e| invalid(&e))?;
    let host = HeaderValue::from_str(&target.authority()).map_err(|e| invalid(&e))?;
    let mut head = http::Request::new(Full::new(request.body.clone()));
    *head.method_mut() = request.method.clone();
    *head.uri_mut() = uri;
    *head.headers_mut() = request.headers.clone();
    head.headers_mut().insert(header::HOST, host);
    head.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(head)
}

/// The request was sent, at least in part, and has no full answer.
pub(crate) fn lost(error: &hyper::Error) -> Fault {
    Fault::Unknown(if error.is_parse() {
        let message = format!("the host's answer is not HTTP that Tally accepts: {error}");
        Failure::new(Category::Upstream, "answer_invalid", message).retryable(false)
    } else {
        let message = format!("the connection was lost after the request was sent: {error}");
        Failure::new(Category::Network, "connection_lost", message)
    })
}
