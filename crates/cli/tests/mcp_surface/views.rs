//! Who sees what, and how they hear of changes.

use mcpkit::Revisions;
use proto::actions::action::State;
use serde_json::json;

use super::Place;
use crate::common::{allow_all, rego};

/// Everything but what is named is allowed; what is named is not even listed.
fn without(tools: &[&str]) -> policy::Source {
    let named: Vec<String> = tools.iter().map(|tool| format!("{tool:?}")).collect();
    rego(&format!(
        r#"hidden := {{{}}}
decisions contains {{"effect": "ALLOW", "rule": "R-ALL", "reason": "all"}} if {{
  not input.tool.id in hidden
}}
decisions contains {{"effect": "DENY", "rule": "R-NO", "reason": "hidden"}} if {{
  input.tool.id in hidden
}}"#,
        named.join(", ")
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_not_there_and_leaves_its_receipt() {
    let hidden = ["mcp.kit.write_note", "mcp.kit.prompts/get"];
    let place = Place::under(Revisions::Both, &without(&hidden), "").await;
    for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
        let tools = client.tools().await;
        assert!(tools.contains(&"echo".to_owned()), "{tools:?}");
        assert!(!tools.contains(&"write_note".to_owned()), "{tools:?}");
        let prompts = client.answer("prompts/list", json!({})).await;
        assert_eq!(prompts["result"]["prompts"], json!([]));
        let known = json!({"name": "write_note", "arguments": {"text": "x"}});
        let denied = client.answer("tools/call", known).await;
        let unknown = json!({"name": "write_nota", "arguments": {"text": "x"}});
        let unknown = client.answer("tools/call", unknown).await;
        let as_unknown = denied.to_string().replace("write_note", "write_nota");
        assert_eq!(as_unknown, unknown.to_string(), "they answer alike");
        for name in ["write_Note", "write_note ", "wrіte_note", "ｗrite_note", "write_note\u{200b}"]
        {
            let params = json!({"name": "echo", "arguments": {"name": name}});
            assert!(client.answer("tools/call", params).await["result"].is_object());
        }
    }
    let denied = place.actions().await;
    let denied: Vec<_> =
        denied.iter().filter(|action| action.tool == "mcp.kit.write_note").collect();
    assert_eq!(denied.len(), 2, "each call of a known tool is on record");
    assert!(denied.iter().all(|action| action.state() == State::Denied));
    assert!(place.kit.notes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_for_its_parameters_says_so() {
    let policy = rego(
        r#"decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
decisions contains {"effect": "DENY", "rule": "R-NO", "reason": "secret"} if {
  input.params.uri == "test://static-binary"
}
decisions contains {"effect": "DENY", "rule": "R-NO", "reason": "secret"} if {
  input.params.text == "secret"
}"#,
    );
    let place = Place::under(Revisions::Both, &policy, "").await;
    for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
        let result = client.call("write_note", json!({"text": "secret"})).await;
        assert_eq!(result["isError"], true, "{result}");
        assert!(result["_meta"]["dev.tally/action"]["action_id"].is_string(), "{result}");
        let listed = client.answer("resources/list", json!({})).await.to_string();
        assert!(listed.contains("test://static-text"), "{listed}");
        assert!(!listed.contains("test://static-binary"), "{listed}");
        let read = json!({"uri": "test://static-binary"});
        let read = client.answer("resources/read", read).await;
        let none = client.answer("resources/read", json!({"uri": "test://static-binarx"})).await;
        let as_none = read["error"].to_string().replace("binary", "binarx");
        assert_eq!(as_none, none["error"].to_string(), "{read}");
    }
    assert!(place.kit.notes().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_something_else_is_told() {
    let place = Place::new(Revisions::Both).await;
    let legacy = place.legacy(json!({})).await;
    assert!(legacy.tools().await.contains(&"write_note".to_owned()));
    let mut standalone = legacy.listen(None).await;
    let modern = place.modern(json!({})).await;
    let wanted = json!({"notifications": {"toolsListChanged": true}});
    let mut listening = modern.open("sub".len() as u64, "subscriptions/listen", wanted).await;
    let first = listening.message().await;
    assert_eq!(first["method"], "notifications/subscriptions/acknowledged");
    assert_eq!(first["params"]["notifications"], json!({"toolsListChanged": true}));
    let only_prompts = json!({"notifications": {"promptsListChanged": true}});
    let mut other = modern.open(9, "subscriptions/listen", only_prompts).await;
    other.message().await;
    place.server.publish(&without(&["mcp.kit.write_note"])).await;
    let told = standalone.message().await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    let told = listening.message().await;
    assert_eq!(told["method"], "notifications/tools/list_changed");
    assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 3);
    assert!(!legacy.tools().await.contains(&"write_note".to_owned()));
    place.server.publish(&allow_all()).await;
    assert_eq!(listening.message().await["method"], "notifications/tools/list_changed");
    // What the upstream itself tells goes on to those who want it.
    modern.call("test_trigger_prompt_change", json!({})).await;
    assert_eq!(other.message().await["method"], "notifications/prompts/list_changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_subscribed_to() {
    for revisions in [Revisions::Old, Revisions::New] {
        let place = Place::new(revisions).await;
        let uri = "test://watched-resource";
        let legacy = place.legacy(json!({})).await;
        let mut standalone = legacy.listen(None).await;
        let done = legacy.answer("resources/subscribe", json!({"uri": uri})).await;
        assert_eq!(done["result"], json!({}), "{revisions:?} {done}");
        let modern = place.modern(json!({})).await;
        let wanted = json!({"notifications": {"resourceSubscriptions": [uri, "test://none"]}});
        let mut listening = modern.open(2, "subscriptions/listen", wanted).await;
        let first = listening.message().await;
        let heeded = &first["params"]["notifications"]["resourceSubscriptions"];
        assert!(heeded.as_array().is_some_and(|uris| uris.contains(&json!(uri))), "{first}");
        modern.call("write_note", json!({"text": "x"})).await;
        let told = standalone.message().await;
        assert_eq!(told["method"], "notifications/resources/updated", "{revisions:?}");
        assert_eq!(told["params"]["uri"], uri);
        let told = listening.message().await;
        assert_eq!(told["params"]["uri"], uri, "{revisions:?}");
        assert_eq!(told["params"]["_meta"]["io.modelcontextprotocol/subscriptionId"], 2);
        let done = legacy.answer("resources/unsubscribe", json!({"uri": uri})).await;
        assert_eq!(done["result"], json!({}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_collide_get_their_servers() {
    let place = Place::new(Revisions::Both).await;
    let second = mcpkit::everything::Everything::new(Revisions::New);
    let running = second.http().await;
    let other = json!({
        "name": "other", "transport": {"type": "http", "url": running.url, "private": true},
    });
    let wire = crate::common::wire::Wire::new(&place.server.url);
    let owner = place.server.owner_key();
    let added = wire.ask_as(&owner, "POST", "/v1/upstreams").json(&json!({"upstream": other}));
    added.send().await.good();
    place.knows("other", "echo").await;
    let client = place.modern(json!({})).await;
    let tools = client.tools().await;
    assert!(tools.contains(&"kit__echo".to_owned()), "{tools:?}");
    assert!(tools.contains(&"other__echo".to_owned()), "{tools:?}");
    assert!(!tools.contains(&"echo".to_owned()), "{tools:?}");
    client.call("other__write_note", json!({"text": "x"})).await;
    assert_eq!((place.kit.notes().len(), second.notes().len()), (0, 1));
    let plain = client.answer("tools/call", json!({"name": "write_note"})).await;
    assert_eq!(plain["error"]["code"], -32602, "{plain}");
}
