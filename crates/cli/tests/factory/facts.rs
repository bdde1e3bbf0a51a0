//! What policy may know of a run, what steps say of themselves, and the model that they ask.

use proto::actions::GetActionRequest;
use proto::connectors::{ConfigureConnectorRequest, ConnectorConfig, InstallConnectorRequest};
use proto::runs::{Run, RunState, StartRunRequest};
use proto::types::Json;
use serde_json::{Value, json};

use super::{Plant, document, echo, eventually, named, read};
use crate::common::target::Target;
use crate::common::{desk, rego};

/// What writes waits for people. A note goes without, in a run of the kept workflow of which people
/// approved the write.
const POLICY: &str = r#"
decisions contains {
    "effect": "REQUIRE_APPROVAL", "rule": "R-UPDATE", "reason": "update",
    "obligations": {"approval": {"quorum": 1}},
} if input.params.input == "update"

decisions contains {"effect": "ALLOW", "rule": "R-NOTE", "reason": "note"} if {
    input.params.input == "note"
    input.run.workflow == "triage"
    input.run.ring == "all"
    "update" in input.run.approved_steps
}

decisions contains {"effect": "DENY", "rule": "R-CLAIMED", "reason": "claimed"} if {
    input.claims.target == "INC 7"
    input.claims.extra.rationale == "because of 7"
    "pii" in input.claims.data_types
}
"#;

