//! One HTTP request of the pump, and what its answer means.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use client::{Exchange, TransportError};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Response, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::link::{Link, Place};
use super::message::{self, HEADER_MISMATCH, INTERNAL, Kind, Message, Request};
use super::session::{self, Handle, SESSION, Session, VERSION};
use super::{Flight, Pump, limits, mirror, sse};

const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
const EITHER: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");

/// The id of a listing of ours, as JSON.
const LISTING: &str = "\"tools\"";

/// How an attempt at a request ended.
pub(super) enum Ended {
    /// The client has its answer, or wants none.
    Answered,
    /// The server has not seen the request.
    NotSent(String),
    /// The server knows no such session, and has done nothing.
    SessionGone,
    /// The server has done nothing and names a time for the next attempt.
    Later(Duration),
    /// Headers are missing; the answer that says so.
    Mismatch(Bytes),
    /// The server may have done what was asked.
    Broken(String),
}

/// What is sent.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) method: Method,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Parts {
    /// A POST of nothing yet, in a session.
    pub(super) fn of(handle: &Handle) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ACCEPT, EITHER);
        handle.add_to(&mut headers);
        Self { method: Method::POST, headers, body: Bytes::new() }
    }

    /// The request for the stream of what the server says by itself, or says on after an event.
    fn stream(handle: &Handle, after: Option<&str>) -> Self {
        let mut parts = Self { method: Method::GET, ..Self::of(handle) };
        parts.headers.remove(CONTENT_TYPE);
        parts.headers.insert(ACCEPT, EVENTS);
        if let Some(id) = after.and_then(|id| HeaderValue::from_str(id).ok()) {
            parts.headers.insert(LAST_EVENT_ID, id);
        }
        parts
    }
}

/// Where a stream is to be read on.
#[derive(Default)]
struct Cursor {
    id: Option<String>,
    retry: Option<Duration>,
}

impl Cursor {
    fn pause(&self) -> Duration {
        self.retry.unwrap_or(limits::STREAM_REST).min(limits::STREAM_REST_MAX)
    }
}

/// How a stream ended.
enum Heard {
    /// With the answer.
    Answer,
    /// Without it.
    Nothing(String),
}

/// Sends one HTTP request.
pub(super) async fn send(link: &Link, parts: Parts) -> Result<Response<Incoming>, Ended> {
    let Parts { method, headers, body } = parts;
    let exchange = Exchange { method, path_and_query: &link.path, headers, body };
    link.client.exchange(exchange).await.map_err(|error| match &error {
        client::Error::Transport(TransportError::Connect { .. } | TransportError::Request(_)) => {
            Ended::NotSent(error.to_string())
        }
        _ => Ended::Broken(error.to_string()),
    })
}

/// The whole body of an answer that is no stream.
async fn collect(body: Incoming) -> Result<Bytes, Ended> {
    let whole = Limited::new(body, limits::ANSWER_BYTES_MAX).collect().await;
    whole.map(|body| body.to_bytes()).map_err(|error| Ended::Broken(error.to_string()))
}

/// The answer to the request `id`, which is JSON, where nothing else in it matters.
async fn whole(answer: Response<Incoming>, id: &str) -> Result<Bytes, Ended> {
    let stream = is_stream(answer.headers());
    let mut body = answer.into_body();
    if !stream {
        return collect(body).await;
    }
    let broken = |reason: &str| Ended::Broken(reason.to_owned());
    let mut reader = sse::Reader::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(&error.to_string()))?;
        let Some(bytes) = frame.data_ref() else { continue };
        for event in reader.push(bytes).map_err(|_| broken("the answer is too long"))? {
            let data = Bytes::from(event.data);
            let read = Message::read(data.clone()).map(|message| message.kind);
            if matches!(read, Ok(Kind::Response { id: Some(known), .. }) if known == id) {
                return Ok(data);
            }
        }
    }
    Err(broken("the stream ended without an answer"))
}

fn is_stream(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    content_type.is_some_and(|value| value.starts_with(EVENTS.as_bytes()))
}

/// How long to wait, where the server has done nothing and says how long.
fn later(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let full = [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE];
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    let pause = Duration::from_secs(seconds);
    (full.contains(&status) && pause <= limits::RETRY_AFTER_MAX).then_some(pause)
}

/// The error document of Tally.
#[derive(Deserialize)]
struct Refused<'a> {
    #[serde(borrow)]
    error: &'a RawValue,
}

#[derive(Deserialize)]
struct Said {
    message: String,
}

