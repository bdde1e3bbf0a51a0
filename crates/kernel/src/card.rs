//! Cards: where people were asked, outside of Tally, about an approval, and what they see there.
//!
//! A card is named like its approval. Posting it and changing it are actions of their own; the
//! log ties them to the approval, so that after any crash the same card goes on.

use serde::{Deserialize, Serialize};

use crate::action::FailureCode;
use crate::approval;
use crate::ids::{self, ActionId, ApprovalId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::Timestamp;

/// What of an approval a card shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Face {
    /// Where the approval stands.
    pub status: approval::Status,
    /// How many people have spoken.
    pub votes: u32,
}

impl Face {
    /// What there is to be shown of `approval`.
    pub fn of(approval: &approval::Approval) -> Self {
        let votes = u32::try_from(approval.votes.len()).unwrap_or(u32::MAX);
        Self { status: approval.status, votes }
    }

    /// Whether nothing further is to be shown.
    pub fn is_last(&self) -> bool {
        self.status != approval::Status::Requested
    }
}

/// Where a card is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    /// The other side's id of the channel.
    pub channel: String,
    /// The other side's id of the message in it.
    pub ts: String,
}

impl Message {
    fn is_plain(&self) -> bool {
        let plain = |text: &str| {
            (1..=limits::SLACK_ID_BYTES_MAX).contains(&text.len())
                && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'.')
        };
        plain(&self.channel) && plain(&self.ts)
    }
}

/// What changes a card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// People are to be asked there.
    #[serde(rename = "card.opened")]
    Opened {
        /// The name of the trigger that says where.
        trigger: String,
    },
    /// It was posted.
    #[serde(rename = "card.posted")]
    Posted {
        /// By which action.
        action: ActionId,
        /// Where it is.
        message: Message,
        /// What it shows.
        face: Face,
    },
    /// It was changed.
    #[serde(rename = "card.shown")]
    Shown {
        /// By which action.
        action: ActionId,
        /// What it shows.
        face: Face,
    },
    /// Posting or changing it came to nothing, or nobody knows to what.
    #[serde(rename = "card.missed")]
    Missed {
        /// By which action, where one was made.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        action: Option<ActionId>,
        /// Why.
        failure: FailureCode,
        /// Whether it may be there all the same.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        in_doubt: bool,
        /// When it is tried again; never where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_at: Option<Timestamp>,
    },
    /// The action that is to post or change it, after a try that came to nothing, waits itself: its
    /// end is the next occasion, and no time is.
    #[serde(rename = "card.asked")]
    Asked {
        /// Which action.
        action: ActionId,
    },
    /// Its approval ended before it was posted.
    #[serde(rename = "card.withdrawn")]
    Withdrawn {},
}

/// What is asked of a card.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Have people asked there.
    Open {
        /// The name of the trigger that says where.
        trigger: String,
    },
    /// Take note that it was posted.
    Post {
        /// By which action.
        action: ActionId,
        /// Where it is.
        message: Message,
        /// What it shows.
        face: Face,
    },
    /// Take note that it was changed.
    Show {
        /// By which action.
        action: ActionId,
        /// What it shows.
        face: Face,
    },
    /// Take note that it was not, or may not have been.
    Miss {
        /// By which action.
        action: Option<ActionId>,
        /// Why.
        failure: FailureCode,
        /// Whether it may be there all the same.
        in_doubt: bool,
        /// When it is tried again.
        retry_at: Option<Timestamp>,
    },
    /// Wait for the end of an action, and for no time.
    Ask {
        /// Which action.
        action: ActionId,
    },
    /// Leave it: its approval has ended.
    Withdraw {},
}

/// A card.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Card {
    /// Of which approval.
    pub approval: ApprovalId,
    /// The name of the trigger that says where.
    pub trigger: String,
    /// Where it is, once it was posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// What it shows, once it was posted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub face: Option<Face>,
    /// Tries in a row that came to nothing.
    pub missed: u32,
    /// Whether another one may be there, of which nobody knows.
    pub in_doubt: bool,
    /// When it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// Whether nothing more is done about it.
    pub over: bool,
    /// Why it was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// Since when it is known.
    pub opened_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl Card {
    /// A short word for where it stands.
    pub fn status(&self) -> &'static str {
        if self.over { "closed" } else { "open" }
    }

    /// When it is tried again.
    pub fn due(&self) -> Option<Timestamp> {
        self.retry_at.filter(|_| !self.over)
    }
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Card>, input: Input) -> Result<Change, Refusal> {
    let card = match (state, input) {
        (Some(_), Input::Open { .. }) => return Err(Refusal::Exists),
        (None, Input::Open { trigger }) if ids::is_server_name(&trigger) => {
            return Ok(Change::Opened { trigger });
        }
        (None, Input::Open { .. }) => {
            return Err(Refusal::InvalidInput("a card belongs to a trigger"));
        }
        (None, _) => return Err(Refusal::Absent),
        (Some(card), _) if card.over => return Err(Refusal::State("closed")),
        (Some(card), input) => (card, input),
    };
    match card {
        (Card { message: None, .. }, Input::Post { action, message, face }) => {
            match message.is_plain() {
                true => Ok(Change::Posted { action, message, face }),
                false => Err(Refusal::InvalidInput("a message has ids of letters and digits")),
            }
        }
        (Card { message: Some(_), face: shown, .. }, Input::Show { action, face }) => {
            match *shown == Some(face) {
                true => Err(Refusal::State("unchanged")),
                false => Ok(Change::Shown { action, face }),
            }
        }
        (_, Input::Miss { action, failure, in_doubt, retry_at }) => {
            Ok(Change::Missed { action, failure, in_doubt, retry_at })
        }
        (Card { retry_at: Some(_), .. }, Input::Ask { action }) => Ok(Change::Asked { action }),
        (_, Input::Ask { .. }) => Err(Refusal::State("asked")),
        (Card { message: None, .. }, Input::Withdraw {}) => Ok(Change::Withdrawn {}),
        (_, Input::Post { .. } | Input::Withdraw {}) => Err(Refusal::State("posted")),
        (_, Input::Show { .. }) => Err(Refusal::State("open")),
        (_, Input::Open { .. }) => Err(Refusal::Exists),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Card>, change: &Change, applied: &Applied<'_>) {
    let Some(card) = state else {
        let (Change::Opened { trigger }, Ok(approval)) = (change, ApprovalId::new(applied.id))
        else {
            return;
        };
        *state = Some(Card {
            approval,
            trigger: trigger.clone(),
            message: None,
            face: None,
            missed: 0,
            in_doubt: false,
            retry_at: None,
            over: false,
            failure: None,
            opened_at: applied.time,
            changed_at: applied.time,
        });
        return;
    };
    match change {
        Change::Opened { .. } => {}
        Change::Posted { message, face, .. } => {
            card.message = Some(message.clone());
            card.shows(*face);
        }
        Change::Shown { face, .. } => card.shows(*face),
        Change::Missed { failure, in_doubt, retry_at, .. } => {
            card.missed = card.missed.saturating_add(1);
            card.in_doubt |= in_doubt;
            card.retry_at = *retry_at;
            if retry_at.is_none() {
                (card.over, card.failure) = (true, Some(failure.clone()));
            }
        }
        Change::Asked { .. } => card.retry_at = None,
        Change::Withdrawn {} => card.over = true,
    }
    card.changed_at = applied.time;
}

impl Card {
    fn shows(&mut self, face: Face) {
        self.face = Some(face);
        (self.missed, self.retry_at) = (0, None);
        self.over = face.is_last();
    }
}
