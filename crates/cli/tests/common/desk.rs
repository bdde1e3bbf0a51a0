//! A desk where actions of an agent wait for people.

use std::fs;
use std::path::PathBuf;

use client::Client;
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, SubmitActionRequest};
use proto::approvals::{Approval, Choice, DecideApprovalRequest, GetApprovalRequest};
use proto::identity::principal::Kind;
use proto::ledger::VerifyLedgerRequest;
use rusqlite::Connection;
use serde_json::json;
use tempfile::TempDir;

use super::{Server, WORKSPACE, action, granting, reaches, rego};

/// One approver, whoever it is.
pub(crate) const ONE: &str = r#"{"approval": {"quorum": 1}}"#;
/// Two of them.
pub(crate) const TWO: &str = r#"{"approval": {"quorum": 2}}"#;

/// A server, an agent, and the file to which every held action appends one line.
pub(crate) struct Desk {
    pub(crate) server: Server,
    pub(crate) agent: Client,
    file: PathBuf,
    _folder: TempDir,
}

impl Desk {
    pub(crate) async fn new(policy: &Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let server = Server::start(&granting(&root));
        server.publish(policy).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        Self { server, agent, file: root.join("effects"), _folder: folder }
    }

    pub(crate) async fn approver(&self) -> Client {
        self.server.principal(Kind::User, &["approver"]).await
    }

    pub(crate) fn request(&self) -> SubmitActionRequest {
        let params = json!({"path": self.file, "content": "once\n", "mode": "append"});
        SubmitActionRequest { wait_ms: Some(0), ..action("core.fs_write", &params) }
    }

    /// An action that is held for people.
    pub(crate) async fn held(&self) -> Action {
        self.held_for(&self.agent).await
    }

    pub(crate) async fn held_for(&self, who: &Client) -> Action {
        let held = who.submit_action(&self.request(), None).await.unwrap();
        assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
        assert!(!held.approval_id.is_empty());
        held
    }

    /// How often an effect happened.
    pub(crate) fn effects(&self) -> usize {
        fs::read_to_string(&self.file).unwrap_or_default().lines().count()
    }

    pub(crate) async fn action(&self, id: &str) -> Action {
        let request = GetActionRequest { action_id: id.to_owned() };
        self.server.owner.get_action(&request).await.unwrap()
    }

    pub(crate) async fn reaches(&self, held: &Action, state: State) -> Action {
        reaches(&self.server.owner, &held.action_id, state).await
    }

    pub(crate) async fn approval(&self, id: &str) -> Approval {
        let request = GetApprovalRequest { approval_id: id.to_owned() };
        self.server.owner.get_approval(&request).await.unwrap()
    }

    /// Of how many actions the document is kept.
    pub(crate) fn documents(&self) -> u32 {
        let runtime = Connection::open(self.server.data.join("runtime.sqlite")).unwrap();
        let sql = "SELECT count(*) FROM content WHERE part = 'document'";
        runtime.query_row(sql, [], |row| row.get(0)).unwrap()
    }

    /// Every log entry of the workspace verifies.
    pub(crate) async fn verify(&self) {
        let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
        let report = self.server.owner.verify_ledger(&request).await.unwrap();
        assert!(report.valid && report.checked > 0, "{report:?}");
    }
}

/// A policy that holds everything for people.
pub(crate) fn held_by(obligations: &str) -> Source {
    one_rule("REQUIRE_APPROVAL", obligations)
}

pub(crate) fn one_rule(effect: &str, obligations: &str) -> Source {
    rego(&format!(
        r#"decisions contains {{
            "effect": "{effect}", "rule": "R-ONE", "reason": "one", "obligations": {obligations},
        }} if true"#
    ))
}

pub(crate) async fn decide(
    who: &Client,
    on: &Action,
    decision: Choice,
) -> Result<Approval, client::Error> {
    let request = DecideApprovalRequest {
        approval_id: on.approval_id.clone(),
        decision: decision.into(),
        plan_digest: on.plan_digest.clone(),
        reason: "as a test has it".to_owned(),
        ..Default::default()
    };
    who.decide_approval(&request, None).await
}

pub(crate) async fn approve(who: &Client, on: &Action) -> Result<Approval, client::Error> {
    decide(who, on, Choice::Approve).await
}

pub(crate) fn conflict() -> (u16, String) {
    (409, "state_conflict".to_owned())
}
