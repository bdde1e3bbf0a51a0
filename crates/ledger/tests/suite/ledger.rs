//! Committing: who wins, what is durable, and that what is stored is what the log says.

use std::sync::Arc;

use crate::support::*;
use ::ledger::rebuild::{diff, rebuild, verify_log};
use ::ledger::store::Store;
use ::ledger::{Batch, Error, Ledger, proofs};
use kernel::account::{Input as Money, Purpose};
use kernel::machine::{Command, Input, Kind, Refusal, State, Stream};
use kernel::note::{Checkpoint, Note};
use kernel::receipt::LogId;
use kernel::tree;
use kernel::units::Units;
use kernel::values::{Digest, MicroUsd};
use kernel::{ids::ActionId, reservation};
use proptest::prelude::*;

on_both! {
    a_loser_is_answered_alone,
    a_batch_is_carried_out_whole_or_not_at_all,
    many_at_once_make_a_dense_verified_log,
    the_checkpoint_is_read_by_another_implementation,
    a_second_writer_goes_on_and_the_first_is_fenced,
    what_was_changed_in_the_store_is_found,
    a_truncated_log_is_found_against_a_held_checkpoint,
}

pub(crate) fn balance(ledger: &Ledger, log: &LogId, id: &str) -> i64 {
    match ledger.read(log, Kind::Account, id).unwrap() {
        Some(State::Account(account)) => account.balance().0,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn check_whole(place: &Place, ledger: &Ledger, log: &LogId, size: u64) {
    let store = ledger.store().as_ref();
    let report = verify_log(store, HOST, place.keys().as_ref(), log).unwrap();
    assert_eq!((report.errors.as_slice(), report.size), (&[][..], size));
    assert_eq!(diff(store, log).unwrap(), []);
}

async fn a_loser_is_answered_alone(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let log = log("ops");
    commit(&ledger, &log, fund("budget", 100)).await.unwrap();
    let hold = |i: i64| {
        let action = ActionId::new(format!("act-{i}")).unwrap();
        vec![
            money("spend", Money::Ensure { purpose: Purpose::Spend }),
            money("budget", Money::Hold { action, amount: MicroUsd(30), units: Units::NONE }),
        ]
    };
    let commits: Vec<_> = (0..8)
        .map(|i| {
            let (ledger, log) = (ledger.clone(), log.clone());
            tokio::spawn(async move { commit(&ledger, &log, hold(i)).await })
        })
        .collect();
    let mut won = Vec::new();
    for commit in commits {
        match commit.await.unwrap() {
            Ok(committed) => won.push(committed.index.unwrap()),
            Err(Error::Refused(Refusal::BudgetExceeded { .. })) => {}
            Err(error) => panic!("{error}"),
        }
    }
    won.sort_unstable();
    assert_eq!(won, [1, 2, 3], "three holds of 30 fit into 100");
    check_whole(&place, &ledger, &log, 4);
}

async fn a_batch_is_carried_out_whole_or_not_at_all(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let log = log("ops");
    let mut commands = fund("budget", 100);
    commands.push(money("nobody", Money::Thaw {}));
    assert!(matches!(commit(&ledger, &log, commands).await, Err(Error::Refused(Refusal::Absent))));
    assert_eq!(proofs::checkpoint(&ledger, &log).unwrap(), None);
    assert_eq!(ledger.read(&log, Kind::Account, "budget").unwrap(), None);

    let many: Vec<Command> =
        (0..65).map(|i| open_account(&format!("acc-{i}"), Purpose::Budget)).collect();
    assert!(matches!(commit(&ledger, &log, many).await, Err(Error::TooManyTransitions)));

    let committed = commit(&ledger, &log, fund("budget", 100)).await.unwrap();
    assert_eq!((committed.index, committed.receipt_id.as_deref()), (Some(0), Some("ops.0")));
    let stale = Batch {
        expect: vec![(Stream::new(Kind::Account, "budget"), 1)],
        ..Batch::new(log.clone(), fund("budget", 1))
    };
    assert!(matches!(ledger.commit(stale).await, Err(Error::Refused(Refusal::Moved))));
    check_whole(&place, &ledger, &log, 1);
}

async fn many_at_once_make_a_dense_verified_log(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let logs = [log("ops"), log("shop")];
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let (ledger, log) = (ledger.clone(), logs[task % 2].clone());
            tokio::spawn(async move {
                let mut indices = Vec::new();
                for _ in 0..20 {
                    let done = commit(&ledger, &log, fund("budget", 1)).await.unwrap();
                    let index = done.index.unwrap();
                    let note = Note::parse(done.checkpoint.as_bytes()).unwrap();
                    let covered = Checkpoint::parse(note.text()).unwrap().size;
                    assert!(covered > index, "the answer's checkpoint covers its receipt");
                    indices.push((task % 2, index));
                }
                indices
            })
        })
        .collect();
    let mut indices = Vec::new();
    for task in tasks {
        indices.extend(task.await.unwrap());
    }
    indices.sort_unstable();
    let expected: Vec<_> = (0..2).flat_map(|log| (0..640).map(move |i| (log, i))).collect();
    assert_eq!(indices, expected);
    for log in &logs {
        assert_eq!(balance(&ledger, log, "budget"), 640);
        check_whole(&place, &ledger, log, 640);
    }
    check_proofs(&ledger, &logs[0]);
}

