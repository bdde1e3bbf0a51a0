//! Releases: one version of a workflow on its way into force in one environment.
//!
//! candidate → approved → active (for a share of the runs, or for all) → superseded, or rolled back
//! by people or because its error budget is spent. What a release says of the workflow, the policy
//! and the model never changes; which releases runs take is said by the workflow itself
//! ([`crate::workflow_registry`]), in the same commit ([`moves`]).

use serde::{Deserialize, Serialize};

use crate::ids::{EnvironmentId, PrincipalId, ReleaseId, RunId, UseCaseId, WorkflowId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::risk::Tier;
use crate::values::{Digest, Shared, Timestamp};
use crate::version::Version;
use crate::workflow::ModelPin;

mod budget;
pub mod moves;

pub use budget::Window;

/// Which runs take a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ring {
    /// So many of a hundred.
    Canary {
        /// 1 to 99.
        percent: u8,
    },
    /// All that take no canary.
    All {},
}

impl Ring {
    /// The name on the wire, and in what policy reads.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canary { .. } => "canary",
            Self::All {} => "all",
        }
    }

    pub(crate) fn check(self) -> Result<(), Refusal> {
        match self {
            Self::Canary { percent } if !(1..=99).contains(&percent) => {
                Err(Refusal::InvalidInput("a canary takes 1 to 99 runs of a hundred"))
            }
            _ => Ok(()),
        }
    }
}

/// Whether the run `id` takes a canary of `percent`: the first eight bytes of the SHA-256 of its
/// id, as a number, modulo 100, lie below that. Whoever takes a small canary takes a larger one.
pub fn takes_canary(id: &RunId, percent: u8) -> bool {
    let Digest(hash) = Digest::of(id.as_str().as_bytes());
    let first = hash.first_chunk::<8>().copied().unwrap_or_default();
    u64::from_be_bytes(first) % 100 < u64::from(percent)
}

/// How many runs of a canary may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorBudget {
    /// Of how many runs that ended last.
    pub window_runs: u32,
    /// As many failed ones roll it back.
    pub failures_max: u32,
}

impl Default for ErrorBudget {
    fn default() -> Self {
        Self { window_runs: 20, failures_max: 3 }
    }
}

/// What is to be released: what never changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Which workflow.
    pub workflow: WorkflowId,
    /// Which version of it.
    pub version: Version,
    /// The digest of its document.
    pub document: Digest,
    /// The policy that was in force.
    pub policy_revision: u64,
    /// Which model it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_pin: Option<ModelPin>,
    /// How risky it is.
    pub risk_tier: Tier,
    /// Where.
    pub environment: EnvironmentId,
    /// How many runs of its canary may fail.
    pub error_budget: ErrorBudget,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub use_case: Option<UseCaseId>,
    /// The least tier that its use case lets it claim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier_floor: Option<Tier>,
    /// How many people approve it.
    pub approvers: u8,
    /// Whether who made it may not approve it.
    pub separated: bool,
    /// Who asks for the release.
    pub author: PrincipalId,
    /// Who published the version.
    pub publisher: PrincipalId,
}

/// Why a release was rolled back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Cause {
    /// Somebody wanted it.
    Person {
        /// Who.
        by: PrincipalId,
    },
    /// Too many runs failed: the system did it.
    ErrorBudget {
        /// Of so many runs.
        runs: u32,
        /// So many.
        failures: u32,
    },
}

/// What changes a release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was asked for.
    #[serde(rename = "release.created")]
    Created(Shared<Request>),
    /// Somebody approved it.
    #[serde(rename = "release.approved")]
    Approved {
        /// Who.
        by: PrincipalId,
        /// What they looked at: the root hash of a simulation or of a replay.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evaluation: Option<Digest>,
    },
    /// Runs take it.
    #[serde(rename = "release.promoted")]
    Promoted {
        /// Who promoted it.
        by: PrincipalId,
        /// Which runs.
        ring: Ring,
        /// The release whose place it takes.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaces: Option<ReleaseId>,
    },
    /// Another took its place.
    #[serde(rename = "release.superseded")]
    Superseded {
        /// Which.
        with: ReleaseId,
    },
    /// No run takes it any more.
    #[serde(rename = "release.rolled_back")]
    RolledBack {
        /// Why.
        cause: Cause,
    },
    /// It is in force for all again: the one that took its place was rolled back.
    #[serde(rename = "release.reinstated")]
    Reinstated {
        /// Which was rolled back.
        after: ReleaseId,
    },
}

/// What is asked of a release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Make it.
    Create(Shared<Request>),
    /// Approve it.
    Approve {
        /// Who.
        by: PrincipalId,
        /// What they looked at.
        evaluation: Option<Digest>,
    },
    /// Have runs take it.
    Promote {
        /// Who wants it.
        by: PrincipalId,
        /// Which runs.
        ring: Ring,
        /// The release whose place it takes.
        replaces: Option<ReleaseId>,
    },
    /// Another takes its place.
    Supersede {
        /// Which.
        with: ReleaseId,
    },
    /// Have no run take it any more.
    RollBack {
        /// Why.
        cause: Cause,
    },
    /// Have it in force again.
    Reinstate {
        /// Which was rolled back.
        after: ReleaseId,
    },
}

