//! The flagship, end to end over HTTP: an incident comes in, a model proposes, people decide on
//! Slack, and what was approved is written once. The systems are simulated (`tally dev`).

mod injected;
mod install;
mod kill;
pub(crate) mod scene;

use std::collections::BTreeMap;

use proto::actions::action::State;
use proto::evidence::ExportEvidenceRequest;
use proto::policies::GetPolicyStatusRequest;
use proto::runs::{Run, RunState};
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

use self::scene::{ADA, APPROVE, BOB, NETWORK, REJECT, SECRETS, Scene, Setup, proposal, secret};
use crate::common::leaks::Needles;
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, PATIENCE};

fn states(run: &Run) -> Vec<&str> {
    run.steps.iter().map(|step| step.state.as_str()).collect()
}

fn written() -> [String; 4] {
    [
        format!("assignment_group:  -> {NETWORK}"),
        "category: inquiry -> network".to_owned(),
        "priority: 4 -> 3".to_owned(),
        "work_notes".to_owned(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approved_incident_is_written_once() {
    let scene = Scene::new(Setup::default()).await;
    let sys_id = scene.report("It is slow.").await;
    let run = scene.runs(1).await.remove(0);
    let run = scene.reaches(&run.run_id, RunState::WaitingApproval).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "waiting_approval", "ready"]);
    assert!(scene.changes(None).await.is_empty());
    let cards = scene.cards(&run, "update").await;
    let [card] = &cards[..] else { panic!("{cards:?}") };
    let shown = card["blocks"].to_string();
    for text in ["priority: 4 → 3", "category: inquiry → network", "group Network", "medium"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    scene.press(ADA, card, APPROVE).await;
    let run = scene.reaches(&run.run_id, RunState::Succeeded).await;
    assert_eq!(scene.changes(None).await, written());
    assert!(run.cost_micro_usd > 0, "{run:?}");
    let note = scene.action(&run, "note").await;
    assert_eq!(note.decision.unwrap().rules, ["R-ITSM-NOTE"]);
    let edited = |state: &serde_json::Value| {
        state["messages"].as_array().unwrap().iter().any(|message| message["edits"] != 0)
    };
    scene.slack.until("the card that says so", edited).await;
    // The same event again starts nothing.
    scene.servicenow.tell("announce", &json!({"sys_id": sys_id})).await;
    let twice = |state: &serde_json::Value| state["deliveries"].as_array().unwrap().len() == 2;
    scene.servicenow.until("the second delivery", twice).await;
    assert_eq!(scene.runs(1).await[0].run_id, run.run_id);
    assert_eq!(scene.changes(Some(&sys_id)).await, written());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_incident_is_not_written() {
    let scene = Scene::new(Setup::default()).await;
    scene.report("It is slow.").await;
    let run = scene.runs(1).await.remove(0);
    let run = scene.reaches(&run.run_id, RunState::WaitingApproval).await;
    let card = scene.cards(&run, "update").await.remove(0);
    scene.press(BOB, &card, REJECT).await;
    let run = scene.reaches(&run.run_id, RunState::FailedTerminal).await;
    assert_eq!(states(&run), ["succeeded", "succeeded", "failed_terminal", "canceled"]);
    assert_eq!(scene.action(&run, "update").await.state(), State::Denied);
    assert!(scene.changes(None).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_answers_junk_three_times_writes_nothing() {
    let rules = vec![json!({"times": 3, "junk": true})];
    let scene = Scene::new(Setup { rules, ..Setup::default() }).await;
    scene.report("It is slow.").await;
    let run = scene.runs(1).await.remove(0);
    let run = scene.reaches(&run.run_id, RunState::FailedTerminal).await;
    assert_eq!(run.error.as_ref().unwrap().code, "model_output_invalid");
    assert_eq!(states(&run), ["succeeded", "failed_terminal", "canceled", "canceled"]);
    assert!(scene.changes(None).await.is_empty());
    assert_eq!(scene.slack.state().await["messages"], json!([]));
    assert!(run.cost_micro_usd > 0, "what it cost is paid");
}

/// Denials so far, of whatever was asked.
async fn denied(scene: &Scene) -> u64 {
    let text = Wire::new(&scene.server.url).ask("GET", "/metrics").send().await.text();
    let name = "tally_decisions_total{effect=\"deny\"} ";
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.map_or(0, |count| count.parse().unwrap())
}

/// Who publishes again and again keeps policy fresh.
async fn keeps_fresh(scene: &Scene) {
    loop {
        scene.publish().await;
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_grows_stale_holds_a_run_up_and_no_more() {
    let rules = vec![json!({"delay_ms": 8_000, "json": proposal("3")})];
    let policy = "{ttl_s: 3, confirm_every_s: 3600, decision_limit_ms: 5000}";
    let scene = Scene::new(Setup { rules, policy, ..Setup::default() }).await;
    scene.report("It is slow.").await;
    let run = scene.runs(1).await.remove(0);
    let end = Instant::now() + PATIENCE;
    // Fresh until the model is asked, and not for long after that.
    while states(&scene.run(&run.run_id).await)[1] == "ready" {
        assert!(Instant::now() < end, "the model is never asked");
        scene.publish().await;
    }
    while scene.owner().get_policy_status(&GetPolicyStatusRequest {}).await.unwrap().fresh {
        assert!(Instant::now() < end, "it never becomes stale");
        sleep(LOOK_EVERY).await;
    }
    let proposed = |run: &Run| states(run)[1] == "succeeded";
    scene.until(&run.run_id, "the proposal", proposed).await;
    // Policy is asked again and again, and denies: the step stays where it is, and nothing leaves.
    let (since, before) = (Instant::now(), denied(&scene).await);
    let end = since + PATIENCE;
    while denied(&scene).await < before + 3 || since.elapsed() < Duration::from_secs(2) {
        assert!(Instant::now() < end, "nobody looks whether it is fresh again");
        let run = scene.run(&run.run_id).await;
        assert_eq!(states(&run), ["succeeded", "succeeded", "ready", "ready"], "{run:?}");
        assert_eq!(run.state(), RunState::Running);
        sleep(LOOK_EVERY).await;
    }
    assert!(scene.changes(None).await.is_empty());
    assert_eq!(scene.slack.state().await["messages"], json!([]), "nobody is asked either");
    // It goes on by itself, in the same server.
    let goes_on = async {
        let run = scene.reaches(&run.run_id, RunState::WaitingApproval).await;
        let card = scene.cards(&run, "update").await.remove(0);
        scene.press(ADA, &card, APPROVE).await;
        scene.reaches(&run.run_id, RunState::Succeeded).await;
    };
    tokio::select! {
        () = keeps_fresh(&scene) => {}
        () = goes_on => {}
    }
    assert_eq!(scene.changes(None).await, written());
}

/// What incidents say here, which is nowhere by chance.
const TEXT: &str = "The quarterly payroll export of Anna Berger fails with code 0x8004";
/// What any of them says.
pub(crate) const TEXTS: [&str; 4] = [TEXT, injected::CLOSE, injected::LEAK, injected::RAISE];

/// All that the API says of a run whose content is gone, answers that refuse something included.
async fn asked_about(scene: &Scene, run: &Run, other: &str) -> String {
    let (wire, key) = (Wire::new(&scene.server.url), scene.server.owner_key());
    let id = &run.run_id;
    let actions = run.steps.iter().filter(|step| !step.action_id.is_empty());
    let actions = actions.map(|step| format!("/v1/actions/{}", step.action_id));
    let of_run = ["", "/divergence"].map(|what| format!("/v1/runs/{id}{what}"));
    let listed = ["/v1/runs", "/v1/approvals", "/v1/receipts?page_size=200", "/metrics"];
    let mut said = String::new();
    let paths = listed.map(str::to_owned).into_iter().chain(of_run).chain(actions);
    for path in paths.chain([format!("/v1/runs/{id}/diff/{other}")]) {
        said += &wire.ask_as(&key, "GET", &path).send().await.text();
    }
    for mode in ["full_replay", "mock_replay"] {
        let ask = wire.ask_as(&key, "POST", &format!("/v1/runs/{id}/replay"));
        let reply = ask.idempotency(mode).json(&json!({"mode": mode})).send().await;
        assert!(reply.status >= 400, "{mode}: {}", reply.text());
        said += &reply.text();
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_and_no_word_of_an_incident_is_left() {
    let mut leaks = proposal("3");
    leaks["rationale"] = json!(secret("model"));
    let rules = vec![
        json!({"match": "Leak it", "json": leaks}),
        json!({"match": "Confuse it", "times": 1, "junk": true}),
        json!({"match": injected::REPAIR, "times": 2, "junk": true}),
    ];
    let mut scene = Scene::new(Setup { rules, ..Setup::default() }).await;
    let mut told = Vec::new();
    let mut first = String::new();
    for (number, (more, press, state)) in [
        ("", Some((ADA, APPROVE)), RunState::Succeeded),
        ("", Some((BOB, REJECT)), RunState::FailedTerminal),
        ("Leak it", None, RunState::FailedTerminal),
        ("Confuse it", None, RunState::FailedTerminal),
    ]
    .into_iter()
    .enumerate()
    {
        scene.report(&format!("{TEXT}. {more}")).await;
        let run = scene.runs(number + 1).await.remove(number);
        if let Some((user, button)) = press {
            let run = scene.reaches(&run.run_id, RunState::WaitingApproval).await;
            let card = scene.cards(&run, "update").await.remove(0);
            assert!(!card.to_string().contains(TEXT), "a card tells no more than it must");
            scene.press(user, &card, button).await;
        }
        let run = scene.reaches(&run.run_id, state).await;
        let run = scene.forgets(&run.run_id).await;
        let run_id = run.run_id.clone();
        let request = ExportEvidenceRequest { run_id, ..ExportEvidenceRequest::default() };
        told.extend_from_slice(&scene.owner().export_evidence(&request).await.unwrap().data);
        told.extend_from_slice(format!("{run:?}").as_bytes());
        told.extend_from_slice(asked_about(&scene, &run, &first).await.as_bytes());
        first = run.run_id;
    }
    let slack = scene.slack.state().await.to_string();
    assert!(scene.server.terminate().success());
    let secrets = SECRETS.iter().map(|(_, value)| *value);
    let more = BTreeMap::from([
        ("evidence, runs and answers", told.as_slice()),
        ("Slack", slack.as_bytes()),
    ]);
    Needles::new(secrets.chain([TEXT])).assert_absent(&mut scene.server, &more);
}
