//! Handles of another tenant: of its executions, attestations and tools.

use client::Client;
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest, CreateTenantRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use proto::sandboxes::{ExecuteRequest, GetExecutionRequest};
use proto::tools::{GrantToolRequest, RegisterToolRequest};
use proto::types::Json;
use serde_json::json;

use super::case::{Case, crash, denied};
use super::door::calls;
use super::host::{Host, POLICY};
use crate::common::wire::Wire;
use crate::common::{WORKSPACE, refusal, rego};
use crate::sandbox::agents::echo;
use crate::sandbox::place::component;

/// The tool that the other tenant has.
const TOOL: &str = "globex.echo";

/// Another tenant of the same server.
pub(crate) struct Stranger {
    agent: Client,
    execution_id: String,
}

impl Stranger {
    pub(crate) async fn new(host: &Host) -> Self {
        let request = CreateTenantRequest { tenant: "globex".to_owned() };
        let made = host.server.owner.create_tenant(&request, None).await.unwrap();
        let owner = Client::new(&host.server.url, &made.owner.unwrap().key).unwrap();
        let bundle = rego(POLICY).pack_unsigned().unwrap();
        let draft = CreatePolicyDraftRequest { bundle, description: "theirs".to_owned() };
        let policy_id = owner.create_policy_draft(&draft, None).await.unwrap().policy_id;
        owner.publish_policy(&PublishPolicyRequest { policy_id }, None).await.unwrap();
        let agent = agent(host, &owner).await;
        let manifest = json!({
            "id": TOOL, "version": "1.0.0", "description": "Gives back what it is given.",
            "input_schema": {"type": "object"}, "labels": ["read"],
        });
        let manifest = Some(Json::of(&manifest).unwrap());
        let request = RegisterToolRequest { manifest, component: echo(), ..Default::default() };
        let tool = owner.register_tool(&request, None).await.unwrap();
        let (tool_id, code_digest) = (tool.tool_id, tool.code_digest);
        let request = GrantToolRequest { tool_id, code_digest, ..Default::default() };
        owner.grant_tool(&request, None).await.unwrap();
        let ended = agent.execute(&component(echo()), None).await.unwrap();
        assert_eq!(ended.outcome, "SUCCESS", "{ended:?}");
        Self { agent, execution_id: ended.execution_id }
    }
}

async fn agent(host: &Host, owner: &Client) -> Client {
    let request = CreatePrincipalRequest {
        kind: Kind::Agent.into(),
        name: "theirs".to_owned(),
        roles: vec!["agent".to_owned()],
        ..Default::default()
    };
    let principal_id = owner.create_principal(&request, None).await.unwrap().principal_id;
    let request = CreateKeyRequest {
        principal_id,
        workspace: WORKSPACE.to_owned(),
        environment: "dev".to_owned(),
        ..Default::default()
    };
    let key = owner.create_key(&request, None).await.unwrap().key;
    Client::new(&host.server.url, &key).unwrap()
}

/// What code of ours asks for that is theirs.
pub(crate) fn cases(stranger: &Stranger) -> Vec<Case> {
    let id = &stranger.execution_id;
    vec![
        calls("a tool of another tenant", TOOL, &json!({}), denied("tool", TOOL)),
        calls(
            "code of another tenant's tool",
            "sandbox.execute",
            &json!({"tool": TOOL}),
            denied("tool", "sandbox.execute"),
        ),
        calls(
            "an execution of another tenant, again",
            "sandbox.replay",
            &json!({"execution_id": id}),
            crash("raised", "not_found"),
        ),
    ]
}

/// What we ask for by the ids of what is theirs: it is answered like what there is not.
pub(crate) async fn handles(host: &Host, stranger: &Stranger) {
    let (wire, key) = (Wire::new(&host.server.url), host.server.owner_key());
    let absent = "act_01jd0000000000000000000000";
    for (name, method, path) in [
        ("read an execution", "GET", "/v1/sandboxes/executions/ID"),
        ("end an execution", "POST", "/v1/sandboxes/executions/ID/cancel"),
        ("read an attestation", "GET", "/v1/attestations/ID"),
        ("repeat an execution", "POST", "/v1/attestations/ID/replay"),
        ("read an action", "GET", "/v1/actions/ID"),
        ("cancel an action", "POST", "/v1/actions/ID/cancel"),
    ] {
        let mut answers = Vec::new();
        for id in [stranger.execution_id.as_str(), absent] {
            let ask = wire.ask_as(&key, method, &path.replace("ID", id));
            let ask = if method == "POST" { ask.json(&json!({})) } else { ask };
            let reply = ask.send().await;
            let mut error = reply.error();
            error["request_id"] = json!("");
            answers.push((reply.status, error.to_string().replace(id, "ID")));
        }
        assert_eq!(answers[0].0, 404, "{name}: {answers:?}");
        assert_eq!(answers[0], answers[1], "{name}: theirs is told from what there is not");
        host.unharmed(name).await;
    }
    let request = ExecuteRequest { tool: TOOL.to_owned(), ..Default::default() };
    let refused = refusal(host.agent.execute(&request, None).await);
    assert_eq!(refused, (404, "unknown_tool".to_owned()));
    host.unharmed("run a tool").await;
    let request = GetExecutionRequest { execution_id: stranger.execution_id.clone() };
    let theirs = stranger.agent.get_execution(&request).await.unwrap();
    assert_eq!(theirs.outcome, "SUCCESS", "nothing happened to it: {theirs:?}");
}
