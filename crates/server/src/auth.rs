//! One middleware in front of every route: request id, credential, rate limit, permission.
//!
//! A credential is looked at again while its request lasts: who is revoked waits no longer.
//!
//! REST and gRPC share it: the route (and with it the permission) is found by the path. Routes
//! that are written by hand and not in `proto/` say what they demand themselves ([`Guarded`]).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use hyper::body::{Frame, SizeHint};
use kernel::failure::{Category, Failure};
use proto::routes::{self, Idempotency, Route};

use crate::credentials::{self, Credential, Holder};
use crate::error;
use crate::limits;
use crate::mcp;
use crate::mcp::auth::Lack;
use crate::rate::{Allowance, Rates};
use crate::sessions;
use crate::shared::{Caller, Shared};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What the middleware needs.
#[derive(Clone)]
pub(crate) struct Gate {
    shared: Arc<Shared>,
    rates: Arc<Rates>,
}

impl Gate {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, rates: Arc::default() }
    }

    /// Refuses, with what a client of that route needs to know to do better.
    fn refuse(&self, door: Door, failure: Failure, id: &HeaderValue, grpc: bool) -> Response {
        let Door::Guarded(guarded) = door else { return refuse(failure, id, grpc) };
        let lack = Lack::of(&failure, guarded.scopes);
        let mut response = refuse(failure, id, false);
        if let Some(lack) = lack {
            let value = mcp::auth::challenge(&self.shared, lack);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

/// A route that is written by hand, and what it demands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guarded {
    /// Its path, whatever the method.
    pub(crate) path: &'static str,
    /// Its name in the metrics.
    pub(crate) name: &'static str,
    /// What the caller must have.
    pub(crate) permission: &'static str,
    /// What a client is told to ask for, to get in.
    pub(crate) scopes: &'static [&'static str],
}

/// The routes that are written by hand and not public.
const GUARDED: [Guarded; 1] = [mcp::auth::DOOR];

/// What a request's route demands.
#[derive(Clone, Copy)]
enum Door {
    /// Nothing: it is public, or there is no such route.
    Open,
    /// What `proto/` says.
    Rpc(&'static Route),
    /// What it says itself.
    Guarded(&'static Guarded),
}

impl Door {
    fn of(request: &Request) -> Self {
        let path = request.uri().path();
        if let Some(guarded) = GUARDED.iter().find(|guarded| guarded.path == path) {
            return Self::Guarded(guarded);
        }
        route_of(request).map_or(Self::Open, Self::Rpc)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Open => "other",
            Self::Rpc(route) => route.rpc,
            Self::Guarded(guarded) => guarded.name,
        }
    }

    fn permission(self) -> Option<&'static str> {
        match self {
            Self::Open => None,
            Self::Rpc(route) => route.permission,
            Self::Guarded(guarded) => Some(guarded.permission),
        }
    }
}

/// The credential of a request, for what outlives the request. Handlers of guarded routes find it
/// beside the [`Caller`].
#[derive(Clone, Debug)]
pub(crate) struct Standing(Arc<Credential>);

impl Standing {
    /// Who holds the credential, as things stand now.
    pub(crate) fn caller(&self, shared: &Shared) -> Result<Caller, Failure> {
        credentials::holder(shared, &self.0).map(|holder| holder.caller)
    }
}

/// Lets a request through to its handler, or refuses it.
pub(crate) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let request_id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, request_id.clone());
    let door = Door::of(&request);
    let grpc = is_grpc(&request);
    let mut response = match admit(&gate, &mut request, door) {
        Ok(None) => next.run(request).await,
        Ok(Some((credential, allowance))) => {
            let mut response = tokio::select! {
                biased;
                response = next.run(request) => response,
                failure = ends(&gate.shared, &credential) => {
                    gate.refuse(door, failure, &request_id, grpc)
                }
            };
            show_allowance(response.headers_mut(), allowance);
            watch(&gate.shared, credential, response)
        }
        Err(refused) => {
            let mut response = gate.refuse(door, refused.failure, &request_id, grpc);
            if let Some(allowance) = refused.allowance {
                show_allowance(response.headers_mut(), allowance);
            }
            response
        }
    };
    response.headers_mut().insert(REQUEST_ID, request_id);
    gate.shared.metrics.request(door.name(), response.status().as_u16(), started.elapsed());
    response
}

/// Ends a body that is still being made once the credential is good no more.
fn watch(shared: &Arc<Shared>, credential: Arc<Credential>, response: Response) -> Response {
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    let shared = shared.clone();
    let ended = async move {
        let _why = ends(&shared, &credential).await;
    };
    response.map(|body| Body::new(Watched { body, ended: Box::pin(ended) }))
}

