//! Bundles: what is exported verifies here and with openssl, and nothing that was changed does.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::support::*;
use ::ledger::evidence::{
    BundleReport, ExportRequest, Pinned, Selection, export, verify_bundle, verify_path,
    verify_receipt,
};
use ::ledger::keys::{from_pem, public_keys};
use ::ledger::{Error, Ledger};
use kernel::signing_key::LogKeys;
use kernel::values::Digest;
use kernel::verify::Trust;

fn request(selection: Selection, full_log: bool) -> ExportRequest {
    let policy = b"a policy bundle".to_vec();
    ExportRequest {
        log: log("ops"),
        selection,
        full_log,
        policies: vec![(Digest::of(&policy), policy)],
        cost: serde_json::json!({"total_micro_usd": "12"}),
        run: None,
        workflow: None,
        control: std::collections::BTreeMap::new(),
    }
}

async fn exported(count: u64, selection: Selection, full_log: bool) -> (Place, Ledger, Vec<u8>) {
    let place = Place::sqlite();
    let ledger = place.open();
    grow(&ledger, &log("ops"), count).await;
    let bundle = export(&ledger, &request(selection, full_log)).unwrap();
    (place, ledger, bundle)
}

fn pinned(ledger: &Ledger) -> Pinned {
    let known = public_keys(ledger, "acme").unwrap();
    let receipt = known.iter().find(|key| key.purpose == "receipt").unwrap();
    let vkey = known.iter().find_map(|key| key.vkey.as_deref()).unwrap();
    let keys = vec![from_pem(&receipt.pem).unwrap()];
    Pinned {
        keys,
        vkey: Some(vkey.parse().unwrap()),
        trust: Trust::Pinned,
        logs: LogKeys::default(),
    }
}

