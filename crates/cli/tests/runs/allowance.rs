//! What an operator allows: so many runs in a minute, so many writes in a run, and turns for each
//! tenant.

use client::Client;
use proto::runs::{Run, RunState, StartRunRequest};
use serde_json::Value;

use super::clock::Clock;
use super::{Place, named, reaches, workflow};
use crate::common::Server;

async fn begun(client: &Client, steps: &[Value]) -> Run {
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(steps) };
    client.start_run(&request, None).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_gives_no_second_allowance_of_runs() {
    let clock = Clock::new();
    let folder = tempfile::tempdir().unwrap();
    let start = |yaml: &str| Server::start_with(folder, yaml, clock.env());
    let mut place = Place::by(start, "runs: {per_minute_per_tenant: 2}").await;
    let steps = [place.call("one", "PUT", "/1")];
    for _ in 0..2 {
        let run = begun(&place.agent, &steps).await;
        reaches(&place.agent, &run.run_id, RunState::Succeeded).await;
    }
    let third = begun(&place.agent, &steps).await;
    assert_eq!(third.state(), RunState::Queued, "{third:?}");
    place.server.kill();
    place.server.restart();
    let fourth = begun(&place.agent, &steps).await;
    for id in [&third.run_id, &fourth.run_id] {
        let run = super::read(&place.agent, id).await;
        assert_eq!(run.state(), RunState::Queued, "{run:?}");
    }
    assert_eq!(place.calls(), [("/1", 2)].map(named).into());
    // A minute later there are two more; whoever waited longest comes first.
    place.server.kill();
    clock.shift(61);
    place.server.restart();
    let fifth = begun(&place.agent, &steps).await;
    for id in [&third.run_id, &fourth.run_id] {
        reaches(&place.agent, id, RunState::Succeeded).await;
    }
    assert_eq!(super::read(&place.agent, &fifth.run_id).await.state(), RunState::Queued);
    assert_eq!(place.calls(), [("/1", 4)].map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_writes_no_more_than_the_operator_allows() {
    let place = Place::new("runs: {writes_per_run: 2}").await;
    for (asked, expected) in [(None, 2), (Some(5), 2), (Some(1), 1), (Some(0), 0)] {
        let path = |n: usize| format!("/{asked:?}/{n}").replace(['(', ')'], "-");
        let steps: Vec<Value> =
            (0..3).map(|n| place.call(&format!("s{n}"), "PUT", &path(n))).collect();
        let before = place.target.seen().len();
        let request = StartRunRequest { max_writes: asked, ..workflow(&steps) };
        let run = place.agent.start_run(&request, None).await.unwrap();
        assert_eq!(run.state(), RunState::FailedTerminal, "{asked:?}: {run:?}");
        assert_eq!(run.error.unwrap().code, "writes_exceeded");
        assert_eq!(run.writes, expected, "{asked:?}");
        let calls = place.target.seen().len() - before;
        assert_eq!(u32::try_from(calls).unwrap(), expected, "{asked:?}");
    }
    // Reading is no writing.
    let steps: Vec<Value> = (0..3).map(|n| place.call(&format!("s{n}"), "GET", "/read")).collect();
    let run = place.agent.start_run(&workflow(&steps), None).await.unwrap();
    assert_eq!((run.state(), run.writes), (RunState::Succeeded, 0), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_with_a_long_queue_holds_nobody_else_up() {
    let place = Place::new("runs: {concurrency: 1}").await;
    let owner = Client::new(&place.server.url, &place.server.tenant("other").await).unwrap();
    let other = place.server.agent_of(&owner, "").await;
    let first = begun(&place.agent, &[place.call("held", "PUT", "/waits/main")]).await;
    place.target.asked("/waits/main").await;
    let mut queued = Vec::new();
    for (tenant, agent, count) in [("main", &place.agent, 4), ("other", &other, 2)] {
        for n in 0..count {
            let run = begun(agent, &[place.call("put", "PUT", &format!("/{n}/{tenant}"))]).await;
            assert_eq!(run.state(), RunState::Queued, "{run:?}");
            queued.push((agent, run.run_id));
        }
    }
    place.target.let_go();
    reaches(&place.agent, &first.run_id, RunState::Succeeded).await;
    for (agent, id) in queued {
        reaches(agent, &id, RunState::Succeeded).await;
    }
    let seen = place.target.seen();
    let turns: Vec<&str> =
        seen.iter().map(|delivery| delivery.path.rsplit('/').next().unwrap()).collect();
    assert_eq!(turns, ["main", "main", "other", "main", "other", "main", "main"]);
}
