//! A server that ends in the middle of an execution: killed, or stopped.

use proto::actions::GetActionRequest;
use proto::actions::action::State;
use proto::sandboxes::{Capabilities, ExecuteRequest};
use serde_json::json;

use super::agents::{call, caller};
use super::place::{Place, soon};
use crate::common::desk::approve;
use crate::common::reaches;

async fn attempts(place: &Place, id: &str) -> u32 {
    let request = GetActionRequest { action_id: id.to_owned() };
    place.agent.get_action(&request).await.unwrap().attempt
}

/// Code that waits for people when its server ends goes on after the next start: its calls are
/// found again, and none has its effect twice.
async fn goes_on(end: impl Fn(&mut Place), times: u32) {
    let mut place = Place::new("").await;
    let approver = place.approver().await;
    let execution = place.run(soon(caller(&[place.reads(), place.writes(), place.reads()]))).await;
    let held = place.held(&execution).await;
    for begun in 1..=times {
        assert_eq!(attempts(&place, &execution.execution_id).await, begun);
        end(&mut place);
        place.server.restart();
        let same = place.held(&execution).await;
        assert_eq!(same.action_id, held.action_id, "the call is asked for once");
        place.reaches(&execution, State::Executing).await;
    }
    assert_eq!(place.written(), 0);
    approve(&approver, &held).await.unwrap();
    let ended = place.reaches(&execution, State::Executed).await;
    assert_eq!((place.written(), ended.outcome.as_str()), (1, "SUCCESS"), "{ended:?}");
    assert_eq!(attempts(&place, &execution.execution_id).await, times + 1);
    assert_eq!(ended.tool_calls[1].action_id, held.action_id);
    assert!(place.replay(&ended, &[]).await.matches);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_servers_lose_no_execution() {
    goes_on(|place| place.server.kill(), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_servers_use_up_no_attempt() {
    // More often than an action may be tried.
    goes_on(|place| assert!(place.server.terminate().success()), 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approval_that_comes_while_the_server_is_down_counts() {
    let mut place = Place::new("").await;
    let approver = place.approver().await;
    // It can be done again: nobody need be asked what became of it.
    let write = json!({"path": place.root.join("out"), "content": "once\n", "mode": "overwrite"});
    let execution = place.run(soon(caller(&[call("core.fs_write", &write)]))).await;
    let held = place.held(&execution).await;
    approve(&approver, &held).await.unwrap();
    // At once: wherever it is by now, the effect happens once.
    place.server.kill();
    place.server.restart();
    let ended = reaches(&place.agent, &held.action_id, State::Executed).await;
    assert_eq!(ended.execution_id, execution.execution_id);
    place.reaches(&execution, State::Executed).await;
    assert_eq!(place.written(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn code_that_reads_what_it_writes_is_not_run_again() {
    let mut place = Place::new("").await;
    let files = format!("{}/state/*", place.root.display());
    place.server.configure(&format!(
        "sandbox: {{capabilities: {{file_read: ['{files}'], file_write: ['{files}']}}}}\n\
         grants: {{fs_write: [{:?}]}}\npolicy: {{decision_limit_ms: 5000}}",
        place.root
    ));
    assert!(place.server.terminate().success());
    place.server.restart();
    let granted = Capabilities {
        file_read: vec![files.clone()],
        file_write: vec![files],
        ..Default::default()
    };
    let code = caller(&[place.writes()]);
    let request = ExecuteRequest { capabilities: Some(granted), ..soon(code) };
    let execution = place.run(request).await;
    let held = place.held(&execution).await;
    place.server.kill();
    place.server.restart();
    let lost = place.reaches(&execution, State::Unknown).await;
    assert_eq!(lost.error.unwrap().code, "attempt_lost");
    // Nobody waits for what it called.
    reaches(&place.server.owner, &held.action_id, State::Canceled).await;
}
