//! Connections to the host of an upstream, kept alive between requests.
//!
//! A connection has no task of its own: whoever sends over it or reads from it drives it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use http::response::Parts as Head;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kernel::failure::{Category, Failure};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

use super::connection::Lost;
use super::serve::Caller;
use crate::address::{self, Resolver};
use crate::http::request::{Scheme, Target};
use crate::http::wire;
use crate::limits;

type Driver = Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>;

/// One connection.
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Driver,
    ended: bool,
}

/// Polls `future` and the connection that it waits for.
async fn drive<F: Future>(driver: &mut Driver, ended: &mut bool, future: F) -> F::Output {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(output);
        }
        // Its error is also that of the request or of the body, where it is reported.
        if !*ended && driver.as_mut().poll(cx).is_ready() {
            *ended = true;
        }
        future.as_mut().poll(cx)
    })
    .await
}

impl Connection {
    /// Whether it takes another request: the host may have closed it meanwhile.
    async fn ready(&mut self) -> bool {
        let Self { sender, driver, ended } = self;
        // Polled first, or an end that the host announced long ago goes unseen.
        let poll = std::future::poll_fn(|cx| {
            if !*ended && driver.as_mut().poll(cx).is_ready() {
                *ended = true;
            }
            Poll::Ready(())
        });
        poll.await;
        if *ended || drive(driver, ended, sender.ready()).await.is_err() {
            return false;
        }
        // It may have ended meanwhile.
        !*ended
    }
}

/// Where requests go, and the connections there that are not in use.
pub(super) struct Pool {
    target: Target,
    private: bool,
    resolver: Arc<dyn Resolver>,
    tls: Option<TlsConnector>,
    idle: Mutex<Vec<(Instant, Connection)>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("origin", &self.target.origin()).finish_non_exhaustive()
    }
}

impl Pool {
    pub(super) fn new(
        target: Target,
        private: bool,
        resolver: Arc<dyn Resolver>,
        tls: Option<TlsConnector>,
    ) -> Self {
        Self { target, private, resolver, tls, idle: Mutex::default() }
    }

    /// Sends `request`. Over a connection that broke it is sent again only where the host cannot
    /// have read it, or where `repeatable`.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut request: Request<Full<Bytes>>,
        repeatable: bool,
        caller: Option<&Caller>,
    ) -> Result<(Head, Body), Lost> {
        while let Some(mut connection) = self.take() {
            if !connection.ready().await {
                continue;
            }
            let again = repeatable.then(|| request.clone());
            request = match self.exchange(connection, request, caller).await {
                Ok(answer) => return Ok(answer),
                Err((_, Some(unsent))) => unsent,
                Err((lost, None)) => again.ok_or(lost)?,
            };
        }
        let connection = self.connect().await?;
        self.exchange(connection, request, caller).await.map_err(|(lost, _)| lost)
    }

    /// The error comes with the request where the host did not get any of it.
    async fn exchange(
        self: &Arc<Self>,
        mut connection: Connection,
        request: Request<Full<Bytes>>,
        caller: Option<&Caller>,
    ) -> Result<(Head, Body), (Lost, Option<Request<Full<Bytes>>>)> {
        if let Some(caller) = caller {
            caller.sending();
        }
        let Connection { sender, driver, ended } = &mut connection;
        match drive(driver, ended, sender.try_send_request(request)).await {
            Ok(response) => Ok(self.answer(connection, response)),
            Err(mut error) => {
                let unsent = error.take_message();
                if unsent.is_none() {
                    return Err((Lost::Unknown(lost(error.error())), None));
                }
                if let Some(caller) = caller {
                    caller.not_sent();
                }
                Err((Lost::NotSent(lost(error.error())), unsent))
            }
        }
    }

    fn answer(self: &Arc<Self>, connection: Connection, got: Response<Incoming>) -> (Head, Body) {
        let (head, incoming) = got.into_parts();
        let body = Body { incoming, connection: Some(connection), pool: Arc::clone(self) };
        (head, body)
    }

    fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some((since, connection)) = idle.pop() {
            if since.elapsed() < limits::MCP_IDLE_MAX {
                return Some(connection);
            }
            // The others are older still.
            idle.clear();
        }
        None
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < limits::MCP_IDLE_CONNECTIONS_MAX {
            idle.push((Instant::now(), connection));
        }
    }

    /// A new connection, to an address that was checked.
    async fn connect(&self) -> Result<Connection, Failure> {
        let Target { host, port, .. } = &self.target;
        let found = address::allowed(self.resolver.as_ref(), host, *port, self.private).await;
        let addresses = found.map_err(|refused| self.refused(&refused))?;
        let stream = wire::connect(&addresses).await?;
        // Requests are written whole: nothing is gained by waiting for more.
        stream.set_nodelay(true).map_err(|e| connect_failed(&e))?;
        match (self.target.scheme, &self.tls) {
            (Scheme::Http, _) => handshake(stream).await,
            (Scheme::Https, Some(tls)) => {
                let name = wire::server_name(&self.target)?;
                let stream = tls.connect(name, stream).await.map_err(|e| {
                    let message = format!("no TLS connection to {host}: {e}");
                    Failure::new(Category::Network, "tls_failed", message)
                })?;
                handshake(stream).await
            }
            (Scheme::Https, None) => Err(connect_failed(&"TLS is not set up")),
        }
    }

    /// Names no address: what a private name resolves to is not for everyone to learn.
    fn refused(&self, refused: &address::Refused) -> Failure {
        let host = &self.target.host;
        match refused {
            address::Refused::LookUp(why) => {
                let message = format!("no address found for {host}: {why}");
                Failure::new(Category::Network, "dns_failed", message)
            }
            address::Refused::Address => {
                let message = format!(
                    "{host} has an address that is not public: only an upstream with private: \
                     true may have one (a link-local address must be named as an address)"
                );
                Failure::new(Category::Permission, "address_not_granted", message)
            }
        }
    }
}

