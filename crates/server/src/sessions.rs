//! Sessions of people, and the cookie that carries one.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use kernel::failure::{Category, Failure};
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use kernel::machine::{self, Command, Kind, State};
use kernel::receipt::LogId;
use kernel::session::{self, Open, Session};
use kernel::values::{Digest, Timestamp as Time};
use ledger::Batch;
use proto::identity::{ListSessionsRequest, ListSessionsResponse, Session as WireSession};
use proto::wire::Timestamp;

use crate::credentials::format_session;
use crate::error::{Refused, Result};
use crate::paging;
use crate::shared::{Caller, Shared, new_id};
use crate::tokens::{Claims, Link};

/// The cookie that carries the secret of a session.
pub(crate) const COOKIE: &str = "tally_session";
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// A session that was just opened.
pub(crate) struct Opened {
    pub(crate) session_id: String,
    /// What the cookie `tally_session` carries. It is shown once; only its digest is kept.
    pub(crate) secret: String,
    /// A first access token, for programs.
    pub(crate) access_token: String,
    /// When the access token ends.
    pub(crate) token_expires_at: Time,
    /// When the session ends.
    pub(crate) expires_at: Time,
}

fn command(id: &str, input: session::Input) -> Command {
    Command::new(Kind::Session, id, machine::Input::Session(input))
}

/// Opens a session for a person who proved who they are by `method` (`oidc:<provider>`).
///
/// Refused where the principal is unknown or disabled, the tenant suspended, or the workspace has
/// no such environment. The lifetime is at most 30 days.
pub(crate) async fn open_session(
    shared: &Shared,
    tenant: &TenantId,
    principal: &PrincipalId,
    workspace: &WorkspaceId,
    environment: &EnvironmentId,
    method: &str,
    lifetime: Duration,
) -> Result<Opened> {
    let directory = &shared.control.directory;
    let known = directory.principal(tenant, principal);
    if known.is_none_or(|known| known.disabled) {
        return Err(Refused(crate::credentials::invalid()));
    }
    if directory.suspended(tenant) {
        return Err(Refused(crate::credentials::suspended()));
    }
    let place = directory.workspace(tenant, workspace);
    if place.is_none_or(|place| !place.environments.contains(environment)) {
        return Err(Refused::not_found("environment of this workspace"));
    }
    let digits = hex::encode(ledger::keys::random::<32>()?.as_ref());
    let id = new_id("ses");
    let micros = i64::try_from(lifetime.as_micros()).unwrap_or(i64::MAX);
    let open = Open {
        principal: principal.clone(),
        workspace: workspace.clone(),
        environment: environment.clone(),
        method: method.to_owned(),
        secret: Digest::of(digits.as_bytes()),
        expires_at: shared.now().plus_micros(micros),
    };
    let expires_at = open.expires_at;
    let commands = vec![command(&id, session::Input::Open(Box::new(open)))];
    shared.commit_control(Batch::new(LogId::Control(tenant.clone()), commands)).await?;
    let (access_token, token_expires_at) = access_token(shared, &id)?;
    let secret = format_session(&id, &digits);
    Ok(Opened { session_id: id, secret, access_token, token_expires_at, expires_at })
}

/// A short access token of a live session, with all that its principal may.
pub(crate) fn access_token(shared: &Shared, session_id: &str) -> Result<(String, Time)> {
    let now = shared.now();
    let base = shared.control.directory.base(session_id).filter(|base| base.is_live(now));
    let base = base.ok_or_else(|| Refused(crate::credentials::invalid()))?;
    if base.suspended {
        return Err(Refused(crate::credentials::suspended()));
    }
    let until = now.plus_micros(crate::limits::TOKEN_MICROS_DEFAULT);
    let until = base.expires_at().map_or(until, |end| end.min(until));
    let place = (base.tenant.clone(), base.workspace().clone(), base.environment().clone());
    let links = vec![Link { principal: base.principal.id.clone(), base: session_id.to_owned() }];
    let scope = kernel::delegation::granted(&base.principal.roles, None);
    let audience = shared.tokens.issuer().to_owned();
    let claims = Claims::new(place, links, scope, audience, until);
    Ok((shared.tokens.issue(shared, &claims)?, claims.expires_at))
}

