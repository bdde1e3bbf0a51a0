//! What the simulators of ServiceNow and Slack share: HTTP on this machine alone. Each of their
//! answers says that a simulator gave it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER, SERVER};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// Bytes of a request.
const BODY_BYTES_MAX: usize = 1 << 20;
/// What every answer has, so that nobody takes it for the real thing.
const LABEL: HeaderName = HeaderName::from_static("x-simulator");

/// A request.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: Vec<(String, String)>,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Asked {
    /// A header as text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// A parameter of the query.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Its body as JSON; the error is a sentence.
    pub(super) fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|error| error.to_string())
    }

    /// Its body as a form.
    pub(super) fn form(&self) -> Vec<(String, String)> {
        form_urlencoded::parse(&self.body).into_owned().collect()
    }

    /// The token after `Bearer`, or what another scheme of `Authorization` carries.
    pub(super) fn authorization(&self, scheme: &str) -> Option<&str> {
        let (named, rest) = self.header("authorization")?.split_once(' ')?;
        named.eq_ignore_ascii_case(scheme).then_some(rest.trim())
    }
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    kind: &'static str,
    body: String,
    headers: Vec<(HeaderName, String)>,
}

impl Answer {
    /// A document with 200.
    pub(super) fn json(value: &Value) -> Self {
        let kind = "application/json;charset=UTF-8";
        Self { status: 200, kind, body: value.to_string(), headers: Vec::new() }
    }

    /// A page for people.
    pub(super) fn page(body: String) -> Self {
        Self { status: 200, kind: "text/html;charset=UTF-8", body, headers: Vec::new() }
    }

    /// The same with another status.
    pub(super) fn with(self, status: u16) -> Self {
        Self { status, ..self }
    }

    /// The same with a header.
    pub(super) fn header(mut self, name: &'static str, value: String) -> Self {
        self.headers.push((HeaderName::from_static(name), value));
        self
    }

    /// The same with the time after which to ask again.
    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.push((RETRY_AFTER, seconds.to_string()));
        self
    }

    /// The same with where a new record is.
    pub(super) fn location(mut self, url: String) -> Self {
        self.headers.push((LOCATION, url));
        self
    }

    fn response(self, name: &'static str, server: &'static str) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(Bytes::from(self.body)));
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.kind));
        headers.insert(SERVER, HeaderValue::from_static(server));
        headers.insert(LABEL, HeaderValue::from_static(name));
        for (name, value) in self.headers {
            // What is no header is left out: it came from a script.
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(name, value);
            }
        }
        response
    }
}

/// A simulated system.
pub(super) trait Site: Send + Sync + 'static {
    /// What it calls itself in the header `x-simulator`: a sentence of one line.
    const NAME: &'static str;
    /// What it calls itself in the header `server`.
    const SERVER: &'static str;

    /// Answers a request. None breaks the connection.
    fn answer(self: Arc<Self>, asked: Asked) -> impl Future<Output = Option<Answer>> + Send;

    /// Whether each request is a line on standard error.
    fn logs(&self) -> bool;
}

/// A simulator that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    serving: AbortHandle,
}

impl Running {
    pub(super) fn new(address: SocketAddr, serving: AbortHandle) -> Self {
        Self { address, serving }
    }

    /// Its base URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Listens at `address`, which is of this machine alone.
pub(super) async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    if !address.ip().is_loopback() {
        bail!("--listen: {address} is not of this machine alone: write 127.0.0.1 or [::1]");
    }
    let listener = TcpListener::bind(address).await;
    listener.with_context(|| format!("cannot listen on {address}"))
}

/// Serves in the background.
pub(super) fn start<S: Site>(listener: TcpListener, site: Arc<S>) -> anyhow::Result<Running> {
    let address = listener.local_addr()?;
    let serving = tokio::spawn(serve(listener, site)).abort_handle();
    Ok(Running::new(address, serving))
}

/// Serves for ever.
pub(super) async fn serve<S: Site>(listener: TcpListener, site: Arc<S>) -> anyhow::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        // Without this, answers wait for the acknowledgement of what was sent before.
        stream.set_nodelay(true)?;
        let site = site.clone();
        let service = service_fn(move |request| respond(site.clone(), request));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A client that goes away, and a script that breaks the connection, end it alike.
            let _ended = connection.await;
        });
    }
}

async fn respond<S: Site>(
    site: Arc<S>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let (head, body) = request.into_parts();
    let line = format!("{}: {} {}", S::SERVER, head.method, head.uri.path());
    let query = head.uri.query().unwrap_or_default();
    let query = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    let path = head.uri.path().to_owned();
    let logs = site.logs();
    let answer = match Limited::new(body, BODY_BYTES_MAX).collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            let asked = Asked { method: head.method, path, query, headers: head.headers, body };
            site.answer(asked).await
        }
        Err(_) => Some(Answer::json(&Value::Null).with(413)),
    };
    if logs {
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        eprintln!("{line} {status}");
    }
    let answer = answer.ok_or("the script breaks the connection")?;
    Ok(answer.response(S::NAME, S::SERVER))
}

/// Waits as a script has it.
pub(super) async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}
