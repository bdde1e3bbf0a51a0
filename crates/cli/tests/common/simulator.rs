//! The simulators of `tally dev` as processes.

use std::fs;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::command;
use super::process::first_line;
use super::wire::Wire;
use super::{LOOK_EVERY, PATIENCE};

/// A process. It is killed when this is dropped.
pub(crate) struct Simulator {
    pub(crate) url: String,
    pub(crate) wire: Wire,
    process: Child,
    _folder: TempDir,
}

impl Simulator {
    /// Starts `tally dev NAME` with a script.
    pub(crate) fn start(name: &str, script: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.yaml");
        // YAML takes JSON.
        fs::write(&path, script.to_string()).unwrap();
        let mut process = command(&["dev", name, "--listen", "127.0.0.1:0", "--script"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let line = first_line(&mut process);
        let url = line.trim_end().split("listening on ").nth(1);
        let url = url.unwrap_or_else(|| panic!("{name} does not start: {line:?}")).to_owned();
        assert!(line.contains("simulator (no "), "it says what it is: {line}");
        Self { wire: Wire::new(&url), url, process, _folder: folder }
    }

    /// What it holds and what it was asked.
    pub(crate) async fn state(&self) -> Value {
        let reply = self.wire.ask("GET", "/simulator/state").send().await;
        assert_eq!(reply.status, 200);
        reply.json()
    }

    /// Its state once `is` holds of it.
    pub(crate) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.state().await;
            if is(&state) {
                return state;
            }
            assert!(Instant::now() < end, "{what} never comes: {state:#}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Tells the simulator itself something.
    pub(crate) async fn tell(&self, name: &str, body: &Value) -> Value {
        let reply = self.wire.ask("POST", &format!("/simulator/{name}")).json(body).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()
    }

    /// Somebody presses a button on Slack: the statuses of what the button calls.
    pub(crate) async fn press(&self, press: &Value) -> Vec<u16> {
        let pressed = self.tell("press", press).await;
        let answers = pressed["answers"].as_array().unwrap().iter();
        answers.map(|answer| u16::try_from(answer["status"].as_u64().unwrap()).unwrap()).collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// The members of `more` put over those of `base`.
pub(crate) fn with(mut base: Value, more: Value) -> Value {
    let Value::Object(more) = more else { panic!("{more}") };
    base.as_object_mut().unwrap_or_else(|| panic!("no object")).extend(more);
    base
}

/// A script of ServiceNow: one user and one client.
pub(crate) fn servicenow_script() -> Value {
    json!({
        "users": [
            {"name": "tally", "password": "now-password"},
            {"name": "reader", "password": "reader-password", "writes": false},
        ],
        "clients": [{"id": "now-client", "secret": "now-secret", "user": "tally"}],
    })
}
