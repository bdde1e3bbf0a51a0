//! Idempotency: the first request with a key reserves it before anything else happens.

use serde::{Deserialize, Serialize};

use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What changes a reservation. Its id is the digest of (tenant, principal, endpoint, key).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// The key was reserved.
    #[serde(rename = "idempotency.reserved")]
    Reserved {
        /// The digest of the request's body.
        body: Digest,
        /// The id of what the request made, which answers a repeat.
        target: String,
        /// Until when a repeat is answered by it.
        until: Timestamp,
    },
}

/// What is asked of a reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The digest of the request's body.
    pub body: Digest,
    /// The id of what the request makes.
    pub target: String,
    /// Until when it is remembered.
    pub until: Timestamp,
    /// What it was reserved for before, where that is known to be over: the key is free again.
    pub replaces: Option<String>,
}

/// The state of one reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// The digest of the request's body.
    pub body: Digest,
    /// The id of what the request made.
    pub target: String,
    /// Until when it is remembered.
    pub until: Timestamp,
}

/// Reserves the key, or says what it is reserved for.
pub fn step(state: Option<&Reservation>, input: Input, now: Timestamp) -> Result<Change, Refusal> {
    let over = |held: &Reservation| input.replaces.as_ref() == Some(&held.target);
    match state {
        Some(held) if now < held.until && !over(held) && held.body == input.body => {
            Err(Refusal::Duplicate { target: held.target.clone() })
        }
        Some(held) if now < held.until && !over(held) => Err(Refusal::KeyReused),
        _ => Ok(Change::Reserved { body: input.body, target: input.target, until: input.until }),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Reservation>, change: &Change, _: &Applied<'_>) {
    let Change::Reserved { body, target, until } = change;
    *state = Some(Reservation { body: *body, target: target.clone(), until: *until });
}
