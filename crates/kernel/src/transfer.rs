//! Money and units on their way from the log of one workspace into that of another.
//!
//! An account lives in one log, and no commit spans two. So a transfer is two things of one id: in
//! the log that it leaves, and in the one that it reaches. Whether it arrived is decided there,
//! once: what is received is not refused any more, and what is refused not received. The log that
//! it left follows.

use serde::{Deserialize, Serialize};

use crate::action::FailureCode;
use crate::ids::{AccountId, PrincipalId, TransferId, WorkspaceId};
use crate::machine::{Applied, Refusal};
use crate::units::Units;
use crate::values::{MicroUsd, Shared, Timestamp};

/// What goes from where to where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Terms {
    /// The workspace that it leaves.
    pub from: WorkspaceId,
    /// The account that it leaves.
    pub payer: AccountId,
    /// The workspace that it is for.
    pub to: WorkspaceId,
    /// The account that it is for.
    pub receiver: AccountId,
    /// How much.
    pub amount: MicroUsd,
    /// How many units.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// By whom.
    pub by: PrincipalId,
}

/// What changes a transfer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It left.
    #[serde(rename = "transfer.sent")]
    Sent(Shared<Terms>),
    /// It reached the other log.
    #[serde(rename = "transfer.received")]
    Received(Shared<Terms>),
    /// The other log does not take it.
    #[serde(rename = "transfer.refused")]
    Refused {
        /// What is not taken.
        terms: Shared<Terms>,
        /// Why.
        failure: FailureCode,
    },
    /// The other log has it.
    #[serde(rename = "transfer.arrived")]
    Arrived {},
    /// It came back.
    #[serde(rename = "transfer.returned")]
    Returned {
        /// Why it was not taken.
        failure: FailureCode,
    },
}

/// What is asked of a transfer. Each goes with the movement of the money, in one commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Send it.
    Send(Shared<Terms>),
    /// Take it, in the other log.
    Receive(Shared<Terms>),
    /// Do not take it, in the other log.
    Refuse {
        /// What is not taken.
        terms: Shared<Terms>,
        /// Why.
        failure: FailureCode,
    },
    /// The other log has it.
    Arrive {},
    /// The other log has refused it: take it back.
    Return {
        /// Why it was not taken.
        failure: FailureCode,
    },
}

/// Where a transfer stands, in one of its two logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It left, and nothing is known of the other log.
    Sent,
    /// It is here.
    Received,
    /// It was not taken here.
    Refused,
    /// It left, and the other log has it.
    Arrived,
    /// It came back.
    Returned,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Received => "received",
            Self::Refused => "refused",
            Self::Arrived => "arrived",
            Self::Returned => "returned",
        }
    }
}

/// The state of a transfer in one of its two logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transfer {
    /// Which; the same in both logs.
    pub id: TransferId,
    /// Where it stands.
    pub status: Status,
    /// What goes from where to where.
    pub terms: Shared<Terms>,
    /// Why it was not taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// When it became known here.
    pub began_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The log index of its last receipt.
    pub last_receipt: u64,
}

impl Transfer {
    /// When somebody must look at it again, if ever.
    pub fn due(&self) -> Option<Timestamp> {
        (self.status == Status::Sent).then_some(self.updated_at)
    }
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Transfer>, input: Input) -> Result<Change, Refusal> {
    let Some(transfer) = state else {
        return match input {
            Input::Send(terms) if terms.from == terms.to => {
                Err(Refusal::InvalidInput("a transfer goes to another workspace"))
            }
            Input::Send(terms) => Ok(Change::Sent(terms)),
            Input::Receive(terms) => Ok(Change::Received(terms)),
            Input::Refuse { terms, failure } => Ok(Change::Refused { terms, failure }),
            Input::Arrive {} | Input::Return { .. } => Err(Refusal::Absent),
        };
    };
    match input {
        Input::Send(_) | Input::Receive(_) | Input::Refuse { .. } => Err(Refusal::Exists),
        Input::Arrive {} if transfer.status == Status::Sent => Ok(Change::Arrived {}),
        Input::Return { failure } if transfer.status == Status::Sent => {
            Ok(Change::Returned { failure })
        }
        Input::Arrive {} | Input::Return { .. } => Err(Refusal::State(transfer.status.as_str())),
    }
}

/// Folds one change into the state. Total: a change that does not fit leaves it as it was.
pub fn apply(state: &mut Option<Transfer>, change: &Change, applied: &Applied<'_>) {
    let begin = |terms: &Shared<Terms>, status, failure: Option<&FailureCode>| {
        let id = TransferId::new(applied.id).ok()?;
        Some(Transfer {
            id,
            status,
            terms: terms.clone(),
            failure: failure.cloned(),
            began_at: applied.time,
            updated_at: applied.time,
            last_receipt: applied.index,
        })
    };
    let (status, failure) = match change {
        Change::Sent(terms) if state.is_none() => {
            *state = begin(terms, Status::Sent, None);
            return;
        }
        Change::Received(terms) if state.is_none() => {
            *state = begin(terms, Status::Received, None);
            return;
        }
        Change::Refused { terms, failure } if state.is_none() => {
            *state = begin(terms, Status::Refused, Some(failure));
            return;
        }
        Change::Arrived {} => (Status::Arrived, None),
        Change::Returned { failure } => (Status::Returned, Some(failure.clone())),
        Change::Sent(_) | Change::Received(_) | Change::Refused { .. } => return,
    };
    if let Some(transfer) = state.as_mut().filter(|transfer| transfer.status == Status::Sent) {
        (transfer.status, transfer.failure) = (status, failure);
        (transfer.updated_at, transfer.last_receipt) = (applied.time, applied.index);
    }
}
