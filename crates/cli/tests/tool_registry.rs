//! Tools that are given as code: registered, granted, called, revoked; and what is refused.

mod repeated;
mod source;

use std::fs;
use std::path::Path;

use client::Client;
use proto::actions::Action;
use proto::actions::action::State as ActionState;
use proto::identity::CreateTenantRequest;
use proto::identity::principal::Kind;
use proto::tools::tool_registration::State;
use proto::tools::{
    GetToolRegistrationRequest, GetToolRequest, GrantToolRequest, ListToolRegistrationsRequest,
    ListToolsRequest, RegisterToolRequest, RevokeToolRequest, ToolCapabilities, ToolLimits,
    ToolNetwork, ToolRegistration,
};
use proto::types::Json;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use crate::common::{
    PATIENCE, Server, action, allow_all, assert_code, json as printed, reaches, refusal, text,
};

type Answer<T> = Result<T, client::Error>;

/// What the server lets anybody grant.
const CEILING: &str = "
policy: {decision_limit_ms: 5000}
sandbox:
  wasm: {memory_limit_mb: 64, cpu_quota_ms: 30000}
  capabilities:
    file_read: ['/data/*']
    network: {allowlist: ['*.example.com']}
    env: ['ACME_*']
";

/// A component that gives back what it is given. `mark` makes its bytes differ from another's.
fn echo(mark: &str) -> Vec<u8> {
    wat::parse_str(format!(
        r#"(component
    (core module $code
        (memory (export "memory") 2)
        (data (i32.const 1024) "{mark}")
        (global $next (mut i32) (i32.const 65536))
        (func (export "realloc") (param i32 i32 i32 i32) (result i32)
            (local $at i32)
            (local.set $at (global.get $next))
            (global.set $next (i32.add (local.get $at)
                (i32.and (i32.add (local.get 3) (i32.const 7)) (i32.const -8))))
            (local.get $at))
        (func (export "run") (param $at i32) (param $len i32) (result i32)
            (i32.store (i32.const 16) (i32.const 0))
            (i32.store (i32.const 20) (local.get $at))
            (i32.store (i32.const 24) (local.get $len))
            (i32.const 16)))
    (core instance $code (instantiate $code))
    (alias core export $code "memory" (core memory $memory))
    (alias core export $code "realloc" (core func $realloc))
    (func (export "run") (param "input" string) (result (result string (error string)))
        (canon lift (core func $code "run") (memory $memory) (realloc $realloc))))"#
    ))
    .unwrap()
}

fn manifest(id: &str, version: &str) -> Value {
    json!({
        "id": id,
        "version": version,
        "description": "Gives back what it is given.",
        "input_schema": {"type": "object", "properties": {"n": {"type": "integer"}}},
        "output_schema": {"type": "object"},
        "labels": ["read"],
    })
}

async fn register(client: &Client, manifest: &Value, code: Vec<u8>) -> Answer<ToolRegistration> {
    let manifest = Some(Json::of(manifest).unwrap());
    let request = RegisterToolRequest { manifest, component: code, ..Default::default() };
    client.register_tool(&request, None).await
}

async fn inspect(client: &Client, id: &str) -> Answer<ToolRegistration> {
    let request = GetToolRegistrationRequest { tool_id: id.to_owned() };
    client.get_tool_registration(&request).await
}

async fn grant_with(
    client: &Client,
    tool: &ToolRegistration,
    capabilities: ToolCapabilities,
    limits: ToolLimits,
) -> Answer<ToolRegistration> {
    let (tool_id, code_digest) = (tool.tool_id.clone(), tool.code_digest.clone());
    let (capabilities, limits) = (Some(capabilities), Some(limits));
    let request = GrantToolRequest { tool_id, code_digest, capabilities, limits };
    client.grant_tool(&request, None).await
}

/// Grants nothing but to run.
async fn grant(client: &Client, tool: &ToolRegistration) -> Answer<ToolRegistration> {
    grant_with(client, tool, ToolCapabilities::default(), ToolLimits::default()).await
}

async fn revoke(client: &Client, id: &str) -> Answer<ToolRegistration> {
    client.revoke_tool(&RevokeToolRequest { tool_id: id.to_owned() }, None).await
}

async fn call(client: &Client, id: &str, input: &Value) -> Answer<Action> {
    let mut request = action(id, input);
    request.wait_ms = Some(u32::try_from(PATIENCE.as_millis()).unwrap());
    client.submit_action(&request, None).await
}