pub(crate) fn unpack(bundle: &[u8], to: &Path) {
    std::fs::create_dir(to).unwrap();
    let tar = to.with_extension("tar");
    std::fs::write(&tar, bundle).unwrap();
    run(Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(to));
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program is installed");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

pub(crate) fn refused(report: &BundleReport, message: &str) {
    assert!(!report.valid, "{message}");
    assert!(report.errors.iter().any(|e| e.contains(message)), "{message}: {:?}", report.errors);
}

#[tokio::test]
async fn bundles_verify_with_pinned_and_with_brought_keys() {
    let some = Selection::Receipts(vec![299, 0, 7, 8, 8, 256]);
    let (_place, ledger, bundle) = exported(300, some, false).await;
    let report = verify_bundle(&bundle, None);
    assert_eq!(report.errors, [""; 0]);
    assert_eq!((report.valid, report.trust, report.receipts), (true, Trust::Unknown, 5));
    assert_eq!(report.origin.as_deref(), Some("tally.example/acme/ops"));
    assert_eq!(report.size, Some(300));

    let ours = pinned(&ledger);
    let report = verify_bundle(&bundle, Some(&ours));
    assert_eq!((report.valid, report.trust), (true, Trust::Pinned));
    let half = Pinned { vkey: None, ..ours.clone() };
    assert_eq!(verify_bundle(&bundle, Some(&half)).trust, Trust::Unknown);

    let other = Place::sqlite();
    let other = other.open();
    grow(&other, &log("ops"), 1).await;
    let theirs = pinned(&other);
    let keys = Pinned { vkey: None, ..theirs.clone() };
    refused(&verify_bundle(&bundle, Some(&keys)), "no key sha256:");
    let vkey = Pinned { keys: Vec::new(), ..theirs };
    refused(&verify_bundle(&bundle, Some(&vkey)), "log/checkpoint: the note has no signature");
}

#[tokio::test]
async fn a_full_log_and_its_folder_verify() {
    let (place, ledger, bundle) = exported(300, Selection::Range { from: 0, to: 300 }, true).await;
    assert!(verify_bundle(&bundle, None).valid);
    let again = export(&ledger, &request(Selection::Range { from: 0, to: 300 }, true)).unwrap();
    assert_eq!(again.len(), bundle.len(), "only the manifest's signature may differ");

    let dir = place.path("bundle");
    unpack(&bundle, &dir);
    let report = verify_path(&dir, None);
    assert_eq!((report.errors.as_slice(), report.receipts), (&[][..], 300));
    assert!(verify_path(&place.path("bundle.tar"), None).valid);

    let receipt = dir.join("receipts/7.dsse.json");
    let report = verify_path(&receipt, Some(&pinned(&ledger)));
    assert_eq!((report.valid, report.receipts, report.trust), (true, 1, Trust::Pinned));
    refused(&verify_path(&receipt, None), "no key sha256:");
    refused(&verify_path(&dir.join("nothing"), None), "No such file");
    refused(&verify_path(Path::new("/dev/zero"), None), "is no file and no folder");

    for (path, message) in [
        ("receipts/7.sigstore.json", "receipts/7.sigstore.json is missing"),
        ("proofs/7.tlog-proof", "proofs/7.tlog-proof is missing"),
        ("receipts/8.dsse.json", "receipts/8.dsse.json is missing"),
        ("log/tile/0/001.p/44", "log/tile does not have exactly the tiles"),
        ("log/tile/entries/000", "log/tile does not have exactly the tiles"),
        ("log/checkpoint", "log/checkpoint is missing"),
        ("manifest.dsse.json", "manifest.dsse.json is missing"),
        ("SHA256SUMS", "SHA256SUMS is missing"),
        ("VERIFY.md", "VERIFY.md is missing"),
    ] {
        let away = place.path("away");
        std::fs::rename(dir.join(path), &away).unwrap();
        refused(&verify_path(&dir, None), message);
        std::fs::rename(&away, dir.join(path)).unwrap();
    }
    std::fs::write(dir.join("extra"), "").unwrap();
    refused(&verify_path(&dir, None), "extra is not a file of a bundle");
    std::fs::remove_file(dir.join("extra")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", dir.join("cost.link")).unwrap();
    refused(&verify_path(&dir, None), "cost.link is neither a file nor a folder");
}

/// The files of a tar, read by nothing of ours but offsets.
fn files(bundle: &[u8]) -> BTreeMap<String, std::ops::Range<usize>> {
    let mut files = BTreeMap::new();
    let mut at = 0;
    while bundle[at] != 0 {
        let name = bundle[at..].split(|byte| *byte == 0).next().unwrap();
        let size = std::str::from_utf8(&bundle[at + 124..at + 135]).unwrap();
        let size = usize::from_str_radix(size, 8).unwrap();
        let start = at + 512;
        files.insert(String::from_utf8(name.to_vec()).unwrap(), start..start + size);
        at = start + size.next_multiple_of(512);
    }
    files
}

#[tokio::test]
async fn one_flipped_bit_anywhere_is_found() {
    let (_place, ledger, bundle) = exported(3, Selection::Range { from: 0, to: 3 }, true).await;
    let pinned = pinned(&ledger);
    for (path, range) in files(&bundle) {
        // Each file is tried at some forty places, the first and last byte among them.
        let step = (range.len() / 37).max(1);
        for at in range.clone().step_by(step).chain([range.end - 1]) {
            let mut changed = bundle.clone();
            changed[at] ^= 1;
            assert!(!verify_bundle(&changed, Some(&pinned)).valid, "{path} byte {at}");
        }
    }
    for end in [0, 1, 511, 512, 1024, bundle.len() / 2, bundle.len() - 1] {
        assert!(!verify_bundle(&bundle[..end], None).valid, "cut at {end}");
    }
    assert!(!verify_bundle(&[], None).valid);
    assert!(!verify_receipt(b"{}", Some(&pinned)).valid);
}

#[tokio::test]
async fn a_receipt_that_was_changed_and_listed_anew_is_found() {
    let (place, _ledger, bundle) = exported(3, Selection::Range { from: 0, to: 3 }, true).await;
    let dir = place.path("bundle");
    unpack(&bundle, &dir);
    let path = dir.join("receipts/1.dsse.json");
    std::fs::copy(dir.join("receipts/2.dsse.json"), &path).unwrap();
    std::fs::copy(dir.join("receipts/2.sigstore.json"), dir.join("receipts/1.sigstore.json"))
        .unwrap();
    let list = "find . -type f | sed 's|^./||' | grep -v -e SHA256SUMS -e manifest.dsse.json | \
        LC_ALL=C sort | xargs sha256sum > SHA256SUMS";
    run(Command::new("sh").args(["-c", list]).current_dir(&dir));
    let report = verify_path(&dir, None);
    refused(&report, "receipts/1.dsse.json is receipt 2");
    refused(&report, "proofs/1.tlog-proof: the proof leads to another root");
    refused(&report, "receipt 2 does not follow the one before it");
    refused(&report, "the hash tiles have another receipt 1");
    refused(&report, "the manifest does not name exactly these files");
    assert!(!report.errors.iter().any(|error| error.contains("SHA256SUMS")));
}

#[tokio::test]
async fn selections_have_bounds() {
    let (_place, ledger, _) = exported(3, Selection::Range { from: 1, to: 2 }, false).await;
    let many = Selection::Receipts((0..10_001).collect());
    for selection in [Selection::Range { from: 1, to: 1 }, Selection::Receipts(vec![]), many] {
        let result = export(&ledger, &request(selection, false));
        assert!(matches!(result, Err(Error::Invalid(_))));
    }
    for selection in [Selection::Range { from: 2, to: 4 }, Selection::Receipts(vec![0, 3])] {
        let result = export(&ledger, &request(selection, false));
        assert!(matches!(result, Err(Error::Absent(_))));
    }
    let mut wrong = request(Selection::Range { from: 0, to: 1 }, false);
    wrong.policies = vec![(Digest::of(b""), b"x".to_vec())];
    assert!(matches!(export(&ledger, &wrong), Err(Error::Invalid(_))));
}

/// The `sh` blocks of VERIFY.md, in order.
fn blocks(dir: &Path) -> Vec<String> {
    let mut text = String::new();
    std::fs::File::open(dir.join("VERIFY.md")).unwrap().read_to_string(&mut text).unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn passes(block: &str, dir: &Path) -> bool {
    let status = Command::new("sh").args(["-e", "-c", block]).current_dir(dir).output().unwrap();
    status.status.success()
}

#[tokio::test]
async fn verify_md_is_right_about_openssl() {
    let (place, _ledger, bundle) = exported(5, Selection::Receipts(vec![0, 2, 4]), false).await;
    let dir = place.path("bundle");
    unpack(&bundle, &dir);
    run(Command::new("openssl").arg("version"));
    let blocks = blocks(&dir);
    assert_eq!(blocks.len(), 6);
    for block in &blocks {
        run(Command::new("sh").args(["-e", "-c", block]).current_dir(&dir));
    }
    // Which commands notice which change. The last ones are about what comes with a run alone.
    for (path, from, to, noticed) in [
        (
            "receipts/2.dsse.json",
            "\"payload\":\"eyJ",
            "\"payload\":\"eyK",
            [true, true, false, true, false, false],
        ),
        (
            "receipts/2.dsse.json",
            "\"keyid\":\"",
            "\"keyid\":\"0",
            [true, true, true, true, false, false],
        ),
        ("log/checkpoint", "/ops\n5\n", "/ops\n4\n", [true, false, false, true, true, false]),
        ("cost.json", "12", "13", [true, false, false, true, false, false]),
        ("SHA256SUMS", "cost", "lost", [true, false, false, true, false, false]),
    ] {
        let before = std::fs::read_to_string(dir.join(path)).unwrap();
        assert!(before.contains(from));
        std::fs::write(dir.join(path), before.replacen(from, to, 1)).unwrap();
        let failed: Vec<bool> = blocks.iter().map(|block| !passes(block, &dir)).collect();
        assert_eq!(failed, noticed, "{path}");
        std::fs::write(dir.join(path), before).unwrap();
    }
    std::fs::write(dir.join("receipts/9.dsse.json"), "").unwrap();
    assert!(!passes(&blocks[3], &dir), "an added file");
}
