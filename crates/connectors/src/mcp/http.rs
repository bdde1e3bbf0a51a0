//! Streamable HTTP: each message of ours is a POST; answers come as JSON or as a stream of events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::response::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::auth::Subject;
use super::connection::{Lost, Out, Reply};
use super::endpoint::{Endpoint, Way};
use super::health::Hub;
use super::message::{self, Message};
use super::pool::Body;
use super::serve::{self, Askable, Caller, Gate};
use super::spec::Revision;
use super::sse;
use crate::limits;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
pub(super) const METHOD: HeaderName = HeaderName::from_static("mcp-method");
pub(super) const NAME: HeaderName = HeaderName::from_static("mcp-name");
pub(super) const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const EVENTS: &str = "text/event-stream";

/// One session, or none where the upstream is stateless.
#[derive(Debug)]
pub(super) struct Session {
    endpoint: Arc<Endpoint>,
    pub(super) revision: Revision,
    /// Headers of each request.
    headers: HeaderMap,
    askable: Askable,
    lane: Option<String>,
    hub: Arc<Hub>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
}

impl Session {
    /// A session that is still to be opened, or needs none.
    pub(super) fn new(
        endpoint: &Arc<Endpoint>,
        hub: &Arc<Hub>,
        revision: Revision,
        lane: Option<String>,
        askable: Askable,
    ) -> Self {
        let mut headers = endpoint.headers();
        let accepted = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(header::ACCEPT, accepted);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if revision == Revision::V2026_07_28 {
            headers.insert(VERSION, HeaderValue::from_static("2026-07-28"));
        }
        let (endpoint, hub) = (Arc::clone(endpoint), Arc::clone(hub));
        Self { endpoint, revision, headers, askable, lane, hub, waiting: Mutex::default() }
    }

    /// Goes on by the version and the session that the upstream chose.
    pub(super) fn opened(&mut self, version: &str, session: Option<HeaderValue>) {
        if let Ok(value) = HeaderValue::from_str(version) {
            self.headers.insert(VERSION, value);
        }
        if let Some(mut session) = session {
            session.set_sensitive(true);
            self.headers.insert(SESSION, session);
        }
    }

    fn modern(&self) -> bool {
        self.revision == Revision::V2026_07_28
    }

    fn request_headers(&self, out: &Out<'_>) -> HeaderMap {
        let mut headers = self.headers.clone();
        if self.modern() {
            headers.insert(METHOD, HeaderValue::from_static(out.method));
            if let Some(name) = out.name {
                headers.insert(NAME, super::headers::encoded(name));
            }
            headers.extend(out.mirrored.iter().cloned());
        }
        headers
    }

    /// Sends a request and waits for its answer; also gives the session that the answer opened.
    pub(super) async fn request(&self, out: Out<'_>) -> Result<(Reply, Option<HeaderValue>), Lost> {
        let subject = out.subject;
        let mut cancel = Cancel { session: self, subject, id: out.id, armed: false };
        let way = Way {
            subject: out.subject,
            repeatable: out.repeatable,
            caller: out.caller.map(AsRef::as_ref),
        };
        let headers = self.request_headers(&out);
        cancel.armed = !self.modern() && out.method != "initialize";
        let sent = self.endpoint.send(Method::POST, headers, out.body.into(), &way).await;
        let (head, mut body) = sent.inspect_err(|_| cancel.armed = false)?;
        let session = head.headers.get(SESSION).cloned();
        let reply = if head.status.is_success() && is(&head, EVENTS) {
            let origin = Origin { id: out.id, caller: out.caller, subject: out.subject };
            self.stream(body, origin).await
        } else {
            let reply = self.whole(&head, &mut body, out.id).await;
            cancel.armed = false;
            reply
        };
        if !matches!(reply, Err(Lost::Unknown(_))) {
            cancel.armed = false;
        }
        Ok((reply?, session))
    }

