//! An MCP server of 2026-07-28 that wants a token, and the endpoint where tokens are exchanged.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Running;

/// A form as it came.
pub type Fields = BTreeMap<String, String>;

#[derive(Debug, Default)]
struct Kept {
    /// Where it lives.
    origin: String,
    /// Who issues tokens for it.
    issuer: Mutex<String>,
    /// The headers `Authorization` of calls.
    shown: Mutex<Vec<String>>,
    /// Those that are good no more.
    refused: Mutex<BTreeSet<String>>,
    exchanges: Mutex<Vec<Fields>>,
}

/// The server.
#[derive(Debug)]
pub struct Guarded {
    kept: Arc<Kept>,
    running: Running,
}

/// The scope that it wants.
pub const SCOPE: &str = "mcp:use";

impl Guarded {
    /// Starts it. Without a credential it answers 401 and names `issuer`; with any, it answers.
    pub async fn start(issuer: &str) -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Mutex::new(issuer.to_owned());
        let kept = Arc::new(Kept { origin, issuer, ..Kept::default() });
        let router = Router::new()
            .route("/mcp", post(receive))
            .route("/token", post(exchange))
            .route("/.well-known/oauth-protected-resource/mcp", get(metadata))
            .with_state(kept.clone());
        let end = CancellationToken::new();
        let ended = end.clone().cancelled_owned();
        let running = Running::accept(listener, end, async move |listener| {
            axum::serve(listener, router).with_graceful_shutdown(ended).await.unwrap();
        });
        Self { kept, running }
    }

    /// The MCP endpoint.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.running.url
    }

    /// Where tokens are exchanged.
    #[must_use]
    pub fn token_endpoint(&self) -> String {
        format!("{}/token", self.kept.origin)
    }

    /// The headers `Authorization` of the calls of tools so far.
    #[must_use]
    pub fn shown(&self) -> Vec<String> {
        self.kept.shown.lock().unwrap().clone()
    }

    /// Takes a header `Authorization` no more.
    pub fn refuse(&self, header: &str) {
        self.kept.refused.lock().unwrap().insert(header.to_owned());
    }

    /// What came to be exchanged so far.
    #[must_use]
    pub fn exchanges(&self) -> Vec<Fields> {
        self.kept.exchanges.lock().unwrap().clone()
    }
}

async fn metadata(State(kept): State<Arc<Kept>>) -> Response {
    let issuer = kept.issuer.lock().unwrap().clone();
    let resource = format!("{}/mcp", kept.origin);
    let body = json!({
        "resource": resource,
        "authorization_servers": [issuer],
        "scopes_supported": [SCOPE],
    });
    axum::Json(body).into_response()
}

/// Gives each subject token another token, numbered.
async fn exchange(State(kept): State<Arc<Kept>>, body: Bytes) -> Response {
    let fields = form_urlencoded::parse(&body).into_owned().collect();
    let mut exchanges = kept.exchanges.lock().unwrap();
    exchanges.push(fields);
    let token = format!("exchanged-{}", exchanges.len());
    let body = json!({
        "access_token": token,
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "token_type": "Bearer",
        "expires_in": 3_600,
    });
    axum::Json(body).into_response()
}

async fn receive(State(kept): State<Arc<Kept>>, headers: HeaderMap, body: Bytes) -> Response {
    let message: Value = serde_json::from_slice(&body).unwrap();
    let method = message["method"].as_str().unwrap();
    let credential = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let refused = credential.is_none_or(|text| kept.refused.lock().unwrap().contains(text));
    if refused {
        let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", kept.origin);
        let error = if credential.is_some() { "error=\"invalid_token\", " } else { "" };
        let demand = format!("Bearer {error}resource_metadata=\"{metadata}\", scope=\"{SCOPE}\"");
        return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, demand)]).into_response();
    }
    if method == "tools/call" {
        kept.shown.lock().unwrap().extend(credential.map(str::to_owned));
    }
    let done = json!({"resultType": "complete", "ttlMs": 0, "cacheScope": "private"});
    let mut result = match method {
        "server/discover" => json!({
            "supportedVersions": ["2026-07-28"],
            "capabilities": {"tools": {}},
        }),
        "tools/list" => json!({"tools": [{"name": "work", "inputSchema": {"type": "object"}}]}),
        "tools/call" => json!({"content": [{"type": "text", "text": "done"}]}),
        _ => {
            let error = json!({"code": -32601, "message": "there is no such method"});
            let answer = json!({"jsonrpc": "2.0", "id": message["id"], "error": error});
            return (StatusCode::NOT_FOUND, axum::Json(answer)).into_response();
        }
    };
    for (key, value) in done.as_object().unwrap() {
        result[key] = value.clone();
    }
    let info = json!({"name": "guarded", "version": "1"});
    result["_meta"] = json!({"io.modelcontextprotocol/serverInfo": info});
    axum::Json(json!({"jsonrpc": "2.0", "id": message["id"], "result": result})).into_response()
}
