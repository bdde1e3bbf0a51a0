//! Requests that nobody should send: each is refused with a reason, and the server goes on.
//!
//! The seed is fixed, so that a failure can be repeated; `FUZZ_SEED` sets another.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use proto::identity::principal::Kind;
use proto::routes::{ROUTES, Route};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::wire::{Ask, Wire, fill, fresh, paths};
use crate::common::{Server, allow_all, rego};

const SEED: u64 = 0x7a11_5eed;
const WORKERS: u64 = 8;
const REQUESTS_EACH: u32 = 400;

/// JSON that a value cannot hold, written in place of a string that names its index.
const RAW: [&str; 18] = [
    "1e400",
    "-1e400",
    "9007199254740993",
    "18446744073709551616",
    "-9223372036854775809",
    "1e-400",
    "1.5",
    "-0",
    "01",
    "NaN",
    "{\"a\":1,\"a\":2}",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"a\0b\"",
    "'x'",
    "",
    "[1,]",
    "/**/1",
];

const TEXTS: [&str; 20] = [
    "",
    " ",
    "\u{0}",
    "' OR '1'='1",
    "'; DROP TABLE entity; --",
    "../../../etc/passwd",
    "/dev/zero",
    "а\u{441}tions",
    "\u{202e}\u{feff}",
    "😀",
    "%00%0d%0a",
    "null",
    "-1",
    "9223372036854775808",
    "0x10",
    "core.fs_write",
    "ＭＡＩＮ",
    "main\r\nx: y",
    "sha256:",
    "$.a[*]",
];

/// Chance, by a seed (splitmix64).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end).unwrap()).unwrap()
    }

    /// Whether something happens that happens once in `times`.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }
}

/// What there is to ask for.
#[derive(Clone)]
struct World {
    wire: Wire,
    key: String,
    file: String,
    action: Value,
    account: String,
    principal: String,
    other_key: String,
    policy: String,
}

/// Everything waits for two people.
const HOLD: &str = r#"
decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R", "reason": "r",
    "obligations": {"approval": {"quorum": 2, "roles": ["approver"], "expires_s": 600}},
} if true
"#;

/// A server with one of everything, whose policy then allows everything. Nothing waits for long,
/// so that no answer takes long.
async fn world() -> (Server, TempDir, World) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().canonicalize().unwrap().join("file.txt");
    fs::write(&file, "content").unwrap();
    let root = file.parent().unwrap();
    let server = Server::start(&format!("grants: {{fs_read: [{root:?}]}}"));
    server.publish(&rego(HOLD)).await;
    let roles = ["owner", "approver", "auditor", "builder", "responder"];
    let key = server.key(Kind::User, &roles, "dev").await;
    let wire = Wire::new(&server.url);
    let post = async |path: &str, body: Value| {
        wire.ask_as(&key, "POST", path).json(&body).send().await.good()
    };
    let file = file.to_str().unwrap().to_owned();
    let params = json!({"path": file});
    let action =
        post("/v1/actions", json!({"tool": "core.fs_read", "params": params, "wait_ms": 0}));
    let action = action.await;
    let text = |value: &Value, name: &str| value[name].as_str().unwrap().to_owned();
    let account = post("/v1/accounts", json!({"account_id": "till"})).await;
    let body = json!({"kind": "user", "name": "p", "roles": ["viewer"]});
    let principal = text(&post("/v1/principals", body).await, "principal_id");
    let other_key = post("/v1/keys", json!({"principal_id": principal})).await;
    let policy = server.publish(&allow_all()).await.policy_id;
    let world = World {
        key: key.clone(),
        account: text(&account, "account_id"),
        other_key: text(&other_key, "key_id"),
        wire: wire.clone(),
        action,
        file,
        principal,
        policy,
    };
    (server, folder, world)
}

