//! `tally sandbox` and `tally attest`.

use std::fs;

use proto::identity::principal::Kind;
use serde_json::{Value, json};

use super::agents::{caller, echo};
use super::place::Place;
use super::source::interpreters_and;
use crate::common::{assert_code, json as json_of, tally, text};

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

const AGENT: &str = r#"
from tally import call_tool

def run(input):
    told = call_tool("core.json_transform", {"input": input["lines"], "filter": "length"})
    return {"lines": told["output"][0]}
"#;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_python_with_its_grants_and_limits() {
    let ceiling = ", capabilities: {file_read: ['/data/*'], \
                   network: {allowlist: ['api.example.com:443']}}";
    let place = Place::new(&interpreters_and(ceiling)).await;
    let key = place.server.key(Kind::Agent, &["agent"], "dev").await;
    let agent = place.root.join("agent.py");
    fs::write(&agent, AGENT).unwrap();
    let agent = agent.to_str().unwrap();
    let run = ["sandbox", "run", agent, "--input", r#"{"lines": ["a", "b"]}"#];
    let granted = ["--file-read", "/data/*", "--network", "api.example.com:443"];
    let limited = ["--memory-mb", "512", "--cpu-ms", "1000", "--attest", "full"];
    let ran = [&run[..], &granted, &limited, &["--wait", "--json"]].concat();
    let ran = place.server.tally(&key, &ran);
    assert_code(&ran, 0);
    let ran = json_of(&ran);
    assert_eq!((&ran["outcome"], &ran["output"]), (&json!("SUCCESS"), &json!({"lines": 2})));

    let out = place.root.join("attestation.json");
    let out = out.to_str().unwrap();
    let id = ran["execution_id"].as_str().unwrap();
    assert_code(&place.server.tally(&key, &["attest", "show", id, "--out", out]), 0);
    let found = tally(&["attest", "verify", out, "--agent", agent, "--level", "full", "--json"]);
    assert_code(&found, 0);
    let attested = &json_of(&found)["attestation"];
    let limits = &attested["limits"];
    assert_eq!(limits["memory_bytes"], 512 << 20);
    assert_eq!(limits["cpu_ms"], 1000);
    assert_eq!(attested["level"], "full");
    assert_eq!(attested["code_kind"], "python");
    let document: Value = serde_json::from_slice(&fs::read(out).unwrap()).unwrap();
    let granted =
        json!({"file_read": ["/data/*"], "network": {"allowlist": ["api.example.com:443"]}});
    assert_eq!(document["disclosure"]["capabilities"], granted);
}
