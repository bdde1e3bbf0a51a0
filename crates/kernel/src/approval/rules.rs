//! What follows from an approval's state: who may speak where, what was granted, until when.

use std::collections::BTreeSet;

use super::{Approval, Delegation, GlassBroken, Narrow, Progress, Status, Verdict, Vote};
use crate::decision::{ApprovalDemand, BreakGlass, SeparationOfDuties, Stage};
use crate::ids::PrincipalId;
use crate::limits;
use crate::machine::Refusal;
use crate::principal::Role;
use crate::values::Timestamp;

const MICROS: i64 = 1_000_000;

fn after(time: Timestamp, seconds: u32) -> Timestamp {
    time.plus_micros(i64::from(seconds).saturating_mul(MICROS))
}

impl Approval {
    /// Each stage with how far it is.
    pub fn stages(&self) -> impl Iterator<Item = (&Stage, &Progress)> {
        self.request.demand.stages.iter().zip(&self.progress)
    }

    fn strict(&self) -> bool {
        self.request.sod == SeparationOfDuties::Strict
    }

    /// Whether `who` asked, as the separation of duties that applies sees it.
    pub(super) fn asked(&self, who: &PrincipalId) -> bool {
        self.request.actors.is_requester(who, self.strict())
    }

    pub(super) fn has_spoken(&self, who: &PrincipalId) -> bool {
        self.votes.iter().any(|(vote, _)| vote.by == *who)
    }

    pub(super) fn delegated(&self, who: &PrincipalId) -> Option<&Delegation> {
        self.delegations.iter().find(|delegation| delegation.from == *who)
    }

    /// Whether somebody may speak in a stage by themselves.
    fn by_right(
        &self,
        (stage, progress): (&Stage, &Progress),
        who: &PrincipalId,
        roles: &BTreeSet<Role>,
    ) -> bool {
        stage.admits(who, roles, progress.escalated_at.is_some())
    }

    /// Whose say `who` has in a stage: their own (`None`), or one that was handed to them.
    fn say(
        &self,
        stage: (&Stage, &Progress),
        who: &PrincipalId,
        roles: &BTreeSet<Role>,
    ) -> Option<Option<PrincipalId>> {
        if self.by_right(stage, who, roles) {
            return Some(None);
        }
        let handed = self
            .delegations
            .iter()
            .find(|delegation| delegation.to == *who && delegation.stages.contains(&stage.0.name));
        handed.map(|delegation| Some(delegation.from.clone()))
    }

    /// The open stages in which somebody may speak by themselves.
    pub(super) fn open_to(&self, who: &PrincipalId, roles: &BTreeSet<Role>) -> BTreeSet<String> {
        self.stages()
            .filter(|(_, progress)| progress.open())
            .filter(|stage| self.by_right(*stage, who, roles))
            .map(|(stage, _)| stage.name.clone())
            .collect()
    }

    /// The stage that a vote is for, and whose say it is.
    pub(super) fn place(
        &self,
        vote: &Vote,
        wanted: Option<&str>,
    ) -> Result<(String, Option<PrincipalId>), Refusal> {
        if let Some(name) = wanted
            && self.request.demand.stage(name).is_none()
        {
            return Err(Refusal::InvalidInput("stage: this approval has no stage of that name"));
        }
        let mut elsewhere = false;
        let asked_for = |name: &str| wanted.is_none_or(|wanted| wanted == name);
        for (stage, progress) in self.stages().filter(|(stage, _)| asked_for(&stage.name)) {
            let Some(say) = self.say((stage, progress), &vote.by, &vote.roles) else { continue };
            if progress.open() {
                return Ok((stage.name.clone(), say));
            }
            elsewhere = true;
        }
        Err(if elsewhere { Refusal::StageNotOpen } else { Refusal::NotAnApprover })
    }

    /// Whether one more yes makes `stage` complete.
    pub(super) fn completes(&self, stage: &Stage) -> bool {
        self.approvals_in(&stage.name).saturating_add(1) >= stage.quorum
    }

    /// How many distinct people said yes in a stage.
    pub fn approvals_in(&self, stage: &str) -> u32 {
        count(self.yes().filter(|(vote, _)| vote.stage == stage))
    }

    /// How many distinct people said yes.
    pub fn approvals(&self) -> u32 {
        count(self.yes())
    }

    /// Whether everyone who let it run proved a second factor.
    pub fn stepped_up(&self) -> bool {
        self.yes().all(|(vote, _)| vote.step_up)
    }

    fn yes(&self) -> impl Iterator<Item = &(Vote, Timestamp)> {
        self.votes.iter().filter(|(vote, _)| vote.verdict == Verdict::Approve)
    }

    /// To how much less than was asked for people said yes.
    pub fn narrow(&self) -> Narrow {
        self.yes().fold(Narrow::default(), |all, (vote, _)| all.and(vote.narrow))
    }