async fn handshake<S>(stream: S) -> Result<Connection, Failure>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, driver) = http1::Builder::new()
        .max_headers(limits::HEADERS_MAX)
        .max_buf_size(limits::RESPONSE_HEAD_BYTES_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| connect_failed(&e))?;
    Ok(Connection { sender, driver: Box::pin(driver), ended: false })
}

fn connect_failed(why: &dyn std::fmt::Display) -> Failure {
    Failure::new(Category::Network, "connect_failed", format!("cannot connect: {why}"))
}

fn lost(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        let message = format!("the MCP server's answer is not HTTP that Tally accepts: {error}");
        Failure::new(Category::Upstream, "answer_invalid", message).retryable(false)
    } else {
        let message = format!("the connection was lost after the request was sent: {error}");
        Failure::new(Category::Network, "connection_lost", message)
    }
}

/// The body of an answer. Read to its end it gives its connection back.
pub(super) struct Body {
    incoming: Incoming,
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Body {
    /// The next piece of it.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let Some(connection) = &mut self.connection else { return Ok(None) };
            let Connection { driver, ended, .. } = connection;
            match drive(driver, ended, self.incoming.frame()).await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => {
                    self.connection = None;
                    return Err(lost(&error));
                }
                None => {
                    if let Some(connection) = self.connection.take().filter(|c| !c.ended) {
                        self.pool.keep(connection);
                    }
                    return Ok(None);
                }
            }
        }
    }

    /// The whole of it, at most `max` bytes.
    pub(super) async fn whole(&mut self, max: usize) -> Result<Bytes, Failure> {
        let mut first = Bytes::new();
        let mut more: Vec<u8> = Vec::new();
        while let Some(data) = self.next().await? {
            if first.len().max(more.len()) + data.len() > max {
                self.connection = None;
                return Err(too_long(max));
            }
            if first.is_empty() && more.is_empty() {
                first = data;
                continue;
            }
            if more.is_empty() {
                more.extend_from_slice(&first);
            }
            more.extend_from_slice(&data);
        }
        Ok(if more.is_empty() { first } else { more.into() })
    }
}

/// A message of an upstream is larger than the limit.
pub(super) fn too_long(max: usize) -> Failure {
    let message = format!("the MCP server's answer has more than {max} bytes");
    Failure::new(Category::Permanent, "answer_too_long", message)
}
