//! What a run rests on: who published its workflow, who approved its release and had runs take it,
//! who put the policies into force that decided. The control log says so.

use std::collections::BTreeMap;

use serde::Serialize;

use super::taken::Taking;
use super::{Error, Told};
use crate::control;
use crate::decision::PolicyRef as Policy;
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
    taking: Taking,
    /// Of each revision that decided, the digest and when it did so first.
    policies: BTreeMap<u64, (Digest, Timestamp)>,
    /// The time of the run's last receipt: what was said later is of no account, so that the same
    /// run has the same evidence later.
    until: Timestamp,
}

impl Needs {
    /// `decided`: which policies did, and when.
    pub(super) fn new(
        run: &Run,
        decided: impl Iterator<Item = (Policy, Timestamp)>,
        until: Timestamp,
    ) -> Result<Self, Error> {
        let mut policies: BTreeMap<u64, (Digest, Timestamp)> = BTreeMap::new();
        for (Policy { revision, digest }, at) in decided {
            let (known, first) = policies.entry(revision).or_insert((digest, at));
            if *known != digest {
                return Err(Error::Governance("two policies decided under one revision"));
            }
            *first = at.min(*first);
        }
        let pinned = run.request.release.clone();
        Ok(Self { pinned, taking: Taking::new(run), policies, until })
    }

    /// Whether nothing is to be said: nobody published what ran, and no policy decided.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_none() && self.policies.is_empty()
    }

    /// The digest of the workflow's text, where it was published.
    pub fn document(&self) -> Option<Digest> {
        self.pinned.as_ref().map(|pinned| pinned.digest)
    }

    /// The digests of the policies that decided.
    pub fn policies(&self) -> impl Iterator<Item = Digest> {
        self.policies.values().map(|(digest, _)| *digest)
    }

    /// Whether a change that was made at `at` is part of it.
    pub fn has(&self, transition: &Transition, at: Timestamp) -> bool {
        let moves = |release: Stream| release == transition.stream && at <= self.until;
        self.publishes(transition, at).is_some()
            || self.puts_into_force(transition, at).is_some()
            || self.release().is_some_and(moves)
    }

    /// Whether everything is among these changes, each with its time.
    pub fn are_met_by<'a>(
        &self,
        transitions: impl Iterator<Item = (Timestamp, &'a Transition)>,
    ) -> bool {
        let (release, mut policies) = (self.release(), self.policies.clone());
        let mut missing = (self.pinned.is_some(), release.is_some());
        for (at, transition) in transitions {
            missing.0 &= self.publishes(transition, at).is_none();
            let made = release.as_ref() == Some(&transition.stream) && transition.version == 1;
            missing.1 &= !made;
            self.puts_into_force(transition, at).map(|revision| policies.remove(&revision));
        }
        missing == (false, false) && policies.is_empty()
    }

    fn release(&self) -> Option<Stream> {
        let release = self.pinned.as_ref()?.release.as_ref()?;
        Some(Stream::new(Kind::Release, release.as_str()))
    }

    /// Published before the run began.
    fn publishes(&self, transition: &Transition, at: Timestamp) -> Option<workflow::Publication> {
        let pinned = self.pinned.as_ref()?;
        let Change::Workflow(workflow::Change::Published(publication)) = &transition.change else {
            return None;
        };
        let same = *transition.stream.id == *pinned.workflow.as_str()
            && (&publication.version, publication.document) == (&pinned.version, pinned.digest)
            && at <= self.taking.at();
        same.then(|| publication.clone())
    }

    /// Put into force before it decided.
    fn puts_into_force(&self, transition: &Transition, at: Timestamp) -> Option<u64> {
        let Change::Control(control::Change::PolicyPublished { revision, digest, .. }) =
            &transition.change
        else {
            return None;
        };
        let (decided, first) = self.policies.get(revision)?;
        (decided == digest && at <= *first).then_some(*revision)
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
        for Told { index, time, transitions } in told {
            for transition in transitions.iter().filter(|change| self.has(change, *time)) {
                found.add(*index, *time, transition)?;
            }
        }
        let every = told.iter().flat_map(|told| told.transitions.iter().map(|t| (told.time, t)));
        if !self.are_met_by(every) {
            let stream = self.release().filter(|_| found.release.is_empty());
            return Err(stream.map_or(Error::Governance(UNSAID), Error::Absent));
        }
        if let Some(pinned) = &self.pinned {
            self.taking.check(pinned, &found)?;
        }
        Ok(Some(found))
    }
}

impl Governance {
    fn add(&mut self, receipt: u64, at_us: Timestamp, said: &Transition) -> Result<(), Error> {
        if self.receipts.last() != Some(&receipt) {
            self.receipts.push(receipt);
        }
        match &said.change {
            Change::Workflow(workflow::Change::Published(said)) => {
                self.workflow = Some(Said { receipt, at_us, said: said.clone() });
            }
            Change::Control(said) => {
                self.policies.push(Said { receipt, at_us, said: said.clone() });
            }
            Change::Release(change) => {
                let due = u64::try_from(self.release.len()).unwrap_or(u64::MAX).saturating_add(1);
                if said.version != due {
                    return Err(Error::Gap { stream: said.stream.clone(), version: due });
                }
                self.release.push(Said { receipt, at_us, said: change.clone() });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Why there is no telling.
pub(super) const UNSAID: &str =
    "who published the workflow or put a policy into force is not among them";
