//! The state machine of one run: queued → running → its steps, one action after the other → ended.
//!
//! A step follows its action: whatever moves an action that belongs to a run moves the run in the
//! same commit ([`follow`]), so that no crash separates them and nothing has to be woken up. A run
//! that can go on by itself is due; one whose actions are under way, or wait for people, is not.

use serde::{Deserialize, Serialize};

use crate::action::{self, FailureCode};
use crate::ids::{AccountId, ActionId, EnvironmentId, PrincipalId, RunId, StepId};
use crate::machine::{Applied, Refusal};
use crate::principal::ActorChain;
use crate::values::{Digest, MicroUsd, Shared, Timestamp};

mod fold;
mod follow;
mod input;
mod next;
mod pinned;
mod retention;
mod step;

pub use fold::apply;
pub use follow::{Report, follow, report, standing};
pub use input::Input;
pub use next::{Next, OUTPUT_UNKNOWN, Timer, next, reads_unknown};
pub use pinned::Pinned;
pub use step::step;

/// The tool that is a timer: its step waits before its action is submitted.
pub const TIMER: &str = "time.wait";

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Waits for its turn.
    Queued,
    /// Its steps are carried out.
    Running,
    /// Nothing new starts until somebody resumes it.
    Paused,
    /// All that goes on waits for people.
    WaitingApproval,
    /// Every step succeeded. Final.
    Succeeded,
    /// A step failed in a way that may pass: it waits to be replayed or discarded.
    FailedRetryable,
    /// It failed. Final.
    FailedTerminal,
    /// Withdrawn. Final.
    Canceled,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Paused,
        Self::WaitingApproval,
        Self::Succeeded,
        Self::FailedRetryable,
        Self::FailedTerminal,
        Self::Canceled,
    ];

    /// Whether nothing follows by itself.
    pub fn has_ended(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::FailedRetryable | Self::FailedTerminal | Self::Canceled
        )
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::WaitingApproval => "waiting_approval",
            Self::Succeeded => "succeeded",
            Self::FailedRetryable => "failed_retryable",
            Self::FailedTerminal => "failed_terminal",
            Self::Canceled => "canceled",
        }
    }
}

/// Where a step stands.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Not started, or to be started again.
    #[default]
    Ready,
    /// Its action is under way.
    Running,
    /// Its action waits for people: to approve it, to release it, or to find out how it ended.
    WaitingApproval,
    /// It has its output, or did not have to run.
    Succeeded,
    /// It failed in a way that may pass.
    FailedRetryable,
    /// It failed.
    FailedTerminal,
    /// Withdrawn.
    Canceled,
}

impl StepStatus {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Running => "running",
            Self::WaitingApproval => "waiting_approval",
            Self::Succeeded => "succeeded",
            Self::FailedRetryable => "failed_retryable",
            Self::FailedTerminal => "failed_terminal",
            Self::Canceled => "canceled",
        }
    }
}

/// Which call of which run an action is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRef {
    /// The run.
    pub run: RunId,
    /// The step.
    pub step: StepId,
    /// From 1: which of the step's calls.
    pub iteration: u32,
}

/// What of a step decides how the run goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepSpec {
    /// Its name.
    pub id: StepId,
    /// Neighbours of one group run at the same time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<StepId>,
    /// How often it calls its tool.
    pub iterations: u32,
    /// How many actions one call may take: more than one where one that surely failed is asked for
    /// again.
    pub attempts: u32,
    /// Before the second of them; it doubles with each. By the kind of the failure where it is 0.
    pub backoff_ms: u64,
}

/// What starts a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Trigger {
    /// Somebody who may.
    Manual,
    /// Somebody who wants an earlier run again.
    Replay,
    /// Something that happened elsewhere.
    Event {
        /// The trigger that takes such events.
        trigger: String,
        /// Of the name under which the event starts one run and no second.
        event: Digest,
    },
    /// The clock.
    Schedule {
        /// The trigger that was due.
        trigger: String,
    },
}

/// What was asked for: what never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The digest of the canonical document: plan, input and 128 random bits.
    pub document: Digest,
    /// From the credential.
    pub environment: EnvironmentId,
    /// Who acts for whom.
    pub actors: ActorChain,
    /// What started it.
    pub trigger: Trigger,
    /// The run that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<RunId>,
    /// Its steps.
    pub steps: Vec<StepSpec>,
    /// The account that its steps pay from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// The account that funded it, where that account is its own: what is left goes back there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payer: Option<AccountId>,
    /// What was allotted to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<MicroUsd>,
    /// How many of its calls may write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes_max: Option<u32>,
    /// When it must have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The workflow that it is of, and by which release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Pinned>,
    /// Whether its content is deleted once it has ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub metadata_only: bool,
}

