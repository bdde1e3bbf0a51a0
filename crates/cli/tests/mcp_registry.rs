//! MCP servers behind the gateway: adding them, and what becomes of tools that change.

use std::fs;
use std::path::Path;

use mcpkit::Revisions;
use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::program::Program;
use proto::actions::Action;
use proto::actions::action::State as ActionState;
use proto::identity::principal::Kind;
use proto::tools::ListToolsRequest;
use proto::types::Json;
use proto::upstreams::upstream::State as ServerState;
use proto::upstreams::upstream_tool::State;
use proto::upstreams::{
    AddUpstreamRequest, GetUpstreamRequest, GetUpstreamToolRequest, ListUpstreamsRequest,
    RefreshUpstreamRequest, ReleaseUpstreamToolRequest, RemoveUpstreamRequest, Upstream,
    UpstreamTool,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::{
    LOOK_EVERY, PATIENCE, Server, action, allow_all, assert_code, json as printed, refusal, text,
};

type Answer<T> = Result<T, client::Error>;

/// An HTTP server of this machine, as the API has it.
fn over_http(name: &str, url: &str) -> Value {
    json!({"name": name, "transport": {"type": "http", "url": url, "private": true}})
}

/// A command, as the API has it.
fn over_stdio(name: &str, program: Program) -> Value {
    let words = crate::mcp::upstream(program);
    let (command, args) = words.split_first().unwrap();
    json!({"name": name, "transport": {"type": "stdio", "command": command, "args": args}})
}

async fn add(client: &client::Client, upstream: &Value) -> Answer<Upstream> {
    let upstream = Some(Json::of(upstream).unwrap());
    client.add_upstream(&AddUpstreamRequest { upstream, ..Default::default() }, None).await
}

async fn show(client: &client::Client, name: &str) -> Answer<Upstream> {
    client.get_upstream(&GetUpstreamRequest { name: name.to_owned() }).await
}

async fn show_tool(client: &client::Client, name: &str, tool: &str) -> UpstreamTool {
    let request = GetUpstreamToolRequest { name: name.to_owned(), tool: tool.to_owned() };
    client.get_upstream_tool(&request).await.unwrap()
}

/// Where the tools of a server stand: each with its state and the reason for it.
fn standing(upstream: &Upstream) -> Vec<(String, State, String)> {
    let stand = |tool: &UpstreamTool| (tool.name.clone(), tool.state(), tool.reason.clone());
    upstream.tools.iter().map(stand).collect()
}

/// Has a server asked what it offers, and shows the tool then.
async fn asked(client: &client::Client, name: &str, tool: &str) -> UpstreamTool {
    let request = RefreshUpstreamRequest { name: name.to_owned() };
    client.refresh_upstream(&request, None).await.unwrap();
    show_tool(client, name, tool).await
}

/// The tool once it is in `state`.
async fn becomes(client: &client::Client, name: &str, tool: &str, state: State) -> UpstreamTool {
    let until = Instant::now() + PATIENCE;
    loop {
        let shown = show_tool(client, name, tool).await;
        if shown.state() == state {
            return shown;
        }
        assert!(Instant::now() < until, "{tool} never becomes {state:?}: {shown:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// Calls the victim, which writes a line to `mark`.
async fn call(client: &client::Client, mark: &Path) -> Answer<Action> {
    client.submit_action(&action("mcp.files.victim", &json!({"mark": mark})), None).await
}

async fn lists(client: &client::Client, tool: &str) -> bool {
    let request = ListToolsRequest { page_size: 500, ..Default::default() };
    let listed = client.list_tools(&request).await.unwrap();
    listed.tools.iter().any(|listed| listed.tool_id == tool)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_tool_waits_for_its_release() {
    let server = Server::start("policy: {decision_limit_ms: 5000}");
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("effects");
    let effects = || fs::read_to_string(&mark).unwrap_or_default().lines().count();
    let fixture = Misbehave::new(Revisions::Both, Vice::None);
    let running = fixture.http().await;
    let owner = &server.owner;
    let added = add(owner, &over_http("files", &running.url)).await.unwrap();
    assert_eq!((added.state(), added.tools_active), (ServerState::Up, 3), "{added:?}");
    assert!(added.pinned && !added.declared);
    let first = show_tool(owner, "files", "victim").await;
    assert_eq!((first.state(), &*first.tool_id), (State::Active, "mcp.files.victim"));
    assert_eq!(first.labels, ["external", "write"]);
    assert!(lists(&agent, "mcp.files.victim").await);
    assert!(lists(&agent, "mcp.files.resources/read").await);
    let called = call(&agent, &mark).await.unwrap();
    assert_eq!((called.state(), effects()), (ActionState::Executed, 1), "{called:?}");
    // Another definition: out of use until somebody has seen the difference.
    fixture.change();
    let changed = asked(owner, "files", "victim").await;
    assert_eq!(changed.state(), State::Quarantined);
    assert_eq!((&*changed.reason, &changed.pinned_digest), ("changed", &first.pinned_digest));
    let difference = changed.differences.first().unwrap();
    assert_eq!((changed.differences.len(), &*difference.pointer), (1, "/description"));
    assert_eq!(show_tool(owner, "files", "bystander").await.state(), State::Active);
    assert!(!lists(&agent, "mcp.files.victim").await);
    assert!(lists(&agent, "mcp.files.bystander").await);
    let refused = refusal(call(&agent, &mark).await);
    assert_eq!((refused, effects()), ((404, "unknown_tool".to_owned()), 1));
    // The first one again: back by itself.
    fixture.change_back();
    let back = asked(owner, "files", "victim").await;
    assert_eq!(back.state(), State::Active);
    assert_eq!(back.tool_digest, first.tool_digest, "the same tool as before");
    fixture.change();
    let changed = asked(owner, "files", "victim").await;
    assert_eq!(changed.state(), State::Quarantined);
    let release = |digest: &str| ReleaseUpstreamToolRequest {
        name: "files".to_owned(),
        tool: "victim".to_owned(),
        digest: digest.to_owned(),
    };
    // Only what was seen is released.
    let other = owner.release_upstream_tool(&release(&first.pinned_digest), None).await;
    assert_eq!(refusal(other), (409, "version_conflict".to_owned()));
    let operator = server.principal(Kind::User, &["operator", "builder"]).await;
    let denied = operator.release_upstream_tool(&release(&changed.offered_digest), None).await;
    assert_eq!(refusal(denied), (403, "permission_denied".to_owned()));
    let seen = release(&changed.offered_digest);
    let released = owner.release_upstream_tool(&seen, Some("once")).await.unwrap();
    let again = owner.release_upstream_tool(&seen, Some("once")).await.unwrap();
    assert_eq!(again, released, "once for its key");
    assert_eq!(released.state(), State::Active);
    assert_eq!(released.pinned_digest, changed.offered_digest);
    assert_ne!(released.tool_digest, first.tool_digest, "another tool in plans and approvals");
    let called = call(&agent, &mark).await.unwrap();
    assert_eq!((called.state(), effects()), (ActionState::Executed, 2), "{called:?}");
    // Its server gone, the tool stays; only its calls fail.
    running.stop().await;
    let failed = call(&agent, &mark).await.unwrap();
    assert_eq!((failed.state(), effects()), (ActionState::Failed, 2), "{failed:?}");
    assert!(lists(&agent, "mcp.files.victim").await);
}

/// Over stdio a server tells of the change itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_of_a_change_is_asked() {
    let server = Server::start("mcp: {allow_stdio: true}\npolicy: {decision_limit_ms: 5000}");
    server.publish(&allow_all()).await;
    let owner = &server.owner;
    add(owner, &over_stdio("local", Program::Misbehave(Revisions::Old, Vice::None))).await.unwrap();
    let change = action("mcp.local.change", &json!({}));
    let changed = owner.submit_action(&change, None).await.unwrap();
    assert_eq!(changed.state(), ActionState::Executed, "{changed:?}");
    becomes(owner, "local", "victim", State::Quarantined).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_changes_nothing_and_waits_for_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start_in(folder, "");
    let fixture = Misbehave::new(Revisions::New, Vice::Many);
    let running = fixture.http().await;
    let address = running.address();
    let added = add(&server.owner, &over_http("many", &running.url)).await.unwrap();
    assert_eq!((added.tools_active, added.tools.len()), (903, 903));
    fixture.change();
    let before = asked(&server.owner, "many", "victim").await;
    assert_eq!(before.state(), State::Quarantined);
    // The server of the tools is gone, and Tally is killed.
    running.stop().await;
    server.kill();
    server.restart();
    let after = show(&server.owner, "many").await.unwrap();
    assert_eq!((after.tools_active, after.tools_quarantined), (902, 1));
    let victim = show_tool(&server.owner, "many", "victim").await;
    assert_eq!(
        (victim.reason, victim.pinned, victim.offered, victim.differences),
        (before.reason, before.pinned, before.offered, before.differences),
    );
    // It comes back by itself once the server of the tools is there again, unchanged.
    fixture.change_back();
    let _running = fixture.http_at(address).await;
    becomes(&server.owner, "many", "victim", State::Active).await;
    let up = show(&server.owner, "many").await.unwrap();
    assert_eq!((up.state(), up.tools_active), (ServerState::Up, 903));
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_that_cannot_be_called_are_shown_with_the_reason() {
    let server = Server::start("mcp: {allow_stdio: true}");
    let owner = &server.owner;
    let looks = over_stdio("looks", Program::Misbehave(Revisions::Both, Vice::LookAlikes));
    let looks = add(owner, &looks).await.unwrap();
    let reasons: Vec<(String, String)> = standing(&looks)
        .into_iter()
        .filter(|(_, state, _)| *state == State::Quarantined)
        .map(|(name, _, reason)| (name, reason))
        .collect();
    assert!(reasons.contains(&("resources/read".to_owned(), "tool_name_reserved".to_owned())));
    let invalid = reasons.iter().filter(|(_, why)| why == "tool_name_invalid").count();
    assert_eq!(invalid, 6, "{reasons:?}");
    // Names are exact: case makes another tool.
    for name in ["victim", "Victim", "VICTIM", "bystander__victim"] {
        assert_eq!(show_tool(owner, "looks", name).await.state(), State::Active, "{name}");
    }
    let bad = over_stdio("bad", Program::Misbehave(Revisions::Old, Vice::BadSchemas));
    let bad = add(owner, &bad).await.unwrap();
    assert_eq!((bad.tools_active, bad.tools_quarantined), (3, 3));
    let remote = show_tool(owner, "bad", "remote").await;
    assert_eq!((remote.state(), &*remote.reason), (State::Quarantined, "schema_invalid"));
    let request = ReleaseUpstreamToolRequest {
        name: "bad".to_owned(),
        tool: "remote".to_owned(),
        digest: remote.offered_digest,
    };
    let released = owner.release_upstream_tool(&request, None).await;
    assert_eq!(refusal(released), (409, "schema_invalid".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_of_one_tenant_and_of_one_mind() {
    let server = Server::start("");
    let owner = &server.owner;
    let fixture = Misbehave::new(Revisions::Both, Vice::None);
    let running = fixture.http().await;
    let files = over_http("files", &running.url);
    let dry = AddUpstreamRequest {
        upstream: Some(Json::of(&files).unwrap()),
        dry_run: true,
        ..Default::default()
    };
    let dry = owner.add_upstream(&dry, None).await.unwrap();
    assert_eq!((dry.state(), dry.tools_active), (ServerState::DryRun, 3));
    assert_eq!(refusal(show(owner, "files").await), (404, "not_found".to_owned()));
    let first = add(owner, &files).await.unwrap();
    // The same once more changes nothing.
    assert_eq!(add(owner, &files).await.unwrap().changed_at, first.changed_at);
    let tenant = proto::identity::CreateTenantRequest { tenant: "other".to_owned() };
    let other = owner.create_tenant(&tenant, None).await.unwrap().owner.unwrap().key;
    let other = client::Client::new(&server.url, &other).unwrap();
    assert_eq!(refusal(show(&other, "files").await), (404, "not_found".to_owned()));
    let list = other.list_upstreams(&ListUpstreamsRequest::default()).await.unwrap();
    assert!(list.upstreams.is_empty());
    // Another server of that name takes a word more, and its tools are other tools.
    let elsewhere = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let moved = over_http("files", &elsewhere.url);
    assert_eq!(refusal(add(owner, &moved).await), (409, "upstream_exists".to_owned()));
    let tool = show_tool(owner, "files", "victim").await;
    let upstream = Some(Json::of(&moved).unwrap());
    let replace = AddUpstreamRequest { upstream, replace: true, ..Default::default() };
    owner.add_upstream(&replace, None).await.unwrap();
    let now = show_tool(owner, "files", "victim").await;
    assert_eq!((now.state(), &now.pinned_digest), (State::Active, &tool.pinned_digest));
    assert_ne!(now.tool_digest, tool.tool_digest);
    // Labels alone make no other server of it: its pins stay.
    let mut labelled = moved.clone();
    labelled["labels"] = json!({"victim": ["read"]});
    let upstream = Some(Json::of(&labelled).unwrap());
    let replace = AddUpstreamRequest { upstream, replace: true, ..Default::default() };
    let relabelled = owner.add_upstream(&replace, None).await.unwrap();
    let now = show_tool(owner, "files", "victim").await;
    assert_eq!(now.labels, ["read"]);
    let named = RefreshUpstreamRequest { name: "files".to_owned() };
    assert_eq!(owner.refresh_upstream(&named, None).await.unwrap().tools_active, 3);
    assert_eq!(relabelled.spec_digest, show(owner, "files").await.unwrap().spec_digest);
    let remove = RemoveUpstreamRequest { name: "files".to_owned() };
    owner.remove_upstream(&remove, None).await.unwrap();
    assert_eq!(refusal(show(owner, "files").await), (404, "not_found".to_owned()));
    assert_eq!(refusal(owner.remove_upstream(&remove, None).await).0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_must_not_be_added_is_refused() {
    let server = Server::start("");
    let owner = &server.owner;
    let command = over_stdio("mine", Program::Misbehave(Revisions::Both, Vice::None));
    assert_eq!(refusal(add(owner, &command).await), (403, "stdio_not_allowed".to_owned()));
    let running = Misbehave::new(Revisions::Both, Vice::None).http().await;
    for name in ["Files", "a__b", "a_", "", "mcp.x"] {
        assert_eq!(refusal(add(owner, &over_http(name, &running.url)).await).0, 400, "{name}");
    }
    let mut unknown = over_http("files", &running.url);
    unknown["insecure"] = true.into();
    assert_eq!(refusal(add(owner, &unknown).await), (400, "invalid_argument".to_owned()));
    // Where its address may not be reached, and where nobody answers.
    let mut guarded = over_http("files", &running.url);
    guarded["transport"]["private"] = false.into();
    assert!(add(owner, &guarded).await.is_err());
    let address = running.address();
    running.stop().await;
    assert!(add(owner, &over_http("files", &format!("http://{address}/mcp"))).await.is_err());
    let list = owner.list_upstreams(&ListUpstreamsRequest::default()).await.unwrap();
    assert!(list.upstreams.is_empty(), "nothing is left of what was refused");
    // Values that may be secrets are shown nowhere; references to secrets are.
    let running = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let mut keyed = over_http("files", &running.url);
    keyed["transport"]["headers"] = json!({"x-key": "hunter2hunter2"});
    let added = add(owner, &keyed).await.unwrap();
    assert!(!added.settings.unwrap().text.contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_declares_servers() {
    let running = Misbehave::new(Revisions::Both, Vice::None).http().await;
    let declared = |more: &str| {
        let transport = format!("{{type: http, url: '{}', private: true}}", running.url);
        format!("mcp: {{upstreams: [{{name: files, transport: {transport}{more}}}]}}")
    };
    let mut server = Server::start(&declared(""));
    let until = Instant::now() + PATIENCE;
    while show(&server.owner, "files").await.unwrap().tools_active != 3 {
        assert!(Instant::now() < until, "the server is never contacted");
        sleep(LOOK_EVERY).await;
    }
    let shown = show(&server.owner, "files").await.unwrap();
    assert!(shown.declared && shown.pinned);
    let remove = RemoveUpstreamRequest { name: "files".to_owned() };
    let refused = server.owner.remove_upstream(&remove, None).await;
    assert_eq!(refusal(refused), (409, "upstream_declared".to_owned()));
    server.terminate();
    server.configure(&declared(", labels: {victim: [read]}, prices: {victim: 7}"));
    server.restart();
    let victim = show_tool(&server.owner, "files", "victim").await;
    assert_eq!((victim.state(), victim.labels), (State::Active, vec!["read".to_owned()]));
    server.terminate();
    server.configure("");
    server.restart();
    assert_eq!(refusal(show(&server.owner, "files").await), (404, "not_found".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_manages_servers() {
    let server = Server::start("mcp: {allow_stdio: true}");
    let (key, fixture) = (server.owner_key(), Misbehave::new(Revisions::Both, Vice::None));
    let running = fixture.http().await;
    let run = |args: &[&str]| {
        let output = server.tally(&key, args);
        assert_code(&output, 0);
        output
    };
    let url = running.url.as_str();
    let args = ["mcp", "add", "files", "--http", url, "--private", "--label", "victim=read"];
    let shown = text(&run(&args));
    assert!(shown.contains("3 active") && shown.contains("victim"), "{shown}");
    let words = crate::mcp::upstream(Program::Misbehave(Revisions::New, Vice::None));
    let mut args = vec!["--json", "mcp", "add", "local", "--trust-annotations", "--"];
    args.extend(words.iter().map(String::as_str));
    assert_eq!(printed(&run(&args))["tools_active"], 3);
    let list = printed(&run(&["--json", "mcp", "list"]));
    let names: Vec<&Value> =
        list["upstreams"].as_array().unwrap().iter().map(|u| &u["name"]).collect();
    assert_eq!(names, ["files", "local"]);
    fixture.change();
    let changed = asked(&server.owner, "files", "victim").await;
    let shown = text(&run(&["mcp", "inspect", "files", "victim"]));
    assert!(shown.contains("/description") && shown.contains(&changed.offered_digest), "{shown}");
    let args = ["mcp", "release", "files", "victim", "--digest", &changed.offered_digest];
    let shown = text(&run(&args));
    assert!(shown.contains("active"), "{shown}");
    run(&["mcp", "remove", "files"]);
    assert_code(&server.tally(&key, &["mcp", "inspect", "files"]), 3);
}
