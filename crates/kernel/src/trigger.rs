//! Triggers: what starts a workflow without anybody asking for it, an event that is delivered or a
//! time that comes, and where people are asked on Slack.
//!
//! The log has who set up what, by the digest of its definition ([`definition`]), and what each due
//! time came to. Events are not changes of their trigger: each starts a run, once.

pub mod definition;

use serde::{Deserialize, Serialize};

use crate::action::FailureCode;
use crate::ids::{self, EnvironmentId, PrincipalId, RunId, WorkspaceId};
use crate::machine::{Applied, Refusal};
use crate::values::{Digest, Timestamp};

/// From where it is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A ServiceNow instance.
    Servicenow,
    /// A GitHub repository or organisation.
    Github,
    /// A Slack app: events, and what people press.
    Slack,
    /// The clock.
    Schedule,
}

impl Source {
    /// Every source.
    pub const ALL: [Self; 4] = [Self::Servicenow, Self::Github, Self::Slack, Self::Schedule];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Servicenow => "servicenow",
            Self::Github => "github",
            Self::Slack => "slack",
            Self::Schedule => "schedule",
        }
    }

    /// The source of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|source| source.as_str() == name)
    }
}

/// What changes a trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was set up, for the first time or after it was removed. It is enabled then.
    #[serde(rename = "trigger.created")]
    Created(Box<Binding>),
    /// It starts runs again.
    #[serde(rename = "trigger.enabled")]
    Enabled {
        /// By whom.
        by: PrincipalId,
        /// When it is due, where the clock says so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_at: Option<Timestamp>,
    },
    /// It starts nothing.
    #[serde(rename = "trigger.disabled")]
    Disabled {
        /// By whom.
        by: PrincipalId,
    },
    /// Its time came.
    #[serde(rename = "trigger.fired")]
    Fired(Box<Fired>),
    /// It was removed.
    #[serde(rename = "trigger.removed")]
    Removed {
        /// By whom.
        by: PrincipalId,
    },
}

/// What a trigger is, by digests and ids: its definition is content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Binding {
    /// From where it is delivered.
    pub source: Source,
    /// Of the canonical JSON of its definition.
    pub definition: Digest,
    /// The workspace in which its runs are.
    pub workspace: WorkspaceId,
    /// Their environment.
    pub environment: EnvironmentId,
    /// The service that starts them.
    pub principal: PrincipalId,
    /// Who set it up.
    pub by: PrincipalId,
    /// When it is due first, where the clock says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
}

/// What a due time came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fired {
    /// The time that was due.
    pub due_at: Timestamp,
    /// The run that it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Why it started none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// The next time that is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
}

/// What is asked of a trigger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Set it up.
    Create(Box<Binding>),
    /// Have it start runs again.
    Enable {
        /// By whom.
        by: PrincipalId,
        /// When it is due next, where the clock says so.
        next_at: Option<Timestamp>,
    },
    /// Have it start nothing.
    Disable {
        /// By whom.
        by: PrincipalId,
    },
    /// Take note of what a due time came to.
    Fire(Box<Fired>),
    /// Remove it.
    Remove {
        /// By whom.
        by: PrincipalId,
    },
}

/// A trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// What it is.
    pub binding: Binding,
    /// Whether it starts anything.
    pub enabled: bool,
    /// When it is due, where the clock says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// What the last due time came to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Fired>,
    /// Whether it was removed.
    pub removed: bool,
    /// Whether another than who set it up has enabled it: without that it starts nothing in prod.
    pub reviewed: bool,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl Trigger {
    /// A short word for where it stands.
    pub fn status(&self) -> &'static str {
        match (self.removed, self.enabled) {
            (true, _) => "removed",
            (false, true) => "enabled",
            (false, false) => "disabled",
        }
    }

    /// When its time comes.
    pub fn due(&self) -> Option<Timestamp> {
        self.next_at.filter(|_| self.enabled && !self.removed)
    }
}

/// The change that `input` makes, or why it makes none.
pub fn step(state: Option<&Trigger>, input: Input) -> Result<Change, Refusal> {
    let live = state.filter(|trigger| !trigger.removed);
    let trigger = match (live, input) {
        (Some(_), Input::Create(_)) => return Err(Refusal::Exists),
        (None, Input::Create(binding)) => {
            return timed(&binding).map(|()| Change::Created(binding));
        }
        (None, _) => return Err(Refusal::Absent),
        (Some(trigger), input) => (trigger, input),
    };
    match trigger {
        (_, Input::Create(_)) => Err(Refusal::Exists),
        // Enabled once more by another than who set it up, it is reviewed.
        (Trigger { enabled: true, reviewed, binding, .. }, Input::Enable { by, .. })
            if *reviewed || by == binding.by =>
        {
            Err(Refusal::State("enabled"))
        }
        (Trigger { enabled: false, .. }, Input::Disable { .. } | Input::Fire(_)) => {
            Err(Refusal::State("disabled"))
        }
        (trigger, Input::Enable { by, next_at }) => {
            let binding = Binding { next_at, ..trigger.binding.clone() };
            timed(&binding).map(|()| Change::Enabled { by, next_at })
        }
        (_, Input::Disable { by }) => Ok(Change::Disabled { by }),
        (_, Input::Remove { by }) => Ok(Change::Removed { by }),
        (trigger, Input::Fire(fired)) => {
            if trigger.next_at != Some(fired.due_at) {
                return Err(Refusal::Moved);
            }
            if fired.next_at.is_some_and(|next| next <= fired.due_at) {
                return Err(Refusal::InvalidInput("the next due time comes after this one"));
            }
            if fired.run.is_some() == fired.failure.is_some() {
                return Err(Refusal::InvalidInput("a due time comes to a run or to a failure"));
            }
            Ok(Change::Fired(fired))
        }
    }
}

/// The clock says when schedules are due, and nothing else.
fn timed(binding: &Binding) -> Result<(), Refusal> {
    match (binding.source == Source::Schedule) == binding.next_at.is_some() {
        true => Ok(()),
        false => Err(Refusal::InvalidInput("schedules are due at times, and nothing else is")),
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Trigger>, change: &Change, applied: &Applied<'_>) {
    let Some(trigger) = state else {
        let Change::Created(binding) = change else { return };
        if ids::is_server_name(applied.id) {
            *state = Some(Trigger {
                name: applied.id.to_owned(),
                next_at: binding.next_at,
                binding: (**binding).clone(),
                enabled: true,
                last: None,
                removed: false,
                reviewed: false,
                revision: 1,
                created_at: applied.time,
                changed_at: applied.time,
            });
        }
        return;
    };
    match change {
        Change::Created(binding) => {
            trigger.binding = (**binding).clone();
            trigger.next_at = binding.next_at;
            (trigger.enabled, trigger.removed, trigger.last) = (true, false, None);
            trigger.reviewed = false;
        }
        Change::Enabled { by, next_at } => {
            (trigger.enabled, trigger.next_at) = (true, *next_at);
            trigger.reviewed |= *by != trigger.binding.by;
        }
        Change::Disabled { .. } => trigger.enabled = false,
        Change::Fired(fired) => {
            trigger.next_at = fired.next_at;
            trigger.last = Some((**fired).clone());
        }
        Change::Removed { .. } => trigger.removed = true,
    }
    trigger.revision = trigger.revision.saturating_add(1);
    trigger.changed_at = applied.time;
}
