//! Calls to a server of our own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::any;
use kernel::failure::Category;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::{Asked, Names, executed, failed, grant, result, run, run_asking, tools, unknown};
use crate::Tools;

const CALL: &str = "core.http_call";

async fn echo(method: Method, headers: HeaderMap, body: String) -> String {
    let header = |name: &str| headers.get(name).map(|v| v.to_str().unwrap().to_owned());
    json!({
        "method": method.as_str(),
        "body": body,
        "host": header("host"),
        "content_type": header("content-type"),
        "authorization": header("authorization"),
        "cookie": header("cookie"),
        "key": header("idempotency-key"),
    })
    .to_string()
}

async fn status(Path(code): Path<u16>) -> impl IntoResponse {
    (StatusCode::from_u16(code).unwrap(), [("retry-after", "7"), ("set-cookie", "secret=1")])
}

/// Redirects with the status `code` to what the header `x-to` says.
async fn to(Path(code): Path<u16>, headers: HeaderMap) -> impl IntoResponse {
    let location = headers.get("x-to").unwrap().to_str().unwrap().to_owned();
    (StatusCode::from_u16(code).unwrap(), [("location", location)])
}

async fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = Router::new()
        .route("/echo", any(echo))
        .route("/status/{code}", any(status))
        .route("/to/{code}", any(to))
        .route("/big", any(|| async { "ä".repeat(2_000_000) }))
        .route("/bytes", any(|| async { vec![0xff_u8, 0, 1] }))
        .route("/slow", any(std::future::pending::<String>));
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// Accepts connections, reads a request, and answers with `answer` before it hangs up.
pub(super) async fn serve_raw(answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, count)
}

fn local(addresses: &[SocketAddr]) -> Tools {
    let grants = addresses.iter().map(|a| grant("127.0.0.1", Some(a.port()), true)).collect();
    tools(grants, Arc::new(Names::default()))
}

