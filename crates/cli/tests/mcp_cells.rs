//! Old and new clients in front of old and new servers: the official SDK's client goes through
//! the gateway to the official SDK's server, and all that the one can do reaches the other.

use mcpkit::Revisions;
use mcpkit::everything::Everything;
use mcpkit::peer::{Client, Speaks};
use proto::actions::action::State;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::{LOOK_EVERY, PATIENCE};
use crate::mcp::gateway::{Gateway, over_http};

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_with_an_old_server() {
    cell(Speaks::Old, Revisions::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_client_with_a_new_server() {
    cell(Speaks::Old, Revisions::New).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_with_an_old_server() {
    cell(Speaks::New, Revisions::Old).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_client_with_a_new_server() {
    cell(Speaks::New, Revisions::New).await;
}

async fn cell(speaks: Speaks, revisions: Revisions) {
    let everything = Everything::new(revisions);
    let running = everything.http().await;
    let gateway = Gateway::start(&[over_http("everything", &running)]).await;
    let client = gateway.client(speaks, "add").await;
    plain(&client).await;
    asked_back(&client).await;
    progress(&client).await;
    watched(&client, &everything).await;
    cancelled(&client, &everything, &gateway).await;
    let executed = gateway.actions(State::Executed).await;
    let tools: Vec<&str> = executed.iter().map(|action| action.tool.as_str()).collect();
    for tool in ["add", "resources/read", "prompts/get", "completion/complete", "write_note"] {
        let tool = format!("mcp.everything.{tool}");
        assert!(tools.contains(&tool.as_str()), "{tool} left no action: {tools:?}");
    }
    drop(client);
    gateway.verify();
}

/// What needs no answer of the client.
async fn plain(client: &Client) {
    let sum = client.call("add", json!({"a": 1, "b": 2})).await.unwrap();
    assert_eq!(sum["structuredContent"]["sum"].as_f64(), Some(3.0));
    let note = &sum["_meta"]["dev.tally/action"];
    assert!(note["action_id"].as_str().unwrap().starts_with("act_"), "{sum}");
    assert!(!note["receipts"].as_array().unwrap().is_empty(), "{sum}");

    let failed = client.call("test_error_handling", json!({})).await.unwrap();
    assert_eq!(failed["isError"], true, "a tool's own error is its result");
    assert!(client.call("no_such_tool", json!({})).await.is_err());

    assert!(client.resources().await.unwrap().contains(&"test://static-text".to_owned()));
    let text = client.read("test://static-text").await.unwrap();
    assert!(text["contents"][0]["text"].as_str().unwrap().starts_with("This is the content"));
    let data = client.read("test://template/7/data").await.unwrap();
    assert!(data["contents"][0]["text"].as_str().unwrap().contains("Data of 7"));
    assert!(client.read("test://absent").await.is_err());

    let prompt = "test_prompt_with_arguments";
    assert!(client.prompts().await.unwrap().contains(&prompt.to_owned()));
    let filled = client.prompt(prompt, json!({"arg1": "one", "arg2": "two"})).await.unwrap();
    let text = filled["messages"][0]["content"]["text"].as_str().unwrap();
    assert_eq!(text, "Prompt with arguments: arg1='one', arg2='two'");
    let values = client.complete(prompt, "arg1", "par").await.unwrap();
    assert_eq!(values, ["paris", "park", "party"]);
}

/// What the server asks of the client while it is called.
async fn asked_back(client: &Client) {
    let ask = async |what: &str| {
        let tool = format!("test_input_required_result_{what}");
        let answer = client.call(&tool, json!({})).await.unwrap();
        answer["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    };
    assert_eq!(ask("elicitation").await, "Hello, Ada!");
    assert_eq!(ask("sampling").await, "LLM response: a model's answer");
    assert!(ask("list_roots").await.contains("file:///a/root"));
    assert_eq!(ask("request_state").await, "state-ok");
    assert_eq!(ask("multiple_inputs").await, "All inputs received");
    assert_eq!(ask("multi_round").await, "Multi-round flow complete");
    // One name, one confirmation, a name among others, and two rounds.
    assert_eq!(client.heard.of("elicitation/create").len(), 5);
    assert_eq!(client.heard.of("sampling/createMessage").len(), 2);
    assert_eq!(client.heard.of("roots/list").len(), 2);
    let prompt = client.prompt("test_input_required_result_prompt", json!({})).await.unwrap();
    assert_eq!(prompt["messages"][0]["content"]["text"], "Prompt with context: something");
}

async fn progress(client: &Client) {
    client.call("test_tool_with_progress", json!({})).await.unwrap();
    let heard = client.heard.of("notifications/progress");
    let done: Vec<f64> = heard.iter().map(|one| one["progress"].as_f64().unwrap()).collect();
    assert_eq!(done, [0.0, 50.0, 100.0]);
    let tokens: Vec<&Value> = heard.iter().map(|one| &one["progressToken"]).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "{tokens:?}");
}

async fn watched(client: &Client, everything: &Everything) {
    const UPDATED: &str = "notifications/resources/updated";
    client.watch("test://watched-resource").await.unwrap();
    client.call("write_note", json!({"text": "a note"})).await.unwrap();
    until("the change is heard of", || !client.heard.of(UPDATED).is_empty()).await;
    assert_eq!(everything.notes(), ["a note"]);
    assert_eq!(client.heard.of(UPDATED)[0]["uri"], "test://watched-resource");
}

async fn cancelled(client: &Client, everything: &Everything, gateway: &Gateway) {
    let before = client.heard.of("notifications/progress").len();
    let pending = client.begin("wait", json!({"ms": 600_000})).await.unwrap();
    let running = || client.heard.of("notifications/progress").len() > before;
    until("the call runs", running).await;
    pending.cancel().await.unwrap();
    until("the server hears of it", || everything.cancelled() == 1).await;
    let until = Instant::now() + PATIENCE;
    loop {
        // It was sent: whether it had an effect, nobody knows.
        let unknown = gateway.actions(State::Unknown).await;
        if unknown.iter().any(|action| action.tool == "mcp.everything.wait") {
            break;
        }
        assert!(Instant::now() < until, "the action never ends as unknown");
        sleep(LOOK_EVERY).await;
    }
    // The connection goes on.
    client.call("add", json!({"a": 1, "b": 1})).await.unwrap();
}

/// Waits until `holds`.
async fn until(what: &str, holds: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < until, "never: {what}");
        sleep(LOOK_EVERY).await;
    }
}
