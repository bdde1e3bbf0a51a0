//! The systems of the flagship, simulated, a server between them, and the people.

use client::Client;
use proto::accounts::CreateAccountRequest;
use proto::actions::{Action, GetActionRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreatePrincipalRequest, LinkPrincipalRequest};
use proto::releases::{ApproveReleaseRequest, CreateReleaseRequest, PromoteReleaseRequest};
use proto::runs::{GetRunRequest, ListRunsRequest, Run, RunState};
use proto::secrets::PutSecretRequest;
use proto::triggers::{CreateTriggerRequest, Mapping, Slack};
use proto::workflows::PublishWorkflowRequest;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::simulator::{Simulator, servicenow_script, with};
use crate::common::{LOOK_EVERY, PATIENCE, Server, WORKSPACE};

pub(super) const WORKFLOW: &str = include_str!("../../../../catalog/workflows/itsm-triage.yaml");
pub(super) const NETWORK: &str = "287ebd7da9fe198100f92cc8d1d2154e";
pub(super) const CHANNEL: &str = "C0SIM";
pub(super) const ADA: &str = "U0ADA";
pub(super) const BOB: &str = "U0BOB";
pub(super) const APPROVE: &str = "tally_approve";
pub(super) const REJECT: &str = "tally_reject";

/// What the runs pay from.
const ACCOUNT: &str = "triage";
const FUNDS_MICRO_USD: i64 = 100_000_000;

/// Credentials that are nowhere by chance.
pub(crate) const SECRETS: [(&str, &str); 5] = [
    ("servicenow", "now-secret-5a81c0e7f2"),
    ("slack", "xoxb-7c0de91f44-slack-token"),
    ("slack-signing", "b2f0c6a8d3-slack-signing"),
    ("hook", "e9d41b7730-hook-secret"),
    ("model", "sk-3fd8a17c55-model-key"),
];

/// The value of a secret.
pub(super) fn secret(name: &str) -> &'static str {
    SECRETS.iter().find(|(own, _)| *own == name).unwrap().1
}

/// A proposal that fits the workflow's schema.
pub(super) fn proposal(priority: &str) -> Value {
    json!({"summary": "It is slow.", "category": "network", "priority": priority,
        "assignment_group": NETWORK, "rationale": "The network is concerned: group Network."})
}

/// What a test sets up otherwise.
pub(super) struct Setup {
    /// The rules of the model; without any that fits it proposes priority 3.
    pub(super) rules: Vec<Value>,
    /// What the script of ServiceNow has besides.
    pub(super) servicenow: Value,
    /// The section `policy` of the configuration.
    pub(super) policy: &'static str,
}

impl Default for Setup {
    fn default() -> Self {
        let (rules, servicenow) = (Vec::new(), json!({}));
        Self { rules, servicenow, policy: "{decision_limit_ms: 5000}" }
    }
}

pub(super) struct Scene {
    pub(super) server: Server,
    pub(super) servicenow: Simulator,
    pub(super) slack: Simulator,
    _model: Simulator,
}

impl Scene {
    pub(super) async fn new(setup: Setup) -> Self {
        let mut rules = setup.rules;
        rules.push(json!({"json": proposal("3")}));
        let model = json!({"key": secret("model"), "rules": rules});
        let now = secret("servicenow");
        let now = json!({
            "users": [{"name": "tally", "password": now}, {"name": "reporter", "password": "r"}],
            "clients": [{"id": "tally", "secret": now, "user": "tally"}],
        });
        let now = with(with(servicenow_script(), now), setup.servicenow);
        let model = Simulator::start("model", &model);
        let servicenow = Simulator::start("servicenow", &now);
        let slack = Simulator::start("slack", &json!({"token": secret("slack")}));
        let base = base(&model, [&servicenow, &slack]);
        let server = Server::start(&format!("policy: {}\n{base}", setup.policy));
        let scene = Self { server, servicenow, slack, _model: model };
        scene.install().await;
        scene
    }

