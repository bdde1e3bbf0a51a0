//! The server over streamable HTTP.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Act, Misbehave, Vice, tools_changed};
use crate::Running;

/// The one session that there is.
const SESSION: &str = "misbehave-1";
const QUEUE: usize = 64;
const PIECE: usize = 64 << 10;

pub(super) async fn serve(server: Misbehave, address: SocketAddr) -> Running {
    let endpoint = post(receive).get(stream).delete(end);
    let router = Router::new().route("/mcp", endpoint).with_state(server);
    Running::serve(address, CancellationToken::new(), router).await
}

async fn end() -> StatusCode {
    StatusCode::NO_CONTENT
}

/// The stream of the older revisions, outside of any call.
async fn stream(State(server): State<Misbehave>) -> Response {
    if !server.revisions.has_old() {
        return StatusCode::METHOD_NOT_ALLOWED.into_response();
    }
    streamed(server, vec![Act::Listen(serde_json::Value::Null)])
}

async fn receive(State(server): State<Misbehave>, headers: HeaderMap, body: Bytes) -> Response {
    let credential = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    server.kept.credentials.lock().unwrap().extend(credential.map(str::to_owned));
    match server.vice {
        Vice::Redirect => {
            let elsewhere = [(header::LOCATION, "http://localhost:9/mcp")];
            return (StatusCode::TEMPORARY_REDIRECT, elsewhere).into_response();
        }
        Vice::Unauthorized => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            return (StatusCode::UNAUTHORIZED, challenge).into_response();
        }
        _ => {}
    }
    let text = String::from_utf8_lossy(&body).into_owned();
    let opens = text.contains(r#""initialize""#);
    let old = !text.contains(super::VERSION);
    if old && !opens && headers.get("mcp-session-id").is_none_or(|id| id != SESSION) {
        return (StatusCode::BAD_REQUEST, "Bad Request: there is no session").into_response();
    }
    if !old && !server.revisions.has_new() {
        return (StatusCode::BAD_REQUEST, "Bad Request: unsupported protocol version")
            .into_response();
    }
    let acts = server.react(&text);
    let mut response = match acts.as_slice() {
        [] => StatusCode::ACCEPTED.into_response(),
        [Act::Send(text)] => {
            ([(header::CONTENT_TYPE, "application/json")], text.clone()).into_response()
        }
        _ => streamed(server, acts),
    };
    if opens {
        response.headers_mut().insert("mcp-session-id", header::HeaderValue::from_static(SESSION));
    }
    response
}

fn streamed(server: Misbehave, acts: Vec<Act>) -> Response {
    let (out, frames) = mpsc::channel::<Result<Frame<Bytes>, Cut>>(QUEUE);
    tokio::spawn(async move {
        for act in acts {
            if perform(act, &server, &out).await.is_none() {
                break;
            }
        }
    });
    let body = Body::new(Frames(frames));
    ([(header::CONTENT_TYPE, "text/event-stream")], body).into_response()
}

type Out = mpsc::Sender<Result<Frame<Bytes>, Cut>>;

/// `None` where the client is gone, or nothing more is to come.
async fn perform(act: Act, server: &Misbehave, out: &Out) -> Option<()> {
    let send = async |bytes: Bytes| out.send(Ok(Frame::data(bytes))).await.ok();
    match act {
        Act::Send(text) => send(event(&text)).await,
        Act::Die => {
            let _gone = out.send(Err(Cut)).await;
            None
        }
        Act::Hang => {
            out.closed().await;
            None
        }
        Act::Flood(text) => loop {
            send(event(&text)).await?;
        },
        Act::Pour => {
            send(Bytes::from_static(b"data: \"")).await?;
            loop {
                send(Bytes::from(vec![b'x'; PIECE])).await?;
            }
        }
        Act::Listen(subscription) => {
            let subscription = Some(&subscription).filter(|value| !value.is_null());
            let mut changes = server.kept.changes.subscribe();
            // A comment, so that the client has the headers at once.
            send(Bytes::from_static(b": here\n\n")).await?;
            loop {
                tokio::select! {
                    () = out.closed() => return None,
                    change = changes.recv() => change.ok()?,
                }
                send(event(&tools_changed(subscription))).await?;
            }
        }
    }
}

fn event(text: &str) -> Bytes {
    format!("event: message\ndata: {text}\n\n").into()
}

/// The connection breaks.
#[derive(Debug)]
struct Cut;

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the server cuts the connection")
    }
}

impl std::error::Error for Cut {}

/// What is sent as it comes.
struct Frames(mpsc::Receiver<Result<Frame<Bytes>, Cut>>);

impl hyper::body::Body for Frames {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        self.0.poll_recv(cx)
    }
}
