//! One middleware in front of every route: request id, credential, rate limit, permission.
//!
//! REST and gRPC share it: the route (and with it the permission) is found by the path.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use kernel::failure::{Category, Failure};
use kernel::principal::permitted;
use kernel::values::Digest;
use proto::routes::{self, Idempotency, Route};
use subtle::ConstantTimeEq;

use crate::error;
use crate::limits;
use crate::rate::{Allowance, Rates};
use crate::shared::{Caller, Shared};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// What begins every API key.
const KEY_PREFIX: &str = "tally_";

/// Builds an API key out of its id (`key_…`) and its secret.
pub(crate) fn format_key(id: &str, secret_hex: &str) -> String {
    format!("{KEY_PREFIX}{}_{secret_hex}", id.strip_prefix("key_").unwrap_or(id))
}

/// The id and the digest of the secret of an API key.
fn parse_key(key: &str) -> Option<(String, Digest)> {
    let (id, secret) = key.strip_prefix(KEY_PREFIX)?.split_once('_')?;
    Some((format!("key_{id}"), Digest::of(secret.as_bytes())))
}

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
}

/// Lets a request through to its handler, or refuses it.
pub(crate) async fn gate(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let started = std::time::Instant::now();
    let request_id = request_id(request.headers());
    request.headers_mut().insert(REQUEST_ID, request_id.clone());
    let route = route_of(&request);
    let grpc = is_grpc(&request);
    let mut response = match admit(&gate, &mut request, route) {
        Ok(allowance) => {
            let mut response = next.run(request).await;
            if let Some(allowance) = allowance {
                show_allowance(response.headers_mut(), allowance);
            }
            response
        }
        Err(refused) => {
            let mut response = refuse(refused.failure, &request_id, grpc);
            if let Some(allowance) = refused.allowance {
                show_allowance(response.headers_mut(), allowance);
            }
            response
        }
    };
    response.headers_mut().insert(REQUEST_ID, request_id);
    let name = route.map_or("other", |route| route.rpc);
    gate.shared.metrics.request(name, response.status().as_u16(), started.elapsed());
    response
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
    route: Option<&'static Route>,
) -> Result<Option<Allowance>, NotAdmitted> {
    // What has no route is answered by its fallback (404, 405) or is public by itself.
    let Some(route) = route else { return Ok(None) };
    let Some(permission) = route.permission else { return Ok(None) };
    let (caller, allowance) = authenticate(gate, request.headers())?;
    let refused = |failure| NotAdmitted { failure, allowance: Some(allowance) };
    if !permitted(&caller.roles, permission) {
        let message = format!("this takes the permission `{permission}`");
        return Err(refused(Failure::new(Category::Permission, "permission_denied", message)));
    }
    let key = idempotency_key(request.headers()).map_err(refused)?;
    if route.idempotency == Idempotency::Required && key.is_none() {
        let message = "send an `Idempotency-Key` header: any text that is new for each request";
        let failure = Failure::new(Category::Validation, "idempotency_key_required", message);
        return Err(refused(failure));
    }
    let trace_id = trace_id(request.headers());
    request.extensions_mut().insert(Caller { idempotency_key: key, trace_id, ..caller });
    Ok(Some(allowance))
}

fn authenticate(gate: &Gate, headers: &HeaderMap) -> Result<(Caller, Allowance), NotAdmitted> {
    let auth = |code, message: &str| Failure::new(Category::Auth, code, message);
    let key = credential(headers)
        .ok_or_else(|| auth("credential_missing", "send an API key as `X-API-Key` or Bearer"))?;
    let unknown = || auth("credential_invalid", "the API key is unknown, expired or revoked");
    let (id, secret) = parse_key(key).ok_or_else(unknown)?;
    let directory = &gate.shared.control.directory;
    let (tenant, key) = directory.key(&id).ok_or_else(unknown)?;
    let now = gate.shared.now();
    let good = bool::from(key.issue.secret.0.ct_eq(&secret.0));
    let over = key.revoked || key.issue.expires_at.is_some_and(|at| now >= at);
    let principal = directory.principal(&tenant, &key.issue.principal);
    let principal = principal.filter(|p| good && !over && !p.disabled).ok_or_else(unknown)?;
    let allowance =
        gate.rates.take(&id, key.issue.rate_per_min, now).map_err(|(allowance, wait_ms)| {
            let failure = Failure::new(
                Category::RateLimited,
                "rate_limited",
                "this key has used up its requests",
            );
            NotAdmitted { failure: failure.retry_after_ms(wait_ms), allowance: Some(allowance) }
        })?;
    let (workspace, environment) = (key.issue.workspace.clone(), key.issue.environment.clone());
    Ok((Caller::new(tenant, workspace, environment, &principal), allowance))
}

fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get(API_KEY) {
        return key.to_str().ok();
    }
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
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
