//! `tally demo`, and its evidence in the hands of `tally verify`.

use std::fs;

use crate::common::{assert_code, json, tally, text};

#[test]
fn the_demo_tells_the_whole_story() {
    let folder = tempfile::tempdir().unwrap();
    let keep = folder.path().join("kept");
    let told = tally(&["demo", "--keep", keep.to_str().unwrap()]);
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
    let mut rest = story.as_str();
    for line in lines {
        let Some((_, after)) = rest.split_once(line) else { panic!("no {line:?} in {rest}") };
        rest = after;
    }

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
    let told = tally(&["demo", "--keep", folder.path().to_str().unwrap()]);
    assert_code(&told, 1);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}
