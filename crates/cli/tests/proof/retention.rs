//! What is left of a run that keeps metadata alone: nothing in words, wherever one looks.

use std::collections::BTreeMap;

use client::Client;
use proto::actions::GetActionRequest;
use proto::identity::principal::Kind;
use proto::runs::{
    DiffRunsRequest, GetRunRequest, ReplayRunRequest, Run, RunState, StartRunRequest,
};
use proto::types::Json;
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::bundle::exported;
use crate::common::leaks::Needles;
use crate::common::{LOOK_EVERY, PATIENCE, Server, refusal};
use crate::runs::{Place, approve_step, reaches, transform, with};

const INCIDENT: &str = "Printer on fire \"3rd floor\" — Ümit says: call 555-0199";
const ANSWER: &str = "facilities-and-fire-brigade";

/// A document whose runs keep what it says.
fn document(retention: Option<&str>, steps: &[Value]) -> StartRunRequest {
    let mut spec = json!({"riskTier": "low", "steps": steps});
    if let Some(retention) = retention {
        spec["contentRetention"] = json!(retention);
    }
    let document = json!({
        "apiVersion": "tally/v1",
        "kind": "Workflow",
        "metadata": {"name": "triage", "version": "1.0.0"},
        "spec": spec,
    });
    StartRunRequest {
        workflow: document.to_string(),
        input: Some(Json::of(&json!({"text": INCIDENT})).unwrap()),
        wait_ms: Some(60_000),
        ..StartRunRequest::default()
    }
}

fn triage(place: &Place) -> [Value; 3] {
    let text = json!({"text": "{{input.text}}", "to": ANSWER});
    [
        transform("read", text, "."),
        with(transform("propose", json!("{{previous_output}}"), ".output[0]"), json!({})),
        with(place.call("write", "PUT", "/write"), json!({"approval": {"quorum": 1}})),
    ]
}

/// The parts of contents that are kept of a run, its actions and their approvals.
fn kept(server: &Server, run: &Run) -> Vec<(String, String)> {
    let runtime = Connection::open(server.data.join("runtime.sqlite")).unwrap();
    let mut rows = runtime.prepare("SELECT id, part FROM content WHERE tenant = 'main'").unwrap();
    let rows = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>().unwrap();
    let of_run = |id: &str| {
        id == run.run_id
            || run.steps.iter().any(|step| step.action_id == id)
            || id.starts_with("apr_")
    };
    rows.into_iter().filter(|(id, _)| of_run(id)).collect()
}

async fn empties(server: &Server, run: &Run) {
    let until = Instant::now() + PATIENCE;
    loop {
        let kept = kept(server, run);
        if kept.is_empty() {
            return;
        }
        assert!(Instant::now() < until, "{kept:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// A run to its end, with a person's reason.
async fn ended(place: &Place, request: &StartRunRequest, approver: &Client) -> Run {
    let request = StartRunRequest { wait_ms: None, ..request.clone() };
    let run = place.agent.start_run(&request, None).await.unwrap();
    let run = reaches(&place.agent, &run.run_id, RunState::WaitingApproval).await;
    approve_step(approver, &run, "write").await;
    reaches(&place.agent, &run.run_id, RunState::Succeeded).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_in_words_is_left_of_a_run_that_keeps_metadata_alone() {
    let mut place = Place::new("").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let request = document(Some("metadata_only"), &triage(&place));
    let run = ended(&place, &request, &approver).await;
    empties(&place.server, &run).await;
    // What needs content says that there is none, and what does not goes on.
    let get = GetRunRequest { run_id: run.run_id.clone(), ..GetRunRequest::default() };
    let bare = place.agent.get_run(&get).await.unwrap();
    assert_eq!(
        (bare.state(), bare.output, bare.input_digest.as_str()),
        (RunState::Succeeded, None, "")
    );
    assert_eq!(bare.steps.len(), 3);
    assert!(bare.steps.iter().all(|step| step.output.is_none() && step.params.is_none()));
    let read = GetActionRequest { action_id: run.steps[0].action_id.clone() };
    let action = place.agent.get_action(&read).await.unwrap();
    assert_eq!((action.result, action.error.unwrap().code.as_str()), (None, "content_dropped"));
    for mode in ["mock_replay", "dry_run", "full_replay"] {
        let request = ReplayRunRequest {
            run_id: run.run_id.clone(),
            mode: mode.to_owned(),
            ..ReplayRunRequest::default()
        };
        let refused = refusal(place.server.owner.replay_run(&request, None).await);
        assert_eq!(refused, (404, "content_dropped".to_owned()), "{mode}");
    }
    let diff = DiffRunsRequest { run_id: run.run_id.clone(), other_id: run.run_id.clone() };
    let refused = refusal(place.server.owner.diff_runs(&diff).await);
    assert_eq!(refused, (404, "content_dropped".to_owned()));
    let bundle = exported(&place.server, &run.run_id, &[]);
    let told: Value = serde_json::from_slice(&bundle.files["run.json"]).unwrap();
    assert_eq!(told["run"]["content_dropped"], true);
    let tar = bundle.tar();
    assert!(place.server.terminate().success());
    let needles = Needles::new([INCIDENT, ANSWER, "as a test has it"]);
    needles.assert_absent(&mut place.server, &BTreeMap::from([("the bundle", tar.as_slice())]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_opts_in_is_kept_sealed() {
    let mut place = Place::new("").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    for retention in [Some("keep"), None] {
        let run = ended(&place, &document(retention, &triage(&place)), &approver).await;
        let get = GetRunRequest { run_id: run.run_id.clone(), ..GetRunRequest::default() };
        let whole = place.agent.get_run(&get).await.unwrap();
        assert!(whole.output.is_some() && !whole.input_digest.is_empty(), "{retention:?}");
        let request = ReplayRunRequest {
            run_id: run.run_id.clone(),
            mode: "mock_replay".to_owned(),
            ..ReplayRunRequest::default()
        };
        assert!(place.server.owner.replay_run(&request, None).await.unwrap().matches);
        assert!(!kept(&place.server, &run).is_empty());
    }
    assert!(place.server.terminate().success());
    let needles = Needles::new([INCIDENT, ANSWER, "as a test has it"]);
    needles.assert_absent(&mut place.server, &BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_nothing_behind_and_a_dead_letter_keeps_what_it_needs() {
    let mut place = Place::new("").await;
    let write = with(
        place.call("write", "PUT", "/unavailable/1"),
        json!({"retry": {"attempts": 1, "backoffMs": 10}, "timeoutMs": 50_000}),
    );
    let read = transform("read", json!("{{input.text}}"), ".");
    let request =
        document(Some("metadata_only"), &[read, place.call("put", "POST", "/broken/x"), write]);
    let run = place.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedRetryable, "{run:?}");
    // It may be replayed: all that takes is here.
    assert!(!kept(&place.server, &run).is_empty());
    let discard = proto::runs::DiscardRunRequest { run_id: run.run_id.clone() };
    place.server.owner.discard_run(&discard, None).await.unwrap();
    place.server.kill();
    place.server.restart();
    empties(&place.server, &run).await;
    // Killed as soon as it has ended, again and again: what is left to be done is done.
    for _ in 0..3 {
        let request =
            document(Some("metadata_only"), &[transform("a", json!("{{input.text}}"), ".")]);
        let run = place.agent.start_run(&request, None).await.unwrap();
        place.server.kill();
        place.server.restart();
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        empties(&place.server, &run).await;
    }
    assert!(place.server.terminate().success());
    place.server.offline("verify");
    Needles::new([INCIDENT]).assert_absent(&mut place.server, &BTreeMap::new());
}
