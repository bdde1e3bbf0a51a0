//! Every way in: gRPC beside REST, what is public, TLS, configuration, and a gentle end; and that
//! no secret gets out by any of them.

use std::fs;
use std::net::{SocketAddr, TcpListener as StdListener, TcpStream as StdStream};
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use proto::actions::action::State;
use proto::actions::actions_service_client::ActionsServiceClient;
use proto::actions::{Action, GetActionRequest};
use proto::error::error_from_status;
use proto::identity::CreatePrincipalRequest;
use proto::identity::identity_service_client::IdentityServiceClient;
use proto::identity::principal::Kind;
use proto::routes::ROUTES;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Request, Status};

use crate::common::process::first_line;
use crate::common::wire::{Wire, fresh};
use crate::common::{
    LOOK_EVERY, PATIENCE, Server, action, allow_all, assert_code, command, json as document,
    reaches, rego, tally,
};

type Grpc<B> = Pool<HttpConnector, B>;

fn grpc<B>() -> Grpc<B>
where
    B: hyper::body::Body + Send + 'static,
    B::Data: Send,
{
    Pool::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new())
}

/// A call with a key, and with an idempotency key where there is one.
fn call<T>(message: T, key: &str, idempotency: &str) -> Request<T> {
    let mut request = Request::new(message);
    if !key.is_empty() {
        request.metadata_mut().insert("x-api-key", key.parse().unwrap());
    }
    if !idempotency.is_empty() {
        request.metadata_mut().insert("idempotency-key", idempotency.parse().unwrap());
    }
    request
}

