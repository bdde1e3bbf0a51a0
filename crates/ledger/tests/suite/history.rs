//! A bundle against an older checkpoint of its log, and bundles under an older checkpoint.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::*;
use ::ledger::evidence::{
    ExportRequest, Selection, export, export_under, verify_bundle, verify_path_with,
};
use ::ledger::{Ledger, proofs};
use kernel::history::Demands;
use kernel::note::{Checkpoint, Note};

fn request(from: u64, to: u64) -> ExportRequest {
    ExportRequest {
        log: log("ops"),
        selection: Selection::Range { from, to },
        full_log: false,
        policies: Vec::new(),
        cost: serde_json::json!({}),
        run: None,
        workflow: None,
        control: std::collections::BTreeMap::new(),
    }
}

fn note(ledger: &Ledger) -> Note {
    let text = proofs::checkpoint(ledger, &log("ops")).unwrap().unwrap();
    Note::parse(text.as_bytes()).unwrap()
}

/// Unpacks a bundle below `dir`.
fn unpacked(dir: &Path, name: &str, bundle: &[u8]) -> PathBuf {
    let (tar, to) = (dir.join(format!("{name}.tar")), dir.join(name));
    fs::write(&tar, bundle).unwrap();
    fs::create_dir(&to).unwrap();
    let mut unpack = std::process::Command::new("tar");
    assert!(unpack.arg("-xf").arg(&tar).arg("-C").arg(&to).status().unwrap().success());
    to
}

/// What is found against `since`: nothing, or its code.
fn against(path: &Path, since: &Note) -> Option<&'static str> {
    let since = Some(since.to_string().into_bytes());
    let demands = Demands { since, ..Demands::default() };
    let checked = verify_path_with(path, None, &demands).1.unwrap();
    checked.err().map(|error| error.code())
}

#[tokio::test]
async fn a_bundle_continues_what_somebody_held_or_is_found_out() {
    let place = Place::sqlite();
    let ledger = place.open();
    let mut held = Vec::new();
    for more in [1, 6, 1, 248, 1, 60] {
        grow(&ledger, &log("ops"), more).await;
        held.push(note(&ledger));
    }
    let sizes: Vec<u64> =
        held.iter().map(|note| Checkpoint::parse(note.text()).unwrap().size).collect();
    assert_eq!(sizes, [1, 7, 8, 256, 257, 317]);
    let dir = place.path("bundles");
    fs::create_dir(&dir).unwrap();
    let newest = unpacked(&dir, "newest", &export(&ledger, &request(0, 3)).unwrap());
    for since in &held {
        assert_eq!(against(&newest, since), None, "{since}");
    }

    // The same log as it was, before its last 60 receipts.
    let cut = export_under(&ledger, &request(0, 3), &held[4]).unwrap();
    let report = verify_bundle(&cut, None);
    assert_eq!((report.valid, report.size), (true, Some(257)), "{:?}", report.errors);
    let cut = unpacked(&dir, "cut", &cut);
    assert_eq!(against(&cut, &held[4]), None);
    assert_eq!(against(&cut, &held[5]), Some("history_truncated"));

    // The same keys and another history from the eighth receipt on.
    let copy = Place::sqlite();
    fs::create_dir(copy.path("keys")).unwrap();
    copy_dir(&place.path("keys"), &copy.path("keys"));
    let other = copy.open();
    grow(&other, &log("ops"), 1).await;
    grow(&other, &log("ops"), 319).await;
    let forked = unpacked(&dir, "forked", &export(&other, &request(0, 3)).unwrap());
    for since in &held[1..] {
        assert_eq!(against(&forked, since), Some("history_forked"), "{since}");
    }

    // A tile that is missing proves nothing; nor does the key of somebody else.
    fs::remove_file(newest.join("log/tile/0/001.p/61")).unwrap();
    assert_eq!(against(&newest, &held[4]), Some("history_unproven"));
    let strange = Place::sqlite();
    let strange = strange.open();
    grow(&strange, &log("ops"), 2).await;
    assert_eq!(against(&newest, &note(&strange)), Some("verify_unsigned"));
}

on_both!(only_what_the_log_signed_and_was_can_be_exported_under);

async fn only_what_the_log_signed_and_was_can_be_exported_under(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    grow(&ledger, &log("ops"), 5).await;
    let five = note(&ledger);
    grow(&ledger, &log("ops"), 4).await;
    assert!(export_under(&ledger, &request(0, 5), &five).is_ok());
    assert!(export_under(&ledger, &request(0, 6), &five).is_err(), "it does not cover the sixth");
    let other = Place::sqlite();
    let other = other.open();
    grow(&other, &log("ops"), 5).await;
    let same_size = note(&other);
    grow(&other, &log("ops"), 9).await;
    for note in [same_size, note(&other)] {
        assert!(export_under(&ledger, &request(0, 5), &note).is_err(), "{note}");
    }
}

fn copy_dir(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.metadata().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
