//! Code in sandboxes, through the real program: its calls of tools, what people hold, crashes, what
//! is attested, and what one tenant sees of another.

pub(crate) mod agents;
mod crash;
mod keys;
mod offline;
pub(crate) mod place;
mod reach;
mod refused;
mod shell;
pub(crate) mod source;

use std::time::{SystemTime, UNIX_EPOCH};

use kernel::attestation::{self, Check, Level};
use kernel::values::Timestamp;
use ledger::keys::NativeVerifier;
use proto::actions::action::State;
use proto::actions::{CancelActionRequest, GetActionRequest};
use proto::approvals::Choice;
use proto::identity::DisablePrincipalRequest;
use proto::sandboxes::{CancelExecutionRequest, ExecuteRequest};
use proto::types::Json;
use serde_json::{Value, json};

use self::agents::{call, caller, echo, endless};
use self::place::{Place, component, json_of, soon};
use crate::common::desk::{approve, decide};
use crate::common::wire::Wire;
use crate::common::{reaches, rego};

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp(i64::try_from(since.as_micros()).unwrap())
}

pub(crate) fn verified(document: &[u8]) -> Result<attestation::Verified, attestation::Refused> {
    let check = Check { level: Level::Full, ..Check::at(now()) };
    attestation::verify(document, &check, &NativeVerifier)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_calls_three_tools_and_people_hold_one() {
    let place = Place::new("").await;
    let jq = call("core.json_transform", &json!({"input": {"a": 7}, "filter": ".a"}));
    let code = caller(&[place.reads(), place.writes(), jq]);
    let execution = place.run(soon(code.clone())).await;
    let held = place.held(&execution).await;
    assert_eq!(place.written(), 0, "nothing is written while it is held");
    assert_eq!(place.reaches(&execution, State::Executing).await.outcome, "");

    approve(&place.approver().await, &held).await.unwrap();
    let ended = place.reaches(&execution, State::Executed).await;
    assert_eq!((ended.outcome.as_str(), place.written()), ("SUCCESS", 1));
    assert_eq!(json_of(ended.output.as_ref()), json!({"output": [7]}));
    let calls: Vec<_> = ended.tool_calls.iter().map(|c| (c.seq, c.tool.as_str())).collect();
    assert_eq!(calls, [(1, "core.fs_read"), (2, "core.fs_write"), (3, "core.json_transform")]);
    for call in &ended.tool_calls {
        let request = GetActionRequest { action_id: call.action_id.clone() };
        let action = place.agent.get_action(&request).await.unwrap();
        assert_eq!((action.state(), &action.execution_id), (State::Executed, &ended.execution_id));
        assert_eq!(action.receipts.len(), if call.seq == 2 { 4 } else { 2 }, "{action:?}");
    }

    let document = place.attestation(&ended).await;
    let told = verified(&document).unwrap();
    assert_eq!(told.execution_id.as_str(), ended.execution_id);
    assert_eq!(told.attestation.tool_calls.len(), 3);
    assert_eq!(told.attestation.agent_hash, kernel::values::Digest::of(&code));
    let mut forged: Value = serde_json::from_slice(&document).unwrap();
    forged["attestation"]["fuel_used"] = json!(1);
    let refused = verified(forged.to_string().as_bytes()).unwrap_err();
    assert_eq!(refused.field, "attestation.fuel_used");

    let again = place.replay(&ended, &[]).await;
    assert!(again.matches && again.differences.is_empty(), "{again:?}");
    let other = place.replay(&ended, &caller(&[place.reads()])).await;
    let fields: Vec<_> = other.differences.iter().map(|d| d.field.as_str()).collect();
    assert!(!other.matches, "{other:?}");
    for field in ["code", "output", "tool_calls"] {
        assert!(fields.contains(&field), "{other:?}");
    }
    assert_eq!(place.written(), 1, "what is repeated has no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_policy_denies_fails_in_the_code() {
    let place = Place::new("").await;
    let http = call("core.http_call", &json!({"url": "https://example.com/"}));
    let ended = place.run(component(caller(&[place.reads(), http]))).await;
    assert_eq!((ended.state(), ended.outcome.as_str()), (State::Failed, "PERMISSION_DENIED"));
    let error = ended.error.as_ref().unwrap();
    assert_eq!(error.code, "capability_denied");
    assert!(error.message.contains("tool `core.http_call`"), "{}", error.message);
    let [_, denied] = &ended.tool_calls[..] else { panic!("{ended:?}") };
    assert_eq!((denied.status.as_str(), denied.error.as_str()), ("denied", "no_http"));
    // A failure is attested like a success.
    assert_eq!(verified(&place.attestation(&ended).await).unwrap().attestation.tool_calls.len(), 2);
    assert!(place.replay(&ended, &[]).await.matches);

    let unknown = place.run(component(caller(&[call("no.tool", &json!({}))]))).await;
    let [call] = &unknown.tool_calls[..] else { panic!("{unknown:?}") };
    assert_eq!((call.status.as_str(), call.error.as_str()), ("refused", "unknown_tool"));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_may_say_no() {
    let place = Place::new("").await;
    let execution = place.run(soon(caller(&[place.writes()]))).await;
    let held = place.held(&execution).await;
    decide(&place.approver().await, &held, Choice::Reject).await.unwrap();
    let ended = place.reaches(&execution, State::Failed).await;
    assert_eq!(ended.tool_calls[0].error, "approval_rejected");
    assert_eq!(place.written(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_paid_from_the_callers_budget() {
    let rules = r#"decisions contains {"effect": "ALLOW", "rule": "R", "reason": "all"} if true"#;
    let place = Place::with("prices: {core.fs_read: 3}", &rego(rules)).await;
    let payer = place.server.paying_agent("purse", 3).await;
    let two = caller(&[place.reads(), place.reads()]);
    let ended = payer.execute(&component(two), None).await.unwrap();
    let errors: Vec<_> = ended.tool_calls.iter().map(|call| call.error.as_str()).collect();
    assert_eq!(errors, ["", "budget_exceeded"], "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_is_held_gives_way_to_a_stop() {
    let place = Place::new("sandbox: {policies: {max_sandboxes: 1}}").await;
    let execution = place.run(soon(caller(&[place.writes()]))).await;
    let held = place.held(&execution).await;
    let full = place.run(component(echo())).await;
    assert_eq!(full.error.as_ref().unwrap().code, "too_many_sandboxes", "{full:?}");

    let request = CancelExecutionRequest { execution_id: execution.execution_id.clone() };
    let ended = place.agent.cancel_execution(&request, None).await.unwrap();
    assert_eq!((ended.state(), ended.error.unwrap().code.as_str()), (State::Failed, "canceled"));
    // A late yes runs nothing.
    let child = reaches(&place.server.owner, &held.action_id, State::Canceled).await;
    assert!(approve(&place.approver().await, &child).await.is_err());
    assert_eq!(place.written(), 0);

    let input = Some(Json::of(&json!({"n": 1})).unwrap());
    let echoed = place.run(ExecuteRequest { input, ..component(echo()) }).await;
    assert_eq!(json_of(echoed.output.as_ref()), json!({"n": 1}), "there is room again");

    let endless = place.run(soon(endless())).await;
    place.reaches(&endless, State::Executing).await;
    let id = endless.execution_id;
    let request = CancelActionRequest { action_id: id, reason: String::new() };
    let ended = place.agent.cancel_action(&request, None).await.unwrap();
    assert_eq!(ended.state(), State::Failed, "the action is the execution: {ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_does_not_end_is_ended() {
    let place = Place::new("").await;
    let limits = proto::sandboxes::Limits { fuel: Some(1_000_000), ..place::generous() };
    let request = ExecuteRequest { limits: Some(limits), ..component(endless()) };
    let ended = place.run(request).await;
    assert_eq!((ended.state(), ended.outcome.as_str()), (State::Failed, "TIMEOUT"), "{ended:?}");
    assert_eq!(ended.error.as_ref().unwrap().code, "fuel_exhausted");
    assert_eq!(verified(&place.attestation(&ended).await).unwrap().attestation.level, Level::Full);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_loses_what_its_principal_loses() {
    let place = Place::new("").await;
    let execution = place.run(soon(caller(&[place.writes(), place.reads()]))).await;
    let held = place.held(&execution).await;
    let me = held.actor_chain.last().unwrap().id.clone();
    let request = DisablePrincipalRequest { principal_id: me };
    place.server.owner.disable_principal(&request, None).await.unwrap();
    approve(&place.approver().await, &held).await.unwrap();
    let id = &execution.execution_id;
    let ended = reaches(&place.server.owner, id, State::Failed).await;
    assert_eq!(ended.error.unwrap().code, "principal_disabled");
    assert_eq!(place.written(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_runs_code_only_so_deep() {
    use base64::Engine as _;
    let place = Place::new("").await;
    let mut code = echo();
    for depth in 1..=5 {
        let text = base64::engine::general_purpose::STANDARD.encode(&code);
        let limits = json!({"wall_ms": 50_000});
        code = caller(&[call("sandbox.execute", &json!({"component": text, "limits": limits}))]);
        let ended = place.run(component(code.clone())).await;
        let deep = if depth < 4 { State::Executed } else { State::Failed };
        assert_eq!(ended.state(), deep, "{depth}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_sees_nothing_of_another() {
    let place = Place::new("").await;
    let ended = place.run(component(echo())).await;
    let id = &ended.execution_id;
    let wire = Wire::new(&place.server.url);
    let (owner, body) = (place.server.owner_key(), json!({"tenant": "acme"}));
    let made = wire.ask_as(&owner, "POST", "/v1/tenants").json(&body).send().await.good();
    let stranger = made["owner"]["key"].as_str().unwrap();
    for (method, path) in [
        ("GET", format!("/v1/sandboxes/executions/{id}")),
        ("GET", format!("/v1/attestations/{id}")),
        ("POST", format!("/v1/sandboxes/executions/{id}/cancel")),
        ("POST", format!("/v1/attestations/{id}/replay")),
    ] {
        let reply = wire.ask_as(stranger, method, &path).send().await;
        assert_eq!(reply.status, 404, "{path}: {}", reply.text());
    }
    let listed = wire.ask_as(stranger, "GET", "/v1/sandboxes/executions").send().await.good();
    assert_eq!(listed["executions"], json!([]));
    let folders = place.server.data.join("sandbox/runs");
    let left: Vec<_> = std::fs::read_dir(&folders).unwrap().collect();
    assert!(
        left.iter().all(|folder| {
            std::fs::read_dir(folder.as_ref().unwrap().path()).unwrap().next().is_none()
        }),
        "no execution leaves a folder behind: {left:?}"
    );
}
