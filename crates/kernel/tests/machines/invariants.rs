//! What must be true after every step, told from the receipts alone where that is possible.

use std::collections::{BTreeMap, BTreeSet};

use kernel::account::{self, Purpose};
use kernel::action::{self, Status};
use kernel::approval::{self, Verdict};
use kernel::decision::{BreakGlass, Effect, Mode, SeparationOfDuties, Stage};
use kernel::ids::{AccountId, ActionId, ApprovalId, PrincipalId};
use kernel::limits;
use kernel::machine::{Change, Refusal};
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::receipt::Transition;
use kernel::values::{Digest, Timestamp};

use crate::ops::{Ask, Op, VOTERS};
use crate::world::World;

/// What an onlooker who keeps every receipt knows.
#[derive(Default)]
pub(crate) struct Onlooker {
    decided: BTreeMap<ActionId, Decided>,
    used: BTreeMap<ApprovalId, usize>,
    yes: BTreeMap<ApprovalId, BTreeMap<String, BTreeSet<PrincipalId>>>,
    broken: BTreeMap<ApprovalId, PrincipalId>,
    last_attempt: BTreeMap<ActionId, u32>,
    statuses: BTreeMap<ActionId, Status>,
    frozen: BTreeSet<AccountId>,
    keys: BTreeMap<u8, (u8, String, Timestamp)>,
    commits: usize,
}

struct Decided {
    effect: Effect,
    at: Timestamp,
    revisions: (u64, u64),
    approval: Option<ApprovalId>,
}

impl Onlooker {
    /// Reads the transitions of one commit, in order.
    pub(crate) fn read(&mut self, world: &World, transitions: &[Transition]) {
        self.commits += 1;
        for Transition { stream, change, .. } in transitions {
            match change {
                Change::Action(change) => {
                    self.action(world, &ActionId::new(&stream.id).unwrap(), change);
                }
                Change::Approval(change) => {
                    self.approval(world, &ApprovalId::new(&stream.id).unwrap(), change);
                }
                Change::Account(account::Change::Frozen { .. }) => {
                    self.frozen.insert(AccountId::new(&stream.id).unwrap());
                }
                _ => {}
            }
        }
        self.statuses = world.actions().map(|a| (a.id.clone(), a.status)).collect();
    }

    fn action(&mut self, world: &World, id: &ActionId, change: &action::Change) {
        let before = self.statuses.get(id).copied();
        let open = match change {
            action::Change::ReversalBegun { .. }
            | action::Change::Reversed { .. }
            | action::Change::ReversalEnded { .. } => before == Some(Status::Executed),
            _ => before.is_none_or(|status| !status.is_final()),
        };
        assert!(open, "{id} was {before:?}: {change:?}");
        match change {
            action::Change::Decided { decision, principal_revision, approval, .. } => {
                let decided = Decided {
                    effect: decision.effect,
                    at: world.now,
                    revisions: (decision.policy.revision, *principal_revision),
                    approval: approval.clone(),
                };
                self.decided.insert(id.clone(), decided);
            }
            action::Change::Started(attempt) => self.started(world, id, attempt),
            action::Change::Approved { narrow, .. } => {
                let attempts = world.action(id).attempts;
                let last = narrow.max_attempts.map_or(u32::MAX, |more| attempts + more);
                self.last_attempt.insert(id.clone(), last);
            }
            _ => {}
        }
    }

    /// No effect without an ALLOW, or an approval used for exactly this plan.
    fn started(&self, world: &World, id: &ActionId, attempt: &action::Attempt) {
        let decided = self.decided.get(id).expect("started without a decision");
        let in_force = (world.revisions.policy, world.revisions.principal);
        assert_eq!(decided.revisions, in_force, "{id} runs under old revisions");
        assert!(world.now.0 - decided.at.0 <= limits::PERMIT_MICROS_MAX, "an old decision");
        assert!(attempt.not_after.0 - world.now.0 <= limits::PERMIT_MICROS_MAX, "a long permit");
        let last = self.last_attempt.get(id).copied().unwrap_or(limits::ATTEMPTS_MAX);
        assert!(attempt.number <= last.min(limits::ATTEMPTS_MAX), "approvers wanted fewer");
        let action = world.action(id);
        match decided.effect {
            Effect::Allow => {}
            Effect::RequireApproval | Effect::RequireStepUp => {
                let approval = decided.approval.as_ref().expect("gated, but by no approval");
                let used = self.used.get(approval).expect("the approval was not used");
                assert!(*used == self.commits || attempt.number > 1, "used for something else");
                let request = &world.approval(approval).request;
                assert_eq!(request.plan_digest, action.request.plan_digest);
                assert_eq!(request.action, *id);
            }
            other => panic!("{id} runs though policy says {other:?}"),
        }
        let permit = action.permit().expect("an attempt under way has a permit");
        assert_eq!(permit.check(action.request.plan_digest, world.now), Ok(()));
        assert!(permit.check(Digest::of(b"another"), world.now).is_err());
        assert!(
            permit.check(action.request.plan_digest, attempt.not_after.plus_micros(1)).is_err()
        );
    }

