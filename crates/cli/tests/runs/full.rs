//! There is no space left to keep anything: that is said, nothing is lost, and all goes on once
//! there is space again.

use client::Error;
use proto::actions::action::State;
use proto::actions::{GetActionRequest, SubmitActionRequest};
use proto::ledger::VerifyLedgerRequest;
use proto::runs::{RunState, StartRunRequest};
use serde_json::json;
use testkit::{Cluster, Database};

use super::{Place, reaches, read, states, timed_run, until, workflow};
use crate::common::postgres::migrated;
use crate::common::{Server, WORKSPACE};

/// Enough for a server and some hundred actions.
const SMALL: u64 = 64 << 20;
/// More actions than what is left on a full disk has room for.
const TRIES: usize = 5_000;

/// Has the database refuse rows of the log as it does when its disk is full.
const NO_SPACE: &str = "
CREATE FUNCTION tally_runtime.no_space() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full';
END $$;
CREATE TRIGGER no_space BEFORE INSERT ON tally_runtime.receipt
  FOR EACH ROW EXECUTE FUNCTION tally_runtime.no_space();";
const SPACE: &str = "
DROP TRIGGER no_space ON tally_runtime.receipt;
DROP FUNCTION tally_runtime.no_space();";

fn fill(place: &Place, database: Option<&Database>) {
    match database {
        Some(database) => drop(database.sql(NO_SPACE)),
        None => place.server.disk().fill(),
    }
}

fn free(place: &Place, database: Option<&Database>) {
    match database {
        Some(database) => drop(database.sql(SPACE)),
        None => place.server.disk().free(),
    }
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Error>) {
    match answer {
        Err(Error::Refused { status, error }) => {
            let category = error.category().as_str_name();
            let told = (status, error.code.as_str(), category, error.retryable);
            assert_eq!(told, (503, "storage_full", "INTERNAL", true), "{error:?}");
            assert!(error.retry_after_ms.is_some(), "{error:?}");
        }
        other => panic!("there is no space for this: {other:?}"),
    }
}

async fn survives(mut place: Place, database: Option<&Database>) {
    let waiting = |request: StartRunRequest| StartRunRequest { wait_ms: Some(0), ..request };
    // One run is in the middle of an effect that may not be repeated, another waits for its timer.
    let steps = [place.call("post", "POST", "/waits/post"), place.call("then", "PUT", "/then")];
    let posts = place.agent.start_run(&waiting(workflow(&steps)), None).await.unwrap().run_id;
    place.target.asked("/waits/post").await;
    let waits = timed_run(&place, 2, "/timer").await;
    let before = place.server.pid();
    fill(&place, database);

    // What is left is used up, and what was acknowledged meanwhile stays.
    let call = SubmitActionRequest { wait_ms: Some(1_000), ..place.target.call("PUT", "/more") };
    let mut acknowledged = Vec::new();
    let no_space = loop {
        match place.agent.submit_action(&call, None).await {
            Ok(action) => acknowledged.push(action),
            Err(error) => break Err::<(), _>(error),
        }
        assert!(acknowledged.len() < TRIES, "the disk is not full");
    };
    refused(no_space);
    let called = place.calls().get("/more").copied().unwrap_or_default();
    refused(place.agent.start_run(&waiting(workflow(&steps)), None).await);
    refused(place.agent.submit_action(&call, Some("again")).await);
    // It still answers whoever reads.
    assert_eq!(read(&place.agent, &posts).await.state(), RunState::Running);
    for action in &acknowledged {
        let request = GetActionRequest { action_id: action.action_id.clone() };
        place.agent.get_action(&request).await.unwrap();
    }
    // An effect ends that cannot be kept yet, and a timer is over.
    place.target.let_go();
    until(&place.agent, &waits, "the timer", |run| {
        let over = |at: &proto::types::Timestamp| at.micros() < now_micros();
        run.steps[0].wait_until.as_ref().is_some_and(over)
    })
    .await;
    let run = read(&place.agent, &posts).await;
    assert_eq!(states(&run), ["running", "ready"], "{run:?}");
    free(&place, database);

    let run = reaches(&place.agent, &posts, RunState::Succeeded).await;
    assert_eq!(run.steps[0].tries, 1, "{run:?}");
    reaches(&place.agent, &waits, RunState::Succeeded).await;
    acknowledged.push(place.agent.submit_action(&call, Some("again")).await.unwrap());
    for action in &acknowledged {
        crate::common::reaches(&place.agent, &action.action_id, State::Executed).await;
    }
    let calls = place.calls();
    let once = ["/waits/post", "/then", "/timer"].map(|path| calls[path]);
    assert_eq!((once, calls["/more"]), ([1, 1, 1], called + 1));
    assert_eq!(place.server.pid(), before, "it was never started again");
    let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
    let verified = place.server.owner.verify_ledger(&request).await.unwrap();
    assert!(verified.valid, "{:?}", verified.errors);
    assert!(place.server.terminate().success());
    place.server.offline("verify");
}

fn now_micros() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    i64::try_from(since.as_micros()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let place = Place::by(|yaml| Server::start_small(SMALL, yaml), "").await;
    survives(place, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_space_loses_nothing() {
    let database = migrated(Cluster::shared());
    survives(Place::on(Some(&database), "").await, Some(&database)).await;
}

/// A server that cannot start says why, and has lost nothing once there is space.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_not_start_on_a_full_disk_and_says_so() {
    let mut place = Place::by(|yaml| Server::start_small(SMALL, yaml), "").await;
    let run = place.agent.start_run(&workflow(&[place.call("put", "PUT", "/put")]), None).await;
    let run = run.unwrap();
    assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
    assert!(place.server.terminate().success());
    // As a copy is: without the index that SQLite keeps beside its files while they are open.
    for file in ["control.sqlite-shm", "runtime.sqlite-shm"] {
        let path = place.server.disk().outside(&place.server.data.join(file));
        std::fs::remove_file(path).unwrap();
    }
    place.server.disk().fill();
    let refused = place.server.refuses_to_start();
    assert!(refused.contains("the store is full: no space is left"), "{refused}");
    place.server.disk().free();
    place.server.restart();
    let kept = read(&place.agent, &run.run_id).await;
    assert_eq!((kept.state(), kept.root_hash), (RunState::Succeeded, run.root_hash));
}

/// The outcome of an effect that nobody could keep: a crash in between leaves it in doubt, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_on_a_full_disk_leaves_what_was_kept() {
    let mut place = Place::by(|yaml| Server::start_small(SMALL, yaml), "").await;
    let steps = [place.call("post", "POST", "/waits/post"), place.call("then", "PUT", "/then")];
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    place.target.asked("/waits/post").await;
    place.server.disk().fill();
    place.target.let_go();
    place.server.kill();
    place.server.disk().free();
    place.server.restart();
    let doubt = |run: &proto::runs::Run| {
        run.steps[0].error.as_ref().is_some_and(|error| error.code == "outcome_unknown")
    };
    until(&place.agent, &id, "the doubt", doubt).await;
    assert_eq!(place.calls(), [("/waits/post", 1)].map(super::named).into());
    let params = json!({"method": "GET", "url": place.url("/after")});
    let call = crate::common::action("core.http_call", &params);
    let done = place.agent.submit_action(&call, None).await.unwrap();
    assert_eq!(done.state(), State::Executed, "{done:?}");
}