/// A file that may be read, the server that may, and a parameter object that reads it.
fn reading() -> (Server, tempfile::TempDir, Value) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    fs::write(root.join("file.txt"), "content").unwrap();
    let server = Server::start(&format!("grants: {{fs_read: [{root:?}]}}"));
    let params = json!({"path": root.join("file.txt")});
    (server, folder, params)
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_does_what_rest_does() {
    let (server, _folder, params) = reading();
    server.publish(&allow_all()).await;
    let key = server.key(Kind::Agent, &["agent"], "dev").await;
    let mut actions = ActionsServiceClient::with_origin(grpc(), server.url.parse().unwrap());
    let submit = action("core.fs_read", &params);
    let submitted = actions.submit_action(call(submit.clone(), &key, "once")).await.unwrap();
    let submitted: Action = submitted.into_inner();
    assert_eq!(submitted.state(), State::Executed, "{submitted:?}");

    let get = GetActionRequest { action_id: submitted.action_id.clone() };
    let read = actions.get_action(call(get, &key, "")).await.unwrap().into_inner();
    let wire = Wire::new(&server.url);
    let path = format!("/v1/actions/{}", submitted.action_id);
    let rest = wire.ask_as(&key, "GET", &path).send().await.good();
    assert_eq!(serde_json::to_value(&read).unwrap(), rest);
    // The idempotency key is the same on both surfaces.
    let body = serde_json::to_value(&submit).unwrap();
    let again = wire.ask_as(&key, "POST", "/v1/actions").json(&body).idempotency("once");
    assert_eq!(again.send().await.good()["action_id"], submitted.action_id.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_refuses_as_rest_does() {
    let (server, _folder, params) = reading();
    let owner = server.owner_key();
    let viewer = server.key(Kind::User, &["viewer"], "dev").await;
    let origin = || server.url.parse().unwrap();
    let mut actions = ActionsServiceClient::with_origin(grpc(), origin());
    let mut identity = IdentityServiceClient::with_origin(grpc(), origin());
    let wire = Wire::new(&server.url);
    let same =
        async |status: Status, code: Code, method: &str, path: &str, key: &str, body: &Value| {
            assert_eq!(status.code(), code, "{status:?}");
            let ask = wire.ask(method, path);
            let ask = if key.is_empty() { ask } else { ask.header("x-api-key", key) };
            let mut rest = if method == "GET" { ask } else { ask.json(body) }.send().await.error();
            let mut told = serde_json::to_value(error_from_status(&status)).unwrap();
            assert_eq!(told["message"], status.message());
            rest["request_id"] = Value::Null;
            told["request_id"] = Value::Null;
            assert_eq!(told, rest);
        };
    let submit = action("core.fs_read", &params);
    let body = serde_json::to_value(&submit).unwrap();
    let path = "/v1/actions";
    let refused = actions.submit_action(call(submit.clone(), "", "")).await.unwrap_err();
    same(refused, Code::Unauthenticated, "POST", path, "", &body).await;
    let refused = actions.submit_action(call(submit.clone(), &viewer, "")).await.unwrap_err();
    same(refused, Code::PermissionDenied, "POST", path, &viewer, &body).await;
    let other = proto::actions::SubmitActionRequest { environment: "prod".to_owned(), ..submit };
    let body = serde_json::to_value(&other).unwrap();
    let refused = actions.submit_action(call(other, &owner, "")).await.unwrap_err();
    same(refused, Code::PermissionDenied, "POST", path, &owner, &body).await;
    let get = GetActionRequest { action_id: "act_absent".to_owned() };
    let refused = actions.get_action(call(get, &viewer, "")).await.unwrap_err();
    same(refused, Code::NotFound, "GET", "/v1/actions/act_absent", &viewer, &Value::Null).await;
    let create = CreatePrincipalRequest { name: "n".to_owned(), ..Default::default() };
    let body = serde_json::to_value(&create).unwrap();
    let refused = identity.create_principal(call(create, &owner, "")).await.unwrap_err();
    same(refused, Code::InvalidArgument, "POST", "/v1/principals", &owner, &body).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rpc_is_behind_the_gate() {
    let server = Server::start("");
    let none = server.key(Kind::User, &["viewer"], "dev").await;
    let pool: Grpc<Full<Bytes>> = grpc();
    let ask = async |path: &str, key: &str| {
        let request = hyper::Request::post(format!("{}{path}", server.url))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-api-key", key)
            .body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0])))
            .unwrap();
        let reply = pool.request(request).await.unwrap();
        assert_eq!(reply.status(), 200, "{path}");
        reply.headers().get("grpc-status").map(|status| status.to_str().unwrap().to_owned())
    };
    let readable = kernel::principal::Role::Viewer.permissions();
    for route in ROUTES {
        let Some(permission) = route.permission else { continue };
        let status = ask(route.grpc_path, "tally_no_key").await;
        assert_eq!(status.as_deref(), Some("16"), "{}", route.grpc_path);
        if !readable.contains(&permission) {
            let status = ask(route.grpc_path, &none).await;
            assert_eq!(status.as_deref(), Some("7"), "{}", route.grpc_path);
        }
    }
    let status = ask("/tally.actions.v1.ActionsService/NoSuch", &none).await;
    assert_eq!(status.as_deref(), Some("12"));
    // The same rpc in another spelling is no way around.
    let status = ask("/tally.actions.v1.ActionsService/%53ubmitAction", &none).await;
    assert_eq!(status.as_deref(), Some("12"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_public() {
    let server = Server::start("");
    let wire = Wire::new(&server.url);
    for path in ["/health", "/healthz"] {
        assert_eq!(wire.ask("GET", path).send().await.good(), json!({"status": "ok"}));
    }
    let ready = wire.ask("GET", "/readyz").send().await.good();
    assert_eq!(ready["ready"], true);
    let names: Vec<_> = ready["checks"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert_eq!(names, ["control_store", "store", "policy"]);
    let version = wire.ask("GET", "/version").send().await.good();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!((&version["protocol_version"], &version["schema_version"]), (&1.into(), &1.into()));
    let openapi = wire.ask("GET", "/openapi.json").send().await;
    assert_eq!(openapi.text(), proto::OPENAPI_JSON);
    assert_eq!(wire.ask("HEAD", "/health").send().await.status, 200);
    let secret_path = "/v1/secret-canary";
    assert_eq!(wire.ask("GET", secret_path).send().await.status, 404);

    let metrics = wire.ask("GET", "/metrics").send().await;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!((metrics.status, metrics.header("content-type")), (200, kind));
    let text = metrics.text();
    assert!(text.ends_with("# EOF\n"));
    for line in text.lines() {
        let comment = ["# HELP tally_", "# TYPE tally_", "# UNIT tally_", "# EOF"];
        if comment.iter().any(|start| line.starts_with(start)) {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(name.starts_with("tally_") && labels.ends_with('}'), "{line}");
    }
    assert!(text.contains("tally_requests_total{rpc=\"GetHealth\",status=\"200\"} 3\n"), "{text}");
    assert!(text.contains("tally_requests_total{rpc=\"other\",status=\"404\"} 1\n"), "{text}");
    assert!(!text.contains("secret-canary"), "paths are no labels");
}

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_by_flags() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (data, pem) = (folder.path().join("data"), |path: &Path| path.to_str().unwrap().to_owned());
    let (cert, key, data) = (pem(&cert), pem(&key), pem(&data));
    let args = ["serve", "--data", &data, "--listen", "127.0.0.1:0", "--tls-cert", &cert];
    assert_code(&tally(&args), 2);
    let args = [&args[..], &["--tls-key", &key]].concat();
    let child = command(&args).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    let line = first_line(&mut process.0);
    let url = line.trim_end().strip_prefix("listening on ").unwrap();
    assert!(url.starts_with("https://127.0.0.1:"), "{url}");

    let credentials = format!("{data}/credentials.json");
    let list = ["tenant", "list", "--json", "--credentials", &credentials];
    let trusting = command(&list).env("TALLY_CA_FILE", &cert).output().unwrap();
    assert_code(&trusting, 0);
    assert_eq!(document(&trusting)["tenants"][0]["tenant"], "main");
    assert_code(&tally(&list), 7);
    // Plain HTTP gets no answer on this port.
    let plain = Wire::new(&url.replace("https://", "http://"));
    let refused = plain.ask("GET", "/health").try_send().await;
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn bad_configuration_binds_no_port() {
    // The port is taken: whoever got so far as to bind it would say so.
    let taken = StdListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (file, data) = (folder.path().join("tally.yaml"), folder.path().join("data"));
    fs::write(folder.path().join("no.pem"), "no certificate").unwrap();
    let pem = folder.path().join("no.pem");
    for (yaml, named) in [
        ("unknown: 1".to_owned(), "unknown"),
        ("host: 'a b'".to_owned(), "host"),
        ("tenant: UPPER".to_owned(), "tenant"),
        ("workspace: control".to_owned(), "workspace"),
        ("listen: nowhere".to_owned(), "listen"),
        ("policy: {ttl_s: 0}".to_owned(), "ttl_s"),
        ("policy: {unknown: 0}".to_owned(), "unknown"),
        ("grants: {fs_read: [/no/such/folder]}".to_owned(), "/no/such/folder"),
        ("grants: {fs_write: [relative]}".to_owned(), "relative"),
        ("grants: {http: [{host: 'http://a/b'}]}".to_owned(), "http://a/b"),
        ("grants: {http: [{host: '*', private: true}]}".to_owned(), "private"),
        ("prices: {no.tool: 5}".to_owned(), "no.tool"),
        (format!("extra_ca: {pem:?}"), "extra_ca"),
        ("extra_ca: /no/such/file".to_owned(), "/no/such/file"),
        (format!("tls: {{cert: {pem:?}, key: {pem:?}}}"), "tls"),
    ] {
        fs::write(&file, &yaml).unwrap();
        let mut args = vec!["serve", "--config", file.to_str().unwrap()];
        args.extend(["--data", data.to_str().unwrap()]);
        let address = address.to_string();
        if !yaml.starts_with("listen") {
            args.extend(["--listen", &address]);
        }
        let refused = tally(&args);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(64), "{yaml}: {said}");
        assert!(refused.stdout.is_empty(), "{yaml}");
        assert_eq!(said.lines().count(), 1, "{yaml}: {said}");
        assert!(said.contains(named), "{yaml}: {said}");
        assert!(!data.exists(), "{yaml}: nothing was made");
    }
}

#[test]
fn a_data_folder_has_one_server() {
    let server = Server::start("");
    let data = server.data.to_str().unwrap();
    let second = tally(&["serve", "--data", data, "--listen", "127.0.0.1:0"]);
    assert_code(&second, 1);
    assert!(second.stdout.is_empty());
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains("in use by another server") && said.contains(data), "{said}");
}

/// A system that answers a request when it is let, and tells what came.
struct Target {
    address: SocketAddr,
    came: mpsc::UnboundedReceiver<String>,
    go: Arc<Semaphore>,
}

/// What ends the body of each request to a target.
const END: &str = "END";

impl Target {
    async fn start(answer: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tell, came) = mpsc::unbounded_channel();
        let go = Arc::new(Semaphore::new(0));
        let held = go.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (tell, held, answer) = (tell.clone(), held.clone(), answer.clone());
                tokio::spawn(async move {
                    let (mut text, mut part) = (String::new(), [0; 4_096]);
                    while !text.ends_with(END) {
                        let length = stream.read(&mut part).await.unwrap();
                        assert!(length > 0, "a request without its end: {text}");
                        text.push_str(std::str::from_utf8(&part[..length]).unwrap());
                    }
                    tell.send(text).unwrap();
                    held.acquire().await.unwrap().forget();
                    let head = "HTTP/1.1 200 OK\r\nconnection: close\r\n";
                    let reply = format!("{head}content-length: {}\r\n\r\n{answer}", answer.len());
                    stream.write_all(reply.as_bytes()).await.unwrap();
                });
            }
        });
        Self { address, came, go }
    }

    fn grant(&self) -> String {
        let (host, port) = (self.address.ip(), self.address.port());
        format!("grants: {{http: [{{host: {host}, port: {port}, private: true}}]}}")
    }

    async fn next(&mut self) -> String {
        timeout(PATIENCE, self.came.recv()).await.unwrap().unwrap()
    }
}

