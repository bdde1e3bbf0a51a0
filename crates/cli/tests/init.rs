//! `tally init`, and a server on what it made.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use crate::common::process::first_line;
use crate::common::{assert_code, command, json, tally};

#[test]
fn init_makes_what_serve_needs() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("tally");
    let made = tally(&["init", dir.to_str().unwrap(), "--json"]);
    assert_code(&made, 0);
    let made = json(&made);
    for party in ["owner", "agent", "approver"] {
        let path = Path::new(made[party].as_str().unwrap());
        assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600, "{party}");
    }
    assert_code(&tally(&["init", dir.to_str().unwrap()]), 64);

    let config = made["config"].as_str().unwrap();
    let mut server = command(&["serve", "--config", config, "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let line = first_line(&mut server);
    let url = line.trim_end().strip_prefix("listening on ").unwrap().to_owned();
    let run = |party: &str, args: &[&str]| {
        let file = made[party].as_str().unwrap();
        let settings = ["--url", &url, "--credentials", file, "--json"];
        tally(&[args, &settings[..]].concat())
    };
    let status = run("owner", &["policy", "status"]);
    let tools = run("agent", &["tools", "list"]);
    let approvals = run("approver", &["approvals", "list"]);
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(json(&status)["digest"], made["policy_digest"]);
    assert_code(&tools, 0);
    assert!(!json(&tools)["tools"].as_array().unwrap().is_empty());
    assert_code(&approvals, 0);
}