/// Proofs and tiles of a log of 640, at and around the edges of tiles.
fn check_proofs(ledger: &Ledger, log: &LogId) {
    let rows = ledger.store().receipts(log, 0, 640).unwrap();
    let leaves: Vec<Digest> = rows.iter().map(|row| row.leaf).collect();
    let root = |size: u64| tree::root(size, &leaves[..]).unwrap();
    for size in [1, 2, 255, 256, 257, 512, 640] {
        for index in [0, 1, 254, 255, 256, 511, 639].into_iter().filter(|index| *index < size) {
            let proof = proofs::inclusion(ledger, log, index, size).unwrap();
            let leaf = &leaves[usize::try_from(index).unwrap()];
            tree::verify_inclusion(leaf, index, size, &root(size), &proof).unwrap();
        }
        let proof = proofs::consistency(ledger, log, size, 640).unwrap();
        tree::verify_consistency(size, 640, &root(size), &root(640), &proof).unwrap();
    }
    for (path, bytes) in
        [("tile/0/002.p/128", 128 * 32), ("tile/0/001.p/7", 224), ("tile/1/000.p/2", 64)]
    {
        let tile = proofs::tile(ledger, log, &path.parse().unwrap()).unwrap();
        assert_eq!(tile.len(), bytes, "{path}");
    }
    let entries = proofs::tile(ledger, log, &"tile/entries/002.p/128".parse().unwrap()).unwrap();
    let entries = kernel::tile::decode_entries(&entries, 128).unwrap();
    assert_eq!(entries[127], rows[639].envelope);
    for path in ["tile/0/002.p/129", "tile/0/003.p/1", "tile/1/000.p/3", "tile/2/000.p/1"] {
        let tile = proofs::tile(ledger, log, &path.parse().unwrap());
        assert!(matches!(tile, Err(Error::Absent(_))), "{path}");
    }
    assert!(matches!(proofs::inclusion(ledger, log, 0, 641), Err(Error::Absent(_))));
    assert!(matches!(proofs::inclusion(ledger, log, 9, 9), Err(Error::Invalid(_))));
    assert!(matches!(proofs::consistency(ledger, log, 9, 8), Err(Error::Invalid(_))));
    assert!(matches!(proofs::consistency(ledger, log, 9, 641), Err(Error::Absent(_))));
    assert!(matches!(proofs::tlog_proof(ledger, log, 640), Err(Error::Absent(_))));
}

async fn the_checkpoint_is_read_by_another_implementation(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let log = log("ops");
    grow(&ledger, &log, 3).await;
    let text = proofs::checkpoint(&ledger, &log).unwrap().unwrap();
    let keys = ::ledger::keys::public_keys(&ledger, "acme").unwrap();
    let key = keys.iter().filter(|key| key.origin.as_deref() == Some("tally.example/acme/ops"));
    let vkey = key.into_iter().find_map(|key| key.vkey.as_deref()).unwrap();
    let verifier = signed_note::StandardVerifier::new(vkey).unwrap();
    let known = signed_note::VerifierList::new(vec![Box::new(verifier)]);
    let note = signed_note::Note::from_bytes(text.as_bytes()).unwrap();
    let (signed, unknown) = note.verify(&known).unwrap();
    assert_eq!((signed.len(), unknown.len()), (1, 0));
    assert!(note.text().starts_with(b"tally.example/acme/ops\n3\n"));
    assert!(::ledger::keys::public_keys(&ledger, "nobody").unwrap().is_empty());
}

