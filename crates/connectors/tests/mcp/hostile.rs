//! Upstreams that break, hang, lie and flood: each harms its own calls alone.

use std::sync::Arc;

use connectors::mcp::{Ended, Revision, State, Upstream};
use serde_json::json;

use super::back::Caller;
use super::peer::{Answer, Peer, event};
use super::{Ask, child, not_sent, spec, unknown, until, upstream, value};

fn old() -> Upstream {
    upstream(spec(child::transport("old")))
}

#[tokio::test]
async fn a_crash_leaves_the_call_unknown_and_the_next_gets_a_new_process() {
    for mode in ["old", "new", "crash-on-discover"] {
        let upstream = upstream(spec(child::transport(mode)));
        let first = value(Ask::tool("pid", "{}").call(&upstream).await);
        let failure = unknown(Ask::tool("crash", "{}").call(&upstream).await);
        assert_eq!(failure.code, "child_ended");
        until(|| upstream.health().state == State::Down).await;
        let second = value(Ask::tool("pid", "{}").call(&upstream).await);
        assert_ne!(first["pid"], second["pid"]);
        assert_eq!(upstream.health().state, State::Up);
    }
}

#[tokio::test]
async fn a_hang_ends_its_own_call_alone() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        let hangs = got.body["params"]["name"] == "hang";
        hangs.then(|| Answer::events(vec![": alive\n\n".to_owned()], true))
    })
    .await;
    let slow = upstream(connectors::mcp::Spec { timeout_ms: 1_000, ..peer.spec() });
    let hanging = tokio::spawn({
        let slow = slow.clone();
        async move { Ask::tool("hang", "{}").call(&slow).await }
    });
    until(|| !peer.got("tools/call").is_empty()).await;
    value(Ask::tool("echo", "{}").call(&slow).await);
    let failure = unknown(hanging.await.unwrap());
    assert_eq!(failure.code, "timeout");
    value(Ask::tool("echo", "{}").call(&slow).await);
}

#[tokio::test]
async fn a_call_that_is_ended_is_cancelled_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told");
    let upstream = old();
    upstream.offer().await.unwrap();
    let ask = Ask::tool("hang", &json!({"file": file.to_str().unwrap()}).to_string());
    let cancel = ask.cancel.clone();
    let call = ask.call(&upstream);
    let ended = async {
        until(|| file.with_extension("begun").exists()).await;
        cancel.cancel();
    };
    let (failure, ()) = tokio::join!(call, ended);
    assert_eq!(unknown(failure).code, "canceled");
    until(|| std::fs::read_to_string(&file).is_ok_and(|told| !told.is_empty())).await;
    let told = std::fs::read_to_string(&file).unwrap();
    assert!(told.contains("notifications/cancelled"), "{told}");
}

#[tokio::test]
async fn what_is_ended_before_it_is_sent_was_not_sent() {
    let upstream = old();
    upstream.offer().await.unwrap();
    let ask = Ask::tool("crash", "{}");
    ask.cancel.cancel();
    assert_eq!(not_sent(ask.call(&upstream).await).code, "canceled");
    value(Ask::tool("echo", "{}").call(&upstream).await);
    assert_eq!(upstream.health().failures, 0);
}

#[tokio::test]
async fn a_flood_is_dropped_and_counted() {
    let upstream = old();
    let caller = Arc::new(Caller::new(Err(0)));
    let ask = Ask { token: Some("\"t\""), back: caller.clone(), ..Ask::tool("flood", "{}") };
    value(ask.call(&upstream).await);
    assert!(upstream.health().dropped > 0);
    assert!(caller.told().len() < 50_000);
}

#[tokio::test]
async fn what_cannot_be_kept_is_unknown() {
    let upstream = old();
    for (tool, code) in
        [("long", "child_ended"), ("deep", "result_invalid"), ("duplicate", "result_invalid")]
    {
        assert_eq!(unknown(Ask::tool(tool, "{}").call(&upstream).await).code, code, "{tool}");
    }
    value(Ask::tool("echo", "{}").call(&upstream).await);
}