    /// An answer that is no stream.
    async fn whole(&self, head: &Head, body: &mut Body, id: u64) -> Result<Reply, Lost> {
        let status = head.status;
        if status == StatusCode::NOT_FOUND && self.headers.contains_key(SESSION) {
            return Err(Lost::Expired);
        }
        if status.is_redirection() {
            let message = format!("the MCP server answered {status}: redirects are not followed");
            return Err(Failure::new(Category::Permanent, "redirect_refused", message).into());
        }
        let success = status.is_success();
        let max = match success {
            true => limits::MCP_MESSAGE_BYTES_MAX,
            false => limits::MCP_ERROR_BODY_BYTES_MAX,
        };
        let bytes = match body.whole(max).await {
            Ok(bytes) => bytes,
            Err(failure) if success => return Err(Lost::Unknown(failure)),
            Err(_) => Bytes::new(),
        };
        match Message::parse(&bytes) {
            // How some servers say that they do not know the session: before they act.
            Ok(Message::Response { outcome: Err(error), .. })
                if status == StatusCode::BAD_REQUEST
                    && error.code == -32000
                    && self.headers.contains_key(SESSION) =>
            {
                Err(Lost::Expired)
            }
            Ok(Message::Response { id: Some(answered), outcome }) if answered == id => {
                Ok(outcome.map(ToOwned::to_owned))
            }
            // An error that names no request can only mean this one.
            Ok(Message::Response { id: None, outcome: Err(error) }) if !success => Ok(Err(error)),
            _ if !success => Err(refused(status, &head.headers)),
            Ok(_) => Err(Lost::Unknown(message::invalid("does not answer the request"))),
            Err(why) => Err(Lost::Unknown(message::invalid(why))),
        }
    }

    /// An answer that is a stream of events.
    async fn stream(&self, body: Body, origin: Origin<'_>) -> Result<Reply, Lost> {
        if self.modern() {
            return self.follow(body, origin).await;
        }
        // Some servers answer over whatever stream is opened next.
        let (sender, elsewhere) = oneshot::channel();
        let _waiting = Waiting::new(self, origin.id, sender);
        tokio::select! {
            reply = self.follow(body, origin) => reply,
            Ok(reply) = elsewhere => Ok(reply),
        }
    }

    /// Reads a stream to its answer; a broken one is taken up again where that is possible.
    async fn follow(&self, mut body: Body, origin: Origin<'_>) -> Result<Reply, Lost> {
        let mut asks = JoinSet::new();
        let mut stream = Stream::new();
        let mut failed = 0;
        loop {
            let why = match self.events(&mut body, &mut stream, &mut asks, origin).await {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => broken(),
                Err(failure) => failure,
            };
            if self.modern() || !why.retryable {
                return Err(Lost::Unknown(why));
            }
            if std::mem::take(&mut stream.seen) > 0 {
                failed = 0;
            }
            body = loop {
                let Some(last) = stream.last.clone() else { return Err(Lost::Unknown(why)) };
                if failed == limits::MCP_RESUMES_MAX {
                    return Err(Lost::Unknown(why));
                }
                failed += 1;
                tokio::time::sleep(stream.retry).await;
                match self.resume(Some(&last), origin.subject).await {
                    Ok(Some(taken)) => break taken,
                    Ok(None) | Err(Lost::Expired) => return Err(Lost::Unknown(why)),
                    Err(Lost::NotSent(_) | Lost::Unknown(_)) => {}
                }
            };
            stream.reader = sse::Reader::default();
        }
    }

    /// Opens a stream by GET, or takes one up again; nothing where the upstream has none.
    async fn resume(
        &self,
        last: Option<&str>,
        subject: Option<&Subject>,
    ) -> Result<Option<Body>, Lost> {
        let mut headers = self.headers.clone();
        headers.insert(header::ACCEPT, HeaderValue::from_static(EVENTS));
        headers.remove(header::CONTENT_TYPE);
        if let Some(last) = last {
            let value = HeaderValue::from_str(last)
                .map_err(|_| message::invalid("has an event id that cannot be sent back"))?;
            headers.insert(LAST_EVENT, value);
        }
        let way = Way { subject, repeatable: true, caller: None };
        let (head, body) = self.endpoint.send(Method::GET, headers, Bytes::new(), &way).await?;
        if head.status.is_success() && is(&head, EVENTS) {
            return Ok(Some(body));
        }
        match head.status {
            StatusCode::NOT_FOUND if self.headers.contains_key(SESSION) => Err(Lost::Expired),
            status if status.is_server_error() => Err(refused(status, &head.headers)),
            _ => Ok(None),
        }
    }

    /// Reads events until the answer to `id`, or the end of the connection.
    async fn events(
        &self,
        body: &mut Body,
        stream: &mut Stream,
        asks: &mut JoinSet<()>,
        origin: Origin<'_>,
    ) -> Result<Option<Reply>, Failure> {
        while let Some(bytes) = body.next().await? {
            let events = stream
                .reader
                .feed(&bytes)
                .map_err(|sse::TooLong| super::pool::too_long(limits::MCP_MESSAGE_BYTES_MAX))?;
            for event in events {
                stream.note(&event);
                if !event.message || event.data.is_empty() {
                    continue;
                }
                if let Some(reply) = self.take(&event.data, &mut stream.gate, asks, origin) {
                    self.ending(body).await;
                    return Ok(Some(reply));
                }
            }
            while asks.try_join_next().is_some() {}
        }
        Ok(None)
    }

