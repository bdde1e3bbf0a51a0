//! The token endpoint, which speaks OAuth's forms and errors and not the protocol of `proto/`.

use proto::client::{HttpCall, Transport as _};
use proto::types::error::Category;
use serde::{Deserialize, Serialize};

use crate::{Client, Error};

/// A key, session or token of Tally, by the name that the endpoint wants for it.
pub const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// The grant that makes a token of others.
pub const TOKEN_EXCHANGE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";

/// An access token that was just issued.
#[derive(Clone, Serialize, Deserialize)]
pub struct Issued {
    /// The token: send it as Bearer.
    pub access_token: String,
    /// `Bearer`.
    pub token_type: String,
    /// Seconds until it ends.
    pub expires_in: u64,
    /// What it may, separated by spaces.
    pub scope: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("scope", &self.scope).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct OAuthError {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl Client {
    /// Asks for a token with the fields of a form. An empty field is left out.
    ///
    /// # Errors
    /// No answer, or a refusal: its code is OAuth's `error`.
    pub async fn token(&self, fields: &[(&str, &str)]) -> Result<Issued, Error> {
        let given = fields.iter().filter(|(_, value)| !value.is_empty());
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish();
        let call = HttpCall {
            method: "POST",
            path_and_query: "/oauth/token".to_owned(),
            body: body.into_bytes(),
            content_type: Some("application/x-www-form-urlencoded".to_owned()),
            idempotency_key: None,
        };
        let reply = self.0.transport().send(call).await.map_err(Error::Transport)?;
        let status = reply.status;
        let unread = |error: serde_json::Error| Error::Answer { status, reason: error.to_string() };
        if status == 200 {
            return serde_json::from_slice(&reply.body).map_err(unread);
        }
        let refused: OAuthError = serde_json::from_slice(&reply.body).map_err(unread)?;
        let category = match status {
            401 => Category::Auth,
            403 => Category::Permission,
            429 => Category::RateLimited,
            500.. => Category::Internal,
            _ => Category::Validation,
        };
        let error = proto::types::Error::new(category, &refused.error, refused.error_description);
        Err(Error::Refused { status, error: Box::new(error) })
    }
}
