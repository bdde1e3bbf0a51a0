//! Credentials: API keys, sessions and access tokens alike, and who asks by them.
//!
//! A credential is read once for a request and its standing is asked of the directory again and
//! again, for as long as the request lasts.

use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::principal::{Actor, ActorChain};
use kernel::values::{Digest, Timestamp};

use crate::directory::Base;
use crate::shared::{Authority, Caller, Shared};
use crate::tokens::Claims;

/// What begins every API key.
const KEY_PREFIX: &str = "tally_";
/// What begins every secret of a session.
const SESSION_PREFIX: &str = "tses_";

/// Builds an API key out of its id (`key_…`) and its secret.
pub(crate) fn format_key(id: &str, secret_hex: &str) -> String {
    format!("{KEY_PREFIX}{}_{secret_hex}", id.strip_prefix("key_").unwrap_or(id))
}

/// Builds the secret of a session out of the session's id (`ses_…`) and random digits.
pub(crate) fn format_session(id: &str, secret_hex: &str) -> String {
    format!("{SESSION_PREFIX}{}_{secret_hex}", id.strip_prefix("ses_").unwrap_or(id))
}

/// A credential that was read.
#[derive(Clone, Debug)]
pub(crate) enum Credential {
    /// An API key or the secret of a session.
    Secret {
        /// The key or session.
        base: String,
        /// The digest of the secret.
        secret: Digest,
    },
    /// An access token whose signature was verified.
    Token(Arc<Claims>),
}

/// Who holds a credential.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    pub(crate) caller: Caller,
    /// The key or session of the acting principal: its rate is what counts.
    pub(crate) base: String,
    pub(crate) rate_per_min: u32,
    /// When the credential, or the first of what it rests on, is over.
    pub(crate) expires_at: Option<Timestamp>,
}

/// No credential of ours, or none any more: which of these, nobody is told.
pub(crate) fn invalid() -> Failure {
    let message = "the API key, session or token is unknown, expired or revoked";
    Failure::new(Category::Auth, "credential_invalid", message)
}

pub(crate) fn suspended() -> Failure {
    let message = "this tenant is suspended: ask who operates this installation";
    Failure::new(Category::Permission, "tenant_suspended", message)
}

/// Reads a credential that is good everywhere here.
pub(crate) fn read(shared: &Shared, text: &str) -> Option<Credential> {
    read_for(shared, text, shared.tokens.issuer())
}

/// Reads a credential at `resource`: a token must be for that, or for the whole server.
pub(crate) fn read_for(shared: &Shared, text: &str, resource: &str) -> Option<Credential> {
    let secret = |kind: &str, rest: &str| {
        let (id, secret) = rest.split_once('_')?;
        Some(Credential::Secret {
            base: format!("{kind}_{id}"),
            secret: Digest::of(secret.as_bytes()),
        })
    };
    if let Some(rest) = text.strip_prefix(KEY_PREFIX) {
        return secret("key", rest);
    }
    if let Some(rest) = text.strip_prefix(SESSION_PREFIX) {
        return secret("ses", rest);
    }
    let claims = shared.tokens.verify(shared, text)?;
    let meant = claims.audience == shared.tokens.issuer() || claims.audience == resource;
    meant.then_some(Credential::Token(claims))
}

/// Who holds the credential, as things stand now.
pub(crate) fn holder(shared: &Shared, credential: &Credential) -> Result<Holder, Failure> {
    match credential {
        Credential::Secret { base, secret } => by_secret(shared, base, secret),
        Credential::Token(claims) => by_token(shared, claims),
    }
}

fn by_secret(shared: &Shared, id: &str, secret: &Digest) -> Result<Holder, Failure> {
    let now = shared.now();
    let base = shared.control.directory.base(id).ok_or_else(invalid)?;
    if !base.opens_with(secret, now) || !base.is_live(now) {
        return Err(invalid());
    }
    if base.suspended {
        return Err(suspended());
    }
    let (workspace, environment) = (base.workspace().clone(), base.environment().clone());
    Ok(Holder {
        base: id.to_owned(),
        rate_per_min: base.rate_per_min(),
        expires_at: base.expires_at(),
        caller: Caller::new(base.tenant, workspace, environment, &base.principal),
    })
}

fn by_token(shared: &Shared, claims: &Claims) -> Result<Holder, Failure> {
    let now = shared.now();
    if now >= claims.expires_at {
        return Err(invalid());
    }
    let mut bases = Vec::with_capacity(claims.links.len());
    for link in &claims.links {
        let base = shared.control.directory.base(&link.base).ok_or_else(invalid)?;
        let same = base.tenant == claims.tenant
            && base.principal.id == link.principal
            && *base.workspace() == claims.workspace
            && *base.environment() == claims.environment;
        if !same || !base.is_live(now) {
            return Err(invalid());
        }
        bases.push(base);
    }
    let (Some(acting), Some(link)) = (bases.last(), claims.links.last()) else {
        return Err(invalid());
    };
    if acting.suspended {
        return Err(suspended());
    }
    let actor = |base: &Base| Actor { id: base.principal.id.clone(), kind: base.principal.kind };
    let chain = bases.iter().map(actor).collect::<Vec<_>>();
    let chain = ActorChain::try_from(chain).map_err(|_| invalid())?;
    let principals: Vec<_> = bases.iter().map(|base| base.principal.clone()).collect();
    let authority = Authority::new(chain, &principals, Some(claims.scope.clone()));
    let (tenant, workspace) = (claims.tenant.clone(), claims.workspace.clone());
    let caller = Caller::new(tenant, workspace, claims.environment.clone(), &acting.principal);
    let ends = bases.iter().filter_map(Base::expires_at).chain([claims.expires_at]).min();
    Ok(Holder {
        base: link.base.clone(),
        rate_per_min: acting.rate_per_min(),
        expires_at: ends,
        caller: caller.under(authority),
    })
}