/// What changes a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was asked for.
    #[serde(rename = "run.requested")]
    Requested(Shared<Request>),
    /// Its turn came.
    #[serde(rename = "run.admitted")]
    Admitted {},
    /// A step asked for an action.
    #[serde(rename = "run.step_started")]
    StepStarted {
        /// Which.
        step: StepId,
        /// Which of its calls.
        iteration: u32,
        /// The action.
        action: ActionId,
        /// Whether it writes.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        writes: bool,
    },
    /// A step moved with its action.
    #[serde(rename = "run.step_moved")]
    StepMoved {
        /// Which.
        step: StepId,
        /// Which of its calls.
        iteration: u32,
        /// The action.
        action: ActionId,
        /// Where the step stands now.
        to: StepStatus,
        /// Where the action stands now.
        state: action::Status,
        /// What the action cost, once it has ended.
        #[serde(default, skip_serializing_if = "is_nothing")]
        cost: MicroUsd,
        /// Why it did not succeed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureCode>,
        /// When it is tried again.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_until: Option<Timestamp>,
        /// Whether people approved it, other than in an emergency.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        approved: bool,
        /// Whether it was carried out, and nobody knows what it gave.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        output_unknown: bool,
    },
    /// The condition of a step does not hold.
    #[serde(rename = "run.step_skipped")]
    StepSkipped {
        /// Which.
        step: StepId,
    },
    /// A step waits: for its timer, or for longer than it would before it is tried again.
    #[serde(rename = "run.step_waits")]
    StepWaits {
        /// Which.
        step: StepId,
        /// Until when.
        until: Timestamp,
        /// Whether that is its timer.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        timer: bool,
    },
    /// A step failed before its action was asked for, or has an output that it may not have.
    #[serde(rename = "run.step_refused")]
    StepRefused {
        /// Which.
        step: StepId,
        /// Why.
        failure: FailureCode,
        /// Whether its action is under way, and ends in the same commit.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        output: bool,
    },
    /// Nothing new starts.
    #[serde(rename = "run.paused")]
    Paused {
        /// By whom.
        by: PrincipalId,
    },
    /// It goes on.
    #[serde(rename = "run.resumed")]
    Resumed {
        /// By whom.
        by: PrincipalId,
    },
    /// It ends as soon as nothing is under way.
    #[serde(rename = "run.ending")]
    Ending {
        /// How.
        status: Status,
        /// Why, where nobody wanted it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureCode>,
        /// By whom, where somebody did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<PrincipalId>,
    },
    /// It ended.
    #[serde(rename = "run.ended")]
    Ended {
        /// How.
        status: Status,
        /// Why.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<FailureCode>,
    },
    /// It goes on from a step that failed, or from one before it.
    #[serde(rename = "run.replayed")]
    Replayed {
        /// By whom.
        by: PrincipalId,
        /// From which step.
        from: StepId,
    },
    /// Nobody will replay it.
    #[serde(rename = "run.discarded")]
    Discarded {
        /// By whom.
        by: PrincipalId,
    },
    /// Code of one of its steps asked for an action that writes.
    #[serde(rename = "run.wrote")]
    Wrote {
        /// The action.
        action: ActionId,
    },
    /// What code of one of its steps asked for has ended.
    #[serde(rename = "run.spent")]
    Spent {
        /// The action.
        action: ActionId,
        /// What it cost.
        cost: MicroUsd,
    },
    /// What was left of its budget went back.
    #[serde(rename = "run.settled")]
    Settled {},
    /// Its content was deleted: what it was given, what its steps were and gave, and people's
    /// reasons.
    #[serde(rename = "run.content_dropped")]
    ContentDropped {},
}

fn is_nothing(amount: &MicroUsd) -> bool {
    *amount == MicroUsd::ZERO
}

/// The state of one step.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Where it stands.
    pub status: StepStatus,
    /// The call that it is at, from 1.
    pub iteration: u32,
    /// Actions that this call has had.
    pub tries: u32,
    /// Times in a row that policy put it off.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub put_off: u32,
    /// The last action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionId>,
    /// Calls of it that people approved and that succeeded.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub approved: u32,
    /// Whether it did not have to run.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Until when it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait_until: Option<Timestamp>,
    /// Whether its timer was set for this call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed: bool,
    /// Whether nobody knows how its action ended.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub in_doubt: bool,
    /// Whether its action was carried out, as people established, and nobody knows what it gave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_unknown: bool,
    /// Why its output is not accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<FailureCode>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// What its actions cost.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub cost: MicroUsd,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// How a run ends once nothing is under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How.
    pub status: Status,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
}

