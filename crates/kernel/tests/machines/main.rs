//! The state machines together, driven as a server drives them, by whatever may happen.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod invariants;
mod ops;
mod redecide;
mod undo;
mod world;

use kernel::machine::{self, Applied, Change, State};
use kernel::plan;
use kernel::receipt::Statement;
use kernel::values::Timestamp;
use proptest::prelude::*;
use proptest::sample::Index;

use invariants::Onlooker;
use ops::{ACCOUNTS, Op};
use world::World;

/// A world with two funded budgets in which all of `ops` happened, checked after each.
fn live(ops: &[Op]) -> World {
    let (mut world, mut onlooker) = (World::new(), Onlooker::default());
    for account in &ACCOUNTS[..2] {
        let id = world::account(account);
        world.commit(plan::open_account(&id)).unwrap();
        world.commit(plan::fund(&id, kernel::values::MicroUsd(100))).unwrap();
    }
    for op in ops {
        world.happen(op);
        let Some(batch) = world.batch(op) else { continue };
        let before = world.states.clone();
        let ended = batch.and_then(|batch| world.commit(batch));
        onlooker.repeated(&world, op, &ended);
        match ended {
            Ok(transitions) => onlooker.read(&world, &transitions),
            Err(_) => assert_eq!(world.states, before, "a refused batch changed something"),
        }
        onlooker.check(&world);
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_whatever_happens(ops in prop::collection::vec(ops::op(), 1..80)) {
        let world = live(&ops);
        let rebuilt = world::rebuild("tally.example/acme/ops", &world.receipts);
        prop_assert_eq!(&rebuilt, &world.states);
        let stored = serde_json::to_string(&world.states.values().collect::<Vec<_>>()).unwrap();
        let read: Vec<State> = serde_json::from_str(&stored).unwrap();
        prop_assert!(read.iter().eq(world.states.values()));
    }

    #[test]
    fn folding_and_stepping_never_panic(
        ops in prop::collection::vec(ops::op(), 30..60),
        picks in prop::collection::vec((any::<Index>(), any::<Index>(), any::<i64>()), 1..60),
    ) {
        let world = live(&ops);
        let changes = changes(&world);
        let mut state: Option<State> = None;
        for (change, command, time) in picks {
            let change = change.get(&changes);
            let before = state.clone();
            let applied = Applied { id: "Not an id", index: u64::MAX, time: Timestamp(time) };
            machine::apply(&mut state, change, &applied);
            if before.is_none() {
                let reservation = matches!(state, Some(State::Reservation(_)));
                prop_assert!(state.is_none() || reservation, "{:?} without an id", state);
                let id = "x1";
                machine::apply(&mut state, change, &Applied { id, ..applied });
            }
            let kind = |state: &State| std::mem::discriminant(state);
            prop_assert!(before.as_ref().is_none_or(|b| state.as_ref().map(kind) == Some(kind(b))));
            let (Some(now), input) = (&state, command.get(&world.commands)) else { continue };
            let _ = (now.status(), now.due());
            if let State::Action(action) = now {
                let _ = (action.permit(), action.held(), action.open_approval());
            }
            let _ = machine::step(Some(now), input.input.clone(), Timestamp(time));
        }
    }
}

/// Every change of a world, and some with numbers at the ends of their range.
fn changes(world: &World) -> Vec<Change> {
    let statements = world.receipts.iter().map(|payload| Statement::parse(payload).unwrap());
    let transitions = statements.flat_map(|statement| statement.predicate.transitions);
    let mut changes: Vec<Change> = transitions.map(|transition| transition.change).collect();
    let extremes = changes.iter().filter_map(|change| {
        let mut value = serde_json::to_value(change).unwrap();
        stretch(&mut value);
        let kinds = [
            serde_json::from_value(value.clone()).map(Change::Action),
            serde_json::from_value(value).map(Change::Account),
        ];
        kinds.into_iter().find_map(Result::ok)
    });
    let extremes: Vec<Change> = extremes.collect();
    changes.extend(extremes);
    changes
}

fn stretch(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Number(_) => *value = i64::MAX.into(),
        serde_json::Value::Object(fields) => fields.values_mut().for_each(stretch),
        serde_json::Value::Array(items) => items.iter_mut().for_each(stretch),
        _ => {}
    }
}