/// Ends a session on behalf of `by`. One that has ended stays so.
pub(crate) async fn end_session(
    shared: &Shared,
    tenant: &TenantId,
    id: &str,
    by: &PrincipalId,
) -> Result<()> {
    let commands = vec![command(id, session::Input::End { by: by.clone() })];
    let batch = Batch::new(LogId::Control(tenant.clone()), commands);
    match shared.commit_control(batch).await {
        Err(Refused(failure)) if failure.code == "state_conflict" => Ok(()),
        ended => ended.map(drop),
    }
}

/// The secret of the session in the cookie of a request.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    let found = pairs.map(|(name, value)| (name.trim(), value.trim()));
    found.filter(|(name, _)| *name == COOKIE).map(|(_, value)| value).next()
}

/// Whether a request that a cookie speaks for comes from our own pages. A browser sends the cookie
/// along with whatever another site makes it send, so what changes anything must say that it does
/// not: `Sec-Fetch-Site` of browsers of today, else the `Origin` of this server.
pub(crate) fn same_site(
    shared: &Shared,
    method: &Method,
    headers: &HeaderMap,
) -> std::result::Result<(), Failure> {
    if method.is_safe() {
        return Ok(());
    }
    let text = |value: &HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let ours = match headers.get(SEC_FETCH_SITE).map(text) {
        Some(site) => site == "same-origin" || site == "none",
        None => headers.get(header::ORIGIN).map(text).as_deref() == Some(shared.tokens.issuer()),
    };
    if ours {
        return Ok(());
    }
    let message = "a request with a session's cookie must come from this server's own pages";
    Err(Failure::new(Category::Permission, "cross_site", message))
}

/// Whether the caller manages sessions of others.
fn manages(caller: &Caller) -> bool {
    caller.may("keys:revoke")
}

/// A page of the sessions that the caller may see.
pub(crate) fn list(
    shared: &Shared,
    caller: &Caller,
    wire: &ListSessionsRequest,
) -> Result<ListSessionsResponse> {
    let page = paging::page(wire.page_size, &wire.page_token, None);
    let of = wire.principal_id.as_str();
    let sees = |state: &State| match state {
        State::Session(session) => {
            let principal = &session.open.principal;
            (manages(caller) || *principal == caller.id)
                && (of.is_empty() || principal.as_str() == of)
        }
        _ => false,
    };
    let (ledger, log) = (&shared.control.ledger, caller.control_log());
    let (states, next_page_token) = paging::visible(ledger, &log, Kind::Session, page, sees)?;
    let sessions = states.iter().filter_map(|state| match state {
        State::Session(session) => Some(wire_session(session)),
        _ => None,
    });
    Ok(ListSessionsResponse { sessions: sessions.collect(), next_page_token })
}

/// Ends a session: one's own, or any by who manages keys.
pub(crate) async fn revoke(
    shared: &Shared,
    caller: &Caller,
    id: &str,
    body: Digest,
) -> Result<WireSession> {
    let find = || {
        let known = shared.control.directory.session(id);
        let known = known.filter(|(tenant, session)| {
            *tenant == caller.tenant && (manages(caller) || session.open.principal == caller.id)
        });
        known.map(|(_, session)| session).ok_or_else(|| Refused::not_found("session"))
    };
    find()?;
    let commands = vec![command(id, session::Input::End { by: caller.id.clone() })];
    let batch = Batch::new(caller.control_log(), commands);
    shared.mutate(caller, "session_revoke", body, id, batch).await?;
    Ok(wire_session(&*find()?))
}

fn wire_session(session: &Session) -> WireSession {
    let open = &session.open;
    WireSession {
        session_id: session.id.clone(),
        principal_id: open.principal.to_string(),
        workspace: open.workspace.to_string(),
        environment: open.environment.to_string(),
        method: open.method.clone(),
        created_at: Some(Timestamp::from_micros(session.created_at.0)),
        expires_at: Some(Timestamp::from_micros(open.expires_at.0)),
        ended: session.ended,
    }
}

#[cfg(test)]
mod tests;