    fn approval(&mut self, world: &World, id: &ApprovalId, change: &approval::Change) {
        match change {
            approval::Change::Decided { vote, .. } if vote.verdict == Verdict::Approve => {
                let yes = self.yes.entry(id.clone()).or_default();
                let again = yes.values().any(|people| people.contains(&vote.by));
                assert!(!again, "{} spoke twice on {id}", vote.by);
                let demand = &world.approval(id).request.demand;
                let before = demand.stages.iter().take_while(|stage| stage.name != vote.stage);
                for stage in before.filter(|_| demand.mode == Mode::Serial) {
                    assert!(complete(stage, yes), "{} came before {}", vote.stage, stage.name);
                }
                yes.entry(vote.stage.clone()).or_default().insert(vote.by.clone());
            }
            approval::Change::GlassBroken(broken) => {
                let request = &world.approval(id).request;
                assert!(may_approve(&broken.by, &request.actors, true), "{broken:?}");
                assert_eq!(request.break_glass, BreakGlass::Allowed);
                self.broken.insert(id.clone(), broken.by.clone());
            }
            approval::Change::Used {} => {
                assert_eq!(self.used.insert(id.clone(), self.commits), None, "{id} is used twice");
                self.check_used(world, id);
            }
            _ => {}
        }
    }

    fn check_used(&self, world: &World, id: &ApprovalId) {
        let request = &world.approval(id).request;
        if self.broken.contains_key(id) {
            return;
        }
        assert!(world.now < request.expires_at, "used after it expired");
        let yes = self.yes.get(id).expect("used though nobody approved");
        for stage in &request.demand.stages {
            assert!(complete(stage, yes), "{yes:?} do not make {stage:?} complete");
        }
        let strict = request.sod == SeparationOfDuties::Strict;
        for who in yes.values().flatten() {
            assert!(may_approve(who, &request.actors, strict), "{who} approved {id}");
        }
    }

    /// What holds between commits.
    pub(crate) fn check(&self, world: &World) {
        let mut sum = 0;
        for account in world.accounts() {
            sum += account.credits.0 - account.debits.0;
            let holds: i64 = account.holds.values().map(|hold| hold.amount.0).sum();
            assert_eq!(holds, account.held.0, "{}", account.id);
            let within = account.debits.0 + account.held.0 <= account.credits.0;
            let budget = account.purpose == Purpose::Budget && !self.frozen.contains(&account.id);
            assert!(within || !budget, "{} is spent beyond what it has: {account:?}", account.id);
            assert!(account.purpose == Purpose::Budget || account.holds.is_empty());
        }
        assert_eq!(sum, 0, "money came from or went to nowhere");
        self.check_holds(world);
        check_meters(world);
        check_approvals(world);
        check_reversals(world);
    }

    /// Money is set aside for exactly the attempts that run and those of unknown outcome.
    fn check_holds(&self, world: &World) {
        let set_aside: BTreeSet<_> = world
            .accounts()
            .flat_map(|a| a.holds.iter().map(|(id, hold)| (id.clone(), a.id.clone(), hold.amount)))
            .collect();
        let running = world.actions().filter(|action| action.held());
        let wanted: BTreeSet<_> = running
            .map(|a| (a.id.clone(), a.request.account.clone().unwrap(), a.request.estimate))
            .collect();
        assert_eq!(set_aside, wanted);
    }