fn body(result: &Value) -> Value {
    serde_json::from_str(result["body"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn what_is_sent_and_what_comes_back() {
    let at = serve().await;
    let tools = local(&[at]);
    let url = format!("http://{at}/echo");
    let got = result(run(&tools, CALL, json!({"url": url})).await);
    assert_eq!((&got["status"], &got["truncated"]), (&json!(200), &json!(false)));
    assert_eq!(body(&got)["method"], "GET");
    assert_eq!(body(&got)["host"], at.to_string());
    assert_eq!(body(&got)["key"], Value::Null);

    let post = json!({"url": url, "method": "POST", "json": {"a": [1.50, null]}});
    let got = body(&result(run(&tools, CALL, post).await));
    assert_eq!(got["key"], "act_1");
    assert_eq!(got["content_type"], "application/json");
    assert_eq!(got["body"], r#"{"a":[1.5,null]}"#);

    let null = json!({"url": url, "method": "PUT", "json": null});
    assert_eq!(body(&result(run(&tools, CALL, null).await))["body"], "null");

    let both = json!({"url": url, "method": "POST", "json": 1, "body": ""});
    assert_eq!(failed(run(&tools, CALL, both).await).code, "body_refused");
    let get = json!({"url": url, "body": "a"});
    assert_eq!(failed(run(&tools, CALL, get).await).code, "body_refused");
}

#[tokio::test]
async fn answers_are_bounded_and_cookies_stay_out() {
    let at = serve().await;
    let tools = local(&[at]);
    let cut = executed(run(&tools, CALL, json!({"url": format!("http://{at}/big")})).await);
    assert_eq!(cut.meta.bytes_in, 896 << 10);
    assert_eq!(cut.result.to_value()["truncated"], true);
    let odd = json!({"url": format!("http://{at}/big"), "max_bytes": 3});
    assert_eq!(result(run(&tools, CALL, odd).await)["body"], "ä");
    let bytes = result(run(&tools, CALL, json!({"url": format!("http://{at}/bytes")})).await);
    assert_eq!((&bytes["body_base64"], &bytes["body"]), (&json!("/wAB"), &Value::Null));
    let got = result(run(&tools, CALL, json!({"url": format!("http://{at}/status/404")})).await);
    assert_eq!((&got["status"], &got["headers"]["retry-after"]), (&json!(404), &json!("7")));
    assert!(!got.to_string().contains("secret"), "{got}");
}

#[tokio::test]
async fn statuses_that_are_failures() {
    let at = serve().await;
    let tools = local(&[at]);
    let params =
        |code, method| json!({"url": format!("http://{at}/status/{code}"), "method": method});
    for (code, category, retryable, after) in [
        (429, Category::RateLimited, true, Some(7_000)),
        (503, Category::Upstream, true, Some(7_000)),
        (500, Category::Upstream, true, None),
        (502, Category::Upstream, true, None),
        (504, Category::Upstream, true, None),
        (501, Category::Upstream, false, None),
    ] {
        let failure = failed(run(&tools, CALL, params(code, "GET")).await);
        let got = (failure.category, failure.retryable, failure.retry_after_ms);
        assert_eq!(got, (category, retryable, after), "{code}");
    }
    // A gateway cannot say whether the host behind it acted.
    for code in [502, 504] {
        assert_eq!(unknown(run(&tools, CALL, params(code, "POST")).await).code, "upstream_error");
        assert_eq!(failed(run(&tools, CALL, params(code, "DELETE")).await).code, "upstream_error");
    }
    assert_eq!(failed(run(&tools, CALL, params(503, "POST")).await).code, "upstream_error");
}

#[tokio::test]
async fn silence_after_a_post_is_unknown_and_after_a_get_is_not() {
    let at = serve().await;
    let (dead, count) = serve_raw("").await;
    let (half, _) = serve_raw("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await;
    let (junk, _) = serve_raw("220 smtp ready\r\n").await;
    let tools = local(&[at, dead, half, junk]);
    for (url, code) in [
        (format!("http://{at}/slow"), "timeout"),
        (format!("http://{dead}/"), "connection_lost"),
        (format!("http://{half}/"), "connection_lost"),
        (format!("http://{junk}/"), "answer_invalid"),
    ] {
        let params = |method| json!({"url": url, "method": method, "timeout_ms": 500});
        let failure = failed(run(&tools, CALL, params("GET")).await);
        assert_eq!((failure.code.as_str(), failure.retryable), (code, code != "answer_invalid"));
        assert_eq!(failed(run(&tools, CALL, params("PUT")).await).code, code);
        assert_eq!(unknown(run(&tools, CALL, params("POST")).await).code, code);
    }
    // Nothing is repeated behind the kernel's back.
    assert_eq!(count.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn every_framing_of_an_answer_is_read() {
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n";
    let (chunked, _) = serve_raw(chunks).await;
    let (until_close, _) = serve_raw("HTTP/1.0 200 OK\r\n\r\nhi").await;
    for at in [chunked, until_close] {
        let got = result(run(&local(&[at]), CALL, json!({"url": format!("http://{at}/")})).await);
        assert_eq!((&got["body"], &got["truncated"]), (&json!("hi"), &json!(false)));
    }
    let at = serve().await;
    let head = json!({"url": format!("http://{at}/big"), "method": "HEAD"});
    assert_eq!(result(run(&local(&[at]), CALL, head).await)["body"], "");
}

#[tokio::test]
async fn where_nothing_was_sent_a_post_surely_failed() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = free.local_addr().unwrap();
    drop(free);
    let post = json!({"url": format!("http://{at}/"), "method": "POST"});
    assert_eq!(failed(run(&local(&[at]), CALL, post).await).code, "connect_failed");
}

fn redirect(at: SocketAddr, code: u16, method: &str, to: &str) -> Value {
    let headers = json!({"x-to": to, "authorization": "Bearer a", "cookie": "b=c"});
    json!({"url": format!("http://{at}/to/{code}"), "method": method, "headers": headers})
}

#[tokio::test]
async fn redirects_stay_where_granted_and_are_decided_again() {
    let (at, other) = (serve().await, serve().await);
    let tools = local(&[at, other]);
    let asked = Asked::default();

    // Within the origin: followed without a question, credentials kept.
    let got = run_asking(&tools, CALL, redirect(at, 302, "GET", "/echo"), &asked).await;
    assert_eq!(body(&result(got))["authorization"], "Bearer a");
    assert!(asked.seen.lock().unwrap().is_empty());

    // To another granted origin: asked, credentials dropped.
    let there = format!("http://{other}/echo");
    let got = executed(run_asking(&tools, CALL, redirect(at, 307, "GET", &there), &asked).await);
    let seen = body(&got.result.to_value());
    assert_eq!((&seen["authorization"], &seen["cookie"]), (&Value::Null, &Value::Null));
    assert_eq!(got.meta.redirects, 1);
    let changes = asked.seen.lock().unwrap().clone();
    assert_eq!((changes[0].method.as_str(), changes.len()), ("GET", 1));
    assert_eq!(
        (&changes[0].from, &changes[0].to),
        (&format!("http://{at}"), &format!("http://{other}"))
    );

    let no = Asked { refuse: true, ..Asked::default() };
    let refused = run_asking(&tools, CALL, redirect(at, 307, "GET", &there), &no).await;
    assert_eq!(failed(refused).category, Category::PolicyDenied);
}

#[tokio::test]
async fn redirects_that_are_not_followed() {
    let (at, other) = (serve().await, serve().await);
    let tools = local(&[at, other]);
    for (method, to, code) in [
        ("GET", "http://127.0.0.1:1/".to_owned(), "host_not_granted"),
        ("GET", "http://169.254.169.254/".to_owned(), "host_not_granted"),
        ("GET", "http://u:p@127.0.0.1/".to_owned(), "redirect_refused"),
        ("GET", "file:///etc/passwd".to_owned(), "redirect_refused"),
        ("POST", format!("http://{other}/echo"), "redirect_refused"),
        ("DELETE", format!("http://{other}/echo"), "redirect_refused"),
        ("GET", format!("http://{at}/to/307"), "too_many_redirects"),
    ] {
        let failure = failed(run(&tools, CALL, redirect(at, 307, method, &to)).await);
        assert_eq!(failure.code, code, "{method} {to}");
    }
    // After a POST these may mean that it was done: they are the answer.
    for code in [301, 302, 303] {
        let got = result(run(&tools, CALL, redirect(at, code, "POST", "/echo")).await);
        assert_eq!((&got["status"], &got["headers"]["location"]), (&json!(code), &json!("/echo")));
    }
    let kept = result(run(&tools, CALL, redirect(at, 308, "POST", "/echo")).await);
    assert_eq!(body(&kept)["method"], "POST");
}

/// The name is public when first asked for and loopback afterwards: each hop goes to an address
/// that was checked for it, and the second is refused.
#[tokio::test]
async fn a_name_that_changes_its_address_gains_nothing() {
    let at = serve().await;
    let names = Names::of(&[
        ("rebind.test", &["127.0.0.1", "169.254.169.254"]),
        ("flip.test", &["8.8.8.8", "127.0.0.1"]),
    ]);
    let port = Some(at.port());
    let hosts = vec![grant("rebind.test", port, true), grant("flip.test", port, false)];
    let tools = tools(hosts, names);
    let call = |name: &str, path: &str| {
        let headers = json!({"x-to": "/echo"});
        json!({"url": format!("http://{name}:{}{path}", at.port()), "headers": headers,
            "timeout_ms": 300})
    };
    // The first hop reaches our server; the second look-up, for the redirect, is the other one.
    let failure = failed(run(&tools, CALL, call("rebind.test", "/to/302")).await);
    assert_eq!(failure.code, "address_not_granted");
    // The first look-up is public (and no one answers there); the second is refused.
    let failure = failed(run(&tools, CALL, call("flip.test", "/echo")).await);
    assert!(["timeout", "connect_failed"].contains(&failure.code.as_str()), "{failure}");
    let failure = failed(run(&tools, CALL, call("flip.test", "/echo")).await);
    assert_eq!(failure.code, "address_not_granted");
}

#[tokio::test]
async fn the_time_is_for_all_hops_together() {
    let at = serve().await;
    let mut params = redirect(at, 302, "GET", "/slow");
    params["timeout_ms"] = json!(300);
    let tools = local(&[at]);
    let ended = tokio::time::timeout(Duration::from_secs(20), run(&tools, CALL, params)).await;
    assert_eq!(failed(ended.unwrap()).code, "timeout");
}
