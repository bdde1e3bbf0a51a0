//! What runs would come to, what they came to, and whether they would again.

use proto::metering::GetUsageRequest;
use proto::receipts::ListReceiptsRequest;
use proto::runs::{GetRunDivergenceRequest, ReplayRunRequest, RunState, StartRunRequest};
use proto::types::Json;
use proto::types::decision::Effect;
use serde_json::{Value, json};

use super::{Place, named, reaches, states, transform, value, with, workflow};
use crate::common::{assert_code, rego, text};
use crate::sandbox::agents::{call, caller};

async fn mock(place: &Place, id: &str) -> proto::runs::ReplayRunResponse {
    let request = ReplayRunRequest {
        run_id: id.to_owned(),
        mode: "mock_replay".to_owned(),
        from_step: String::new(),
    };
    place.agent.replay_run(&request, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_call_of_a_step_is_played_again() {
    let place = Place::new("").await;
    // Each call reads what the one before it gave.
    let count = json!({"iterations": 3});
    let steps = [
        transform("first", json!(0), "."),
        with(transform("sum", json!("{{previous_output.output.0}}"), ". + 1"), count),
        with(
            place.call("again", "POST", "/unavailable/x"),
            json!({"retry": {"attempts": 3, "backoffMs": 20}}),
        ),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!((run.steps[1].iteration, run.steps[2].tries), (3, 3));
    let played = mock(&place, &run.run_id).await;
    assert!(played.matches, "{played:?}");
    let key = place.server.owner_key();
    let shown = place.server.tally(&key, &["run", "replay", &run.run_id, "--mode", "mock_replay"]);
    assert_code(&shown, 0);
    assert!(text(&shown).contains("as it was recorded"), "{}", text(&shown));
    // One that failed, was replayed from an earlier step, and failed again.
    let steps = [
        with(transform("twice", json!(1), "."), json!({"iterations": 2})),
        with(place.call("fails", "POST", "/broken/x"), json!({"retry": {"attempts": 1}})),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedRetryable, "{run:?}");
    let request = ReplayRunRequest {
        run_id: run.run_id.clone(),
        mode: "resume".to_owned(),
        from_step: "twice".to_owned(),
    };
    place.agent.replay_run(&request, None).await.unwrap();
    let again = super::until(&place.agent, &run.run_id, "its second end", |run| {
        run.replays == 1 && run.state() == RunState::FailedRetryable
    });
    again.await;
    let played = mock(&place, &run.run_id).await;
    assert!(played.matches, "{played:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_decides_and_does_nothing() {
    let place = Place::new("prices: {core.http_call: 30000}").await;
    let source = rego(
        r#"decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
        decisions contains {"effect": "DENY", "rule": "R-PUT", "reason": "no_puts"} if {
            input.params.method == "PUT"
            input.phase == "submit"
        }"#,
    );
    place.server.publish(&source).await;
    let agent = place.server.paying_agent("purse", 50_000).await;
    let get = json!({"id": "get", "action": "core.http_call",
        "input": {"method": "{{input.method}}", "url": place.url("/get")}});
    let later = json!({"id": "later", "action": "core.http_call",
        "input": {"method": "GET", "url": "{{steps.get.output.body}}"}});
    let ask = |method: &str, budget: Option<i64>| StartRunRequest {
        input: Some(Json::of(&json!({"method": method})).unwrap()),
        dry_run: true,
        budget_micro_usd: budget,
        ..workflow(&[get.clone(), later.clone()])
    };
    let receipts = || async {
        let request = ListReceiptsRequest { page_size: 200, ..Default::default() };
        place.server.owner.list_receipts(&request).await.unwrap().receipts.len()
    };
    let before = receipts().await;
    let run = agent.start_run(&ask("GET", Some(60_000)), None).await.unwrap();
    let foreseen = run.simulation.as_ref().unwrap();
    assert_eq!((run.run_id.as_str(), run.name.as_str()), ("", "story"));
    assert_eq!(states(&run), ["ready", "ready"]);
    assert_eq!(foreseen.status, "feasible", "{foreseen:?}");
    let effects: Vec<Effect> = foreseen.steps.iter().map(|step| step.effect()).collect();
    assert_eq!(effects, [Effect::Allow, Effect::Allow]);
    // The first is decided as it would be asked for; of the second too little is known.
    assert_eq!(value(&run.steps[0].params)["method"], "GET");
    assert!(run.steps[1].params.is_none(), "{run:?}");
    let denied = agent.start_run(&ask("PUT", None), None).await.unwrap().simulation.unwrap();
    assert_eq!(denied.steps[0].effect(), Effect::Deny, "{denied:?}");
    // The account has less than the plan costs.
    let poor = agent.start_run(&ask("GET", None), None).await.unwrap().simulation.unwrap();
    assert_eq!((poor.status.as_str(), poor.feasible), ("budget_insufficient", false));
    assert_eq!((receipts().await, place.calls().len()), (before, 0));
    let file = place.file("plan.json");
    std::fs::write(&file, ask("GET", None).workflow).unwrap();
    let shown =
        place.server.tally(&place.server.owner_key(), &["run", "start", &file, "--dry-run"]);
    assert!(text(&shown).contains("status"), "{}", text(&shown));
    assert_eq!(receipts().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_says_how_far_its_estimates_were_off() {
    let place = Place::new("prices: {core.http_call: 3}").await;
    let agent = place.server.paying_agent("purse", 100).await;
    let steps = [
        with(place.call("twice", "PUT", "/x"), json!({"iterations": 2})),
        transform("free", json!(1), "."),
    ];
    let run = agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let request = GetRunDivergenceRequest { run_id: run.run_id.clone() };
    let report = agent.get_run_divergence(&request).await.unwrap();
    let attempts: Vec<usize> = report.steps.iter().map(|step| step.attempts.len()).collect();
    assert_eq!((attempts, report.forgotten), (vec![2, 1], 0), "{report:?}");
    assert_eq!((report.estimated_cost_micro_usd, report.cost_micro_usd), (6, 6));
    assert_eq!(report.cost_verdict, "MATCH");
    assert!(!report.latency_verdict.is_empty() && report.estimated_latency_ms > 0, "{report:?}");
    let key = place.server.owner_key();
    let shown = place.server.tally(&key, &["run", "divergence", &run.run_id]);
    assert_code(&shown, 0);
    assert!(text(&shown).contains("MATCH"), "{}", text(&shown));
}

/// A step that runs code which calls the target so often.
fn code(place: &Place, id: &str, calls: &[&str]) -> Value {
    use base64::Engine as _;
    let call =
        |path: &&str| call("core.http_call", &json!({"method": "PUT", "url": place.url(path)}));
    let component = caller(&calls.iter().map(call).collect::<Vec<_>>());
    let component = base64::engine::general_purpose::STANDARD.encode(component);
    let input = json!({"component": component, "limits": {"wall_ms": 50_000}});
    json!({"id": id, "action": "sandbox.execute", "input": input})
}

#[tokio::test(flavor = "multi_thread")]
async fn code_in_a_step_spends_and_writes_for_its_run() {
    let place = Place::new("prices: {core.http_call: 3}").await;
    let agent = place.server.paying_agent("purse", 1_000).await;
    let steps = [code(&place, "code", &["/1", "/2"]), place.call("last", "PUT", "/3")];
    let request = StartRunRequest { budget_micro_usd: Some(100), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!(place.calls(), [("/1", 1), ("/2", 1), ("/3", 1)].map(named).into());
    // The code itself costs nothing; what it calls does.
    assert_eq!((run.cost_micro_usd, run.writes), (9, 3), "{run:?}");
    let usage = GetUsageRequest { run_id: run.run_id.clone(), ..Default::default() };
    let usage = place.server.owner.get_usage(&usage).await.unwrap();
    let cost: i64 = usage.rows.iter().map(|row| row.cost_micro_usd).sum();
    assert_eq!(cost, 9, "{usage:?}");
    // Only so many calls may write, whoever makes them.
    let steps = [code(&place, "code", &["/4", "/5"]), place.call("last", "PUT", "/6")];
    let request = StartRunRequest { max_writes: Some(1), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    let calls = place.calls();
    assert!(calls.contains_key("/4") && !calls.contains_key("/5") && !calls.contains_key("/6"));
    // Nor may it spend more than the run has.
    let steps = [code(&place, "code", &["/7", "/8"])];
    let request = StartRunRequest { budget_micro_usd: Some(5), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    let run = reaches(&agent, &run.run_id, RunState::FailedTerminal).await;
    assert_eq!((run.cost_micro_usd, place.calls().get("/8")), (3, None), "{run:?}");
}
