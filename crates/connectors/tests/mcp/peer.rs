//! Servers over HTTP: each request is answered as a test says, and remembered.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::response::Response;
use connectors::mcp::{Revision, Spec, Transport};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Got {
    /// Which connection it came over.
    pub(crate) port: u16,
    pub(crate) method: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Value,
}

impl Got {
    pub(crate) fn rpc(&self) -> &str {
        self.body["method"].as_str().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The answer with `result`.
    pub(crate) fn result(&self, result: Value) -> Answer {
        let body = json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result});
        Answer::json(200, body)
    }

    /// The answer with an error.
    pub(crate) fn error(&self, status: u16, code: i64) -> Answer {
        let error = json!({"code": code, "message": "no"});
        Answer::json(status, json!({"jsonrpc": "2.0", "id": self.body["id"], "error": error}))
    }

    pub(crate) fn message(&self, result: Value) -> Value {
        json!({"jsonrpc": "2.0", "id": self.body["id"], "result": result})
    }
}

/// What is answered.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Piece,
}

#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Whole(String),
    /// Pieces with a pause before each but the first; then the end, or never one.
    Stream {
        pieces: Vec<String>,
        pause: Duration,
        endless: bool,
    },
}

impl Answer {
    pub(crate) fn json(status: u16, body: Value) -> Self {
        Self::of(status, "application/json", body.to_string())
    }

    pub(crate) fn of(status: u16, kind: &str, body: String) -> Self {
        let headers = vec![("content-type", kind.to_owned())];
        Self { status, headers, body: Piece::Whole(body) }
    }

    pub(crate) fn empty(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Piece::Whole(String::new()) }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// A stream of events.
    pub(crate) fn events(pieces: Vec<String>, endless: bool) -> Self {
        let headers = vec![("content-type", "text/event-stream".to_owned())];
        let pause = Duration::from_millis(5);
        Self { status: 200, headers, body: Piece::Stream { pieces, pause, endless } }
    }

    fn response(self) -> Response {
        let mut response = Response::builder().status(self.status);
        for (name, value) in self.headers {
            response = response.header(name, value);
        }
        let body = match self.body {
            Piece::Whole(text) => Body::from(text),
            Piece::Stream { pieces, pause, endless } => {
                let pieces = tokio_stream::iter(pieces.into_iter().map(Bytes::from));
                let pieces = pieces.then(move |piece| async move {
                    tokio::time::sleep(pause).await;
                    piece
                });
                if endless {
                    Body::from_stream(pieces.chain(tokio_stream::pending()).map(infallible))
                } else {
                    Body::from_stream(pieces.map(infallible))
                }
            }
        };
        response.body(body).unwrap()
    }
}

fn infallible(bytes: Bytes) -> Result<Bytes, Infallible> {
    Ok(bytes)
}

/// One event.
pub(crate) fn event(message: &Value) -> String {
    format!("event: message\ndata: {message}\n\n")
}

/// A running server.
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Peer {
    /// Serves what `answer` says, or nothing more than the honest server of `revision` does.
    pub(crate) async fn start(
        revision: Revision,
        answer: impl Fn(&Got) -> Option<Answer> + Send + Sync + 'static,
    ) -> Self {
        let got: Arc<Mutex<Vec<Got>>> = Arc::default();
        let (kept, answer) = (Arc::clone(&got), Arc::new(answer));
        let app = Router::new().fallback(move |request: Request| {
            let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
            async move {
                let got = read(request).await;
                kept.lock().unwrap().push(got.clone());
                answer(&got).unwrap_or_else(|| honest(revision, &got)).response()
            }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let app = app.into_make_service_with_connect_info::<SocketAddr>();
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self { address, got, serving }
    }

    pub(crate) fn spec(&self) -> Spec {
        super::spec(self.transport(BTreeMap::new()))
    }

    pub(crate) fn transport(&self, headers: BTreeMap<String, String>) -> Transport {
        Transport::Http { url: format!("http://{}/mcp", self.address), headers, private: true }
    }

    /// The requests so far whose JSON-RPC method is `method`.
    pub(crate) fn got(&self, method: &str) -> Vec<Got> {
        let got = self.got.lock().unwrap();
        got.iter().filter(|got| got.rpc() == method).cloned().collect()
    }

    pub(crate) fn all(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

async fn read(request: Request) -> Got {
    let (head, body) = request.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
    let headers = head.headers.iter().map(|(name, value)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let ConnectInfo(from) = head.extensions.get::<ConnectInfo<SocketAddr>>().unwrap();
    Got {
        port: from.port(),
        method: head.method.to_string(),
        headers: headers.collect(),
        body: serde_json::from_slice(&body).unwrap_or(Value::Null),
    }
}

/// What a decent server answers.
pub(crate) fn honest(revision: Revision, got: &Got) -> Answer {
    let capabilities = json!({"tools": {}, "resources": {}, "prompts": {}});
    let modern = revision == Revision::V2026_07_28;
    match (got.method.as_str(), got.rpc()) {
        ("POST", "server/discover") if modern => got.result(json!({
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": capabilities,
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "peer", "version": "1"}},
        })),
        ("POST", "initialize") if !modern => {
            let result = got.result(json!({
                "protocolVersion": "2025-11-25",
                "capabilities": capabilities,
                "serverInfo": {"name": "peer", "version": "1"},
            }));
            result.with("mcp-session-id", "s-1")
        }
        ("POST", _) if !modern && got.header("mcp-session-id").is_none() => Answer::empty(400),
        ("POST", "tools/list") => got.result(json!({"tools": [
            {"name": "echo", "inputSchema": {"type": "object"}},
        ]})),
        ("POST", "resources/list") => {
            got.result(json!({"resources": [{"uri": "a:1", "name": "a"}]}))
        }
        ("POST", "resources/templates/list") => got.result(json!({"resourceTemplates": []})),
        ("POST", "prompts/list") => got.result(json!({"prompts": [{"name": "p"}]})),
        ("POST", "tools/call") => got.result(json!({
            "content": [],
            "structuredContent": got.body["params"]["arguments"],
            "_meta": got.body["params"]["_meta"],
        })),
        ("POST", _) if got.body.get("id").is_none() => Answer::empty(202),
        ("POST", _) => got.error(if modern { 404 } else { 200 }, -32601),
        _ => Answer::empty(405),
    }
}
