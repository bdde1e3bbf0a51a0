//! Whether a run took a release that it might take: one of what ran, approved by as many people as
//! it takes, and in force for that run when it began.

use std::collections::BTreeSet;

use super::governance::{Said, UNSAID};
use super::{Error, Governance};
use crate::ids::{EnvironmentId, RunId};
use crate::limits;
use crate::machine::Applied;
use crate::release::{self, Release, Request, Ring, Status, takes_canary};
use crate::run::{Pinned, Run};
use crate::values::Timestamp;

/// Where a run repeats another, the release must still be in force.
const PROD: &str = "prod";

/// Which run took a release.
#[derive(Clone, Debug)]
pub(super) struct Taking {
    run: RunId,
    /// Whether it repeats another run, and took what that one had taken.
    repeats: bool,
    environment: EnvironmentId,
    at: Timestamp,
}

/// A release as it stood for a while.
struct Stood {
    release: Release,
    /// Since when.
    from: Timestamp,
    /// Until when, unless it still does.
    until: Option<Timestamp>,
}

impl Taking {
    pub(super) fn new(run: &Run) -> Self {
        Self {
            run: run.id.clone(),
            repeats: run.request.of.is_some(),
            environment: run.request.environment.clone(),
            at: run.requested_at,
        }
    }

    pub(super) fn at(&self) -> Timestamp {
        self.at
    }

    /// Checks the release that `pinned` names against what was said of it.
    pub(super) fn check(&self, pinned: &Pinned, found: &Governance) -> Result<(), Error> {
        let Some(id) = &pinned.release else { return Ok(()) };
        let Some(release::Change::Created(request)) = found.release.first().map(|one| &one.said)
        else {
            return Err(Error::Governance(UNSAID));
        };
        let publisher = found.workflow.as_ref().map(|publication| &publication.said.by);
        let same = (&request.workflow, &request.version, request.document)
            == (&pinned.workflow, &pinned.version, pinned.digest)
            && (request.policy_revision, &request.model_pin)
                == (pinned.policy_revision, &pinned.model_pin)
            && (&request.environment, Some(&request.publisher)) == (&self.environment, publisher);
        if !same {
            return Err(Error::Governance("the release is of something else than what ran"));
        }
        let stood = stood(id.as_str(), &found.release);
        let mut taken = stood.iter().filter(|stood| self.takes(stood, pinned.ring)).peekable();
        if taken.peek().is_none() {
            return Err(Error::Governance("no run took the release when this one began"));
        }
        if !taken.any(|stood| approved(&stood.release)) {
            return Err(Error::Governance("too few people approved the release"));
        }
        Ok(())
    }

    /// Whether the run may have taken the release as it stood then. It was looked up some seconds
    /// before the run's first receipt, by somebody who may not have known the last of it. A run
    /// that repeats another takes what that one did: outside of prod even what is no longer in
    /// force.
    fn takes(&self, stood: &Stood, ring: Option<Ring>) -> bool {
        let Stood { release, from, until } = stood;
        let left =
            until.is_some_and(|until| until.plus_micros(limits::RELEASE_LEFT_MICROS) < self.at);
        if release.status != Status::Active || *from > self.at {
            return false;
        }
        match (self.repeats, self.environment.as_str() == PROD) {
            (true, true) => !left,
            (true, false) => release.ring == ring,
            (false, _) => !left && release.ring == ring && self.falls_into(ring),
        }
    }

    fn falls_into(&self, ring: Option<Ring>) -> bool {
        match ring {
            Some(Ring::Canary { percent }) => takes_canary(&self.run, percent),
            Some(Ring::All {}) => true,
            None => false,
        }
    }
}

/// Whether as many people approved it as it takes, and none who may not.
fn approved(release: &Release) -> bool {
    let Request { approvers, separated, author, publisher, .. } = &*release.request;
    let people = release.approvals.iter().map(|approval| &approval.by);
    let people = people.filter(|by| !separated || ![author, publisher].contains(by));
    people.collect::<BTreeSet<_>>().len() >= usize::from(*approvers)
}

/// How a release stood, one after the other.
fn stood(id: &str, moves: &[Said<release::Change>]) -> Vec<Stood> {
    let mut state = None;
    let mut stood = Vec::with_capacity(moves.len());
    for (place, Said { receipt, at_us, said }) in moves.iter().enumerate() {
        release::apply(&mut state, said, &Applied { id, index: *receipt, time: *at_us });
        let until = moves.get(place.saturating_add(1)).map(|next| next.at_us);
        stood.extend(state.clone().map(|release| Stood { release, from: *at_us, until }));
    }
    stood
}
