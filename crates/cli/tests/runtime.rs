//! What an agent asks before it acts, over HTTP.

use std::collections::BTreeMap;
use std::fs;

use proto::identity::principal::Kind;
use serde_json::{Value, json};

use crate::common::wire::{Ask, Reply, Wire, fresh};
use crate::common::{Server, allow_all, assert_code, json as printed, rego, text};
use crate::fuzz::Dice;

const PATH: &str = "/api/v1/runtime/simulate";
const PLANS: u64 = 10_000;
/// Who asks at once, each from a beginning of its own.
const ASKING: u64 = 8;

/// A policy has time on a busy machine.
const PATIENT: &str = "policy: {decision_limit_ms: 5000}";

/// A server whose policy is `rules`, and an agent's key.
struct Place {
    server: Server,
    wire: Wire,
    key: String,
}

impl Place {
    async fn new(source: &policy::Source) -> Self {
        let server = Server::start(PATIENT);
        server.publish(source).await;
        let key = server.key(Kind::Agent, &["agent"], "dev").await;
        Self { wire: Wire::new(&server.url), server, key }
    }

    fn ask(&self) -> Ask {
        self.wire.ask_as(&self.key, "POST", PATH)
    }

    async fn send(&self, body: &Value) -> Reply {
        self.ask().json(body).send().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_of_the_contract() {
    let place = Place::new(&allow_all()).await;
    let request = r#"{
        "plan": [
            {"skill": "http_call", "params": {"url": "..."}},
            {"skill": "llm_invoke", "params": {"prompt": "..."}}
        ],
        "budget_cents": 100
    }"#;
    let expected = json!({
        "feasible": true,
        "estimated_cost_cents": 5,
        "estimated_duration_ms": 2500,
        "step_estimates": [
            {"skill_id": "http_call", "estimated_cost_cents": 0, "estimated_latency_ms": 500},
            {"skill_id": "llm_invoke", "estimated_cost_cents": 5, "estimated_latency_ms": 2000}
        ],
        "budget_remaining_cents": 95,
        "budget_sufficient": true,
        "risks": []
    });
    let operator = place.server.key(Kind::User, &["operator"], "dev").await;
    let mut answers = Vec::new();
    for (key, path) in [(&place.key, PATH), (&operator, PATH), (&operator, "/v1/runtime/simulate")]
    {
        let answer = place.wire.ask_as(key, "POST", path).bytes(request).send().await.good();
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(answer[field], *value, "{field}: {answer}");
        }
        assert_eq!((&answer["status"], &answer["seed"]), (&json!("feasible"), &json!(42)));
        assert_eq!(answer["confidence"], "low", "there is no history");
        answers.push(answer);
    }
    // The same question has the same answer, whoever asks: this policy treats all alike.
    assert_eq!(answers[0], answers[1]);
    assert_eq!(answers[0], answers[2]);
    // That a model cannot be called here yet is said, beside what the plan would cost.
    let answer = &answers[0];
    assert_eq!(answer["permitted"], false);
    let gaps: Vec<_> = answer["permission_gaps"].as_array().unwrap().iter().collect();
    assert_eq!(gaps.len(), 1);
    assert_eq!(
        (&gaps[0]["skill_id"], &gaps[0]["available"]),
        (&json!("llm_invoke"), &json!(false))
    );
    assert_eq!(gaps[0]["code"], "tool_unavailable");
    let step = &answer["steps"][0];
    assert_eq!((&step["tool_id"], &step["effect"]), (&json!("core.http_call"), &json!("ALLOW")));
    // Its URL is none, which the tool would refuse: policy was asked about the tool in general.
    assert_eq!((&step["rules"], &step["exact"]), (&json!(["R-ALL"]), &json!(false)));
    assert_eq!(answer["warnings"][0]["code"], "url_invalid");
    // Money and the budget change the answer, and with it the hash.
    let poor = json!({"plan": [{"skill": "llm_invoke", "iterations": 10}], "budget_cents": 10});
    let poor = place.send(&poor).await.good();
    assert_eq!(
        (&poor["feasible"], &poor["status"]),
        (&json!(false), &json!("budget_insufficient"))
    );
    assert_eq!(poor["refusal"]["category"], "BUDGET");
    assert_eq!(poor["alternatives"][0]["budget_cents"], 50);
    let rich = json!({"plan": [{"skill": "llm_invoke", "iterations": 10}], "budget_cents": 100});
    let rich = place.send(&rich).await.good();
    assert_eq!((&rich["feasible"], &rich["budget_remaining_cents"]), (&json!(true), &json!(50)));
    assert_ne!(rich["root_hash"], poor["root_hash"]);
}

