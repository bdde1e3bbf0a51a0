//! How the authorization servers of upstreams are spoken to: at addresses that were checked, with
//! bounds, and without following anybody anywhere.

use std::fmt;
use std::sync::Arc;

use http::{Response, header};
use http_body_util::BodyExt as _;
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use rmcp::transport::auth::{OAuthHttpClient, OAuthHttpClientFuture, OAuthHttpRequest};
use tokio_rustls::TlsConnector;

use crate::address::{self, Reach, Refused, Resolver, reach};
use crate::http::Progress;
use crate::http::request::{Request, Scheme, Target, parse_url};
use crate::http::wire;
use crate::limits;
use crate::tools::Fault;

/// The client of authorization servers.
pub(super) struct Guarded {
    /// Whether they may be on this machine or its network.
    pub(super) private: bool,
    pub(super) resolver: Arc<dyn Resolver>,
    pub(super) tls: TlsConnector,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("private", &self.private).finish_non_exhaustive()
    }
}

/// A failure on its way through the OAuth library.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Stopped(pub(super) Failure);

impl OAuthHttpClient for Guarded {
    /// A redirect is an answer like any other: the library follows those of metadata within their
    /// origin, and nothing follows one with credentials.
    fn execute(&self, request: OAuthHttpRequest) -> OAuthHttpClientFuture<'_> {
        Box::pin(async move {
            let sent = self.send(request.request).await;
            sent.map_err(|failure| Box::new(Stopped(failure)) as Box<_>)
        })
    }
}

impl Guarded {
    /// Sends one request and reads all of its answer.
    pub(super) async fn send(
        &self,
        request: http::Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, Failure> {
        let (head, body) = request.into_parts();
        let target = Target::new(parse_url(&head.uri.to_string())?)?;
        let within = limits::OAUTH_TIMEOUT;
        let mut headers = head.headers;
        headers.entry(header::ACCEPT).or_insert(http::HeaderValue::from_static("application/json"));
        let request = Request {
            method: head.method,
            target,
            headers,
            body: Bytes::from(body),
            timeout: within,
            max_bytes: limits::OAUTH_ANSWER_BYTES_MAX,
        };
        let answer = tokio::time::timeout(within, self.exchange(&request)).await;
        answer.unwrap_or_else(|_| {
            let message = format!("no answer of {} in time", request.target.host);
            Err(Failure::new(Category::Timeout, "authorization_unreachable", message))
        })
    }

    async fn exchange(&self, request: &Request) -> Result<Response<Vec<u8>>, Failure> {
        let Target { scheme, host, port, .. } = &request.target;
        let found = address::allowed(self.resolver.as_ref(), host, *port, self.private).await;
        let addresses = found.map_err(|refused| match refused {
            Refused::LookUp(why) => {
                let message = format!("no address found for {host}: {why}");
                Failure::new(Category::Network, "dns_failed", message)
            }
            Refused::Address => {
                let message = format!(
                    "the authorization server {host} has an address that is not public: only an \
                     upstream with private: true may name one"
                );
                Failure::new(Category::Permission, "address_not_granted", message)
            }
        })?;
        // Credentials cross a network that is not one's own under TLS alone.
        let own = addresses.iter().all(|address| reach(address.ip()) == Reach::Private);
        if *scheme == Scheme::Http && !own {
            let message = format!("the authorization server {host} is to be reached by https://");
            return Err(Failure::new(Category::Permission, "authorization_insecure", message));
        }
        let progress = Progress::default();
        let lost = |fault| match fault {
            Fault::Failed(failure) | Fault::Unknown(failure) => failure,
        };
        let exchange = wire::exchange(&self.tls, request, &addresses, &progress).await;
        let wire::Exchange { response, connection } = exchange.map_err(lost)?;
        let (head, mut body) = response.into_parts();
        let mut bytes = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| lost(wire::lost(&error)))?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > request.max_bytes {
                let message = format!("the answer of {host} is too long");
                return Err(Failure::new(Category::Upstream, "answer_too_long", message));
            }
            bytes.extend_from_slice(data);
        }
        drop(connection);
        Ok(Response::from_parts(head, bytes))
    }
}
