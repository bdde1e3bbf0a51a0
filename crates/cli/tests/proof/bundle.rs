//! The evidence of one run: complete, exact, the same each time, and refused where it was changed.

use std::fs;

use kernel::bundle::{COST, RUN, borrowed, verify_files};
use ledger::keys::{FileKeys, KeyProvider, NativeVerifier, Purpose};
use proto::identity::principal::Kind;
use proto::runs::{RunState, StartRunRequest};
use serde_json::{Value, json};

use crate::common::{Server, assert_code, json as answer, tally};
use crate::foreign::bundle::Bundle;
use crate::runs::{Place, approve_step, reaches, with, workflow};
use crate::sandbox::agents::{call, caller};

/// The bundle that the program exports of a run.
pub(crate) fn exported(server: &Server, run: &str, more: &[&str]) -> Bundle {
    let out = server.data.with_extension("tar");
    let export = ["evidence", "export", "--out", out.to_str().unwrap(), "--run", run];
    assert_code(&server.tally(&server.owner_key(), &[&export[..], more].concat()), 0);
    Bundle::read(&fs::read(&out).unwrap())
}

pub(crate) fn told(bundle: &Bundle) -> Value {
    serde_json::from_slice(&bundle.files[RUN]).unwrap()
}

/// Changes a bit of each file, and sees it seen: with and without a list that is written anew.
pub(super) fn assert_every_change_is_seen(bundle: &Bundle) {
    for path in bundle.files.keys() {
        // The list itself, written anew, is as it was.
        for listed in [false, true].into_iter().filter(|listed| !listed || path != "SHA256SUMS") {
            let mut changed = bundle.clone();
            let middle = changed.files[path].len() / 2;
            changed.flip(path, middle);
            if listed {
                changed.list();
            }
            assert!(!codes(&changed).is_empty(), "{path} {listed}");
        }
    }
}

pub(crate) fn codes(bundle: &Bundle) -> Vec<&'static str> {
    verify_files(&borrowed(&bundle.files), None, &NativeVerifier).codes
}

