//! A server that costs next to nothing: for measuring what is in front of it. It looks at the id
//! and the method of a message and at nothing else, in both revisions.

use std::net::SocketAddr;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::Running;
use crate::running::ANYWHERE;

/// Its one tool: it answers a text.
pub const TOOL: &str = "echo";

const TOOLS: &str = concat!(
    r#"{"resultType":"complete","ttlMs":300000,"cacheScope":"public","tools":[{"name":"echo","#,
    r#""description":"Answers a text","inputSchema":{"type":"object","properties":"#,
    r#"{"text":{"type":"string"}}},"annotations":{"readOnlyHint":true,"openWorldHint":false}}]}"#,
);
const ANSWER: &str =
    r#"{"resultType":"complete","content":[{"type":"text","text":"done"}],"isError":false}"#;
const DISCOVERED: &str = concat!(
    r#"{"resultType":"complete","ttlMs":300000,"cacheScope":"public","#,
    r#""supportedVersions":["2025-11-25","2026-07-28"],"capabilities":{"tools":{}},"#,
    r#""_meta":{"io.modelcontextprotocol/serverInfo":{"name":"fast","version":"1"}}}"#,
);
const INITIALIZED: &str = concat!(
    r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"#,
    r#""serverInfo":{"name":"fast","version":"1"}}"#,
);

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
}

/// Serves it on a free port.
pub async fn serve() -> Running {
    serve_at(ANYWHERE).await
}

/// The same at `address`, whose port may be 0.
///
/// # Panics
/// Where the port is taken.
pub async fn serve_at(address: SocketAddr) -> Running {
    let listener = TcpListener::bind(address).await.unwrap();
    Running::accept(listener, CancellationToken::new(), accept)
}

async fn accept(listener: TcpListener) {
    // Dropped with the task: no connection outlives the server.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((stream, _)) = accepted else { continue };
                let _unset = stream.set_nodelay(true);
                let service = service_fn(|request| async { answer(request).await });
                connections.spawn(
                    hyper::server::conn::http1::Builder::new()
                        .pipeline_flush(true)
                        .serve_connection(TokioIo::new(stream), service),
                );
            }
            Some(_closed) = connections.join_next() => {}
        }
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    match *request.method() {
        Method::POST => {}
        Method::DELETE => return Ok(status(StatusCode::NO_CONTENT)),
        _ => return Ok(status(StatusCode::METHOD_NOT_ALLOWED)),
    }
    let body = request.into_body().collect().await?.to_bytes();
    let Ok(message) = serde_json::from_slice::<Message<'_>>(&body) else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let (Some(id), Some(method)) = (message.id, message.method) else {
        return Ok(status(StatusCode::ACCEPTED));
    };
    let (name, value) = match method.get() {
        r#""tools/call""# => ("result", ANSWER),
        r#""tools/list""# => ("result", TOOLS),
        r#""server/discover""# => ("result", DISCOVERED),
        r#""initialize""# => ("result", INITIALIZED),
        r#""ping""# => ("result", "{}"),
        _ => ("error", r#"{"code":-32601,"message":"there is no such method"}"#),
    };
    let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"{name}":{value}}}"#);
    let mut response = Response::new(Full::new(Bytes::from(text)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if method.get() == r#""initialize""# {
        headers.insert("mcp-session-id", HeaderValue::from_static("fast"));
    }
    Ok(response)
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::new()));
    *response.status_mut() = status;
    response
}
