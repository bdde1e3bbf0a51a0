//! `/mcp`: one endpoint for every client, modern and legacy.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use connectors::mcp::RpcError;
use http::{HeaderMap, HeaderName, StatusCode, header};
use kernel::failure::{Category, Failure};
use parking_lot::Mutex;

use super::errors::{self, rpc_error};
use super::headers::{self, Doors};
use super::lanes::Lanes;
use super::limits;
use super::listen::Listeners;
use super::parked::Parked;
use super::revision::{self, Era};
use super::rpc::{self, Message};
use super::sessions::{Owner, Sessions, View};
use super::watch::Followed;
use super::{legacy, modern, stream};
use crate::auth::Standing;
use crate::shared::{Caller, Shared};

/// The header that names a session.
pub(super) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const LAST_EVENT: HeaderName = HeaderName::from_static("last-event-id");

/// What the surface remembers of its clients. None of it decides what may happen, and none of it
/// outlives the process.
pub(crate) struct Surface {
    pub(super) shared: Arc<Shared>,
    pub(super) doors: Doors,
    pub(super) sessions: Sessions,
    pub(super) parked: Parked,
    pub(super) listeners: Listeners,
    pub(super) lanes: Lanes,
    pub(super) followed: Followed,
    /// Requests without a session that are under way, by who asks.
    in_flight: Mutex<HashMap<String, usize>>,
}

/// One request, admitted.
#[derive(Clone)]
pub(super) struct Visit {
    pub(super) surface: Arc<Surface>,
    pub(super) caller: Caller,
    pub(super) standing: Standing,
    pub(super) view: View,
}

impl Visit {
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.surface.shared
    }
}

/// A place among the requests of one caller that are under way.
#[derive(Debug)]
pub(super) struct Place {
    surface: Arc<Surface>,
    key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut in_flight = self.surface.in_flight.lock();
        if let Some(count) = in_flight.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                in_flight.remove(&self.key);
            }
        }
    }
}

impl std::fmt::Debug for Surface {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surface").finish_non_exhaustive()
    }
}

impl Surface {
    /// The surface of a server that listens at `url`.
    pub(crate) fn new(shared: Arc<Shared>, url: &str) -> Arc<Self> {
        let config = &shared.config;
        let public = config.public_url.as_deref();
        let mcp = &config.mcp;
        let doors = Doors::new(url, public, &mcp.allowed_hosts, &mcp.allowed_origins);
        Arc::new(Self {
            shared,
            doors,
            sessions: Sessions::default(),
            parked: Parked::default(),
            listeners: Listeners::default(),
            lanes: Lanes::default(),
            followed: Followed::default(),
            in_flight: Mutex::default(),
        })
    }

    /// Takes a place among the requests of `owner` that are under way.
    pub(super) fn place(self: &Arc<Self>, owner: &Owner) -> Result<Place, Failure> {
        let key = owner.key();
        let mut in_flight = self.in_flight.lock();
        let count = in_flight.entry(key.clone()).or_default();
        if *count >= limits::IN_FLIGHT_MAX {
            let message = "too many of your requests are under way";
            return Err(Failure::new(Category::RateLimited, "too_many_requests", message));
        }
        *count += 1;
        Ok(Place { surface: self.clone(), key })
    }
}

/// The routes of the surface. The gate has let in who gets here.
pub(crate) fn router(surface: Arc<Surface>) -> Router {
    Router::new().route("/mcp", post(take).get(listen).delete(leave)).with_state(surface)
}

type Reply = Result<Response, Response>;

/// Checks where a request comes from and finds who asks.
fn admit(surface: &Arc<Surface>, request: &Request) -> Result<Visit, Response> {
    if let Err(reason) = surface.doors.check(request.uri(), request.headers()) {
        let error = RpcError::new(rpc::INVALID_REQUEST, reason);
        return Err(errors::refused(StatusCode::FORBIDDEN, None, &error));
    }
    let (caller, standing) = (request.extensions().get(), request.extensions().get());
    let (Some(caller), Some(standing)) = (caller, standing) else {
        let error = RpcError::new(rpc::INTERNAL_ERROR, "a route without a caller");
        return Err(errors::refused(StatusCode::INTERNAL_SERVER_ERROR, None, &error));
    };
    let caller: &Caller = caller;
    let view = view(surface, caller, request.uri().query())?;
    let (caller, standing): (Caller, &Standing) = (caller.clone(), standing);
    Ok(Visit { surface: surface.clone(), caller, standing: standing.clone(), view })
}

/// The upstreams that the address asks for: `?server=NAME` for one alone.
fn view(surface: &Surface, caller: &Caller, query: Option<&str>) -> Result<View, Response> {
    let Some(query) = query else { return Ok(View::default()) };
    let pairs = form_urlencoded::parse(query.as_bytes());
    let name = pairs.filter(|(key, _)| key == "server").map(|(_, name)| name.into_owned()).last();
    match name {
        Some(name) if surface.shared.upstreams.get(&caller.tenant, &name).is_none() => {
            let error = RpcError::new(rpc::INVALID_PARAMS, format!("no MCP server `{name}`"));
            Err(errors::refused(StatusCode::NOT_FOUND, None, &error))
        }
        name => Ok(View(name)),
    }
}

