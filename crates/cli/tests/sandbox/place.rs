//! A server, an agent, and a folder in which its code has its effects.

use std::fs;
use std::path::PathBuf;

use client::Client;
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, ListActionsRequest};
use proto::identity::principal::Kind;
use proto::sandboxes::{
    ExecuteRequest, Execution, GetAttestationRequest, GetExecutionRequest, Replay,
    ReplayExecutionRequest,
};
use proto::types::Json;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::agents::call;
use crate::common::{LOOK_EVERY, PATIENCE, Server, rego};

/// Allows everything; people have to agree to what is written.
pub(crate) const HOLDS_WRITES: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R-WRITE", "reason": "write",
    "obligations": {"approval": {"quorum": 1}},
} if input.tool.id == "core.fs_write"

decisions contains {"effect": "DENY", "rule": "R-NO-HTTP", "reason": "no_http"} if {
    input.tool.id == "core.http_call"
}"#;

pub(crate) struct Place {
    pub(crate) server: Server,
    pub(crate) agent: Client,
    pub(crate) root: PathBuf,
    _folder: TempDir,
}

impl Place {
    pub(crate) async fn new(sandbox: &str) -> Self {
        Self::with(sandbox, &rego(HOLDS_WRITES)).await
    }

    pub(crate) async fn with(sandbox: &str, policy: &Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        fs::write(root.join("in"), "seven").unwrap();
        // Time enough on a busy machine.
        let yaml = format!(
            "grants: {{fs_read: [{root:?}], fs_write: [{root:?}]}}\n\
             policy: {{decision_limit_ms: 5000}}\n{sandbox}"
        );
        let server = Server::start(&yaml);
        server.publish(policy).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, agent, root, _folder: folder }
    }

    pub(crate) fn reads(&self) -> (String, String) {
        call("core.fs_read", &json!({"path": self.root.join("in")}))
    }

    /// Appends a line, once people agree.
    pub(crate) fn writes(&self) -> (String, String) {
        let path = self.root.join("out");
        call("core.fs_write", &json!({"path": path, "content": "once\n", "mode": "append"}))
    }

    /// How often that happened.
    pub(crate) fn written(&self) -> usize {
        fs::read_to_string(self.root.join("out")).unwrap_or_default().lines().count()
    }

    pub(crate) async fn run(&self, request: ExecuteRequest) -> Execution {
        self.agent.execute(&request, None).await.unwrap()
    }

    /// The execution once it is in `state`.
    pub(crate) async fn reaches(&self, execution: &Execution, state: State) -> Execution {
        let id = &execution.execution_id;
        let request = GetExecutionRequest { execution_id: id.clone() };
        let until = Instant::now() + PATIENCE;
        loop {
            let now = self.agent.get_execution(&request).await.unwrap();
            if now.state() == state {
                return now;
            }
            assert!(Instant::now() < until, "{id} never becomes {state:?}: {now:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// The call of an execution that waits for people.
    pub(crate) async fn held(&self, execution: &Execution) -> Action {
        let state = State::AwaitingApproval.into();
        let request = ListActionsRequest { state, ..Default::default() };
        let until = Instant::now() + PATIENCE;
        loop {
            let held = self.server.owner.list_actions(&request).await.unwrap().actions;
            let ours = |action: &Action| action.execution_id == execution.execution_id;
            if let Some(action) = held.into_iter().find(ours) {
                return action;
            }
            assert!(Instant::now() < until, "no call of {} is held", execution.execution_id);
            sleep(LOOK_EVERY).await;
        }
    }

    pub(crate) async fn approver(&self) -> Client {
        self.server.principal(Kind::User, &["approver"]).await
    }

    /// The document that strangers verify.
    pub(crate) async fn attestation(&self, execution: &Execution) -> Vec<u8> {
        let request = GetAttestationRequest { execution_id: execution.execution_id.clone() };
        self.agent.get_attestation(&request).await.unwrap().data
    }

    /// The execution again, with this component in place of its own.
    pub(crate) async fn replay(&self, execution: &Execution, component: &[u8]) -> Replay {
        let request = ReplayExecutionRequest {
            execution_id: execution.execution_id.clone(),
            component: component.to_vec(),
            wait_ms: Some(60_000),
            ..Default::default()
        };
        self.agent.replay_execution(&request, None).await.unwrap()
    }
}

/// A component to run.
pub(crate) fn component(bytes: Vec<u8>) -> ExecuteRequest {
    ExecuteRequest {
        component: bytes,
        limits: Some(generous()),
        wait_ms: Some(60_000),
        ..Default::default()
    }
}

/// The same, without waiting for it.
pub(crate) fn soon(bytes: Vec<u8>) -> ExecuteRequest {
    ExecuteRequest { wait_ms: Some(0), ..component(bytes) }
}

/// Time enough on a busy machine.
pub(crate) fn generous() -> proto::sandboxes::Limits {
    proto::sandboxes::Limits { wall_ms: Some(50_000), ..Default::default() }
}

pub(crate) fn json_of(json: Option<&Json>) -> Value {
    serde_json::from_str(&json.unwrap().text).unwrap()
}
