//! A client that takes tasks is given a handle.

use proto::actions::action::State;
use serde_json::{Value, json};

use super::{Caller, Desk, noted, said, tasks, url};
use crate::common::allow_all;
use crate::common::desk::{ONE, held_by};

async fn get(caller: &Caller, id: &Value) -> Value {
    caller.ask("tasks/get", json!({"taskId": id})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_of_the_extension() {
    let desk = Desk::new().await;
    let agent = desk.agent().await.declaring(tasks());
    let made = agent.call("task").await;
    let action = desk.only().await;
    assert_eq!(made["result"]["resultType"], "task", "{made}");
    let id = made["result"]["taskId"].clone();
    assert_eq!(id, action.action_id.as_str());
    for member in ["createdAt", "lastUpdatedAt", "ttlMs", "pollIntervalMs"] {
        assert!(!made["result"][member].is_null(), "{member}: {made}");
    }
    let waits = get(&agent, &id).await;
    assert_eq!(waits["result"]["status"], "working", "{waits}");
    assert_eq!(waits["result"]["resultType"], "complete", "{waits}");
    assert!(waits["result"]["statusMessage"].as_str().unwrap().contains(&action.approval_id));
    assert!(waits["result"]["inputRequests"].is_null(), "it did not declare that it can");

    // Who can also send a person somewhere is asked to, until it says that it has.
    let mut both = tasks();
    both["elicitation"] = url()["elicitation"].clone();
    let both = agent.declaring(both);
    let asks = get(&both, &id).await;
    assert_eq!(asks["result"]["status"], "input_required", "{asks}");
    let requests = asks["result"]["inputRequests"].as_object().unwrap();
    let (key, request) = requests.iter().next().unwrap();
    assert_eq!(request["params"]["mode"], "url", "{asks}");
    let responses = json!({key: {"action": "accept"}});
    let update = json!({"taskId": id, "inputResponses": responses});
    assert_eq!(both.ask("tasks/update", update.clone()).await["result"]["resultType"], "complete");
    assert_eq!(get(&both, &id).await["result"]["status"], "working");

    // To others it is as one that does not exist.
    let other = desk.agent().await.declaring(tasks());
    let mut absent = get(&other, &json!("act_none")).await;
    for (method, params) in [
        ("tasks/get", json!({"taskId": id})),
        ("tasks/cancel", json!({"taskId": id})),
        ("tasks/update", update),
    ] {
        let refused = other.ask(method, params).await;
        assert_eq!(refused["error"]["code"], -32602, "{method}: {refused}");
        absent["id"] = refused["id"].clone();
        assert_eq!(refused, absent, "{method}");
    }
    let bare = desk.agent().await;
    assert_eq!(get(&bare, &id).await["error"]["code"], -32021, "it declares no tasks");

    desk.approve(&action).await;
    desk.reaches(&action, State::Executed).await;
    let done = get(&agent, &id).await;
    assert_eq!(done["result"]["status"], "completed", "{done}");
    assert_eq!(done["result"]["result"]["content"][0]["text"], "victim did it", "{done}");
    // Asked for again it is no task any more: there is a result.
    assert_eq!(said(&agent.call("task").await, false), "victim did it");
    assert_eq!(desk.calls(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_a_task_withdraws_the_action() {
    let desk = Desk::new().await;
    let agent = desk.agent().await.declaring(tasks());
    let id = agent.call("task").await["result"]["taskId"].clone();
    let action = desk.only().await;
    let cancelled = agent.ask("tasks/cancel", json!({"taskId": id})).await;
    assert_eq!(cancelled["result"]["resultType"], "complete", "{cancelled}");
    desk.reaches(&action, State::Canceled).await;
    assert_eq!(get(&agent, &id).await["result"]["status"], "cancelled");
    let rejected = agent.call("other").await["result"]["taskId"].clone();
    let other = desk.action(rejected.as_str().unwrap()).await;
    desk.reject(&other).await;
    let refused = get(&agent, &rejected).await;
    assert_eq!(refused["result"]["status"], "completed", "{refused}");
    assert_eq!(refused["result"]["result"]["isError"], true, "{refused}");
    assert_eq!(desk.calls(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_of_the_older_revision() {
    let desk = Desk::new().await;
    let agent = desk.agent().await.older(json!({})).await;
    let made = agent.call_with("task", json!({"task": {"ttl": 60_000}})).await;
    let task = &made["result"]["task"];
    let action = desk.only().await;
    assert_eq!(task["taskId"], action.action_id, "{made}");
    assert_eq!(task["status"], "working", "{made}");
    let id = task["taskId"].clone();
    let list = agent.ask("tasks/list", json!({})).await;
    assert_eq!(list["result"]["tasks"][0]["taskId"], id, "{list}");
    let other = desk.agent().await.older(json!({})).await;
    let theirs = other.ask("tasks/list", json!({})).await;
    assert_eq!(theirs["result"]["tasks"], json!([]), "{theirs}");
    assert_eq!(get(&other, &id).await["error"]["code"], -32602);

    let waiting = {
        let (agent, id) = (agent.clone(), id.clone());
        tokio::spawn(async move { agent.ask("tasks/result", json!({"taskId": id})).await })
    };
    desk.approve(&action).await;
    let result = waiting.await.unwrap();
    assert_eq!(said(&result, false), "victim did it");
    let related = &result["result"]["_meta"]["io.modelcontextprotocol/related-task"];
    assert_eq!(related["taskId"], id, "{result}");
    assert_eq!(get(&agent, &id).await["result"]["status"], "completed");
    let late = agent.ask("tasks/cancel", json!({"taskId": id})).await;
    assert_eq!(late["error"]["code"], -32602, "it is over: {late}");

    // What policy allows runs at once, and is a task all the same where the client wants one.
    desk.server.publish(&allow_all()).await;
    let made = agent.call_with("at once", json!({"task": {}})).await;
    let id = made["result"]["task"]["taskId"].clone();
    let result = agent.ask("tasks/result", json!({"taskId": id})).await;
    assert_eq!(said(&result, false), "victim did it");
    assert_eq!(noted(&result)["action_id"], id);
    assert_eq!(desk.calls(), 2);

    desk.server.publish(&held_by(ONE)).await;
    let made = agent.call_with("no more", json!({"task": {}})).await;
    let id = made["result"]["task"]["taskId"].clone();
    let cancelled = agent.ask("tasks/cancel", json!({"taskId": id})).await;
    assert_eq!(cancelled["result"]["status"], "cancelled", "{cancelled}");
}
