//! Upstreams that ask: by requests of their own, or by `input_required`.

use std::sync::Arc;

use connectors::mcp::{Ended, Revision, Upstream};
use serde_json::{Value, json};

use super::back::{Caller, session};
use super::peer::{Answer, Got, Peer, event};
use super::{Ask, BOTH, child, spec, until, upstream, value};

const ACCEPT: &str = r#"{"action":"accept","content":{"a":1}}"#;

#[tokio::test]
async fn a_child_asks_the_client_of_its_session() {
    let upstream = upstream(spec(child::transport("old")));
    let caller = Arc::new(Caller::new(Ok(ACCEPT)));
    let ask = Ask { lane: session("a"), back: caller.clone(), ..Ask::tool("ask", "{}") };
    let answer = value(ask.call(&upstream).await)["answer"].clone();
    assert_eq!(
        answer,
        json!({
            "jsonrpc": "2.0", "id": "q", "result": {"action": "accept", "content": {"a": 1}},
        })
    );
    assert_eq!(caller.asked.lock().unwrap()[0].0, "elicitation/create");
    // Over the connection of all nobody can be asked, whoever calls.
    let ask = Ask { back: caller.clone(), ..Ask::tool("ask", "{}") };
    let answer = value(ask.call(&upstream).await)["answer"].clone();
    assert_eq!(answer["error"]["code"], -32601);
    assert_eq!(caller.asked.lock().unwrap().len(), 1);
}

/// Asks in the stream of a call, and ends it once it is answered.
fn asking() -> impl Fn(&Got) -> Option<Answer> {
    let answered: Arc<std::sync::Mutex<Option<Value>>> = Arc::default();
    move |got| match got.rpc() {
        "tools/call" => {
            let ask = json!({"jsonrpc": "2.0", "id": 77, "method": "elicitation/create",
                "params": {"message": "?", "requestedSchema": {"type": "object"}}});
            let prime = "id: e-1\nretry: 5\ndata: \n\n".to_owned();
            Some(Answer::events(vec![prime, event(&ask)], false))
        }
        "" if got.method == "POST" => {
            *answered.lock().unwrap() = Some(got.body.clone());
            Some(Answer::empty(202))
        }
        "" if got.header("last-event-id").is_some() => {
            let call = answered.lock().unwrap().clone();
            Some(match call {
                // The call has the third id: after server/discover and two times initialize.
                Some(answer) => {
                    let result = json!({"answer": answer});
                    let message = json!({"jsonrpc": "2.0", "id": 4, "result": result});
                    Answer::events(vec![event(&message)], false)
                }
                None => Answer::events(vec!["id: e-2\nretry: 5\ndata: \n\n".to_owned()], false),
            })
        }
        _ => None,
    }
}

#[tokio::test]
async fn an_upstream_over_http_asks_in_the_stream_of_the_call() {
    let peer = Peer::start(Revision::V2025_11_25, asking()).await;
    let upstream = upstream(peer.spec());
    let caller = Arc::new(Caller::new(Ok(ACCEPT)));
    let ask = Ask { lane: session("a"), back: caller.clone(), ..Ask::tool("t", "{}") };
    let answer = value(ask.call(&upstream).await)["answer"].clone();
    assert_eq!((&answer["id"], &answer["result"]["action"]), (&json!(77), &json!("accept")));
    assert_eq!(caller.asked.lock().unwrap().len(), 1);
}

/// Wants input for the tool `t`, and echoes what it was given.
async fn rounds() -> (Peer, Upstream) {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        let params = &got.body["params"];
        if got.rpc() != "tools/call" || params.get("inputResponses").is_some() {
            return None;
        }
        Some(got.result(json!({
            "resultType": "input_required",
            "inputRequests": {"who\"": {"method": "elicitation/create", "params": {
                "mode": "form", "message": "?", "requestedSchema": {"type": "object"},
            }}},
            "requestState": "st\"ate",
        })))
    })
    .await;
    let upstream = upstream(peer.spec());
    (peer, upstream)
}

