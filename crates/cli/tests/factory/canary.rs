//! Canaries: whose turn it is follows from the run's id; a bad one goes by itself, whatever
//! crashes; what a run began with it ends with.

use std::collections::BTreeSet;

use kernel::dsse::Envelope;
use kernel::ids::RunId;
use kernel::release::takes_canary;
use ledger::rebuild;
use proto::actions::GetActionRequest;
use proto::approvals::Approval;
use proto::identity::principal::Kind;
use proto::releases::{ErrorBudget, ReleaseState, RollbackReleaseRequest};
use proto::runs::{Run, RunState, StartRunRequest};
use serde_json::json;

use super::{Plant, broken, document, echo, eventually, named, read, start};
use crate::common::desk;
use crate::common::wire::Wire;

fn version(run: &Run) -> &str {
    &run.pinned.as_ref().unwrap().version
}

/// Whether the run takes a canary of so many of a hundred.
fn hit(run: &Run, percent: u8) -> bool {
    takes_canary(&RunId::new(&run.run_id).unwrap(), percent)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_share_is_exactly_that_of_the_hash() {
    let plant = Plant::new("").await;
    let (old, new) = ([echo("one", &json!("old"))], [echo("one", &json!("new"))]);
    let stable = plant.in_force(&document("triage", "1.0.0", &old)).await;
    let canary = plant.approved(&document("triage", "1.1.0", &new), None).await;
    for percent in [10_u8, 50] {
        let shown = plant.promote(&canary, Some(percent.into())).await;
        assert_eq!((shown.ring.as_str(), shown.percent), ("canary", u32::from(percent)));
        let mut taken = BTreeSet::new();
        for _ in 0..60 {
            let run = start(&plant.agent, "triage").await;
            assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
            let (hit, pinned) = (hit(&run, percent), run.pinned.as_ref().unwrap());
            let expect = match hit {
                true => ("1.1.0", canary.release_id.as_str(), "canary"),
                false => ("1.0.0", stable.release_id.as_str(), "all"),
            };
            let found = (pinned.version.as_str(), pinned.release_id.as_str(), pinned.ring.as_str());
            assert_eq!(found, expect, "{}", run.run_id);
            assert!(pinned.policy_in_force && pinned.policy_revision > 0);
            assert_eq!(run.version, expect.0);
            taken.insert(hit);
        }
        assert!(taken.contains(&false), "some take what is in force for all");
    }
    // The pin is in the run's first receipt.
    let run = start(&plant.agent, "triage").await;
    let wire = Wire::new(&plant.server.url);
    let path = format!("/v1/receipts/{}", run.first_receipt);
    let receipt = wire.ask_as(&plant.server.owner_key(), "GET", &path).send().await.good();
    let told = receipt.to_string();
    assert!(told.contains("run.requested") && told.contains(version(&run)), "{told}");
    // For all, then back: the one before is in force again.
    let all = plant.promote(&canary, None).await;
    assert_eq!((all.ring.as_str(), all.replaces.as_str()), ("all", stable.release_id.as_str()));
    assert_eq!(plant.release(&stable.release_id).await.state(), ReleaseState::Superseded);
    assert_eq!(version(&start(&plant.agent, "triage").await), "1.1.0");
    let back = RollbackReleaseRequest { release_id: canary.release_id.clone() };
    let back = plant.operator.rollback_release(&back, None).await.unwrap();
    assert_eq!((back.state(), back.cause.as_str()), (ReleaseState::RolledBack, "person"));
    assert_eq!(plant.release(&stable.release_id).await.state(), ReleaseState::Active);
    assert_eq!(version(&start(&plant.agent, "triage").await), "1.0.0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_run_whatever_is_in_force_since() {
    let plant = Plant::new("").await;
    plant.in_force(&document("triage", "1.0.0", &[echo("one", &json!("old"))])).await;
    let request = named("triage");
    let first = plant.agent.start_run(&request, Some("event-1")).await.unwrap();
    plant.in_force(&document("triage", "2.0.0", &[echo("one", &json!("new"))])).await;
    let again = plant.agent.start_run(&request, Some("event-1")).await.unwrap();
    assert_eq!((&again.run_id, version(&again)), (&first.run_id, "1.0.0"));
    let next = plant.agent.start_run(&request, Some("event-2")).await.unwrap();
    assert_eq!(version(&next), "2.0.0");
}

/// Approves what a step of the run waits for.
async fn approve_step(plant: &Plant, run: &Run, step: &str) -> Approval {
    let step = run.steps.iter().find(|one| one.step_id == step).unwrap();
    let request = GetActionRequest { action_id: step.action_id.clone() };
    let action = plant.approver.get_action(&request).await.unwrap();
    desk::approve(&plant.approver, &action).await.unwrap()
}

/// It waits for a person while another version comes into force and the server is killed: it ends
/// as what it began as.
#[tokio::test(flavor = "multi_thread")]
async fn a_pin_holds_to_the_end() {
    let mut plant = Plant::new("").await;
    let steps = |said: &str| {
        let mut held = echo("held", &json!(said));
        held["approval"] = json!({"quorum": 1});
        [held, echo("after", &json!(said))]
    };
    plant.in_force(&document("triage", "1.0.0", &steps("old"))).await;
    let request = StartRunRequest { wait_ms: None, ..named("triage") };
    let run = plant.agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::WaitingApproval, "{run:?}");
    plant.in_force(&document("triage", "2.0.0", &steps("new"))).await;
    // The policy of the release is no longer the one in force: the run says so.
    plant.server.publish(&crate::common::allow_all()).await;
    plant.server.kill();
    plant.server.restart();
    let held = read(&plant.agent, &run.run_id).await;
    let pinned = held.pinned.as_ref().unwrap();
    assert_eq!((pinned.version.as_str(), pinned.policy_in_force), ("1.0.0", false));
    approve_step(&plant, &held, "held").await;
    let done = eventually("the end", async || {
        let run = read(&plant.agent, &run.run_id).await;
        (run.state() == RunState::Succeeded).then_some(run)
    });
    let done = done.await;
    let output = done.steps[1].output.as_ref().unwrap();
    assert!(output.text.contains("old"), "{}", output.text);
    assert_eq!(version(&done), "1.0.0");
    let next = plant.agent.start_run(&request, None).await.unwrap();
    assert_eq!(version(&next), "2.0.0");
}

fn budget(window_runs: u32, failures_max: u32) -> Option<ErrorBudget> {
    Some(ErrorBudget { window_runs, failures_max })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_version_rolls_back_by_itself() {
    let plant = Plant::new("").await;
    let stable = plant.in_force(&document("triage", "1.0.0", &[echo("one", &json!(1))])).await;
    let bad = plant.approved(&document("triage", "1.1.0", &[broken("one")]), budget(10, 3)).await;
    plant.promote(&bad, Some(60)).await;
    let mut failed = 0;
    let rolled = loop {
        let run = start(&plant.agent, "triage").await;
        let took = version(&run) == "1.1.0";
        assert_eq!(run.state() == RunState::FailedTerminal, took, "{run:?}");
        failed += u32::from(took);
        if failed >= 3 {
            break eventually("the rollback", async || {
                let release = plant.release(&bad.release_id).await;
                (release.state() == ReleaseState::RolledBack).then_some(release)
            })
            .await;
        }
        let state = plant.release(&bad.release_id).await.state();
        assert_eq!(state, ReleaseState::Active, "{failed} are not too many");
    };
    assert_eq!((rolled.cause.as_str(), rolled.rolled_back_by.as_str()), ("error_budget", ""));
    assert_eq!((rolled.window_runs, rolled.window_failures), (3, 3));
    for _ in 0..20 {
        assert_eq!(version(&start(&plant.agent, "triage").await), "1.0.0");
    }
    assert_eq!(plant.release(&stable.release_id).await.state(), ReleaseState::Active);
    // It was tried: what comes next is another release.
    let next = plant.approved(&document("triage", "1.1.1", &[echo("one", &json!(2))]), None).await;
    plant.promote(&next, Some(50)).await;
}

/// After each failing run the server is killed, with nothing between the answer and the kill: when
/// it serves again the count is right, and the last one has rolled the release back.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollback_survives_a_kill_at_every_boundary() {
    let mut plant = Plant::new("").await;
    plant.in_force(&document("triage", "1.0.0", &[echo("one", &json!(1))])).await;
    let bad = plant.approved(&document("triage", "1.1.0", &[broken("one")]), budget(20, 3)).await;
    plant.promote(&bad, Some(99)).await;
    let mut failed = 0;
    while failed < 3 {
        let state = plant.release(&bad.release_id).await.state();
        assert_eq!(state, ReleaseState::Active, "{failed} are not too many");
        let run = start(&plant.agent, "triage").await;
        plant.server.kill();
        failed += u32::from(version(&run) == "1.1.0");
        plant.server.restart();
    }
    // Before anything else was served.
    let rolled = plant.release(&bad.release_id).await;
    assert_eq!(rolled.state(), ReleaseState::RolledBack, "{rolled:?}");
    assert_eq!((rolled.window_runs, rolled.window_failures), (3, 3));
    assert_eq!(version(&start(&plant.agent, "triage").await), "1.0.0");
    assert!(plant.server.terminate().success());
    plant.server.offline("verify");
    for store in plant.server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
}

/// The server is killed while the commit that rolls a release back is being made: another process
/// holds the database, so it cannot have ended. When it serves again the release is rolled back,
/// once.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_commit_of_a_rollback_leaves_one_rollback() {
    let mut plant = Plant::new("").await;
    plant.in_force(&document("triage", "1.0.0", &[echo("one", &json!(1))])).await;
    let bad = plant.approved(&document("triage", "1.1.0", &[broken("one")]), budget(20, 2)).await;
    plant.promote(&bad, Some(99)).await;
    let mut failed = 0;
    while failed < 1 {
        failed += u32::from(version(&start(&plant.agent, "triage").await) == "1.1.0");
    }
    let control = plant.server.data.join("control.sqlite");
    let held = rusqlite::Connection::open(&control).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    while failed < 2 {
        failed += u32::from(version(&start(&plant.agent, "triage").await) == "1.1.0");
    }
    plant.server.kill();
    held.execute_batch("ROLLBACK").unwrap();
    drop(held);
    plant.server.restart();
    let rolled = plant.release(&bad.release_id).await;
    assert_eq!(rolled.state(), ReleaseState::RolledBack, "{rolled:?}");
    assert_eq!((rolled.window_runs, rolled.window_failures), (2, 2));
    // Killed again as soon as it serves: it stays one.
    plant.server.kill();
    plant.server.restart();
    assert_eq!(version(&start(&plant.agent, "triage").await), "1.0.0");
    assert!(plant.server.terminate().success());
    plant.server.offline("verify");
    let stores = plant.server.stores();
    let mut told = 0;
    for store in &stores {
        for log in store.logs().unwrap() {
            let rows = store.receipts(&log, 0, 10_000).unwrap();
            let payloads = rows.iter().map(|row| Envelope::parse(&row.envelope).unwrap().payload);
            let of = |payload: &Vec<u8>| {
                String::from_utf8_lossy(payload).matches("\"release.rolled_back\"").count()
            };
            told += payloads.map(|payload| of(&payload)).sum::<usize>();
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
    assert_eq!(told, 1);
}

/// A run that was withdrawn says nothing; a dead letter that was replayed and went well counts no
/// more.
#[tokio::test(flavor = "multi_thread")]
async fn what_turned_out_well_does_not_count() {
    let plant = Plant::new("").await;
    let held = |id: &str| {
        let mut step = echo(id, &json!(1));
        step["approval"] = json!({"quorum": 1});
        step
    };
    plant.in_force(&document("triage", "1.0.0", &[held("one")])).await;
    let canary = plant.approved(&document("triage", "1.1.0", &[held("one")]), budget(5, 2)).await;
    plant.promote(&canary, Some(99)).await;
    let operator = plant.server.principal(Kind::User, &["operator"]).await;
    for _ in 0..4 {
        let request = StartRunRequest { wait_ms: None, ..named("triage") };
        let run = plant.agent.start_run(&request, None).await.unwrap();
        let cancel = proto::runs::CancelRunRequest { run_id: run.run_id.clone() };
        operator.cancel_run(&cancel, None).await.unwrap();
        eventually("the end", async || {
            let run = read(&plant.agent, &run.run_id).await;
            (run.state() == RunState::Canceled).then_some(())
        })
        .await;
    }
    assert_eq!(plant.release(&canary.release_id).await.state(), ReleaseState::Active);
}