#[tokio::test]
async fn answers_that_nobody_waits_for_are_ignored() {
    let upstream = old();
    upstream.offer().await.unwrap();
    // The harness of the tests wrote some too.
    let before = upstream.health().ignored;
    let ended = Ask::tool("wrong-id", r#"{"a":1}"#).call(&upstream).await;
    assert_eq!(value(ended)["structuredContent"]["a"], 1);
    assert_eq!(upstream.health().ignored, before + 2);
    value(Ask::tool("twice", "{}").call(&upstream).await);
    value(Ask::tool("echo", "{}").call(&upstream).await);
    assert_eq!(upstream.health().ignored, before + 3);
}

#[tokio::test]
async fn an_answer_over_http_has_to_be_the_answer() {
    let result = json!({"content": []});
    let other = json!({"jsonrpc": "2.0", "id": 999_999, "result": result});
    for (answer, code) in [
        (Answer::json(200, other.clone()), "answer_invalid"),
        (Answer::json(200, json!([])), "answer_invalid"),
        (Answer::of(200, "text/html", "<html>".to_owned()), "answer_invalid"),
        (Answer::empty(202), "answer_invalid"),
        (Answer::of(200, "application/json", " ".repeat(5 << 20)), "answer_too_long"),
        (Answer::events(vec![event(&other)], false), "stream_broken"),
        (Answer::events(vec!["data: ".to_owned(), "x".repeat(5 << 20)], true), "answer_too_long"),
        (Answer::empty(500), "upstream_failed"),
        (Answer::empty(502), "upstream_failed"),
    ] {
        let said = answer.clone();
        let peer = Peer::start(Revision::V2026_07_28, move |got| {
            (got.rpc() == "tools/call").then(|| said.clone())
        })
        .await;
        let upstream = upstream(peer.spec());
        let failure = unknown(Ask::tool("t", "{}").call(&upstream).await);
        assert_eq!(failure.code, code, "{answer:?}");
        // It may have happened: nothing repeats it.
        assert_eq!(peer.got("tools/call").len(), 1);
        let again = Ask { idempotent: true, ..Ask::tool("t", "{}") };
        assert_eq!(not_sent(again.call(&upstream).await).code, code);
    }
}

#[tokio::test]
async fn refusals_are_no_effects() {
    for (answer, code, wait) in [
        (Answer::empty(503).with("retry-after", "7"), "upstream_unavailable", Some(7_000)),
        (Answer::empty(429).with("retry-after", "2"), "rate_limited", Some(2_000)),
        (Answer::empty(413), "upstream_refused", None),
        (Answer::empty(401), "upstream_unauthorized", None),
    ] {
        let peer = Peer::start(Revision::V2025_11_25, move |got| {
            (got.rpc() == "tools/call").then(|| answer.clone())
        })
        .await;
        let failure = not_sent(Ask::tool("t", "{}").call(&upstream(peer.spec())).await);
        assert_eq!((failure.code.as_str(), failure.retry_after_ms), (code, wait));
    }
}

#[tokio::test]
async fn large_results_pass_within_the_limit() {
    let text = "x".repeat(3 << 20);
    let peer = Peer::start(Revision::V2025_11_25, move |got| {
        let content = json!({"content": [{"type": "text", "text": text}]});
        (got.rpc() == "tools/call").then(|| got.result(content))
    })
    .await;
    match Ask::tool("t", "{}").call(&upstream(peer.spec())).await {
        Ended::Result { json, .. } => assert!(json.as_str().len() > 3 << 20),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_children_write_to_their_standard_error_is_bounded() {
    let upstream = old();
    value(Ask::tool("stderr", "{}").call(&upstream).await);
    until(|| upstream.stderr().len() == 64 << 10).await;
}
