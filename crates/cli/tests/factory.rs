//! Workflows on their way into force, over HTTP: published, released, tried, taken back.

mod bound;
mod canary;
mod facts;
mod kept;

use std::time::Duration;

use client::Client;
use proto::identity::principal::Kind;
use proto::releases::{
    ApproveReleaseRequest, CreateReleaseRequest, ErrorBudget, GetReleaseRequest,
    PromoteReleaseRequest, Release,
};
use proto::runs::{GetRunRequest, Run, StartRunRequest};
use proto::types::Json;
use proto::workflows::{PublishWorkflowRequest, Workflow};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::{LOOK_EVERY, PATIENCE, Server, allow_all};

/// A server, and everybody whom a release takes.
pub(crate) struct Plant {
    pub(crate) server: Server,
    builder: Client,
    pub(crate) approver: Client,
    operator: Client,
    pub(crate) agent: Client,
}

impl Plant {
    pub(crate) async fn new(yaml: &str) -> Self {
        Self::of(Server::start(&format!("policy: {{decision_limit_ms: 5000}}\n{yaml}"))).await
    }

    async fn of(server: Server) -> Self {
        server.publish(&allow_all()).await;
        let builder = server.principal(Kind::User, &["builder"]).await;
        let approver = server.principal(Kind::User, &["approver"]).await;
        let operator = server.principal(Kind::User, &["operator"]).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, builder, approver, operator, agent }
    }

    /// Publishes a version and has it approved.
    async fn approved(&self, document: &Value, budget: Option<ErrorBudget>) -> Release {
        approved(&self.builder, &self.approver, document, budget).await
    }

    /// Has runs take a release: a share, or all.
    async fn promote(&self, release: &Release, canary_percent: Option<u32>) -> Release {
        let release_id = release.release_id.clone();
        let request = PromoteReleaseRequest { release_id, canary_percent };
        self.operator.promote_release(&request, None).await.unwrap()
    }

    /// Publishes a version and has all runs take it.
    pub(crate) async fn in_force(&self, document: &Value) -> Release {
        let release = self.approved(document, None).await;
        self.promote(&release, None).await
    }

    async fn release(&self, id: &str) -> Release {
        let request = GetReleaseRequest { release_id: id.to_owned() };
        self.operator.get_release(&request).await.unwrap()
    }
}

async fn approved(
    builder: &Client,
    approver: &Client,
    document: &Value,
    error_budget: Option<ErrorBudget>,
) -> Release {
    let version = document["metadata"]["version"].as_str().unwrap().to_owned();
    let workflow = document["metadata"]["name"].as_str().unwrap().to_owned();
    publish(builder, document).await.unwrap();
    let request = CreateReleaseRequest { workflow, version, error_budget };
    let made = builder.create_release(&request, None).await.unwrap();
    approve(approver, &made.release_id).await.unwrap()
}

/// Has all runs on a server take a document: the owner's, and approved by somebody else.
pub(crate) async fn released(server: &Server, approver: &Client, document: &Value) {
    let release_id = approved(&server.owner, approver, document, None).await.release_id;
    let request = PromoteReleaseRequest { release_id, canary_percent: None };
    server.owner.promote_release(&request, None).await.unwrap();
}

/// A document of these steps.
pub(crate) fn document(name: &str, version: &str, steps: &[Value]) -> Value {
    json!({
        "apiVersion": "tally/v1",
        "kind": "Workflow",
        "metadata": {"name": name, "version": version},
        // What a run gave is looked at here, after it has ended.
        "spec": {"riskTier": "medium", "contentRetention": "keep", "steps": steps},
    })
}

/// A step that gives what it is given.
pub(crate) fn echo(id: &str, value: &Value) -> Value {
    json!({"id": id, "action": "core.json_transform", "input": {"input": value, "filter": "."}})
}

/// A step that fails for good: there is nothing where it looks.
fn broken(id: &str) -> Value {
    echo(id, &json!("{{input.nothing.there}}"))
}

async fn publish(who: &Client, document: &Value) -> Result<Workflow, client::Error> {
    // JSON is YAML.
    who.publish_workflow(&PublishWorkflowRequest { yaml: document.to_string() }, None).await
}

async fn approve(who: &Client, id: &str) -> Result<Release, client::Error> {
    let request = ApproveReleaseRequest { release_id: id.to_owned(), evaluation: String::new() };
    who.approve_release(&request, None).await
}

/// A run of a kept workflow, by what is in force.
pub(crate) fn named(workflow: &str) -> StartRunRequest {
    StartRunRequest {
        workflow_name: workflow.to_owned(),
        input: Some(Json::of(&json!({"sys_id": "1"})).unwrap()),
        wait_ms: Some(60_000),
        ..StartRunRequest::default()
    }
}

pub(crate) async fn start(who: &Client, workflow: &str) -> Run {
    who.start_run(&named(workflow), None).await.unwrap()
}

async fn read(who: &Client, id: &str) -> Run {
    let request = GetRunRequest { run_id: id.to_owned(), ..GetRunRequest::default() };
    who.get_run(&request).await.unwrap()
}

/// Waits until `look` gives something.
async fn eventually<T>(what: &str, look: impl AsyncFn() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE + Duration::from_secs(60);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < until, "{what} never comes");
        sleep(LOOK_EVERY).await;
    }
}
