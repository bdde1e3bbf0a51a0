//! The official SDKs, for Node and for Python, as clients of the simulator.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::simulator::Simulator;
use crate::common::{assert_code, installed, tally, text};

fn script() -> Value {
    json!({"key": "sim-key", "rules": [
        {"match": "weather", "reply": "Sunny, with a light wind."},
        {"match": "limited chat", "times": 1, "status": 429, "retry_after_s": 0},
        {"match": "limited responses", "times": 1, "status": 429, "retry_after_s": 0},
        {"match": "limited messages", "times": 1, "status": 429, "retry_after_s": 0},
        {"match": "broken", "status": 500},
    ]})
}

fn run(mut command: Command, simulator: &Simulator) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/models");
    command.current_dir(folder).arg(&simulator.url).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {} {}", text(&output), String::from_utf8_lossy(&output.stderr))
    })
}

/// What every SDK must have read, in each form that it has.
#[track_caller]
fn check(seen: &Value) {
    for form in ["chat", "responses", "messages"] {
        let of = &seen[form];
        assert_eq!(of["text"], "Sunny, with a light wind.", "{form}: {seen}");
        assert_eq!(of["streamed"], of["text"], "{form}: {seen}");
        assert!(of["pieces"].as_u64().unwrap() > 3, "{form}: {seen}");
        assert_eq!(of["finish"], of["streamed_finish"], "{form}: {seen}");
        assert!(of["input_tokens"].as_u64().unwrap() > 3, "{form}: {seen}");
        assert_eq!(of["output_tokens"], 7, "{form}: {seen}");
        assert_eq!(of["streamed_output_tokens"], 7, "{form}: {seen}");
        assert_eq!(of["json"], json!({"n": 5}), "{form}: {seen}");
        assert_eq!(of["short_finish"], of["length"], "{form}: {seen}");
        let again = of["after_429"].as_str().unwrap();
        assert!(again.starts_with("Simulated answer"), "{form}: {seen}");
        assert_eq!(of["broken"], 500, "{form}: {seen}");
        assert_eq!(of["unauthorized"], 401, "{form}: {seen}");
        assert_eq!(of["unknown_model"], 404, "{form}: {seen}");
    }
    assert_eq!(seen["models"]["openai"], json!(["sim-large", "sim-small"]), "{seen}");
    assert_eq!(seen["models"]["anthropic"], json!(["sim-large", "sim-small"]), "{seen}");
    assert!(seen["counted"].as_u64().unwrap() > 3, "{seen}");
}

#[test]
fn the_official_node_sdks_accept_the_simulator() {
    let modules = installed("TALLY_MODEL_NODE_MODULES");
    let simulator = Simulator::start(&script());
    let mut node = Command::new("node");
    node.arg("sdks.mjs").env("TALLY_MODEL_NODE_MODULES", modules);
    check(&run(node, &simulator));
}

#[test]
fn the_official_python_sdks_accept_the_simulator() {
    let simulator = Simulator::start(&script());
    let mut python = Command::new(installed("TALLY_MODEL_PYTHON"));
    python.arg("sdks.py");
    check(&run(python, &simulator));
}

#[test]
fn the_simulator_is_of_this_machine_alone() {
    let refused = tally(&["dev", "model", "--listen", "0.0.0.0:0"]);
    assert_code(&refused, 1);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("127.0.0.1"), "{refused:?}");
}
