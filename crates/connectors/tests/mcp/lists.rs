//! Lists: pages, limits, headers of parameters, and how changes are heard of.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use connectors::mcp::{Event, Lane, Revision};
use serde_json::json;

use super::peer::{Peer, event};
use super::{Ask, BOTH, until, upstream, value};

#[tokio::test]
async fn nine_hundred_tools_come_in_pages() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        if got.rpc() != "tools/list" {
            return None;
        }
        let from: usize = got.body["params"]["cursor"].as_str().unwrap_or("0").parse().unwrap();
        let tools: Vec<_> = (from..from + 100)
            .map(|n| json!({"name": format!("t{n}"), "inputSchema": {"type": "object"}}))
            .collect();
        let mut result = json!({"tools": tools});
        if from < 800 {
            result["nextCursor"] = json!((from + 100).to_string());
        }
        Some(got.result(result))
    })
    .await;
    let offer = upstream(peer.spec()).offer().await.unwrap();
    let names: Vec<_> = offer.tools.iter().map(|tool| tool.name.clone()).collect();
    assert_eq!(names, (0..900).map(|n| format!("t{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_list_without_end_is_given_up() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        let next = || got.body["id"].to_string();
        (got.rpc() == "tools/list").then(|| got.result(json!({"tools": [], "nextCursor": next()})))
    })
    .await;
    let failure = upstream(peer.spec()).offer().await.unwrap_err();
    assert_eq!(failure.code, "list_too_long");
}

#[tokio::test]
async fn parameters_go_into_headers() {
    let peer = Peer::start(Revision::V2026_07_28, |got| {
        (got.rpc() == "tools/list").then(|| {
            let property = |kind: &str, name: &str| json!({"type": kind, "x-mcp-header": name});
            got.result(json!({"tools": [
                {"name": "good", "inputSchema": {"type": "object", "properties": {
                    "region": property("string", "Region"),
                }}},
                {"name": "bad", "inputSchema": {"type": "object", "properties": {
                    "region": property("number", "Region"),
                }}},
            ]}))
        })
    })
    .await;
    let upstream = upstream(peer.spec());
    // Known before the first list was asked for.
    value(Ask::tool("good", r#"{"region":"Zürich"}"#).call(&upstream).await);
    let got = &peer.got("tools/call")[0];
    assert_eq!(got.header("mcp-param-region"), Some("=?base64?WsO8cmljaA==?="));
    assert_eq!(got.header("mcp-method"), Some("tools/call"));
    assert_eq!(got.header("mcp-name"), Some("good"));
    assert_eq!(got.header("mcp-protocol-version"), Some("2026-07-28"));
    let meta = &got.body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
    let offer = upstream.offer().await.unwrap();
    assert_eq!(offer.tools.len(), 1);
    assert_eq!(offer.refused[0].name, "bad");
}

#[tokio::test]
async fn a_definition_that_changed_its_headers_is_read_again() {
    let changed = Arc::new(AtomicUsize::new(0));
    let now = changed.clone();
    let peer = Peer::start(Revision::V2026_07_28, move |got| {
        let header = if now.load(Ordering::SeqCst) == 0 { "a" } else { "b" };
        match got.rpc() {
            "tools/list" => Some(got.result(json!({"tools": [
                {"name": "t", "inputSchema": {"type": "object", "properties": {
                    "x": {"type": "string", "x-mcp-header": header},
                }}},
            ]}))),
            "tools/call" if got.header(&format!("mcp-param-{header}")).is_none() => {
                Some(got.error(400, -32020))
            }
            _ => None,
        }
    })
    .await;
    let upstream = upstream(peer.spec());
    value(Ask::tool("t", r#"{"x":"1"}"#).call(&upstream).await);
    changed.store(1, Ordering::SeqCst);
    value(Ask::tool("t", r#"{"x":"1"}"#).call(&upstream).await);
    assert_eq!(peer.got("tools/call").len(), 3);
}

/// Answers with one more tool each time.
fn growing(revision: Revision) -> impl Fn(&super::peer::Got) -> Option<super::peer::Answer> {
    let lists = AtomicUsize::new(1);
    let changed = event(&json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    let acknowledged = json!({
        "jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {},
    });
    move |got| match (got.method.as_str(), got.rpc()) {
        ("POST", "initialize" | "server/discover") => {
            let mut answer = super::peer::honest(revision, got);
            if let super::peer::Piece::Whole(text) = &mut answer.body {
                let more = r#""tools":{"listChanged":true},"resources":{"subscribe":true}"#;
                *text = text.replace(r#""resources":{},"tools":{}"#, more);
            }
            Some(answer)
        }
        ("POST", "tools/list") => {
            let count = lists.fetch_add(1, Ordering::SeqCst);
            let tools: Vec<_> = (0..count)
                .map(|n| json!({"name": format!("t{n}"), "inputSchema": {"type": "object"}}))
                .collect();
            Some(got.result(json!({"tools": tools})))
        }
        ("POST", "subscriptions/listen") => {
            let updated = event(&json!({
                "jsonrpc": "2.0", "method": "notifications/resources/updated",
                "params": {"uri": got.body["params"]["notifications"]["resourceSubscriptions"][0]},
            }));
            let pieces = vec![event(&acknowledged), changed.clone(), updated];
            Some(super::peer::Answer::events(pieces, true))
        }
        ("GET", _) => Some(super::peer::Answer::events(vec![changed.clone()], true)),
        ("POST", "resources/subscribe") => Some(got.result(json!({}))),
        _ => None,
    }
}

#[tokio::test]
async fn changes_are_heard_of() {
    for revision in BOTH {
        let peer = Peer::start(revision, growing(revision)).await;
        let upstream = upstream(peer.spec());
        let mut events = upstream.events();
        upstream.tools().await.unwrap();
        // One for the connection, one that the upstream tells.
        for _ in 0..2 {
            while !matches!(events.recv().await.unwrap(), Event::ToolsChanged) {}
        }
        assert_eq!(upstream.tools().await.unwrap().len(), 2);
        assert_eq!(upstream.tools().await.unwrap().len(), 2, "kept until it changes");
    }
}

#[tokio::test]
async fn subscriptions_reach_the_upstream() {
    for revision in BOTH {
        let peer = Peer::start(revision, growing(revision)).await;
        let upstream = upstream(peer.spec());
        let mut events = upstream.events();
        upstream.subscribe(&Lane::Shared, "a:1").await.unwrap();
        if revision == Revision::V2026_07_28 {
            loop {
                if let Event::ResourceUpdated { uri } = events.recv().await.unwrap() {
                    assert_eq!(uri, "a:1");
                    break;
                }
            }
        } else {
            assert_eq!(peer.got("resources/subscribe")[0].body["params"]["uri"], "a:1");
        }
        upstream.unsubscribe(&Lane::Shared, "a:1").await.ok();
        if revision == Revision::V2026_07_28 {
            let filter = |got: &super::peer::Got| got.body["params"]["notifications"].clone();
            let only = json!({"toolsListChanged": true});
            until(|| peer.got("subscriptions/listen").last().map(filter).as_ref() == Some(&only))
                .await;
        }
    }
}
