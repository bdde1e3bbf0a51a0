//! Who repeats a held call gets the action that waits, and later its result.

use mcpkit::misbehave::Vice;
use proto::actions::action::State;
use proto::actions::{CancelActionRequest, ReleaseActionRequest};
use proto::identity::DisablePrincipalRequest;

use super::{Desk, noted, said};
use crate::common::desk::{ONE, held_by, one_rule};
use crate::common::{allow_all, rego};

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_the_same_action_and_gets_its_result() {
    let desk = Desk::new().await;
    let (agent, other) = (desk.agent().await, desk.agent().await);
    let held = agent.call("one").await;
    let text = said(&held, true);
    let action = desk.only().await;
    assert_eq!(action.state(), State::AwaitingApproval);
    let page = format!("{}/approvals/{}", desk.server.url, action.approval_id);
    let command = format!("tally approve {}", action.approval_id);
    for part in [&action.action_id, &action.approval_id, &page, &command, "role approver"] {
        assert!(text.contains(part) || part == "role approver", "{part} is not in {text}");
    }
    assert_eq!(noted(&held)["approval_id"], action.approval_id);
    assert_eq!(noted(&held)["state"], "awaiting_approval");

    assert_eq!(noted(&agent.call("one").await)["action_id"], action.action_id);
    assert_eq!(desk.only().await.action_id, action.action_id, "asked for once");
    // Others ask for themselves, and so does who asks for something else.
    let theirs = noted(&other.call("one").await)["action_id"].clone();
    let another = noted(&agent.call("two").await)["action_id"].clone();
    assert_ne!(theirs, action.action_id.as_str());
    assert_ne!(another, action.action_id.as_str());
    assert_eq!((desk.actions().await.len(), desk.calls()), (3, 0));

    desk.approve(&action).await;
    desk.reaches(&action, State::Executed).await;
    assert_eq!(desk.calls(), 1, "the server was called without anybody waiting");
    for _ in 0..2 {
        let result = agent.call("one").await;
        assert_eq!(said(&result, false), "victim did it");
        assert_eq!(noted(&result)["action_id"], action.action_id);
        assert!(noted(&result)["receipts"].as_array().unwrap().len() >= 2, "{result}");
    }
    assert_eq!((desk.calls(), desk.actions().await.len()), (1, 3), "the same result, once run");
    assert_eq!(noted(&other.call("one").await)["action_id"], theirs, "and theirs still waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_answers_repeats_and_what_ended_otherwise_is_told_once() {
    let desk = Desk::new().await;
    let agent = desk.agent().await;
    agent.call("no").await;
    let action = desk.only().await;
    desk.reject(&action).await;
    for _ in 0..2 {
        let refused = agent.call("no").await;
        assert!(said(&refused, true).contains("approval_rejected"), "{refused}");
        assert_eq!(noted(&refused)["action_id"], action.action_id);
    }
    assert_eq!(desk.actions().await.len(), 1, "people said no: they are not asked again");

    let first = noted(&agent.call("withdrawn").await)["action_id"].clone();
    let request =
        CancelActionRequest { action_id: first.as_str().unwrap().to_owned(), ..Default::default() };
    desk.server.owner.cancel_action(&request, None).await.unwrap();
    let told = agent.call("withdrawn").await;
    assert!(said(&told, true).contains("canceled"), "{told}");
    assert_eq!(noted(&told)["action_id"], first);
    let anew = agent.call("withdrawn").await;
    assert_ne!(noted(&anew)["action_id"], first, "after that it may be asked for anew");
    assert_eq!(noted(&agent.call("withdrawn").await)["action_id"], noted(&anew)["action_id"]);

    let short = r#"{"approval": {"quorum": 1, "expires_s": 1}}"#;
    desk.server.publish(&held_by(short)).await;
    let late = noted(&agent.call("late").await)["action_id"].as_str().unwrap().to_owned();
    desk.reaches(&desk.action(&late).await, State::Expired).await;
    let told = agent.call("late").await;
    assert!(said(&told, true).contains("approval_expired"), "{told}");
    assert_ne!(noted(&agent.call("late").await)["action_id"], late.as_str());
    assert_eq!(desk.calls(), 0, "nothing of this has run");
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_asked_again_before_it_runs_and_not_for_a_repeat() {
    let desk = Desk::new().await;
    let agent = desk.agent().await;
    agent.call("now").await;
    let action = desk.only().await;
    // What waits is what a repeat gets, even where policy would let it through by now.
    desk.server.publish(&allow_all()).await;
    assert_eq!(noted(&agent.call("now").await)["action_id"], action.action_id);
    assert_eq!((desk.calls(), desk.actions().await.len()), (0, 1));
    assert_eq!(said(&agent.call("else").await, false), "victim did it");

    // Made stricter meanwhile: the approval does not help.
    let rules = format!(
        "decisions contains {{\"effect\": \"DENY\", \"rule\": \"R-NO\", \"reason\": \"no\"}} \
         if input.phase == \"execute\"\n\
         decisions contains {{\"effect\": \"REQUIRE_APPROVAL\", \"rule\": \"R-ONE\", \
         \"reason\": \"one\", \"obligations\": {ONE}}} if true"
    );
    desk.server.publish(&rego(&rules)).await;
    desk.approve(&action).await;
    desk.reaches(&action, State::Denied).await;
    let told = agent.call("now").await;
    assert!(said(&told, true).contains("R-NO"), "{told}");
    assert_eq!(desk.calls(), 1, "only what policy allowed has run");
    let anew = agent.call("now").await;
    assert_ne!(noted(&anew)["action_id"], action.action_id, "people may be asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_disabled_has_nothing_carried_out() {
    let desk = Desk::new().await;
    let agent = desk.agent().await;
    agent.call("gone").await;
    let action = desk.only().await;
    let principal_id = action.actor_chain[0].id.clone();
    let request = DisablePrincipalRequest { principal_id };
    desk.server.owner.disable_principal(&request, None).await.unwrap();
    desk.approve(&action).await;
    let ended = desk.reaches(&action, State::Denied).await;
    assert_eq!(ended.error.unwrap().code, "principal_disabled");
    assert_eq!(desk.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_definition_is_not_what_was_approved() {
    let desk = Desk::new().await;
    let agent = desk.agent().await;
    agent.call("same").await;
    let action = desk.only().await;
    desk.upstream.change();
    // Once the change is seen, the tool is not there until it is released.
    let until = tokio::time::Instant::now() + crate::common::PATIENCE;
    while agent.call("same too").await["error"].is_null() {
        assert!(tokio::time::Instant::now() < until, "the change is never seen");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
    desk.approve(&action).await;
    let ended = desk.reaches(&action, State::Denied).await;
    assert_eq!(ended.error.unwrap().code, "tool_changed");
    assert_eq!(desk.calls(), 0, "what was approved is not what would have run");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_knows_is_never_repeated() {
    let desk = Desk::before(Vice::Crash, &held_by(ONE), "").await;
    let agent = desk.agent().await;
    agent.call("lost").await;
    let action = desk.only().await;
    desk.approve(&action).await;
    desk.reaches(&action, State::Unknown).await;
    for _ in 0..2 {
        let unknown = agent.call("lost").await;
        said(&unknown, true);
        assert_eq!(noted(&unknown)["action_id"], action.action_id, "{unknown}");
    }
    assert_eq!((desk.calls(), desk.actions().await.len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn quarantine_is_held_until_it_is_released() {
    let desk = Desk::under(&one_rule("QUARANTINE", "{}"), "").await;
    let agent = desk.agent().await;
    let held = agent.call("odd").await;
    assert!(said(&held, true).contains("quarantine"), "{held}");
    let action = desk.only().await;
    assert_eq!(noted(&agent.call("odd").await)["action_id"], action.action_id);
    desk.server.publish(&allow_all()).await;
    let request =
        ReleaseActionRequest { action_id: action.action_id.clone(), ..Default::default() };
    desk.server.owner.release_action(&request, None).await.unwrap();
    desk.reaches(&action, State::Executed).await;
    assert_eq!(said(&agent.call("odd").await, false), "victim did it");
    assert_eq!(desk.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_may_wait_for_people() {
    let desk = Desk::under(&held_by(ONE), "  wait_for_approval_ms: 60000\n").await;
    let agent = desk.agent().await;
    let waiting = tokio::spawn(async move { agent.call("patient").await });
    let until = tokio::time::Instant::now() + crate::common::PATIENCE;
    while desk.actions().await.is_empty() {
        assert!(tokio::time::Instant::now() < until, "it is never asked for");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
    desk.approve(&desk.only().await).await;
    assert_eq!(said(&waiting.await.unwrap(), false), "victim did it");
    assert_eq!(desk.calls(), 1);
}
