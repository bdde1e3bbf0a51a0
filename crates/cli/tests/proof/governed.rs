//! A run of a released workflow brings along what stands behind it: the text, and who published,
//! approved, promoted and put into force.

use kernel::bundle::{self, RUN};
use ledger::keys::{FileKeys, KeyProvider, Purpose};
use proto::me::GetMeRequest;
use serde_json::{Value, json};

use super::bundle::{assert_every_change_is_seen, codes, exported, told};
use crate::factory::{Plant, document, echo, start};
use crate::foreign::bundle::Bundle;

fn said<'a>(governance: &'a Value, of: &str, member: &str) -> Vec<&'a str> {
    let all = governance[of].as_array().unwrap().iter();
    all.map(|one| one["said"][member].as_str().unwrap_or_default()).collect()
}

/// The indices of the receipts of the control log.
fn of_control(bundle: &Bundle) -> Vec<String> {
    let names = bundle.files.keys().filter_map(|path| path.strip_prefix("control/receipts/"));
    names.filter_map(|name| name.strip_suffix(".dsse.json")).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_released_run_brings_its_text_and_who_stands_behind_it() {
    let plant = Plant::new("").await;
    let text = document("triage", "1.0.0", &[echo("one", &json!("a"))]);
    plant.in_force(&text).await;
    let run = start(&plant.agent, "triage").await;
    let whole = exported(&plant.server, &run.run_id, &[]);
    assert_eq!(codes(&whole), [""; 0]);
    let told = told(&whole);
    let digest = told["pins"]["release"]["digest"].as_str().unwrap();
    let path = format!("workflow/{digest}.yaml");
    assert_eq!(whole.files[&path], text.to_string().as_bytes());
    let governance = &told["governance"];
    let moves = ["release.created", "release.approved", "release.promoted"];
    assert_eq!(said(governance, "release", "type"), moves);
    let me = plant.approver.get_me(&GetMeRequest {}).await.unwrap().principal_id;
    assert_eq!(said(governance, "release", "by")[1], me);
    assert_eq!(said(governance, "policies", "type"), ["policy.published"]);
    assert_eq!(governance["workflow"]["said"]["version"], "1.0.0");
    assert_eq!(of_control(&whole).len(), governance["receipts"].as_array().unwrap().len());
    assert_every_change_is_seen(&whole);
    // What came later is of no account.
    plant.in_force(&document("triage", "2.0.0", &[echo("one", &json!("b"))])).await;
    let later = exported(&plant.server, &run.run_id, &[]);
    assert_eq!(codes(&later), [""; 0]);
    assert_eq!(whole.manifest().predicate.content, later.manifest().predicate.content);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_does_not_rest_on_is_not_there() {
    let plant = Plant::new("").await;
    for name in ["triage", "other"] {
        plant.in_force(&document(name, "1.0.0", &[echo("one", &json!("a"))])).await;
    }
    let run = start(&plant.agent, "triage").await;
    let other = start(&plant.agent, "other").await;
    let whole = exported(&plant.server, &run.run_id, &[]);
    let other = exported(&plant.server, &other.run_id, &[]);
    let keys = FileKeys::open(&plant.server.data.join("keys")).unwrap();
    let signer = keys.p256("main", Purpose::Receipt).unwrap();
    // Receipts of the same control log, under the same checkpoint: they are of another release.
    let more: Vec<String> =
        other.files.keys().filter(|path| !whole.files.contains_key(*path)).cloned().collect();
    let of_control = more.iter().filter(|path| path.starts_with("control/"));
    assert_eq!(whole.files["control/log/checkpoint"], other.files["control/log/checkpoint"]);
    let mut bundle = whole.clone();
    let moved = of_control.map(|path| bundle.files.insert(path.clone(), other.files[path].clone()));
    assert!(moved.count() > 0);
    bundle.sign_selection(signer.as_ref());
    assert_eq!(codes(&bundle), ["bundle_control_surplus"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn not_even_the_operator_can_embellish_what_a_run_rests_on() {
    let plant = Plant::new("").await;
    let text = document("triage", "1.0.0", &[echo("one", &json!("a"))]);
    plant.in_force(&text).await;
    let run = start(&plant.agent, "triage").await;
    let whole = exported(&plant.server, &run.run_id, &[]);
    let keys = FileKeys::open(&plant.server.data.join("keys")).unwrap();
    let signer = keys.p256("main", Purpose::Receipt).unwrap();
    for index in of_control(&whole) {
        let mut bundle = whole.clone();
        for (folder, end) in
            [("receipts", "dsse.json"), ("receipts", "sigstore.json"), ("proofs", "tlog-proof")]
        {
            bundle.files.remove(&format!("control/{folder}/{index}.{end}")).unwrap();
        }
        bundle.sign_selection(signer.as_ref());
        let codes = codes(&bundle);
        assert!(codes.iter().any(|code| code.starts_with("bundle_run")), "{index}: {codes:?}");
    }
    let without = |prefix: &str| {
        let mut bundle = whole.clone();
        bundle.files.retain(|path, _| !path.starts_with(prefix));
        bundle.sign_selection(signer.as_ref());
        codes(&bundle)
    };
    assert_eq!(without("control/"), ["bundle_run_governance"]);
    assert_eq!(without("workflow/"), ["bundle_workflow"]);
    assert_eq!(without("policy/"), ["bundle_policies"]);
    // Where there is no run, there is nothing that it rests on.
    assert_eq!(without(RUN), ["bundle_workflow", "bundle_control_surplus"]);
    // Another text, under its own digest.
    let mut bundle = whole.clone();
    let path = bundle.path("workflow/");
    let other = bundle.files.remove(&path).unwrap();
    let other = String::from_utf8(other).unwrap().replace("medium", "low");
    let digest = kernel::values::Digest::of(other.as_bytes());
    bundle.files.insert(bundle::workflow_path(&digest), other.into());
    bundle.sign_selection(signer.as_ref());
    assert_eq!(codes(&bundle), ["bundle_workflow"]);
    // Somebody else is said to have approved it.
    let mut bundle = whole.clone();
    let story = String::from_utf8(bundle.files[RUN].clone()).unwrap();
    let changed = story.replacen("release.approved", "release.promoted", 1);
    assert_ne!(changed, story);
    bundle.files.insert(RUN.to_owned(), changed.into());
    bundle.sign_selection(signer.as_ref());
    assert_eq!(codes(&bundle), ["bundle_run_differs"]);
    // The receipts of another tenant's log, or of another log of the same one.
    let mut bundle = whole.clone();
    for (path, file) in whole.files.iter().filter(|(path, _)| !path.starts_with("control/")) {
        let of_log = ["receipts/", "proofs/", "log/checkpoint", "keys/"];
        if of_log.iter().any(|prefix| path.starts_with(prefix)) {
            bundle.files.insert(format!("control/{path}"), file.clone());
        }
    }
    bundle.sign_selection(signer.as_ref());
    assert!(codes(&bundle).contains(&"bundle_control_log"), "{:?}", codes(&bundle));
}