async fn lists(client: &Client, id: &str) -> bool {
    let request = ListToolsRequest { page_size: 200, ..Default::default() };
    let listed = client.list_tools(&request).await.unwrap();
    listed.tools.iter().any(|tool| tool.tool_id == id)
}

/// That nobody can call the tool, and that it is not listed as if somebody could.
async fn out_of_reach(agent: &Client, id: &str) {
    assert_eq!(refusal(call(agent, id, &json!({})).await), (404, "unknown_tool".to_owned()));
    assert!(!lists(agent, id).await);
}

/// That it runs, and gives back its parameters.
async fn runs(agent: &Client, id: &str) -> Action {
    let called = call(agent, id, &json!({"n": 7})).await.unwrap();
    let called = reaches(agent, &called.action_id, ActionState::Executed).await;
    let result: Value = called.result.as_ref().unwrap().decode().unwrap();
    assert_eq!(result, json!({"n": 7}));
    called
}

async fn desk() -> (Server, Client, Client) {
    let server = Server::start(CEILING);
    server.publish(&allow_all()).await;
    let builder = server.principal(Kind::User, &["builder"]).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    (server, builder, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_is_registered_granted_called_and_revoked() {
    let (mut server, builder, agent) = desk().await;
    let owner = &server.owner;
    let registered = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await;
    let registered = registered.unwrap();
    assert_eq!((registered.state(), &*registered.version), (State::Registered, "1.0.0"));
    assert_eq!((&*registered.code_kind, &*registered.tool_digest), ("component", ""));
    assert!(!registered.compiled_digest.is_empty() && !registered.engine.is_empty());
    // Nobody has said what it may reach.
    out_of_reach(&agent, "acme.echo").await;

    let granted = grant(owner, &registered).await.unwrap();
    assert_eq!((granted.state(), granted.reviewed), (State::Active, true));
    assert!(lists(&agent, "acme.echo").await);
    let shown = agent.get_tool(&GetToolRequest { tool_id: "acme.echo".to_owned() }).await.unwrap();
    assert_eq!(shown.digest, granted.tool_digest);
    let shown: Value = shown.manifest.unwrap().decode().unwrap();
    assert_eq!(shown["executor"], "wasm");
    let code = granted.code_digest.strip_prefix("sha256:").unwrap();
    assert_eq!(
        (&shown["code"]["digest"], &shown["code"]["kind"]),
        (&json!(code), &json!("component"))
    );
    runs(&agent, "acme.echo").await;
    let broken = call(&agent, "acme.echo", &json!({"n": "seven"})).await;
    assert_eq!(refusal(broken), (400, "params_invalid".to_owned()));

    let revoked = revoke(owner, "acme.echo").await.unwrap();
    assert_eq!((revoked.state(), revoked.granted_by.as_str()), (State::Revoked, ""));
    out_of_reach(&agent, "acme.echo").await;
    assert_eq!(refusal(revoke(owner, "acme.echo").await).0, 409);

    // What was granted outlives the process, and the compiled code that it kept.
    grant(owner, &registered).await.unwrap();
    runs(&agent, "acme.echo").await;
    server.kill();
    fs::remove_dir_all(server.data.join("sandbox")).unwrap();
    server.restart();
    assert!(lists(&agent, "acme.echo").await);
    runs(&agent, "acme.echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_registered_stays_what_it_is() {
    let (server, builder, agent) = desk().await;
    let id = "acme.echo";
    let first = register(&builder, &manifest(id, "1.1.0"), echo("one")).await.unwrap();
    let again = register(&builder, &manifest(id, "1.1.0"), echo("one")).await.unwrap();
    assert_eq!((again.revision, &again.code_digest), (first.revision, &first.code_digest));
    grant(&server.owner, &first).await.unwrap();

    let mismatch = (409, "digest_mismatch".to_owned());
    let changed = register(&builder, &manifest(id, "1.1.0"), echo("two")).await;
    assert_eq!(refusal(changed), mismatch);
    let mut other = manifest(id, "1.1.0");
    other["labels"] = json!(["read", "internal"]);
    assert_eq!(refusal(register(&builder, &other, echo("one")).await), mismatch);
    for lower in ["1.0.9", "1.1.0-rc.1"] {
        let refused = refusal(register(&builder, &manifest(id, lower), echo("two")).await);
        assert_eq!(refused, (409, "version_not_higher".to_owned()), "{lower}");
    }
    let expected = RegisterToolRequest {
        manifest: Some(Json::of(&manifest(id, "2.0.0")).unwrap()),
        component: echo("two"),
        code_digest: first.code_digest.clone(),
        ..Default::default()
    };
    assert_eq!(refusal(builder.register_tool(&expected, None).await), mismatch);
    // None of it changed anything.
    assert_eq!(inspect(&builder, id).await.unwrap().state(), State::Active);
    runs(&agent, id).await;

    // A higher version begins without a grant, and the old code's grant is not the new one's.
    let second = register(&builder, &manifest(id, "1.2.0"), echo("two")).await.unwrap();
    assert_eq!((second.state(), second.granted_by.as_str()), (State::Registered, ""));
    out_of_reach(&agent, id).await;
    assert_eq!(refusal(grant(&server.owner, &first).await), mismatch);
    let before = grant(&server.owner, &second).await.unwrap();
    // What it may reach is part of what it is.
    let env = ToolCapabilities { env: vec!["ACME_TOKEN".to_owned()], ..Default::default() };
    let wider = grant_with(&server.owner, &second, env, ToolLimits::default()).await.unwrap();
    assert_ne!(before.tool_digest, wider.tool_digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_registered() {
    let (server, builder, _) = desk().await;
    let good = || manifest("acme.echo", "1.0.0");
    let with = |key: &str, value: Value| {
        let mut manifest = good();
        manifest[key] = value;
        manifest
    };
    let invalid = "manifest_invalid";
    for (manifest, code, refused) in [
        (with("id", json!("core.echo")), echo(""), invalid),
        (with("id", json!("mcp.files.echo")), echo(""), invalid),
        (with("version", json!("one")), echo(""), invalid),
        (with("input_schema", json!({"type": "objekt"})), echo(""), invalid),
        (with("labels", json!([])), echo(""), invalid),
        (with("idempotent", json!(true)), echo(""), invalid),
        (good(), b"not wasm".to_vec(), "component_invalid"),
        // A module, and no component.
        (good(), wat::parse_str("(module)").unwrap(), "component_invalid"),
        // Of another world.
        (good(), wat::parse_str("(component)").unwrap(), "component_world_mismatch"),
        (good(), vec![0; (32 << 20) + 1], "code_too_large"),
        (good(), Vec::new(), "invalid_argument"),
    ] {
        let answer = refusal(register(&builder, &manifest, code).await);
        assert_eq!(answer, (400, refused.to_owned()), "{manifest}");
    }
    let none = ListToolRegistrationsRequest::default();
    assert!(server.owner.list_tool_registrations(&none).await.unwrap().registrations.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_beyond_the_configuration_is_granted() {
    let (server, builder, agent) = desk().await;
    let tool = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await.unwrap();
    let texts = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
    let hosts = |list: &[&str]| {
        let network = Some(ToolNetwork { allowlist: texts(list), denylist: vec![] });
        ToolCapabilities { network, ..Default::default() }
    };
    let reads = |path: &str| ToolCapabilities { file_read: texts(&[path]), ..Default::default() };
    let beyond = (403, "capability_not_grantable".to_owned());
    let invalid = (400, "capability_invalid".to_owned());
    for (asked, refused) in [
        (reads("/etc/passwd"), &beyond),
        (reads("/data/**"), &beyond),
        (reads("/data/../etc/*"), &invalid),
        (reads("data/*"), &invalid),
        (ToolCapabilities { file_write: texts(&["/data/x"]), ..Default::default() }, &beyond),
        (ToolCapabilities { env: texts(&["*"]), ..Default::default() }, &beyond),
        (ToolCapabilities { env: texts(&["HOME"]), ..Default::default() }, &beyond),
        (hosts(&["example.org"]), &beyond),
        (hosts(&["*.com"]), &beyond),
        (hosts(&["api.example.com:8443"]), &beyond),
        (hosts(&["http://api.example.com"]), &invalid),
    ] {
        let answer = grant_with(&server.owner, &tool, asked.clone(), ToolLimits::default()).await;
        assert_eq!(refusal(answer), *refused, "{asked:?}");
    }
    let more = ToolLimits { memory_mb: 65, ..Default::default() };
    let answer = grant_with(&server.owner, &tool, ToolCapabilities::default(), more).await;
    assert_eq!(refusal(answer), (403, "limit_not_grantable".to_owned()));
    out_of_reach(&agent, "acme.echo").await;

    let within = ToolCapabilities {
        file_read: texts(&["/data/report.csv"]),
        env: texts(&["ACME_REGION"]),
        ..hosts(&["api.example.com"])
    };
    let less = ToolLimits { memory_mb: 8, tool_calls: Some(0), ..Default::default() };
    let granted = grant_with(&server.owner, &tool, within, less).await.unwrap();
    let limits = granted.limits.unwrap();
    assert_eq!((limits.memory_mb, limits.cpu_ms, limits.tool_calls), (8, 30_000, Some(0)));
    let shown = GetToolRequest { tool_id: "acme.echo".to_owned() };
    let shown = agent.get_tool(&shown).await.unwrap().manifest.unwrap();
    let shown: Value = shown.decode().unwrap();
    // What follows from the grant is not the author's to say.
    assert_eq!(shown["labels"], json!(["external", "read"]));
    assert_eq!(shown["capabilities"], json!(["filesystem", "network"]));
    assert_eq!(shown["idempotent"], false);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrower_configuration_takes_a_grant_back() {
    let (mut server, builder, agent) = desk().await;
    let tool = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await.unwrap();
    let env = ToolCapabilities { env: vec!["ACME_REGION".to_owned()], ..Default::default() };
    grant_with(&server.owner, &tool, env, ToolLimits::default()).await.unwrap();
    runs(&agent, "acme.echo").await;
    server.configure("policy: {decision_limit_ms: 5000}");
    assert!(server.terminate().success());
    server.restart();
    out_of_reach(&agent, "acme.echo").await;
    let shown = inspect(&server.owner, "acme.echo").await.unwrap();
    assert_eq!((shown.state(), &*shown.reason), (State::Active, "capability_not_grantable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_registers_does_not_grant() {
    let (server, builder, agent) = desk().await;
    let viewer = server.principal(Kind::User, &["viewer"]).await;
    let auditor = server.principal(Kind::User, &["auditor"]).await;
    let admin = server.principal(Kind::User, &["admin"]).await;
    let tool = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await.unwrap();
    let denied = (403, "permission_denied".to_owned());
    for nobody in [&viewer, &auditor, &agent] {
        let answer = register(nobody, &manifest("acme.other", "1.0.0"), echo("one")).await;
        assert_eq!(refusal(answer), denied);
    }
    for nobody in [&viewer, &auditor, &agent, &builder] {
        assert_eq!(refusal(grant(nobody, &tool).await), denied);
        assert_eq!(refusal(revoke(nobody, "acme.echo").await), denied);
    }
    assert_eq!(refusal(inspect(&agent, "acme.echo").await), denied);
    assert_eq!(inspect(&auditor, "acme.echo").await.unwrap().code_digest, tool.code_digest);
    assert!(grant(&admin, &tool).await.unwrap().reviewed);

    // Alone, nobody brings code to prod: not with a key of prod, nor with one from elsewhere.
    let owner = &server.owner;
    let other = server.principal_in(Kind::User, &["admin"], "prod").await;
    let own = register(&other, &manifest("acme.own", "1.0.0"), echo("own")).await.unwrap();
    let refused = refusal(grant(&other, &own).await);
    assert_eq!(refused, (403, "registrant_grants".to_owned()));
    let own = register(&admin, &manifest("acme.mine", "1.0.0"), echo("mine")).await.unwrap();
    assert!(!grant(&admin, &own).await.unwrap().reviewed);
    runs(&agent, "acme.mine").await;
    server.publish_by(&admin, &allow_all()).await;
    let in_prod = server.principal_in(Kind::Agent, &["agent"], "prod").await;
    let refused = refusal(call(&in_prod, "acme.mine", &json!({})).await);
    assert_eq!(refused, (403, "tool_unreviewed".to_owned()));
    assert!(!lists(&in_prod, "acme.mine").await);
    runs(&in_prod, "acme.echo").await;
    assert!(grant(owner, &own).await.unwrap().reviewed);
    runs(&in_prod, "acme.mine").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_of_one_tenant_is_none_of_another() {
    let (server, builder, agent) = desk().await;
    let tool = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await.unwrap();
    grant(&server.owner, &tool).await.unwrap();
    let request = CreateTenantRequest { tenant: "other".to_owned() };
    let key = server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap().key;
    let other = Client::new(&server.url, &key).unwrap();
    let absent = |answer| assert_eq!(refusal(answer).0, 404);
    absent(inspect(&other, "acme.echo").await);
    absent(grant(&other, &tool).await);
    absent(revoke(&other, "acme.echo").await);
    let none = ListToolRegistrationsRequest::default();
    assert!(other.list_tool_registrations(&none).await.unwrap().registrations.is_empty());
    let called = call(&other, "acme.echo", &json!({})).await;
    assert_eq!(refusal(called), (404, "unknown_tool".to_owned()));
    // The same id is another tool there, and the same bytes are bound there anew.
    let theirs = register(&other, &manifest("acme.echo", "0.1.0"), echo("one")).await.unwrap();
    assert_eq!((theirs.state(), &*theirs.version), (State::Registered, "0.1.0"));
    let ours = inspect(&server.owner, "acme.echo").await.unwrap();
    assert_eq!((ours.state(), &*ours.version), (State::Active, "1.0.0"));
    runs(&agent, "acme.echo").await;
}

/// Changes what is stored under the digest of some code.
fn tamper(data: &Path, code_digest: &str, bytes: &[u8]) {
    let digest = hex::decode(code_digest.strip_prefix("sha256:").unwrap()).unwrap();
    let store = Connection::open(data.join("control.sqlite")).unwrap();
    let changed = store
        .execute("UPDATE blob SET bytes = ?1 WHERE digest = ?2", params![bytes, digest])
        .unwrap();
    assert_eq!(changed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_bytes_do_not_run() {
    let (mut server, builder, agent) = desk().await;
    let tool = register(&builder, &manifest("acme.echo", "1.0.0"), echo("one")).await.unwrap();
    grant(&server.owner, &tool).await.unwrap();
    assert!(server.terminate().success());
    tamper(&server.data, &tool.code_digest, &echo("two"));
    server.restart();
    let called = call(&agent, "acme.echo", &json!({"n": 7})).await.unwrap();
    let failed = reaches(&agent, &called.action_id, ActionState::Failed).await;
    assert_eq!(failed.error.unwrap().code, "digest_mismatch");
    // Nor does a compiled file that is another.
    assert!(server.terminate().success());
    tamper(&server.data, &tool.code_digest, &echo("one"));
    let compiled = fs::read_dir(server.data.join("sandbox/compiled")).unwrap();
    let compiled = compiled.map(|entry| entry.unwrap().path());
    for path in compiled.filter(|path| path.extension().is_some_and(|end| end == "cwasm")) {
        fs::write(path, b"something else").unwrap();
    }
    server.restart();
    runs(&agent, "acme.echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_do_the_same() {
    let (server, _, agent) = desk().await;
    let builder = server.key(Kind::User, &["builder"], "dev").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("echo.wasm"), echo("one")).unwrap();
    let yaml = "id: acme.echo\nversion: 1.0.0\ndescription: Gives back what it is given.\n\
        input_schema: {type: object}\nlabels: [read]\n";
    fs::write(file("echo.yaml"), yaml).unwrap();
    let register = |component: &str| {
        let (manifest, component) = (file("echo.yaml"), file(component));
        server.tally(&builder, &["tool", "register", &manifest, "--component", &component])
    };
    let said = register("echo.wasm");
    assert_code(&said, 0);
    assert!(text(&said).contains("REGISTERED"), "{}", text(&said));
    let owner = server.owner_key();
    let grant = |args: &[&str]| {
        let args = [&["--json", "tool", "grant", "acme.echo"], args].concat();
        server.tally(&owner, &args)
    };
    let beyond = grant(&["--file-read", "/etc/*"]);
    assert_eq!(printed(&beyond)["error"]["code"], "capability_not_grantable");
    let granted = grant(&["--network", "api.example.com", "--env", "ACME_*", "--memory-mb", "8"]);
    assert_code(&granted, 0);
    let granted = printed(&granted);
    assert_eq!(granted["state"], "ACTIVE");
    assert_eq!(granted["capabilities"]["network"]["allowlist"], json!(["api.example.com"]));
    assert_eq!(
        (&granted["limits"]["memory_mb"], &granted["limits"]["fuel"]),
        (&json!(8), &json!("10000000000"))
    );
    let inspected = server.tally(&owner, &["tool", "inspect", "acme.echo"]);
    assert!(text(&inspected).contains("api.example.com"), "{}", text(&inspected));
    let listed = server.tally(&owner, &["tool", "list", "--registered"]);
    assert!(text(&listed).contains("acme.echo"), "{}", text(&listed));
    // The older name of the command.
    let shown = server.tally(&owner, &["tools", "show", "acme.echo"]);
    assert!(text(&shown).contains("\"executor\": \"wasm\""), "{}", text(&shown));
    fs::write(file("other.wasm"), echo("two")).unwrap();
    let changed = register("other.wasm");
    assert_ne!(changed.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&changed.stderr).contains("digest_mismatch"));
    assert_code(&server.tally(&owner, &["tool", "revoke", "acme.echo"]), 0);
    out_of_reach(&agent, "acme.echo").await;
}
