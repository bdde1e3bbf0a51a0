//! `tally mcp -- COMMAND` as a process, and a person who decides.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use client::Client;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{LOOK_EVERY, PATIENCE, assert_code, command, tally};

/// A data folder, and files that agents reach.
pub(super) struct Desk {
    folder: TempDir,
}

impl Desk {
    /// A data folder whose policy has time on a busy machine. Nothing else is in it.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let desk = Self { folder };
        fs::create_dir(desk.data()).unwrap();
        fs::create_dir(desk.files()).unwrap();
        let settings = json!({
            "data": desk.data(), "listen": "127.0.0.1:0", "policy": {"decision_limit_ms": 5000},
            "mcp": {"allow_stdio": true, "on_demand": true},
        });
        fs::write(desk.data().join("tally.yaml"), settings.to_string()).unwrap();
        desk
    }

    pub(super) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(super) fn files(&self) -> PathBuf {
        self.folder.path().join("files")
    }

    /// The arguments of `tally` that put it in front of `command`.
    pub(super) fn words(&self, options: &[&str], command: &[String]) -> Vec<String> {
        let data = self.data().display().to_string();
        let start = ["mcp", "--data", &data].into_iter().chain(options.iter().copied());
        let start = start.chain(["--"]).map(str::to_owned);
        start.chain(command.iter().cloned()).collect()
    }

    /// Starts `tally mcp` in front of `command`.
    pub(super) fn front(&self, options: &[&str], command: &[String]) -> Front {
        self.front_with(options, command, &[])
    }

    /// The same with these variables.
    pub(super) fn front_with(
        &self,
        options: &[&str],
        words: &[String],
        env: &[(&str, &str)],
    ) -> Front {
        let words = self.words(options, words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut command = command(&words);
        command.envs(env.iter().copied());
        Front::spawn(command.into())
    }

    /// Runs `tally` as the person in `approver.json`, or as another.
    pub(super) fn person(&self, file: &str, args: &[&str]) -> Output {
        let credentials = self.data().join(file).display().to_string();
        tally(&[args, &["--credentials", &credentials]].concat())
    }

    /// A client for whoever has that credentials file.
    pub(super) fn client(&self, file: &str) -> Client {
        let key = json_of(&self.data().join(file))["key"].as_str().unwrap().to_owned();
        Client::new(&self.url(), &key).unwrap()
    }

    /// Where the server of the folder is, whoever serves.
    pub(super) fn url(&self) -> String {
        json_of(&self.data().join("lock"))["url"].as_str().unwrap().to_owned()
    }

    /// Which process serves.
    pub(super) fn serving(&self) -> u32 {
        json_of(&self.data().join("lock"))["pid"].as_u64().unwrap().try_into().unwrap()
    }

    /// What is kept of a wrapped command.
    pub(super) fn record(&self, name: &str) -> Value {
        json_of(&self.data().join("mcp").join(format!("{name}.json")))
    }

    /// Exports the evidence of the folder, and has it verified offline.
    pub(super) fn prove(&self) {
        let bundle = self.folder.path().join("evidence.tar");
        let bundle = bundle.to_str().unwrap();
        let exported = self.person("credentials.json", &["evidence", "export", "--out", bundle]);
        assert_code(&exported, 0);
        assert_code(&tally(&["verify", bundle]), 0);
        fs::remove_file(bundle).unwrap();
    }
}

fn json_of(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A process that speaks JSON, a document a line.
pub(super) struct Front {
    pub(super) process: Child,
    send: Option<ChildStdin>,
    heard: Lines<BufReader<ChildStdout>>,
    next: u64,
}

impl Front {
    pub(super) fn spawn(mut command: Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let send = process.stdin.take();
        let heard = BufReader::new(process.stdout.take().unwrap()).lines();
        Self { process, send, heard, next: 0 }
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.id().unwrap()
    }

    pub(super) async fn say(&mut self, line: &Value) {
        let send = self.send.as_mut().unwrap();
        send.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        send.flush().await.unwrap();
    }

    /// The next line, which must be JSON; none at the end.
    pub(super) async fn hear(&mut self) -> Option<Value> {
        let line = timeout(PATIENCE, self.heard.next_line()).await;
        let Ok(line) = line else {
            self.process.start_kill().unwrap();
            panic!("nothing came in time: {}", self.errors().await);
        };
        line.unwrap().map(|line| serde_json::from_str(&line).unwrap())
    }

    /// Sends a request and waits for its answer; nothing else may be a response.
    pub(super) async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.next += 1;
        let id = self.next;
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        self.say(&request).await;
        loop {
            let Some(message) = self.hear().await else {
                panic!("no answer to {method}: {}", self.errors().await)
            };
            if message.get("method").is_none() {
                assert_eq!(message["id"], id, "{message}");
                return message;
            }
        }
    }

    /// Opens a session of 2025-11-25.
    pub(super) async fn open(&mut self) -> Value {
        let answer = self
            .ask(
                "initialize",
                json!({"protocolVersion": "2025-11-25", "capabilities": {},
                       "clientInfo": {"name": "a test", "version": "1"}}),
            )
            .await;
        assert_eq!(answer["result"]["protocolVersion"], "2025-11-25", "{answer}");
        self.say(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        answer
    }

    /// Calls a tool.
    pub(super) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// Has no more to say.
    pub(super) fn close(&mut self) {
        self.send = None;
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(pid(self.pid()), signal).unwrap();
    }

    /// The exit code, after which nothing more may have come.
    pub(super) async fn ends(&mut self) -> Option<i32> {
        while let Some(left) = self.hear().await {
            assert_eq!(left["jsonrpc"], "2.0", "{left}");
        }
        timeout(PATIENCE, self.process.wait()).await.unwrap().unwrap().code()
    }

    /// What it wrote to standard error. It must have ended, or be about to.
    pub(super) async fn errors(&mut self) -> String {
        let mut text = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut text).await.unwrap();
        text
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap()).unwrap()
}

/// Waits until the process whose id is in `file` is gone.
pub(super) async fn is_gone(file: &Path) {
    let id: u32 = fs::read_to_string(file).unwrap().trim().parse().unwrap();
    let until = Instant::now() + PATIENCE;
    while test_kill_process(pid(id)).is_ok() {
        assert!(Instant::now() < until, "process {id} never ends");
        sleep(LOOK_EVERY).await;
    }
}
