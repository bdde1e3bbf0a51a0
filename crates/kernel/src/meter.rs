//! Meters: what actions came to, summed up by day and by who and what they were.
//!
//! A meter is no stream of its own: it follows from the changes of actions, is kept beside their
//! states, and is rebuilt with them. Sums are taken when something happens: an action that is
//! asked for before midnight and ends after it counts on both days.

use serde::{Deserialize, Serialize};

use crate::action::{Action, Change, LOST, Open, Request, Status};
use crate::ids::{AccountId, EnvironmentId, PrincipalId, ToolId};
use crate::limits;
use crate::units::{Unit, Units};
use crate::values::{Digest, MicroUsd, Timestamp};

/// Under what something is summed up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Days since 1970-01-01, in UTC.
    pub day: i64,
    /// What was called.
    pub tool: ToolId,
    /// Who acted.
    pub agent: PrincipalId,
    /// Where.
    pub environment: EnvironmentId,
    /// Who paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The run that it was part of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
}

impl Key {
    fn of(request: &Request, time: Timestamp) -> Option<Self> {
        Some(Self {
            day: time.day(),
            tool: request.tool.clone(),
            agent: request.actors.acting()?.id.clone(),
            environment: request.environment.clone(),
            account: request.account.clone(),
            run: request.run().map(ToString::to_string),
        })
    }

    /// What it is kept under: ids of later days come later.
    pub fn id(&self) -> String {
        let Self { tool, agent, environment, account, run, .. } = self;
        let account = account.as_ref().map_or("", AccountId::as_str);
        let run = run.as_deref().unwrap_or_default();
        // No part has a line break.
        let text = format!("{tool}\n{agent}\n{environment}\n{account}\n{run}");
        let mut id = first_id(self.day);
        id.push_str(Digest::of(text.as_bytes()).hex().get(..32).unwrap_or_default());
        id
    }
}

/// What the ids of a day begin with.
pub fn first_id(day: i64) -> String {
    format!("{day:08}-")
}

/// What was summed up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sums {
    /// Actions asked for.
    pub actions: u64,
    /// Actions that were carried out.
    pub executed: u64,
    /// Actions that failed.
    pub failed: u64,
    /// Actions that were denied.
    pub denied: u64,
    /// Attempts after which another followed.
    pub retries: u64,
    /// What attempts cost.
    pub money: MicroUsd,
    /// What attempts used.
    pub units: Units,
    /// Microseconds that attempts took whose end was seen.
    pub duration_us: u64,
    /// What became of the actions among them that write.
    #[serde(default, skip_serializing_if = "Writes::is_nothing")]
    pub writes: Writes,
}

/// What became of actions that write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Writes {
    /// Asked for.
    pub attempted: u64,
    /// Given a permit.
    pub allowed: u64,
    /// Denied: by policy, by people or for want of a budget.
    pub denied: u64,
    /// Put before people, or held, when they were asked for.
    pub held: u64,
    /// Carried out.
    pub executed: u64,
}

impl Writes {
    /// Whether there were none.
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }

    /// Both together.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            attempted: self.attempted.saturating_add(more.attempted),
            allowed: self.allowed.saturating_add(more.allowed),
            denied: self.denied.saturating_add(more.denied),
            held: self.held.saturating_add(more.held),
            executed: self.executed.saturating_add(more.executed),
        }
    }
}

impl Sums {
    /// Both together.
    #[must_use]
    pub fn plus(&self, more: &Self) -> Self {
        Self {
            actions: self.actions.saturating_add(more.actions),
            executed: self.executed.saturating_add(more.executed),
            failed: self.failed.saturating_add(more.failed),
            denied: self.denied.saturating_add(more.denied),
            retries: self.retries.saturating_add(more.retries),
            money: MicroUsd(self.money.0.saturating_add(more.money.0)),
            units: self.units.saturating_add(&more.units),
            duration_us: self.duration_us.saturating_add(more.duration_us),
            writes: self.writes.plus(&more.writes),
        }
    }
}

/// Sums and what they are of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meter {
    /// Of what.
    pub key: Key,
    /// How much.
    pub sums: Sums,
}

/// What one change of an action adds; `action` is as it was before.
pub fn of(action: Option<&Action>, change: &Change, time: Timestamp) -> Option<Meter> {
    let (sums, request) = match (action, change) {
        (None, Change::Requested(request)) => {
            (Some(Sums { actions: 1, ..Sums::default() }), &**request)
        }
        (None, _) => return None,
        (Some(action), change) => (added(action, change, time), &*action.request),
    };
    let writes = match request.units.get(Unit::Writes) > 0 {
        true => written(action, change, sums.as_ref()),
        false => Writes::default(),
    };
    if sums.is_none() && writes.is_nothing() {
        return None;
    }
    let sums = Sums { writes, ..sums.unwrap_or_default() };
    Some(Meter { key: Key::of(request, time)?, sums })
}

/// What a change of an action that writes adds.
fn written(action: Option<&Action>, change: &Change, sums: Option<&Sums>) -> Writes {
    let (denied, executed) = sums.map_or((0, 0), |sums| (sums.denied, sums.executed));
    let waits = |status| matches!(status, Status::AwaitingApproval | Status::Quarantined);
    let new = action.is_none_or(|action| action.status == Status::Requested);
    Writes {
        attempted: u64::from(matches!(change, Change::Requested(_))),
        allowed: u64::from(matches!(change, Change::Started(attempt) if attempt.number == 1)),
        held: u64::from(matches!(change, Change::Decided { status, .. } if new && waits(*status))),
        denied,
        executed,
    }
}

fn added(action: &Action, change: &Change, time: Timestamp) -> Option<Sums> {
    let spent = |money: MicroUsd, units: Units| Sums { money, units, ..Sums::default() };
    let denied =
        || (action.status != Status::Denied).then(|| Sums { denied: 1, ..Sums::default() });
    match change {
        Change::Decided { status: Status::Denied, .. } => denied(),
        // Whether an earlier attempt had an effect is not known: then it is not denied either.
        Change::Denied { .. } if !action.in_doubt => denied(),
        Change::Retried { failure, cost, units, .. } => {
            let took = if failure.code == LOST { 0 } else { took(action, time) };
            let spent = if action.in_doubt { Sums::default() } else { spent(*cost, *units) };
            Some(Sums { retries: 1, duration_us: took, ..spent })
        }
        Change::Finished { outcome, .. } => {
            let Open { cost, units } = action.open.and(outcome.cost, &outcome.units);
            let spent = spent(cost, units);
            match outcome.status {
                Status::Executed => {
                    Some(Sums { executed: 1, duration_us: took(action, time), ..spent })
                }
                Status::Failed => {
                    Some(Sums { failed: 1, duration_us: took(action, time), ..spent })
                }
                // It is paid once somebody has established what happened.
                _ => None,
            }
        }
        Change::Reconciled { status, cost, units, .. } => {
            let executed = u64::from(*status == Status::Executed);
            Some(Sums { executed, failed: 1 - executed, ..spent(*cost, *units) })
        }
        _ => None,
    }
}

/// How long the attempt under way has taken.
fn took(action: &Action, time: Timestamp) -> u64 {
    let began = |not_after: Timestamp| not_after.plus_micros(-limits::PERMIT_MICROS_MAX);
    let began = action.attempt.as_ref().map(|attempt| began(attempt.not_after));
    let micros = began.map_or(0, |began| time.0.saturating_sub(began.0));
    u64::try_from(micros).unwrap_or(0)
}