/// An answer that is no JSON-RPC, as one to `id`.
fn translated(status: StatusCode, body: &[u8], id: &str) -> Bytes {
    let refused: Option<Refused<'_>> = serde_json::from_slice(body).ok();
    let error = refused.map(|refused| refused.error);
    let said: Option<Said> = error.and_then(|error| serde_json::from_str(error.get()).ok());
    let reason = said.map_or_else(|| format!("the server answered HTTP {status}"), |s| s.message);
    message::refusal(id, INTERNAL, &reason, error)
}

impl<P: Place> Pump<P> {
    /// Sends a request once and hands its answer to the client.
    pub(super) async fn attempt(
        &self,
        link: &Link,
        request: &Request,
        message: &Message,
        handle: Option<&Handle>,
        extra: &HeaderMap,
        flight: &Flight,
    ) -> Ended {
        let mut parts = Parts::of(handle.unwrap_or(&Handle::default()));
        parts.body = message.body.clone();
        parts.headers.extend(extra.iter().map(|(name, value)| (name.clone(), value.clone())));
        if let Some(version) = &request.version {
            let values = [
                (VERSION, message::header(version)),
                (METHOD, message::header(&request.method)),
                (NAME, request.name.as_deref().and_then(message::header)),
            ];
            let known = values.into_iter().filter_map(|(name, value)| Some((name, value?)));
            parts.headers.extend(known);
        }
        let answer = match send(link, parts).await {
            Ok(answer) => answer,
            Err(ended) => return ended,
        };
        let (head, body) = answer.into_parts();
        let in_session = handle.is_some_and(|handle| handle.id.is_some());
        if head.status == StatusCode::NOT_FOUND && in_session {
            return Ended::SessionGone;
        }
        if let Some(pause) = later(head.status, &head.headers) {
            return Ended::Later(pause);
        }
        if head.status.is_success() && is_stream(&head.headers) {
            return self.follow(link, request, handle, flight, body).await;
        }
        match collect(body).await {
            Ok(body) => self.answer(request, head.status, body, extra).await,
            Err(ended) => ended,
        }
    }

    /// Hands on an answer that came as one document.
    async fn answer(
        &self,
        request: &Request,
        status: StatusCode,
        body: Bytes,
        extra: &HeaderMap,
    ) -> Ended {
        if let Ok(Message { kind: Kind::Response { id: Some(id), error }, .. }) =
            Message::read(body.clone())
            && id == request.id
        {
            let call = request.method == "tools/call" && extra.is_empty();
            if error == Some(HEADER_MISMATCH) && call {
                return Ended::Mismatch(body);
            }
            self.say(&body).await;
            return Ended::Answered;
        }
        let answer = message::readdress(&body, &request.id);
        self.say(&answer.unwrap_or_else(|| translated(status, &body, &request.id))).await;
        Ended::Answered
    }

    /// Reads the stream of a request until its answer, and reads on where it is cut off.
    async fn follow(
        &self,
        link: &Link,
        request: &Request,
        handle: Option<&Handle>,
        flight: &Flight,
        mut body: Incoming,
    ) -> Ended {
        let mut cursor = Cursor::default();
        loop {
            let reason = match self.read(&mut body, Some(request), &mut cursor).await {
                Heard::Answer => return Ended::Answered,
                Heard::Nothing(reason) => reason,
            };
            if flight.canceled.load(Ordering::Relaxed) {
                return Ended::Answered;
            }
            let (Some(handle), Some(id)) = (handle, &cursor.id) else {
                return Ended::Broken(reason);
            };
            sleep(cursor.pause()).await;
            match send(link, Parts::stream(handle, Some(id))).await {
                Ok(again) if again.status().is_success() && is_stream(again.headers()) => {
                    body = again.into_body();
                }
                _ => return Ended::Broken(reason),
            }
        }
    }

    /// Hands on what a stream says, until the answer to `request` or its end.
    async fn read(
        &self,
        body: &mut Incoming,
        request: Option<&Request>,
        cursor: &mut Cursor,
    ) -> Heard {
        let mut reader = sse::Reader::default();
        let nothing = |reason: &str| Heard::Nothing(reason.to_owned());
        loop {
            let frame = match body.frame().await {
                None => return nothing("the stream ended without an answer"),
                Some(Err(error)) => return Heard::Nothing(error.to_string()),
                Some(Ok(frame)) => frame,
            };
            let Some(bytes) = frame.data_ref() else { continue };
            let Ok(events) = reader.push(bytes) else {
                return nothing("the server sent an event that is too long");
            };
            for event in events {
                cursor.id = event.id.or(cursor.id.take());
                cursor.retry = event.retry.or(cursor.retry);
                if !event.data.is_empty() && self.pass(event.data.into(), request).await {
                    return Heard::Answer;
                }
            }
        }
    }

