//! What goes to a client before, beside and after the answer to a request.

use mcpkit::Revisions;
use proto::actions::action::State;
use serde_json::{Value, json};

use super::client::{Mcp, until};
use super::{Place, forms, text};

fn with_progress(token: &Value) -> Value {
    json!({
        "name": "test_tool_with_progress", "arguments": {}, "_meta": {"progressToken": token},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_comes_with_the_clients_own_token() {
    for revisions in [Revisions::Old, Revisions::New] {
        let place = Place::new(revisions).await;
        for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
            for token in [json!("mine"), json!(7)] {
                let mut stream = client.open(3, "tools/call", with_progress(&token)).await;
                let content_type = stream.headers["content-type"].to_str().unwrap();
                assert_eq!(content_type, "text/event-stream");
                let mut last = -1.0;
                loop {
                    let message = stream.message().await;
                    if message["id"] == 3 {
                        assert!(message["result"]["content"].is_array(), "{message}");
                        break;
                    }
                    assert_eq!(message["method"], "notifications/progress", "{message}");
                    assert_eq!(message["params"]["progressToken"], token);
                    let progress = message["params"]["progress"].as_f64().unwrap();
                    assert!(progress > last, "{message}");
                    last = progress;
                }
                assert!(last >= 0.0, "something was said");
                stream.ends().await;
            }
            let plain = client.send(4, "tools/call", json!({"name": "echo"})).await;
            assert_eq!(plain.header("content-type"), "application/json", "nothing was said");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_broke_is_read_again() {
    let place = Place::new(Revisions::Both).await;
    let client = place.legacy(json!({})).await;
    let mut stream = client.open(3, "tools/call", with_progress(&json!("p"))).await;
    let greeting = stream.event().await.unwrap();
    assert!(greeting.data.is_none() && greeting.id.is_some(), "{greeting:?}");
    let first = stream.event().await.unwrap();
    drop(stream);
    let last = first.id.unwrap();
    let mut rest = client.listen(Some(&last)).await;
    let mut seen = vec![first.data.unwrap()["params"]["progress"].as_f64().unwrap()];
    loop {
        let message = rest.message().await;
        if message["id"] == 3 {
            break;
        }
        seen.push(message["params"]["progress"].as_f64().unwrap());
    }
    rest.ends().await;
    let mut sorted = seen.clone();
    sorted.sort_by(f64::total_cmp);
    sorted.dedup();
    assert_eq!(seen, sorted, "each once, in order");
    // All of it again, from where it began.
    let mut again = client.listen(Some(&greeting.id.unwrap())).await;
    let mut count = 0;
    while again.message().await["id"] != 3 {
        count += 1;
    }
    assert_eq!(count, seen.len());
    let other = client.with_key(&place.agent_key().await);
    assert_eq!(other.listen(Some(&last)).await.status, 404);
    assert_eq!(client.listen(Some("99-1")).await.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn log_messages_are_those_that_the_client_wants() {
    for revisions in [Revisions::Old, Revisions::New] {
        let place = Place::new(revisions).await;
        let modern = place.modern(json!({})).await;
        let logged = async |level: Option<&str>| {
            let mut params = json!({"name": "test_tool_with_logging", "arguments": {}});
            if let Some(level) = level {
                params["_meta"] = json!({"io.modelcontextprotocol/logLevel": level});
            }
            let reply = modern.send(1, "tools/call", params).await;
            reply.text().matches("notifications/message").count()
        };
        assert_eq!(logged(None).await, 0, "{revisions:?}");
        // A legacy server says them beside the call, on the one connection that all share.
        let heard = if revisions == Revisions::New { 3 } else { 0 };
        assert_eq!(logged(Some("info")).await, heard, "{revisions:?}");
        assert_eq!(logged(Some("error")).await, 0, "{revisions:?}");
        let legacy = place.legacy(json!({})).await;
        let set = legacy.answer("logging/setLevel", json!({"level": "emergency"})).await;
        assert_eq!(set["result"], json!({}));
        let params = json!({"name": "test_tool_with_logging", "arguments": {}});
        let reply = legacy.send(1, "tools/call", params).await;
        assert_eq!(reply.text().matches("notifications/message").count(), 0, "{revisions:?}");
        let none = legacy.answer("logging/setLevel", json!({"level": "loud"})).await;
        assert_eq!(none["error"]["code"], -32602);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_client_is_asked_on_the_stream_of_its_call() {
    for revisions in [Revisions::Old, Revisions::New] {
        let place = Place::new(revisions).await;
        let client = place.legacy(forms()).await;
        let tool = match revisions {
            Revisions::Old => "test_elicitation",
            _ => "test_input_required_result_elicitation",
        };
        let params = json!({"name": tool, "arguments": {"message": "who?"}});
        let mut stream = client.open(8, "tools/call", params).await;
        let question = stream.message().await;
        assert_eq!(question["method"], "elicitation/create", "{question}");
        let answer = json!({
            "jsonrpc": "2.0", "id": question["id"],
            "result": {
                "action": "accept",
                "content": {"name": "Ada", "username": "ada", "email": "a@b.c"},
            },
        });
        let other = client.with_key(&place.agent_key().await);
        assert_eq!(other.post().json(&answer).send().await.status, 404, "not theirs to answer");
        assert_eq!(client.post().json(&answer).send().await.status, 202);
        let result = stream.message().await;
        assert_eq!(result["id"], 8);
        assert!(result["result"]["content"].is_array(), "{result}");
        stream.ends().await;
        assert_eq!(place.actions().await.len(), 1, "one call, one action");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_modern_client_is_asked_by_the_answer() {
    for revisions in [Revisions::Old, Revisions::New] {
        let place = Place::new(revisions).await;
        let client = place.modern(forms()).await;
        let tool = match revisions {
            Revisions::Old => "test_elicitation",
            _ => "test_input_required_result_request_state",
        };
        let arguments = json!({"message": "who?"});
        let first = client.call(tool, arguments.clone()).await;
        assert_eq!(first["resultType"], "input_required", "{revisions:?} {first}");
        let (key, asked) = first["inputRequests"].as_object().unwrap().iter().next().unwrap();
        assert_eq!(asked["method"], "elicitation/create");
        let content = json!({"name": "Ada", "username": "ada", "email": "a@b.c", "ok": true});
        let responses = json!({key: {"action": "accept", "content": content}});
        let state = first["requestState"].as_str().unwrap();
        let retry = |client: Mcp, state: String, arguments: Value| {
            let params = json!({
                "name": tool, "arguments": arguments, "requestState": state,
                "inputResponses": responses,
            });
            async move { client.answer("tools/call", params).await }
        };
        let mut tampered = state.to_owned();
        let last = if tampered.ends_with('A') { 'B' } else { 'A' };
        tampered.pop();
        tampered.push(last);
        let other = Mcp::modern(&place.server.url, &place.agent_key().await, forms());
        let changed = json!({"message": "another?"});
        for (why, answer) in [
            ("tampered", retry(client.clone(), tampered, arguments.clone()).await),
            ("another's", retry(other, state.to_owned(), arguments.clone()).await),
            ("another call", retry(client.clone(), state.to_owned(), changed).await),
        ] {
            assert_eq!(answer["error"]["code"], -32602, "{why}: {answer}");
        }
        let done = retry(client.clone(), state.to_owned(), arguments.clone()).await;
        assert!(done["result"]["content"].is_array(), "{revisions:?} {done}");
        assert_eq!(done["result"]["resultType"], "complete");
        if revisions == Revisions::Old {
            let again = retry(client.clone(), state.to_owned(), arguments).await;
            assert_eq!(again["error"]["code"], -32602, "it is over: {again}");
            assert_eq!(place.actions().await.len(), 1, "one call, one action");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_what_they_did_not_declare() {
    let place = Place::new(Revisions::Old).await;
    for client in [place.modern(json!({})).await, place.legacy(json!({})).await] {
        let params = json!({"name": "test_elicitation", "arguments": {"message": "who?"}});
        let answer = client.answer("tools/call", params).await;
        assert!(answer["result"]["resultType"] != "input_required", "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_cancels_gets_no_answer_and_its_upstream_stops() {
    let place = Place::new(Revisions::Both).await;
    let wait = json!({
        "name": "wait", "arguments": {"ms": 120_000}, "_meta": {"progressToken": "p"},
    });
    let legacy = place.legacy(json!({})).await;
    let mut stream = legacy.open(6, "tools/call", wait.clone()).await;
    assert_eq!(stream.message().await["method"], "notifications/progress");
    let cancel = json!({
        "jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 6},
    });
    assert_eq!(legacy.post().json(&cancel).send().await.status, 202);
    while let Some(event) = stream.event().await {
        assert!(event.data.is_none_or(|data| data["id"] != 6), "no answer to what is cancelled");
    }
    let modern = place.modern(json!({})).await;
    let mut stream = modern.open(6, "tools/call", wait).await;
    assert_eq!(stream.message().await["method"], "notifications/progress");
    drop(stream);
    until("both stopped", async || place.kit.cancelled() >= 2).await;
    until("nobody knows what they did", async || {
        let actions = place.actions().await;
        actions.len() == 2 && actions.iter().all(|action| action.state() == State::Unknown)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_call_outlives_its_connection() {
    let place = Place::new(Revisions::Both).await;
    let client = place.legacy(json!({})).await;
    let params = json!({
        "name": "wait", "arguments": {"ms": 1_500}, "_meta": {"progressToken": "p"},
    });
    let mut stream = client.open(6, "tools/call", params).await;
    let event = stream.event().await.unwrap();
    drop(stream);
    let mut rest = client.listen(event.id.as_deref()).await;
    loop {
        let message = rest.message().await;
        if message["id"] == 6 {
            assert_eq!(text(&message["result"]), "waited");
            break;
        }
    }
    assert_eq!(place.actions().await[0].state(), State::Executed);
}
