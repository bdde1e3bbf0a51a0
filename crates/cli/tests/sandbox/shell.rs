//! `tally sandbox` and `tally attest`.

use std::fs;

use proto::identity::principal::Kind;
use serde_json::json;

use super::agents::{caller, echo};
use super::place::Place;
use crate::common::{assert_code, json as json_of, text};

#[tokio::test(flavor = "multi_thread")]
async fn an_execution_at_a_terminal() {
    let place = Place::new("").await;
    let key = place.server.key(Kind::Agent, &["agent"], "dev").await;
    let (agent, other) = (place.root.join("agent.wasm"), place.root.join("other.wasm"));
    fs::write(&agent, caller(&[place.reads()])).unwrap();
    fs::write(&other, echo()).unwrap();
    let (agent, other) = (agent.to_str().unwrap(), other.to_str().unwrap());
    let run = ["sandbox", "run", agent, "--input", "{\"a\":1}", "--attest", "full", "--wait"];
    let ran = place.server.tally(&key, &[&run[..], &["--wall-ms", "50000", "--json"]].concat());
    assert_code(&ran, 0);
    let ran = json_of(&ran);
    assert_eq!((&ran["outcome"], &ran["state"]), (&json!("SUCCESS"), &json!("executed")));
    assert_eq!(ran["output"]["content"], "seven");
    let id = ran["execution_id"].as_str().unwrap();

    let shown = text(&place.server.tally(&key, &["sandbox", "show", id]));
    assert!(shown.contains("SUCCESS") && shown.contains("core.fs_read"), "{shown}");
    let listed = text(&place.server.tally(&key, &["sandbox", "list"]));
    assert!(listed.contains(id), "{listed}");

    let out = place.root.join("attestation.json");
    let out = out.to_str().unwrap();
    assert_code(&place.server.tally(&key, &["attest", "show", id, "--out", out]), 0);
    super::verified(&fs::read(out).unwrap()).unwrap();

    assert_code(&place.server.tally(&key, &["attest", "replay", id]), 0);
    let differs = place.server.tally(&key, &["attest", "replay", id, "--code", other]);
    assert_code(&differs, 6);
    assert!(text(&differs).contains("tool_calls"), "{}", text(&differs));

    let grant = ["--capabilities", "file-read:/etc/passwd"];
    let refused = place.server.tally(&key, &[&run[..], &grant].concat());
    assert_code(&refused, 4);
    let refused = text(&refused);
    assert!(refused.contains("denied") && refused.contains("/etc/passwd"), "{refused}");
}
