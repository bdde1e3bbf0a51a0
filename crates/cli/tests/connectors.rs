//! Connectors as data, through the real program: installed, configured, called; what is pinned, who
//! may, and where credentials are not.

mod caps;
mod emulate;
mod guard;
mod price;
mod servicenow;

use std::fs;
use std::path::Path;
use std::process::Output;

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use proto::connectors::{
    ConfigureConnectorRequest, Connector, ConnectorConfig, ConnectorCredential,
    EnableConnectorRequest, GetConnectorRequest, InstallConnectorRequest,
};
use proto::identity::principal::Kind;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use self::emulate::Emulator;
use self::servicenow::{Act, INCIDENT, ServiceNow};
use crate::common::wire::Wire;
use crate::common::{
    Server, action, allow_all, assert_code, command, json as printed, reaches, refusal, text,
};

/// Credentials that are nowhere by chance.
pub(crate) const SECRET: &str = "Bm4Qx8-secret-of-a-client";
pub(crate) const TOKEN: &str = "Gh7Wz2-token-of-a-system";
const SLACK: &str = "xoxb-Rt5Km8-token-of-slack";
const GITHUB: &str = "ghp-Nq3Vx6-token-of-github";

fn in_folder(folder: &Path, args: &[&str]) -> Output {
    command(args).current_dir(folder).output().unwrap()
}

#[test]
fn a_definition_is_tested_without_any_network() {
    let folder = tempfile::tempdir().unwrap();
    for shipped in ["servicenow", "slack", "github"] {
        let tested = in_folder(folder.path(), &["connector", "test", shipped]);
        assert_code(&tested, 0);
        assert!(text(&tested).contains(" 0 failed"), "{tested:?}");
    }
    assert_code(&in_folder(folder.path(), &["connector", "new", "acme"]), 0);
    let tested = in_folder(folder.path(), &["connector", "test", "acme.yaml", "--json"]);
    assert_code(&tested, 0);
    assert!(printed(&tested).as_array().unwrap().iter().all(|line| line["passed"] == true));
    // What is there is not written over.
    assert_ne!(in_folder(folder.path(), &["connector", "new", "acme"]).status.code(), Some(0));
    let path = folder.path().join("acme.yaml");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("'{{ response.body.title }}'", "'{{ response.body.id }}'"))
        .unwrap();
    let tested = in_folder(folder.path(), &["connector", "test", "acme.yaml"]);
    assert_code(&tested, 6);
    assert!(text(&tested).contains("FAILED  get_item: reads an item"), "{tested:?}");
    fs::write(&path, good.replace("method: GET", "method: BREW")).unwrap();
    let refused = in_folder(folder.path(), &["connector", "test", "acme.yaml"]);
    assert_code(&refused, 2);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("acme.yaml: line ") && said.contains("GET, POST"), "{said}");
}

fn put(server: &Server, name: &str, value: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    fs::write(&file, value).unwrap();
    let args = ["secret", "put", name, "--from-file", file.to_str().unwrap()];
    assert_code(&server.tally(&server.owner_key(), &args), 0);
}

fn done(server: &Server, args: &[&str]) -> Output {
    let output = server.tally(&server.owner_key(), args);
    assert_code(&output, 0);
    output
}

async fn call(client: &Client, tool: &str, params: &Value) -> Action {
    let mut request = action(tool, params);
    request.wait_ms = Some(60_000);
    client.submit_action(&request, None).await.unwrap()
}

async fn result(client: &Client, tool: &str, params: &Value) -> Value {
    let called = call(client, tool, params).await;
    let called = reaches(client, &called.action_id, State::Executed).await;
    called.result.as_ref().unwrap().decode().unwrap()
}

async fn failure(client: &Client, tool: &str, params: &Value) -> String {
    let called = call(client, tool, params).await;
    let called = reaches(client, &called.action_id, State::Failed).await;
    called.error.as_ref().unwrap().code.clone()
}

struct Desk {
    server: Server,
    agent: Client,
    system: ServiceNow,
}

