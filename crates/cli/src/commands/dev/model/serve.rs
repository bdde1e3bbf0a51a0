//! The simulator over HTTP.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use super::asked::{Asked, Form};
use super::record::Record;
use super::reply::Reply;
use super::script::{Rule, Script};
use super::{BODY_BYTES_MAX, PREFIX, anthropic, openai, responses};

/// What its answers say of where they come from.
const SERVER: &str = "tally-model-simulator";
/// Pieces of an answer that wait to be sent.
const QUEUE: usize = 16;

type Piece = Result<Bytes, io::Error>;

/// An answer piece by piece; one that is an error breaks the connection.
struct Pieces(mpsc::Receiver<Piece>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.0.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Frame::data)))
    }
}

/// What the connections share.
struct Simulator {
    script: Arc<Script>,
    record: Record,
    next: AtomicU64,
}

/// Serves for ever.
pub(super) async fn run(
    listener: TcpListener,
    script: Arc<Script>,
    record: Record,
) -> anyhow::Result<()> {
    let simulator = Arc::new(Simulator { script, record, next: AtomicU64::new(1) });
    loop {
        let (stream, _) = listener.accept().await?;
        let simulator = simulator.clone();
        let service = service_fn(move |request| {
            let simulator = simulator.clone();
            async move { Ok::<_, Infallible>(simulator.answer(request).await) }
        });
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            // A client that goes away, and a script that breaks the connection, end it alike.
            let _ended = connection.await;
        });
    }
}

impl Simulator {
    async fn answer(&self, request: Request<Incoming>) -> Response<Pieces> {
        let came = Instant::now();
        let (head, body) = request.into_parts();
        // Only Anthropic's SDKs name a version.
        let theirs = head.headers.contains_key("anthropic-version");
        let path = head.uri.path();
        if let Some(key) = self.script.key.as_ref().filter(|key| !has_key(&head.headers, key)) {
            let shown = key.len();
            let message = format!("the simulator's key has {shown} characters: this is not it");
            return failed(theirs, 401, "invalid_api_key", &message);
        }
        let form = match (&head.method, path) {
            (&Method::GET, "/v1/models") if theirs => return json_of(&anthropic::models()),
            (&Method::GET, "/v1/models") => return json_of(&openai::models()),
            (&Method::GET, path) => match path.strip_prefix("/v1/models/") {
                Some(name) if !name.starts_with(PREFIX) => return unknown(theirs, name),
                Some(name) if theirs => return json_of(&anthropic::model(name)),
                Some(name) => return json_of(&openai::model(name)),
                None => return failed(theirs, 404, "not_found", "there is nothing here"),
            },
            (&Method::POST, "/v1/chat/completions") => Form::Chat,
            (&Method::POST, path) if is_azure(path, head.uri.query()) => Form::Chat,
            (&Method::POST, "/v1/responses") => Form::Responses,
            (&Method::POST, "/v1/messages") => Form::Messages,
            (&Method::POST, "/v1/messages/count_tokens") => {
                return counted(body).await;
            }
            _ => return failed(theirs, 404, "not_found", "there is nothing here"),
        };
        let theirs = form == Form::Messages;
        let read = Limited::new(body, BODY_BYTES_MAX).collect().await;
        let Ok(body) = read else {
            return failed(theirs, 413, "too_large", "the request cannot be read, or is too long");
        };
        match Asked::read(form, &body.to_bytes()) {
            Err(message) => failed(theirs, 400, "invalid_value", &message),
            Ok(asked) if !asked.model.starts_with(PREFIX) => unknown(theirs, &asked.model),
            Ok(asked) => self.reply(&asked, came).await,
        }
    }