    /// A repeated request has one answer; what `ended` says is what the key's history asks for.
    pub(crate) fn repeated(
        &mut self,
        world: &World,
        op: &Op,
        ended: &Result<Vec<Transition>, Refusal>,
    ) {
        let Op::Submit(Ask { key: Some((key, body)), says, refused, .. }) = op else { return };
        if says.effect == Effect::Throttle && !refused {
            return;
        }
        let known = self.keys.get(key).filter(|(_, _, until)| world.now < *until);
        match (known, ended) {
            (None, Ok(transitions)) => {
                let made = transitions.iter().find_map(|t| match &t.change {
                    Change::Action(action::Change::Requested(_)) => Some(t.stream.id.clone()),
                    _ => None,
                });
                let until = world.now.plus_micros(limits::RESULT_TTL_MICROS);
                self.keys.insert(*key, (*body, made.unwrap().to_string(), until));
            }
            (None, Err(refusal)) => {
                assert!(!matches!(refusal, Refusal::Duplicate { .. } | Refusal::KeyReused));
            }
            (Some((first, target, _)), Err(refusal)) if first == body => {
                assert_eq!(*refusal, Refusal::Duplicate { target: target.clone() });
            }
            (Some((first, ..)), ended) => {
                assert_ne!(first, body, "a repeat made something: {ended:?}");
                assert_eq!(*ended, Err(Refusal::KeyReused));
            }
        }
    }
}

/// What was metered is what actions came to, and what was counted on an account was paid from it.
fn check_meters(world: &World) {
    let (mut cost, mut paid, mut ended) = (0, 0, [0; 3]);
    for action in world.actions() {
        cost += action.spent.0;
        if action.request.account.is_some() && action.request.is_counted() {
            paid += action.spent.0;
        }
        let states = [Status::Executed, Status::Failed, Status::Denied];
        for (count, state) in ended.iter_mut().zip(states) {
            *count += u64::from(action.status == state);
        }
    }
    let budgets = world.accounts().filter(|account| account.purpose == Purpose::Budget);
    let spent: i64 = budgets.map(|account| account.spent().0).sum();
    assert_eq!(spent, paid, "paid is not what it cost");
    let metered = world.metered;
    assert_eq!(metered.money.0, cost, "metered is not what it cost");
    assert_eq!(metered.actions, world.actions().count() as u64);
    assert_eq!([metered.executed, metered.failed, metered.denied], ended);
}

/// Of all actions that would undo one, at most one has had its effect or may have it yet; the
/// undone one knows it.
fn check_reversals(world: &World) {
    for undone in world.actions() {
        let undo = world.actions().filter(|a| a.request.reverses.as_ref() == Some(&undone.id));
        let takes = |status| {
            let nothing = [Status::Denied, Status::Failed, Status::Canceled, Status::Expired];
            !nothing.contains(&status)
        };
        let taken: Vec<_> = undo.filter(|a| takes(a.status)).collect();
        assert!(taken.len() <= 1, "{} is undone by {taken:?}", undone.id);
        let known = undone.reversal.as_ref().map(|reversal| (&reversal.by, reversal.done));
        let wanted = taken.first().map(|a| (&a.id, a.status == Status::Executed));
        assert_eq!(known, wanted, "{}", undone.id);
    }
}

/// Nobody waits for an approval that is closed, and no approval is open that nobody waits for.
fn check_approvals(world: &World) {
    let open: BTreeSet<_> =
        world.approvals().filter(|a| a.due().is_some()).map(|a| a.id.clone()).collect();
    let waited: BTreeSet<_> = world.actions().filter_map(|a| a.open_approval()).cloned().collect();
    assert_eq!(open, waited);
    for action in world.actions() {
        let status = action.approval.as_ref().map(|id| world.approval(id).status);
        match action.status {
            Status::AwaitingApproval => assert_eq!(status, Some(approval::Status::Requested)),
            Status::Approved | Status::Executing => {
                assert!(status.is_none_or(|status| status == approval::Status::Approved));
            }
            _ => {}
        }
    }
}

fn complete(stage: &Stage, yes: &BTreeMap<String, BTreeSet<PrincipalId>>) -> bool {
    let people = yes.get(&stage.name).map_or(0, BTreeSet::len);
    people >= usize::try_from(stage.quorum).unwrap()
}

/// Written anew rather than asked of the kernel, so that both must be wrong to agree wrongly.
fn may_approve(who: &PrincipalId, actors: &ActorChain, strict: bool) -> bool {
    let kind = VOTERS.iter().find(|(name, ..)| *name == who.as_str()).unwrap().1;
    let actors = actors.actors();
    let acts = actors.last().is_some_and(|last| last.id == *who);
    let delegates = actors.iter().any(|actor| actor.id == *who);
    kind == PrincipalKind::User && !acts && !(delegates && strict)
}
