//! Streamable HTTP: each message of ours is a POST; answers come as JSON or as a stream of events.

use std::sync::Arc;
use std::time::Duration;

use http::response::Parts as Head;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::Full;
use hyper::body::Bytes;
use kernel::failure::{Category, Failure};
use tokio::task::JoinSet;
use zeroize::Zeroizing;

use super::auth::{Authorizer, Challenge, Subject};
use super::connection::{Lost, Out, Reply};
use super::error::Error;
use super::health::Hub;
use super::message::{self, Message};
use super::pool::{Body, Pool};
use super::serve::{self, Askable, Caller, Gate};
use super::spec::{self, Parts, Revision, Secrets};
use super::sse;
use crate::http::request::{Target, header_map, parse_url};
use crate::http::wire;
use crate::limits;

pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const METHOD: HeaderName = HeaderName::from_static("mcp-method");
const NAME: HeaderName = HeaderName::from_static("mcp-name");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");
const EVENTS: &str = "text/event-stream";

/// The MCP endpoint of one upstream.
pub(super) struct Endpoint {
    pool: Arc<Pool>,
    /// What the request line asks for, secrets not yet in place.
    path: String,
    host: HeaderValue,
    /// Headers without secrets.
    fixed: HeaderMap,
    /// Headers with secrets.
    secret: Vec<(HeaderName, String)>,
    secrets: Arc<dyn Secrets>,
    authorizer: Option<Arc<dyn Authorizer>>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Endpoint {
    pub(super) fn new(
        url: &str,
        headers: &std::collections::BTreeMap<String, String>,
        private: bool,
        parts: &Parts,
    ) -> Result<Self, Error> {
        let (target, path) = target(url)?;
        let host = HeaderValue::from_str(&target.authority())
            .map_err(|_| Error::Url("names a host that cannot be sent".to_owned()))?;
        let (open, secret): (Vec<_>, Vec<_>) =
            headers.iter().partition(|(_, value)| !value.contains("${"));
        let open = open.into_iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        let fixed = header_map(&open).map_err(|failure| header_error(&failure))?;
        let mut hidden = Vec::new();
        for (name, value) in secret {
            // Checked with a value in place of the secret.
            let probe = [(name.clone(), "x".to_owned())].into();
            header_map(&probe).map_err(|failure| header_error(&failure))?;
            let parsed = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::Header { name: name.clone(), reason: "is malformed" })?;
            hidden.push((parsed, value.clone()));
        }
        for name in fixed.keys().chain(hidden.iter().map(|(name, _)| name)) {
            if ours(name) {
                let reason = "is set by Tally: leave it out";
                return Err(Error::Header { name: name.to_string(), reason });
            }
        }
        let tls = match target.scheme {
            crate::http::request::Scheme::Http => None,
            crate::http::request::Scheme::Https => Some(
                wire::tls(parts.extra_ca_pem.as_deref())
                    .map_err(|e| Error::Certificate(e.to_string()))?,
            ),
        };
        Ok(Self {
            pool: Arc::new(Pool::new(target, private, Arc::clone(&parts.resolver), tls)),
            path,
            host,
            fixed,
            secret: hidden,
            secrets: Arc::clone(&parts.secrets),
            authorizer: parts.authorizer.clone(),
        })
    }

