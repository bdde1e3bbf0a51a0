//! Tools that are given as source text: called as actions, and by code through its door.

use proto::actions::GetActionRequest;
use proto::sandboxes::{ExecuteRequest, GetAttestationRequest, GetExecutionRequest};

use super::*;
use crate::common::rego;
use crate::sandbox::agents::{call as tool_call, caller};
use crate::sandbox::place::{component, json_of};
use crate::sandbox::source::interpreters;
use crate::sandbox::verified;

const PYTHON: &str = "def run(input):\n    return {'n': input['n'] * 2}";
const JAVASCRIPT: &str = "export function run({ n }) { return { n: n * 3 } }";

/// Allows everything but one number.
const RULES: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

decisions contains {"effect": "DENY", "rule": "R-13", "reason": "unlucky"} if {
    input.params.n == 13
}"#;

async fn given(builder: &Client, id: &str, language: &str, text: &str) -> ToolRegistration {
    let request = RegisterToolRequest {
        manifest: Some(Json::of(&manifest(id, "1.0.0")).unwrap()),
        source: text.to_owned(),
        language: language.to_owned(),
        ..Default::default()
    };
    builder.register_tool(&request, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn source_text_is_a_tool_like_any_other() {
    let server = Server::start(&format!("policy: {{decision_limit_ms: 5000}}\n{}", interpreters()));
    server.publish(&rego(RULES)).await;
    let builder = server.principal(Kind::User, &["builder"]).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let python = given(&builder, "acme.twice", "python", PYTHON).await;
    let javascript = given(&builder, "acme.thrice", "javascript", JAVASCRIPT).await;
    for tool in [&python, &javascript] {
        out_of_reach(&agent, &tool.tool_id).await;
        let granted = grant(&server.owner, tool).await.unwrap();
        assert_eq!((granted.state(), &*granted.compiled_digest), (State::Active, ""));
    }
    assert_eq!((&*python.code_kind, &*javascript.code_kind), ("python", "javascript"));

    // As actions: each is an execution, which is attested.
    for (tool, text, expected) in
        [(&python, PYTHON, json!({"n": 14})), (&javascript, JAVASCRIPT, json!({"n": 21}))]
    {
        let id = &tool.tool_id;
        let called = call(&agent, id, &json!({"n": 7})).await.unwrap();
        let called = reaches(&agent, &called.action_id, ActionState::Executed).await;
        assert_eq!(json_of(called.result.as_ref()), expected, "{called:?}");
        let request = GetAttestationRequest { execution_id: called.action_id };
        let told = verified(&agent.get_attestation(&request).await.unwrap().data).unwrap();
        let digest = kernel::values::Digest::of(text.as_bytes());
        assert_eq!(told.attestation.agent_hash, digest);
        let broken = call(&agent, id, &json!({"n": "seven"})).await;
        assert_eq!(refusal(broken), (400, "params_invalid".to_owned()));
        let denied = call(&agent, id, &json!({"n": 13})).await.unwrap();
        assert_eq!(denied.state(), ActionState::Denied);
    }

    // Through the door: each call is an action of its own under the execution.
    let [twice, thrice] = ["acme.twice", "acme.thrice"].map(|id| tool_call(id, &json!({"n": 5})));
    let ended = agent.execute(&component(caller(&[twice.clone(), thrice])), None).await.unwrap();
    assert_eq!((&*ended.outcome, json_of(ended.output.as_ref())), ("SUCCESS", json!({"n": 15})));
    let ids: Vec<_> = ended.tool_calls.iter().map(|call| call.tool.as_str()).collect();
    assert_eq!(ids, ["acme.twice", "acme.thrice"]);
    for call in &ended.tool_calls {
        let request = GetActionRequest { action_id: call.action_id.clone() };
        let action = agent.get_action(&request).await.unwrap();
        assert_eq!(action.execution_id, ended.execution_id);
        // The call is itself an execution, of the tool's code.
        let request = GetExecutionRequest { execution_id: call.action_id.clone() };
        assert_eq!(agent.get_execution(&request).await.unwrap().outcome, "SUCCESS");
    }
    let unlucky = tool_call("acme.thrice", &json!({"n": 13}));
    let ended = agent.execute(&component(caller(&[twice, unlucky])), None).await.unwrap();
    assert_eq!(ended.outcome, "PERMISSION_DENIED", "{ended:?}");
    assert_eq!(ended.tool_calls[1].error, "unlucky");

    // By its id in place of code.
    let tool = "acme.twice".to_owned();
    let input = Some(Json::of(&json!({"n": 4})).unwrap());
    let request = ExecuteRequest { tool, input, wait_ms: Some(60_000), ..Default::default() };
    let ended = agent.execute(&request, None).await.unwrap();
    assert_eq!(json_of(ended.output.as_ref()), json!({"n": 8}), "{ended:?}");
}