/// A run with a retry, an approval and a denied write, and one that another asked for in between.
async fn story(place: &Place) -> String {
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let retried = with(
        place.call("again", "POST", "/unavailable/x"),
        json!({"retry": {"attempts": 4, "backoffMs": 10}}),
    );
    let held = with(place.call("held", "PUT", "/held"), json!({"approval": {"quorum": 1}}));
    let steps = [place.call("read", "GET", "/read"), retried, held];
    let request = StartRunRequest { wait_ms: None, ..workflow(&steps) };
    let run = place.agent.start_run(&request, Some("story")).await.unwrap();
    let run = reaches(&place.agent, &run.run_id, RunState::WaitingApproval).await;
    let other = workflow(&[place.call("other", "GET", "/other")]);
    place.agent.start_run(&other, None).await.unwrap();
    approve_step(&approver, &run, "held").await;
    reaches(&place.agent, &run.run_id, RunState::Succeeded).await.run_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_told_whole_and_as_its_receipts_have_it() {
    let place = Place::new("prices: {core.http_call: 5}").await;
    let agent = place.server.paying_agent("till", 1_000_000).await;
    let place = Place { agent, ..place };
    let id = story(&place).await;
    let bundle = exported(&place.server, &id, &[]);
    assert_eq!(codes(&bundle), [""; 0]);
    let told = told(&bundle);
    assert_eq!((&told["run"]["id"], &told["run"]["status"]), (&json!(id), &json!("succeeded")));
    let steps: Vec<&str> =
        told["steps"].as_array().unwrap().iter().map(|s| s["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["read", "again", "held"]);
    let actions = told["actions"].as_array().unwrap();
    assert!(actions.iter().all(|action| action["tool"] == "core.http_call"));
    let of = |step: &str| actions.iter().filter(|a| a["step"] == step).collect::<Vec<_>>();
    assert_eq!((of("read").len(), of("held").len()), (1, 1));
    // Twice 503, then 200: however the attempts are made, each is told.
    let attempts: usize =
        of("again").iter().map(|action| action["attempts"].as_array().unwrap().len()).sum();
    assert_eq!(attempts, 3);
    for action in actions {
        let decision = &action["decisions"][0];
        assert_eq!(decision["rules"], json!(["R-ALL"]));
        assert!(decision["input_digest"].as_str().is_some_and(|digest| digest.len() == 64));
    }
    let [approval] = told["approvals"].as_array().unwrap().as_slice() else { panic!("{told}") };
    assert_eq!(approval["action"], of("held")[0]["action"]);
    assert_eq!(approval["votes"][0]["verdict"], "approve");
    let keys = told["idempotency_keys"].as_array().unwrap();
    assert!(keys.iter().any(|key| key["target"] == json!(id)), "{keys:?}");
    // Nothing of what it was about is told.
    assert!(!bundle.files[RUN].windows(7).any(|text| text == b"/unavai"));
    // The other run's receipts are not here.
    let cost: Value = serde_json::from_slice(&bundle.files[COST]).unwrap();
    assert_eq!(cost["spent_micro_usd"], told["total"]["cost_micro_usd"]);
    let run = crate::runs::read(&place.agent, &id).await;
    assert_eq!(json!(run.cost_micro_usd), told["total"]["cost_micro_usd"]);
    let listed: Vec<u64> = serde_json::from_value(told["receipts"].clone()).unwrap();
    let others: Vec<u64> = bundle.indices().into_iter().filter(|i| !listed.contains(i)).collect();
    assert!(others.is_empty(), "{others:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_the_same_each_time_and_every_change_is_seen() {
    let place = Place::new("").await;
    let id = story(&place).await;
    let (one, other) = (exported(&place.server, &id, &[]), exported(&place.server, &id, &[]));
    let differing = |a: &Bundle, b: &Bundle| -> Vec<String> {
        assert!(a.files.keys().eq(b.files.keys()));
        let pairs = a.files.iter().zip(&b.files);
        pairs.filter(|((_, a), (_, b))| a != b).map(|((path, _), _)| path.clone()).collect()
    };
    // An ECDSA signature is never the same; what is signed is.
    assert_eq!(differing(&one, &other), ["manifest.dsse.json"]);
    assert_eq!(one.payload(), other.payload());
    place.agent.start_run(&workflow(&[place.call("a", "GET", "/a")]), None).await.unwrap();
    let later = exported(&place.server, &id, &[]);
    for path in one.files.keys().filter(|path| later.files.contains_key(*path)) {
        let grows = ["log/", "proofs/", "control/log/", "control/proofs/"]
            .iter()
            .any(|prefix| path.starts_with(prefix));
        let grows = grows || ["SHA256SUMS", "manifest.dsse.json"].contains(&path.as_str());
        assert!(grows || one.files[path] == later.files[path], "{path}");
    }
    assert_eq!(one.manifest().predicate.content, later.manifest().predicate.content);
    assert_every_change_is_seen(&one);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_seen_even_where_the_operator_signs() {
    let place = Place::new("").await;
    let id = story(&place).await;
    let keys = FileKeys::open(&place.server.data.join("keys")).unwrap();
    let signer = keys.p256("main", Purpose::Receipt).unwrap();
    let whole = exported(&place.server, &id, &[]);
    let indices = whole.indices();
    // All but the last: a run that had not ended then looks like this, and says so.
    for index in &indices[..indices.len() - 1] {
        let mut bundle = whole.clone();
        bundle.leave_out(*index);
        bundle.sign_selection(signer.as_ref());
        let codes = codes(&bundle);
        let seen = codes.iter().any(|code| code.starts_with("bundle_run"));
        assert!(seen, "without {index}: {codes:?}");
    }
    for (from, to) in [
        ("\"status\":\"succeeded\"", "\"status\":\"canceled\""),
        ("\"rules\":[\"R-ALL\"]", "\"rules\":[\"R-OTHER\"]"),
        ("\"verdict\":\"approve\"", "\"verdict\":\"reject\""),
        ("\"writes\":", "\"writes\":1"),
    ] {
        let mut bundle = whole.clone();
        let text = String::from_utf8(bundle.files[RUN].clone()).unwrap();
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        bundle.files.insert(RUN.to_owned(), changed.into());
        bundle.sign_selection(signer.as_ref());
        assert_eq!(codes(&bundle), ["bundle_run_differs"], "{from}");
    }
    // Where all of the log is there, the end cannot be left out either.
    let mut full = exported(&place.server, &id, &["--full-log"]);
    assert_eq!(codes(&full), [""; 0]);
    full.leave_out(*indices.last().unwrap());
    full.retell();
    full.sign_selection(signer.as_ref());
    assert_eq!(codes(&full), ["bundle_run_omitted"]);
    let file = place.server.data.with_extension("short.tar");
    fs::write(&file, full.tar()).unwrap();
    let verified = tally(&["verify", file.to_str().unwrap(), "--json"]);
    assert_code(&verified, 6);
    assert_eq!(answer(&verified)["codes"], json!(["bundle_run_omitted"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_actions_of_code_in_a_run_are_told_too() {
    use base64::Engine as _;
    let place = Place::new("").await;
    let jq = call("core.json_transform", &json!({"input": {"a": 7}, "filter": ".a"}));
    let code = base64::engine::general_purpose::STANDARD.encode(caller(&[jq.clone(), jq]));
    let input = json!({"component": code, "limits": {"wall_ms": 50_000}});
    let steps = [json!({"id": "code", "action": "sandbox.execute", "input": input})];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let bundle = exported(&place.server, &run.run_id, &[]);
    assert_eq!(codes(&bundle), [""; 0]);
    let told = told(&bundle);
    let actions = told["actions"].as_array().unwrap();
    let execution = &actions[0]["action"];
    let tools: Vec<_> =
        actions.iter().map(|a| (a["tool"].as_str().unwrap(), &a["execution"])).collect();
    let called = ("core.json_transform", execution);
    assert_eq!(tools, [("sandbox.execute", &Value::Null), called, called]);
    assert_eq!(
        (&told["total"]["actions"], &told["total_of_code"]["actions"]),
        (&json!(1), &json!(2))
    );
}