async fn a_second_writer_goes_on_and_the_first_is_fenced(engine: Engine) {
    let place = Place::new(engine);
    let first = place.open();
    let log = log("ops");
    grow(&first, &log, 300).await;
    let second = place.open();
    let done = commit(&second, &log, fund("acc-0", 1)).await.unwrap();
    assert_eq!(done.index, Some(300));
    assert!(matches!(commit(&first, &log, fund("acc-0", 1)).await, Err(Error::Fenced)));
    assert!(matches!(commit(&first, &log, fund("acc-0", 1)).await, Err(Error::Stopped)));
    check_whole(&place, &second, &log, 301);
}

async fn what_was_changed_in_the_store_is_found(engine: Engine) {
    let check = async |sql: &str, bad: Option<u64>, message: &str| {
        let place = Place::new(engine);
        let ledger = place.open();
        let log = log("ops");
        grow(&ledger, &log, 600).await;
        place.tamper(sql);
        let store = place.store();
        let report = verify_log(store.as_ref(), HOST, place.keys().as_ref(), &log).unwrap();
        assert_eq!(report.first_bad_index, bad, "{sql}: {:?}", report.errors);
        assert!(report.errors.iter().any(|e| e.contains(message)), "{sql}: {:?}", report.errors);
        (place, store, log)
    };
    check(
        "UPDATE receipt SET envelope = FLIPPED WHERE idx = 417",
        Some(417),
        "receipt 417: the signature",
    )
    .await;
    check("DELETE FROM receipt WHERE idx = 5", Some(5), "receipt 5: it is missing").await;
    check("DELETE FROM receipt WHERE idx >= 590", Some(590), "receipt 590: it is missing").await;
    let swap = "UPDATE receipt SET envelope = (SELECT envelope FROM receipt WHERE idx = 8), \
        leaf = (SELECT leaf FROM receipt WHERE idx = 8) WHERE idx = 9";
    check(swap, Some(9), "receipt 8 stands where 9 is due").await;
    check("UPDATE receipt SET leaf = ZEROS WHERE idx = 3", Some(3), "leaf hash").await;
    check("UPDATE tree_hash SET hash = ZEROS WHERE idx = 1", None, "tree hash 1").await;
    let older = "UPDATE ledger_head SET checkpoint = replace(checkpoint, '600', '599')";
    check(older, None, "checkpoint").await;
    let richer = "UPDATE entity SET body = replace(body, '\"held\":0', '\"held\":-9') \
        WHERE id = 'acc-3'";
    let (_place, store, log) = check_projection(engine, richer).await;
    let found = diff(store.as_ref(), &log).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].stream, Stream::new(Kind::Account, "acc-3"));
    assert!(rebuild(store.as_ref(), &log).unwrap().valid());
    assert_eq!(diff(store.as_ref(), &log).unwrap(), []);
}

async fn check_projection(engine: Engine, sql: &str) -> (Place, Arc<dyn Store>, LogId) {
    let place = Place::new(engine);
    let log = log("ops");
    grow(&place.open(), &log, 20).await;
    place.tamper(sql);
    let store = place.store();
    (place, store, log)
}

async fn a_truncated_log_is_found_against_a_held_checkpoint(engine: Engine) {
    let place = Place::new(engine);
    let log = log("ops");
    grow(&place.open(), &log, 10).await;
    let older = place.copy();
    let ledger = place.open();
    commit(&ledger, &log, fund("acc-1", 1)).await.unwrap();
    let held = proofs::checkpoint(&ledger, &log).unwrap().unwrap();
    let held = Checkpoint::parse(Note::parse(held.as_bytes()).unwrap().text()).unwrap();

    // The older file is whole in itself, but cannot have grown from what was seen.
    assert!(verify_log(older.as_ref(), HOST, place.keys().as_ref(), &log).unwrap().valid());
    let older = place.open_on(older);
    let proof = proofs::consistency(&older, &log, held.size, 10);
    assert!(matches!(proof, Err(Error::Invalid(_))));
    // Nor does it help to grow it to the same size again.
    commit(&older, &log, fund("acc-2", 1)).await.unwrap();
    let now = proofs::checkpoint(&older, &log).unwrap().unwrap();
    let now = Checkpoint::parse(Note::parse(now.as_bytes()).unwrap().text()).unwrap();
    let proof = proofs::consistency(&older, &log, held.size, now.size).unwrap();
    let same = tree::verify_consistency(held.size, now.size, &held.root, &now.root, &proof);
    assert!(same.is_err());
}

