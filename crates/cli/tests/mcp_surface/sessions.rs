//! Sessions of the legacy revisions: whose they are, how they end.

use mcpkit::Revisions;
use serde_json::json;

use super::Place;
use super::client::{message, until};

#[tokio::test(flavor = "multi_thread")]
async fn both_revisions_list_and_call_what_is_governed() {
    for revisions in [Revisions::Old, Revisions::New, Revisions::Both] {
        let place = Place::new(revisions).await;
        for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
            assert!(client.tools().await.contains(&"echo".to_owned()));
            let result = client.call("add", json!({"a": 1, "b": 2})).await;
            assert_eq!(result["structuredContent"]["sum"], 3.0, "{revisions:?} {result}");
            let id = result["_meta"]["dev.tally/action"]["action_id"].as_str().unwrap().to_owned();
            let ids: Vec<String> =
                place.actions().await.into_iter().map(|action| action.action_id).collect();
            assert_eq!(ids.first(), Some(&id), "the call is an action");
            let read = json!({"uri": "test://static-text"});
            let read = client.answer("resources/read", read).await;
            assert!(read["result"]["contents"][0]["text"].is_string(), "{read}");
            let prompt = client.answer("prompts/get", json!({"name": "test_simple_prompt"})).await;
            assert!(prompt["result"]["messages"].is_array(), "{prompt}");
            let completion = json!({
                "ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"},
                "argument": {"name": "arg1", "value": "p"},
            });
            let completed = client.answer("completion/complete", completion).await;
            assert!(completed["result"]["completion"]["values"].is_array(), "{completed}");
        }
        let tools: Vec<String> =
            place.actions().await.into_iter().map(|action| action.tool).collect();
        for tool in ["add", "resources/read", "prompts/get", "completion/complete"] {
            let id = format!("mcp.kit.{tool}");
            assert_eq!(tools.iter().filter(|tool| **tool == id).count(), 2, "{tools:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_its_principals_alone_and_ends() {
    let place = Place::new(Revisions::Both).await;
    let client = place.legacy(json!({})).await;
    let ping = message(3, "ping", &json!({}));
    let pong = client.post().json(&ping).send().await;
    assert_eq!(pong.json(), json!({"jsonrpc": "2.0", "id": 3, "result": {}}));
    let other = client.with_key(&place.agent_key().await);
    for (who, ask) in [
        ("another's", other.post().json(&ping)),
        ("another's stream", other.ask("GET")),
        ("another's end", other.ask("DELETE")),
        ("none", place.modern(json!({})).await.post().json(&ping).header("mcp-session-id", "x")),
    ] {
        assert_eq!(ask.send().await.status, 404, "{who}");
    }
    let none = place.modern(json!({})).await.post().json(&ping).send().await;
    assert_eq!(none.status, 400, "{}", none.text());
    let again = client.initialize().send().await;
    assert_eq!(again.status, 400, "a session is begun once");
    assert_eq!(client.ask("DELETE").send().await.status, 204);
    assert_eq!(client.post().json(&ping).send().await.status, 404);
    assert_eq!(client.ask("DELETE").send().await.status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_too_many_ends_the_session_that_rested_longest() {
    let place = Place::new(Revisions::Both).await;
    let first = place.legacy(json!({})).await;
    let ping = message(3, "ping", &json!({}));
    for _ in 0..64 {
        let reply = super::client::Mcp::modern(&place.server.url, &first.key, json!({}));
        assert_eq!(reply.initialize().send().await.status, 200);
    }
    assert_eq!(first.post().json(&ping).send().await.status, 404);
    let other = place.legacy(json!({})).await;
    assert_eq!(other.post().json(&ping).send().await.status, 200, "another's is not counted");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_revoked_hears_nothing_more() {
    let place = Place::new(Revisions::Both).await;
    let client = place.legacy(json!({})).await;
    let modern = super::client::Mcp::modern(&place.server.url, &client.key, json!({}));
    let mut standalone = client.listen(None).await;
    assert_eq!(standalone.status, 200);
    let listen = json!({"notifications": {"toolsListChanged": true}});
    let mut listening = modern.open(4, "subscriptions/listen", listen).await;
    assert_eq!(listening.message().await["method"], "notifications/subscriptions/acknowledged");
    let mut call = client
        .open(
            5,
            "tools/call",
            json!({
                "name": "wait", "arguments": {"ms": 120_000}, "_meta": {"progressToken": "p"},
            }),
        )
        .await;
    assert_eq!(call.message().await["method"], "notifications/progress");
    let key_id = client.key.split('_').nth(1).unwrap().to_owned();
    let path = format!("/v1/keys/key_{key_id}/revoke");
    let owner = place.server.owner_key();
    let wire = crate::common::wire::Wire::new(&place.server.url);
    wire.ask_as(&owner, "POST", &path).send().await.good();
    standalone.ends().await;
    until_it_ends(&mut listening).await;
    until_it_ends(&mut call).await;
    until("the key opens nothing", async || client.ask("GET").send().await.status == 401).await;
}

/// Reads to the end, which must come.
async fn until_it_ends(stream: &mut super::client::Stream) {
    while stream.event().await.is_some() {}
}
