//! A client that can send a person to a page is given it, and a state to come back with.

use proto::actions::action::State;
use serde_json::{Value, json};

use super::{Desk, noted, said, url};
use crate::common::wire::Wire;

#[tokio::test(flavor = "multi_thread")]
async fn a_page_and_a_state_until_people_have_decided() {
    let desk = Desk::new().await;
    let agent = desk.agent().await.declaring(url());
    let asked = agent.call("page").await;
    let result = &asked["result"];
    assert_eq!(result["resultType"], "input_required", "{asked}");
    let request = &result["inputRequests"]["approval"];
    let action = desk.only().await;
    assert_eq!(request["method"], "elicitation/create", "{asked}");
    assert_eq!(request["params"]["mode"], "url", "{asked}");
    let page = format!("{}/approvals/{}", desk.server.url, action.approval_id);
    assert_eq!(request["params"]["url"], page.as_str(), "{asked}");
    let reply = Wire::new(&desk.server.url)
        .ask("GET", &format!("/approvals/{}", action.approval_id))
        .send()
        .await;
    assert_eq!(reply.status, 401, "the page is there, for whoever logs in");

    let responses = json!({"approval": {"action": "accept"}});
    let back = |state: &Value| json!({"requestState": state, "inputResponses": responses});
    let state = result["requestState"].clone();
    let still = agent.call_with("page", back(&state)).await;
    assert_eq!(still["result"]["resultType"], "input_required", "{still}");
    assert_eq!(desk.only().await.action_id, action.action_id);

    // Of no use with other parameters, to others, changed, or made up.
    let other = desk.agent().await.declaring(url());
    let text = state.as_str().unwrap();
    let mut bent = text.as_bytes().to_vec();
    let middle = bent.len() / 2;
    bent[middle] = if bent[middle] == b'A' { b'B' } else { b'A' };
    let bent = json!(String::from_utf8(bent).unwrap());
    for (answer, why) in [
        (agent.call_with("other", back(&state)).await, "other parameters"),
        (other.call_with("page", back(&state)).await, "another principal"),
        (agent.call_with("page", back(&bent)).await, "tampered"),
        (agent.call_with("page", back(&json!("made up"))).await, "made up"),
        (agent.call_with("page", back(&json!("A".repeat(1 << 20)))).await, "huge"),
    ] {
        assert_eq!(answer["error"]["code"], -32602, "{why}: {answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains("requestState"), "{answer}");
    }
    assert_eq!((desk.actions().await.len(), desk.calls()), (1, 0), "and nothing comes of it");

    desk.approve(&action).await;
    desk.reaches(&action, State::Executed).await;
    let done = agent.call_with("page", back(&state)).await;
    assert_eq!(said(&done, false), "victim did it");
    assert_eq!(noted(&done)["action_id"], action.action_id);
    assert_eq!(done["result"]["resultType"], "complete");
    assert_eq!(desk.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_client_is_told_the_url_by_an_error() {
    let desk = Desk::new().await;
    let agent = desk.agent().await.older(url()).await;
    let held = agent.call("page").await;
    let action = desk.only().await;
    assert_eq!(held["error"]["code"], -32042, "{held}");
    let asked = &held["error"]["data"]["elicitations"][0];
    assert_eq!(asked["mode"], "url");
    assert_eq!(asked["elicitationId"], action.approval_id);
    let page = format!("{}/approvals/{}", desk.server.url, action.approval_id);
    assert_eq!(asked["url"], page.as_str());
    desk.approve(&action).await;
    desk.reaches(&action, State::Executed).await;
    assert_eq!(said(&agent.call("page").await, false), "victim did it");
    assert_eq!(desk.calls(), 1);
}