#[tokio::test]
async fn rounds_are_answered_for_a_client_that_cannot() {
    for (answer, sent) in [
        (Ok(ACCEPT), json!({"action": "accept", "content": {"a": 1}})),
        (Err(-32000), json!({"action": "cancel"})),
    ] {
        let (peer, upstream) = rounds().await;
        let caller = Arc::new(Caller::new(answer));
        let ask = Ask { back: caller.clone(), ..Ask::tool("t", r#"{"x":1}"#) };
        value(ask.call(&upstream).await);
        let [first, second] = peer.got("tools/call").try_into().unwrap();
        assert_ne!(first.body["id"], second.body["id"]);
        assert_eq!(second.body["params"]["arguments"], json!({"x": 1}));
        assert_eq!(second.body["params"]["inputResponses"]["who\""], sent);
        assert_eq!(second.body["params"]["requestState"], "st\"ate");
        let declared = "io.modelcontextprotocol/clientCapabilities";
        assert!(first.body["params"]["_meta"][declared]["elicitation"].is_object());
    }
}

#[tokio::test]
async fn rounds_are_handed_to_a_client_that_can() {
    let (peer, upstream) = rounds().await;
    let caller = Arc::new(Caller::with_rounds());
    let ask = Ask { back: caller.clone(), ..Ask::tool("t", "{}") };
    let first = value(ask.call(&upstream).await);
    assert_eq!(first["resultType"], "input_required");
    let continuation = r#"{"inputResponses":{"who\"":{"action":"decline"}},"requestState":"s"}"#;
    let ask = Ask {
        back: caller.clone(),
        continuation: Some(continuation.to_owned()),
        ..Ask::tool("t", "{}")
    };
    value(ask.call(&upstream).await);
    let got = &peer.got("tools/call")[1].body["params"];
    assert_eq!(got["inputResponses"]["who\""]["action"], "decline");
    assert_eq!(got["requestState"], "s");
    assert!(caller.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn rounds_come_to_an_end() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        (got.rpc() == "tools/call")
            .then(|| got.result(json!({"resultType": "input_required", "requestState": "again"})))
    })
    .await;
    let ended = Ask::tool("t", "{}").call(&upstream(peer.spec())).await;
    assert_eq!(super::unknown(ended).code, "too_many_rounds");
    assert_eq!(peer.got("tools/call").len(), 9);
}

#[tokio::test]
async fn what_nobody_answers_ends_the_call() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        (got.rpc() == "tools/call").then(|| {
            got.result(json!({
                "resultType": "input_required",
                "inputRequests": {"s": {"method": "sampling/createMessage", "params": {}}},
            }))
        })
    })
    .await;
    match Ask::tool("t", "{}").call(&upstream(peer.spec())).await {
        Ended::Error { failure, rpc } => {
            assert_eq!((failure.code.as_str(), rpc.code), ("input_refused", -32601));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn progress_comes_with_the_clients_own_token() {
    let over_http = |revision| {
        Peer::start(revision, |got: &Got| {
            let token = got.body["params"]["_meta"].get("progressToken")?;
            let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress",
                "params": {"progressToken": token, "progress": 1}});
            let result = got.message(json!({"content": []}));
            Some(Answer::events(vec![event(&progress), event(&result)], false))
        })
    };
    for revision in BOTH {
        let peer = over_http(revision).await;
        let transports =
            [peer.transport(Default::default()), child::transport(child::honest(revision))];
        for transport in transports {
            let upstream = upstream(spec(transport));
            let caller = Arc::new(Caller::new(Err(0)));
            let meta = r#"{"traceparent":"t","progressToken":"not this"}"#;
            let ask = Ask {
                token: Some("\"mine\""),
                meta: Some(meta),
                back: caller.clone(),
                ..Ask::tool("progress", "{}")
            };
            value(ask.call(&upstream).await);
            until(|| !caller.told().is_empty()).await;
            let told = caller.told.lock().unwrap()[0].clone();
            assert_eq!(told.0, "notifications/progress");
            assert_eq!(told.1, json!({"progressToken": "mine", "progress": 1}));
        }
    }
}
