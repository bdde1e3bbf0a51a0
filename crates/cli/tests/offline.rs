//! What works without a server: policies, and the folder of a stopped one.

use std::fs;

use crate::common::{Server, action, allow_all, assert_code, json, tally};

use proto::actions::action::State;
use proto::identity::principal::Kind;
use rusqlite::Connection;
use serde_json::json as value;

#[test]
fn policies_are_tested_and_built() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, out) = (folder.path().join("policy"), folder.path().join("bundle.tar.gz"));
    let (dir_name, out_name) = (dir.to_str().unwrap(), out.to_str().unwrap());
    fs::create_dir(&dir).unwrap();
    for (name, content) in policy::baseline().unwrap().files() {
        fs::write(dir.join(name), content).unwrap();
    }
    let tested = tally(&["policy", "test", dir_name, "--json"]);
    assert_code(&tested, 0);
    assert_eq!(json(&tested)["findings"], value!([]));
    assert_code(&tally(&["policy", "build", dir_name, "--out", out_name]), 0);
    assert!(fs::metadata(&out).unwrap().len() > 0);

    let broken = fs::read_to_string(dir.join("tally.rego")).unwrap().replace("DENY", "ALLOW");
    fs::write(dir.join("tally.rego"), broken).unwrap();
    fs::remove_file(&out).unwrap();
    assert_code(&tally(&["policy", "test", dir_name]), 6);
    assert_code(&tally(&["policy", "build", dir_name, "--out", out_name]), 6);
    assert!(!out.exists(), "what fails its tests is not built");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_of_a_stopped_server_verify_and_rebuild() {
    let mut server = Server::start("");
    server.publish(&allow_all()).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let params = value!({"input": [1, 2], "filter": "length"});
    let done = agent.submit_action(&action("core.json_transform", &params), None).await.unwrap();
    assert_eq!(done.state(), State::Executed, "{:?}", done.error);
    let online = server.tally(&server.owner_key(), &["ledger", "verify", "--workspace", "main"]);
    assert_code(&online, 0);

    server.terminate();
    let data = server.data.to_str().unwrap();
    let verify = ["ledger", "verify", "--json", "--data", data, "--host", "tally.test"];
    let verified = tally(&verify);
    assert_code(&verified, 0);
    let before = json(&verified);
    assert_eq!(before["logs"].as_array().unwrap().len(), 3, "system, control, main");
    assert_code(&tally(&["ledger", "rebuild", "--data", data]), 0);
    assert_eq!(json(&tally(&verify)), before, "rebuilding leaves the log alone");
    let other = ["ledger", "verify", "--data", data, "--host", "other.test"];
    assert_code(&tally(&other), 6);

    // Every receipt is as it was, but what is derived from them is not.
    let runtime = Connection::open(server.data.join("runtime.sqlite")).unwrap();
    let sql = "UPDATE entity SET body = replace(body, 'executed', 'denied') WHERE id = ?1";
    assert_eq!(runtime.execute(sql, [&done.action_id]).unwrap(), 1);
    drop(runtime);
    let differs = tally(&verify);
    assert_code(&differs, 6);
    let (found, stream) = (json(&differs), format!("action/{}", done.action_id));
    let errors = found["logs"].as_array().unwrap().iter().flat_map(|log| {
        log["errors"].as_array().unwrap().iter().map(|error| error.as_str().unwrap())
    });
    let errors: Vec<_> = errors.collect();
    assert_eq!(errors, [format!("{stream}: the stored state is not what the log says")]);
    assert_code(&tally(&["ledger", "rebuild", "--data", data]), 0);
    assert_eq!(json(&tally(&verify)), before, "rebuilding makes it good");
    server.restart();
}
