//! Sessions, revisions, and connections that are used again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectors::mcp::{Revision, State};
use serde_json::json;

use super::back::session;
use super::peer::{Answer, Peer, honest};
use super::{Ask, BOTH, not_sent, spec, upstream, value};

#[tokio::test]
async fn one_connection_serves_many_calls() {
    for revision in BOTH {
        let peer = Peer::start(revision, |_| None).await;
        let upstream = upstream(peer.spec());
        for _ in 0..20 {
            value(Ask::tool("echo", "{}").call(&upstream).await);
        }
        let ports: BTreeSet<u16> = peer.got("tools/call").iter().map(|got| got.port).collect();
        assert_eq!(ports.len(), 1);
        let opened = peer.got("initialize").len() + peer.got("server/discover").len();
        assert_eq!(opened, if revision == Revision::V2026_07_28 { 1 } else { 2 });
    }
}

#[tokio::test]
async fn a_session_that_the_upstream_ended_is_opened_anew() {
    // A session that is gone, by the specification and as some servers say it.
    let gone = [
        Answer::empty(404),
        Answer::json(
            400,
            json!({
                "jsonrpc": "2.0", "id": null,
                "error": {"code": -32000, "message": "no valid session"},
            }),
        ),
    ];
    for gone in gone {
        let calls = AtomicUsize::new(0);
        let sessions = AtomicUsize::new(0);
        let peer = Peer::start(Revision::V2025_11_25, move |got| match got.rpc() {
            "initialize" => {
                let mut answer = honest(Revision::V2025_11_25, got);
                let id = format!("s-{}", sessions.fetch_add(1, Ordering::SeqCst));
                answer.headers.retain(|(name, _)| *name != "mcp-session-id");
                Some(answer.with("mcp-session-id", &id))
            }
            "tools/call" if calls.fetch_add(1, Ordering::SeqCst) == 1 => Some(gone.clone()),
            _ => None,
        })
        .await;
        let upstream = upstream(peer.spec());
        value(Ask::tool("echo", "{}").call(&upstream).await);
        value(Ask::tool("echo", "{}").call(&upstream).await);
        let sessions: Vec<_> = peer
            .got("tools/call")
            .iter()
            .map(|got| got.header("mcp-session-id").unwrap().to_owned())
            .collect();
        assert_eq!(sessions, ["s-0", "s-0", "s-1"]);
        for got in peer.got("tools/call") {
            assert_eq!(got.header("mcp-protocol-version"), Some("2025-11-25"));
        }
        upstream.close().await;
        let ended = peer.all().into_iter().rfind(|got| got.method == "DELETE").unwrap();
        assert_eq!(ended.header("mcp-session-id"), Some("s-1"));
    }
}

#[tokio::test]
async fn older_servers_are_known_by_how_they_refuse() {
    for refusal in [
        Answer::empty(400),
        Answer::empty(404),
        Answer::empty(405),
        Answer::empty(500),
        Answer::json(
            400,
            json!({
                "jsonrpc": "2.0", "id": null,
                "error": {"code": -32000, "message": "not initialized"},
            }),
        ),
        Answer::json(
            400,
            json!({
                "jsonrpc": "2.0", "id": 1,
                "error": {"code": -32022, "message": "", "data": {"supported": ["2025-11-25"]}},
            }),
        ),
    ] {
        let peer = Peer::start(Revision::V2025_11_25, move |got| {
            let discovered = got.rpc() == "server/discover";
            discovered.then(|| {
                let mut refusal = refusal.clone();
                if let super::peer::Piece::Whole(text) = &mut refusal.body {
                    *text = text.replace("\"id\":1", &format!("\"id\":{}", got.body["id"]));
                }
                refusal
            })
        })
        .await;
        let offer = upstream(peer.spec()).offer().await.unwrap();
        assert_eq!(offer.revision, Revision::V2025_11_25);
    }
}

#[tokio::test]
async fn a_modern_server_of_another_revision_is_not_spoken_to() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        (got.rpc() == "server/discover").then(|| {
            got.result(json!({"resultType": "complete", "supportedVersions": ["2099-01-01"]}))
        })
    })
    .await;
    let failure = upstream(peer.spec()).offer().await.unwrap_err();
    assert_eq!(failure.code, "revision_unsupported");
    assert!(peer.got("initialize").is_empty());
}

#[tokio::test]
async fn an_upstream_that_changed_its_revision_is_found_out() {
    let changed = std::sync::Arc::new(AtomicUsize::new(0));
    let now = changed.clone();
    let peer = Peer::start(Revision::V2025_11_25, move |got| {
        if got.rpc() == "initialize" || now.load(Ordering::SeqCst) == 0 {
            return None;
        }
        if got.header("mcp-protocol-version") != Some("2026-07-28") {
            return Some(got.error(400, -32020));
        }
        Some(honest(Revision::V2026_07_28, got))
    })
    .await;
    let upstream = upstream(peer.spec());
    value(Ask::tool("echo", "{}").call(&upstream).await);
    changed.store(1, Ordering::SeqCst);
    value(Ask::tool("echo", "{}").call(&upstream).await);
    assert_eq!(upstream.health().revision, Some(Revision::V2026_07_28));
}

#[tokio::test]
async fn lanes_are_sessions_of_their_own() {
    let peer = Peer::start(Revision::V2025_11_25, |_| None).await;
    let upstream = upstream(peer.spec());
    for lane in ["a", "b", "a"] {
        let ask = Ask { lane: session(lane), ..Ask::tool("echo", "{}") };
        value(ask.call(&upstream).await);
    }
    let opened = peer.got("initialize");
    // The shared one finds out what the upstream speaks.
    assert_eq!(opened.len(), 3);
    assert_eq!(opened[0].body["params"]["capabilities"], json!({}));
    assert_eq!(opened[0].body["params"]["clientInfo"]["name"], "tally");
    for own in &opened[1..] {
        assert_eq!(own.body["params"]["clientInfo"]["name"], "someone");
        assert!(own.body["params"]["capabilities"]["elicitation"].is_object());
    }
    upstream.close_lane("a").await;
    let ask = Ask { lane: session("a"), ..Ask::tool("echo", "{}") };
    value(ask.call(&upstream).await);
    assert_eq!(peer.got("initialize").len(), 4);
}

#[tokio::test]
async fn an_upstream_that_is_down_is_tried_again_later() {
    let gone = Peer::start(Revision::V2025_11_25, |_| None).await;
    let transport = gone.transport(Default::default());
    drop(gone);
    let upstream = upstream(spec(transport));
    let mut events = upstream.events();
    let failure = not_sent(Ask::tool("t", "{}").call(&upstream).await);
    assert_eq!((failure.code.as_str(), failure.retryable), ("connect_failed", true));
    assert!(matches!(events.recv().await, Ok(connectors::mcp::Event::Down { .. })));
    let health = upstream.health();
    assert_eq!((health.state, health.failures), (State::Down, 1));
    // Within the pause nothing is tried.
    let again = not_sent(Ask::tool("t", "{}").call(&upstream).await);
    if upstream.health().failures == 1 {
        assert!(again.retry_after_ms.is_some());
    }
}