/// What policy is asked, and what it says of tools in general.
const RULES: &str = r#"
decisions contains {"effect": "DENY", "rule": "R-NO-WRITE", "reason": "no_write"} if {
    input.tool.id == "core.fs_write"
}
decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-ASK", "reason": "big"} if {
    input.tool.id == "core.fs_read"
    input.params.path == "/big"
}
decisions contains {"effect": "REQUIRE_STEP_UP", "rule": "R-NIGHT", "reason": "night"} if {
    input.tool.id == "core.json_transform"
    input.now.hour_utc < 6
}
decisions contains {"effect": "ALLOW", "rule": "R-ALLOW", "reason": "fine"} if true
"#;

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_asked_about_each_step() {
    let place = Place::new(&rego(RULES)).await;
    let plan = json!([
        {"skill": "fs_read", "params": {"path": "/big"}},
        {"skill": "fs_read", "params": {"path": "{{previous_output.next}}"}},
        {"skill": "json_transform", "params": {"filter": ".", "input": {}}},
        {"skill": "fs_write", "params": {"path": "/x", "content": "y"}},
        {"skill": "fs_read", "params": {"paht": "/big"}},
    ]);
    let receipts = place.wire.ask_as(&place.server.owner_key(), "GET", "/v1/receipts");
    let before = receipts.clone().send().await.good();
    let body = json!({"plan": plan, "timestamp": "2026-01-02T03:04:05Z"});
    let answer = place.send(&body).await.good();
    let effects: Vec<_> =
        answer["steps"].as_array().unwrap().iter().map(|s| &s["effect"]).collect();
    assert_eq!(effects, ["REQUIRE_APPROVAL", "ALLOW", "REQUIRE_STEP_UP", "DENY", "ALLOW"]);
    let exact: Vec<_> = answer["steps"].as_array().unwrap().iter().map(|s| &s["exact"]).collect();
    assert_eq!(exact, [true, false, true, true, false]);
    assert_eq!((&answer["feasible"], &answer["permitted"]), (&json!(true), &json!(false)));
    assert_eq!(answer["status"], "permission_denied");
    assert_eq!(answer["refusal"]["category"], "POLICY_DENIED");
    assert_eq!(answer["permission_gaps"].as_array().unwrap().len(), 1);
    assert_eq!(answer["permission_gaps"][0]["step_id"], "step_4");
    let warning = &answer["warnings"][0];
    assert_eq!(
        (&warning["step_id"], &warning["code"]),
        (&json!("step_5"), &json!("params_invalid"))
    );
    assert_eq!(place.send(&body).await.good(), answer, "the same question");
    // At another time of day policy says otherwise.
    let body = json!({"plan": plan, "timestamp": "2026-01-02T13:04:05Z"});
    let later = place.send(&body).await.good();
    assert_eq!(later["steps"][2]["effect"], "ALLOW");
    assert_ne!(later["root_hash"], answer["root_hash"]);
    assert_eq!(receipts.send().await.good(), before, "nothing is recorded");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_question_is_refused() {
    let place = Place::new(&allow_all()).await;
    let plan = json!([{"skill": "kv_get"}]);
    for (body, status, code) in [
        (json!({"plan": plan, "tenant_id": "other"}), 403, "credential_binding"),
        (json!({"plan": plan, "agent_id": "other"}), 403, "credential_binding"),
        (json!({"plan": plan, "save_trace": true}), 400, "not_supported"),
        (json!({"plan": plan, "budget_cents": -1}), 400, "invalid_argument"),
        (json!({"plan": plan, "workflow": "x"}), 400, "invalid_argument"),
        (json!({"plan": plan, "budget_cents": 1.5}), 400, "invalid_body"),
        (json!({"plan": plan, "more": 1}), 400, "invalid_body"),
        (json!({"plan": [{"skill": "kv_get", "more": 1}]}), 400, "invalid_body"),
        (json!({"plan": {}}), 400, "invalid_body"),
        (json!({"plan": plan, "seed": -1}), 400, "invalid_body"),
        (json!({"plan": plan, "timestamp": "noon"}), 400, "invalid_body"),
    ] {
        let reply = place.send(&body).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{body}");
    }
    let viewer = place.server.key(Kind::User, &["viewer"], "dev").await;
    let reply = place.wire.ask_as(&viewer, "POST", PATH).json(&json!({"plan": plan})).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (403, "permission_denied"));
    // Its own names are no contradiction.
    let me = place.wire.ask_as(&place.key, "GET", "/v1/me").send().await.good();
    let own = json!({"plan": plan, "agent_id": me["principal_id"], "tenant_id": me["tenant"]});
    assert_eq!(place.send(&own).await.good()["feasible"], true);
    // A plan that is none is an answer.
    for (body, code, says) in [
        (json!({}), "plan_empty", "plan: "),
        (json!({"plan": [{"skill": "kv_get", "iterations": 101}]}), "plan_out_of_range", "plan[0]"),
        (json!({"workflow": "apiVersion: tally/v1\nkind: [\n"}), "workflow_invalid", "line 3"),
    ] {
        let answer = place.send(&body).await.good();
        assert_eq!(
            (&answer["feasible"], &answer["status"]),
            (&json!(false), &json!("invalid_plan"))
        );
        assert_eq!(answer["refusal"]["code"], code, "{answer}");
        assert!(answer["refusal"]["message"].as_str().unwrap().starts_with(says), "{answer}");
    }
}