    /// Hands one message of a stream to the client. Says whether it is the answer to `request`.
    async fn pass(&self, data: Bytes, request: Option<&Request>) -> bool {
        let kind = Message::read(data.clone()).map(|message| message.kind);
        let expected = request.map(|request| request.id.as_str());
        match kind {
            Ok(Kind::Request(_) | Kind::Notification { .. }) => {
                self.say(&data).await;
                false
            }
            Ok(Kind::Response { id: Some(id), .. }) if Some(id.as_str()) == expected => {
                self.say(&data).await;
                true
            }
            Ok(Kind::Response { id: None, .. }) => {
                let answer = expected.and_then(|id| message::readdress(&data, id));
                if let Some(answer) = &answer {
                    self.say(answer).await;
                }
                answer.is_some()
            }
            Ok(Kind::Response { .. }) | Err(_) => {
                eprintln!("tally: the server sent something that nobody asked for");
                false
            }
        }
    }

    /// The headers that a tool's definition asks of a call.
    pub(super) async fn mirrored(
        &self,
        link: &Link,
        request: &Request,
        message: &Message,
    ) -> HeaderMap {
        let Some((name, version)) = request.name.as_deref().zip(request.version.as_deref()) else {
            return HeaderMap::new();
        };
        let call: Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let arguments = call.pointer("/params/arguments").cloned().unwrap_or_default();
        let meta = call.pointer("/params/_meta").cloned().unwrap_or_default();
        let mut cursor = Value::Null;
        loop {
            let mut params = serde_json::json!({ "_meta": meta });
            if let (Some(params), false) = (params.as_object_mut(), cursor.is_null()) {
                params.insert("cursor".to_owned(), cursor);
            }
            let list = serde_json::json!({
                "jsonrpc": "2.0", "id": "tools", "method": "tools/list", "params": params,
            });
            let mut parts = Parts::of(&Handle::default());
            parts.body = Bytes::from(list.to_string());
            parts.headers.extend(message::header(version).map(|version| (VERSION, version)));
            parts.headers.insert(METHOD, HeaderValue::from_static("tools/list"));
            let page = match send(link, parts).await {
                Ok(answer) => whole(answer, LISTING).await,
                Err(ended) => Err(ended),
            };
            let page = page.ok().and_then(|page| serde_json::from_slice::<Value>(&page).ok());
            let Some(page) = page.as_ref().and_then(|page| page.get("result")) else {
                return HeaderMap::new();
            };
            let found = mirror::headers(page, name, &arguments);
            cursor = page.get("nextCursor").cloned().unwrap_or_default();
            if !found.is_empty() || cursor.is_null() {
                return found;
            }
        }
    }

    /// Opens the client's session.
    pub(super) async fn initialize(self: &Arc<Self>, request: &Request, message: Message) {
        let mut last = String::new();
        for _ in 0..limits::TRIES_MAX {
            let (number, link) = match self.wire.link().await {
                Ok(link) => link,
                Err(error) => {
                    return self.refuse(request, "no_server", &format!("{error:#}")).await;
                }
            };
            match self.open(&link, request, &message).await {
                Ok((handle, answer)) => {
                    if let Some(handle) = handle {
                        let session = Session::new(message, handle);
                        let before = self.session.lock().await.replace(session);
                        if let Some(before) = before {
                            before.listening.cancel();
                        }
                    }
                    return self.say(&answer.body).await;
                }
                Err(Ended::Later(pause)) => sleep(pause).await,
                Err(Ended::NotSent(reason) | Ended::Broken(reason)) => {
                    self.wire.renew(number).await;
                    last = reason;
                }
                Err(_) => return,
            }
        }
        self.refuse(request, "no_answer", &format!("the server gave no answer: {last}")).await;
    }

    /// Sends an `initialize` and reads its answer; the session is there where it is no error.
    async fn open(
        &self,
        link: &Link,
        request: &Request,
        message: &Message,
    ) -> Result<(Option<Handle>, Message), Ended> {
        let mut parts = Parts::of(&Handle::default());
        parts.body = message.body.clone();
        let answer = send(link, parts).await?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        if let Some(pause) = later(status, &headers) {
            return Err(Ended::Later(pause));
        }
        let body = whole(answer, &request.id).await?;
        let read = Message::read(body.clone()).ok();
        let ours = |message: &Message| match &message.kind {
            Kind::Response { id, .. } => id.as_deref() == Some(&request.id),
            _ => false,
        };
        let Some(answer) = read.filter(ours) else {
            let answer = message::readdress(&body, &request.id);
            let body = answer.unwrap_or_else(|| translated(status, &body, &request.id));
            let kind = Kind::Response { id: Some(request.id.clone()), error: Some(INTERNAL) };
            return Ok((None, Message { kind, body }));
        };
        let opened = matches!(answer.kind, Kind::Response { error: None, .. });
        let handle = opened.then(|| Handle {
            id: headers.get(SESSION).cloned(),
            version: session::version(&answer),
            epoch: 0,
        });
        Ok((handle, answer))
    }

