//! An action is undone at most once, and what came to nothing leaves it free.

use kernel::action::{Action, Status};
use kernel::approval::Verdict;
use kernel::decision::{BreakGlass, Effect};
use kernel::failure::Category;
use kernel::ids::ActionId;
use kernel::machine::Refusal;

use crate::ops::{Ask, How, Op, Says};
use crate::world::World;

struct Desk(World);

impl Desk {
    /// A desk at which one action has been carried out.
    fn new() -> (Self, ActionId) {
        let mut desk = Self(World::new());
        let first = desk.ask(Effect::Allow, None).unwrap();
        desk.ends(&first, Status::Executed);
        (desk, first)
    }

    fn happen(&mut self, op: &Op) -> Result<(), Refusal> {
        let batch = self.0.batch(op).unwrap()?;
        self.0.commit(batch).map(drop)
    }

    fn ask(&mut self, effect: Effect, undoes: Option<&ActionId>) -> Result<ActionId, Refusal> {
        let says = Says {
            effect,
            quorum: 1,
            operators: false,
            strict: false,
            second: None,
            glass: BreakGlass::Allowed,
        };
        let reverses = undoes.map(|id| self.which(id));
        let ask = Ask {
            says,
            plan: 0,
            chain: 0,
            estimate: 0,
            account: None,
            idempotent: false,
            key: None,
            refused: false,
            reverses,
        };
        let known: Vec<ActionId> = self.0.actions().map(|action| action.id.clone()).collect();
        self.happen(&Op::Submit(ask))?;
        let new = self.0.actions().find(|action| !known.contains(&action.id));
        Ok(new.unwrap().id.clone())
    }

    fn which(&self, id: &ActionId) -> usize {
        self.0.actions().position(|action| action.id == *id).unwrap()
    }

    fn ends(&mut self, id: &ActionId, status: Status) {
        let (which, category) = (self.which(id), Category::Permanent);
        let op = Op::Finish { which, stale: false, late: 0, status, cost: 0, category };
        self.happen(&op).unwrap();
    }

    fn action(&self, id: &ActionId) -> &Action {
        self.0.action(id)
    }
}

#[test]
fn an_action_is_undone_once() {
    let (mut desk, first) = Desk::new();
    let undo = desk.ask(Effect::Allow, Some(&first)).unwrap();
    let by = undo.clone();
    let pending = Err(Refusal::ReversalPending { by: by.clone() });
    assert_eq!(desk.ask(Effect::Allow, Some(&first)), pending);
    desk.ends(&undo, Status::Executed);
    assert_eq!(desk.ask(Effect::Allow, Some(&first)), Err(Refusal::AlreadyReversed { by }));
    assert_eq!(desk.action(&first).status, Status::Executed);
    // What undid it can be undone itself.
    let again = desk.ask(Effect::Allow, Some(&undo)).unwrap();
    desk.ends(&again, Status::Executed);
    assert!(desk.action(&undo).reversal.as_ref().unwrap().done);
}

#[test]
fn what_comes_to_nothing_leaves_it_free_and_what_nobody_knows_does_not() {
    let (mut desk, first) = Desk::new();
    desk.ask(Effect::Deny, Some(&first)).unwrap();
    assert_eq!(desk.action(&first).reversal, None, "policy said no at once");
    let undo = desk.ask(Effect::RequireApproval, Some(&first)).unwrap();
    let reversal = desk.action(&first).reversal.clone().unwrap();
    assert_eq!((reversal.by, reversal.done), (undo, false));
    let (which, verdict) = (0, Verdict::Reject);
    desk.happen(&Op::Vote { which, who: 1, verdict, how: How::default() }).unwrap();
    assert_eq!(desk.action(&first).reversal, None, "a person said no");
    let undo = desk.ask(Effect::Allow, Some(&first)).unwrap();
    desk.ends(&undo, Status::Failed);
    assert_eq!(desk.action(&first).reversal, None, "it failed");
    let undo = desk.ask(Effect::Allow, Some(&first)).unwrap();
    desk.ends(&undo, Status::Unknown);
    let pending = Err(Refusal::ReversalPending { by: undo.clone() });
    assert_eq!(desk.ask(Effect::Allow, Some(&first)), pending);
    let which = desk.which(&undo);
    let status = Status::Executed;
    desk.happen(&Op::Reconcile { which, stale: false, status, cost: 0 }).unwrap();
    assert!(desk.action(&first).reversal.as_ref().unwrap().done, "a person established it");
}

#[test]
fn only_an_effect_of_which_something_was_kept_can_be_undone() {
    let mut desk = Desk(World::new());
    let failed = desk.ask(Effect::Allow, None).unwrap();
    assert_eq!(desk.ask(Effect::Allow, Some(&failed)), Err(Refusal::NotReversible), "under way");
    desk.ends(&failed, Status::Failed);
    assert_eq!(desk.ask(Effect::Allow, Some(&failed)), Err(Refusal::NotReversible), "no effect");
    let unknown = desk.ask(Effect::Allow, None).unwrap();
    desk.ends(&unknown, Status::Unknown);
    let (which, status) = (desk.which(&unknown), Status::Executed);
    desk.happen(&Op::Reconcile { which, stale: false, status, cost: 0 }).unwrap();
    assert_eq!(desk.ask(Effect::Allow, Some(&unknown)), Err(Refusal::NotReversible), "not kept");
}