/// Ends a server while a call is under way, with a caller who waits for it or one who does not.
async fn ends_gently(wait_ms: u32) {
    let mut target = Target::start("late".to_owned()).await;
    let mut server = Server::start(&target.grant());
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let url = format!("http://{}/", target.address);
    let mut submit = action("core.http_call", &json!({"url": url, "method": "POST", "body": END}));
    submit.wait_ms = Some(wait_ms);
    let asking = {
        let agent = agent.clone();
        tokio::spawn(async move { agent.submit_action(&submit, None).await.unwrap() })
    };
    target.next().await;
    let address: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let ending = tokio::task::spawn_blocking(move || {
        let status = server.terminate();
        (server, status)
    });
    let until = Instant::now() + PATIENCE;
    while StdStream::connect(address).is_ok() {
        assert!(Instant::now() < until, "it still takes connections");
        sleep(LOOK_EVERY).await;
    }
    target.go.add_permits(1);
    let answer = asking.await.unwrap();
    let waited = if wait_ms == 0 { State::Executing } else { State::Executed };
    assert_eq!(answer.state(), waited, "{answer:?}");
    let (mut server, status) = ending.await.unwrap();
    assert!(status.success(), "{status}");
    server.restart();
    let action = reaches(&agent, &answer.action_id, State::Executed).await;
    assert_eq!(action.attempt, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_server_lets_its_actions_end() {
    tokio::join!(ends_gently(0), ends_gently(60_000));
}

/// The ways in which bytes could be written down.
fn spellings(secret: &str) -> Vec<String> {
    let mut found = vec![secret.to_owned(), hex::encode(secret), hex::encode_upper(secret)];
    for before in 0..3 {
        let text = format!("{}{secret}", "\0".repeat(before));
        for engine in [STANDARD, URL_SAFE] {
            // Characters that bytes beside the secret take part in are left out.
            let encoded = engine.encode(&text);
            let skipped = (before * 8).div_ceil(6);
            let whole = text.len() * 8 / 6;
            found.push(encoded.chars().take(whole).skip(skipped).collect());
        }
    }
    found
}

/// Every file below a folder with what is in it.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).unwrap()));
        }
    }
    found
}

