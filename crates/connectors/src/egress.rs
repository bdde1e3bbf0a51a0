//! The one way out of a sandbox: one request to a host that is granted, at an address that was
//! checked.
//!
//! The URL is read once, by the same parser that says what an odd spelling of an address means, and
//! all that follows works on what was read. A name is looked up once; the connection is made to an
//! address of that answer, each of which must be allowed. Redirects are for the code to see: where
//! one leads is asked for, and judged, anew.

mod body;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body as _, Bytes};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kernel::capability::Network;
use kernel::failure::Failure;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;
use url::Host;

use self::body::{Answer, Upload};
use crate::address::{self, Reach, Refused, Resolver, reach};
use crate::http::request::{Scheme, Target, parse_url};
use crate::http::wire;
use crate::limits;
use crate::tools::Error;

/// A body on its way.
pub type EgressBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request did not go out or has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EgressError {
    /// Stable and lower-case.
    pub code: String,
    /// What is wrong. Names no address that a name leads to.
    pub message: String,
    /// Whether it was not granted, and so did not go out.
    pub denied: bool,
}

impl EgressError {
    fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), denied: false }
    }

    fn denied(code: &str, message: impl Into<String>) -> Self {
        Self { denied: true, ..Self::new(code, message) }
    }
}

impl From<Failure> for EgressError {
    fn from(failure: Failure) -> Self {
        Self::new(&failure.code, failure.message)
    }
}

/// Sends requests where a grant allows it.
pub struct GuardedEgress {
    resolver: Arc<dyn Resolver>,
    tls: TlsConnector,
}

impl std::fmt::Debug for GuardedEgress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedEgress").field("resolver", &self.resolver).finish_non_exhaustive()
    }
}

impl GuardedEgress {
    /// Trusts the roots of the operating system and those in `extra_ca_pem`.
    pub fn new(resolver: Arc<dyn Resolver>, extra_ca_pem: Option<&str>) -> Result<Self, Error> {
        Ok(Self { resolver, tls: wire::tls(extra_ca_pem)? })
    }

    /// Sends one request where `network` allows its host, port and address. The answer is whatever
    /// the host says, redirects included.
    pub async fn send(
        &self,
        network: &Network,
        request: Request<EgressBody>,
    ) -> Result<Response<EgressBody>, EgressError> {
        let target = Target::new(parse_url(&request.uri().to_string())?)?;
        if matches!(*request.method(), Method::CONNECT | Method::TRACE) {
            let message = format!("{} is not a request to a host", request.method());
            return Err(EgressError::denied("method_refused", message));
        }
        let request = outgoing(request, &target)?;
        let addresses = self.addresses(network, &target).await?;
        let within = limits::EGRESS_HEAD_TIMEOUT;
        match timeout(within, self.exchange(&target, &addresses, request)).await {
            Ok(answer) => answer,
            Err(_) => {
                let message = format!("no answer within {} s", within.as_secs());
                Err(EgressError::new("timeout", message))
            }
        }
    }

    /// The addresses of a host that is granted, every one of them allowed.
    async fn addresses(
        &self,
        network: &Network,
        target: &Target,
    ) -> Result<Vec<SocketAddr>, EgressError> {
        let Target { host, port, .. } = target;
        if !network.allows(&host.to_string(), *port) {
            let message = format!(
                "the network is not granted for {host} port {port}: have {} added to \
                 network.allowlist",
                named(host, *port)
            );
            return Err(EgressError::denied("host_not_granted", message));
        }
        let literal = !matches!(host, Host::Domain(_));
        let allowed = |ip: IpAddr| {
            let granted = network.allows_address(ip, *port);
            !network.denies(ip)
                && match reach(ip) {
                    Reach::Public => true,
                    Reach::Private => granted,
                    Reach::Link => granted && literal,
                    Reach::Never => false,
                }
        };
        let looking = address::allowed_by(self.resolver.as_ref(), host, *port, allowed);
        let found = timeout(limits::EGRESS_LOOKUP_TIMEOUT, looking).await;
        let found = found.unwrap_or_else(|_| Err(Refused::LookUp("no answer in time".to_owned())));
        found.map_err(|refused| match refused {
            Refused::Address => {
                let message = format!(
                    "{host} has an address that is denied or not public: a private one must be in \
                     network.allowlist as an address"
                );
                EgressError::denied("address_not_granted", message)
            }
            Refused::LookUp(why) => {
                EgressError::new("dns_failed", format!("no address found for {host}: {why}"))
            }
        })
    }