/// Where a release stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits to be approved.
    Candidate,
    /// It may be promoted.
    Approved,
    /// Runs take it.
    Active,
    /// Another took its place.
    Superseded,
    /// It was taken out of force. Final.
    RolledBack,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Candidate => "candidate",
            Self::Approved => "approved",
            Self::Active => "active",
            Self::Superseded => "superseded",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// Somebody's yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Whose.
    pub by: PrincipalId,
    /// What they looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<Digest>,
    /// When.
    pub at: Timestamp,
}

/// A release.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// Which.
    pub id: ReleaseId,
    /// What was asked for.
    pub request: Shared<Request>,
    /// Where it stands.
    pub status: Status,
    /// Who approved it.
    pub approvals: Vec<Approval>,
    /// Which runs take it, or took it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<Ring>,
    /// The release whose place it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<ReleaseId>,
    /// Why it was rolled back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// Since when runs take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub active_since: Option<Timestamp>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl Release {
    /// Whether a share of the runs take it, so that its error budget counts.
    pub fn is_canary(&self) -> bool {
        self.status == Status::Active && matches!(self.ring, Some(Ring::Canary { .. }))
    }
}

/// The change that `input` makes to a release, or why it makes none.
pub fn step(state: Option<&Release>, input: Input) -> Result<Change, Refusal> {
    let release = match (state, input) {
        (None, Input::Create(request)) => {
            check(&request)?;
            return Ok(Change::Created(request));
        }
        (Some(_), Input::Create(_)) => return Err(Refusal::Exists),
        (state, input) => (state.ok_or(Refusal::Absent)?, input),
    };
    let (release, input) = release;
    let stands = |any: &[Status]| match any.contains(&release.status) {
        true => Ok(()),
        false => Err(Refusal::State(release.status.as_str())),
    };
    match input {
        Input::Create(_) => Err(Refusal::Exists),
        Input::Approve { by, evaluation } => {
            stands(&[Status::Candidate])?;
            let request = &release.request;
            if request.separated && (by == request.author || by == request.publisher) {
                return Err(Refusal::SelfApproval);
            }
            if release.approvals.iter().any(|approval| approval.by == by) {
                return Err(Refusal::AlreadyDecided);
            }
            Ok(Change::Approved { by, evaluation })
        }
        Input::Promote { by, ring, replaces } => {
            stands(&[Status::Approved, Status::Active])?;
            ring.check()?;
            if release.status == Status::Active && release.ring == Some(ring) {
                return Err(Refusal::State("unchanged"));
            }
            if release.status == Status::Active && !release.is_canary() {
                return Err(Refusal::State(Status::Active.as_str()));
            }
            Ok(Change::Promoted { by, ring, replaces })
        }
        Input::Supersede { with } => {
            stands(&[Status::Active])?;
            Ok(Change::Superseded { with })
        }
        Input::RollBack { cause } => {
            stands(&[Status::Active])?;
            Ok(Change::RolledBack { cause })
        }
        Input::Reinstate { after } => {
            stands(&[Status::Superseded])?;
            Ok(Change::Reinstated { after })
        }
    }
}

fn check(request: &Request) -> Result<(), Refusal> {
    let ErrorBudget { window_runs, failures_max } = request.error_budget;
    let window = 1..=limits::RELEASE_WINDOW_RUNS_MAX;
    if !window.contains(&window_runs) || !(1..=window_runs).contains(&failures_max) {
        return Err(Refusal::InvalidInput(
            "an error budget counts 1 to 1000 runs, of which 1 to all may fail",
        ));
    }
    if !(1..=limits::RELEASE_APPROVERS_MAX).contains(&request.approvers) {
        return Err(Refusal::InvalidInput("a release is approved by 1 to 4 people"));
    }
    if request.tier_floor.is_some_and(|floor| request.risk_tier < floor) {
        return Err(Refusal::InvalidInput(
            "the workflow claims a lower risk tier than its use case was scored with",
        ));
    }
    Ok(())
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Release>, change: &Change, applied: &Applied<'_>) {
    let Some(release) = state else {
        let (Change::Created(request), Ok(id)) = (change, ReleaseId::new(applied.id)) else {
            return;
        };
        *state = Some(Release {
            id,
            request: request.clone(),
            status: Status::Candidate,
            approvals: Vec::new(),
            ring: None,
            replaces: None,
            cause: None,
            active_since: None,
            revision: 1,
            created_at: applied.time,
            changed_at: applied.time,
        });
        return;
    };
    match change {
        Change::Created(_) => {}
        Change::Approved { by, evaluation } => {
            let (by, evaluation) = (by.clone(), *evaluation);
            release.approvals.push(Approval { by, evaluation, at: applied.time });
            if release.approvals.len() >= usize::from(release.request.approvers) {
                release.status = Status::Approved;
            }
        }
        Change::Promoted { ring, replaces, .. } => {
            release.status = Status::Active;
            release.ring = Some(*ring);
            release.replaces = replaces.clone();
            release.active_since.get_or_insert(applied.time);
        }
        Change::Superseded { .. } => release.status = Status::Superseded,
        Change::RolledBack { cause } => {
            release.status = Status::RolledBack;
            release.cause = Some(cause.clone());
        }
        Change::Reinstated { .. } => {
            (release.status, release.ring) = (Status::Active, Some(Ring::All {}));
        }
    }
    release.revision = release.revision.saturating_add(1);
    release.changed_at = applied.time;
}
