//! A held call outlives its server.

use proto::actions::action::State;

use super::{Desk, noted, said, url};

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_survives_kill_9() {
    let mut desk = Desk::new().await;
    let agent = desk.agent().await;
    agent.call("kept").await;
    let action = desk.only().await;
    let page = agent.declaring(url());
    let asked = page.call("paged").await;
    let state = asked["result"]["requestState"].clone();
    desk.server.kill();
    desk.server.restart();
    desk.ready().await;
    assert_eq!(noted(&agent.call("kept").await)["action_id"], action.action_id);
    assert_eq!(desk.actions().await.len(), 2, "nothing is asked for twice");
    desk.approve(&action).await;
    desk.reaches(&action, State::Executed).await;
    desk.server.kill();
    desk.server.restart();
    desk.ready().await;
    assert_eq!(said(&agent.call("kept").await, false), "victim did it");
    assert_eq!(desk.calls(), 1);

    // What a client carries for us is as good as before.
    let again = page.call_with("paged", serde_json::json!({"requestState": state})).await;
    assert_eq!(again["result"]["resultType"], "input_required", "{again}");
    assert_eq!(noted(&again)["action_id"], noted(&asked)["action_id"]);
}