    async fn install(&self) {
        let owner = &self.server.owner;
        for (name, value) in SECRETS.into_iter().chain([("servicenow-id", "tally")]) {
            let (name, value) = (name.to_owned(), value.to_owned());
            owner.put_secret(&PutSecretRequest { name, value }, None).await.unwrap();
        }
        super::install::connectors(self).await;
        self.publish().await;
        for (name, subject) in [("Ada", ADA), ("Bob", BOB)] {
            let principal_id = self.principal(Kind::User, name, "approver", "").await;
            let (provider, subject) = ("slack:T0SIM".to_owned(), subject.to_owned());
            let request = LinkPrincipalRequest { principal_id, provider, subject };
            owner.link_principal(&request, None).await.unwrap();
        }
        let account_id = ACCOUNT.to_owned();
        let account = CreateAccountRequest { account_id, ..CreateAccountRequest::default() };
        owner.create_account(&account, None).await.unwrap();
        self.server.fund(ACCOUNT, FUNDS_MICRO_USD).await;
        let service = self.principal(Kind::Service, "triage", "operator", ACCOUNT).await;
        self.release().await;
        self.triggers(&service).await;
    }

    pub(super) async fn publish(&self) {
        self.server.publish(&policy::itsm().unwrap()).await;
    }

    async fn principal(&self, kind: Kind, name: &str, role: &str, account: &str) -> String {
        let request = CreatePrincipalRequest {
            kind: kind.into(),
            name: name.to_owned(),
            roles: vec![role.to_owned()],
            account_id: account.to_owned(),
        };
        self.server.owner.create_principal(&request, None).await.unwrap().principal_id
    }

    async fn release(&self) {
        let owner = &self.server.owner;
        let request = PublishWorkflowRequest { yaml: WORKFLOW.to_owned() };
        owner.publish_workflow(&request, None).await.unwrap();
        let workflow = "itsm-triage".to_owned();
        let request = CreateReleaseRequest { workflow, ..CreateReleaseRequest::default() };
        let release_id = owner.create_release(&request, None).await.unwrap().release_id;
        let evaluation = String::new();
        let request = ApproveReleaseRequest { release_id: release_id.clone(), evaluation };
        let approver = self.server.principal(Kind::User, &["approver"]).await;
        approver.approve_release(&request, None).await.unwrap();
        let request = PromoteReleaseRequest { release_id, canary_percent: None };
        owner.promote_release(&request, None).await.unwrap();
    }

    async fn triggers(&self, service: &str) {
        let owner = &self.server.owner;
        let incidents = CreateTriggerRequest {
            name: "incidents".to_owned(),
            source: "servicenow".to_owned(),
            principal_id: service.to_owned(),
            secret: "hook".to_owned(),
            workflow: "itsm-triage".to_owned(),
            events: vec!["incident.created".to_owned()],
            input: vec![Mapping { name: "sys_id".to_owned(), pointer: "/sys_id".to_owned() }],
            ..CreateTriggerRequest::default()
        };
        let slack =
            Slack { team: "T0SIM".to_owned(), channel: CHANNEL.to_owned(), ..Slack::default() };
        let cards = CreateTriggerRequest {
            name: "cards".to_owned(),
            source: "slack".to_owned(),
            principal_id: service.to_owned(),
            secret: "slack-signing".to_owned(),
            slack: Some(slack),
            ..CreateTriggerRequest::default()
        };
        let incidents = owner.create_trigger(&incidents, None).await.unwrap();
        let cards = owner.create_trigger(&cards, None).await.unwrap();
        let to = |path: &str| format!("{}{path}", self.server.url);
        let hook = json!({"url": to(&incidents.path), "secret": secret("hook")});
        self.servicenow.tell("webhook", &hook).await;
        let buttons = json!({"url": to(&cards.path), "signing_secret": secret("slack-signing")});
        self.slack.tell("interactivity", &buttons).await;
    }

    /// Somebody reports an incident; its `sys_id`.
    pub(super) async fn report(&self, text: &str) -> String {
        let body = json!({"short_description": "an incident", "description": text,
            "priority": "4"});
        // `reporter:r`.
        let ask = self.servicenow.wire.ask("POST", "/api/now/table/incident");
        let ask = ask.header("authorization", "Basic cmVwb3J0ZXI6cg==").json(&body);
        let made = ask.send().await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["result"]["sys_id"].as_str().unwrap().to_owned()
    }

