//! Who may use `/mcp`: the resource server of OAuth 2.1 that MCP describes. It names its
//! authorization servers (RFC 9728), tells a client what is missing (RFC 6750) and takes tokens
//! that are for it or for the whole server. What a client shows here goes no further: upstreams
//! get tokens of their own.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use connectors::mcp::Subject;
use http::{HeaderName, HeaderValue, header};
use kernel::failure::{Category, Failure};
use kernel::ids::PrincipalId;
use kernel::values::Digest;
use serde_json::json;

use crate::auth::Guarded;
use crate::error::Refused;
use crate::limits;
use crate::shared::{Caller, Shared};
use crate::tokens::{Claims, Link};

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

/// For whom a call to an upstream is made: what makes tokens of Tally for the caller's chain, each
/// for one audience elsewhere and good for nothing here.
pub(crate) fn subject(shared: &Arc<Shared>, caller: &Caller) -> Subject {
    let (shared, caller) = (shared.clone(), caller.clone());
    let actors = caller.actors();
    let ids = actors.actors().iter().map(|actor| actor.id.as_str());
    let place = [caller.tenant.as_str(), caller.workspace.as_str(), caller.environment.as_str()];
    let revision = caller.revision.to_string();
    let parts: Vec<&str> = place.into_iter().chain(ids).chain([revision.as_str()]).collect();
    let key = Digest::of(parts.join("\n").as_bytes()).hex();
    let token = move |audience: &str| mint(&shared, &caller, audience).map_err(|refused| refused.0);
    Subject { key, token: Arc::new(token) }
}

/// A short token that says who acts for whom, for somebody else.
fn mint(shared: &Shared, caller: &Caller, audience: &str) -> Result<String, Refused> {
    let ours = [shared.tokens.issuer(), shared.tokens.mcp()];
    if ours.contains(&audience.trim_end_matches('/')) {
        return Err(Refused::internal("a token for an upstream is none for this server"));
    }
    let actors = caller.actors();
    if shared.control.directory.chain(&caller.tenant, &actors).is_none() {
        return Err(Refused(crate::credentials::invalid()));
    }
    // It rests on no credential: whoever gets it learns of none.
    let link = |id: &PrincipalId| Link { principal: id.clone(), base: id.to_string() };
    let links = actors.actors().iter().map(|actor| link(&actor.id)).collect();
    let place = (caller.tenant.clone(), caller.workspace.clone(), caller.environment.clone());
    let until = shared.now().plus_micros(limits::UPSTREAM_TOKEN_MICROS);
    let scope = [DOOR.permission.to_owned()].into();
    let claims = Claims::new(place, links, scope, audience.to_owned(), until);
    shared.tokens.issue(shared, &claims)
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