/// A body that ends early where its credential does.
struct Watched {
    body: Body,
    ended: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.get_mut();
        if !this.body.is_end_stream() && this.ended.as_mut().poll(context).is_ready() {
            this.body = Body::empty();
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct NotAdmitted {
    failure: Failure,
    allowance: Option<Allowance>,
}

impl From<Failure> for NotAdmitted {
    fn from(failure: Failure) -> Self {
        Self { failure, allowance: None }
    }
}

pub(crate) fn is_grpc(request: &Request) -> bool {
    let content_type = request.headers().get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn route_of(request: &Request) -> Option<&'static Route> {
    let matched = request.extensions().get::<MatchedPath>();
    matched
        .and_then(|path| routes::by_rest(request.method(), path.as_str()))
        .or_else(|| routes::by_grpc(request.uri().path()))
}

/// Checks everything that the route demands and puts the caller into the request.
fn admit(
    gate: &Gate,
    request: &mut Request,
    door: Door,
) -> Result<Option<(Arc<Credential>, Allowance)>, NotAdmitted> {
    // What has no route is answered by its fallback (404, 405) or is public by itself.
    let Some(permission) = door.permission() else { return Ok(None) };
    if gate.shared.control.doubt.is_open() {
        let message = "it is not known for the moment who may do what";
        let failure = Failure::new(Category::Internal, "unavailable", message);
        return Err(failure.retry_after_ms(limits::DOUBT_RETRY_MS).into());
    }
    let (credential, caller, allowance) = authenticate(gate, request, door)?;
    let refused = |failure| NotAdmitted { failure, allowance: Some(allowance) };
    if !caller.may(permission) {
        let message = format!("this takes the permission `{permission}`");
        return Err(refused(Failure::new(Category::Permission, "permission_denied", message)));
    }
    let credential = Arc::new(credential);
    let key = match door {
        Door::Rpc(route) => key_for(route, request.headers()).map_err(refused)?,
        Door::Open | Door::Guarded(_) => {
            request.extensions_mut().insert(Standing(credential.clone()));
            None
        }
    };
    let trace_id = trace_id(request.headers());
    request.extensions_mut().insert(allowance);
    request.extensions_mut().insert(Caller { idempotency_key: key, trace_id, ..caller });
    Ok(Some((credential, allowance)))
}

/// Returns once the credential is good no more, with why.
async fn ends(shared: &Shared, credential: &Credential) -> Failure {
    loop {
        tokio::time::sleep(limits::CREDENTIAL_LOOK_EVERY).await;
        if let Err(failure) = credentials::holder(shared, credential) {
            return failure;
        }
    }
}

fn authenticate(
    gate: &Gate,
    request: &Request,
    door: Door,
) -> Result<(Credential, Caller, Allowance), NotAdmitted> {
    let (shared, headers) = (&gate.shared, request.headers());
    let text = match credential(headers) {
        Some(text) => text,
        None => {
            let missing = || {
                let message = "send an API key as `X-API-Key`, or a key or token as Bearer";
                Failure::new(Category::Auth, "credential_missing", message)
            };
            // A cookie speaks for a browser: programs come with their own credentials.
            let cookie = match door {
                Door::Guarded(_) => None,
                Door::Open | Door::Rpc(_) => sessions::cookie(headers),
            };
            let text = cookie.ok_or_else(missing)?;
            sessions::same_site(shared, request.method(), headers)?;
            text
        }
    };
    let read = match door {
        Door::Guarded(_) => credentials::read_for(shared, text, mcp::auth::resource(shared)),
        Door::Open | Door::Rpc(_) => credentials::read(shared, text),
    };
    let credential = read.ok_or_else(credentials::invalid)?;
    let Holder { caller, base, rate_per_min, .. } = credentials::holder(shared, &credential)?;
    let allowance =
        gate.rates.take(&base, rate_per_min, shared.now()).map_err(|(allowance, wait_ms)| {
            let failure = Failure::new(
                Category::RateLimited,
                "rate_limited",
                "this key has used up its requests",
            );
            NotAdmitted { failure: failure.retry_after_ms(wait_ms), allowance: Some(allowance) }
        })?;
    Ok((credential, caller, allowance))
}

/// The API key, session or token in the headers that programs send.
pub(crate) fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get(API_KEY) {
        return key.to_str().ok();
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// The idempotency key, without which some routes do nothing.
fn key_for(route: &Route, headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let key = idempotency_key(headers)?;
    if route.idempotency == Idempotency::Required && key.is_none() {
        let message = "send an `Idempotency-Key` header: any text that is new for each request";
        return Err(Failure::new(Category::Validation, "idempotency_key_required", message));
    }
    Ok(key)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Failure> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let text = value.to_str().unwrap_or("");
    if text.is_empty() || text.len() > limits::IDEMPOTENCY_KEY_BYTES_MAX {
        let message = "an idempotency key is 1 to 255 printable ASCII characters";
        return Err(Failure::new(Category::Validation, "invalid_idempotency_key", message));
    }
    Ok(Some(text.to_owned()))
}

/// The trace id of a W3C `traceparent`: `00-<32 hex>-<16 hex>-<2 hex>`.
fn trace_id(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    let id = value.split('-').nth(1)?;
    let hex = id.len() == 32
        && id.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        && id.bytes().any(|b| b != b'0');
    hex.then(|| id.to_owned())
}

/// The request's own id where it is harmless, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let own = headers.get(REQUEST_ID).filter(|value| {
        let bytes = value.as_bytes();
        let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:".contains(b);
        (1..=128).contains(&bytes.len()) && bytes.iter().all(plain)
    });
    let made = || HeaderValue::from_str(&crate::shared::new_id("req"));
    own.cloned().or_else(|| made().ok()).unwrap_or_else(|| HeaderValue::from_static("req"))
}

fn show_allowance(headers: &mut HeaderMap, allowance: Allowance) {
    let Allowance { limit, remaining, reset_ms } = allowance;
    headers.insert("x-ratelimit-limit", limit.into());
    headers.insert("x-ratelimit-remaining", remaining.into());
    headers.insert("x-ratelimit-reset", reset_ms.div_ceil(1_000).into());
}

pub(crate) fn refuse(failure: Failure, request_id: &HeaderValue, grpc: bool) -> Response {
    let mut wire = error::wire(failure);
    wire.request_id = request_id.to_str().unwrap_or_default().to_owned();
    if grpc {
        let status = proto::error::status_from_error(wire);
        return status.into_http::<Body>();
    }
    wire.into_response()
}