    /// All runs, the oldest first, once there are `count`.
    pub(super) async fn runs(&self, count: usize) -> Vec<Run> {
        let end = Instant::now() + PATIENCE;
        loop {
            let request = ListRunsRequest { page_size: 200, ..ListRunsRequest::default() };
            let mut runs = self.server.owner.list_runs(&request).await.unwrap().runs;
            runs.reverse();
            if runs.len() >= count {
                assert_eq!(runs.len(), count, "{runs:?}");
                return runs;
            }
            assert!(
                Instant::now() < end,
                "{} runs: {:#}",
                runs.len(),
                self.servicenow.state().await
            );
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn run(&self, id: &str) -> Run {
        let request = GetRunRequest { run_id: id.to_owned(), ..GetRunRequest::default() };
        self.server.owner.get_run(&request).await.unwrap()
    }

    /// The run once `is` holds of it.
    pub(super) async fn until(&self, id: &str, what: &str, is: impl Fn(&Run) -> bool) -> Run {
        let end = Instant::now() + PATIENCE;
        loop {
            let run = self.run(id).await;
            if is(&run) {
                return run;
            }
            assert!(Instant::now() < end, "{what} never comes: {run:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn reaches(&self, id: &str, state: RunState) -> Run {
        let is = |run: &Run| {
            assert!(run.ended_at.is_none() || run.state() == state, "{run:?}");
            run.state() == state
        };
        self.until(id, state.as_str_name(), is).await
    }

    /// The run once its content is deleted, which a commit after its end does.
    pub(super) async fn forgets(&self, id: &str) -> Run {
        let is = |run: &Run| run.steps.iter().all(|step| step.params.is_none());
        self.until(id, "no content", is).await
    }

    pub(super) async fn action(&self, run: &Run, step: &str) -> Action {
        let step = run.steps.iter().find(|one| one.step_id == step).unwrap();
        let request = GetActionRequest { action_id: step.action_id.clone() };
        self.server.owner.get_action(&request).await.unwrap()
    }

    /// Every card of what the run's step waits for, once there is one.
    pub(super) async fn cards(&self, run: &Run, step: &str) -> Vec<Value> {
        let approval = json!(self.action(run, step).await.approval_id);
        let cards = |state: &Value| -> Vec<Value> {
            let all = state["messages"].as_array().unwrap().iter();
            let about = "/metadata/event_payload/approval";
            all.filter(|message| message.pointer(about) == Some(&approval)).cloned().collect()
        };
        cards(&self.slack.until("the card", |state| !cards(state).is_empty()).await)
    }

    /// Somebody presses a button of a card.
    pub(super) async fn press(&self, user: &str, card: &Value, button: &str) {
        let press =
            json!({"user": user, "channel": CHANNEL, "ts": card["ts"], "action_id": button});
        assert_eq!(self.slack.press(&press).await, [200]);
    }

    /// What was changed of an incident, or of all: `field: from -> to`, without the notes' text.
    pub(super) async fn changes(&self, of: Option<&str>) -> Vec<String> {
        let state = self.servicenow.state().await;
        let all = state["changes"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.filter(|one| of.is_none_or(|id| one["sys_id"] == id))
            .map(|one| match text(&one["field"]).as_str() {
                "work_notes" => "work_notes".to_owned(),
                field => format!("{field}: {} -> {}", text(&one["from"]), text(&one["to"])),
            })
            .collect()
    }

    /// The owner's client.
    pub(super) fn owner(&self) -> &Client {
        &self.server.owner
    }
}

/// What the configuration says but for `policy`.
fn base(model: &Simulator, systems: [&Simulator; 2]) -> String {
    let price = json!({"input": 2_000_000, "output": 8_000_000, "context": 50_000});
    let provider = json!({
        "name": "simulator", "form": "openai", "base_url": format!("{}/v1", model.url),
        "key": "model", "private": true, "models": {"sim-large": price},
    });
    let grants = systems.map(|system| {
        let port: u16 = system.url.rsplit(':').next().unwrap().parse().unwrap();
        json!({"host": "127.0.0.1", "port": port, "private": true})
    });
    // YAML takes JSON.
    let (models, grants) = (json!({"providers": [provider]}), json!({"http": grants}));
    format!("models: {models}\ngrants: {grants}")
}

/// The workspace in which all of it is.
pub(super) fn workspace() -> String {
    WORKSPACE.to_owned()
}