    async fn exchange(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        request: Request<Upload>,
    ) -> Result<Response<EgressBody>, EgressError> {
        let stream = wire::connect(addresses).await?;
        match target.scheme {
            Scheme::Http => answer(stream, request).await,
            Scheme::Https => {
                let name = wire::server_name(target)?;
                let stream = self.tls.connect(name, stream).await.map_err(|e| {
                    let message = format!("no TLS connection to {}: {e}", target.host);
                    EgressError::new("tls_failed", message)
                })?;
                answer(stream, request).await
            }
        }
    }
}

/// How an allowlist names a host.
fn named(host: &Host, port: u16) -> String {
    match port {
        443 => host.to_string(),
        port => format!("{host}:{port}"),
    }
}

/// The request as it is sent: to what was read of its URL, framed by us.
fn outgoing(request: Request<EgressBody>, target: &Target) -> Result<Request<Upload>, EgressError> {
    let (mut head, body) = request.into_parts();
    let invalid = |e: &dyn std::fmt::Display| {
        EgressError::new("url_invalid", format!("the URL cannot be sent: {e}"))
    };
    let uri: Uri = target.path_and_query().parse().map_err(|e| invalid(&e))?;
    let host = HeaderValue::from_str(&target.authority()).map_err(|e| invalid(&e))?;
    let bytes: usize = head.headers.iter().map(|(name, v)| name.as_str().len() + v.len()).sum();
    if head.headers.len() > limits::HEADERS_MAX || bytes > limits::HEADER_BYTES_MAX {
        let (count, bytes) = (limits::HEADERS_MAX, limits::HEADER_BYTES_MAX);
        let message = format!("send at most {count} headers of together {bytes} bytes");
        return Err(EgressError::new("header_refused", message));
    }
    if body.size_hint().lower() > limits::EGRESS_REQUEST_BYTES_MAX {
        return Err(EgressError::new("body_too_long", body::UPLOAD_TOO_LONG));
    }
    end_to_end(&mut head.headers);
    head.headers.remove(header::EXPECT);
    head.headers.insert(header::HOST, host);
    head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let mut sent = Request::new(Upload::new(body));
    *sent.method_mut() = head.method;
    *sent.uri_mut() = uri;
    *sent.headers_mut() = head.headers;
    Ok(sent)
}

/// Takes away what is of one connection and not of the message.
fn end_to_end(headers: &mut HeaderMap) {
    const OF_A_CONNECTION: [&str; 6] =
        ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        .collect();
    let proxy: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("proxy-")).cloned().collect();
    for name in named.iter().chain(&proxy) {
        headers.remove(name);
    }
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

/// One request and its answer, on a connection of its own.
async fn answer<S>(stream: S, request: Request<Upload>) -> Result<Response<EgressBody>, EgressError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::Builder::new()
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::RESPONSE_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| EgressError::new("connect_failed", format!("cannot connect: {e}")))?;
    // Its error is also the error of the request or of the body, where it is reported.
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        let _reported_there = connection.await;
    }));
    let response = sender.send_request(request).await.map_err(|e| lost(&e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let message = "the host switches to a protocol that was not asked for";
        return Err(EgressError::new("answer_invalid", message));
    }
    let (mut head, body) = response.into_parts();
    end_to_end(&mut head.headers);
    head.extensions.clear();
    Ok(Response::from_parts(head, Answer::new(body, connection).boxed_unsync()))
}

fn lost(error: &hyper::Error) -> EgressError {
    let too_long = std::error::Error::source(error)
        .and_then(|source| source.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::FileTooLarge);
    if too_long {
        EgressError::new("body_too_long", body::UPLOAD_TOO_LONG)
    } else if error.is_parse() {
        let message = format!("the host's answer is not HTTP that Tally accepts: {error}");
        EgressError::new("answer_invalid", message)
    } else {
        EgressError::new("connection_lost", format!("the connection was lost: {error}"))
    }
}
