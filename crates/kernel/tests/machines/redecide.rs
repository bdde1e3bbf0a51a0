//! Between approval and execution policy may change its mind.

use kernel::action::Status;
use kernel::approval::{self, Verdict};
use kernel::decision::{BreakGlass, Effect};
use kernel::machine::Kind;
use kernel::plan;

use crate::ops::{Ask, How, Op, Says};
use crate::world::World;

fn says(effect: Effect, quorum: u32) -> Says {
    let glass = BreakGlass::Allowed;
    Says { effect, quorum, operators: false, strict: false, second: None, glass }
}

fn ask(says: Says, key: Option<(u8, u8)>) -> Op {
    let (idempotent, reverses) = (true, None);
    let (plan, chain, estimate, account, refused) = (0, 0, 0, None, false);
    Op::Submit(Ask { says, plan, chain, estimate, account, idempotent, key, refused, reverses })
}

fn happen(world: &mut World, op: &Op) {
    let batch = world.batch(op).unwrap().unwrap();
    world.commit(batch).unwrap();
}

/// An action that `voter` approved, executed when policy says `now`: how it stands then, and how
/// the approval stands.
fn check(voter: usize, now: Says, expect: Status, granted: &str) {
    let mut world = World::new();
    happen(&mut world, &ask(says(Effect::RequireApproval, 1), None));
    let (which, verdict) = (0, Verdict::Approve);
    let vote = Op::Vote { which, who: voter, verdict, how: How::default() };
    happen(&mut world, &vote);
    let id = world.approvals().next().unwrap().id.clone();
    world.revisions.policy += 1;
    let execute = Op::Execute { which, says: now.clone(), stale: false, old_revision: false };
    happen(&mut world, &execute);
    let approval = world.approval(&id);
    let stands = approval.used_at.map_or(approval.status.as_str(), |_| "used");
    let action = world.actions().next().unwrap().clone();
    assert_eq!((action.status, stands), (expect, granted), "{now:?}");
    let waits = action.status == Status::AwaitingApproval;
    assert_eq!(action.open_approval().is_some_and(|open| *open != id), waits, "a new approval");
    assert_eq!(action.permit().is_some(), expect == Status::Executing);
    if waits {
        let again = approval::Input::Use { plan_digest: action.request.plan_digest };
        assert!(approval::step(Some(approval), again, world.now).is_err(), "the old one is void");
    }
}

#[test]
fn what_policy_says_at_execution_counts() {
    let (uma, ann) = (0, 1);
    check(ann, says(Effect::RequireApproval, 1), Status::Executing, "used");
    check(ann, says(Effect::Allow, 1), Status::Executing, "canceled");
    check(ann, says(Effect::RequireApproval, 2), Status::AwaitingApproval, "canceled");
    check(ann, says(Effect::RequireStepUp, 1), Status::AwaitingApproval, "canceled");
    let strict = || Says { strict: true, ..says(Effect::RequireApproval, 1) };
    check(ann, strict(), Status::Executing, "used");
    check(uma, strict(), Status::AwaitingApproval, "canceled");
    let operators = || Says { operators: true, ..says(Effect::RequireApproval, 1) };
    check(ann, operators(), Status::Executing, "used");
    check(uma, operators(), Status::AwaitingApproval, "canceled");
    check(ann, says(Effect::Quarantine, 1), Status::Quarantined, "canceled");
    check(ann, says(Effect::Deny, 1), Status::Denied, "canceled");
    check(ann, says(Effect::Throttle, 1), Status::Approved, "approved");
    check(ann, says(Effect::Route, 1), Status::Denied, "canceled");
}

#[test]
fn what_was_throttled_is_not_remembered() {
    let mut world = World::new();
    happen(&mut world, &ask(says(Effect::Throttle, 1), Some((1, 1))));
    assert!(world.state(Kind::Idempotency, "key-1").is_none());
    happen(&mut world, &ask(says(Effect::Allow, 1), Some((1, 1))));
    assert!(world.state(Kind::Idempotency, "key-1").is_some());
    let again = world.batch(&ask(says(Effect::Allow, 1), Some((1, 1)))).unwrap().unwrap();
    assert_eq!(world.commit(again).unwrap_err().code().0, "duplicate");
    assert_eq!(world.actions().count(), 2);
}

#[test]
fn an_action_refused_for_money_opens_no_approval() {
    let mut world = World::new();
    let Op::Submit(gated) = ask(says(Effect::RequireApproval, 1), None) else { return };
    happen(&mut world, &Op::Submit(Ask { refused: true, ..gated }));
    let action = world.actions().next().unwrap();
    assert_eq!((action.status, &action.approval), (Status::Denied, &None));
    assert_eq!(world.approvals().count(), 0);
    let id = action.id.clone();
    let late = plan::cancel(world.action(&id), crate::world::principal("tim"));
    assert_eq!(world.commit(late).unwrap_err().code().0, "state_conflict");
}

/// An idempotent, priced action whose server went away in the middle of its first attempt.
fn cut_off() -> World {
    let mut world = World::new();
    let Op::Submit(ask) = ask(says(Effect::Allow, 1), None) else { return world };
    let account = crate::world::account(crate::ops::ACCOUNTS[0]);
    world.commit(plan::open_account(&account)).unwrap();
    happen(&mut world, &Op::Fund { account: 0, amount: 100 });
    happen(&mut world, &Op::Submit(Ask { estimate: 30, account: Some(0), ..ask }));
    world.happen(&Op::Restart);
    happen(&mut world, &Op::Lost { which: 0, stale: false });
    world
}

/// How the action ends when `ops` happen to it, and what is held for it then.
fn check_cut_off(ops: &[Op], expect: Status, held: i64) {
    let mut world = cut_off();
    assert_eq!(world.actions().next().unwrap().status, Status::Approved);
    for op in ops {
        happen(&mut world, op);
    }
    let status = world.actions().next().unwrap().status;
    let holds: i64 = world.accounts().map(|account| account.held.0).sum();
    assert_eq!((status, holds), (expect, held), "{ops:?}");
}

#[test]
fn what_was_cut_off_is_never_said_not_to_have_happened() {
    let (which, stale) = (0, false);
    let execute = |effect| Op::Execute { which, says: says(effect, 1), stale, old_revision: false };
    let finish = |status| {
        let category = kernel::failure::Category::Permanent;
        Op::Finish { which, stale, late: 0, status, cost: 0, category }
    };
    check_cut_off(&[execute(Effect::Deny)], Status::Unknown, 30);
    check_cut_off(&[Op::Cancel { which, stale }], Status::Unknown, 30);
    check_cut_off(&[Op::Deny { which, stale }], Status::Unknown, 30);
    check_cut_off(&[execute(Effect::Allow), finish(Status::Failed)], Status::Unknown, 30);
    check_cut_off(&[execute(Effect::Allow), finish(Status::Executed)], Status::Executed, 0);
    let reconcile = Op::Reconcile { which, stale, status: Status::Executed, cost: 20 };
    check_cut_off(&[execute(Effect::Deny), reconcile], Status::Executed, 0);
}
