//! Content: sealed at rest, gone with its key.

use crate::support::*;
use ::ledger::Batch;
use ::ledger::content::Vault;
use ::ledger::store::{Class, SideRow};
use kernel::values::Timestamp;

on_both! {
    content_is_sealed_and_swept_after_its_days,
    a_copy_of_the_row_does_not_outlive_the_key,
    content_survives_a_restart_and_dropping,
}

const DAY: i64 = 86_400_000_000;
const SECRET: &[u8] = b"the customer's own words";

/// Whether any of the database's files has the bytes.
fn on_disk(place: &Place, bytes: &[u8]) -> bool {
    let files = match place.database() {
        Some(database) => database.files(),
        None => {
            ["", "-wal", "-shm"].map(|end| format!("{}{end}", place.db().display()).into()).into()
        }
    };
    files.iter().any(|file| {
        let file = std::fs::read(file).unwrap_or_default();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

async fn keep(vault: &Vault, ledger: &::ledger::Ledger, id: &str, class: Class, now: Timestamp) {
    let row = vault.seal("acme", id, "body", class, SECRET, now).await.unwrap();
    ledger.commit(Batch::side(log("ops"), vec![row])).await.unwrap();
}

async fn content_is_sealed_and_swept_after_its_days(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let vault = Vault::new(ledger.clone(), place.keys());
    keep(&vault, &ledger, "act-1", Class::Result, START).await;
    keep(&vault, &ledger, "act-2", Class::Request, START).await;
    keep(&vault, &ledger, "act-3", Class::Record, START).await;
    keep(&vault, &ledger, "act-4", Class::Attestation, START).await;
    assert!(!on_disk(&place, SECRET));
    assert!(on_disk(&place, b"act-1"), "the files were read");
    let open = |id| vault.open("acme", id, "body").unwrap();
    assert_eq!(open("act-1").as_deref(), Some(SECRET));
    assert_eq!(vault.open("other", "act-1", "body").unwrap(), None);
    assert_eq!(vault.open("acme", "act-1", "other").unwrap(), None);

    assert_eq!(vault.sweep(START.plus_micros(2 * DAY)).unwrap(), 0);
    assert_eq!(vault.sweep(START.plus_micros(3 * DAY)).unwrap(), 1);
    assert_eq!((open("act-1"), open("act-2").as_deref()), (None, Some(SECRET)));
    assert_eq!(vault.sweep(START.plus_micros(33 * DAY)).unwrap(), 1);
    assert_eq!((open("act-2"), open("act-3").as_deref()), (None, Some(SECRET)));
    assert_eq!(vault.sweep_attestations(START.plus_micros(91 * DAY), 90).unwrap(), 0);
    assert_eq!(open("act-4").as_deref(), Some(SECRET));
    assert_eq!(vault.sweep_attestations(START.plus_micros(92 * DAY), 90).unwrap(), 1);
    assert_eq!((open("act-4"), open("act-3").as_deref()), (None, Some(SECRET)));
}

async fn a_copy_of_the_row_does_not_outlive_the_key(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let vault = Vault::new(ledger.clone(), place.keys());
    let row = vault.seal("acme", "act-1", "body", Class::Result, SECRET, START).await.unwrap();
    let SideRow::Content(copy) = &row else { panic!("sealing makes content") };
    let copy = copy.clone();
    ledger.commit(Batch::side(log("ops"), vec![row])).await.unwrap();
    let key = ledger.store().content_key("acme", Class::Result, START.day()).unwrap().unwrap();
    assert!(on_disk(&place, &key));
    vault.sweep(START.plus_micros(9 * DAY)).unwrap();
    // PostgreSQL keeps what was deleted until it has vacuumed.
    if let Some(database) = place.database() {
        database.sql("VACUUM tally_runtime.content_key");
    }
    assert!(!on_disk(&place, &key));

    let restore = |row| ledger.commit(Batch::side(log("ops"), vec![SideRow::Content(row)]));
    restore(copy.clone()).await.unwrap();
    assert_eq!(vault.open("acme", "act-1", "body").unwrap(), None);
    // Not even where the day gets a key again.
    let again = vault.seal("acme", "act-2", "body", Class::Result, SECRET, START).await;
    assert!(again.is_ok());
    assert!(matches!(vault.open("acme", "act-1", "body"), Err(::ledger::Error::Sealed)));
    // Nor is what was sealed for one thing read as another.
    let SideRow::Content(moved) = again.unwrap() else { panic!("sealing makes content") };
    restore(::ledger::store::ContentRow { id: "act-3".to_owned(), ..moved }).await.unwrap();
    assert!(matches!(vault.open("acme", "act-3", "body"), Err(::ledger::Error::Sealed)));
}

async fn content_survives_a_restart_and_dropping(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    keep(&Vault::new(ledger.clone(), place.keys()), &ledger, "act-1", Class::Request, START).await;
    drop(ledger);
    let ledger = place.open();
    let vault = Vault::new(ledger.clone(), place.keys());
    assert_eq!(vault.open("acme", "act-1", "body").unwrap().as_deref(), Some(SECRET));
    let drop_it =
        SideRow::DropContent { tenant: "acme".to_owned(), id: "act-1".to_owned(), part: "body" };
    ledger.commit(Batch::side(log("ops"), vec![drop_it])).await.unwrap();
    assert_eq!(vault.open("acme", "act-1", "body").unwrap(), None);
}
