//! What a run of a kept workflow is bound to, and what policy may know of a run.

use serde::{Deserialize, Serialize};

use super::{Run, Step, StepSpec, StepStatus};
use crate::decision::InputRun;
use crate::ids::{ReleaseId, StepId, WorkflowId};
use crate::release::Ring;
use crate::values::Digest;
use crate::version::Version;
use crate::workflow::ModelPin;

/// What a run of a kept workflow was started with, whatever becomes of it later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// The workflow.
    pub workflow: WorkflowId,
    /// Which version of it.
    pub version: Version,
    /// The digest of its document.
    pub digest: Digest,
    /// The release that it was taken by; none where the version was named outright.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<ReleaseId>,
    /// The ring of the release that the run fell into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<Ring>,
    /// The policy that the release was made under; without a release, the one in force.
    pub policy_revision: u64,
    /// Which model it works with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_pin: Option<ModelPin>,
}

impl Run {
    /// The steps that succeeded, of which people approved every call.
    pub fn approved_steps(&self) -> Vec<StepId> {
        let approved = |(spec, step): &(&StepSpec, &Step)| {
            step.status == StepStatus::Succeeded && step.approved >= spec.iterations
        };
        self.each().filter(approved).map(|(spec, _)| spec.id.clone()).collect()
    }

    /// What policy may know of it.
    pub fn facts(&self) -> InputRun {
        let pinned = self.request.release.as_ref();
        let ring = pinned.and_then(|pinned| pinned.ring);
        InputRun {
            id: self.id.clone(),
            workflow: pinned.map(|pinned| pinned.workflow.clone()),
            version: pinned.map(|pinned| pinned.version.clone()),
            release: pinned.and_then(|pinned| pinned.release.clone()),
            ring: ring.map(Ring::as_str),
            approved_steps: self.approved_steps(),
        }
    }
}
