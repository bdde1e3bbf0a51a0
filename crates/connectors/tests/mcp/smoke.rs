//! What every upstream can do, over both transports, in both revisions.

use connectors::mcp::{Ended, Method, Revision, State, Upstream};
use serde_json::json;

use super::peer::Peer;
use super::{Ask, BOTH, child, result, spec, upstream, value};

/// An honest upstream over each transport.
async fn each(revision: Revision) -> (Peer, [Upstream; 2]) {
    let peer = Peer::start(revision, |_| None).await;
    let over_http = upstream(peer.spec());
    let over_stdio = upstream(spec(child::transport(child::honest(revision))));
    (peer, [over_http, over_stdio])
}

#[tokio::test]
async fn an_offer_and_a_call() {
    for revision in BOTH {
        let (_peer, upstreams) = each(revision).await;
        for upstream in upstreams {
            let offer = upstream.offer().await.unwrap();
            assert_eq!(offer.revision, revision);
            assert_eq!(offer.tools.first().unwrap().name, "echo");
            assert!(offer.server_info.unwrap().get().contains("\"version\":\"1\""));
            let ended = Ask::tool("echo", r#"{"a":[1,2.50]}"#).call(&upstream).await;
            assert_eq!(value(ended)["structuredContent"], json!({"a": [1, 2.5]}));
            let health = upstream.health();
            assert_eq!((health.state, health.revision), (State::Up, Some(revision)));
            upstream.close().await;
        }
    }
}

#[tokio::test]
async fn results_and_errors_pass_verbatim() {
    let text = r#"{ "content":[ ], "z":1.00, "a" : "\u0041" }"#;
    let peer = Peer::start(Revision::V2025_11_25, move |got| match got.rpc() {
        "tools/call" => {
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{text}}}"#, got.body["id"]);
            Some(super::peer::Answer::of(200, "application/json; charset=utf-8", body))
        }
        "prompts/get" => Some(got.error(200, -32602)),
        _ => None,
    })
    .await;
    let upstream = upstream(peer.spec());
    assert_eq!(result(Ask::tool("t", "{}").call(&upstream).await), text);
    match Ask::of(Method::GetPrompt, r#"{"name":"p"}"#).call(&upstream).await {
        Ended::Error { failure, rpc } => {
            assert_eq!((failure.code.as_str(), rpc.code), ("upstream_error", -32602));
            assert!(!failure.message.contains(&rpc.message));
        }
        other => panic!("{other:?}"),
    }
}
