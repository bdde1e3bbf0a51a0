//! Tokens as they are kept in memory, and what went wrong where there is none.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::HeaderValue;
use kernel::failure::{Category, Failure};
use rmcp::transport::auth::AuthError;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::http::Stopped;
use crate::limits;

/// What a token endpoint answers.
#[derive(Deserialize)]
pub(super) struct Answer {
    pub(super) access_token: String,
    #[serde(default)]
    pub(super) token_type: String,
    #[serde(default)]
    pub(super) expires_in: Option<u64>,
}

/// A token in use.
pub(super) struct Held {
    header: HeaderValue,
    since: Instant,
    until: Option<Instant>,
    refusals: Cell<u32>,
}

impl Held {
    /// A token that was issued `age` ago.
    pub(super) fn new(answer: &Answer, age: Duration) -> Result<Self, Failure> {
        let bearer =
            answer.token_type.is_empty() || answer.token_type.eq_ignore_ascii_case("bearer");
        let text = Zeroizing::new(format!("Bearer {}", answer.access_token));
        let header = HeaderValue::from_str(&text).ok().filter(|_| bearer);
        let mut header = header.ok_or_else(|| {
            let message = "the authorization server issued no token that can be sent";
            Failure::new(Category::Upstream, "authorization_failed", message).retryable(false)
        })?;
        header.set_sensitive(true);
        let since = Instant::now();
        // It ends a little earlier here, so that it does not end on the way.
        let until = answer.expires_in.map(|seconds| {
            let whole = Duration::from_secs(seconds.min(limits::OAUTH_TOKEN_S_MAX));
            let margin = limits::OAUTH_TOKEN_MARGIN.min(whole / 2);
            since + whole.saturating_sub(margin).saturating_sub(age)
        });
        Ok(Self { header, since, until, refusals: Cell::new(0) })
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.header.clone()
    }

    pub(super) fn good(&self) -> bool {
        self.until.is_none_or(|until| Instant::now() < until)
    }

    /// Whether a refusal is about this token. The first one after it was issued may be about the
    /// token before it, which another call still had.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals.set(self.refusals.get().saturating_add(1));
        self.refusals.get() > 1 || self.since.elapsed() > limits::OAUTH_TOKEN_FRESH
    }
}

/// The scopes in a text.
pub(super) fn scopes(text: &str) -> BTreeSet<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// Codes of OAuth that may be told: whatever else a server says of its refusal is not.
const CODES: [&str; 15] = [
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
    "access_denied",
    "login_required",
    "consent_required",
    "interaction_required",
    "invalid_redirect_uri",
    "invalid_client_metadata",
    "temporarily_unavailable",
    "server_error",
];

/// The code of OAuth that `text` has in it.
pub(super) fn code(text: &str) -> &'static str {
    let known = CODES.into_iter().find(|code| text.contains(code));
    known.unwrap_or("no reason that can be told")
}

/// The failure that an error of the OAuth library is.
pub(super) fn failure(error: &AuthError) -> Failure {
    let refused = |code: &str, message: String| {
        Failure::new(Category::Upstream, code, message).retryable(false)
    };
    match error {
        AuthError::DiscoveryRequestFailed { source, .. } => {
            match source.downcast_ref::<Stopped>() {
                Some(Stopped(failure)) => failure.clone(),
                None => {
                    let message = "what the upstream says of its authorization cannot be read";
                    Failure::new(Category::Network, "authorization_unreachable", message)
                }
            }
        }
        AuthError::AuthorizationServerMismatch { .. }
        | AuthError::AuthorizationServerMissingIssuer { .. } => {
            let message = "the authorization server is not the one that it was taken for";
            refused("authorization_issuer_mismatch", message.to_owned())
        }
        AuthError::ProtectedResourceMetadataInvalid { .. }
        | AuthError::AuthorizationServersUnavailable { .. }
        | AuthError::MetadataError(_)
        | AuthError::NoAuthorizationSupport => {
            let message = "the upstream does not say where it is authorised, or says it wrongly";
            refused("authorization_metadata_invalid", message.to_owned())
        }
        AuthError::PkceUnsupported => {
            let message = "the authorization server does not take PKCE with S256";
            refused("authorization_pkce_unsupported", message.to_owned())
        }
        AuthError::TokenRefreshFailed(text) => {
            let message = format!("the token could not be renewed: {}", code(text));
            Failure::new(Category::Network, "authorization_unreachable", message)
        }
        AuthError::RegistrationFailed(text) => {
            let message = format!("the authorization server registers no client: {}", code(text));
            refused("authorization_registration_failed", message)
        }
        other => {
            let text = other.to_string();
            let message = format!("the authorization server refused: {}", code(&text));
            refused("authorization_failed", message)
        }
    }
}
