//! Connectors as data: what ships, what is refused, and what reaches a real server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde_json::{Value, json};
use testkit::permit;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use super::{Names, executed, failed, unknown};
use crate::declared::{
    ConnectorCall, Credentials, Definition, Instance, InstanceConfig, Offered, exchanges_of,
    replay, scaffold, shipped,
};
use crate::mcp::Secrets;
use crate::{ConnectorGrant, Grants, Outcome, Tools, ToolsConfig};

const PROBE: &str = include_str!("declared/probe.yaml");
/// The value of every secret, nowhere by chance.
const VALUE: &str = "Jx7Qm2-value-of-a-credential";

#[tokio::test]
async fn what_ships_does_what_was_recorded() {
    for one in shipped() {
        let definition = Arc::new(Definition::parse(one.text).unwrap());
        assert_eq!(definition.name, one.name);
        let exchanges = exchanges_of(one.exchanges).unwrap();
        let outcomes = replay(&definition, &exchanges).await;
        let wrong: Vec<_> = outcomes.iter().filter(|outcome| outcome.problem.is_some()).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", one.name);
        assert_eq!(definition.untested(&outcomes), Vec::<String>::new(), "{}", one.name);
    }
}

#[tokio::test]
async fn a_new_definition_passes_its_test_and_a_wrong_one_does_not() {
    let text = scaffold("acme").unwrap();
    let outcomes = |text: String| async move {
        let definition = Arc::new(Definition::parse(&text).unwrap());
        replay(&definition, &exchanges_of(&text).unwrap()).await
    };
    let problems = |outcomes: Vec<crate::declared::Replayed>| -> Vec<String> {
        outcomes.into_iter().filter_map(|outcome| outcome.problem).collect()
    };
    assert_eq!(problems(outcomes(text.clone()).await), Vec::<String>::new());
    for (from, to, problem) in [
        ("path: /v1/items/{{ params.id }}", "path: /v2/items/{{ params.id }}", "/v2/items/a%2F1"),
        ("title: First}\n  -", "title: Second}\n  -", "result is"),
        ("status: 404, body", "status: 401, body", "credential_refused"),
        ("Bearer test-token", "Bearer other", "`authorization`"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let problems = problems(outcomes(changed).await);
        assert!(problems.iter().any(|said| said.contains(problem)), "{to}: {problems:?}");
    }
    assert!(scaffold("Acme").is_err() && scaffold("core").is_err() && scaffold("").is_err());
}

#[test]
fn a_malformed_definition_is_refused_with_its_line() {
    let text = scaffold("acme").unwrap();
    assert!(Definition::parse(&text).is_ok());
    for (from, to, line, reason) in [
        ("tally/v1", "tally/v2", 3, "`tally/v1`"),
        ("kind: Connector", "kind: Workflow", 4, "`Connector`"),
        ("name: acme", "name: core", 6, "vendor"),
        ("0.1.0", "1.x", 7, "SemVer"),
        ("https://api.example.com", "https://u:p@api.example.com", 12, "URL"),
        ("https://api.example.com", "ftp://api.example.com", 12, "URL"),
        ("type: bearer", "type: magic", 14, "unknown variant"),
        ("type: bearer", "type: bearer, header: x", 14, "`header`"),
        ("timeoutMs: 15000", "timeoutMs: 0", 15, "1 to"),
        ("accept:", "authorization:", 16, "set by Tally"),
        ("status: 401", "status: 7", 18, "status"),
        ("code: not_found", "code: Not found", 23, "code"),
        ("category: NOT_FOUND", "category: INTERNAL", 23, "category"),
        ("labels: [read, external]", "labels: [read]", 31, "`external`"),
        ("labels: [read, external]", "labels: [write, external]", 31, "`read`"),
        ("method: GET", "method: POST", 31, "`write`"),
        ("method: GET", "method: BREW", 42, "one of"),
        ("/v1/items/{{ params.id }}", "v1/{{ params.id }}", 43, "begins with"),
        ("/v1/items/{{ params.id }}", "/v1/../{{ params.id }}", 43, "`..`"),
        ("/v1/items/{{ params.id }}", "/v1//{{ params.id }}", 43, "empty"),
        ("/v1/items/{{ params.id }}", "/v1/items?x={{ params.id }}", 43, "no part of a path"),
        ("/v1/items/{{ params.id }}", "/v1/items/{{ params.it }}", 41, "input schema"),
        ("/v1/items/{{ params.id }}", "/v1/items/{{ secrets.token }}", 41, "not there"),
        ("/v1/items/{{ params.id }}", "/v1/items/{{ call.token }}", 41, "call.key"),
        ("/v1/items/{{ params.id }}", "/{% include 'x' %}", 43, "`{%`"),
        ("/v1/items/{{ params.id }}", "/v1/items/{{ params.id", 43, "`}}`"),
        ("type: object\n        additional", "type: objekt\n        additional", 36, "JSON Schema"),
        ("response.body.title", "response.body.", 46, "no expression"),
        ("description: Reads", "descripton: Reads", 29, "unknown field"),
        ("# caps: {perMinute: 60", "caps: {perMinute: 0", 34, "1 to 1000000"),
        ("# caps: {perMinute: 60", "caps: {perMinute: 1000001", 34, "1 to 1000000"),
        ("# caps: {perMinute: 60", "caps: {perMinute: -1", 34, "invalid type"),
        ("# caps: {perMinute: 60", "caps: {perHour: 60", 34, "unknown field"),
        ("# caps: {perMinute: 60", "caps: {", 34, "missing field"),
        ("# cost: {perCallMicroUsd: 5000", "cost: {perCallMicroUsd: -1", 33, "below zero"),
        ("kind: Connector", "kind: Connector\nkind: Connector", 3, "duplicate"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let error = Definition::parse(&changed).unwrap_err().to_string();
        let found = error.strip_prefix("line ").and_then(|rest| rest.split_once(": "));
        let (at, why) = found.unwrap();
        let near = at.parse::<usize>().unwrap().abs_diff(line) <= 2;
        assert!(near && why.contains(reason), "{to}: {error} (expected line {line}: {reason})");
    }
    assert!(Definition::parse(&" ".repeat(crate::limits::CONNECTOR_BYTES_MAX + 1)).is_err());
}

/// What a server was asked: method, target, headers and body.
type Seen = Arc<Mutex<Vec<(Method, String, HeaderMap, Bytes)>>>;

/// Answers by the first segment of the path, after `/base`.
async fn answer(
    State(seen): State<Seen>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let target = uri.path_and_query().unwrap().to_string();
    let tokens = || {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(_, target, ..)| target.contains("/token")).count()
    };
    let count = tokens();
    seen.lock().unwrap().push((method, target.clone(), headers.clone(), body));
    let rest = target.strip_prefix("/base/").unwrap_or_default();
    let json = |value: Value| (StatusCode::OK, value.to_string()).into_response();
    match rest.split(['/', '?']).next().unwrap_or_default() {
        "token" => json(json!({"access_token": format!("t{}", count + 1), "expires_in": 600})),
        // The first token has ended.
        "ended" if headers.get("authorization").is_some_and(|v| v == "Bearer t1") => {
            StatusCode::UNAUTHORIZED.into_response()
        }
        "big" => "x".repeat(100_000).into_response(),
        "away" => (StatusCode::FOUND, [("location", "http://169.254.169.254/")]).into_response(),
        "down" => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        "slow" => std::future::pending().await,
        "page" => "<html>".into_response(),
        _ => json(json!({"id": "x", "secret": VALUE})),
    }
}

async fn serve() -> (SocketAddr, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Seen::default();
    let app = Router::new().fallback(answer).with_state(seen.clone());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (address, seen)
}

/// Secrets that all have one value.
struct All;

impl Secrets for All {
    fn reveal(&self, _: &str) -> Result<Zeroizing<String>, Failure> {
        Ok(Zeroizing::new(VALUE.to_owned()))
    }
}

#[async_trait]
impl Credentials for All {
    async fn replace(&self, _: &str, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}

fn granted(address: SocketAddr, tenants: &[&str]) -> Tools {
    let grant = ConnectorGrant {
        host: "127.0.0.1".to_owned(),
        port: Some(address.port()),
        private: true,
        tenants: tenants.iter().map(|tenant| (*tenant).to_owned()).collect(),
    };
    let grants = Grants { connectors: vec![grant], ..Grants::default() };
    Tools::new(ToolsConfig { grants, resolver: Names::of(&[]), ..ToolsConfig::default() }).unwrap()
}

fn instance(url: &str, auth: &str, roles: &[&str]) -> Result<Arc<Instance>, String> {
    let credentials = roles.iter().map(|role| ((*role).to_owned(), format!("of-{role}")));
    let config = InstanceConfig {
        base_url: url.to_owned(),
        auth: auth.to_owned(),
        credentials: credentials.collect(),
        in_flight: 0,
    };
    let definition = Arc::new(Definition::parse(PROBE).unwrap());
    Instance::new("probe", definition, config).map(Arc::new).map_err(|error| error.to_string())
}

fn local(address: SocketAddr, auth: &str, roles: &[&str]) -> Arc<Instance> {
    instance(&format!("http://{address}/base/"), auth, roles).unwrap()
}

async fn call(tools: &Tools, instance: &Arc<Instance>, operation: &str, params: Value) -> Outcome {
    call_at(tools, instance, operation, params, Timestamp(0)).await
}

async fn call_at(
    tools: &Tools,
    instance: &Arc<Instance>,
    operation: &str,
    params: Value,
    now: Timestamp,
) -> Outcome {
    let id = format!("probe.{operation}");
    let offered = Offered::all(instance).unwrap();
    let tool = offered.iter().find(|tool| tool.manifest.id.as_str() == id).unwrap();
    let plan = Digest::of(b"plan");
    let permit = permit(plan);
    let params = RawJson::parse(&params.to_string()).unwrap();
    let call = ConnectorCall {
        permit: &permit,
        plan_digest: plan,
        params: &params,
        now,
        in_doubt: false,
        tenant: "acme",
        credentials: &All,
    };
    assert!(!format!("{call:?}{tool:?}{tools:?}").contains(VALUE));
    let outcome = tools.declared().call(tool, call).await.outcome;
    if let Outcome::Failed(failure) | Outcome::Unknown(failure) = &outcome {
        assert!(!format!("{failure:?}").contains(VALUE), "{failure:?}");
        let named = |mode: &kernel::tool::FailureMode| {
            (&mode.code, mode.category) == (&failure.code, failure.category)
        };
        assert!(tool.manifest.failure_modes.iter().any(named), "{failure:?}");
    }
    outcome
}

#[tokio::test]
async fn values_stay_where_they_are_put() {
    let (address, seen) = serve().await;
    let (tools, instance) = (granted(address, &[]), local(address, "token", &["token"]));
    let hostile = "a/../../admin?x=1#f%2e%2e@evil.example:1\\{{ 7*7 }}";
    let params = json!({"id": hostile, "note": "1&admin=true#", "tag": "plain"});
    executed(call(&tools, &instance, "read", params).await);
    let (_, target, headers, _) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(
        target,
        "/base/items/a%2F..%2F..%2Fadmin%3Fx%3D1%23f%252e%252e%40evil.example%3A1%5C%7B%7B%207%2A7\
         %20%7D%7D?note=1%26admin%3Dtrue%23"
    );
    assert_eq!(headers["host"], address.to_string());
    assert_eq!(headers["authorization"], format!("Bearer {VALUE}"));
    let body = json!({"id": "i", "text": "\"},{\"admin\":true,\"x\":\"{{ params.id }}"});
    executed(call(&tools, &instance, "write", body.clone()).await);
    let (_, _, _, sent) = seen.lock().unwrap().pop().unwrap();
    let sent: Value = serde_json::from_slice(&sent).unwrap();
    assert_eq!(sent, json!({"text": body["text"], "count": 2}));
    for params in [
        json!({"id": "..", "tag": "x"}),
        json!({"id": ".", "tag": "x"}),
        json!({"id": "", "tag": "x"}),
        json!({"id": "a\r\nx: y", "tag": "x"}),
        json!({"id": "a", "tag": "x\r\nhost: evil.example"}),
        json!({"id": "a", "tag": "x\nauthorization: none"}),
        json!({"id": "a", "tag": "\u{e4}"}),
        json!({"id": "a", "tag": "\0"}),
    ] {
        let failure = failed(call(&tools, &instance, "read", params.clone()).await);
        assert_eq!(failure.code, "request_unmade", "{params}");
        assert_eq!(failure.category, Category::Validation);
    }
    assert!(seen.lock().unwrap().is_empty());
    let failure = failed(call(&tools, &instance, "read", json!({"id": 7, "tag": "x"})).await);
    assert_eq!(failure.code, "params_invalid");
}

#[tokio::test]
async fn answers_are_bounded_and_nothing_is_followed() {
    let (address, seen) = serve().await;
    let (tools, instance) = (granted(address, &[]), local(address, "token", &["token"]));
    let get = |kind: &str| call(&tools, &instance, "get", json!({"kind": kind}));
    assert_eq!(failed(get("big").await).code, "answer_too_large");
    assert_eq!(failed(get("page").await).code, "answer_invalid");
    assert_eq!(failed(get("away").await).code, "redirected");
    assert_eq!(seen.lock().unwrap().len(), 3);
    let slow = failed(get("slow").await);
    assert_eq!((slow.code.as_str(), slow.category), ("timeout", Category::Timeout));
    let send = |kind: &str| call(&tools, &instance, "send", json!({"kind": kind}));
    // What may have happened and cannot be looked up is unknown.
    assert_eq!(unknown(send("slow").await).code, "timeout");
    assert_eq!(unknown(send("big").await).code, "answer_too_large");
    assert_eq!(unknown(send("down").await).code, "upstream_error");
    assert_eq!(failed(send("away").await).code, "redirected");
}

#[tokio::test]
async fn only_what_is_granted_is_reached() {
    let (address, seen) = serve().await;
    let instance = local(address, "token", &["token"]);
    let params = json!({"id": "a", "tag": "x"});
    let nothing = Tools::new(ToolsConfig::default()).unwrap();
    let others = granted(address, &["other"]);
    for tools in [&nothing, &others] {
        let failure = failed(call(tools, &instance, "read", params.clone()).await);
        assert_eq!(failure.code, "host_not_granted");
    }
    let public = ConnectorGrant {
        host: "127.0.0.1".to_owned(),
        port: Some(address.port()),
        private: false,
        tenants: ["acme".to_owned()].into(),
    };
    let grants = Grants { connectors: vec![public], ..Grants::default() };
    let public = Tools::new(ToolsConfig { grants, ..ToolsConfig::default() }).unwrap();
    let failure = failed(call(&public, &instance, "read", params.clone()).await);
    assert_eq!(failure.code, "address_not_granted");
    assert!(seen.lock().unwrap().is_empty());
    executed(call(&granted(address, &["acme"]), &instance, "read", params).await);
    assert_eq!(seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn tokens_are_kept_and_renewed_where_they_ended() {
    let (address, seen) = serve().await;
    let instance = local(address, "oauth", &["client_id", "client_secret"]);
    let tools = granted(address, &[]);
    let targets = |from: usize| -> Vec<String> {
        let seen = seen.lock().unwrap();
        seen.iter().skip(from).map(|(_, target, ..)| target.clone()).collect()
    };
    let get = |kind: &str, s: i64| {
        let now = Timestamp(s * 1_000_000);
        call_at(&tools, &instance, "get", json!({"kind": kind}), now)
    };
    executed(get("items", 0).await);
    assert_eq!(targets(0), ["/base/token", "/base/items"]);
    executed(get("items", 1).await);
    assert_eq!(targets(2), ["/base/items"]);
    // Refused once, so it is asked for anew.
    executed(get("ended", 2).await);
    assert_eq!(targets(3), ["/base/ended", "/base/token", "/base/ended"]);
}

#[tokio::test]
async fn requests_are_signed() {
    let (address, seen) = serve().await;
    let (tools, instance) = (granted(address, &[]), local(address, "signed", &["key"]));
    executed(call(&tools, &instance, "write", json!({"id": "i", "text": "t"})).await);
    let (_, _, headers, body) = seen.lock().unwrap().pop().unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, VALUE.as_bytes());
    let mut signed = b"0.".to_vec();
    signed.extend_from_slice(&body);
    let tag = aws_lc_rs::hmac::sign(&key, &signed);
    let hex: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(headers["x-signature"], format!("sha256={hex}"));
    assert_eq!(headers["x-timestamp"], "0");
    assert_eq!(headers["x-once"], "act_1");
}

#[tokio::test]
async fn a_system_that_fails_again_and_again_is_left_alone() {
    let (address, seen) = serve().await;
    let (tools, instance) = (granted(address, &[]), local(address, "token", &["token"]));
    let get = || call(&tools, &instance, "get", json!({"kind": "down"}));
    for _ in 0..5 {
        assert_eq!(failed(get().await).code, "upstream_error");
    }
    let failure = failed(get().await);
    assert_eq!(failure.code, "circuit_open");
    assert!(failure.retryable && failure.retry_after_ms.is_some());
    assert_eq!(seen.lock().unwrap().len(), 5);
}

#[test]
fn an_instance_must_fit_its_definition() {
    for (url, auth, roles, field) in [
        ("", "token", &["token"][..], "base_url"),
        ("https://a.test/?x=1", "token", &["token"], "base_url"),
        ("https://u:p@a.test/", "token", &["token"], "base_url"),
        ("file:///etc/passwd", "token", &["token"], "base_url"),
        ("https://a.test", "none", &[], "auth"),
        ("https://a.test", "token", &[], "credentials"),
        ("https://a.test", "token", &["token", "key"], "credentials"),
        ("https://a.test", "oauth", &["client_id"], "credentials"),
    ] {
        let error = instance(url, auth, roles).unwrap_err();
        assert!(error.starts_with(field), "{url} {auth}: {error}");
    }
    assert!(instance("https://a.test", "", &["token"]).is_ok());
    let offered = Offered::all(&instance("https://a.test", "", &["token"]).unwrap()).unwrap();
    let moved = Offered::all(&instance("https://b.test", "", &["token"]).unwrap()).unwrap();
    assert_ne!(offered[0].digest, moved[0].digest, "where it is called is part of the plan");
}

#[test]
fn a_call_that_overwrote_something_has_one_that_puts_it_back() {
    let text = shipped().iter().find(|one| one.name == "servicenow").unwrap().text;
    let definition = Arc::new(Definition::parse(text).unwrap());
    let config = InstanceConfig {
        base_url: "https://acme.service-now.com".to_owned(),
        auth: "basic".to_owned(),
        credentials: [
            ("username".to_owned(), "u".to_owned()),
            ("password".to_owned(), "p".to_owned()),
        ]
        .into(),
        in_flight: 0,
    };
    let instance = Arc::new(Instance::new("servicenow", definition, config).unwrap());
    let offered = Offered::all(&instance).unwrap();
    let tool = |id: &str| offered.iter().find(|tool| tool.manifest.id.as_str() == id).unwrap();
    let raw = |value: Value| RawJson::parse(&value.to_string()).unwrap();
    let params =
        raw(json!({"sys_id": "1", "fields": {"priority": "2"}, "expect": {"priority": "5"}}));
    let prior = raw(json!({"priority": "5"}));
    let back = tool("servicenow.update_incident_reversible").reversal(&params, &prior).unwrap();
    let expect = json!({"sys_id": "1", "fields": {"priority": "5"}, "expect": {"priority": "2"}});
    assert_eq!(back.to_value(), expect);
    assert!(tool("servicenow.add_work_note").reversal(&params, &prior).is_none());
    assert!(tool("servicenow.update_incident_reversible").manifest.reversible);
}
