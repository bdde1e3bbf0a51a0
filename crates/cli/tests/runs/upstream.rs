//! What the other side does wrong within a run: junk, limits, silence.

use client::Client;
use proto::actions::reconcile_action_request::Outcome;
use proto::runs::{RunState, StartRunRequest};
use serde_json::{Value, json};
use tokio::time::Duration;

use super::doubt::{doubted, establish};
use super::{Place, named, reaches, states, with, workflow};
use crate::models::simulator::Simulator;
use crate::models::{KEY, keep_key, providers};

/// What the simulator and the target ask for by `Retry-After`.
const LATER: Duration = Duration::from_secs(2);

/// A place with a model that answers by `rules`, and an agent that pays for it.
async fn with_model(rules: Value) -> (Place, Client, Simulator) {
    let simulator = Simulator::start(&json!({"key": KEY, "rules": rules}));
    let place = Place::new(&providers(&simulator, &json!({}))).await;
    keep_key(&place.server);
    let agent = place.server.paying_agent("purse", 10_000_000).await;
    (place, agent, simulator)
}

fn ask(id: &str, provider: &str, prompt: &str) -> Value {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 5}}});
    let input = json!({"provider": provider, "model": "sim-small", "prompt": prompt,
        "output_schema": schema});
    json!({"id": id, "action": "llm.invoke", "input": input})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_gives_junk_three_times_ends_the_run_before_it_writes() {
    let (place, agent, simulator) = with_model(json!([{"times": 3, "junk": true}])).await;
    let steps = [
        ask("propose", "openai", "what shall be written"),
        place.call("write", "PUT", "/{{steps.propose.output.json.n}}"),
    ];
    let run = agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.as_ref().unwrap().code, "model_output_invalid");
    assert_eq!(states(&run), ["failed_terminal", "canceled"]);
    assert_eq!((simulator.record().len(), run.writes), (3, 0));
    assert!(place.calls().is_empty(), "something was written: {:?}", place.calls());
    // What the junk cost is paid, and nothing is held any more.
    let purse = place.server.account("purse").await;
    assert!(run.cost_micro_usd > 0, "{run:?}");
    assert_eq!((purse.spent_micro_usd, purse.held_micro_usd), (run.cost_micro_usd, 0));
    // The script has no more junk: the same plan writes.
    let run = agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!(place.calls(), [("/5", 1)].map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_before_they_said() {
    let limited = json!({"match": "limited", "times": 2, "status": 429, "retry_after_s": 2});
    let (place, agent, simulator) = with_model(json!([limited])).await;
    let steps =
        [ask("propose", "anthropic", "limited"), place.call("write", "PUT", "/limited/write")];
    let run = agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let asked = simulator.record();
    assert_eq!(asked.iter().map(|(_, status)| *status).collect::<Vec<_>>(), [429, 429, 200]);
    for pair in asked.windows(2) {
        let waited = Duration::from_millis(pair[1].0 - pair[0].0);
        assert!(waited >= LATER, "it was asked again after {waited:?}");
    }
    let written = place.target.arrivals("/limited/write");
    assert_eq!(written.len(), 2);
    assert!(written[1] - written[0] >= LATER, "it was asked again after too little: {written:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_is_repeated_where_that_does_no_harm() {
    let place = Place::new("").await;
    let within = json!({"timeoutMs": 500});
    let steps = [
        with(place.call("put", "PUT", "/silent/put"), within.clone()),
        place.call("after", "PUT", "/after"),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert_eq!(place.calls(), [("/silent/put", 2), ("/after", 1)].map(named).into());
    let keys: Vec<_> = place.target.seen().into_iter().map(|delivery| delivery.key).collect();
    assert!(keys[0].is_some() && keys[0] == keys[1], "one action, one key: {keys:?}");
    // One that never answers has had its attempts.
    let steps = [
        with(place.call("put", "PUT", "/waits/put"), within),
        place.call("never", "PUT", "/never"),
    ];
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedRetryable, "{run:?}");
    let error = run.error.as_ref().unwrap();
    assert_eq!((error.code.as_str(), error.category().as_str_name()), ("timeout", "TIMEOUT"));
    let rule = kernel::retry::rule(kernel::failure::Category::Timeout);
    assert_eq!(place.calls()["/waits/put"], usize::try_from(rule.attempts).unwrap());
    assert!(!place.calls().contains_key("/never"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_and_may_not_be_repeated_waits_for_people() {
    let place = Place::new("").await;
    let steps = [
        with(place.call("post", "POST", "/silent/post"), json!({"timeoutMs": 500})),
        place.call("after", "PUT", "/after"),
    ];
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    let run = doubted(&place, &id, 0).await;
    assert_eq!(place.calls(), [("/silent/post", 1)].map(named).into());
    establish(&place, &run, 0, Outcome::Executed).await;
    reaches(&place.agent, &id, RunState::Succeeded).await;
    assert_eq!(place.calls(), [("/silent/post", 1), ("/after", 1)].map(named).into());
}
