//! Workflows that are kept: which versions of one there are, and which releases of it are in force.
//!
//! What is published stays what it is: another text, another step or another model is a higher
//! version. Which release a run takes follows from what is in force in its environment and from the
//! run's id alone, so that anybody can say it again.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{EnvironmentId, PrincipalId, ReleaseId, RunId, WorkflowId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::release::{Ring, takes_canary};
use crate::risk::Tier;
use crate::values::{Digest, Timestamp};
use crate::version::Version;
use crate::workflow::ModelPin;

/// What changes a workflow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It is there in a further version.
    #[serde(rename = "workflow.published")]
    Published(Publication),
    /// Other releases of it are in force.
    #[serde(rename = "workflow.released")]
    Released {
        /// Where.
        environment: EnvironmentId,
        /// Which.
        in_force: InForce,
    },
}

/// One version of a workflow, by digests: the document itself is content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publication {
    /// Higher than every version before it.
    pub version: Version,
    /// Of the document as it was sent.
    pub document: Digest,
    /// Of the plan that it compiles to.
    pub plan: Digest,
    /// Which model it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_pin: Option<ModelPin>,
    /// How risky its author says that it is.
    pub risk_tier: Tier,
    /// Who published it.
    pub by: PrincipalId,
}

/// The releases of one workflow that runs take in one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InForce {
    /// Taken by every run that takes no canary.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<ReleaseId>,
    /// Taken by a share of the runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
}

/// A release that a share of the runs take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Canary {
    /// Which.
    pub release: ReleaseId,
    /// How many runs of a hundred.
    pub percent: u8,
}

impl InForce {
    /// The release that the run `id` takes, and the ring that it is taken in.
    pub fn of(&self, id: &RunId) -> Option<(&ReleaseId, Ring)> {
        match &self.canary {
            Some(Canary { release, percent }) if takes_canary(id, *percent) => {
                Some((release, Ring::Canary { percent: *percent }))
            }
            _ => self.stable.as_ref().map(|release| (release, Ring::All {})),
        }
    }

    fn check(&self) -> Result<(), Refusal> {
        let Some(canary) = &self.canary else { return Ok(()) };
        Ring::Canary { percent: canary.percent }.check()?;
        match &self.stable {
            None => Err(Refusal::InvalidInput(
                "a canary runs beside a release that is in force for all: promote one first",
            )),
            Some(stable) if *stable == canary.release => {
                Err(Refusal::InvalidInput("a release is in force for all or as a canary"))
            }
            Some(_) => Ok(()),
        }
    }
}

/// What is asked of a workflow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Keep it, or a further version of it.
    Publish(Publication),
    /// Have other releases in force (in the commit that moves those releases).
    Release {
        /// Where.
        environment: EnvironmentId,
        /// Which.
        in_force: InForce,
    },
}

/// A version that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// What was published.
    pub publication: Publication,
    /// When.
    pub at: Timestamp,
}

/// A workflow that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workflow {
    /// Its name.
    pub id: WorkflowId,
    /// Its versions, the highest last.
    pub versions: Vec<Kept>,
    /// What is in force in which environment.
    pub in_force: BTreeMap<EnvironmentId, InForce>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// Since when it is known.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl Workflow {
    /// One of its versions.
    pub fn version(&self, version: &Version) -> Option<&Kept> {
        self.versions.iter().find(|kept| kept.publication.version == *version)
    }

    /// The highest version.
    pub fn latest(&self) -> Option<&Kept> {
        self.versions.last()
    }

    /// What is in force in `environment`.
    pub fn in_force(&self, environment: &EnvironmentId) -> InForce {
        self.in_force.get(environment).cloned().unwrap_or_default()
    }
}

/// The change that `input` makes to a workflow, or why it makes none.
pub fn step(state: Option<&Workflow>, input: Input) -> Result<Change, Refusal> {
    match input {
        Input::Publish(publication) => {
            if let Some(workflow) = state {
                may_follow(workflow, &publication)?;
            }
            Ok(Change::Published(publication))
        }
        Input::Release { environment, in_force } => {
            let workflow = state.ok_or(Refusal::Absent)?;
            in_force.check()?;
            if workflow.in_force(&environment) == in_force {
                return Err(Refusal::State("unchanged"));
            }
            let known = workflow.in_force.contains_key(&environment);
            if !known && workflow.in_force.len() >= limits::WORKFLOW_ENVIRONMENTS_MAX {
                return Err(Refusal::InvalidInput(
                    "a workflow is released in at most 16 environments",
                ));
            }
            Ok(Change::Released { environment, in_force })
        }
    }
}

/// A version that is there stays what it is; a new one is higher than all of them.
fn may_follow(workflow: &Workflow, new: &Publication) -> Result<(), Refusal> {
    if let Some(kept) = workflow.version(&new.version) {
        return Err(match kept.publication.document == new.document {
            true => Refusal::State("unchanged"),
            false => Refusal::InvalidInput(
                "this version is published with another text: give what changed a higher version",
            ),
        });
    }
    let Some(last) = workflow.latest().map(|kept| &kept.publication) else { return Ok(()) };
    if last.version.precedence(&new.version) != Ordering::Less {
        return Err(Refusal::InvalidInput(match last.model_pin == new.model_pin {
            true => "a version as high or a higher one is published: give it a higher version",
            false => "the model pin changed: give it a higher version than all before it",
        }));
    }
    if workflow.versions.len() >= limits::WORKFLOW_VERSIONS_MAX {
        return Err(Refusal::InvalidInput(
            "a workflow has at most 256 versions: go on under another name",
        ));
    }
    Ok(())
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Workflow>, change: &Change, applied: &Applied<'_>) {
    let Some(workflow) = state else {
        let (Change::Published(publication), Ok(id)) = (change, WorkflowId::new(applied.id)) else {
            return;
        };
        *state = Some(Workflow {
            id,
            versions: vec![Kept { publication: publication.clone(), at: applied.time }],
            in_force: BTreeMap::new(),
            revision: 1,
            created_at: applied.time,
            changed_at: applied.time,
        });
        return;
    };
    match change {
        Change::Published(publication) => {
            workflow.versions.push(Kept { publication: publication.clone(), at: applied.time });
        }
        Change::Released { environment, in_force } => {
            workflow.in_force.insert(environment.clone(), in_force.clone());
        }
    }
    workflow.revision = workflow.revision.saturating_add(1);
    workflow.changed_at = applied.time;
}