    async fn reply(&self, asked: &Asked, came: Instant) -> Response<Pieces> {
        let none = Rule::default();
        let rule = self.script.rule(asked).unwrap_or(&none);
        let status = (!rule.hang).then_some(rule.status.unwrap_or(200));
        if let Err(error) = self.record.note(came, asked, status) {
            let theirs = asked.form == Form::Messages;
            return failed(theirs, 500, "record_failed", &format!("{error:#}"));
        }
        if rule.hang {
            std::future::pending::<()>().await;
        }
        if let Some(status) = rule.status {
            let code = rule.code.as_deref().unwrap_or("simulated");
            let theirs = asked.form == Form::Messages;
            let mut response = failed(theirs, status, code, "the script says so");
            if let Some(seconds) = rule.retry_after_s {
                response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
            }
            return response;
        }
        let reply = Reply::new(asked, rule);
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let delay = Duration::from_millis(rule.delay_ms);
        if asked.stream {
            return stream(asked, rule, &reply, id, delay);
        }
        tokio::time::sleep(delay).await;
        json_of(&match asked.form {
            Form::Chat => openai::whole(id, &reply),
            Form::Responses => responses::whole(id, &reply),
            Form::Messages => anthropic::whole(id, &reply),
        })
    }
}

fn stream(asked: &Asked, rule: &Rule, reply: &Reply, id: u64, delay: Duration) -> Response<Pieces> {
    let (before, tokens, after) = match asked.form {
        Form::Chat => openai::events(id, reply, asked.include_usage),
        Form::Responses => responses::events(id, reply),
        Form::Messages => anthropic::events(id, reply),
    };
    let (sender, receiver) = mpsc::channel(QUEUE);
    let cut = rule.cut_after;
    tokio::spawn(async move {
        let mut all = vec![Ok(before)];
        all.extend(tokens.into_iter().take(cut.unwrap_or(usize::MAX)).map(Ok));
        all.push(match cut {
            Some(_) => Err(io::Error::other("the script breaks the connection")),
            None => Ok(after),
        });
        for piece in all {
            tokio::time::sleep(delay).await;
            if sender.send(piece.map(Bytes::from)).await.is_err() {
                return;
            }
        }
    });
    respond(StatusCode::OK, "text/event-stream", Pieces(receiver))
}

/// How many tokens a request of Anthropic's form has.
async fn counted(body: Incoming) -> Response<Pieces> {
    let read = Limited::new(body, BODY_BYTES_MAX).collect().await;
    let bytes = read.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let mut value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.insert("max_tokens".to_owned(), json!(1));
    }
    match Asked::read(Form::Messages, value.to_string().as_bytes()) {
        Ok(asked) => json_of(&json!({"input_tokens": asked.input_tokens})),
        Err(message) => failed(true, 400, "invalid_value", &message),
    }
}

fn has_key(headers: &HeaderMap, key: &str) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| value.strip_prefix("Bearer "));
    let own = ["x-api-key", "api-key"];
    bearer == Some(key) || own.iter().any(|name| text(name) == Some(key))
}

/// Whether it is asked as Azure OpenAI is: of a deployment, in a version of the API.
fn is_azure(path: &str, query: Option<&str>) -> bool {
    let rest = path.strip_prefix("/openai/deployments/");
    let name = rest.and_then(|rest| rest.strip_suffix("/chat/completions"));
    let version = query.is_some_and(|query| query.starts_with("api-version="));
    version && name.is_some_and(|name| !name.is_empty() && !name.contains('/'))
}

fn unknown(theirs: bool, model: &str) -> Response<Pieces> {
    let message = format!("`{model}` is no model of this simulator: theirs begin with {PREFIX}");
    failed(theirs, 404, "model_not_found", &message)
}

fn failed(theirs: bool, status: u16, code: &str, message: &str) -> Response<Pieces> {
    let body = match theirs {
        true => anthropic::error(status, message),
        false => openai::error(status, code, message),
    };
    let mut response = json_of(&body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn json_of(value: &Value) -> Response<Pieces> {
    let (sender, receiver) = mpsc::channel(1);
    // There is room for one, and somebody to take it.
    let _sent = sender.try_send(Ok(Bytes::from(value.to_string())));
    respond(StatusCode::OK, "application/json", Pieces(receiver))
}

fn respond(status: StatusCode, kind: &'static str, body: Pieces) -> Response<Pieces> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    headers.insert(header::SERVER, header::HeaderValue::from_static(SERVER));
    response
}
