//! Webhooks to a receiver that checks what it is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::failure::{Category, Failure};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::{Asked, Names, failed, result, run_knowing};
use crate::mcp::Secrets;
use crate::{Grants, Outcome, Tools, ToolsConfig, WebhookGrant};

const SEND: &str = "webhook.send";
const KEY: [u8; 32] = [7; 32];

/// The secrets of a tenant.
struct Known(Vec<(&'static str, String)>);

impl Secrets for Known {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        let found = self.0.iter().find(|(known, _)| *known == name);
        let missing = || Failure::new(Category::Permanent, "secret_missing", "there is none");
        found.map(|(_, value)| Zeroizing::new(value.clone())).ok_or_else(missing)
    }
}

fn secrets() -> Known {
    let good = format!("whsec_{}", STANDARD.encode(KEY));
    Known(vec![("hooks", good), ("token", "sk-hunter2hunter2hunter2hunter2".to_owned())])
}

/// What a receiver got: headers and body.
type Got = Arc<Mutex<Vec<(HeaderMap, Vec<u8>)>>>;

async fn receive(
    State(got): State<Got>,
    Path(code): Path<u16>,
    headers: HeaderMap,
    body: Bytes,
) -> impl IntoResponse {
    got.lock().unwrap().push((headers, body.to_vec()));
    let more = [("retry-after", "7"), ("location", "/200")];
    (StatusCode::from_u16(code).unwrap(), more, "thanks")
}

async fn receiver() -> (SocketAddr, Got) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Got::default());
    let app = Router::new().route("/{code}", post(receive)).with_state(got.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, got)
}

fn granted(at: SocketAddr, secret: &str) -> Tools {
    let grant = WebhookGrant {
        host: "127.0.0.1".to_owned(),
        port: Some(at.port()),
        private: true,
        secret: secret.to_owned(),
    };
    let grants = Grants { webhook: vec![grant], ..Grants::default() };
    let resolver = Arc::new(Names::default());
    Tools::new(ToolsConfig { grants, resolver, ..ToolsConfig::default() }).unwrap()
}

async fn send(tools: &Tools, at: SocketAddr, path: &str, payload: Value) -> Outcome {
    let params = json!({"url": format!("http://{at}/{path}"), "payload": payload});
    run_knowing(tools, SEND, params, &Asked::default(), &secrets()).await
}

#[tokio::test]
async fn what_is_sent_is_signed_by_the_standard() {
    let (at, got) = receiver().await;
    let tools = granted(at, "hooks");
    let payload = json!({"type": "invoice.paid", "data": {"amount": 1.5, "ü": null}});
    let sent = result(send(&tools, at, "202", payload.clone()).await);
    assert_eq!(sent, json!({"status": 202, "webhook_id": "act_1"}));
    // Another attempt is the same message to its receiver.
    result(send(&tools, at, "200", payload.clone()).await);
    let got = got.lock().unwrap();
    for (headers, body) in got.iter() {
        assert_eq!(serde_json::from_slice::<Value>(body).unwrap(), payload);
        assert_eq!(
            (&headers["webhook-id"], &headers["content-type"]),
            (&"act_1".parse().unwrap(), &"application/json".parse().unwrap())
        );
        let at = headers["webhook-timestamp"].to_str().unwrap();
        assert_eq!(at, "1795226400");
        let signed = [format!("act_1.{at}.").as_bytes(), body].concat();
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &KEY);
        let signature = headers["webhook-signature"].to_str().unwrap();
        let tag = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
        aws_lc_rs::hmac::verify(&key, &signed, &tag).unwrap();
    }
    assert_eq!(got.len(), 2);
}

#[tokio::test]
async fn what_a_receiver_answers() {
    let (at, got) = receiver().await;
    let tools = granted(at, "hooks");
    for (path, code, category, retry) in [
        ("400", "webhook_refused", Category::Permanent, None),
        ("410", "webhook_refused", Category::Permanent, None),
        // Where it points to is not followed: it may have taken the message.
        ("302", "webhook_refused", Category::Permanent, None),
        ("429", "rate_limited", Category::RateLimited, Some(7_000)),
        ("503", "upstream_error", Category::Upstream, Some(7_000)),
        ("500", "upstream_error", Category::Upstream, None),
        // The message is the same one again, so there is nothing to reconcile.
        ("502", "upstream_error", Category::Upstream, None),
    ] {
        let failure = failed(send(&tools, at, path, json!(1)).await);
        assert_eq!((failure.code.as_str(), failure.category), (code, category), "{path}");
        assert_eq!(failure.retry_after_ms, retry, "{path}");
        assert_eq!(failure.retryable, category.retryable(), "{path}");
    }
    assert_eq!(got.lock().unwrap().len(), 7);
}

#[tokio::test]
async fn only_to_receivers_and_only_with_their_secret() {
    let (at, got) = receiver().await;
    let (elsewhere, _) = receiver().await;
    let tools = granted(at, "hooks");
    let code = |outcome| failed(outcome).code;
    assert_eq!(code(send(&tools, elsewhere, "200", json!(1)).await), "host_not_granted");
    // A grant for webhooks is none for calls.
    let call = json!({"url": format!("http://{at}/200"), "method": "POST"});
    let called = run_knowing(&tools, "core.http_call", call, &Asked::default(), &secrets()).await;
    assert_eq!(code(called), "host_not_granted");
    assert_eq!(code(send(&granted(at, "absent"), at, "200", json!(1)).await), "secret_missing");
    // A secret that is not for webhooks signs nothing, and is not told.
    let failure = failed(send(&granted(at, "token"), at, "200", json!(1)).await);
    assert_eq!(failure.code, "secret_invalid");
    assert!(!failure.message.contains("hunter2"));
    let large = json!("x".repeat(crate::limits::WEBHOOK_BYTES_MAX));
    assert_eq!(code(send(&tools, at, "200", large).await), "payload_too_large");
    assert!(got.lock().unwrap().is_empty());
}

#[test]
fn grants_that_are_refused() {
    let check = |yaml: Value, good: bool| {
        let grants: Result<Grants, _> = serde_json::from_value(json!({"webhook": [yaml]}));
        let made = grants
            .ok()
            .map(|grants| Tools::new(ToolsConfig { grants, ..ToolsConfig::default() }).is_ok());
        assert_eq!(made.unwrap_or(false), good, "{yaml}");
    };
    check(json!({"host": "hooks.example.com", "secret": "hooks"}), true);
    check(json!({"host": "*.example.com", "secret": "hooks"}), true);
    check(json!({"host": "hooks.example.com"}), false);
    check(json!({"host": "hooks.example.com", "secret": "a b"}), false);
    check(json!({"host": "https://hooks.example.com", "secret": "hooks"}), false);
    check(json!({"host": "*", "private": true, "secret": "hooks"}), false);
}