/// The state of one run: the fold of its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Which.
    pub id: RunId,
    /// Where it stands.
    pub status: Status,
    /// What was asked for.
    pub request: Shared<Request>,
    /// Its steps, in the order of the request.
    pub steps: Vec<Step>,
    /// Whether its turn came.
    pub admitted: bool,
    /// How it ends, where that is known before it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// Calls that write, so far.
    pub writes: u32,
    /// What it cost so far.
    pub cost: MicroUsd,
    /// How often it was replayed.
    pub replays: u32,
    /// Whether what was left of its budget went back.
    pub settled: bool,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// The log index of its first receipt.
    pub first_receipt: u64,
    /// The log index of its last receipt.
    pub last_receipt: u64,
    /// The log indices of all its receipts.
    #[serde(default)]
    pub receipts: Vec<u64>,
    /// Whether its content was deleted.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub content_dropped: bool,
}

impl Run {
    /// Where a step stands among the steps.
    pub fn position(&self, step: &StepId) -> Option<usize> {
        self.request.steps.iter().position(|spec| spec.id == *step)
    }

    /// The steps with what was asked of them.
    pub fn each(&self) -> impl Iterator<Item = (&StepSpec, &Step)> {
        self.request.steps.iter().zip(&self.steps)
    }

    /// The steps that may start as far as their neighbours are concerned: the first that has not
    /// succeeded, and those of its group.
    pub fn startable(&self) -> Vec<usize> {
        let done = |step: &Step| step.status == StepStatus::Succeeded;
        let Some(first) = self.steps.iter().position(|step| !done(step)) else {
            return Vec::new();
        };
        let group = self.request.steps.get(first).and_then(|spec| spec.group.as_ref());
        let each = self.each().enumerate().skip(first);
        let together = each.take_while(|(index, (spec, _))| {
            *index == first || (group.is_some() && spec.group.as_ref() == group)
        });
        let ready = together.filter(|(_, (_, step))| step.status == StepStatus::Ready);
        ready.map(|(index, _)| index).collect()
    }

    /// The actions that wait for people.
    pub fn waiting(&self) -> impl Iterator<Item = &ActionId> {
        let waits = |step: &&Step| step.status == StepStatus::WaitingApproval && !step.in_doubt;
        self.steps.iter().filter(waits).filter_map(|step| step.action.as_ref())
    }

    /// Whether an action of it is carried out right now.
    pub fn is_active(&self) -> bool {
        self.steps.iter().any(|step| step.status == StepStatus::Running)
    }

    /// Whether money that is left of its budget is still to go back.
    pub fn owes(&self) -> bool {
        let over = self.status.has_ended() && self.status != Status::FailedRetryable;
        over && self.request.budget.is_some() && !self.settled
    }

    /// When somebody must look at it again, if ever.
    pub fn due(&self) -> Option<Timestamp> {
        if self.status.has_ended() {
            return (self.owes() || self.leaves_content()).then_some(self.updated_at);
        }
        if self.ending.is_some() {
            return self.waiting().next().map(|_| self.updated_at);
        }
        let work = match self.status {
            Status::Running | Status::WaitingApproval => {
                let startable = self.startable().into_iter();
                let steps = startable.filter_map(|index| self.steps.get(index));
                steps.map(|step| step.wait_until.unwrap_or(self.updated_at)).min()
            }
            _ => None,
        };
        match (work, self.request.deadline) {
            (Some(work), Some(deadline)) => Some(work.min(deadline)),
            (work, deadline) => work.or(deadline),
        }
    }
}

impl Run {
    /// The run of a request, as it will be once that is granted.
    pub fn requested(id: &RunId, request: Shared<Request>, now: Timestamp) -> Option<Self> {
        let mut run = None;
        let applied = Applied { id: id.as_str(), index: 0, time: now };
        apply(&mut run, &Change::Requested(request), &applied);
        run
    }

    /// The run after `input`, as it will be where nothing else happens before.
    pub fn foresee(&self, input: Input, now: Timestamp) -> Result<Self, Refusal> {
        let mut after = self.clone();
        for change in step(Some(self), input, now)? {
            after.updated_at = now;
            after.fold(&change, now);
        }
        Ok(after)
    }
}
