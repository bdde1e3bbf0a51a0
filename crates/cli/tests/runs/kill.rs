//! kill -9 at every step of a ten-step plan: it ends once, with each effect once.

use std::collections::{BTreeMap, BTreeSet};

use ledger::rebuild;
use proto::actions::GetActionRequest;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::ledger::VerifyLedgerRequest;
use proto::runs::{Run, RunState, StartRunRequest};
use serde_json::{Value, json};
use testkit::Cluster;

use super::{Place, approve_step, reaches, until, with, workflow};
use crate::common::WORKSPACE;
use crate::common::postgres::migrated;

/// Calls, writes, a timer, a group, an approval.
fn ten_steps(place: &Place) -> Vec<Value> {
    let grouped = |id: &str, path: &str| with(place.call(id, "PUT", path), json!({"group": "g"}));
    let params = json!({"path": place.file("written"), "content": "once", "mode": "overwrite"});
    vec![
        place.call("s1", "GET", "/s1"),
        place.call("s2", "PUT", "/s2"),
        json!({"id": "s3", "action": "core.fs_write", "input": params}),
        json!({"id": "s4", "action": "time.wait", "input": {"seconds": 1}}),
        grouped("s5", "/s5"),
        grouped("s6", "/s6"),
        grouped("s7", "/s7"),
        with(place.call("s8", "PUT", "/s8"), json!({"approval": {"quorum": 1}})),
        place.call("s9", "PUT", "/s9"),
        place.call("s10", "PUT", "/s10"),
    ]
}

async fn survives(mut place: Place) {
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&ten_steps(&place)) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    for index in 0..10 {
        let begun = |run: &Run| {
            run.steps[index].state != "ready"
                || run.steps[index].wait_until.is_some()
                || run.state() == RunState::Succeeded
        };
        let run = until(&place.agent, &id, "the next step", begun).await;
        if run.steps[index].state == "waiting_approval" {
            approve_step(&approver, &run, &run.steps[index].step_id).await;
        }
        place.server.kill();
        place.server.restart();
    }
    let run = reaches(&place.agent, &id, RunState::Succeeded).await;
    check(&place, &run).await;
    assert!(place.server.terminate().success());
    place.server.offline("verify");
    for store in place.server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
}

/// Every step has one action, executed and receipted; what was delivered twice was so under one
/// key.
async fn check(place: &Place, run: &Run) {
    let mut actions = BTreeSet::new();
    for step in &run.steps {
        assert_eq!((step.state.as_str(), step.tries), ("succeeded", 1), "{step:?}");
        let request = GetActionRequest { action_id: step.action_id.clone() };
        let action = place.agent.get_action(&request).await.unwrap();
        assert_eq!(action.state(), State::Executed, "{action:?}");
        assert!(action.receipts.len() >= 2, "{action:?}");
        assert!(actions.insert(step.action_id.clone()), "two steps, one action");
    }
    let mut keys: BTreeMap<String, BTreeSet<Option<String>>> = BTreeMap::new();
    for delivery in place.target.seen() {
        keys.entry(delivery.path).or_default().insert(delivery.key);
    }
    for (path, keys) in &keys {
        assert_eq!(keys.len(), 1, "{path} was called for more than one action");
    }
    assert_eq!(keys.len(), 8, "{keys:?}");
    assert_eq!(std::fs::read_to_string(place.file("written")).unwrap(), "once");
    let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
    let verified = place.server.owner.verify_ledger(&request).await.unwrap();
    assert!(verified.valid, "{:?}", verified.errors);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_kill_at_every_step() {
    survives(Place::new("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_kill_at_every_step_on_postgresql() {
    let database = migrated(Cluster::shared());
    survives(Place::on(Some(&database), "").await).await;
}

/// The server that stood by takes the run over; the one that comes back is refused by its epoch.
#[tokio::test(flavor = "multi_thread")]
async fn another_server_takes_a_run_over() {
    let database = migrated(Cluster::shared());
    let mut place = Place::on(Some(&database), "").await;
    let steps = [
        place.call("s1", "PUT", "/s1"),
        json!({"id": "s2", "action": "time.wait", "input": {"seconds": 2}}),
        place.call("s3", "PUT", "/s3"),
    ];
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    let other = place.server.start_beside(&place.base);
    until(&place.agent, &id, "the timer", |run| run.steps[1].wait_until.is_some()).await;
    place.server.kill();
    other.ready().await;
    let run = reaches(&other.owner, &id, RunState::Succeeded).await;
    assert_eq!(run.steps.iter().map(|step| step.tries).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(place.target.seen().len(), 2);
}
