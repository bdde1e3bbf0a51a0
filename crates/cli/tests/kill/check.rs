//! What must hold whenever the server has come to rest.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use kernel::receipt::parse_receipt_id;
use proto::actions::action::State;
use proto::actions::{Action, ListActionsRequest};
use proto::identity::ListPrincipalsRequest;

use super::load::{Op, What, place};
use super::tree::Tree;
use super::{PRICE, World};
use crate::common::Server;
use crate::common::target::Delivery;

/// How long the server may take to finish what was cut off.
const DEADLINE: Duration = Duration::from_secs(120);

/// Every action in a state.
pub(crate) async fn actions(world: &World, state: State) -> Vec<Action> {
    let mut request =
        ListActionsRequest { state: state.into(), page_size: 200, ..Default::default() };
    let mut actions = Vec::new();
    loop {
        let page = world.owner.list_actions(&request).await.unwrap();
        actions.extend(page.actions);
        if page.next_page_token.is_empty() {
            return actions;
        }
        request.page_token = page.next_page_token;
    }
}

/// Waits until nothing runs or is about to.
pub(crate) async fn rest(world: &World) {
    let until = Instant::now() + DEADLINE;
    loop {
        let mut moving = actions(world, State::Approved).await;
        moving.extend(actions(world, State::Executing).await);
        if moving.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "these do not come to rest: {moving:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Checks everything, and says how many actions stand where.
pub(crate) async fn all(server: &Server, world: &World, tree: &mut Tree) -> String {
    tree.grow(&world.owner).await;
    let ops = world.ops.lock().unwrap().clone();
    let mut actions: HashMap<_, _> = actions(world, State::Unspecified)
        .await
        .into_iter()
        .map(|action| (action.action_id.clone(), action))
        .collect();
    assert_eq!(actions.len(), ops.len(), "one action for each Idempotency-Key");
    let mut deliveries: HashMap<String, Vec<Delivery>> = HashMap::new();
    for delivery in world.target.seen() {
        deliveries.entry(delivery.path.clone()).or_default().push(delivery);
    }
    let paths = deliveries.len();
    let mut counts: HashMap<State, usize> = HashMap::new();
    let mut spent = HashMap::from([("rich", 0), ("poor", 0)]);
    let mut held = spent.clone();
    for (n, op) in ops.iter().enumerate() {
        let told = op.answer.as_ref().unwrap();
        let action = actions.remove(&told.action_id).unwrap_or_else(|| panic!("lost: {told:?}"));
        acknowledged(told, &action, tree);
        let place = place(world, n, op.what);
        effect(n, op, &action, &place, &deliveries.remove(&place).unwrap_or_default());
        *counts.entry(action.state()).or_default() += 1;
        let account = if op.what == What::PoorPost { "poor" } else { "rich" };
        match action.state() {
            State::Executed => *spent.get_mut(account).unwrap() += action.cost_micro_usd,
            State::Unknown => *held.get_mut(account).unwrap() += PRICE,
            _ => {}
        }
    }
    assert!(deliveries.is_empty(), "nobody asked for these: {deliveries:?}");
    for (account, spent) in spent {
        let found = server.account(account).await;
        let expected = (spent, held[account], false);
        assert_eq!((found.spent_micro_usd, found.held_micro_usd, found.frozen), expected);
    }
    files(world, &ops);
    principals(world).await;
    let repeated = world.target.seen().len() - paths;
    format!("{counts:?}, {repeated} deliveries repeated")
}

/// Whatever a client was told still holds.
fn acknowledged(told: &Action, now: &Action, tree: &Tree) {
    let pending = [State::AwaitingApproval, State::Approved, State::Executing];
    if pending.contains(&told.state()) {
        assert!(now.state() >= told.state(), "{told:?} became {now:?}");
    } else {
        let same = (now.state(), now.cost_micro_usd) == (told.state(), told.cost_micro_usd);
        assert!(same, "{told:?} became {now:?}");
    }
    assert!(now.receipts.starts_with(&told.receipts), "{told:?} became {now:?}");
    assert_eq!(now.plan_digest, told.plan_digest);
    let stream = format!("action/{}", now.action_id);
    assert_eq!(tree.receipts.get(&stream), Some(&now.receipts), "the log has others");
    let (_, last) = parse_receipt_id(told.receipts.last().unwrap()).unwrap();
    assert!(tree.check(&told.checkpoint) > last, "its checkpoint covers its receipts");
}

/// The effect is there exactly once where the action says so, and else at most once.
fn effect(n: usize, op: &Op, action: &Action, place: &str, deliveries: &[Delivery]) {
    let shown = format!("{n} {op:?}\nis {action:?}\nwith {deliveries:?}");
    // An effect is told from another by its key, so that many deliveries of one are one effect.
    let one = deliveries.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(one && deliveries.iter().all(|d| d.key.is_some()), "several effects: {shown}");
    if !op.what.idempotent() {
        assert!(deliveries.len() <= 1, "repeated: {shown}");
    }
    match action.state() {
        State::Executed if op.what == What::Write => {
            assert_eq!(fs::read_to_string(place).unwrap(), format!("content of {n}"), "{shown}");
        }
        State::Executed => assert!(!deliveries.is_empty(), "not done: {shown}"),
        State::AwaitingApproval => assert!(op.what.held() && deliveries.is_empty(), "{shown}"),
        State::Unknown => {
            assert_eq!(action.error.as_ref().unwrap().code, "attempt_lost", "{shown}");
            assert!(!op.what.idempotent(), "{shown}");
        }
        State::Denied => {
            assert_eq!(action.error.as_ref().unwrap().code, "budget_exceeded", "{shown}");
            assert!(op.what == What::PoorPost && deliveries.is_empty(), "{shown}");
        }
        // A machine that stalls for seconds, so that nothing was begun.
        State::Failed => {
            assert_eq!(action.error.as_ref().unwrap().code, "permit_expired", "{shown}");
            assert!(op.what.idempotent() || deliveries.is_empty(), "{shown}");
        }
        _ => panic!("{shown}"),
    }
}

/// Nothing is in the folder that nobody asked for.
fn files(world: &World, ops: &[Op]) {
    for entry in fs::read_dir(world.files.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let asked = name.parse::<usize>().is_ok_and(|n| ops[n].what == What::Write);
        assert!(asked, "`{name}` is left over");
    }
}

/// Every principal that was asked for exists once.
async fn principals(world: &World) {
    let mut asked: HashSet<_> = {
        let principals = world.principals.lock().unwrap();
        principals.iter().map(|id| id.clone().unwrap()).collect()
    };
    let mut request = ListPrincipalsRequest { page_size: 200, ..Default::default() };
    let mut others = 0;
    loop {
        let page = world.owner.list_principals(&request).await.unwrap();
        others += page.principals.iter().filter(|p| !asked.remove(&p.principal_id)).count();
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert!(asked.is_empty(), "lost: {asked:?}");
    assert_eq!(others, 4, "owner, rich, poor and approver");
}
