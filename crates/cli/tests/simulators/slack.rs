//! Slack: its own bounds and errors, buttons, and the official SDK as a client.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::common::simulator::Simulator;
use crate::common::target::Target;
use crate::common::wire::Reply;
use crate::common::{installed, text};

const TOKEN: &str = "sim-slack-token";

async fn call(sim: &Simulator, method: &str, body: &Value) -> Value {
    let ask = sim.wire.ask("POST", &format!("/api/{method}"));
    let reply = ask.header("authorization", &format!("Bearer {TOKEN}")).json(body).send().await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

fn card(value: &str) -> Value {
    let button = |id: &str| {
        json!({"type": "button", "action_id": id, "value": value,
            "text": {"type": "plain_text", "text": id}})
    };
    let buttons = [button("approve"), button("reject")];
    json!([
        {"type": "section", "text": {"type": "mrkdwn", "text": "an approval"}},
        {"type": "actions", "block_id": "decide", "elements": buttons},
    ])
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_slacks_own() {
    let sim = Simulator::start("slack", &json!({}));
    let nobody = sim.wire.ask("POST", "/api/auth.test").json(&json!({})).send().await;
    assert_eq!((nobody.status, &nobody.json()["error"]), (200, &json!("not_authed")));
    let other = sim.wire.ask("POST", "/api/auth.test").header("authorization", "Bearer xoxb");
    let other: Reply = other.json(&json!({})).send().await;
    assert_eq!(other.json(), json!({"ok": false, "error": "invalid_auth"}));
    for (method, body, error) in [
        ("chat.postMessage", json!({"channel": "C0NONE", "text": "x"}), "channel_not_found"),
        ("chat.postMessage", json!({"channel": "C0SIM"}), "no_text"),
        (
            "chat.postMessage",
            json!({"channel": "C0SIM", "text": "x".repeat(40_001)}),
            "msg_too_long",
        ),
        ("chat.update", json!({"channel": "C0SIM", "ts": "1", "text": "x"}), "message_not_found"),
        ("users.info", json!({"user": "U0NONE"}), "user_not_found"),
        ("conversations.history", json!({"channel": "C0NONE"}), "channel_not_found"),
        ("chat.delete", json!({}), "unknown_method"),
    ] {
        let answer = call(&sim, method, &body).await;
        assert_eq!((&answer["ok"], &answer["error"]), (&json!(false), &json!(error)), "{answer}");
    }
    sim.tell("faults", &json!([{"path": "postMessage", "status": 429, "retry_after_s": 3}])).await;
    let ask = sim.wire.ask("POST", "/api/chat.postMessage");
    let ask = ask.header("authorization", &format!("Bearer {TOKEN}"));
    let limited = ask.json(&json!({"channel": "C0SIM", "text": "x"})).send().await;
    assert_eq!((limited.status, limited.header("retry-after")), (429, "3"));
    assert_eq!(limited.json()["error"], "ratelimited");
    assert_eq!(sim.state().await["messages"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pressed_button_calls_as_slack_does() {
    let target = Target::start().await;
    let sim = Simulator::start("slack", &json!({}));
    let blocks = card("apr_1");
    let body = json!({"channel": "#approvals", "text": "x", "blocks": blocks});
    let posted = call(&sim, "chat.postMessage", &body).await;
    assert_eq!((&posted["ok"], &posted["channel"]), (&json!(true), &json!("C0SIM")));
    let press = json!({"user": "U0ADA", "channel": "C0SIM", "ts": posted["ts"],
        "action_id": "approve"});
    let nowhere = sim.wire.ask("POST", "/simulator/press").json(&press).send().await;
    assert_eq!(nowhere.status, 400, "nobody is called");
    let url = format!("http://127.0.0.1:{}/echo", target.port());
    sim.tell("interactivity", &json!({"url": url, "signing_secret": "s"})).await;
    let pressed = sim.tell("press", &press).await;
    let echoed = pressed["answers"][0]["body"].as_str().unwrap();
    let form: Vec<(String, String)> =
        form_urlencoded::parse(echoed.as_bytes()).into_owned().collect();
    let payload: Value = serde_json::from_str(&form[0].1).unwrap();
    assert_eq!(
        (&payload["type"], &payload["user"]["id"]),
        (&json!("block_actions"), &json!("U0ADA"))
    );
    assert_eq!(payload["actions"][0]["value"], "apr_1");
    assert_eq!(payload["message"]["ts"], posted["ts"]);
    assert_eq!(payload["team"]["id"], "T0SIM");
    let none = json!({"user": "U0ADA", "channel": "C0SIM", "ts": posted["ts"], "action_id": "no"});
    let none = sim.wire.ask("POST", "/simulator/press").json(&none).send().await;
    assert_eq!(none.status, 400, "there is no such button");
    let update = json!({"channel": "C0SIM", "ts": posted["ts"], "text": "decided"});
    assert_eq!(call(&sim, "chat.update", &update).await["ok"], true);
    let message = sim.state().await["messages"][0].clone();
    assert_eq!((&message["text"], &message["edits"]), (&json!("decided"), &json!(1)));
}

#[test]
fn the_official_sdk_accepts_the_simulator() {
    let faults = json!([{"path": "users.info", "times": 1, "status": 429, "retry_after_s": 0}]);
    let sim = Simulator::start("slack", &json!({"faults": faults}));
    let mut node = Command::new("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/simulators/slack.mjs"));
    node.arg(&sim.url).env("TALLY_SLACK_NODE_MODULES", installed("TALLY_SLACK_NODE_MODULES"));
    let output = node.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_str(&text(&output)).unwrap();
    let expect = json!({
        "team": "T0SIM",
        "posted": "C0SIM",
        "updated": true,
        "history": ["changed"],
        "user": "ada",
        "wrong_token": "invalid_auth",
        "unknown_channel": "channel_not_found",
        "too_long": "msg_too_long",
        "too_many_blocks": "invalid_blocks",
    });
    assert_eq!(seen, expect);
}
