//! The state machine of one principal's second factor: a shared secret for codes by time
//! (RFC 6238).
//!
//! The secret is content, sealed beside the log. The log has what makes a code good once: the
//! counter of the last one used, and how many were wrong in a row.

use serde::{Deserialize, Serialize};

use crate::ids::PrincipalId;
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::Timestamp;

/// Seconds that a code is good for.
pub const STEP_S: i64 = 30;
/// Digits of a code.
pub const DIGITS: u32 = 6;
/// Steps before and after the present one whose codes are taken too.
pub const SKEW: i64 = 1;

/// The counters whose codes are taken at `now`, the present one first.
pub fn counters(now: Timestamp) -> impl Iterator<Item = u64> {
    let present = now.0.div_euclid(STEP_S.saturating_mul(1_000_000));
    [0, -SKEW, SKEW].into_iter().filter_map(move |skew| u64::try_from(present + skew).ok())
}

/// Where a second factor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The secret was shown; nobody has proven to have it.
    Enrolled,
    /// In use.
    Confirmed,
    /// Gone. Another may be enrolled.
    Removed,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Confirmed => "confirmed",
            Self::Removed => "removed",
        }
    }
}

/// What changes a second factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// A new secret was made.
    #[serde(rename = "factor.enrolled")]
    Enrolled {},
    /// Its holder proved to have it.
    #[serde(rename = "factor.confirmed")]
    Confirmed {
        /// The counter of the code.
        counter: u64,
    },
    /// A code was used.
    #[serde(rename = "factor.used")]
    Used {
        /// The counter of the code.
        counter: u64,
    },
    /// A code was wrong.
    #[serde(rename = "factor.failed")]
    Failed {
        /// Where this was one too many: until when none is taken.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        locked_until: Option<Timestamp>,
    },
    /// It was removed, by its holder or by somebody who manages principals.
    #[serde(rename = "factor.removed")]
    Removed {
        /// By whom.
        by: PrincipalId,
    },
}

/// What a code is given for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To take the factor into use.
    Confirm,
    /// To prove who approves.
    Use,
}

/// What is asked of a second factor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Make a new secret.
    Enroll {},
    /// Take a code: the counter that it is the code of; none: it is wrong.
    Prove {
        /// What for.
        purpose: Purpose,
        /// The counter.
        counter: Option<u64>,
    },
    /// Remove it. Its holder has proven it in the same commit; who manages principals need not.
    Remove {
        /// By whom.
        by: PrincipalId,
    },
}

/// The state of a second factor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Factor {
    /// Whose.
    pub principal: PrincipalId,
    /// Where it stands.
    pub status: Status,
    /// The counter of the last code that was taken.
    pub last_counter: Option<u64>,
    /// How many codes were wrong since.
    pub failures: u32,
    /// Until when none is taken.
    pub locked_until: Option<Timestamp>,
    /// When the secret was made.
    pub enrolled_at: Timestamp,
}

impl Factor {
    /// Whether it proves anything.
    pub fn active(&self) -> bool {
        self.status == Status::Confirmed
    }

    /// Whether no code is taken at `now`.
    pub fn locked(&self, now: Timestamp) -> bool {
        self.locked_until.is_some_and(|until| now < until)
    }
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Factor>, input: Input, now: Timestamp) -> Result<Change, Refusal> {
    match (state, input) {
        (Some(factor), Input::Enroll {}) if factor.active() => Err(Refusal::Exists),
        // A new secret is no way around the lock.
        (Some(factor), Input::Enroll {}) if factor.locked(now) => Err(Refusal::StepUpLocked),
        (_, Input::Enroll {}) => Ok(Change::Enrolled {}),
        (None, _) => Err(Refusal::StepUpNotEnrolled),
        (Some(factor), _) if factor.status == Status::Removed => Err(Refusal::StepUpNotEnrolled),
        (Some(_), Input::Remove { by }) => Ok(Change::Removed { by }),
        (Some(factor), Input::Prove { purpose, counter }) => factor.prove(purpose, counter, now),
    }
}

impl Factor {
    fn prove(
        &self,
        purpose: Purpose,
        counter: Option<u64>,
        now: Timestamp,
    ) -> Result<Change, Refusal> {
        match (purpose, self.status) {
            (Purpose::Confirm, Status::Confirmed) => return Err(Refusal::Exists),
            (Purpose::Use, Status::Enrolled) => return Err(Refusal::StepUpNotEnrolled),
            _ => {}
        }
        if self.locked(now) {
            return Err(Refusal::StepUpLocked);
        }
        let Some(counter) = counter else {
            let last_straw = self.failures.saturating_add(1) >= limits::FACTOR_FAILURES_MAX;
            let until = now.plus_micros(limits::FACTOR_LOCK_MICROS);
            return Ok(Change::Failed { locked_until: last_straw.then_some(until) });
        };
        if self.last_counter.is_some_and(|last| counter <= last) {
            return Err(Refusal::StepUpReplayed);
        }
        Ok(match purpose {
            Purpose::Confirm => Change::Confirmed { counter },
            Purpose::Use => Change::Used { counter },
        })
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Factor>, change: &Change, applied: &Applied<'_>) {
    if let Change::Enrolled {} = change {
        let Ok(principal) = PrincipalId::new(applied.id) else { return };
        let failures = state.as_ref().map_or(0, |factor| factor.failures);
        *state = Some(Factor {
            principal,
            status: Status::Enrolled,
            last_counter: None,
            failures,
            locked_until: None,
            enrolled_at: applied.time,
        });
        return;
    }
    let Some(factor) = state else { return };
    match change {
        Change::Enrolled {} => {}
        Change::Confirmed { counter } | Change::Used { counter } => {
            factor.status = Status::Confirmed;
            factor.last_counter = Some(*counter);
            factor.failures = 0;
            factor.locked_until = None;
        }
        Change::Failed { locked_until } => {
            let locks = locked_until.is_some();
            factor.failures = if locks { 0 } else { factor.failures.saturating_add(1) };
            factor.locked_until = *locked_until;
        }
        Change::Removed { .. } => factor.status = Status::Removed,
    }
}
