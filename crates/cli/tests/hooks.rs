//! What is delivered to triggers, and what people press on Slack: over HTTP, signed as their
//! senders sign.

mod cards;
mod clock;
mod dead;
mod events;
mod kill;
mod oracle;
mod press;
mod refused;
mod slack;

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use client::Client;
use policy::Source;
use proto::identity::CreatePrincipalRequest;
use proto::identity::principal::Kind;
use proto::runs::{ListRunsRequest, Run};
use proto::secrets::PutSecretRequest;
use proto::triggers::{CreateTriggerRequest, Mapping, Slack, Trigger};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::release::in_force;
use crate::common::wire::{Ask, Wire};
use crate::common::{Server, allow_all};

/// What signs deliveries. They are nowhere by chance.
const GITHUB: &str = "github-hook-secret-Qx71vb";
const SERVICENOW: &str = "servicenow-hook-secret-Lm42pt";
const SLACK: &str = "slack-hook-secret-Rk98zc";
/// Slack's ids.
const TEAM: &str = "T0TEAM";
const CHANNEL: &str = "C0OPS";

/// A server with triggers of each kind, one service for all of them, and a folder to write to.
struct Place {
    server: Server,
    wire: Wire,
    /// The service that acts for the triggers.
    service: String,
    files: TempDir,
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

fn code(secret: &str, text: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex::encode(hmac::sign(&key, text))
}

/// A principal without a key.
async fn principal(server: &Server, kind: Kind, roles: &[&str]) -> String {
    let request = CreatePrincipalRequest {
        kind: kind.into(),
        name: "of a test".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        account_id: String::new(),
    };
    server.owner.create_principal(&request, None).await.unwrap().principal_id
}

/// The workflow that deliveries start: it gives back what it was given.
fn echo(fields: &[&str]) -> Value {
    let input: serde_json::Map<String, Value> = fields
        .iter()
        .map(|name| ((*name).to_owned(), json!(format!("{{{{input.{name}}}}}"))))
        .collect();
    json!({
        "apiVersion": "tally/v1",
        "kind": "Workflow",
        "metadata": {"name": "echo", "version": "1.0.0"},
        "spec": {"riskTier": "low", "contentRetention": "keep", "steps": [{
            "id": "echo",
            "action": "core.json_transform",
            "input": {"input": input, "filter": "."},
        }]},
    })
}

impl Place {
    async fn new() -> Self {
        Self::with(&allow_all()).await
    }

    async fn with(policy: &Source) -> Self {
        Self::granted(policy, None).await
    }

    /// With leave to call the host at `address`.
    async fn granted(policy: &Source, address: Option<SocketAddr>) -> Self {
        Self::configured(policy, address, "").await
    }

    /// The same, with more of a configuration.
    async fn configured(policy: &Source, address: Option<SocketAddr>, more: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        let root = files.path().canonicalize().unwrap();
        let http = address.map(|address| {
            format!(
                "connectors: [{{host: {}, port: {}, private: true}}]",
                address.ip(),
                address.port()
            )
        });
        let grants = format!("{{fs_write: [{root:?}], {}}}", http.unwrap_or_default());
        let yaml = format!("grants: {grants}\npolicy: {{decision_limit_ms: 5000}}\n{more}");
        let server = Server::start(&yaml);
        server.publish(policy).await;
        let service = principal(&server, Kind::Service, &["operator"]).await;
        for (name, value) in [("github", GITHUB), ("servicenow", SERVICENOW), ("slack", SLACK)] {
            let request = PutSecretRequest { name: name.to_owned(), value: value.to_owned() };
            server.owner.put_secret(&request, None).await.unwrap();
        }
        let wire = Wire::new(&server.url);
        Self { server, wire, service, files }
    }

    /// Has a workflow in force under its name.
    async fn workflow(&self, name: &str, document: &Value) {
        let mut document = document.clone();
        document["metadata"]["name"] = json!(name);
        let approver = self.server.principal(Kind::User, &["approver"]).await;
        in_force((self.owner(), &approver, self.owner()), &document).await;
    }

    /// A trigger of `source` that starts `echo` with these fields.
    fn trigger(&self, source: &str, input: &[(&str, &str)]) -> CreateTriggerRequest {
        let mapping = |(name, pointer): &(&str, &str)| Mapping {
            name: (*name).to_owned(),
            pointer: (*pointer).to_owned(),
        };
        CreateTriggerRequest {
            name: source.to_owned(),
            source: source.to_owned(),
            principal_id: self.service.clone(),
            secret: source.to_owned(),
            workflow: "echo".to_owned(),
            input: input.iter().map(mapping).collect(),
            ..CreateTriggerRequest::default()
        }
    }

