//! A system that tools act upon: it remembers every request, and misbehaves where it is told to.

use std::collections::{BTreeSet, HashMap};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use proto::actions::SubmitActionRequest;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::action;

/// A request that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Its Idempotency-Key, or the id that it has as a webhook.
    pub(crate) key: Option<String>,
}

#[derive(Default)]
struct Seen {
    deliveries: Vec<Delivery>,
    /// When each of them came.
    arrivals: Vec<Instant>,
    /// How many came for each path.
    paths: HashMap<String, usize>,
}

type SharedSeen = Arc<Mutex<Seen>>;

/// What is answered of that which waits.
#[derive(Default)]
struct Gate {
    all: bool,
    paths: BTreeSet<String>,
}

impl Gate {
    fn lets(&self, path: &str) -> bool {
        self.all || self.paths.contains(path)
    }
}

/// The system. The first part of a path says how it answers: `/unavailable/…` 503 twice, then
/// 200; `/limited/…` 429 once with `Retry-After: 2`, then 200; `/broken/…` 500; `/lacking/…` 501;
/// `/drop/…` not at all, and closes; `/silent/…` not at all the first time, then 200; `/waits/…`
/// 200 once [`Target::let_go`] or [`Target::release`] says so; `/to/PORT` sends on to `/sent`
/// there, and `/to/metadata` to where clouds serve credentials; `/echo` with what it was sent;
/// anything else 200.
pub(crate) struct Target {
    address: SocketAddr,
    seen: SharedSeen,
    gate: watch::Sender<Gate>,
    serving: AbortHandle,
}

impl Target {
    pub(crate) async fn start() -> Self {
        Self::slow(Duration::ZERO).await
    }

    /// One that takes its time for an answer, up to `pause`, after it has done what it was asked.
    pub(crate) async fn slow(pause: Duration) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), pause)
    }

    /// One at this address; none where that is taken.
    pub(crate) async fn at(address: (Ipv4Addr, u16)) -> Option<Self> {
        let listener = TcpListener::bind(address).await.ok()?;
        Some(Self::on(listener, Duration::ZERO))
    }

    fn on(listener: TcpListener, pause: Duration) -> Self {
        let address = listener.local_addr().unwrap();
        let seen = SharedSeen::default();
        let (gate, gated) = watch::channel(Gate::default());
        let serving = tokio::spawn(serve(listener, seen.clone(), pause, gated)).abort_handle();
        Self { address, seen, gate, serving }
    }

    /// The leave to call it, an item of `grants.http`.
    pub(crate) fn grant(&self) -> String {
        format!("{{host: {}, port: {}, private: true}}", self.address.ip(), self.address.port())
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// An action that calls it.
    pub(crate) fn call(&self, method: &str, path: &str) -> SubmitActionRequest {
        let url = format!("http://{}{path}", self.address);
        let mut call = action("core.http_call", &json!({"method": method, "url": url}));
        call.wait_ms = Some(60_000);
        call
    }

    /// Every request so far, in the order of their arrival.
    pub(crate) fn seen(&self) -> Vec<Delivery> {
        self.seen.lock().unwrap().deliveries.clone()
    }

    /// When each request for `path` came.
    pub(crate) fn arrivals(&self, path: &str) -> Vec<Instant> {
        let seen = self.seen.lock().unwrap();
        let each = seen.deliveries.iter().zip(&seen.arrivals);
        each.filter(|(delivery, _)| delivery.path == path).map(|(_, at)| *at).collect()
    }

    /// Waits until a request for `path` has come.
    pub(crate) async fn asked(&self, path: &str) {
        let end = Instant::now() + super::PATIENCE;
        while self.arrivals(path).is_empty() {
            assert!(Instant::now() < end, "nobody asks for {path}");
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
    }

    /// Waits until `path` was called so often, and gives the keys that it was called with.
    pub(crate) async fn keys(&self, path: &str, times: usize) -> Vec<String> {
        let end = Instant::now() + super::PATIENCE;
        loop {
            let seen = self.seen().into_iter().filter(|delivery| delivery.path == path);
            let keys: Vec<String> = seen.map(|delivery| delivery.key.unwrap()).collect();
            if keys.len() >= times {
                return keys;
            }
            assert!(Instant::now() < end, "{path} is not called again: {keys:?}");
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
    }

    /// Waits until so many requests have come.
    pub(crate) async fn busy(&self, requests: usize) {
        let end = Instant::now() + super::PATIENCE;
        while self.seen.lock().unwrap().deliveries.len() < requests {
            assert!(Instant::now() < end, "{requests} requests never come");
            tokio::time::sleep(super::LOOK_EVERY).await;
        }
    }

    /// Answers what is held, and whatever comes after it.
    pub(crate) fn let_go(&self) {
        self.gate.send_modify(|gate| gate.all = true);
    }

    /// Answers what is held for one path, and whatever else comes for that.
    pub(crate) fn release(&self, path: &str) {
        self.gate.send_modify(|gate| {
            gate.paths.insert(path.to_owned());
        });
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(
    listener: TcpListener,
    seen: SharedSeen,
    pause: Duration,
    gate: watch::Receiver<Gate>,
) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (seen, gate) = (seen.clone(), gate.clone());
        let service = service_fn(move |request| answer(request, seen.clone(), pause, gate.clone()));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // Connections break here on purpose.
        tokio::spawn(async move { connection.await.is_ok() });
    }
}

async fn answer(
    request: Request<Incoming>,
    seen: SharedSeen,
    pause: Duration,
    mut gate: watch::Receiver<Gate>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let path = request.uri().path().to_owned();
    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    let key = header("idempotency-key").or_else(|| header("webhook-id"));
    let delivery = Delivery { method: request.method().to_string(), path: path.clone(), key };
    let (nth, total) = {
        let mut seen = seen.lock().unwrap();
        seen.deliveries.push(delivery);
        seen.arrivals.push(Instant::now());
        let nth = seen.paths.entry(path.clone()).or_default();
        *nth += 1;
        (*nth, seen.deliveries.len())
    };
    let sent = request.into_body().collect().await.map_err(|_| "the request broke off")?.to_bytes();
    // Some answers come at once and some late.
    tokio::time::sleep(pause * u32::try_from(total % 8).unwrap() / 7).await;
    let response = Response::builder();
    let response = match path.split('/').nth(1).unwrap() {
        "echo" => return Ok(Response::new(Full::new(sent))),
        "drop" => return Err("closed without an answer"),
        "silent" if nth == 1 => std::future::pending().await,
        "waits" => {
            gate.wait_for(|gate| gate.lets(&path)).await.map_err(|_| "the test is over")?;
            response.status(200)
        }
        "unavailable" if nth <= 2 => response.status(503),
        "limited" if nth == 1 => response.status(429).header("retry-after", "2"),
        "broken" => response.status(500),
        "lacking" => response.status(501),
        "to" => {
            let location = match path.split('/').nth(2).unwrap() {
                "metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
                port => format!("http://127.0.0.1:{port}/sent"),
            };
            response.status(302).header("location", location)
        }
        _ => response.status(200),
    };
    Ok(response.body(Full::new(Bytes::from(format!("answer {nth}")))).unwrap())
}
