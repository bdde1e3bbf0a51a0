//! The system that the agent wants to change: a small HTTP server that remembers what it was sent.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Bytes of a request's body that are taken.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// Each request that came, as `POST /orders {"…"}`.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: String) -> usize {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
        lines.len()
    }

    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The server. It ends when it is dropped.
pub(super) struct Target {
    pub(super) address: SocketAddr,
    log: Log,
    serving: AbortHandle,
}

impl Target {
    /// Listens on a free port of the loopback interface.
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let log = Log::default();
        let serving = tokio::spawn(serve(listener, log.clone())).abort_handle();
        Ok(Self { address, log, serving })
    }

    /// What it was sent so far.
    pub(super) fn received(&self) -> Vec<String> {
        self.log.lines()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, log: Log) {
    // An error of accept ends the target; the call that then fails says so.
    while let Ok((stream, _)) = listener.accept().await {
        let log = log.clone();
        let service = service_fn(move |request| answer(request, log.clone()));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // The caller sees a broken connection itself.
        tokio::spawn(async move { connection.await.is_ok() });
    }
}

async fn answer(request: Request<Incoming>, log: Log) -> Result<Response<Full<Bytes>>, Infallible> {
    let line = format!("{} {}", request.method(), request.uri().path());
    let (status, body) = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            let nth = log.add(format!("{line} {body}").trim_end().to_owned());
            (StatusCode::CREATED, format!("{{\"order\":{nth}}}"))
        }
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    Ok(response)
}
