//! Around each call: circuits that open, and undoing.

use proto::actions::{Action, GetActionRequest, ReverseActionRequest};
use proto::identity::CreateTenantRequest;
use proto::runs::{GetRunRequest, RunState, StartRunRequest};
use tokio::time::{Instant, sleep};

use super::*;
use crate::common::desk::approve;
use crate::common::{LOOK_EVERY, PATIENCE, rego};

const UPDATE: &str = "servicenow.update_incident_reversible";
const GET: &str = "servicenow.get_incident";

async fn read(client: &Client, id: &str) -> Action {
    client.get_action(&GetActionRequest { action_id: id.to_owned() }).await.unwrap()
}

/// The action once `is` holds of it.
async fn until(client: &Client, id: &str, is: impl Fn(&Action) -> bool) -> Action {
    let end = Instant::now() + PATIENCE;
    loop {
        let action = read(client, id).await;
        if is(&action) {
            return action;
        }
        assert!(Instant::now() < end, "it never comes to that: {action:?}");
        sleep(LOOK_EVERY).await;
    }
}

async fn circuit(server: &Server) -> String {
    let metrics = Wire::new(&server.url).ask("GET", "/metrics").send().await.text();
    let mine = |line: &&str| line.starts_with("tally_connector_circuit{") && line.ends_with(" 1");
    let line = metrics.lines().find(mine).unwrap_or_default().to_owned();
    assert!(line.contains("tenant=\"main\"") && line.contains("servicenow"), "{line}");
    line.split("state=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

fn circuits(open_ms: u32) -> String {
    format!(
        "circuits: {{failures: 3, ratio_percent: 100, ratio_calls: 1000, window_ms: 60000, \
         open_ms: {open_ms}, open_max_ms: 3600000}}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_circuit_is_open_nothing_reaches_the_system() {
    let Desk { server, agent, system } = Desk::with(&circuits(3_600_000)).await;
    let params = json!({"sys_id": INCIDENT});
    system.next(&[Act::Refuse(500); 3]);
    assert_eq!(failure(&agent, GET, &params).await, "upstream_error");
    assert_eq!(system.seen().len(), 3);
    assert_eq!(circuit(&server).await, "open");
    let connections = system.connections();
    let mut held = Vec::new();
    for _ in 0..5 {
        let mut request = action(GET, &params);
        request.wait_ms = Some(0);
        held.push(agent.submit_action(&request, None).await.unwrap().action_id);
    }
    for id in &held {
        let refused = |action: &Action| {
            action.error.as_ref().is_some_and(|error| error.code == "circuit_open")
        };
        let action = until(&agent, id, refused).await;
        let error = action.error.unwrap();
        assert!(error.retryable && error.retry_after_ms.is_some_and(|ms| ms > 60_000), "{error:?}");
        assert_eq!(action.attempt, 1);
    }
    // Each was refused by the circuit itself: not one connection was opened to find that out, so
    // there was nothing to wait for.
    assert_eq!(system.connections(), connections);
    let metrics = Wire::new(&server.url).ask("GET", "/metrics").send().await.text();
    let refusals = metrics.lines().find(|l| l.starts_with("tally_connector_circuit_refusals{"));
    let refusals = refusals.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(refusals.is_some_and(|count| count >= 5), "{metrics}");
    // A step that would call it is not even asked for.
    let document = json!({
        "apiVersion": "tally/v1", "kind": "Workflow",
        "metadata": {"name": "triage", "version": "1.0.0"},
        "spec": {"riskTier": "low", "steps": [{"id": "read", "action": GET, "input": params}]},
    });
    let start = StartRunRequest {
        workflow: document.to_string(),
        wait_ms: Some(0),
        ..StartRunRequest::default()
    };
    let id = agent.start_run(&start, None).await.unwrap().run_id;
    let look = GetRunRequest { run_id: id.clone(), ..Default::default() };
    let run = agent.get_run(&look).await.unwrap();
    assert_eq!((run.state(), run.steps[0].action_id.as_str()), (RunState::Running, ""));
    assert!(system.seen().is_empty(), "something was sent");
    // Configured anew it may be another system: the circuit is forgotten.
    configure(&server.owner, &format!("{}/", system.url())).await.unwrap();
    let end = Instant::now() + PATIENCE * 2;
    loop {
        let run = agent.get_run(&look).await.unwrap();
        if run.state() == RunState::Succeeded {
            assert_eq!(run.steps[0].tries, 1);
            break;
        }
        assert!(Instant::now() < end, "the run does not go on: {run:?}");
        sleep(LOOK_EVERY).await;
    }
    assert_eq!(system.seen().len(), 1);
    assert_eq!(circuit(&server).await, "closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_half_opens_and_recovers() {
    let Desk { server, agent, system } = Desk::with(&circuits(500)).await;
    let params = json!({"sys_id": INCIDENT});
    // Three open it, and the first probe opens it again.
    system.next(&[Act::Refuse(500); 4]);
    assert_eq!(failure(&agent, GET, &params).await, "upstream_error");
    let read = result(&agent, GET, &params).await;
    assert_eq!(read["number"], "INC0010023");
    assert_eq!(system.seen().len(), 5, "three, one probe that failed, and one that did not");
    assert_eq!(circuit(&server).await, "closed");
    let metrics = Wire::new(&server.url).ask("GET", "/metrics").send().await.text();
    let openings = metrics.lines().find(|l| l.starts_with("tally_connector_circuit_openings{"));
    assert!(openings.is_some_and(|line| line.ends_with(" 2")), "{openings:?}");
    // A refusal says that the system is well.
    system.next(&[Act::Refuse(404); 4]);
    for _ in 0..4 {
        assert_eq!(failure(&agent, GET, &params).await, "incident_not_found");
    }
    assert_eq!(circuit(&server).await, "closed");
}

async fn undo(client: &Client, id: &str) -> Result<Action, client::Error> {
    let request = ReverseActionRequest {
        action_id: id.to_owned(),
        reason: "it was wrong".to_owned(),
        wait_ms: Some(60_000),
        ..Default::default()
    };
    client.reverse_action(&request, None).await
}

fn already() -> (u16, String) {
    (409, "already_reversed".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_is_put_back_once() {
    let Desk { mut server, agent, system } = Desk::new().await;
    let params = update(json!({"priority": "2"}), json!({"priority": "5"}));
    let written = call(&agent, UPDATE, &params).await;
    let written = reaches(&agent, &written.action_id, State::Executed).await;
    assert!(written.reversible && written.reversal_id.is_empty(), "{written:?}");
    assert_eq!(system.field("priority"), "2");
    // By the program, with a key: the same again is the same action.
    let key = server.key(Kind::Agent, &["agent"], "dev").await;
    let other = server.tally(&key, &["action", "reverse", &written.action_id]);
    assert_ne!(other.status.code(), Some(0), "it is not theirs");
    let key = server.key(Kind::User, &["operator"], "dev").await;
    let operator = Client::new(&server.url, &key).unwrap();
    let args = ["action", "reverse", &written.action_id, "--idempotency-key", "k", "--json"];
    let undone = server.tally(&key, &args);
    assert_code(&undone, 0);
    assert_eq!(system.field("priority"), "5");
    let by = printed(&undone)["action_id"].as_str().unwrap().to_owned();
    assert_eq!(printed(&server.tally(&key, &args))["action_id"].as_str(), Some(by.as_str()));
    let shown = text(&done(&server, &["action", "show", &written.action_id]));
    assert!(shown.contains(&by) && shown.contains("undone by"), "{shown}");
    let before = read(&agent, &written.action_id).await;
    assert!(before.reversed && !before.reversible && before.reversal_id == by, "{before:?}");
    assert_eq!(before.state(), State::Executed);
    assert_eq!(refusal(undo(&agent, &written.action_id).await), already());
    // What undid it is undone itself.
    let again = undo(&operator, &by).await.unwrap();
    assert_eq!((again.state(), again.reverses.as_str()), (State::Executed, by.as_str()));
    assert_eq!(system.field("priority"), "2");
    // To another tenant it does not exist.
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let acme = server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap().key;
    let acme = Client::new(&server.url, &acme).unwrap();
    assert_eq!(refusal(undo(&acme, &again.action_id).await).0, 404);
    // What reads has nothing to put back.
    let looked = call(&agent, GET, &json!({"sys_id": INCIDENT})).await;
    let not = (409, "not_reversible".to_owned());
    assert_eq!(refusal(undo(&agent, &looked.action_id).await), not);
    // The thirty days are over: their keys are destroyed.
    assert!(server.terminate().success());
    let store = Connection::open(server.data.join("runtime.sqlite")).unwrap();
    let gone = store.execute("DELETE FROM content WHERE part = 'prior'", []).unwrap();
    assert_eq!(gone, 3);
    drop(store);
    server.restart();
    let expired = refusal(undo(&operator, &again.action_id).await);
    assert_eq!(expired, (409, "prior_expired".to_owned()));
}

/// The evidence of a run tells that what it wrote was undone since, and by what.
#[tokio::test(flavor = "multi_thread")]
async fn the_evidence_of_a_run_tells_what_was_undone() {
    use crate::proof::bundle::{codes, exported, told};
    let Desk { server, agent, system } = Desk::new().await;
    let input = update(json!({"priority": "2"}), json!({"priority": "5"}));
    let document = json!({
        "apiVersion": "tally/v1", "kind": "Workflow",
        "metadata": {"name": "triage", "version": "1.0.0"},
        "spec": {"riskTier": "low", "steps": [{"id": "write", "action": UPDATE, "input": input}]},
    });
    let start = StartRunRequest {
        workflow: document.to_string(),
        wait_ms: Some(60_000),
        ..StartRunRequest::default()
    };
    let run = agent.start_run(&start, None).await.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    let before = told(&exported(&server, &run.run_id, &[]));
    assert_eq!(before["actions"][0]["reversals"], Value::Null);
    let undone = undo(&agent, &run.steps[0].action_id).await.unwrap();
    assert_eq!((undone.state(), system.field("priority").as_str()), (State::Executed, "5"));
    let bundle = exported(&server, &run.run_id, &[]);
    assert_eq!(codes(&bundle), [""; 0]);
    let story = told(&bundle);
    let [written, by] = story["actions"].as_array().unwrap().as_slice() else { panic!("{story}") };
    let states: Vec<_> =
        written["reversals"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["begun", "reversed"]);
    let id = json!(undone.action_id);
    assert!(written["reversals"].as_array().unwrap().iter().all(|one| one["by"] == id));
    assert_eq!((&by["action"], &by["reverses"]), (&id, &written["action"]));
    assert_eq!(by["decisions"][0]["effect"], "ALLOW");
    assert_eq!(story["total_of_reversals"]["actions"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_changed_meanwhile_is_not_lost() {
    let Desk { server: _server, agent, system } = Desk::new().await;
    let params = update(json!({"priority": "2"}), json!({"priority": "5"}));
    let written = call(&agent, UPDATE, &params).await;
    let written = reaches(&agent, &written.action_id, State::Executed).await;
    system.set("priority", "1");
    let undone = undo(&agent, &written.action_id).await.unwrap();
    assert_eq!(undone.state(), State::Failed, "{undone:?}");
    assert_eq!(undone.error.unwrap().code, "record_changed");
    assert_eq!(system.field("priority"), "1");
    assert!(read(&agent, &written.action_id).await.reversible, "it is free again");
    system.set("priority", "2");
    assert_eq!(undo(&agent, &written.action_id).await.unwrap().state(), State::Executed);
    assert_eq!(system.field("priority"), "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn undoing_is_approved_like_any_action_and_survives_a_crash() {
    let Desk { mut server, agent, system } = Desk::new().await;
    let params = update(json!({"priority": "2"}), json!({"priority": "5"}));
    let written = call(&agent, UPDATE, &params).await;
    let written = reaches(&agent, &written.action_id, State::Executed).await;
    let rules = r#"decisions contains {
        "effect": "REQUIRE_APPROVAL", "rule": "R-WRITE", "reason": "write",
    } if "write" in input.tool.labels"#;
    server.publish(&rego(rules)).await;
    let approver = server.principal(Kind::User, &["approver"]).await;
    let request = ReverseActionRequest {
        action_id: written.action_id.clone(),
        wait_ms: Some(0),
        ..Default::default()
    };
    let held = agent.reverse_action(&request, None).await.unwrap();
    assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
    server.kill();
    server.restart();
    let pending = (409, "reversal_pending".to_owned());
    assert_eq!(refusal(undo(&agent, &written.action_id).await), pending);
    assert_eq!(system.field("priority"), "2");
    approve(&approver, &held).await.unwrap();
    server.kill();
    server.restart();
    reaches(&agent, &held.action_id, State::Executed).await;
    assert_eq!(system.field("priority"), "5");
    assert!(read(&agent, &written.action_id).await.reversed);
    assert_eq!(refusal(undo(&agent, &written.action_id).await), already());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_says_which_definitions_a_tenant_may_install() {
    let allow = "connectors: {allow: {main: [servicenow]}}";
    let Desk { server, agent: _agent, system: _system } = Desk::with(allow).await;
    let text = shown(&server.owner, "servicenow").await.text;
    let changed = text.replace("version: 1.0.0", "version: 1.0.1");
    let refused = (403, "connector_not_allowed".to_owned());
    assert_eq!(refusal(install(&server.owner, &changed).await), refused);
    let slack = server.tally(&server.owner_key(), &["connector", "install", "slack"]);
    assert_ne!(slack.status.code(), Some(0));
}

/// What is taken off the list is called no more, though it was installed while it was on it; what
/// people approved meanwhile is not called either.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_no_longer_allows_is_not_called() {
    let Desk { mut server, agent, system } = Desk::new().await;
    let params = json!({"sys_id": INCIDENT});
    assert_eq!(result(&agent, GET, &params).await["number"], "INC0010023");
    let rules = r#"decisions contains {
        "effect": "REQUIRE_APPROVAL", "rule": "R-READ", "reason": "read",
    } if true"#;
    server.publish(&rego(rules)).await;
    let mut request = action(GET, &params);
    request.wait_ms = Some(0);
    let held = agent.submit_action(&request, None).await.unwrap();
    assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
    server.kill();
    server.configure(&format!(
        "policy: {{decision_limit_ms: 5000}}\ngrants: {{connectors: [{}]}}\n\
         connectors: {{allow: {{main: [github]}}}}",
        system.grant()
    ));
    server.restart();
    system.seen();
    let refused = (403, "connector_not_allowed".to_owned());
    assert_eq!(refusal(agent.submit_action(&request, None).await), refused);
    let approver = server.principal(Kind::User, &["approver"]).await;
    approve(&approver, &held).await.unwrap();
    let ended = until(&agent, &held.action_id, |action| action.error.is_some()).await;
    assert_eq!(ended.error.unwrap().code, "connector_not_allowed");
    assert!(system.seen().is_empty(), "it was called");
}
