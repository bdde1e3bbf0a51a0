//! What the changes of an approval fold to.

use super::{Approval, Change, Progress, Request, Status, Verdict, Vote};
use crate::ids::ApprovalId;
use crate::machine::Applied;
use crate::values::Timestamp;

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Approval>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Requested(request)) = (&state, change) {
        let Ok(id) = ApprovalId::new(applied.id) else { return };
        *state = Some(Approval {
            id,
            status: Status::Requested,
            progress: progress(request, applied.time),
            request: request.clone(),
            votes: Vec::new(),
            delegations: Vec::new(),
            broken: None,
            granted_at: None,
            used_at: None,
            requested_at: applied.time,
            updated_at: applied.time,
            receipts: Vec::new(),
        });
    }
    let Some(approval) = state else { return };
    approval.updated_at = applied.time;
    if approval.receipts.last() != Some(&applied.index) {
        approval.receipts.push(applied.index);
    }
    match change {
        Change::Requested(_) => {}
        Change::Decided { status, vote } => approval.heard(*status, vote, applied.time),
        Change::Delegated(delegation) => approval.delegations.push((**delegation).clone()),
        Change::Escalated { stage } => {
            if let Some(progress) = approval.progress_of(stage) {
                progress.escalated_at = Some(applied.time);
            }
        }
        Change::GlassBroken(broken) => {
            approval.status = Status::Approved;
            approval.granted_at = Some(applied.time);
            approval.broken = Some((**broken).clone());
        }
        Change::Used {} => approval.used_at = Some(applied.time),
        Change::Expired {} => approval.status = Status::Expired,
        Change::Canceled {} => approval.status = Status::Canceled,
    }
}

/// How far the stages of a new request are.
fn progress(request: &Request, time: Timestamp) -> Vec<Progress> {
    let opened_at = |place| (place == 0 || !request.demand.in_turn()).then_some(time);
    let stages = request.demand.stages.iter().enumerate();
    stages
        .map(|(place, _)| Progress { opened_at: opened_at(place), ..Progress::default() })
        .collect()
}

impl Approval {
    fn progress_of(&mut self, stage: &str) -> Option<&mut Progress> {
        let place = self.request.demand.stages.iter().position(|known| known.name == stage)?;
        self.progress.get_mut(place)
    }

    fn heard(&mut self, status: Status, vote: &Vote, time: Timestamp) {
        self.status = status;
        self.votes.push((vote.clone(), time));
        if status == Status::Approved {
            self.granted_at = Some(time);
        }
        let quorum = self.request.demand.stage(&vote.stage).map(|stage| stage.quorum);
        let complete = vote.verdict == Verdict::Approve
            && quorum.is_some_and(|quorum| self.approvals_in(&vote.stage) >= quorum);
        if let Some(progress) = self.progress_of(&vote.stage).filter(|_| complete) {
            progress.completed_at = Some(time);
        }
        self.open_next(time);
    }

    /// Opens the stage whose predecessors are all complete.
    fn open_next(&mut self, time: Timestamp) {
        let next = self.progress.iter_mut().find(|progress| progress.completed_at.is_none());
        if let Some(progress) = next.filter(|progress| progress.opened_at.is_none()) {
            progress.opened_at = Some(time);
        }
    }
}