    /// The headers that every request has, their secrets in place.
    fn headers(&self) -> Result<HeaderMap, Failure> {
        let mut headers = self.fixed.clone();
        headers.insert(header::HOST, self.host.clone());
        for (name, value) in &self.secret {
            let value = spec::reveal(value, self.secrets.as_ref())?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                let message = format!("the secret in the header `{name}` cannot be sent in one");
                Failure::new(Category::Validation, "header_refused", message)
            })?;
            value.set_sensitive(true);
            headers.insert(name.clone(), value);
        }
        Ok(headers)
    }

    fn path(&self) -> Result<Zeroizing<String>, Failure> {
        spec::reveal(&self.path, self.secrets.as_ref())
    }

    /// Sends one request, authorised, and gives the answer that is no demand for authorisation.
    async fn send(
        &self,
        method: Method,
        extra: HeaderMap,
        body: Bytes,
        way: &Way<'_>,
    ) -> Result<(Head, Body), Lost> {
        let mut challenge: Option<Challenge> = None;
        for _ in 0..=limits::MCP_CHALLENGES_MAX {
            let mut request = Request::new(Full::new(body.clone()));
            let path = self.path()?;
            *request.method_mut() = method.clone();
            *request.uri_mut() = path.parse().map_err(|_| {
                let message = "the URL's path cannot be sent with its secrets in place";
                Failure::new(Category::Validation, "url_invalid", message)
            })?;
            let mut headers = self.headers()?;
            headers.extend(extra.clone());
            if let Some(authorizer) = &self.authorizer {
                let value = authorizer.authorization(way.subject, challenge.as_ref()).await?;
                if let Some(mut value) = value {
                    value.set_sensitive(true);
                    headers.insert(header::AUTHORIZATION, value);
                }
            }
            *request.headers_mut() = headers;
            let (head, answer) = self.pool.send(request, way.repeatable, way.caller).await?;
            if !matches!(head.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                return Ok((head, answer));
            }
            // Refused, so not acted upon.
            if let Some(caller) = way.caller {
                caller.not_sent();
            }
            let demanded = head.headers.get(header::WWW_AUTHENTICATE);
            let demanded = demanded.and_then(|value| value.to_str().ok()).map(str::to_owned);
            let status = head.status.as_u16();
            let www_authenticate = match (&self.authorizer, demanded) {
                (Some(_), Some(demanded)) => demanded,
                (Some(_), None) if status == 401 => String::new(),
                _ => return Err(unauthorized(head.status).into()),
            };
            challenge = Some(Challenge { status, www_authenticate });
        }
        Err(unauthorized(StatusCode::UNAUTHORIZED).into())
    }
}

/// How a request is sent.
struct Way<'a> {
    subject: Option<&'a Subject>,
    repeatable: bool,
    caller: Option<&'a Caller>,
}

/// Splits a URL into its origin, which has no secrets, and the rest.
fn target(url: &str) -> Result<(Target, String), Error> {
    let invalid = |failure: Failure| Error::Url(failure.message);
    if spec::secret_names(url).is_none() {
        return Err(Error::Secret { place: "the URL".to_owned() });
    }
    let (origin, path) = match url.split_once("${") {
        None => (url, None),
        Some((before, _)) => {
            let rest = before.split_once("://").map_or("", |(_, rest)| rest);
            if !rest.contains('/') {
                let reason = "may hold secrets in its path and query only";
                return Err(Error::Url(reason.to_owned()));
            }
            (before, url.splitn(4, '/').nth(3).map(|path| format!("/{path}")))
        }
    };
    let parsed = parse_url(origin).map_err(invalid)?;
    let target = Target::new(parsed).map_err(invalid)?;
    let path = path.unwrap_or_else(|| target.path_and_query());
    Ok((target, path))
}

fn header_error(failure: &Failure) -> Error {
    Error::Header { name: failure.message.clone(), reason: "cannot be set" }
}

/// Headers that this client sets.
fn ours(name: &HeaderName) -> bool {
    let text = name.as_str();
    [SESSION, VERSION, METHOD, NAME, LAST_EVENT].contains(name)
        || matches!(text, "accept" | "content-type" | "origin")
        || text.starts_with("mcp-param-")
}

