//! Logins at MCP servers: a person is sent to the authorization server and back.

use std::sync::Arc;

use connectors::mcp::auth::LoginAuthorizer;
use kernel::failure::Category;
use proto::upstreams::{
    BeginUpstreamLoginRequest, BeginUpstreamLoginResponse, FinishUpstreamLoginRequest,
};
use url::{Host, Url};

use super::contact::contact;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

fn find(shared: &Shared, caller: &Caller, name: &str) -> Result<Arc<LoginAuthorizer>> {
    if shared.upstreams.get(&caller.tenant, name).is_none() {
        return Err(Refused::not_found("MCP server"));
    }
    shared.secrets.login(&caller.tenant, name).ok_or_else(|| {
        let message = format!("nobody logs in at `{name}`: its settings have no `auth` of oauth");
        Refused::new(Category::Validation, "login_not_taken", message)
    })
}

/// Whether a person may be sent back there: to a program on their own machine.
fn is_loopback(uri: &str) -> bool {
    let own = |url: Url| {
        let host = match url.host() {
            Some(Host::Ipv4(ip)) => ip.is_loopback(),
            Some(Host::Ipv6(ip)) => ip.is_loopback(),
            Some(Host::Domain(name)) => name == "localhost",
            None => false,
        };
        host && url.scheme() == "http" && url.query().is_none() && url.fragment().is_none()
    };
    uri.len() <= limits::RETURN_TO_BYTES_MAX && uri.parse().is_ok_and(own)
}

/// Begins a login.
pub(super) async fn begin(
    shared: &Shared,
    caller: &Caller,
    wire: &BeginUpstreamLoginRequest,
) -> Result<BeginUpstreamLoginResponse> {
    if !is_loopback(&wire.redirect_uri) {
        return Err(Refused::invalid("redirect_uri: http://127.0.0.1:PORT/ and nothing else"));
    }
    if wire.scopes.len() > limits::LOGIN_SCOPES_MAX {
        return Err(Refused::invalid("scopes: too many"));
    }
    let login = find(shared, caller, &wire.name)?;
    let begun = login.begin(&wire.redirect_uri, &wire.scopes, caller.id.as_str()).await;
    Ok(BeginUpstreamLoginResponse { authorization_url: begun? })
}

/// Ends a login that the caller began, and has the MCP server asked what it offers now.
pub(super) async fn finish(
    shared: &Shared,
    caller: &Caller,
    wire: &FinishUpstreamLoginRequest,
) -> Result<()> {
    if wire.callback_url.len() > limits::CALLBACK_BYTES_MAX {
        return Err(Refused::invalid("callback_url: too long"));
    }
    let login = find(shared, caller, &wire.name)?;
    login.finish(&wire.callback_url, caller.id.as_str()).await?;
    let (tenant, upstream) = (&caller.tenant, &wire.name);
    tracing::info!(%tenant, principal = %caller.id, upstream, "a login at an MCP server");
    let registered = shared.upstreams.get(tenant, upstream);
    let registered = registered.ok_or_else(|| Refused::not_found("MCP server"))?;
    registered.client.retry().await;
    contact(shared, &registered, true).await?;
    Ok(())
}
