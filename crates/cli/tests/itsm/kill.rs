//! kill -9 at every boundary of the flagship, ten runs at once.

use std::collections::BTreeMap;

use proto::actions::action::State;
use proto::ledger::VerifyLedgerRequest;
use proto::runs::{Run, RunState};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::scene::{ADA, APPROVE, Scene, Setup, workspace};
use super::{states, written};
use crate::common::{LOOK_EVERY, PATIENCE};

const RUNS: usize = 10;

/// The runs once `is` holds of one of them.
async fn one(scene: &Scene, ids: &[String], what: &str, is: impl Fn(&Run) -> bool) {
    let end = Instant::now() + PATIENCE;
    loop {
        for id in ids {
            if is(&scene.run(id).await) {
                return;
            }
        }
        assert!(Instant::now() < end, "{what} never comes");
        sleep(LOOK_EVERY).await;
    }
}

fn crash(scene: &mut Scene) {
    scene.server.kill();
    scene.server.restart();
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_runs_survive_a_kill_at_every_boundary() {
    // Answers that take their time are under way when the server dies.
    let servicenow = json!({"latency_ms": 40});
    let mut scene = Scene::new(Setup { servicenow, ..Setup::default() }).await;
    let mut incidents = Vec::new();
    for number in 0..RUNS {
        incidents.push(scene.report(&format!("Number {number} is slow.")).await);
        if number == RUNS / 2 {
            // Half of the events are delivered, or under way.
            crash(&mut scene);
        }
    }
    let ids: Vec<_> = scene.runs(RUNS).await.into_iter().map(|run| run.run_id).collect();
    for step in 0..3 {
        one(&scene, &ids, "the next step", |run| states(run)[step] != "ready").await;
        crash(&mut scene);
    }
    let mut cards = Vec::new();
    for id in &ids {
        let run = scene.reaches(id, RunState::WaitingApproval).await;
        cards.push(scene.cards(&run, "update").await.remove(0));
    }
    crash(&mut scene);
    for (number, card) in cards.iter().enumerate() {
        scene.press(ADA, card, APPROVE).await;
        if number % 3 == 0 {
            crash(&mut scene);
        }
    }
    one(&scene, &ids, "the note", |run| states(run)[3] != "ready").await;
    crash(&mut scene);
    for id in &ids {
        let run = scene.reaches(id, RunState::Succeeded).await;
        check(&scene, &run).await;
    }
    let mut notes: BTreeMap<String, usize> = BTreeMap::new();
    for note in scene.servicenow.state().await["journal"].as_array().unwrap() {
        *notes.entry(note["element_id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for incident in &incidents {
        assert_eq!(scene.changes(Some(incident)).await, written(), "{incident}");
        assert_eq!(notes[incident], 1, "one note each");
    }
    let request = VerifyLedgerRequest { workspace: workspace() };
    let verified = scene.owner().verify_ledger(&request).await.unwrap();
    assert!(verified.valid, "{:?}", verified.errors);
    assert!(scene.server.terminate().success());
    scene.server.offline("verify");
}

/// Every step was one action, carried out, and asked people once.
async fn check(scene: &Scene, run: &Run) {
    for step in &run.steps {
        assert_eq!((step.state.as_str(), step.tries), ("succeeded", 1), "{step:?}");
        assert_eq!(scene.action(run, &step.step_id).await.state(), State::Executed);
    }
    assert_eq!(scene.cards(run, "update").await.len(), 1, "one card each: {run:?}");
}