const WORKFLOW: &str = "apiVersion: tally/v1
kind: Workflow
metadata: {name: greet, version: 1.0.0}
spec:
  riskTier: low
  steps:
    - {id: ask, toolAction: core.http_call, input: {url: 'https://a.test/'}, group: both}
    - {id: read, action: core.fs_read, input: {path: /x}, group: both}
    - id: say
      action: core.llm_invoke
      input: {prompt: '{{steps.ask.output.body}}'}
      when: '{{steps.read.output.content}} != \"\"'
";

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_asks_too() {
    let place = Place::new(&allow_all()).await;
    let folder = tempfile::tempdir().unwrap();
    let run = |content: &str, more: &[&str]| {
        let file = folder.path().join("plan");
        fs::write(&file, content).unwrap();
        let args = [&["runtime", "simulate", file.to_str().unwrap()], more].concat();
        place.server.tally(&place.key, &args)
    };
    let told = run(WORKFLOW, &["--json"]);
    assert_code(&told, 0);
    let answer = printed(&told);
    assert_eq!(
        (&answer["estimated_duration_ms"], &answer["feasible"]),
        (&json!(2500), &json!(true))
    );
    assert_eq!(answer["steps"][2]["step_id"], "say");
    let told = run(r#"[{"skill": "llm_invoke", "iterations": 10}]"#, &["--budget-cents", "10"]);
    assert_code(&told, 4);
    assert!(
        text(&told).contains("the plan costs 50 cents, and the budget has 10"),
        "{}",
        text(&told)
    );
    let told = run(&WORKFLOW.replace("steps.ask", "steps.aks"), &[]);
    assert_code(&told, 4);
    assert!(text(&told).contains("line 11: spec.steps[2].input.prompt: "), "{}", text(&told));
    assert_code(&run("[1]", &[]), 2);
}

/// Something that may be in a plan, or not.
fn value(dice: &mut Dice, depth: usize) -> Value {
    let texts = [
        "http_call",
        "{{previous_output}}",
        "{{steps.step_1.output.a}}",
        "{{",
        "{{\"{{\"}}",
        "😀",
        "",
        "..",
        "kv_get",
        "{{input.x}} and {{previous_output}}",
    ];
    match dice.below(if depth == 0 { 4 } else { 6 }) {
        0 => Value::from(dice.pick(&texts)),
        1 => json!(dice.below(200)),
        2 => json!([null, true, -1, 1.5, u32::MAX])[dice.below(5)].clone(),
        3 => json!({}),
        4 => (0..dice.below(4)).map(|_| value(dice, depth - 1)).collect(),
        _ => {
            let names = ["url", "prompt", "path", "{{x}}", "messages", "filter"];
            let members =
                (0..dice.below(4)).map(|_| (dice.pick(&names).to_owned(), value(dice, depth - 1)));
            Value::Object(members.collect())
        }
    }
}

fn body(dice: &mut Dice) -> Value {
    let skills = [
        "http_call",
        "llm_invoke",
        "json_transform",
        "fs_read",
        "fs_write",
        "email_send",
        "kv_get",
        "core.fs_read",
        "nothing",
        "mcp.a.b",
        "A B",
        "",
    ];
    let plan: Vec<Value> = (0..dice.below(7))
        .map(|_| {
            let mut step = json!({"skill": dice.pick(&skills)});
            if dice.below(4) > 0 {
                let params = value(dice, 3);
                step["params"] = if dice.below(8) > 0 { json!({"url": params}) } else { params };
            }
            if dice.below(3) == 0 {
                step["iterations"] = json!(dice.below(110));
            }
            step
        })
        .collect();
    let mut body = json!({"plan": plan, "budget_cents": dice.below(200)});
    if dice.below(10) == 0 {
        let names = ["plan", "budget_cents", "seed", "agent_id", "timestamp", "workflow", "other"];
        let name = dice.pick(&names).to_owned();
        body[name] = value(dice, 2);
    }
    body
}

/// What came of a plan: no failure of ours, and every refusal says what is wrong.
fn status(body: &Value, reply: &Reply) -> Option<String> {
    assert!(reply.status < 500, "{} {body}: {}", reply.status, reply.text());
    if reply.status >= 400 {
        // It has a code, a category and a message.
        reply.error();
        return None;
    }
    let answer = reply.good();
    let status = answer["status"].as_str().unwrap().to_owned();
    if status != "feasible" {
        let refusal = &answer["refusal"];
        for field in ["code", "category", "message"] {
            assert!(refusal[field].as_str().is_some_and(|t| !t.is_empty()), "{body}: {answer}");
        }
    }
    assert_ne!(
        answer["feasible"] == true,
        ["invalid_plan", "skill_unavailable", "budget_insufficient"].contains(&status.as_str()),
        "{answer}"
    );
    Some(status)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_plan_is_answered() {
    let place = Place::new(&rego(RULES)).await;
    let asking = (0..ASKING).map(|n| {
        let ask = place.ask();
        tokio::spawn(async move {
            let mut dice = Dice(0x51_4d_55_4c + n);
            let mut seen = BTreeMap::<Option<String>, u64>::new();
            for _ in 0..PLANS / ASKING {
                let body = body(&mut dice);
                let reply = ask.clone().json(&body).idempotency(&fresh("plan")).send().await;
                *seen.entry(status(&body, &reply)).or_default() += 1;
            }
            seen
        })
    });
    let mut seen = BTreeMap::<Option<String>, u64>::new();
    for asking in asking.collect::<Vec<_>>() {
        for (status, times) in asking.await.unwrap() {
            *seen.entry(status).or_default() += times;
        }
    }
    assert_eq!(seen.values().sum::<u64>(), PLANS);
    // Of each kind there were some, or the plans are too much alike.
    let kinds = ["feasible", "invalid_plan", "skill_unavailable", "permission_denied"];
    for kind in kinds.map(|kind| Some(kind.to_owned())).into_iter().chain([None]) {
        assert!(seen.get(&kind).is_some_and(|times| *times > 100), "{kind:?}: {seen:?}");
    }
}
