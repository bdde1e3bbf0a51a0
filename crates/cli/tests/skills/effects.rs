//! Each skill does what it says, to something that is really there.

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use base64::Engine as _;
use proto::identity::principal::Kind;
use serde_json::json;

use super::{failure, result};
use crate::common::target::{Delivery, Target};
use crate::common::{Server, allow_all, command};

/// Puts or rotates a secret of the first tenant.
pub(super) fn secret(server: &Server, verb: &str, name: &str, value: &str) {
    let mut put = command(&["secret", verb, name]);
    put.env("TALLY_URL", &server.url).env("TALLY_API_KEY", server.owner_key());
    put.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut putting = put.spawn().unwrap();
    putting.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(putting.wait_with_output().unwrap().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_skill_has_its_effect() {
    let (target, folder) = (Target::start().await, tempfile::tempdir().unwrap());
    let root = folder.path();
    let server = Server::start(&format!(
        "grants: {{http: [{grant}], fs_read: [{root:?}], fs_write: [{root:?}], webhook: [{{host: \
         127.0.0.1, port: {port}, private: true, secret: hooks}}]}}\n\
         policy: {{decision_limit_ms: 5000}}",
        grant = target.grant(),
        port = target.port(),
    ));
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", target.port());

    let called = result(&agent, "core.http_call", &json!({"url": url("/read")})).await;
    assert_eq!((&called["status"], &called["body"]), (&json!(200), &json!("answer 1")));
    let path = root.join("report");
    let write = json!({"path": path, "content": "42"});
    result(&agent, "core.fs_write", &write).await;
    assert_eq!(fs::read_to_string(&path).unwrap(), "42");
    let read = result(&agent, "core.fs_read", &json!({"path": path})).await;
    assert_eq!(read["content"], "42");
    let filter = json!({"input": {"name": "a", "more": 1}, "filter": "{name: .name}"});
    let made = result(&agent, "core.json_transform", &filter).await;
    assert_eq!(made["output"], json!([{"name": "a"}]));

    // A webhook, without a secret and with one.
    let hook = |path: &str| json!({"url": url(path), "payload": {"type": "paid"}});
    assert_eq!(failure(&agent, "webhook.send", &hook("/hook")).await, "secret_missing");
    let key = base64::engine::general_purpose::STANDARD.encode([7; 32]);
    secret(&server, "put", "hooks", &format!("whsec_{key}"));
    let sent = result(&agent, "webhook.send", &hook("/hook")).await;
    let id = sent["webhook_id"].as_str().unwrap().to_owned();
    // One that is put off is sent again when its receiver wants it, as the same message.
    let late = result(&agent, "webhook.send", &hook("/limited/hook")).await;
    let late = late["webhook_id"].as_str().unwrap().to_owned();
    let hooks = |path: &str| -> Vec<Delivery> {
        target.seen().into_iter().filter(|one| one.path == path).collect()
    };
    let delivery = |path: &str, id: &str| Delivery {
        method: "POST".to_owned(),
        path: path.to_owned(),
        key: Some(id.to_owned()),
    };
    assert_eq!(hooks("/hook"), [delivery("/hook", &id)]);
    assert_eq!(hooks("/limited/hook"), vec![delivery("/limited/hook", &late); 2]);
    assert_ne!(id, late);
    // One that the receiver always fails is given up after as many attempts as the rule has.
    assert_eq!(failure(&agent, "webhook.send", &hook("/broken/hook")).await, "upstream_error");
    assert_eq!(hooks("/broken/hook").len(), 3);
}