    async fn create(&self, request: &CreateTriggerRequest) -> Trigger {
        self.server.owner.create_trigger(request, None).await.unwrap()
    }

    /// Triggers for GitHub's pull requests and ServiceNow's incidents.
    async fn with_events(self) -> Self {
        self.workflow("echo", &echo(&["number", "title"])).await;
        let input = [("number", "/number"), ("title", "/pull_request/title")];
        let github = CreateTriggerRequest {
            events: vec!["pull_request.opened".to_owned(), "pull_request.reopened".to_owned()],
            ..self.trigger("github", &input)
        };
        self.create(&github).await;
        self.workflow("triage", &echo(&["sys_id"])).await;
        let servicenow = CreateTriggerRequest {
            workflow: "triage".to_owned(),
            events: vec!["incident.created".to_owned()],
            ..self.trigger("servicenow", &[("sys_id", "/record/sys_id")])
        };
        self.create(&servicenow).await;
        self
    }

    /// Has people asked on Slack.
    async fn with_slack(self) -> Self {
        let slack =
            Slack { team: TEAM.to_owned(), channel: CHANNEL.to_owned(), ..Slack::default() };
        let request = CreateTriggerRequest {
            workflow: String::new(),
            slack: Some(slack),
            ..self.trigger("slack", &[])
        };
        self.create(&request).await;
        self
    }

    fn post(&self, trigger: &str) -> Ask {
        self.wire.ask("POST", &format!("/hooks/main/{trigger}"))
    }

    fn github(&self, name: &str, body: &str) -> Ask {
        let signature = format!("sha256={}", code(GITHUB, body.as_bytes()));
        let ask = self.post("github").header("x-github-event", name);
        let ask = ask.header("x-github-delivery", "72d3162e-cc78-11e3-81ab-4c9367dc0958");
        ask.header("x-hub-signature-256", &signature).bytes(body)
    }

    fn servicenow(&self, body: &Value) -> Ask {
        self.servicenow_at(&now().to_string(), &body.to_string())
    }

    fn servicenow_at(&self, time: &str, body: &str) -> Ask {
        let signature = code(SERVICENOW, format!("{time}.{body}").as_bytes());
        let ask = self.post("servicenow").header("x-tally-timestamp", time);
        ask.header("x-tally-signature", &signature).bytes(body)
    }

    fn slack_at(&self, time: &str, body: &str) -> Ask {
        let signature = format!("v0={}", code(SLACK, format!("v0:{time}:{body}").as_bytes()));
        let ask = self.post("slack").header("x-slack-request-timestamp", time);
        ask.header("x-slack-signature", &signature).raw(body)
    }

    /// What Slack sends when somebody presses a button.
    fn pressed(&self, payload: &Value) -> Ask {
        let body = form(payload);
        self.slack_at(&now().to_string(), &body)
            .header("content-type", "application/x-www-form-urlencoded")
    }

    async fn runs(&self) -> Vec<Run> {
        self.server.owner.list_runs(&ListRunsRequest::default()).await.unwrap().runs
    }

    fn owner(&self) -> &Client {
        &self.server.owner
    }
}

fn form(payload: &Value) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("payload", &payload.to_string()).finish()
}

/// A pull request as GitHub tells of one, with what triggers look at and some more.
fn pull_request(action: &str, number: u64) -> String {
    json!({
        "action": action,
        "number": number,
        "pull_request": {
            "id": 1_894_402_917_u64,
            "title": "Make it better",
            "body": null,
            "user": {"login": "octocat", "id": 583_231},
        },
        "repository": {"full_name": "acme/widgets", "private": true},
        "sender": {"login": "octocat"},
    })
    .to_string()
}

fn incident(event_id: &str, sys_id: &str) -> Value {
    json!({
        "event_id": event_id,
        "event": "incident.created",
        "record": {"sys_id": sys_id, "number": "INC0010001", "priority": "3"},
    })
}

fn run_id(answer: &Value) -> String {
    answer["run_id"].as_str().unwrap_or_else(|| panic!("no run: {answer}")).to_owned()
}