    /// Opens the session again, as the client did, where nobody has done so since `epoch`.
    pub(super) async fn revive(self: &Arc<Self>, epoch: u64) {
        let mut guard = self.session.lock().await;
        let Some(session) = guard.as_mut().filter(|session| session.handle.epoch == epoch) else {
            return;
        };
        let Ok((number, link)) = self.wire.link().await else { return };
        let Kind::Request(request) = session.initialize.kind.clone() else { return };
        let handle = match self.open(&link, &request, &session.initialize).await {
            Ok((Some(handle), _)) => handle,
            Ok((None, answer)) => {
                let said = String::from_utf8_lossy(&answer.body);
                return eprintln!("tally: the session cannot be opened again: {said}");
            }
            Err(_) => return self.wire.renew(number).await,
        };
        session.handle = Handle { epoch: epoch + 1, ..handle };
        let said = session.initialized.iter().cloned().chain(session.repeated());
        for body in said {
            let parts = Parts { body, ..Parts::of(&session.handle) };
            if let Ok(answer) = send(&link, parts).await {
                // It comes in one piece, and only its arrival counts.
                let _read = collect(answer.into_body()).await;
            }
        }
        if session.initialized.is_some() {
            self.listen(session);
        }
    }

    /// Passes a notification on, in its turn.
    pub(super) async fn notify(self: &Arc<Self>, method: &str, body: Bytes) {
        if method == "notifications/initialized"
            && let Some(session) = self.session.lock().await.as_mut()
        {
            session.initialized = Some(body.clone());
        }
        self.post(body).await;
        if method == "notifications/initialized"
            && let Some(session) = self.session.lock().await.as_mut()
        {
            self.listen(session);
        }
    }

    /// Sends what has no answer.
    pub(super) async fn post(self: &Arc<Self>, body: Bytes) {
        for _ in 0..limits::TRIES_MAX {
            let Ok((number, link)) = self.wire.link().await else { return };
            let handle = self.session.lock().await.as_ref().map(|session| session.handle.clone());
            let handle = handle.unwrap_or_default();
            let parts = Parts { body: body.clone(), ..Parts::of(&handle) };
            match timeout(limits::POST_TIME, send(&link, parts)).await {
                Ok(Ok(answer)) if answer.status() == StatusCode::NOT_FOUND => {
                    self.revive(handle.epoch).await;
                }
                Ok(Err(Ended::NotSent(_))) => self.wire.renew(number).await,
                Ok(Ok(answer)) if !answer.status().is_success() => {
                    let status = answer.status();
                    return eprintln!("tally: the server refused a message: HTTP {status}");
                }
                Ok(Ok(_)) => return,
                // It may have arrived.
                Ok(Err(_)) | Err(_) => return self.wire.renew(number).await,
            }
        }
    }

    /// Opens the stream of what the server says by itself.
    fn listen(self: &Arc<Self>, session: &mut Session) {
        session.listening.cancel();
        session.listening = self.end.child_token();
        let (pump, end) = (self.clone(), session.listening.clone());
        let handle = session.handle.clone();
        tokio::spawn(async move {
            let gone = tokio::select! {
                () = end.cancelled() => false,
                gone = pump.hear(&handle) => gone,
            };
            if gone {
                pump.revive(handle.epoch).await;
            }
        });
    }

    /// Hands on what the server says by itself. Ends with whether the session is gone.
    async fn hear(&self, handle: &Handle) -> bool {
        let mut cursor = Cursor::default();
        loop {
            let Ok((number, link)) = self.wire.link().await else { return false };
            match send(&link, Parts::stream(handle, cursor.id.as_deref())).await {
                Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return true,
                Ok(answer) if answer.status().is_success() && is_stream(answer.headers()) => {
                    self.read(&mut answer.into_body(), None, &mut cursor).await;
                }
                Ok(answer) if later(answer.status(), answer.headers()).is_some() => {}
                // The server does not speak by itself.
                Ok(_) => return false,
                Err(_) => self.wire.renew(number).await,
            }
            sleep(cursor.pause()).await;
        }
    }
}