    /// Lets a stream end that has nothing more to say, so that its connection can be used again.
    async fn ending(&self, body: &mut Body) {
        let rest = async { while let Ok(Some(_)) = body.next().await {} };
        // Most end at once; one that does not is closed with the body.
        let _closed = tokio::time::timeout(Duration::ZERO, rest).await;
    }

    /// One message; the answer that is waited for is given back.
    fn take(
        &self,
        data: &[u8],
        gate: &mut Gate,
        asks: &mut JoinSet<()>,
        origin: Origin<'_>,
    ) -> Option<Reply> {
        match Message::parse(data) {
            Ok(Message::Response { id: Some(answered), outcome }) => {
                let reply = outcome.map(ToOwned::to_owned);
                if answered == origin.id {
                    return Some(reply);
                }
                match lock(&self.waiting).remove(&answered) {
                    // Whoever waited may have gone.
                    Some(waiting) => drop(waiting.send(reply)),
                    None => self.hub.ignored(),
                }
            }
            Ok(Message::Notification { method, params }) => {
                if gate.pass() {
                    self.hub.notified(self.lane.as_deref(), origin.caller, &method, params);
                } else {
                    self.hub.dropped();
                }
            }
            // The stateless revision has no questions on the wire.
            Ok(Message::Request { id, method, params })
                if !self.modern() && asks.len() < limits::MCP_ASKS_MAX =>
            {
                let newest = || self.hub.newest(self.lane.as_deref());
                let answer = serve::answer(
                    self.askable,
                    origin.caller.cloned().or_else(newest),
                    id.to_owned(),
                    method.into_owned(),
                    params.map(ToOwned::to_owned),
                );
                let post = self.poster(origin.subject);
                asks.spawn(async move {
                    let answer = answer.await;
                    // On its own: the call may be over before the upstream says that it took it.
                    tokio::spawn(async move { post.post(answer).await });
                });
            }
            Ok(_) | Err(_) => self.hub.ignored(),
        }
        None
    }

    fn poster(&self, subject: Option<&Subject>) -> Poster {
        let (endpoint, headers) = (Arc::clone(&self.endpoint), self.headers.clone());
        Poster { endpoint, headers, subject: subject.cloned() }
    }

    /// Sends what needs no answer.
    pub(super) async fn tell(&self, message: Vec<u8>) -> Result<(), Failure> {
        self.poster(None).tell(message).await
    }

    /// Listens to the stream of what belongs to no request, for as long as the upstream has one.
    /// Says so once it is open, or is not to be had.
    pub(super) async fn listen(&self, opened: oneshot::Sender<()>) {
        let mut opened = Some(opened);
        let mut stream = Stream::new();
        let mut asks = JoinSet::new();
        let mut failed = 0;
        while failed < limits::MCP_RESUMES_MAX {
            let resumed = self.resume(stream.last.as_deref(), None).await;
            if let Some(opened) = opened.take() {
                let _gone = opened.send(());
            }
            match resumed {
                Ok(Some(mut body)) => {
                    // No answer belongs on this stream: ids start at 1.
                    let none = Origin { id: 0, caller: None, subject: None };
                    let _ended = self.events(&mut body, &mut stream, &mut asks, none).await;
                    failed = if std::mem::take(&mut stream.seen) > 0 { 0 } else { failed + 1 };
                    stream.reader = sse::Reader::default();
                }
                Ok(None) | Err(Lost::Expired) => return,
                Err(Lost::NotSent(_) | Lost::Unknown(_)) => failed += 1,
            }
            tokio::time::sleep(stream.retry).await;
        }
    }

    /// Ends the session at the upstream.
    pub(super) async fn end(&self) {
        if self.headers.contains_key(SESSION) {
            let way = Way { subject: None, repeatable: false, caller: None };
            let sent = self.endpoint.send(Method::DELETE, self.headers.clone(), Bytes::new(), &way);
            // The upstream ends it on its own some time.
            let _ended = tokio::time::timeout(limits::MCP_NOTIFY_TIMEOUT, sent).await;
        }
    }
}

/// The request that a stream belongs to.
#[derive(Clone, Copy)]
struct Origin<'a> {
    id: u64,
    caller: Option<&'a Arc<Caller>>,
    subject: Option<&'a Subject>,
}

