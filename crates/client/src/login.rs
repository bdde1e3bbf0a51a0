//! The end of a login by a browser: these routes are beside those of `proto/`.

use proto::client::{HttpCall, Transport as _};
use proto::error::ErrorBody;
use proto::wire::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Client, Error};

/// A session that a login opened, for a program.
#[derive(Clone, Serialize, Deserialize)]
pub struct LoggedIn {
    /// What the program sends as its key, until the session ends.
    pub key: String,
    /// The id of the session.
    pub session_id: String,
    /// When it ends by itself.
    pub expires_at: Timestamp,
    /// The tenant.
    pub tenant: String,
    /// The workspace that the session is bound to.
    pub workspace: String,
    /// The environment that the session is bound to.
    pub environment: String,
    /// Who logged in.
    pub principal_id: String,
}

impl std::fmt::Debug for LoggedIn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LoggedIn").field("session_id", &self.session_id).finish_non_exhaustive()
    }
}

#[derive(Serialize)]
struct Redeem<'a> {
    code: &'a str,
    code_verifier: &'a str,
}

impl Client {
    /// Opens the session of a login whose `code` came back to this program.
    ///
    /// # Errors
    /// No answer, or a refusal: the code is good once and for a minute.
    pub async fn redeem_login(&self, code: &str, code_verifier: &str) -> Result<LoggedIn, Error> {
        let body = serde_json::to_vec(&Redeem { code, code_verifier });
        let body = body.map_err(|error| Error::Request(error.to_string()))?;
        let (status, body) = self.post("/auth/cli-token", body).await?;
        serde_json::from_slice(&body)
            .map_err(|error| Error::Answer { status, reason: error.to_string() })
    }

    /// Ends the session that this client's key is of.
    ///
    /// # Errors
    /// No answer, or a refusal: it has ended before, or the key is no session's.
    pub async fn log_out(&self) -> Result<(), Error> {
        self.post("/auth/logout", Vec::new()).await.map(drop)
    }

    async fn post(&self, path: &str, body: Vec<u8>) -> Result<(u16, Vec<u8>), Error> {
        let call = HttpCall {
            method: "POST",
            path_and_query: path.to_owned(),
            content_type: (!body.is_empty()).then(|| "application/json".to_owned()),
            body,
            idempotency_key: None,
        };
        let reply = self.0.transport().send(call).await.map_err(Error::Transport)?;
        let status = reply.status;
        if (200..300).contains(&status) {
            return Ok((status, reply.body));
        }
        Err(match serde_json::from_slice::<ErrorBody>(&reply.body) {
            Ok(body) => Error::Refused { status, error: Box::new(body.error) },
            Err(error) => Error::Answer { status, reason: error.to_string() },
        })
    }
}