impl Desk {
    /// A server whose policy allows everything, and an instance of the shipped connector.
    async fn new() -> Self {
        Self::with("").await
    }

    /// The same, with more of a configuration.
    async fn with(more: &str) -> Self {
        let system = ServiceNow::start(SECRET, TOKEN).await;
        let yaml = format!(
            "policy: {{decision_limit_ms: 5000}}\ngrants: {{connectors: [{}]}}\n{more}",
            system.grant()
        );
        let server = Server::start(&yaml);
        server.publish(&allow_all()).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        put(&server, "sn-id", "the-client");
        put(&server, "sn-secret", SECRET);
        done(&server, &["connector", "install", "servicenow"]);
        let desk = Self { server, agent, system };
        desk.configure();
        desk
    }

    fn configure(&self) -> Output {
        let url = self.system.url();
        let secrets = ["--secret", "client_id=sn-id", "--secret", "client_secret=sn-secret"];
        let args = ["connector", "configure", "servicenow", "--base-url", &url];
        done(&self.server, &[&args[..], &secrets[..]].concat())
    }
}

fn update(fields: Value, expect: Value) -> Value {
    json!({"sys_id": INCIDENT, "fields": fields, "expect": expect})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incident_is_read_written_and_noted_once() {
    let Desk { server, agent, system } = Desk::new().await;
    let read = result(&agent, "servicenow.get_incident", &json!({"sys_id": INCIDENT})).await;
    assert_eq!((&read["number"], &read["priority"]), (&json!("INC0010023"), &json!("5")));
    system.seen();
    let written = update(json!({"priority": "2"}), json!({"priority": "5", "category": "inquiry"}));
    let tool = "servicenow.update_incident_reversible";
    let given = result(&agent, tool, &written).await;
    assert_eq!(given["fields"], json!({"priority": "2"}));
    let methods: Vec<String> = system.seen().into_iter().map(|(method, _)| method).collect();
    assert_eq!(methods, ["GET", "PATCH"]);
    // Somebody changed it meanwhile: nothing is written.
    system.set("category", "network");
    assert_eq!(failure(&agent, tool, &written).await, "record_changed");
    assert_eq!(system.field("priority"), "2");
    let note = json!({"sys_id": INCIDENT, "text": "Triaged \"by\" model"});
    // Its answer is lost after it was carried out, so the second attempt finds it.
    system.seen();
    system.next(&[Act::Lose]);
    assert_eq!(result(&agent, "servicenow.add_work_note", &note).await["noted"], true);
    // It fails before it is carried out, and is looked up before it is tried again.
    system.next(&[Act::Refuse(500)]);
    assert_eq!(result(&agent, "servicenow.add_work_note", &note).await["noted"], true);
    let notes = system.notes();
    assert_eq!(notes.len(), 2, "one each: {notes:?}");
    assert!(notes.iter().all(|note| note.starts_with("Triaged \"by\" model\n\n[tally act_")));
    let listed = text(&done(&server, &["connector", "list"]));
    assert!(listed.contains("servicenow") && listed.contains("enabled"), "{listed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_are_told_apart() {
    let Desk { server: _server, agent, system } = Desk::new().await;
    let params = json!({"sys_id": INCIDENT});
    let get = "servicenow.get_incident";
    for (status, code) in
        [(400, "request_invalid"), (403, "access_refused"), (404, "incident_not_found")]
    {
        system.next(&[Act::Refuse(status)]);
        assert_eq!(failure(&agent, get, &params).await, code);
    }
    // A refusal that passes is waited for.
    system.next(&[Act::Refuse(503), Act::Refuse(429)]);
    assert_eq!(result(&agent, get, &params).await["sys_id"], INCIDENT);
    let malformed = call_refused(&agent, get, &json!({"sys_id": "../../../oauth_token.do"})).await;
    assert_eq!(malformed, (400, "params_invalid".to_owned()));
}

async fn call_refused(client: &Client, tool: &str, params: &Value) -> (u16, String) {
    refusal(client.submit_action(&action(tool, params), None).await)
}

/// Changes what is stored under a digest.
fn tamper(data: &Path, digest: &str, bytes: &[u8]) {
    let digest = hex::decode(digest.strip_prefix("sha256:").unwrap()).unwrap();
    let store = Connection::open(data.join("control.sqlite")).unwrap();
    let changed = store
        .execute("UPDATE blob SET bytes = ?1 WHERE digest = ?2", params![bytes, digest])
        .unwrap();
    assert_eq!(changed, 1);
}

async fn shown(client: &Client, name: &str) -> Connector {
    let request = GetConnectorRequest { name: name.to_owned() };
    client.get_connector(&request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_that_was_changed_has_no_tools() {
    let Desk { mut server, agent, system } = Desk::new().await;
    let before = shown(&server.owner, "servicenow").await;
    assert_eq!(before.tools.len(), 3, "{before:?}");
    assert!(before.text.contains("kind: Connector"));
    assert!(server.terminate().success());
    let changed = before.text.replace("method: PATCH", "method: DELETE");
    assert_ne!(changed, before.text);
    tamper(&server.data, &before.definition_digest, changed.as_bytes());
    server.restart();
    let after = shown(&server.owner, "servicenow").await;
    assert_eq!((after.unusable.as_str(), after.tools.len()), ("definition_lost", 0));
    let get = "servicenow.get_incident";
    let refused = call_refused(&agent, get, &json!({"sys_id": INCIDENT})).await;
    assert_eq!(refused, (404, "unknown_tool".to_owned()));
    assert!(system.seen().is_empty());
    assert!(server.terminate().success());
    tamper(&server.data, &before.definition_digest, before.text.as_bytes());
    server.restart();
    assert_eq!(shown(&server.owner, "servicenow").await.tools.len(), 3);
}

async fn install(client: &Client, definition: &str) -> Result<Connector, client::Error> {
    let request =
        InstallConnectorRequest { name: String::new(), definition: definition.to_owned() };
    client.install_connector(&request, None).await
}

async fn configure(client: &Client, url: &str) -> Result<Connector, client::Error> {
    let credential = |role: &str, secret: &str| ConnectorCredential {
        role: role.to_owned(),
        secret: secret.to_owned(),
    };
    let credentials =
        vec![credential("client_id", "sn-id"), credential("client_secret", "sn-secret")];
    let config = ConnectorConfig { base_url: url.to_owned(), credentials, ..Default::default() };
    let request = ConfigureConnectorRequest {
        name: "servicenow".to_owned(),
        config: Some(config),
        ..Default::default()
    };
    client.configure_connector(&request, None).await
}

async fn enable(client: &Client) -> Result<Connector, client::Error> {
    let request = EnableConnectorRequest { name: "servicenow".to_owned(), ..Default::default() };
    client.enable_connector(&request, None).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_prod_two_have_looked_at_it() {
    let Desk { server, agent: _agent, system } = Desk::new().await;
    let one = server.principal_in(Kind::User, &["admin"], "prod").await;
    let two = server.principal_in(Kind::User, &["admin"], "prod").await;
    // In prod, no policy decides by the word of its author alone.
    server.publish_by(&one, &allow_all()).await;
    let agent = server.principal_in(Kind::Agent, &["agent"], "prod").await;
    let builder = server.principal_in(Kind::User, &["builder"], "prod").await;
    let text = shown(&server.owner, "servicenow").await.text;
    let next = text.replace("version: 1.0.0", "version: 1.0.1");
    let denied = (403, "permission_denied".to_owned());
    assert_eq!(refusal(install(&builder, &next).await), denied);
    assert_eq!(refusal(configure(&builder, &system.url()).await), denied);
    assert!(!shown(&builder, "servicenow").await.reviewed);
    let installed = install(&one, &next).await.unwrap();
    // Another definition is not in force by itself.
    assert_eq!(installed.state(), proto::connectors::connector::State::Installed);
    let read = json!({"sys_id": INCIDENT});
    let unknown = (404, "unknown_tool".to_owned());
    assert_eq!(call_refused(&agent, "servicenow.get_incident", &read).await, unknown);
    let own = (403, "installer_enables".to_owned());
    assert_eq!(refusal(enable(&one).await), own);
    let configured = configure(&one, &system.url()).await.unwrap();
    assert!(!configured.reviewed);
    let unreviewed = call_refused(&agent, "servicenow.get_incident", &read).await;
    assert_eq!(unreviewed.0, 403, "{unreviewed:?}");
    assert!(enable(&two).await.unwrap().reviewed);
    result(&agent, "servicenow.get_incident", &read).await;
    // Where it is called, is looked at too.
    let elsewhere = format!("{}/", system.url());
    assert!(!configure(&one, &elsewhere).await.unwrap().reviewed);
    assert_eq!(call_refused(&agent, "servicenow.get_incident", &read).await.0, 403);
    let wrong = refusal(configure(&two, "ftp://nowhere").await);
    assert_eq!(wrong, (400, "instance_invalid".to_owned()));
    let malformed = refusal(install(&one, "kind: Connector").await);
    assert_eq!(malformed, (400, "connector_invalid".to_owned()));
}

/// Every file below `folder`.
fn files(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push((path.display().to_string(), fs::read(&path).unwrap())),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_in_no_file_and_no_answer() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let Desk { mut server, agent, system } = Desk::new().await;
    let params = json!({"sys_id": INCIDENT});
    let mut told = format!("{:?}", call(&agent, "servicenow.get_incident", &params).await);
    system.next(&[Act::Refuse(403)]);
    told += &format!("{:?}", call(&agent, "servicenow.get_incident", &params).await);
    for args in [
        &["connector", "list", "--json"][..],
        &["connector", "show", "servicenow", "--json"],
        &["tool", "show", "servicenow.get_incident", "--json"],
    ] {
        let output = server.tally(&server.owner_key(), args);
        told += &format!("{}{}", text(&output), String::from_utf8_lossy(&output.stderr));
    }
    // The secret is another one from now on: the system refuses it, and says so.
    put_again(&server, "sn-secret", "not-the-secret-Ky5");
    system.next(&[Act::Refuse(401)]);
    let refused = call(&agent, "servicenow.get_incident", &params).await;
    let refused = reaches(&agent, &refused.action_id, State::Failed).await;
    assert_eq!(refused.error.as_ref().unwrap().code, "credential_refused");
    told += &format!("{refused:?}");
    assert!(server.terminate().success());
    told += &server.log();
    let mut found = vec![("what was told".to_owned(), told.into_bytes())];
    files(&server.data, &mut found);
    assert!(found.len() > 3);
    for value in [SECRET, TOKEN, "not-the-secret-Ky5"] {
        let forms = [value.to_owned(), STANDARD.encode(value)];
        for (name, bytes) in &found {
            for form in &forms {
                let hit = bytes.windows(form.len()).any(|window| window == form.as_bytes());
                assert!(!hit, "{name} has {value}");
            }
        }
    }
}

fn put_again(server: &Server, name: &str, value: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("value");
    fs::write(&file, value).unwrap();
    done(server, &["secret", "rotate", name, "--from-file", file.to_str().unwrap()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_and_github_are_called_as_they_are() {
    let emulator = Emulator::start().await;
    let port = |url: &str| url.rsplit(':').next().unwrap().to_owned();
    let grant = |url: &str| format!("{{host: 127.0.0.1, port: {}, private: true}}", port(url));
    let grants = [grant(&emulator.slack), grant(&emulator.github)].join(", ");
    let server = Server::start(&format!(
        "policy: {{decision_limit_ms: 5000}}\ngrants: {{connectors: [{grants}]}}"
    ));
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    put(&server, "slack-bot", SLACK);
    put(&server, "github-token", GITHUB);
    for (name, url, secret) in [
        ("slack", &emulator.slack, "token=slack-bot"),
        ("github", &emulator.github, "token=github-token"),
    ] {
        done(&server, &["connector", "install", name]);
        done(&server, &["connector", "configure", name, "--base-url", url, "--secret", secret]);
    }
    slack(&emulator, &agent).await;
    github(&emulator, &agent).await;
}

async fn slack(emulator: &Emulator, agent: &Client) {
    let blocks = json!([{"type": "section", "text": {"type": "mrkdwn", "text": "*Approve?*"}}]);
    let channel = "C000000001";
    let text = "Hello {{ 7 * 7 }} \"quoted\"";
    let posted =
        result(agent, "slack.post_message", &json!({"channel": channel, "text": text})).await;
    assert_eq!(posted["channel"], channel);
    let card = json!({"channel": channel, "text": "Approve?", "blocks": blocks,
        "approval_id": "apr_01m7"});
    let card = result(agent, "slack.post_approval_request", &card).await;
    let change =
        json!({"channel": channel, "ts": card["ts"], "text": "Approved", "blocks": blocks});
    assert_eq!(result(agent, "slack.update_message", &change).await["ts"], card["ts"]);
    let history = Wire::new(&emulator.slack)
        .ask("POST", "/api/conversations.history")
        .header("authorization", &format!("Bearer {SLACK}"))
        .json(&json!({"channel": channel, "include_all_metadata": true}));
    let history = history.send().await.json();
    let find = |ts: &Value| {
        let messages = history["messages"].as_array().unwrap();
        messages.iter().find(|message| message["ts"] == *ts).unwrap().clone()
    };
    assert_eq!(find(&posted["ts"])["text"], text);
    let key = &find(&posted["ts"])["metadata"]["event_payload"]["action"];
    assert!(key.as_str().unwrap().starts_with("act_"), "{key}");
    let card = find(&card["ts"]);
    assert_eq!((&card["text"], &card["blocks"]), (&json!("Approved"), &blocks));
    let absent = json!({"channel": "C0NOTHERE", "text": "x"});
    assert_eq!(failure(agent, "slack.post_message", &absent).await, "not_found");
}

async fn github(emulator: &Emulator, agent: &Client) {
    let bearer = format!("Bearer {GITHUB}");
    let repo = "/repos/octocat/hello-world";
    let ask = |method: &str, path: &str| {
        Wire::new(&emulator.github)
            .ask(method, &format!("{repo}{path}"))
            .header("authorization", &bearer)
    };
    let main = ask("GET", "/git/ref/heads/main").send().await.json();
    let branch = json!({"ref": "refs/heads/topic", "sha": main["object"]["sha"]});
    ask("POST", "/git/refs").json(&branch).send().await;
    let file = json!({"message": "m", "content": "YQ==", "branch": "topic"});
    ask("PUT", "/contents/a.txt").json(&file).send().await;
    let pull = json!({"title": "A title", "head": "topic", "base": "main", "body": "B"});
    let pull = ask("POST", "/pulls").json(&pull).send().await.json();
    let number = pull["number"].as_u64().unwrap();
    let at = json!({"owner": "octocat", "repo": "hello-world", "number": number});
    let read = result(agent, "github.get_pull_request", &at).await;
    assert_eq!((&read["title"], &read["state"]), (&json!("A title"), &json!("open")));
    let mut comment = at.clone();
    comment["body"] = json!("Looks *good* {{ params.owner }}");
    let made = result(agent, "github.post_pr_comment", &comment).await;
    let path = format!("{repo}/issues/{number}/comments");
    let comments = emulator.get(&emulator.github, &path, &bearer).await;
    let found = comments.as_array().unwrap().iter().find(|one| one["id"] == made["id"]).unwrap();
    let body = found["body"].as_str().unwrap();
    assert!(body.starts_with("Looks *good* {{ params.owner }}\n\n<!-- tally act_"), "{body}");
    let absent = json!({"owner": "octocat", "repo": "hello-world", "number": 4_711});
    assert_eq!(failure(agent, "github.get_pull_request", &absent).await, "not_found");
}