impl World {
    /// A body that the route takes.
    fn body(&self, rpc: &str) -> Value {
        match rpc {
            "SubmitAction" => json!({
                "tool": "core.fs_read", "params": {"path": self.file, "encoding": "utf8"},
                "environment": "dev", "workspace": "main", "wait_ms": 0,
                "claims": {"target": "t", "data_types": ["pii"], "extra": {"a": [1, {"b": null}]}},
            }),
            "ReconcileAction" => json!({"outcome": "executed", "cost_micro_usd": "5"}),
            "DecideApproval" => json!({
                "decision": "approve", "plan_digest": self.action["plan_digest"], "reason": "r",
            }),
            "DelegateApproval" => json!({"to": self.principal, "reason": "r"}),
            "BreakGlass" => json!({
                "plan_digest": self.action["plan_digest"], "reasons": ["one", "two"],
                "totp_code": "123456",
            }),
            "AddSigningKey" => json!({"public_key_pem": "-----BEGIN", "name": "n"}),
            "ConfirmTotp" | "RemoveTotp" => json!({"code": "123456"}),
            "CreateAccount" => json!({"account_id": fresh("a"), "name": "n"}),
            "FundAccount" => json!({"amount_micro_usd": "12"}),
            "ExportEvidence" => json!({"from_index": 0, "to_index": 2, "full_log": true}),
            "CreateTenant" => json!({"tenant": fresh("t")}),
            "CreateWorkspace" => json!({"workspace": fresh("w"), "environments": ["dev"]}),
            "CreatePrincipal" => json!({
                "kind": "user", "name": "n", "roles": ["viewer"], "account_id": self.account,
            }),
            "UpdatePrincipal" => json!({"roles": ["viewer", "auditor"]}),
            "CreateKey" => json!({
                "principal_id": self.principal, "workspace": "main", "environment": "dev",
                "expires_in_s": 60, "rate_limit_per_min": 10,
            }),
            "CreatePolicyDraft" => json!({"bundle": "H4sIAAAAAAAAA+3B", "description": "d"}),
            "RollbackPolicy" => json!({"to_policy_id": self.policy}),
            "SimulatePolicy" => json!({"policy_id": self.policy, "inputs": [{"phase": "submit"}]}),
            "Simulate" => json!({
                "plan": [{"skill": "http_call", "params": {"url": "u"}, "iterations": 2}],
                "budget_cents": 5, "seed": 1, "timestamp": "2026-01-02T03:04:05Z",
            }),
            "VerifyReceipt" => json!({"receipt_id": "main.0", "public_key_pem": "-----BEGIN"}),
            "VerifyEvidence" => json!([]),
            _ => json!({}),
        }
    }

    fn query(&self, rpc: &str) -> String {
        match rpc {
            "ListActions" => "state=executed&page_size=2&page_token=act_1".to_owned(),
            "ListApprovals" => "state=requested&pageSize=2".to_owned(),
            "ListReceipts" => {
                format!("action_id={}&after_index=0", self.action["action_id"].as_str().unwrap())
            }
            "ListKeys" => format!("principal_id={}&page_size=1", self.principal),
            "GetInclusionProof" => "index=0&size=1".to_owned(),
            "GetConsistencyProof" => "old=0&new=1".to_owned(),
            "ListSkills" => String::new(),
            rpc if rpc.starts_with("List") => "page_size=1&page_token=x".to_owned(),
            _ => String::new(),
        }
    }

    fn part(&self, name: &str) -> String {
        let text = |name: &str| self.action[name].as_str().unwrap().to_owned();
        match name {
            "action_id" | "approval_id" => text(name),
            "account_id" => self.account.clone(),
            "principal_id" => self.principal.clone(),
            "key_id" => self.other_key.clone(),
            "policy_id" => self.policy.clone(),
            "receipt_id" => "main.0".to_owned(),
            "tool_id" => "core.fs_read".to_owned(),
            "skill_id" => "fs_read".to_owned(),
            "resource_id" => self.account.clone(),
            "path" => "0/000.p/1".to_owned(),
            _ => "main".to_owned(),
        }
    }

    /// A request to a route with something wrong in it.
    fn ask(&self, dice: &mut Dice, route: &'static Route) -> Ask {
        let spelled: Vec<&str> =
            std::iter::once(route.path).chain(route.aliases.iter().copied()).collect();
        let spoil = dice.below(8);
        let mut path = fill(dice.pick(&spelled), |name| self.part(name));
        if spoil == 0 && route.path.contains('{') {
            let text = wrong_text(dice);
            let whole = dice.once_in(2);
            path = fill(route.path, |name| {
                if whole { escape(&text) } else { self.part(name) + &escape(&text) }
            });
        }
        let mut query = self.query(route.rpc);
        if spoil <= 2 {
            query = wrong_query(dice, &query);
        }
        if !query.is_empty() && (route.http_method == "GET" || spoil == 2) {
            path = format!("{path}?{query}");
        }
        let ask = self.wire.ask_as(&self.key, route.http_method, &path);
        let headers = dice.once_in(6);
        let ask = if headers { wrong_header(dice, ask) } else { ask };
        if route.http_method == "GET" {
            return ask;
        }
        let mut body = wrong_body(dice, self.body(route.rpc));
        // What is refused by its head is answered before its body is read; a long body is then
        // cut off, which the sender may see before the answer.
        body.truncate(if headers || spoil == 0 { 2_000 } else { 1 << 20 });
        ask.bytes(body)
    }
}

