//! Evidence of a real server read by programs that are not ours: each accepts what is genuine, and
//! for each tampering the matrix says who sees it.

pub(crate) mod bundle;
mod cases;
mod scene;
mod tools;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use kernel::bundle::{
    CHECKPOINT, CONTROL, COST, MANIFEST, RUN, SUMS, VERIFY, VKEY, borrowed, key_path, policy_path,
    proof_path, receipt_path, sigstore_path, verify_files, workflow_path,
};
use kernel::values::Digest;
use kernel::verify::Trust;
use ledger::keys::NativeVerifier;
use serde_json::Value;

use cases::{OUTSIDE_RANGE, Sight, cases, forged, table};
use scene::Scene;
use tools::{Subject, Subjects, TOOLS};

/// What every tool has to accept: the log by itself, as it grew from a held checkpoint, and what
/// belongs to one action or one run.
const GENUINE: [&str; 4] =
    ["genuine", "genuine, against a held checkpoint", "one action's", "one run's"];

/// All cases as bundles, unpacked below `folder`.
fn subjects(scene: &Scene, folder: &Path) -> Subjects {
    let mut subjects = BTreeMap::new();
    let mut add = |name: &str, bundle: bundle::Bundle, held: Option<Vec<u8>>| {
        let dir = folder.join(subjects.len().to_string());
        bundle.unpack(&dir);
        assert!(subjects.insert(name.to_owned(), Subject { bundle, dir, held }).is_none());
    };
    add(GENUINE[0], scene.late.clone(), None);
    add(GENUINE[1], scene.late.clone(), Some(scene.early.checkpoint()));
    add(GENUINE[2], scene.selected.clone(), None);
    add(GENUINE[3], scene.run.clone(), None);
    for case in cases() {
        add(case.what, (case.make)(scene), case.held.map(|held| held(scene)));
    }
    subjects
}

#[tokio::test(flavor = "multi_thread")]
async fn each_tool_sees_exactly_what_the_matrix_says() {
    let scene = Scene::new().await;
    let folder = tempfile::tempdir().unwrap();
    let subjects = subjects(&scene, folder.path());
    complete(&scene);
    nothing_else(&scene, &subjects);
    let mut wrong = Vec::new();
    for (at, tool) in TOOLS.iter().enumerate() {
        let verdicts = (tool.judge)(&scene, &subjects);
        if verdicts.is_empty() {
            continue;
        }
        assert_eq!(verdicts.len(), subjects.len(), "{}", tool.name);
        for genuine in GENUINE {
            if let Err(error) = &verdicts[genuine] {
                wrong.push(format!("{} refuses `{genuine}`: {error}", tool.name));
            }
        }
        if ["verifier.wasm", "tally verify"].contains(&tool.name) {
            let why = verdicts[OUTSIDE_RANGE].as_ref().unwrap_err();
            assert!(why.contains("key_outside_range"), "{}: {why}", tool.name);
        }
        for case in cases() {
            let (verdict, name, what) = (&verdicts[case.what], tool.name, case.what);
            println!("{name}: {what}: {verdict:?}");
            match (case.sights[at], verdict) {
                (Sight::Sees, Err(_)) | (Sight::Cannot(_), Ok(())) => {}
                (Sight::Sees, Ok(())) => wrong.push(format!("{name} does not see `{what}`")),
                (Sight::Cannot(_), Err(error)) => {
                    wrong.push(format!("{name} sees `{what}`, and the matrix says no: {error}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Some bundles break one rule alone: where a tool sees them, it sees that.
fn nothing_else(scene: &Scene, subjects: &Subjects) {
    let report =
        |bundle: &bundle::Bundle| verify_files(&borrowed(&bundle.files), None, &NativeVerifier);
    let outside = report(&subjects[OUTSIDE_RANGE].bundle);
    let others = outside.codes.iter().filter(|code| **code != "key_outside_range").count();
    assert_eq!((outside.valid, others), (false, 0), "{:?}", outside.errors);
    let forged = report(&forged(scene));
    assert_eq!((forged.valid, forged.trust), (true, Trust::Unknown), "{:?}", forged.errors);
}

/// Bundles have all that they should, and nothing else.
fn complete(scene: &Scene) {
    for (bundle, full, of_run) in
        [(&scene.late, true, false), (&scene.selected, false, false), (&scene.run, false, true)]
    {
        let mut expected: BTreeSet<String> =
            [CHECKPOINT, VKEY, COST, MANIFEST, SUMS, VERIFY].map(str::to_owned).into();
        for index in bundle.indices() {
            expected.extend([receipt_path(index), sigstore_path(index), proof_path(index)]);
        }
        expected.extend(scene.operator.receipts.iter().map(|key| key_path(&key.key_id())));
        expected.extend(of_run.then(|| RUN.to_owned()));
        let size = scene.late.size();
        expected.insert(format!("log/tile/0/000.p/{size}"));
        if full {
            expected.insert(format!("log/tile/entries/000.p/{size}"));
        }
        let paths = bundle.files.keys().cloned();
        let (control, found): (BTreeSet<String>, BTreeSet<String>) =
            paths.partition(|path| path.starts_with(CONTROL));
        assert_eq!(!control.is_empty(), of_run, "{control:?}");
        let receipts = control.iter().filter_map(|path| path.strip_prefix("control/receipts/"));
        for index in receipts.filter_map(|name| name.strip_suffix(".dsse.json")) {
            let of =
                [format!("proofs/{index}.tlog-proof"), format!("receipts/{index}.sigstore.json")];
            assert!(of.iter().all(|path| control.contains(&format!("{CONTROL}{path}"))), "{index}");
        }
        let others: Vec<&String> = found.symmetric_difference(&expected).collect();
        let mut named: Vec<fn(&Digest) -> String> = vec![policy_path];
        named.extend(of_run.then_some(workflow_path as fn(&Digest) -> String));
        assert_eq!(others.len(), named.len(), "more or less than a policy and a text: {others:?}");
        for (path, name) in others.into_iter().zip(named) {
            assert_eq!(*path, name(&Digest::of(&bundle.files[path])));
        }
        let index = bundle.indices()[0];
        let proof = &bundle.files[&proof_path(index)];
        let head = format!("c2sp.org/tlog-proof@v1\nindex {index}\n");
        assert!(proof.starts_with(head.as_bytes()));
        let sigstore: Value = serde_json::from_slice(&bundle.files[&sigstore_path(index)]).unwrap();
        assert_eq!(sigstore["mediaType"], "application/vnd.dev.sigstore.bundle.v0.3+json");
    }
}

#[test]
fn the_guide_has_the_matrix() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/proof.md");
    let guide = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- matrix -->\n", "<!-- /matrix -->\n");
    let (before, rest) = guide.split_once(begin).unwrap();
    let (found, after) = rest.split_once(end).unwrap();
    let table = format!("\n{}\n", table());
    if std::env::var_os("TALLY_WRITE_DOCS").is_some() {
        fs::write(&path, format!("{before}{begin}{table}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, table, "TALLY_WRITE_DOCS=1 writes it anew");
    }
}
