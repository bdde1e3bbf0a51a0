//! Slack and GitHub as the emulator `emulate` has them. It is no vendor's: it shows shapes and
//! flow, not refusals.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::wire::Wire;

/// How long it may take to listen.
const START: Duration = Duration::from_secs(120);

/// The emulator's process. It is killed when this is dropped.
pub(crate) struct Emulator {
    process: Child,
    pub(crate) slack: String,
    pub(crate) github: String,
    _folder: tempfile::TempDir,
}

impl Emulator {
    pub(crate) async fn start() -> Self {
        let modules = std::env::var_os("TALLY_SYSTEMS_NODE_MODULES").map(PathBuf::from);
        let modules = modules.filter(|folder| folder.join("emulate").is_dir());
        let Some(modules) = modules else {
            panic!("no emulate: run `eval \"$(cargo xtask foreign)\"`, or `cargo xtask test`");
        };
        let folder = tempfile::tempdir().unwrap();
        let seed = folder.path().join("seed.yaml");
        std::fs::File::create(&seed).unwrap().write_all(SEED.as_bytes()).unwrap();
        // It takes one port for each service, in a row.
        let port = free_pair();
        let mut process = Command::new(modules.join("node/bin/node"))
            .arg(modules.join("emulate/dist/index.js"))
            .args(["start", "-p", &port.to_string(), "-s", "github,slack", "--seed"])
            .arg(&seed)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        std::thread::spawn(move || output.lines().for_each(drop));
        let (github, slack) =
            (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", port + 1));
        let emulator = Self { process, slack, github, _folder: folder };
        let deadline = Instant::now() + START;
        loop {
            let asked = Wire::new(&emulator.slack).ask("POST", "/api/auth.test").try_send().await;
            if asked.is_ok() {
                return emulator;
            }
            assert!(Instant::now() < deadline, "the emulator does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the emulator answers without Tally in between.
    pub(crate) async fn get(&self, url: &str, path: &str, token: &str) -> Value {
        let asked = Wire::new(url).ask("GET", path).header("authorization", token);
        asked.send().await.json()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

/// A port that is free, and the one after it too.
fn free_pair() -> u16 {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = first.local_addr().unwrap().port();
        if port < u16::MAX && TcpListener::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
    panic!("no two free ports in a row");
}

const SEED: &str = "\
tokens:
  xoxb-Rt5Km8-token-of-slack: {login: tally, scopes: ['chat:write', 'channels:history']}
  ghp-Nq3Vx6-token-of-github: {login: octocat, scopes: [repo]}
slack:
  team: {name: Acme, domain: acme}
  users:
    - {name: tally, real_name: Tally, email: tally@acme.test}
  channels:
    - {name: ops, topic: Operations}
github:
  users:
    - {login: octocat, name: Octocat, email: octocat@acme.test}
  repos:
    - {owner: octocat, name: hello-world, auto_init: true}
";
