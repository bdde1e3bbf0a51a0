//! Streams of events that break, and how they are taken up again.

use std::sync::atomic::{AtomicUsize, Ordering};

use connectors::mcp::Revision;
use serde_json::json;

use super::peer::{Answer, Peer, event};
use super::{Ask, unknown, until, upstream, value};

#[tokio::test]
async fn a_stream_with_event_ids_is_taken_up_again() {
    let id = AtomicUsize::new(0);
    let polls = AtomicUsize::new(0);
    let peer = Peer::start(Revision::V2025_11_25, move |got| match got.rpc() {
        "tools/call" => {
            id.store(usize::try_from(got.body["id"].as_u64().unwrap()).unwrap(), Ordering::SeqCst);
            Some(Answer::events(vec!["id: a\nretry: 1\ndata: \n\n".to_owned()], false))
        }
        "" if got.header("last-event-id") == Some("a") => {
            Some(match polls.fetch_add(1, Ordering::SeqCst) {
                0 => Answer::empty(503),
                _ => Answer::events(vec!["id: b\ndata: \n\n".to_owned()], false),
            })
        }
        "" if got.header("last-event-id") == Some("b") => {
            let id = id.load(Ordering::SeqCst);
            let result = json!({"jsonrpc": "2.0", "id": id, "result": {"late": true}});
            Some(Answer::events(vec![event(&result)], false))
        }
        _ => None,
    })
    .await;
    let ended = Ask::tool("t", "{}").call(&upstream(peer.spec())).await;
    assert_eq!(value(ended)["late"], true);
    assert_eq!(peer.got("tools/call").len(), 1, "never sent again");
}

#[tokio::test]
async fn an_answer_over_the_stream_of_all_is_the_answer() {
    let id = AtomicUsize::new(0);
    let peer =
        Peer::start(Revision::V2025_11_25, move |got| match (got.method.as_str(), got.rpc()) {
            ("POST", "tools/call") => {
                id.store(
                    usize::try_from(got.body["id"].as_u64().unwrap()).unwrap(),
                    Ordering::SeqCst,
                );
                // Nobody waits as long as this stream would have to be waited for.
                Some(Answer::events(vec!["id: a\nretry: 30000\ndata: \n\n".to_owned()], false))
            }
            ("GET", _) => {
                let id = id.load(Ordering::SeqCst);
                let result = json!({"jsonrpc": "2.0", "id": id, "result": {"elsewhere": true}});
                let answer = if id > 0 { event(&result) } else { String::new() };
                Some(Answer::events(
                    vec!["id: all\nretry: 1\ndata: \n\n".to_owned(), answer],
                    false,
                ))
            }
            _ => None,
        })
        .await;
    let upstream = upstream(connectors::mcp::Spec { timeout_ms: 25_000, ..peer.spec() });
    assert_eq!(value(Ask::tool("t", "{}").call(&upstream).await)["elsewhere"], true);
}

#[tokio::test]
async fn a_stream_that_cannot_be_taken_up_leaves_the_call_unknown() {
    for (revision, first) in [
        // No id to go on from; an upstream without such streams; a stateless one.
        (Revision::V2025_11_25, ": hello\n\n"),
        (Revision::V2025_11_25, "id: a\nretry: 1\ndata: \n\n"),
        (Revision::V2026_07_28, "id: a\nretry: 1\ndata: \n\n"),
    ] {
        let peer = Peer::start(revision, move |got| {
            (got.rpc() == "tools/call").then(|| Answer::events(vec![first.to_owned()], false))
        })
        .await;
        let failure = unknown(Ask::tool("t", "{}").call(&upstream(peer.spec())).await);
        assert_eq!(failure.code, "stream_broken");
        assert_eq!(peer.got("tools/call").len(), 1);
        if revision == Revision::V2026_07_28 {
            assert!(peer.all().iter().all(|got| got.method == "POST"));
        }
    }
}

#[tokio::test]
async fn a_call_over_http_that_is_ended_is_cancelled_upstream() {
    let peer = Peer::start(Revision::V2025_11_25, |got| {
        (got.rpc() == "tools/call").then(|| Answer::events(vec![": alive\n\n".to_owned()], true))
    })
    .await;
    let upstream = upstream(peer.spec());
    let ask = Ask::tool("t", "{}");
    let cancel = ask.cancel.clone();
    let ended = async {
        until(|| !peer.got("tools/call").is_empty()).await;
        cancel.cancel();
    };
    let (failure, ()) = tokio::join!(ask.call(&upstream), ended);
    assert_eq!(unknown(failure).code, "canceled");
    until(|| !peer.got("notifications/cancelled").is_empty()).await;
    let told = &peer.got("notifications/cancelled")[0].body["params"]["requestId"];
    assert_eq!(*told, peer.got("tools/call")[0].body["id"]);
}
