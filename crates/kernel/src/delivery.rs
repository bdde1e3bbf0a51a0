//! Deliveries that started no run although they were believed and wanted: kept, so that somebody
//! can start them again once what stood in their way is gone.
//!
//! A delivery is named after its event, so that whatever comes of the same event, redelivered or
//! replayed, comes to one place. What was delivered is content.

use serde::{Deserialize, Serialize};

use crate::action::FailureCode;
use crate::ids::{self, PrincipalId, RunId};
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// What the id of a delivery begins with.
const PREFIX: &str = "dlv_";
/// Characters of the event's digest that follow.
const ID_HEX: usize = 32;

/// The id of the delivery of an event.
pub fn id_of(event: &Digest) -> String {
    let hex = event.hex();
    format!("{PREFIX}{}", hex.get(..ID_HEX).unwrap_or(&hex))
}

/// What changes a delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It started no run, for this reason: at first, or once more.
    #[serde(rename = "delivery.died")]
    Died {
        /// The name of the trigger that took it.
        trigger: String,
        /// The digest of the event's key.
        event: Digest,
        /// Why.
        failure: FailureCode,
    },
    /// It started a run after all.
    #[serde(rename = "delivery.started")]
    Started {
        /// Which.
        run: RunId,
        /// Who had it tried again; its source where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<PrincipalId>,
    },
    /// Somebody gave it up.
    #[serde(rename = "delivery.discarded")]
    Discarded {
        /// Who.
        by: PrincipalId,
    },
}

/// What is asked of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Keep it, or note another reason.
    Die {
        /// The name of the trigger that took it.
        trigger: String,
        /// The digest of the event's key.
        event: Digest,
        /// Why.
        failure: FailureCode,
    },
    /// Note the run that it started.
    Start {
        /// Which.
        run: RunId,
        /// Who had it tried again.
        by: Option<PrincipalId>,
    },
    /// Give it up.
    Discard {
        /// Who.
        by: PrincipalId,
    },
}

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Nothing came of it.
    Dead,
    /// It started its run.
    Started,
    /// It was given up.
    Discarded,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Started => "started",
            Self::Discarded => "discarded",
        }
    }
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// Its id.
    pub id: String,
    /// The name of the trigger that took it.
    pub trigger: String,
    /// The digest of the event's key.
    pub event: Digest,
    /// Where it stands.
    pub status: Status,
    /// Why it started no run, when it was tried last.
    pub failure: FailureCode,
    /// The run that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Since when it is known.
    pub died_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Delivery>, input: Input) -> Result<Change, Refusal> {
    match (state, input) {
        (None, Input::Die { trigger, event, failure }) if ids::is_server_name(&trigger) => {
            Ok(Change::Died { trigger, event, failure })
        }
        (None, Input::Die { .. }) => Err(Refusal::InvalidInput("a delivery belongs to a trigger")),
        (None, _) => Err(Refusal::Absent),
        (Some(known), Input::Die { trigger, event, failure }) => match known.status {
            // The same again is nothing new.
            Status::Dead if known.failure != failure => {
                Ok(Change::Died { trigger, event, failure })
            }
            status => Err(Refusal::State(status.as_str())),
        },
        (Some(Delivery { status: Status::Started, .. }), _) => Err(Refusal::State("started")),
        (Some(_), Input::Start { run, by }) => Ok(Change::Started { run, by }),
        (Some(Delivery { status: Status::Discarded, .. }), Input::Discard { .. }) => {
            Err(Refusal::State("discarded"))
        }
        (Some(_), Input::Discard { by }) => Ok(Change::Discarded { by }),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Delivery>, change: &Change, applied: &Applied<'_>) {
    match (state.as_mut(), change) {
        (None, Change::Died { trigger, event, failure }) => {
            *state = Some(Delivery {
                id: applied.id.to_owned(),
                trigger: trigger.clone(),
                event: *event,
                status: Status::Dead,
                failure: failure.clone(),
                run: None,
                died_at: applied.time,
                changed_at: applied.time,
            });
            return;
        }
        (None, _) => return,
        (Some(known), Change::Died { failure, .. }) => known.failure = failure.clone(),
        (Some(known), Change::Started { run, .. }) => {
            (known.status, known.run) = (Status::Started, Some(run.clone()));
        }
        (Some(known), Change::Discarded { .. }) => known.status = Status::Discarded,
    }
    if let Some(known) = state {
        known.changed_at = applied.time;
    }
}
