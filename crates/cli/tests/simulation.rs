//! What a simulation says of the people that an approval would need.

use proto::policies::SimulatePolicyRequest;
use proto::types::Json;
use serde_json::{Value, json};

use crate::common::desk::Desk;
use crate::common::{assert_code, rego};

/// Two stages for one tool, a second factor for another, nobody for the third.
const RULES: &str = r#"
decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-STAGES", "reason": "stages",
    "obligations": {"sod": "strict", "break_glass": "forbidden", "approval": {
        "stages": [{"name": "legal", "roles": ["admin"], "sla_s": 60,
            "escalate_to": {"roles": ["owner"]}}, {"name": "security", "quorum": 2}],
        "expires_s": 900, "valid_s": 300, "signed": true}}} if input.tool.id == "core.fs_write"
decisions contains {"effect": "REQUIRE_STEP_UP", "rule": "R-ONE", "reason": "one"} if {
    input.tool.id == "core.fs_read"
}
decisions contains {"effect": "ALLOW", "rule": "R-ALLOW", "reason": "fine"} if {
    input.tool.id == "core.http"
}
"#;

fn input(tool: &str) -> Value {
    json!({"tool": {"id": tool}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_simulation_says_what_people_would_have_to_do() {
    let desk = Desk::new(&rego(RULES)).await;
    let inputs = ["core.fs_write", "core.fs_read", "core.http"]
        .map(|tool| Json::of(&input(tool)).unwrap())
        .to_vec();
    let request = SimulatePolicyRequest { inputs, ..Default::default() };
    let decisions = desk.server.owner.simulate_policy(&request).await.unwrap().decisions;
    let demands: Vec<Value> =
        decisions.iter().map(|one| serde_json::to_value(&one.approval).unwrap()).collect();
    let staged = json!({
        "stages": [
            {"name": "legal", "quorum": 1, "roles": ["admin"], "approvers": [], "sla_s": 60,
                "escalation_roles": ["owner"], "escalation_approvers": []},
            {"name": "security", "quorum": 2, "roles": [], "approvers": [],
                "escalation_roles": [], "escalation_approvers": []},
        ],
        "mode": "serial", "quorum": 3, "roles": ["admin"], "approvers": [], "expires_s": 900,
        "valid_s": 300, "signed": true, "sod": "strict", "break_glass": "forbidden",
    });
    let plain = json!({
        "stages": [{"name": "", "quorum": 1, "roles": [], "approvers": [],
            "escalation_roles": [], "escalation_approvers": []}],
        "mode": "parallel", "quorum": 1, "roles": [], "approvers": [], "expires_s": 86400,
        "signed": false, "sod": "normal", "break_glass": "allowed",
    });
    assert_eq!(demands, [staged, plain, Value::Null]);

    // An action that waits says the same, and the command line says it in words.
    let held = desk.held().await;
    assert_eq!(held.decision.unwrap().approval, decisions[0].approval);
    let text = input("core.fs_write").to_string();
    let told =
        desk.server.tally(&desk.server.owner_key(), &["policy", "simulate", "--input", &text]);
    assert_code(&told, 0);
    let told = String::from_utf8(told.stdout).unwrap();
    let people = "1 of admin (legal), then 2 of approver (security) within 900 s, good for 300 s, \
                  each signs, nobody of the chain, glass is not to be broken";
    assert!(told.contains(people), "{told}");
}