/// Percent-encoded, so that it goes into a path as it is.
fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn wrong_text(dice: &mut Dice) -> String {
    match dice.below(24) {
        0 => "x".repeat(4_000),
        1 => "é".repeat(300),
        _ => dice.pick(&TEXTS).to_owned(),
    }
}

fn wrong_value(dice: &mut Dice) -> Value {
    match dice.below(12) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(i64::MIN),
        5 => json!([]),
        6 => json!({"a": {}}),
        7 => json!("x".repeat(70_000)),
        8 | 9 => json!(format!("RAW{:02}", dice.below(RAW.len()))),
        _ => json!(wrong_text(dice)),
    }
}

/// Puts something wrong somewhere below `value`.
fn spoil(dice: &mut Dice, value: &mut Value) {
    let deeper = !dice.once_in(3);
    match value {
        Value::Object(object) if deeper && !object.is_empty() => {
            let nth = dice.below(object.len());
            let (name, inner) = object.iter_mut().nth(nth).unwrap();
            let name = name.clone();
            match dice.below(8) {
                0 => drop(object.remove(&name)),
                1 => drop(object.insert(wrong_text(dice), json!(1))),
                2 => {
                    let moved = object.remove(&name).unwrap();
                    object.insert(name.to_uppercase(), moved);
                }
                _ => spoil(dice, inner),
            }
        }
        Value::Array(list) if deeper && !list.is_empty() => {
            let nth = dice.below(list.len());
            if dice.once_in(4) {
                *list = vec![list[nth].clone(); 300];
            } else {
                spoil(dice, &mut list[nth]);
            }
        }
        _ => *value = wrong_value(dice),
    }
}

/// A body with something wrong in its values, its text or its bytes.
fn wrong_body(dice: &mut Dice, mut body: Value) -> Vec<u8> {
    for _ in 0..dice.below(3) {
        spoil(dice, &mut body);
    }
    let mut text = body.to_string();
    for (nth, raw) in RAW.iter().enumerate() {
        text = text.replace(&format!("\"RAW{nth:02}\""), raw);
    }
    let mut bytes = text.into_bytes();
    match dice.below(14) {
        0 => bytes.truncate(dice.below(bytes.len() + 1)),
        1 => bytes.insert(dice.below(bytes.len() + 1), 0xff),
        2 => bytes.insert(dice.below(bytes.len() + 1), 0),
        3 if !bytes.is_empty() => {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(7);
        }
        4 => {
            let depth = [63, 64, 65, 127, 128, 129, 5_000][dice.below(7)];
            let deep = [b"[".repeat(depth), b"]".repeat(depth)].concat();
            bytes = [b"{\"tool\":\"core.fs_read\",\"params\":", deep.as_slice(), b"}"].concat();
        }
        5 => bytes = [bytes.as_slice(), bytes.as_slice()].concat(),
        6 => {
            // Every key twice.
            let inner = String::from_utf8_lossy(&bytes).trim_matches(['{', '}']).to_owned();
            bytes = format!("{{{inner},{inner}}}").into_bytes();
        }
        7 => bytes = [b"\xef\xbb\xbf", bytes.as_slice()].concat(),
        _ => {}
    }
    bytes
}

fn wrong_query(dice: &mut Dice, query: &str) -> String {
    let text = escape(&wrong_text(dice));
    match dice.below(7) {
        0 => format!("{query}&{query}"),
        1 => format!("{query}&{text}={text}"),
        2 => "page_size=99999999999999999999".to_owned(),
        3 => "page_size=%FF&index=-1".to_owned(),
        4 => query.split('=').next().unwrap_or("x").to_owned() + "=" + &text,
        5 => "index=18446744073709551615&size=18446744073709551615&old=1&new=0".to_owned(),
        _ => format!("{query}&&=&"),
    }
}

