//! `tally demo`, and its evidence in the hands of `tally verify`.

use std::fs;

use crate::common::{assert_code, json, tally, text};

/// Checks that the lines are there in this order.
#[track_caller]
fn tells(story: &str, lines: &[&str]) {
    let mut rest = story;
    for line in lines {
        let Some((_, after)) = rest.split_once(line) else { panic!("no {line:?} in {rest}") };
        rest = after;
    }
}

#[test]
fn the_demo_tells_of_four_incidents() {
    // It is the one that is told first.
    let told = tally(&["demo"]);
    assert_code(&told, 0);
    let lines = [
        "SIMULATORS",
        "(a simulator)",
        "2. An incident that is approved",
        "ok: the change waits for a person",
        "priority: 4 → 3",
        "[Approve]",
        "ok: the run succeeded",
        "ok: exactly the change and one note were written",
        "3. An incident that is rejected",
        "ok: ServiceNow has no change of it",
        "4. An incident whose text gives orders",
        "ok: policy put on record that the text gives orders",
        "ok: a leap to critical takes two people",
        "ok: the change still waits",
        "ok: ServiceNow has no change of it",
        "ok: nor of any other incident",
        "ok: ServiceNow holds no credential",
        "ok: Slack holds no credential",
        "5. An incident to which the model answers junk",
        "ok: after three tries the run has failed for good",
        "ok: the account paid exactly that",
        "ok: run.json names R-ITSM-SUSPECT",
        "ok: run.json has no word of the incident",
        "ok: the evidence verifies offline",
        "ok: the changed evidence is refused",
        "ok: no credential is in any of them",
        "ok: no word of the incidents is in any of them",
        "Every expectation held.",
        "tally demo agent",
    ];
    tells(&text(&told), &lines);
}

#[test]
fn the_demo_tells_the_whole_story() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("kept");
    let told = tally(&["demo", "agent", "--keep", keep.to_str().unwrap()]);
    assert_code(&told, 0);
    let story = text(&told);
    let mut lines = vec![
        "ok: the read is denied",
        "ok: author and publisher are two principals",
        "ok: the read is allowed and executed",
        "R-DESTRUCTIVE",
        "ok: the target was sent nothing",
        "ok: the order is held for a person",
        "ok: the agent may not approve",
        "ok: the order is placed",
        "ok: the target received exactly one request",
        "ok: it gets the answer of the first",
        "ok: the evidence verifies offline",
        "ok: the changed evidence is refused",
        "openssl dgst -sha256 -verify",
    ];
    if std::process::Command::new("openssl").arg("version").output().is_ok() {
        lines.extend(["Verified OK", "ok: openssl refuses the changed one"]);
    }
    lines.extend(["Every expectation held.", "tally init"]);
    tells(&story, &lines);

    let bundle = keep.join("evidence.tar");
    let verified = tally(&["verify", bundle.to_str().unwrap(), "--json"]);
    assert_code(&verified, 0);
    assert_eq!(json(&verified)["valid"], true);
    let mut bytes = fs::read(&bundle).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&bundle, bytes).unwrap();
    assert_code(&tally(&["verify", bundle.to_str().unwrap()]), 6);
}

#[test]
fn the_demo_leaves_an_existing_folder_alone() {
    let folder = tempfile::tempdir().unwrap();
    let told = tally(&["demo", "agent", "--keep", folder.path().to_str().unwrap()]);
    assert_code(&told, 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