fn unauthorized(status: StatusCode) -> Failure {
    let message = format!("the MCP server demands authorisation: it answered {status}");
    Failure::new(Category::Auth, "upstream_unauthorized", message)
}

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
        let mut headers = HeaderMap::new();
        let accepted = HeaderValue::from_static("application/json, text/event-stream");
        headers.insert(header::ACCEPT, accepted);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if revision == Revision::V2026_07_28 {
            headers.insert(VERSION, HeaderValue::from_static("2026-07-28"));
        }
        let (endpoint, hub) = (Arc::clone(endpoint), Arc::clone(hub));
        Self { endpoint, revision, headers, askable, lane, hub }
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
        let mut cancel = Cancel { session: self, id: out.id, armed: false };
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
            let caller = out.caller;
            self.stream(body, out.id, caller, out.subject).await
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

    /// An answer that is a stream of events; a broken one is taken up again where that is possible.
    async fn stream(
        &self,
        mut body: Body,
        id: u64,
        caller: Option<&Arc<Caller>>,
        subject: Option<&Subject>,
    ) -> Result<Reply, Lost> {
        let mut asks = JoinSet::new();
        let mut stream = Stream::new();
        let mut failed = 0;
        loop {
            let ended = self.events(&mut body, &mut stream, &mut asks, id, caller).await;
            let why = match ended {
                Ok(Some(reply)) => return Ok(reply),
                Ok(None) => broken(),
                Err(failure) => failure,
            };
            if self.modern() || !why.retryable {
                return Err(Lost::Unknown(why));
            }
            loop {
                let Some(last) = stream.last.clone() else { return Err(Lost::Unknown(why)) };
                if failed == limits::MCP_RESUMES_MAX {
                    return Err(Lost::Unknown(why));
                }
                failed += 1;
                tokio::time::sleep(stream.retry).await;
                match self.resume(Some(&last), subject).await {
                    Ok(Some(taken)) => {
                        body = taken;
                        let seen = std::mem::replace(&mut stream.seen, 0);
                        failed = if seen > 0 { 0 } else { failed };
                        stream.reader = sse::Reader::default();
                        break;
                    }
                    Ok(None) => return Err(Lost::Unknown(why)),
                    Err(Lost::Expired) => return Err(Lost::Unknown(why)),
                    Err(Lost::NotSent(_) | Lost::Unknown(_)) => {}
                }
            }
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
        id: u64,
        caller: Option<&Arc<Caller>>,
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
                if let Some(reply) = self.take(&event.data, &mut stream.gate, asks, id, caller) {
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

    /// One message; the answer to `id` is given back.
    fn take(
        &self,
        data: &[u8],
        gate: &mut Gate,
        asks: &mut JoinSet<()>,
        id: u64,
        caller: Option<&Arc<Caller>>,
    ) -> Option<Reply> {
        match Message::parse(data) {
            Ok(Message::Response { id: Some(answered), outcome }) if answered == id => {
                return Some(outcome.map(ToOwned::to_owned));
            }
            Ok(Message::Notification { method, params }) => {
                if gate.pass() {
                    self.hub.notified(self.lane.as_deref(), caller, &method, params);
                } else {
                    self.hub.dropped();
                }
            }
            // The stateless revision has no questions on the wire.
            Ok(Message::Request { id, method, params })
                if !self.modern() && asks.len() < limits::MCP_ASKS_MAX =>
            {
                let caller = caller.cloned().or_else(|| self.hub.newest(self.lane.as_deref()));
                let answer = serve::answer(
                    self.askable,
                    caller,
                    id.to_owned(),
                    method.into_owned(),
                    params.map(ToOwned::to_owned),
                );
                let post = self.poster();
                asks.spawn(async move { post.post(answer.await).await });
            }
            Ok(_) | Err(_) => self.hub.ignored(),
        }
        None
    }

    fn poster(&self) -> Poster {
        Poster { endpoint: Arc::clone(&self.endpoint), headers: self.headers.clone() }
    }

    /// Sends what needs no answer.
    pub(super) async fn tell(&self, message: Vec<u8>) -> Result<(), Failure> {
        self.poster().tell(message).await
    }

    /// Listens to the stream of what belongs to no request, for as long as the upstream has one.
    pub(super) async fn listen(&self) {
        let mut stream = Stream::new();
        let mut asks = JoinSet::new();
        let mut failed = 0;
        while failed < limits::MCP_RESUMES_MAX {
            match self.resume(stream.last.as_deref(), None).await {
                Ok(Some(mut body)) => {
                    // No answer belongs on this stream: ids start at 1.
                    let _ended = self.events(&mut body, &mut stream, &mut asks, 0, None).await;
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
}

impl Poster {
    async fn tell(self, message: Vec<u8>) -> Result<(), Failure> {
        let way = Way { subject: None, repeatable: false, caller: None };
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
    id: u64,
    armed: bool,
}

impl Drop for Cancel<'_> {
    fn drop(&mut self) {
        if self.armed {
            let (post, id) = (self.session.poster(), self.id);
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