fn wrong_header(dice: &mut Dice, ask: Ask) -> Ask {
    let long = "k".repeat(300);
    match dice.below(8) {
        0 => ask.bytes_header("idempotency-key", b"\xff\xfe"),
        1 => ask.idempotency(&long),
        2 => ask.header("traceparent", "00-zz-zz-zz"),
        3 => ask.bytes_header("x-request-id", b"\xc3\x28"),
        4 => ask.bytes_header("content-type", b"text/plain; charset=\xff"),
        5 => ask.header("content-type", "application/grpc"),
        6 => ask.bytes_header("authorization", b"Bearer \xff"),
        _ => ask.header("x-forwarded-for", "127.0.0.1").header("accept", "text/html"),
    }
}

async fn work(world: World, seed: u64, worker: u64) {
    let mut dice = Dice(seed.wrapping_add(worker));
    for nth in 0..REQUESTS_EACH {
        let route = &ROUTES[dice.below(ROUTES.len())];
        let ask = world.ask(&mut dice, route);
        let shown = format!("seed {seed}, worker {worker}, request {nth}: {ask:?}");
        let reply = ask.try_send().await.unwrap_or_else(|error| panic!("{error}: {shown}"));
        assert!(reply.status < 500, "{} {}: {shown}", reply.status, reply.text());
        let grpc = reply.header("content-type") == "application/grpc";
        if reply.status >= 400 && !grpc {
            reply.error();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_and_nothing_breaks() {
    let seed = std::env::var("FUZZ_SEED").map_or(SEED, |seed| seed.parse().unwrap());
    println!("FUZZ_SEED={seed}");
    let (server, _folder, world) = world().await;
    let workers = (0..WORKERS).map(|worker| tokio::spawn(work(world.clone(), seed, worker)));
    for worker in workers.collect::<Vec<_>>() {
        worker.await.unwrap();
    }
    // Some of the requests brought other policies into force.
    server.publish(&allow_all()).await;
    let body = json!({"tool": "core.fs_read", "params": {"path": world.file}, "wait_ms": 30_000});
    let ask = world.wire.ask_as(&world.key, "POST", "/v1/actions").json(&body);
    assert_eq!(ask.send().await.good()["state"], "executed");
    for log in ["main", "control"] {
        let ask = world.wire.ask_as(&world.key, "POST", &format!("/v1/ledger/{log}/verify"));
        let report = ask.send().await.good();
        assert_eq!(report["valid"], true, "{log}: {report}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_only_ids() {
    let (_server, _folder, world) = world().await;
    for (route, path) in paths().filter(|(_, path)| path.contains('{')) {
        // One of the texts is a tool's real id.
        for text in TEXTS.into_iter().filter(|text| !["", "core.fs_write"].contains(text)) {
            let path = fill(path, |_| escape(text));
            let ask = world.wire.ask_as(&world.key, route.http_method, &path);
            let get = route.http_method == "GET";
            let ask = if get { ask } else { ask.json(&world.body(route.rpc)) };
            let reply = ask.send().await;
            assert!(
                [400, 404].contains(&reply.status),
                "{path}: {} {}",
                reply.status,
                reply.text()
            );
            reply.error();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_two_readers_could_understand_differently() {
    let (_server, _folder, world) = world().await;
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    let cases = [
        (r#"{"a":{"k":1,"k":2}}"#.to_owned(), "json_duplicate_key", "/a/k"),
        (r#"{"k":1,"\u006b":2}"#.to_owned(), "json_duplicate_key", "/k"),
        (r#"{"n":[1,9007199254740993]}"#.to_owned(), "json_number", "/n/1"),
        (r#"{"n":{"x":1e400}}"#.to_owned(), "json_number", "/n/x"),
        (r#"{"n":-9007199254740993}"#.to_owned(), "json_number", "/n"),
        (r#"{"n":0.1234567890123456789}"#.to_owned(), "json_number", "/n"),
        (format!("{{\"d\":{}}}", nested(64)), "json_too_deep", "/d"),
        (r#"{"s":"\ud800"}"#.to_owned(), "json_lone_surrogate", "/s"),
        (format!("{{\"s\":\"{}\"}}", "x".repeat(1 << 20)), "json_too_long", "bytes"),
    ];
    for (json, code, place) in cases {
        for (field, body) in [
            ("params", format!("{{\"tool\":\"core.fs_read\",\"params\":{json}}}")),
            (
                "claims.extra",
                format!("{{\"tool\":\"core.fs_read\",\"claims\":{{\"extra\":{json}}}}}"),
            ),
        ] {
            let reply =
                world.wire.ask_as(&world.key, "POST", "/v1/actions").bytes(body).send().await;
            assert_eq!((reply.status, reply.code().as_str()), (400, code), "{}", reply.text());
            let message = reply.error()["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with(field) && message.contains(place), "{message}");
        }
    }
    // What is at the limit is read: only then it is found that the tool takes no such parameters.
    let body = format!("{{\"tool\":\"core.fs_read\",\"params\":{{\"d\":{}}}}}", nested(63));
    let reply = world.wire.ask_as(&world.key, "POST", "/v1/actions").bytes(body).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "params_invalid"), "{}", reply.text());
    for body in [r#"{"tool":"core.fs_read","tool":"core.fs_write"}"#, r#"{"waitMs":1,"wait_ms":2}"#]
    {
        let reply = world.wire.ask_as(&world.key, "POST", "/v1/actions").bytes(body).send().await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (400, "invalid_body"),
            "{}",
            reply.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn money_is_a_positive_whole_number() {
    let (_server, _folder, world) = world().await;
    for amount in [
        "0",
        "-1",
        "\"-5\"",
        "1.5",
        "\"1.5\"",
        "1e400",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "1000000000000001",
        "null",
        "\"\"",
        "true",
        "[1]",
        "\"0x10\"",
    ] {
        let ask = world.wire.ask_as(&world.key, "POST", "/v1/accounts/till/fund");
        let reply = ask.bytes(format!("{{\"amount_micro_usd\":{amount}}}")).send().await;
        assert_eq!(reply.status, 400, "{amount}: {}", reply.text());
        reply.error();
    }
    let till = world.wire.ask_as(&world.key, "GET", "/v1/accounts/till").send().await.good();
    assert_eq!((&till["funded_micro_usd"], &till["frozen"]), (&"0".into(), &false.into()));
}

/// Sends bytes as they are and reads what comes back: nothing where the server closes first.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let address = server.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut answer = vec![0; 4_096];
    let exchanged = stream.write_all(bytes).and_then(|()| stream.read(&mut answer));
    let length = match exchanged {
        Ok(length) => length,
        Err(error)
            if [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset].contains(&error.kind()) =>
        {
            0
        }
        Err(error) => panic!("no answer: {error}"),
    };
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[test]
fn what_is_no_http_ends_the_connection_only() {
    let server = Server::start("");
    let long_header =
        format!("GET /health HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    for bytes in [
        &b"GET / HTTP/9.9\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /v1/\0actions HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: a\r\nx-api-key: a\0b\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nhost: a\r\ncontent-length: x\r\n\r\n",
        b"POST /v1/actions HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        long_header.as_bytes(),
    ] {
        let answer = exchange(&server, bytes);
        let refused = answer.is_empty() || answer.starts_with("HTTP/1.1 4");
        assert!(refused, "{:?}: {answer}", String::from_utf8_lossy(&bytes[..bytes.len().min(80)]));
    }
    let alive = exchange(&server, b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
}

#[test]
fn bodies_beyond_the_limit_are_refused_before_they_are_read() {
    let server = Server::start("");
    let key = server.owner_key();
    let head = |path: &str, length: usize| {
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n");
        format!("{head}idempotency-key: k\r\ncontent-length: {length}\r\n\r\n")
    };
    for (path, limit) in [
        ("/v1/actions", 2 << 20),
        ("/v1/policies", 2 << 20),
        ("/v1/evidence/exports", 2 << 20),
        ("/v1/evidence/verify", 64 << 20),
    ] {
        let answer = exchange(&server, head(path, limit + 1).as_bytes());
        assert!(answer.starts_with("HTTP/1.1 413"), "{path}: {answer}");
        let body = answer.split_once("\r\n\r\n").unwrap().1;
        let error = &serde_json::from_str::<Value>(body).unwrap()["error"];
        assert_eq!(error["code"], "request_too_large");
        assert!(error["message"].as_str().unwrap().contains(&limit.to_string()), "{error}");
    }
    // Without an announced length it is counted. Not one byte more is sent, so that the server
    // has read everything when it closes.
    let chunk = format!("{:x}\r\n{}", (2 << 20) + 1, " ".repeat((2 << 20) + 1));
    let head = format!("POST /v1/actions HTTP/1.1\r\nhost: a\r\nx-api-key: {key}\r\n");
    let request = format!("{head}transfer-encoding: chunked\r\n\r\n{chunk}");
    let answer = exchange(&server, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
}