    /// Until when a granted approval may be used: as long as the demand says from the grant, else
    /// until its request would have expired; and never past what any approver said or signed.
    pub fn valid_until(&self) -> Option<Timestamp> {
        let granted = self.granted_at?;
        let demand = &self.request.demand;
        let mut until = match (demand.valid_s, &self.broken) {
            (Some(valid_s), _) => after(granted, valid_s),
            (None, Some(_)) => granted.plus_micros(limits::BREAK_GLASS_VALID_MICROS),
            (None, None) => self.request.expires_at,
        };
        if self.broken.is_some() {
            until = until.min(granted.plus_micros(limits::BREAK_GLASS_VALID_MICROS));
        }
        if let Some(valid_s) = self.narrow().valid_s {
            until = until.min(after(granted, valid_s));
        }
        let signed = self.yes().filter_map(|(vote, _)| vote.signature.as_ref());
        Some(signed.fold(until, |until, signature| until.min(signature.not_after)))
    }

    /// Whether it can no longer be decided, or used, at `now`.
    pub fn over(&self, now: Timestamp) -> bool {
        now >= self.valid_until().unwrap_or(self.request.expires_at)
    }

    /// Whether what was granted satisfies what is demanded now: the same plan, and in each stage
    /// enough of those who said yes are eligible under the new demand.
    pub fn satisfies(
        &self,
        demand: &ApprovalDemand,
        step_up: bool,
        sod: SeparationOfDuties,
        break_glass: BreakGlass,
        now: Timestamp,
    ) -> bool {
        if self.status != Status::Approved || self.over(now) {
            return false;
        }
        if let Some(broken) = &self.broken {
            return self.glass_serves(broken, break_glass);
        }
        let strict = sod == SeparationOfDuties::Strict;
        let counts = |vote: &Vote| {
            (!step_up || vote.step_up)
                && (!demand.signed || vote.signature.is_some())
                && !self.request.actors.is_requester(&vote.by, strict)
        };
        // One stage without a name asks for people, wherever they spoke.
        let anywhere = matches!(demand.stages.as_slice(), [only] if only.name.is_empty());
        let met = |stage: &Stage| {
            let said = self.yes().filter(|(vote, _)| anywhere || vote.stage == stage.name);
            let eligible = said.filter(|(vote, at)| counts(vote) && self.admits(stage, vote, *at));
            count(eligible) >= stage.quorum
        };
        demand.stages.iter().all(met) && (!demand.in_turn() || self.in_order_of(demand))
    }

    /// An emergency serves whatever quorum is demanded, unless it is forbidden by now.
    fn glass_serves(&self, broken: &GlassBroken, now: BreakGlass) -> bool {
        now == BreakGlass::Allowed && !self.request.actors.contains(&broken.by)
    }

    /// Whether whoever voted, or handed over the say, is eligible in `stage` as it is now demanded.
    fn admits(&self, stage: &Stage, vote: &Vote, at: Timestamp) -> bool {
        let mine = self.stages().find(|(own, _)| own.name == vote.stage);
        let escalated = mine
            .and_then(|(_, progress)| progress.escalated_at)
            .is_some_and(|escalated_at| escalated_at <= at);
        match vote.delegated_by.as_ref().map(|from| self.delegated(from)) {
            None => stage.admits(&vote.by, &vote.roles, escalated),
            Some(Some(handed)) => stage.admits(&handed.from, &handed.roles, escalated),
            Some(None) => false,
        }
    }

    /// Whether the stages were gone through in the order that is demanded now.
    fn in_order_of(&self, demand: &ApprovalDemand) -> bool {
        let own = &self.request.demand;
        let place = |stage: &Stage| own.stages.iter().position(|known| known.name == stage.name);
        let places: Option<Vec<usize>> = demand.stages.iter().map(place).collect();
        own.in_turn() && places.is_some_and(|places| places.is_sorted())
    }

    /// The stages that took too long at `now` and are not yet escalated.
    pub fn overdue(&self, now: Timestamp) -> impl Iterator<Item = &str> {
        let late = self.deadlines().filter(move |(_, at)| *at <= now);
        late.map(|(stage, _)| stage.name.as_str())
    }

    /// When each open stage is to be escalated.
    fn deadlines(&self) -> impl Iterator<Item = (&Stage, Timestamp)> {
        let waits = self.status == Status::Requested;
        self.stages().filter(move |_| waits).filter_map(|(stage, progress)| {
            let opened_at = progress.opened_at.filter(|_| progress.open())?;
            let sla_s = stage.sla_s.filter(|_| progress.escalated_at.is_none())?;
            Some((stage, after(opened_at, sla_s)))
        })
    }

    /// The deadline of one stage that is open and not escalated, if it has one.
    pub fn deadline(&self, stage: &str) -> Option<Timestamp> {
        self.deadlines().find(|(open, _)| open.name == stage).map(|(_, at)| at)
    }

    /// When somebody must look at it again, if ever.
    pub fn due(&self) -> Option<Timestamp> {
        match self.status {
            Status::Requested => {
                let deadlines = self.deadlines().map(|(_, at)| at);
                Some(deadlines.fold(self.request.expires_at, Timestamp::min))
            }
            Status::Approved if self.used_at.is_none() => self.valid_until(),
            _ => None,
        }
    }
}

fn count<'a>(votes: impl Iterator<Item = &'a (Vote, Timestamp)>) -> u32 {
    let people: BTreeSet<_> = votes.map(|(vote, _)| &vote.by).collect();
    u32::try_from(people.len()).unwrap_or(u32::MAX)
}
