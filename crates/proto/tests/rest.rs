//! The REST surface over a small service: strictness, raw JSON, errors, raw bodies, aliases.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "test helpers")]

mod echo;

use axum::body::{Body, to_bytes};
use echo::{Caller, LIMITS, app};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tonic::Status;
use tower::ServiceExt as _;

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Reply {
    fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

async fn send(method: &str, path: &str, body: impl Into<Body>) -> Reply {
    let request = Request::builder().method(method).uri(path);
    let request = request
        .header("x-request-id", "req-1")
        .header("x-api-key", "k")
        .header("cookie", "secret")
        .header("content-type", "application/x-tar")
        .extension(Caller("p_7"))
        .body(body.into())
        .unwrap();
    let (parts, body) = app().oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
    Reply { status: parts.status, headers: parts.headers, body }
}

/// Sends, and expects a JSON error of that status and code.
async fn refused(method: &str, path: &str, body: &str, status: u16, code: &str) -> Value {
    let reply = send(method, path, body.to_owned()).await;
    assert_eq!(reply.status.as_u16(), status, "{method} {path} {body}: {}", reply.text());
    assert_eq!(reply.headers["content-type"], "application/json");
    let error = reply.json()["error"].clone();
    assert_eq!(error["code"], code, "{method} {path} {body}: {error}");
    assert_eq!(error["request_id"], "req-1");
    error
}

#[tokio::test]
async fn parameters_pass_byte_for_byte_and_answers_are_canonical() {
    let params = r#"{ "b" : 1.50, "a":9007199254740993,"a" :"\u00e9é" }"#;
    for prefix in ["/v1", "/api/v1"] {
        let body = format!(r#"{{"tool":"t.o","params": {params} ,"claims":{{"target":"T"}}}}"#);
        let reply = send("POST", &format!("{prefix}/actions"), body).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        assert_eq!(reply.headers["x-test"], "yes");
        assert_eq!(reply.headers["content-type"], "application/json");
        let text = reply.text();
        assert!(text.contains(&format!(r#""result":{params},"#)), "{text}");
        assert!(text.contains(r#""created_at":"2023-11-14T22:13:20.000001Z""#), "{text}");
        assert!(text.contains(r#""cost_micro_usd":"9007199254740993""#), "{text}");
        assert!(text.contains(r#""state":"awaiting_approval""#), "{text}");
        assert!(text.contains(r#""approval_id":"""#), "{text}");
        let json = reply.json();
        assert_eq!(json["checkpoint"], "p_7", "the middleware's extension arrives");
        assert_eq!(json["receipts"].as_array().unwrap().len(), 2, "{json}");
        assert!(!text.contains("cookie"), "{text}");
    }
}

#[tokio::test]
async fn bodies_are_strict() {
    let reply = send("POST", "/v1/actions", r#"{"tool":"t","waitMs":5,"accountId":"a"}"#).await;
    assert_eq!(reply.status, 202, "camelCase: {}", reply.text());
    let bodies = [
        r#"{"tool":"t","surprise":1}"#,
        r#"{"tool":"t","claims":{"tarjet":"x"}}"#,
        r#"{"tool":"t","tool":"u"}"#,
        r#"{"tool":"t"} x"#,
        r#"{"tool":1}"#,
        r#"{"wait_ms":-1}"#,
        r#"{"params":{"a":}}"#,
        "[]",
        "nonsense",
        "\u{feff}{}",
    ];
    for body in bodies {
        refused("POST", "/v1/actions", body, 400, "invalid_body").await;
    }
    refused("POST", "/v1/actions?tool=t", "{}", 400, "invalid_query").await;
    for money in [r#""12""#, "12"] {
        let body = format!(r#"{{"outcome":"executed","cost_micro_usd":{money}}}"#);
        let reply = send("POST", "/v1/actions/a/reconcile", body).await;
        assert_eq!(reply.json()["cost_micro_usd"], "12");
    }
    for body in [r#"{"cost_micro_usd":1.5}"#, r#"{"outcome":"maybe"}"#] {
        refused("POST", "/v1/actions/a/reconcile", body, 400, "invalid_body").await;
    }
}

#[tokio::test]
async fn queries_are_strict() {
    let asked = |reply: Reply| reply.json()["next_page_token"].as_str().unwrap().to_owned();
    let query = "/v1/actions?state=awaiting_approval&pageSize=7&page_token=a%26b";
    let text = asked(send("GET", query, "").await);
    assert!(text.contains("AwaitingApproval") && text.contains("page_size: 7"), "{text}");
    assert!(text.contains("a&b"), "{text}");
    let queries = [
        "x=1",
        "state=nope",
        "page_size=a",
        "page_size=1&page_size=2",
        "page_token=%FF",
        "page_size=-1",
    ];
    for query in queries {
        refused("GET", &format!("/v1/actions?{query}"), "", 400, "invalid_query").await;
    }
}

#[tokio::test]
async fn paths_bind_and_are_never_contradicted() {
    let reply = send("POST", "/v1/actions/a%2Fb/cancel", "").await;
    assert_eq!(reply.json()["action_id"], "a/b");
    let reply = send("POST", "/v1/actions/a/cancel", r#"{"action_id":"a"}"#).await;
    assert_eq!(reply.json()["action_id"], "a");
    let other = r#"{"action_id":"b"}"#;
    refused("POST", "/v1/actions/a/cancel", other, 400, "path_mismatch").await;
    refused("GET", "/v1/actions/%FF", "", 400, "invalid_path").await;
    refused("GET", "/v1/actions/a?action_id=b", "", 400, "invalid_query").await;
}

#[tokio::test]
async fn every_refusal_is_json() {
    refused("GET", "/v1/nothing", "", 404, "route_not_found").await;
    refused("DELETE", "/v1/actions", "", 405, "method_not_allowed").await;
    let allowed = send("DELETE", "/v1/actions", "").await;
    assert!(allowed.headers["allow"].to_str().unwrap().contains("POST"));
    let large = format!(r#"{{"tool":"{}"}}"#, "x".repeat(LIMITS.json));
    refused("POST", "/v1/actions", &large, 413, "request_too_large").await;
    // The same without an announced length.
    let chunks = tokio_stream::iter((0..3).map(|_| Ok::<_, Status>(vec![b' '; 500])));
    let chunks = Body::from_stream(chunks);
    let reply = send("POST", "/v1/actions", chunks).await;
    assert_eq!(
        (reply.status.as_u16(), &reply.json()["error"]["code"]),
        (413, &json!("request_too_large"))
    );
    refused("POST", "/v1/actions/a/release", "", 401, "unauthenticated").await;
}

#[tokio::test]
async fn error_details_reach_the_body_and_the_headers() {
    let error = refused("GET", "/v1/actions/a1", "", 429, "slow_down").await;
    let expected = json!({
        "code": "slow_down", "category": "RATE_LIMITED", "message": "a1", "retryable": true,
        "retry_after_ms": 1500, "cause": ["first"], "request_id": "req-1", "receipt_id": "",
    });
    assert_eq!(error, expected);
    assert_eq!(send("GET", "/v1/actions/a1", "").await.headers["retry-after"], "2");
}

#[tokio::test]
async fn raw_bodies_go_both_ways() {
    let reply = send("POST", "/v1/evidence/exports", r#"{"full_log":true}"#).await;
    assert_eq!(reply.headers["content-type"], "application/x-tar");
    assert_eq!(reply.body, [0, 255, 1]);
    for path in ["/v1/evidence/verify", "/v1/evidence/exports/verify", "/api/v1/evidence/verify"] {
        let reply = send("POST", path, vec![1, 254]).await;
        assert_eq!(reply.json()["errors"], json!(["application/x-tar", "[1, 254]"]), "{path}");
    }
    let large = "x".repeat(LIMITS.raw + 1);
    refused("POST", "/v1/evidence/verify", &large, 413, "request_too_large").await;
}