fn holds(text: &str, secret: &str) -> bool {
    spellings(secret).iter().any(|spelling| text.contains(spelling.as_str()))
}

/// Texts that nobody but those who are told may see.
struct Secrets(Vec<String>);

impl Secrets {
    fn make(&mut self, kind: &str) -> String {
        let secret = format!("{}-do-not-tell-anybody", fresh(&format!("canary-{kind}")));
        self.0.push(secret.clone());
        secret
    }

    /// What comes after the id of an API key.
    fn key(&mut self, key: &str) {
        self.0.push(key.rsplit_once('_').unwrap().1.to_owned());
    }

    #[track_caller]
    fn absent_from(&self, place: &str, bytes: &[u8]) {
        // The secrets are ASCII, so what is no text beside them does not hide them.
        let text = String::from_utf8_lossy(bytes);
        for secret in &self.0 {
            assert!(!holds(&text, secret), "{place} holds {secret}");
        }
    }
}

/// Writes are held for a person, the rest runs.
const HOLD_WRITES: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R-WRITE", "reason": "write",
    "obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 600}},
} if "write" in input.tool.labels
"#;

/// Requests that are refused or fail, with secrets in them: no answer repeats them.
async fn errors_say_nothing(wire: &Wire, key: &str, secrets: &mut Secrets, good: &str) {
    let ask = async |method: &str, path: String, body: Value| {
        let ask = wire.ask_as(key, method, &path);
        let reply = if method == "GET" { ask } else { ask.json(&body) }.send().await;
        secrets.absent_from(&path, reply.text().as_bytes());
        reply
    };
    let canary = "canary-in-an-error-do-not-tell-anybody";
    let call =
        |params: Value| json!({"tool": "core.http_call", "params": params, "wait_ms": 60_000});
    for body in [
        call(json!({"url": good, "method": canary})),
        call(json!({"url": good, "headers": {"authorization": format!("{canary}\n")}})),
        call(json!({"url": good, "headers": {"authorization": [canary]}})),
        call(json!({"url": format!("http://user:{canary}@127.0.0.1/")})),
        call(json!({"url": format!("http://169.254.169.254/?token={canary}")})),
        call(json!({"url": good, "body": [canary]})),
        json!({"tool": "core.http_call", "params": canary}),
    ] {
        let reply = ask("POST", "/v1/actions".to_owned(), body.clone()).await;
        let text = reply.text();
        assert!(reply.status == 400 || text.contains("\"error\":{"), "{body}: {text}");
        assert!(!text.contains(canary), "{body}: {text}");
    }
    secrets.0.push(canary.to_owned());
    let reply = wire.ask("GET", "/v1/tools").header("x-api-key", &format!("{key}x")).send().await;
    assert_eq!(reply.status, 401);
    secrets.absent_from("a refused credential", reply.text().as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_is_written_anywhere() {
    let mut secrets = Secrets(Vec::new());
    let mut target = Target::start(secrets.make("answer")).await;
    target.go.add_permits(10);
    let mut server = Server::start(&target.grant());
    let (wire, owner) = (Wire::new(&server.url), server.owner_key());
    let post = async |key: &str, path: &str, body: Value| {
        wire.ask_as(key, "POST", path).json(&body).send().await.good()
    };
    server.publish(&rego(HOLD_WRITES)).await;
    let enrol = async |kind: &str, role: &str, secrets: &mut Secrets| {
        let body = json!({"kind": kind, "name": secrets.make("name"), "roles": [role]});
        let id = post(&owner, "/v1/principals", body).await["principal_id"].clone();
        let key = post(&owner, "/v1/keys", json!({"principal_id": id})).await["key"].clone();
        let key = key.as_str().unwrap().to_owned();
        secrets.key(&key);
        key
    };
    let agent = enrol("agent", "agent", &mut secrets).await;
    let approver = enrol("user", "approver", &mut secrets).await;
    let auditor = enrol("user", "auditor", &mut secrets).await;
    secrets.key(&owner);
    let account = json!({"account_id": "till", "name": secrets.make("account")});
    post(&owner, "/v1/accounts", account).await;

    let (token, content) = (secrets.make("token"), secrets.make("body"));
    let url = format!("http://{}/?key={}", target.address, secrets.make("query"));
    let headers = json!({"authorization": format!("Bearer {token}")});
    let params = json!({
        "url": url, "method": "POST", "headers": headers, "body": format!("{content}{END}"),
    });
    let claims = json!({"target": secrets.make("claim"), "extra": {"said": secrets.make("extra")}});
    let body = json!({"tool": "core.http_call", "params": params, "claims": claims, "wait_ms": 0});
    let held = post(&agent, "/v1/actions", body).await;
    let text = |name: &str| held[name].as_str().unwrap().to_owned();
    let path = format!("/v1/approvals/{}/decision", text("approval_id"));
    let reason = secrets.make("reason");
    let vote = json!({"decision": "approve", "plan_digest": held["plan_digest"], "reason": reason});
    post(&approver, &path, vote).await;
    let came = target.next().await;
    assert!(came.contains(&token) && came.contains(&content), "{came}");
    let client = client::Client::new(&server.url, &agent).unwrap();
    let done = reaches(&client, &text("action_id"), State::Executed).await;
    assert!(done.result.unwrap().text.contains(&secrets.0[0]), "the agent gets the answer");
    errors_say_nothing(&wire, &agent, &mut secrets, &url).await;

    for (key, method, path) in [
        (&auditor, "GET", "/v1/receipts?page_size=200".to_owned()),
        (&auditor, "POST", "/v1/evidence/exports".to_owned()),
        (&auditor, "GET", "/v1/keys".to_owned()),
        (&auditor, "GET", format!("/v1/ledger/main/tile/entries/000.p/{}", 2)),
        (&auditor, "GET", "/metrics".to_owned()),
    ] {
        let reply = wire.ask_as(key, method, &path).send().await;
        secrets.absent_from(&path, &reply.body);
        let unpacked = unpacked(&reply.body);
        secrets.absent_from(&path, unpacked.as_bytes());
    }
    check_files(&server, &secrets, &text("action_id"), "while it runs");
    assert!(server.terminate().success());
    check_files(&server, &secrets, &text("action_id"), "afterwards");
    secrets.absent_from("the log", server.log().as_bytes());
}

/// What the payloads of envelopes say, which are base64.
fn unpacked(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let payloads = text.split("\"payload\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let decoded = payloads.filter_map(|payload| STANDARD.decode(payload).ok());
    decoded.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
}

fn check_files(server: &Server, secrets: &Secrets, known: &str, when: &str) {
    let found = files(&server.data);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stored = found.iter().filter(|(name, _)| name.contains("sqlite"));
    let shown = stored.filter(|(_, bytes)| text(bytes).contains(known));
    assert!(shown.count() > 0, "{when}: this would find an id");
    for (name, bytes) in found {
        if name.ends_with("credentials.json") {
            let shown = text(&bytes);
            assert!(secrets.0.iter().any(|secret| holds(&shown, secret)), "it would find a key");
        } else {
            secrets.absent_from(&format!("{name}, {when},"), &bytes);
        }
    }
}
