//! What a run rests on: who published its workflow, who approved its release and had runs take it,
//! who put the policies into force that decided. The control log says so.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Error, Told};
use crate::control;
use crate::ids::EnvironmentId;
use crate::machine::{Change, Kind, Stream};
use crate::receipt::Transition;
use crate::release;
use crate::run::{Pinned, Run};
use crate::values::{Digest, Timestamp};
use crate::workflow_registry as workflow;

/// What receipts of the control log say, in their order.
#[derive(Clone, Debug)]
pub struct Control<'a> {
    /// The origin of that log.
    pub origin: &'a str,
    /// What they say.
    pub told: Vec<Told<'a>>,
}

/// What a run rests on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Governance {
    /// The origin of the control log.
    pub log: String,
    /// Who published the workflow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workflow: Option<Said<workflow::Publication>>,
    /// What became of the release, from its making on: who approved it, who had runs take it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub release: Vec<Said<release::Change>>,
    /// Who wrote the policies that decided, and who put them into force.
    pub policies: Vec<Said<control::Change>>,
    /// The receipts of the control log that tell of it.
    pub receipts: Vec<u64>,
}

/// What one receipt of the control log says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Said<T> {
    /// Which receipt.
    pub receipt: u64,
    /// When.
    pub at_us: Timestamp,
    /// What.
    pub said: T,
}

/// What the control log has to say about a run.
#[derive(Clone, Debug)]
pub struct Needs {
    pinned: Option<Pinned>,
    environment: EnvironmentId,
    requested_at: Timestamp,
    policies: BTreeMap<u64, Digest>,
}

impl Needs {
    pub(super) fn new(run: &Run, policies: BTreeMap<u64, Digest>) -> Self {
        Self {
            pinned: run.request.release.clone(),
            environment: run.request.environment.clone(),
            requested_at: run.requested_at,
            policies,
        }
    }

    /// Whether nothing is to be said: nobody published what ran, and no policy decided.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_none() && self.policies.is_empty()
    }

    /// The digest of the workflow's text, where it was published.
    pub fn document(&self) -> Option<Digest> {
        self.pinned.as_ref().map(|pinned| pinned.digest)
    }

    /// Whether a change is part of it.
    pub fn has(&self, transition: &Transition) -> bool {
        self.publishes(transition).is_some()
            || self.puts_into_force(transition).is_some()
            || self.release().is_some_and(|release| release == transition.stream)
    }

    /// Whether everything is among `transitions`.
    pub fn are_met_by<'a>(&self, transitions: impl Iterator<Item = &'a Transition>) -> bool {
        let (release, mut policies) = (self.release(), self.policies.clone());
        let mut missing = (self.pinned.is_some(), release.is_some());
        for transition in transitions {
            missing.0 &= self.publishes(transition).is_none();
            let made = release.as_ref() == Some(&transition.stream) && transition.version == 1;
            missing.1 &= !made;
            self.puts_into_force(transition).map(|revision| policies.remove(&revision));
        }
        missing == (false, false) && policies.is_empty()
    }

    fn release(&self) -> Option<Stream> {
        let release = self.pinned.as_ref()?.release.as_ref()?;
        Some(Stream::new(Kind::Release, release.as_str()))
    }

    fn publishes(&self, transition: &Transition) -> Option<workflow::Publication> {
        let pinned = self.pinned.as_ref()?;
        let Change::Workflow(workflow::Change::Published(publication)) = &transition.change else {
            return None;
        };
        let same = *transition.stream.id == *pinned.workflow.as_str()
            && (&publication.version, publication.document) == (&pinned.version, pinned.digest);
        same.then(|| publication.clone())
    }

    fn puts_into_force(&self, transition: &Transition) -> Option<u64> {
        let Change::Control(control::Change::PolicyPublished { revision, digest, .. }) =
            &transition.change
        else {
            return None;
        };
        (self.policies.get(revision) == Some(digest)).then_some(*revision)
    }

    /// What the control log says; an error where it does not say enough, or something else.
    pub(super) fn tell(&self, control: Option<&Control<'_>>) -> Result<Option<Governance>, Error> {
        if self.is_empty() {
            return Ok(None);
        }
        let Some(Control { origin, told }) = control else {
            return Err(Error::Governance("no receipt of the control log is here"));
        };
        let mut found = Governance {
            log: (*origin).to_owned(),
            workflow: None,
            release: Vec::new(),
            policies: Vec::new(),
            receipts: Vec::new(),
        };
        let release = self.release();
        for Told { index, time, transitions } in told {
            for transition in transitions.iter().filter(|transition| self.has(transition)) {
                let (receipt, at_us) = (*index, *time);
                if found.receipts.last() != Some(index) {
                    found.receipts.push(*index);
                }
                match &transition.change {
                    Change::Workflow(workflow::Change::Published(said)) => {
                        found.workflow = Some(Said { receipt, at_us, said: said.clone() });
                    }
                    Change::Control(said) => {
                        found.policies.push(Said { receipt, at_us, said: said.clone() });
                    }
                    Change::Release(said) => {
                        let due = u64::try_from(found.release.len()).unwrap_or(u64::MAX) + 1;
                        if transition.version != due {
                            let stream = transition.stream.clone();
                            return Err(Error::Gap { stream, version: due });
                        }
                        found.release.push(Said { receipt, at_us, said: said.clone() });
                    }
                    _ => {}
                }
            }
        }
        let every = told.iter().flat_map(|told| told.transitions);
        if !self.are_met_by(every) {
            let stream = release.filter(|_| found.release.is_empty());
            return Err(stream.map_or(Error::Governance(UNSAID), Error::Absent));
        }
        self.check(&found.release)?;
        Ok(Some(found))
    }

    /// Whether the release is of what ran, was approved by as many as it takes, and was taken by
    /// runs when this one began.
    fn check(&self, moves: &[Said<release::Change>]) -> Result<(), Error> {
        let Some(pinned) = self.pinned.as_ref().filter(|pinned| pinned.release.is_some()) else {
            return Ok(());
        };
        let Some(release::Change::Created(request)) = moves.first().map(|first| &first.said) else {
            return Err(Error::Governance(UNSAID));
        };
        let same = (&request.workflow, &request.version, request.document)
            == (&pinned.workflow, &pinned.version, pinned.digest)
            && (request.policy_revision, &request.model_pin)
                == (pinned.policy_revision, &pinned.model_pin)
            && request.environment == self.environment;
        if !same {
            return Err(Error::Governance("the release is of something else than what ran"));
        }
        let promoted = |one: &&Said<release::Change>| {
            matches!(one.said, release::Change::Promoted { .. }) && one.at_us <= self.requested_at
        };
        let Some(promoted) = moves.iter().find(promoted) else {
            return Err(Error::Governance("no run took the release when this one began"));
        };
        let approved = moves.iter().take_while(|one| one.receipt < promoted.receipt);
        let approved =
            approved.filter(|one| matches!(one.said, release::Change::Approved { .. })).count();
        if approved < usize::from(request.approvers) {
            return Err(Error::Governance("too few people approved the release"));
        }
        Ok(())
    }
}

/// Why there is no telling.
const UNSAID: &str = "who published the workflow or put a policy into force is not among them";