/// POST: one message.
async fn take(State(surface): State<Arc<Surface>>, request: Request) -> Response {
    let begun = Instant::now();
    let response = match post_message(&surface, request).await {
        Ok(response) | Err(response) => response,
    };
    tracing::trace!(elapsed = ?begun.elapsed(), status = %response.status(), "mcp");
    response
}

async fn post_message(surface: &Arc<Surface>, request: Request) -> Reply {
    let visit = admit(surface, &request)?;
    let (parts, body) = request.into_parts();
    let headers = &parts.headers;
    if !headers::is_json(headers) {
        let error = RpcError::new(rpc::INVALID_REQUEST, "the content type is application/json");
        return Err(errors::refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, None, &error));
    }
    if !headers::accepts(headers, &["application/json", "text/event-stream"]) {
        let message = "accept both application/json and text/event-stream";
        let error = RpcError::new(rpc::INVALID_REQUEST, message);
        return Err(errors::refused(StatusCode::NOT_ACCEPTABLE, None, &error));
    }
    let body = read(body).await?;
    let message = Message::parse(&body).map_err(|error| {
        let id = match &error {
            rpc::Error::Params { id, .. } => id.as_ref(),
            _ => None,
        };
        let wire = RpcError::new(error.code(), error.to_string());
        errors::refused(StatusCode::BAD_REQUEST, id, &wire)
    })?;
    dispatch(visit, headers, message).await
}

async fn read(body: Body) -> Result<Bytes, Response> {
    to_bytes(body, limits::MESSAGE_BYTES_MAX).await.map_err(|error| {
        tracing::debug!(%error, "a body of /mcp was not read to its end");
        let message = "the message is too large or broke off: at most 4 MiB";
        let error = RpcError::new(rpc::INVALID_REQUEST, message);
        errors::refused(StatusCode::PAYLOAD_TOO_LARGE, None, &error)
    })
}

async fn dispatch(visit: Visit, headers: &HeaderMap, message: Message<'_>) -> Reply {
    let (id, asked) = match message {
        Message::Request(id, asked) => (Some(id), asked),
        Message::Notification(asked) => (None, asked),
        Message::Response(id, answer) => return legacy::answered(&visit, headers, &id, answer),
    };
    let invalid = |reason: String| {
        let error = RpcError::new(rpc::INVALID_PARAMS, reason);
        errors::refused(StatusCode::BAD_REQUEST, id.as_ref(), &error)
    };
    let meta = asked.meta().map_err(invalid)?;
    match (revision::era(headers, &asked.method, meta.version.is_some()), id) {
        (Era::Modern, Some(id)) => modern::request(visit, headers, id, asked, meta).await,
        (Era::Modern, None) => Ok(StatusCode::ACCEPTED.into_response()),
        (Era::Legacy, Some(id)) => legacy::request(visit, headers, id, asked, meta).await,
        (Era::Legacy, None) => legacy::notification(&visit, headers, &asked),
    }
}

/// GET: the stream of a legacy session, or one that broke.
async fn listen(State(surface): State<Arc<Surface>>, request: Request) -> Response {
    match get_stream(&surface, &request) {
        Ok(response) | Err(response) => response,
    }
}

fn get_stream(surface: &Arc<Surface>, request: &Request) -> Reply {
    let visit = admit(surface, request)?;
    let headers = request.headers();
    // A modern client has no such stream.
    if headers.get(revision::VERSION).is_some_and(|value| value == revision::MODERN) {
        return Ok((StatusCode::METHOD_NOT_ALLOWED, [(header::ALLOW, "POST")]).into_response());
    }
    let session = legacy::session(&visit, headers, None)?;
    if !headers::accepts(headers, &["text/event-stream"]) {
        let error = RpcError::new(rpc::INVALID_REQUEST, "accept text/event-stream");
        return Err(errors::refused(StatusCode::NOT_ACCEPTABLE, None, &error));
    }
    let Some(last) = headers.get(LAST_EVENT) else {
        return Ok(session.standalone.read(None));
    };
    let place = last.to_str().ok().and_then(stream::place);
    let found = place.and_then(|(number, place)| Some((session.stream(number)?, place)));
    match found {
        Some((log, place)) => Ok(log.read(Some(place))),
        None => {
            let message = "that stream is over and its events are no longer kept";
            let error = RpcError::new(rpc::INVALID_REQUEST, message);
            Err(errors::refused(StatusCode::BAD_REQUEST, None, &error))
        }
    }
}

/// DELETE: the end of a legacy session.
async fn leave(State(surface): State<Arc<Surface>>, request: Request) -> Response {
    let left = admit(&surface, &request).and_then(|visit| {
        let session = legacy::session(&visit, request.headers(), None)?;
        surface.sessions.close(&visit.caller, &session.id);
        Ok((visit, session))
    });
    match left {
        Ok((visit, session)) => {
            legacy::ended(&visit.surface, &session).await;
            StatusCode::NO_CONTENT.into_response()
        }
        Err(response) => response,
    }
}

/// The answer to a request that failed before anything happened.
pub(super) fn failed(id: &rpc::Id, failure: &Failure) -> Response {
    let status = match failure.category {
        Category::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Category::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_REQUEST,
    };
    errors::refused(status, Some(id), &rpc_error(failure))
}
