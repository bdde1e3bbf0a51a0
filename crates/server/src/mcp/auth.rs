//! Who may use `/mcp`: the resource server of OAuth 2.1 that MCP describes. It names its
//! authorization servers (RFC 9728), tells a client what is missing (RFC 6750) and takes tokens
//! that are for it or for the whole server. What a client shows here goes no further: upstreams
//! get tokens of their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{HeaderName, HeaderValue, StatusCode, header};
use kernel::failure::{Category, Failure};
use serde_json::json;

use crate::auth::Guarded;
use crate::shared::Shared;

/// Where the metadata is, by RFC 9728 §3.1: the path of the resource is put behind it.
const METADATA: &str = "/.well-known/oauth-protected-resource";

/// What `/mcp` demands of whoever comes.
pub(crate) const DOOR: Guarded = Guarded {
    path: "/mcp",
    name: "Mcp",
    permission: "actions:submit",
    scopes: &["actions:submit"],
};

/// The permissions that make a difference at `/mcp`: to call, to look after a held call, and to
/// give one up.
const SCOPES: [&str; 3] = ["actions:submit", "actions:read", "actions:cancel"];

/// What a request lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lack<'a> {
    /// It shows no credential.
    Credential,
    /// What it shows opens nothing here: unknown, expired, revoked, or for somebody else.
    Valid,
    /// These permissions.
    Scope(&'a [&'a str]),
}

impl<'a> Lack<'a> {
    /// What a request that failed so lacks, where it is of that kind.
    pub(crate) fn of(failure: &Failure, scopes: &'a [&'a str]) -> Option<Self> {
        match (failure.category, failure.code.as_str()) {
            (Category::Auth, "credential_missing") => Some(Self::Credential),
            (Category::Auth, _) => Some(Self::Valid),
            (Category::Permission, "permission_denied") => Some(Self::Scope(scopes)),
            _ => None,
        }
    }
}

/// The identifier of the resource, which a token for it has as its audience.
pub(crate) fn resource(shared: &Shared) -> &str {
    shared.tokens.mcp()
}

/// The value of `WWW-Authenticate` that tells a client what it lacks and where to get it.
pub(crate) fn challenge(shared: &Shared, lack: Lack<'_>) -> HeaderValue {
    let metadata = format!("{}{METADATA}{}", shared.tokens.issuer(), DOOR.path);
    let (error, scopes) = match lack {
        Lack::Credential => ("", DOOR.scopes),
        Lack::Valid => ("error=\"invalid_token\", ", DOOR.scopes),
        Lack::Scope(scopes) => ("error=\"insufficient_scope\", ", scopes),
    };
    let scope = scopes.join(" ");
    let text = format!("Bearer {error}resource_metadata=\"{metadata}\", scope=\"{scope}\"");
    // The issuer is checked to be a URL and scopes are ours: this text is a header's.
    HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static("Bearer"))
}

/// 403: the caller is known and would need `scopes` for this. A client may ask for a token that
/// has them (step-up) and try again.
pub(crate) fn insufficient_scope(shared: &Shared, scopes: &[&str]) -> Response {
    let message = format!("this takes {}", scopes.join(", "));
    let failure = Failure::new(Category::Permission, "permission_denied", message);
    let mut response = crate::error::wire(failure).into_response();
    *response.status_mut() = StatusCode::FORBIDDEN;
    let value = challenge(shared, Lack::Scope(scopes));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    response
}

/// The metadata of the resource, public by themselves.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(METADATA, get(metadata))
        .route(&format!("{METADATA}{}", DOOR.path), get(metadata))
        .with_state(shared)
}

async fn metadata(State(shared): State<Arc<Shared>>) -> impl IntoResponse {
    let issuer = shared.tokens.issuer();
    // Clients in browsers read it from other origins; there is nothing in it to hide.
    let any: [(HeaderName, &str); 2] =
        [(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"), (header::CACHE_CONTROL, "public, max-age=60")];
    let body = json!({
        "resource": resource(&shared),
        "resource_name": "Tally",
        "authorization_servers": [issuer],
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "scopes_supported": SCOPES,
        "bearer_methods_supported": ["header"],
    });
    (any, axum::Json(body))
}