/// What a random request asks for.
#[derive(Clone, Debug)]
enum Ask {
    Fund(u8, i64),
    Hold(u8, u8, i64),
    Post(u8, u8, i64),
    Void(u8, u8),
    Thaw(u8),
    Reserve(u8, u8),
    Reopen,
}

fn ask() -> impl Strategy<Value = Ask> {
    prop_oneof![
        (0..3_u8, 1..500_i64).prop_map(|(id, amount)| Ask::Fund(id, amount)),
        (0..3_u8, 0..6_u8, 1..200_i64).prop_map(|(id, act, amount)| Ask::Hold(id, act, amount)),
        (0..3_u8, 0..6_u8, 0..250_i64).prop_map(|(id, act, amount)| Ask::Post(id, act, amount)),
        (0..3_u8, 0..6_u8).prop_map(|(id, act)| Ask::Void(id, act)),
        (0..3_u8).prop_map(Ask::Thaw),
        (0..4_u8, 0..3_u8).prop_map(|(key, body)| Ask::Reserve(key, body)),
        Just(Ask::Reopen),
    ]
}

fn commands(ask: &Ask) -> Vec<Command> {
    let action = |act: &u8| ActionId::new(format!("act-{act}")).unwrap();
    let budget = |id: &u8| format!("acc-{id}");
    match ask {
        Ask::Fund(id, amount) => fund(&budget(id), *amount),
        Ask::Hold(id, act, amount) => {
            let (amount, units) = (MicroUsd(*amount), Units::NONE);
            let hold = Money::Hold { action: action(act), amount, units };
            vec![money(&budget(id), hold)]
        }
        Ask::Post(id, act, amount) => {
            let (amount, units, to) = (MicroUsd(*amount), Units::NONE, account("spend"));
            vec![
                open_account("spend", Purpose::Spend),
                money(&budget(id), Money::Post { action: action(act), amount, units, to }),
            ]
        }
        Ask::Void(id, act) => {
            let (amount, units, to) = (MicroUsd::ZERO, Units::NONE, account("spend"));
            vec![money(&budget(id), Money::Post { action: action(act), amount, units, to })]
        }
        Ask::Thaw(id) => vec![money(&budget(id), Money::Thaw {})],
        Ask::Reserve(key, body) => {
            let input = reservation::Input {
                body: Digest::of(&[*body]),
                target: format!("act-{body}"),
                until: START.plus_micros(30),
                replaces: None,
            };
            vec![Command::new(Kind::Idempotency, format!("key-{key}"), Input::Reserve(input))]
        }
        Ask::Reopen => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn the_projection_is_the_fold_of_the_log(asks in prop::collection::vec(ask(), 1..60)) {
        fold(Engine::Sqlite, &asks);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    #[test]
    fn it_is_on_postgres_too(asks in prop::collection::vec(ask(), 1..60)) {
        fold(Engine::Postgres, &asks);
    }
}

/// Carries out requests, and checks that what is stored is what the log says.
fn fold(engine: Engine, asks: &[Ask]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let place = Place::new(engine);
    let log = log("ops");
    let mut ledger = place.open();
    let mut size = 0;
    for ask in asks {
        if matches!(ask, Ask::Reopen) {
            ledger = place.open();
            continue;
        }
        match runtime.block_on(commit(&ledger, &log, commands(ask))) {
            Ok(done) => size += u64::from(done.index.is_some()),
            Err(Error::Refused(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    check_whole(&place, &ledger, &log, size);
    let before = ledger.store().scan(&log, None, 1000).unwrap();
    let report = rebuild(ledger.store().as_ref(), &log).unwrap();
    assert!(report.valid(), "{:?}", report.errors);
    assert_eq!(ledger.store().scan(&log, None, 1000).unwrap(), before);
}
