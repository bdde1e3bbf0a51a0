//! How many runs go on at once.

use proto::identity::principal::Kind;
use proto::runs::{RunState, StartRunRequest};
use serde_json::{Value, json};

use super::{Place, approve_step, named, reaches, read, with, workflow};

async fn begun(place: &Place, steps: &[Value]) -> String {
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(steps) };
    place.agent.start_run(&request, None).await.unwrap().run_id
}

/// One place: it is taken by who has an action under way, also across a crash, and by nobody who
/// waits for people.
#[tokio::test(flavor = "multi_thread")]
async fn no_more_go_on_at_once_than_may() {
    let mut place = Place::new("runs: {concurrency_per_tenant: 1}").await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let asks = with(place.call("asks", "PUT", "/asks"), json!({"approval": {"quorum": 1}}));
    let asks = begun(&place, &[asks]).await;
    let asking = reaches(&place.agent, &asks, RunState::WaitingApproval).await;
    let held = begun(&place, &[place.call("held", "PUT", "/waits/held")]).await;
    place.target.asked("/waits/held").await;
    let next = begun(&place, &[place.call("next", "PUT", "/next")]).await;
    assert_eq!(read(&place.agent, &next).await.state(), RunState::Queued);
    place.server.kill();
    place.server.restart();
    // The place is taken again by the attempt that is repeated.
    while place.target.arrivals("/waits/held").len() < 2 {
        assert_eq!(read(&place.agent, &next).await.state(), RunState::Queued);
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
    assert_eq!(read(&place.agent, &next).await.state(), RunState::Queued);
    assert!(!place.calls().contains_key("/next"), "{:?}", place.calls());
    place.target.let_go();
    for id in [&held, &next] {
        reaches(&place.agent, id, RunState::Succeeded).await;
    }
    approve_step(&approver, &asking, "asks").await;
    reaches(&place.agent, &asks, RunState::Succeeded).await;
    let calls = [("/asks", 1), ("/waits/held", 2), ("/next", 1)];
    assert_eq!(place.calls(), calls.map(named).into());
}
