//! Requests as they are on the wire: any header, any body, no repetitions.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::routes::{ROUTES, Route};
use serde_json::Value;

/// An answer that takes longer counts as none.
const ANSWER_TIME: Duration = Duration::from_secs(90);

/// Sends requests to one server.
#[derive(Clone, Debug)]
pub(crate) struct Wire {
    url: String,
    pool: Pool<HttpConnector, Full<Bytes>>,
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    wire: Wire,
    method: String,
    path: String,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Wire {
    pub(crate) fn new(url: &str) -> Self {
        let pool = Pool::builder(TokioExecutor::new()).build(HttpConnector::new());
        Self { url: url.to_owned(), pool }
    }

    /// One that speaks HTTP/2 on one connection.
    pub(crate) fn http2(url: &str) -> Self {
        let mut pool = Pool::builder(TokioExecutor::new());
        let pool = pool.http2_only(true).build(HttpConnector::new());
        Self { url: url.to_owned(), pool }
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Ask {
        let (method, path) = (method.to_owned(), path.to_owned());
        Ask { wire: self.clone(), method, path, headers: HeaderMap::new(), body: Vec::new() }
    }

    /// A request with a key, and with a new idempotency key where it is no GET.
    pub(crate) fn ask_as(&self, key: &str, method: &str, path: &str) -> Ask {
        let ask = self.ask(method, path).header("x-api-key", key);
        if method == "GET" { ask } else { ask.idempotency(&fresh("any")) }
    }
}

impl Ask {
    pub(crate) fn header(self, name: &str, value: &str) -> Self {
        self.bytes_header(name, value.as_bytes())
    }

    pub(crate) fn bytes_header(mut self, name: &str, value: &[u8]) -> Self {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value).unwrap());
        self
    }

    pub(crate) fn idempotency(mut self, key: &str) -> Self {
        self.headers.insert("idempotency-key", HeaderValue::from_str(key).unwrap());
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.bytes(body.to_string())
    }

    /// A body of no type.
    pub(crate) fn raw(self, body: impl Into<Vec<u8>>) -> Self {
        Self { body: body.into(), ..self }
    }

    pub(crate) fn bytes(self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        Self { body, ..self }.header("content-type", "application/json")
    }

    /// Sends it. No answer at all fails the test.
    pub(crate) async fn send(self) -> Reply {
        let what = format!("{} {}", self.method, self.path);
        match tokio::time::timeout(ANSWER_TIME, self.try_send()).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(error)) => panic!("{what}: no answer: {error}"),
            Err(_) => panic!("{what}: no answer in {ANSWER_TIME:?}"),
        }
    }

    /// Sends it; the error says why there is no answer.
    pub(crate) async fn try_send(self) -> Result<Reply, String> {
        let mut request = Request::builder()
            .method(self.method.as_str())
            .uri(format!("{}{}", self.wire.url, self.path))
            .body(Full::new(Bytes::from(self.body)))
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = self.headers;
        let sent = self.wire.pool.request(request).await;
        let (head, body) = sent.map_err(|error| format!("{error:?}"))?.into_parts();
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}

impl Reply {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of an answer that must be 2xx.
    #[track_caller]
    pub(crate) fn good(&self) -> Value {
        assert!((200..300).contains(&self.status), "{} {}", self.status, self.text());
        self.json()
    }

    /// The code of a refusal.
    #[track_caller]
    pub(crate) fn code(&self) -> String {
        self.error()["code"].as_str().unwrap().to_owned()
    }

    /// The error of a refusal, which must have the one shape that all have.
    #[track_caller]
    pub(crate) fn error(&self) -> Value {
        assert!(self.status >= 400, "{} {}", self.status, self.text());
        assert_eq!(self.header("content-type"), "application/json", "{}", self.text());
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        let error = &body["error"];
        for field in ["code", "category", "message", "request_id"] {
            assert!(error[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {body}");
        }
        let code = error["code"].as_str().unwrap();
        assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{body}");
        assert!(error["retryable"].is_boolean(), "{body}");
        assert_eq!(error["request_id"], self.header("x-request-id"), "{body}");
        error.clone()
    }
}

/// A text that was not used before, and begins no other one.
pub(crate) fn fresh(prefix: &str) -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}-{:06}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Every REST path with its route, in both spellings.
pub(crate) fn paths() -> impl Iterator<Item = (&'static Route, &'static str)> {
    let all = |route: &'static Route| std::iter::once(&route.path).chain(route.aliases);
    ROUTES.iter().flat_map(move |route| all(route).map(move |path| (route, *path)))
}

/// The path with `value` of each `{name}` in it.
pub(crate) fn fill(path: &str, value: impl Fn(&str) -> String) -> String {
    let part = |part: &str| match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        Some(name) => value(name.trim_start_matches('*')),
        None => part.to_owned(),
    };
    path.split('/').map(part).collect::<Vec<_>>().join("/")
}
