//! Controls are covered by receipts that pass their filters, and by nothing else.

use std::fs;

use proto::evidence::{GetCoverageRequest, GetCoverageResponse};
use proto::identity::principal::Kind;
use proto::runs::{RunState, StartRunRequest};
use proto::wire::Timestamp;
use serde_json::{Value, json};

use crate::common::{Server, action, assert_code, json as answer, refusal, rego, text};
use crate::runs::{Place, approve_step, reaches, with, workflow};

async fn look(server: &Server, catalog: &str) -> GetCoverageResponse {
    let request = GetCoverageRequest { catalog: catalog.to_owned(), ..Default::default() };
    server.owner.get_coverage(&request).await.unwrap()
}

/// A catalog of controls that each ask for one thing.
fn catalog(requires: &[Value]) -> String {
    let control = |(at, requirement): (usize, &Value)| {
        let mut requirement = requirement.clone();
        requirement["shows"] = json!("something");
        json!({"id": format!("C{at}"), "title": "a control", "requires": [requirement]})
    };
    let controls: Vec<Value> = requires.iter().enumerate().map(control).collect();
    json!({
        "apiVersion": "tally/v1", "kind": "ControlCatalog",
        "metadata": {"name": "own", "title": "Our own", "version": "1"}, "controls": controls,
    })
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_passes_the_filter_covers() {
    let place = Place::new("").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let held = with(place.call("held", "PUT", "/held"), json!({"approval": {"quorum": 1}}));
    let steps = [place.call("read", "GET", "/read"), held];
    let request = StartRunRequest { wait_ms: None, ..workflow(&steps) };
    let run = place.agent.start_run(&request, None).await.unwrap();
    let run = reaches(&place.agent, &run.run_id, RunState::WaitingApproval).await;
    approve_step(&approver, &run, "held").await;
    reaches(&place.agent, &run.run_id, RunState::Succeeded).await;
    let of = |receipts: &[&str], filter: Value| json!({"receipts": receipts, "where": filter});
    let checks = [
        (of(&["action.decided"], json!({})), true),
        (of(&["action.decided"], json!({"tools": ["core.*"]})), true),
        (of(&["action.decided"], json!({"tools": ["servicenow.*"]})), false),
        (of(&["action.decided"], json!({"rules": ["R-ALL"]})), true),
        (of(&["action.decided"], json!({"rules": ["R-OTHER"]})), false),
        (of(&["action.decided"], json!({"environments": ["prod"]})), false),
        (of(&["action.decided"], json!({"environments": ["dev"], "labels": ["write"]})), true),
        (of(&["action.decided"], json!({"labels": ["write", "destructive"]})), false),
        (of(&["action.decided"], json!({"effects": ["DENY"]})), false),
        (of(&["action.decided"], json!({"effects": ["ALLOW", "DENY"]})), true),
        // What is about an action is filtered by what that was about.
        (of(&["approval.decided"], json!({"labels": ["write"], "statuses": ["approved"]})), true),
        (of(&["approval.decided"], json!({"statuses": ["rejected"]})), false),
        (of(&["action.finished"], json!({"labels": ["write"], "statuses": ["executed"]})), true),
        (of(&["action.finished"], json!({"labels": ["write"], "statuses": ["failed"]})), false),
        (of(&["run.ended"], json!({"statuses": ["succeeded"], "environments": ["dev"]})), true),
        (of(&["run.ended"], json!({"environments": ["prod"]})), false),
        // Of the control log.
        (of(&["policy.published"], json!({})), true),
        (of(&["key.revoked"], json!({})), false),
    ];
    let requires: Vec<Value> = checks.iter().map(|(requirement, _)| requirement.clone()).collect();
    let coverage = look(&place.server, &catalog(&requires)).await;
    for ((requirement, covered), control) in checks.iter().zip(&coverage.controls) {
        assert_eq!(control.covered, *covered, "{requirement}: {control:?}");
        let [found] = control.requirements.as_slice() else { panic!("{control:?}") };
        assert_eq!((found.found > 0, found.gaps.is_empty()), (*covered, *covered));
        // A gap names the filter that found nothing.
        let filter: Value = serde_json::from_str(&found.filter.as_ref().unwrap().text).unwrap();
        assert_eq!(filter, requirement["where"]);
    }
    let covered = checks.iter().filter(|(_, covered)| *covered).count();
    assert_eq!(coverage.covered as usize, covered);
    // Before anything happened there was nothing.
    let request = GetCoverageRequest {
        catalog: catalog(&requires),
        since: Some(Timestamp::from_micros(0)),
        until: Some(Timestamp::from_micros(86_400_000_000)),
        ..Default::default()
    };
    let before = place.server.owner.get_coverage(&request).await.unwrap();
    assert!(before.controls.iter().all(|control| !control.covered), "{before:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_framework_names_its_gaps_and_closes_them_one_by_one() {
    let rules = r#"decisions contains {"effect": "ALLOW", "rule": "R-READ", "reason": "read"} if {
            input.tool.id == "core.json_transform"
        }
        decisions contains {"effect": "DENY", "rule": "R-NO", "reason": "no"} if {
            input.tool.id == "core.http_call"
        }"#;
    let server = Server::start("");
    server.publish(&rego(rules)).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let key = server.owner_key();
    let coverage = |framework: &str| {
        server.tally(&key, &["evidence", "coverage", "--framework", framework, "--json"])
    };
    let control = |name: &str| {
        let output = coverage("soc2");
        assert_code(&output, 6);
        let controls = answer(&output)["controls"].clone();
        let found = controls.as_array().unwrap().iter().find(|c| c["control"] == name).cloned();
        found.unwrap()
    };
    assert_eq!(control("CC6.1")["covered"], false);
    let allowed = action("core.json_transform", &json!({"input": 1, "filter": "."}));
    agent.submit_action(&allowed, None).await.unwrap();
    let half = control("CC6.1");
    assert_eq!(half["requirements"][0]["met"], true);
    assert_eq!(half["requirements"][1]["met"], false, "being refused is another matter");
    let params = json!({"method": "GET", "url": "http://127.0.0.1:9/"});
    agent.submit_action(&action("core.http_call", &params), None).await.unwrap();
    assert_eq!(control("CC6.1")["covered"], true);
    assert_eq!(control("CC8.1")["covered"], false, "nothing was changed in production");
    for framework in ["iso_42001", "eu_ai_act"] {
        assert_code(&coverage(framework), 6);
    }
    let shown = server.tally(&key, &["evidence", "coverage", "--framework", "soc2"]);
    let shown = text(&shown);
    assert!(shown.contains("GAP      CC8.1") && shown.contains("MISSING"), "{shown}");
    let unknown = GetCoverageRequest { framework: "none".to_owned(), ..Default::default() };
    assert_eq!(refusal(server.owner.get_coverage(&unknown).await).0, 400);
    let file = server.data.with_extension("yaml");
    fs::write(&file, "apiVersion: tally/v1\nkind: ControlCatalog\nmetadata: {name: x}\n").unwrap();
    let args = ["evidence", "coverage", "--catalog", file.to_str().unwrap()];
    let refused = server.tally(&key, &args);
    assert_code(&refused, 3);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("line 3"), "{refused:?}");
}
