//! Sessions: a person who proved elsewhere who they are, until the session ends.

use serde::{Deserialize, Serialize};

use crate::delegation::Delegation;
use crate::ids::{EnvironmentId, PrincipalId, WorkspaceId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What opens a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// Whose it is.
    pub principal: PrincipalId,
    /// The workspace that it is bound to.
    pub workspace: WorkspaceId,
    /// The environment that it is bound to.
    pub environment: EnvironmentId,
    /// How they proved who they are: `oidc:<provider>`.
    pub method: String,
    /// SHA-256 of the secret that the person's browser or program holds.
    pub secret: Digest,
    /// When it ends by itself.
    pub expires_at: Timestamp,
}

/// What changes a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was opened.
    #[serde(rename = "session.opened")]
    Opened(Box<Open>),
    /// It was ended.
    #[serde(rename = "session.ended")]
    Ended {
        /// By whom.
        by: PrincipalId,
    },
    /// Somebody may act for its principal.
    #[serde(rename = "session.delegated")]
    Delegated(Box<Delegation>),
}

/// What is asked of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Open it.
    Open(Box<Open>),
    /// End it.
    End {
        /// By whom.
        by: PrincipalId,
    },
    /// Let somebody act for its principal.
    Delegate(Box<Delegation>),
}

/// A session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Which.
    pub id: String,
    /// What opened it.
    pub open: Box<Open>,
    /// Whether it was ended.
    pub ended: bool,
    /// Since when.
    pub created_at: Timestamp,
}

impl Session {
    /// Whether it opens anything.
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.ended && now < self.open.expires_at
    }
}

fn well_formed(method: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.:".contains(&b);
    (1..=limits::SESSION_METHOD_BYTES_MAX).contains(&method.len()) && method.bytes().all(plain)
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Session>, input: Input, now: Timestamp) -> Result<Change, Refusal> {
    match (state, input) {
        (None, Input::Open(open)) => {
            if !well_formed(&open.method) {
                return Err(Refusal::InvalidInput(
                    "a session's method: 1 to 64 of a-z 0-9 - _ . :",
                ));
            }
            let longest = now.plus_micros(limits::SESSION_MICROS_MAX);
            if open.expires_at <= now || open.expires_at > longest {
                return Err(Refusal::InvalidInput("a session ends later, within 30 days"));
            }
            Ok(Change::Opened(open))
        }
        (Some(session), Input::End { .. }) if session.ended => Err(Refusal::State("ended")),
        (Some(_), Input::End { by }) => Ok(Change::Ended { by }),
        (Some(session), Input::Delegate(_)) if !session.is_live(now) => {
            Err(Refusal::State("ended"))
        }
        (Some(_), Input::Delegate(delegation)) => Ok(Change::Delegated(delegation)),
        (None, _) => Err(Refusal::Absent),
        (Some(_), Input::Open(_)) => Err(Refusal::Exists),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Session>, change: &Change, applied: &Applied<'_>) {
    match (state.as_mut(), change) {
        (None, Change::Opened(open)) => {
            *state = Some(Session {
                id: applied.id.to_owned(),
                open: open.clone(),
                ended: false,
                created_at: applied.time,
            });
        }
        (Some(session), Change::Ended { .. }) => session.ended = true,
        // What was delegated is in the log; the session stays as it was.
        _ => {}
    }
}
