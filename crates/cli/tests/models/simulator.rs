//! `tally dev model` as a process.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use crate::common::command;
use crate::common::process::first_line;
use crate::common::{LOOK_EVERY, PATIENCE};

/// The file in which it notes what it was asked.
const RECORD: &str = "record.jsonl";

/// The process. It is killed when this is dropped.
pub(crate) struct Simulator {
    pub(crate) url: String,
    process: Child,
    folder: TempDir,
}

impl Simulator {
    pub(crate) fn start(script: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("script.yaml");
        // YAML takes JSON.
        fs::write(&path, script.to_string()).unwrap();
        let mut process = command(&["dev", "model", "--listen", "127.0.0.1:0", "--script"])
            .arg(&path)
            .arg("--record")
            .arg(folder.path().join(RECORD))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let line = first_line(&mut process);
        let url = line
            .trim_end()
            .split("listening on ")
            .nth(1)
            .unwrap_or_else(|| panic!("the simulator does not start: {line:?}"));
        assert!(line.starts_with("model simulator"), "it says what it is: {line}");
        Self { url: url.to_owned(), process, folder }
    }

    /// Waits until it was asked, whether or not it answers.
    pub(crate) async fn asked(&self) {
        let until = Instant::now() + PATIENCE;
        while fs::read(self.folder.path().join(RECORD)).map_or(0, |record| record.len()) == 0 {
            assert!(Instant::now() < until, "nobody asks the model");
            sleep(LOOK_EVERY).await;
        }
    }

    /// What was asked of it: for each request when it came, in milliseconds since it started, and
    /// the status that it was answered with.
    pub(crate) fn record(&self) -> Vec<(u64, u64)> {
        let text = fs::read_to_string(self.folder.path().join(RECORD)).unwrap();
        let read = |line: &str| {
            let line: Value = serde_json::from_str(line).unwrap();
            (line["at_ms"].as_u64().unwrap(), line["status"].as_u64().unwrap())
        };
        text.lines().map(read).collect()
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// Whether any file below `folder` has `value`, as it is, in base64 or in hex.
pub(super) fn holds(folder: &Path, value: &str) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    let traces = [value.to_owned(), STANDARD.encode(value), hex::encode(value)];
    fs::read_dir(folder).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() {
            return holds(&path, value);
        }
        let bytes = fs::read(&path).unwrap();
        let has =
            |trace: &String| bytes.windows(trace.len()).any(|window| window == trace.as_bytes());
        traces.iter().any(has)
    })
}