/// A request whose answer may come over another stream.
struct Waiting<'a> {
    session: &'a Session,
    id: u64,
}

impl<'a> Waiting<'a> {
    fn new(session: &'a Session, id: u64, answer: oneshot::Sender<Reply>) -> Self {
        lock(&session.waiting).insert(id, answer);
        Self { session, id }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        lock(&self.session.waiting).remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where a stream is.
struct Stream {
    reader: sse::Reader,
    last: Option<String>,
    retry: Duration,
    gate: Gate,
    /// Events since it was opened or taken up.
    seen: usize,
}

impl Stream {
    fn new() -> Self {
        Self {
            reader: sse::Reader::default(),
            last: None,
            retry: limits::MCP_RETRY,
            gate: Gate::new(),
            seen: 0,
        }
    }

    fn note(&mut self, event: &sse::Event) {
        self.seen += 1;
        if let Some(id) = &event.id {
            self.last = (!id.is_empty()).then(|| id.clone());
        }
        if let Some(retry) = event.retry {
            self.retry = Duration::from_millis(retry).min(limits::MCP_RETRY_MAX);
        }
    }
}

/// Posts messages that need no answer, on its own.
struct Poster {
    endpoint: Arc<Endpoint>,
    headers: HeaderMap,
    subject: Option<Subject>,
}

impl Poster {
    async fn tell(self, message: Vec<u8>) -> Result<(), Failure> {
        let way = Way { subject: self.subject.as_ref(), repeatable: false, caller: None };
        let sent = self.endpoint.send(Method::POST, self.headers, message.into(), &way);
        match tokio::time::timeout(limits::MCP_NOTIFY_TIMEOUT, sent).await {
            Ok(Ok((head, mut body))) => {
                // Read to its end, so that the connection can be used again.
                let _read = body.whole(limits::MCP_ERROR_BODY_BYTES_MAX).await;
                match head.status.is_success() {
                    true => Ok(()),
                    false => Err(lost_failure(refused(head.status, &head.headers))),
                }
            }
            Ok(Err(lost)) => Err(lost_failure(lost)),
            Err(_) => Err(Failure::new(Category::Timeout, "timeout", "the message was not taken")),
        }
    }

    async fn post(self, message: Vec<u8>) {
        if let Err(failure) = self.tell(message).await {
            tracing::debug!(code = failure.code, "an MCP server did not take a message");
        }
    }
}

fn lost_failure(lost: Lost) -> Failure {
    match lost {
        Lost::NotSent(failure) | Lost::Unknown(failure) => failure,
        Lost::Expired => message::invalid("ends the session"),
    }
}

/// Tells an upstream with sessions that an answer is not waited for any more. A stateless one is
/// told by the end of the connection.
struct Cancel<'a> {
    session: &'a Session,
    subject: Option<&'a Subject>,
    id: u64,
    armed: bool,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if self.armed {
            let (post, id) = (self.session.poster(self.subject), self.id);
            tokio::spawn(async move { post.post(message::cancelled(id)).await });
        }
    }
}

fn is(head: &Head, kind: &str) -> bool {
    let value = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let value = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    value.trim().eq_ignore_ascii_case(kind)
}

fn broken() -> Failure {
    let message = "the MCP server ended the stream without an answer";
    Failure::new(Category::Network, "stream_broken", message)
}

/// What a status without an answer of JSON-RPC stands for.
fn refused(status: StatusCode, headers: &HeaderMap) -> Lost {
    let failure =
        |category, code| Failure::new(category, code, format!("the MCP server answered {status}"));
    let wait = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let wait = wait.and_then(|value| value.trim().parse::<u64>().ok());
    let wait = wait.map(|s| s.min(limits::RETRY_AFTER_MAX.as_secs()) * 1_000);
    let after = |failure: Failure| match wait {
        Some(ms) => failure.retry_after_ms(ms),
        None => failure,
    };
    match status {
        StatusCode::TOO_MANY_REQUESTS => {
            Lost::NotSent(after(failure(Category::RateLimited, "rate_limited")))
        }
        StatusCode::SERVICE_UNAVAILABLE => {
            Lost::NotSent(after(failure(Category::Upstream, "upstream_unavailable")))
        }
        // It may have acted before it failed.
        status if status.is_server_error() => {
            Lost::Unknown(failure(Category::Upstream, "upstream_failed"))
        }
        _ => Lost::NotSent(failure(Category::Upstream, "upstream_refused").retryable(false)),
    }
}