async fn to_its_end(plant: &Plant, request: &StartRunRequest) -> Run {
    let run = plant.agent.start_run(request, None).await.unwrap();
    assert_eq!(run.state(), RunState::WaitingApproval, "{run:?}");
    let request = GetActionRequest { action_id: run.steps[0].action_id.clone() };
    let action = plant.approver.get_action(&request).await.unwrap();
    desk::approve(&plant.approver, &action).await.unwrap();
    eventually("the end", async || {
        let run = read(&plant.agent, &run.run_id).await;
        run.ended_at.is_some().then_some(run)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_reads_what_people_approved_of_the_run() {
    let plant = Plant::new("").await;
    plant.server.publish(&rego(POLICY)).await;
    let steps = [echo("update", &json!("update")), echo("note", &json!("note"))];
    let document = document("triage", "1.0.0", &steps);
    plant.in_force(&document).await;
    let request = StartRunRequest { wait_ms: None, ..named("triage") };
    let run = to_its_end(&plant, &request).await;
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    // The same text sent along is of no kept workflow, whatever it is called.
    let inline = StartRunRequest {
        workflow: document.to_string(),
        wait_ms: None,
        ..StartRunRequest::default()
    };
    let run = to_its_end(&plant, &inline).await;
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.steps[1].error.as_ref().unwrap().code, "policy_no_match");
    // Nor does a version that was named outright have a ring.
    let outright = StartRunRequest { workflow_version: "1.0.0".to_owned(), ..request };
    let run = to_its_end(&plant, &outright).await;
    assert_eq!(run.steps[1].error.as_ref().unwrap().code, "policy_no_match");
}

fn with_input(workflow: &Value, input: &Value) -> StartRunRequest {
    StartRunRequest {
        workflow: workflow.to_string(),
        input: Some(Json::of(input).unwrap()),
        wait_ms: Some(60_000),
        ..StartRunRequest::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_say_why() {
    let plant = Plant::new("").await;
    let allow = r#"{"effect": "ALLOW", "rule": "R-ALL", "reason": "all"}"#;
    let rules = format!("decisions contains {allow} if true\n{POLICY}");
    plant.server.publish(&rego(&rules)).await;
    let mut step = echo("one", &json!(1));
    step["claims"] = json!({
        "target": "INC {{input.number}}",
        "dataTypes": ["pii"],
        "rationale": "{{input.why}}",
    });
    let workflow = document("triage", "1.0.0", &[step]);
    let run = async |input: Value| {
        let request = with_input(&workflow, &input);
        plant.agent.start_run(&request, None).await.unwrap()
    };
    let denied = run(json!({"number": 7, "why": "because of 7"})).await;
    assert_eq!(denied.steps[0].error.as_ref().unwrap().code, "claimed", "{denied:?}");
    let other = run(json!({"number": 8, "why": "because of 7"})).await;
    assert_eq!(other.state(), RunState::Succeeded, "{other:?}");
    for (why, code) in [
        (json!({"no": "text"}), "claims_invalid"),
        (json!("x".repeat(2_001)), "claims_invalid"),
        (json!(null), "claims_invalid"),
    ] {
        let refused = run(json!({"number": 7, "why": why})).await;
        assert_eq!(refused.steps[0].error.as_ref().unwrap().code, code, "{refused:?}");
    }
    let missing = run(json!({"number": 7})).await;
    assert_eq!(missing.steps[0].error.as_ref().unwrap().code, "template_missing");
}

const MODELS: &str = r#"models: {providers: [{name: one, form: openai,
  base_url: "http://127.0.0.1:9/v1", private: true,
  models: {m-1: {input: 1, output: 1, context: 1000, max_tokens: 100},
  m-2: {input: 1, output: 1, context: 1000, max_tokens: 100}}}]}"#;

/// A system that takes what models take.
const SPARE: &str = r"
apiVersion: tally/v1
kind: Connector
metadata: {name: spare, version: 1.0.0, title: Spare, description: Answers where no model does.}
spec:
  auth: [{name: open, type: none}]
  operations:
    ask:
      description: Answers.
      labels: [write, external]
      input:
        type: object
        required: [provider, model, prompt]
        properties: {provider: {type: string}, model: {type: string}, prompt: {type: string}}
      request: {method: POST, path: /echo, body: {json: {text: '{{ params.prompt }}'}}}
      result: {text: '{{ response.body.text }}'}
      output: {type: object, required: [text], properties: {text: {type: string}}}
";

/// Policy may have another tool answer in a model's place, where the workflow lets it.
#[tokio::test(flavor = "multi_thread")]
async fn policy_routes_past_a_model_where_the_workflow_allows_a_fallback() {
    let spare = Target::start().await;
    let plant = Plant::new(&format!("{MODELS}\ngrants: {{connectors: [{}]}}", spare.grant())).await;
    let owner = &plant.server.owner;
    let install = InstallConnectorRequest { definition: SPARE.to_owned(), ..Default::default() };
    owner.install_connector(&install, None).await.unwrap();
    let base_url = format!("http://127.0.0.1:{}", spare.port());
    let config = Some(ConnectorConfig { base_url, ..ConnectorConfig::default() });
    let name = "spare".to_owned();
    let configure = ConfigureConnectorRequest { name, config, ..Default::default() };
    owner.configure_connector(&configure, None).await.unwrap();
    let rules = r#"
        decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
        decisions contains {
            "effect": "ROUTE", "rule": "R-SPARE", "reason": "spare",
            "obligations": {"route": "spare.ask"},
        } if input.tool.id == "llm.invoke""#;
    plant.server.publish(&rego(rules)).await;
    let params = json!({"provider": "one", "model": "m-1", "prompt": "say"});
    for fallback in [false, true] {
        let step = json!({"id": "ask", "action": "llm.invoke", "input": params});
        let mut workflow = document("triage", "1.0.0", &[step]);
        workflow["spec"]["modelPin"] =
            json!({"provider": "one", "model": "m-1", "allowFallback": fallback});
        let run = plant.agent.start_run(&with_input(&workflow, &json!({})), None).await.unwrap();
        let request = GetActionRequest { action_id: run.steps[0].action_id.clone() };
        let action = plant.agent.get_action(&request).await.unwrap();
        assert_eq!(action.tool, "spare.ask", "{action:?}");
        let calls = spare.seen().len();
        if fallback {
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            let output: Value = run.output.unwrap().decode().unwrap();
            assert_eq!((output["text"].as_str(), calls), (Some("say"), 1), "{output}");
        } else {
            assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
            assert_eq!(run.steps[0].error.as_ref().unwrap().code, "model_not_pinned");
            assert_eq!((action.attempt, calls), (0, 0), "on record, and not sent");
        }
    }
}

/// Whatever a template stands for: the model is that of the pin, or nothing is sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_asks_no_other_model() {
    let plant = Plant::new(MODELS).await;
    let ask = |model: &str| {
        json!({"id": "ask", "action": "llm.invoke", "input": {
            "provider": "one", "model": model, "prompt": "say",
        }})
    };
    let workflow = |model: &str, fallback: bool| {
        let mut workflow = document("triage", "1.0.0", &[ask(model)]);
        workflow["spec"]["modelPin"] =
            json!({"provider": "one", "model": "m-1", "allowFallback": fallback});
        workflow
    };
    for fallback in [false, true] {
        let request = with_input(&workflow("{{input.model}}", fallback), &json!({"model": "m-2"}));
        let run = plant.agent.start_run(&request, None).await.unwrap();
        assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
        let error = run.steps[0].error.as_ref().unwrap();
        assert_eq!(error.code, "model_not_pinned", "{run:?}");
        let request = GetActionRequest { action_id: run.steps[0].action_id.clone() };
        let action = plant.agent.get_action(&request).await.unwrap();
        assert!(!action.receipts.is_empty() && action.attempt == 0, "on record, and not sent");
    }
    // What is written out is refused before anything starts.
    let request = with_input(&workflow("m-2", false), &json!({}));
    let refused = crate::common::refusal(plant.agent.start_run(&request, None).await);
    assert_eq!(refused, (400, "plan_model_not_pinned".to_owned()));
    // The pinned one is let through as far as its budget: nobody pays here.
    let request = with_input(&workflow("{{input.model}}", false), &json!({"model": "m-1"}));
    let run = plant.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.steps[0].error.as_ref().unwrap().code, "budget_account_missing", "{run:?}");
}
