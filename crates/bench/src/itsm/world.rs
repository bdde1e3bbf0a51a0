//! The flagship as it is measured: the server, and simulators in place of the three systems, each
//! a process of its own. The model answers at once, and somebody on Slack approves each card as
//! soon as it is there.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::install;
use crate::cpu::Cpu;

/// How long anything may take to come.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
/// Between two looks. They are at a simulator, and what is measured was timed there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Group `Network`.
const GROUP: &str = "287ebd7da9fe198100f92cc8d1d2154e";
/// What the systems are opened with.
pub(super) const SECRET: &str = "bench";
/// Writes in a minute: what is measured must not be a limit.
pub(super) const WRITES_PER_MIN: u32 = 1_000_000;

/// A process that says where it listens.
pub(super) struct Process {
    child: Child,
    pub(super) address: SocketAddr,
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nothing is left to be done about a process that cannot be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    pub(super) fn start(
        program: &Path,
        args: &[&str],
        file: (&str, &Path),
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        let (name, path) = file;
        let mut child = command
            .args(args)
            .arg(name)
            .arg(path)
            // Interpreters would be compiled beside what is measured.
            .env_remove("TALLY_RUNTIMES")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting `{}`", program.display()))?;
        let out = child.stdout.take().context("no standard output")?;
        // From here on it ends with this, whatever it says.
        let mut process = Self { child, address: SocketAddr::from(([0; 4], 0)) };
        let line = first_line(out).with_context(|| format!("{args:?} says nothing"))?;
        let address = line.trim().split("listening on http://").nth(1);
        let address = address.with_context(|| format!("{args:?} said `{}`", line.trim()))?;
        process.address = address.parse()?;
        Ok(process)
    }

    /// Asks it, and reads its JSON.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> anyhow::Result<Value> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (address, length) = (self.address, body.len());
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let fine = ["HTTP/1.1 200", "HTTP/1.1 201"].iter().any(|fine| head.starts_with(fine));
        ensure!(fine, "{method} {path}: {head}");
        Ok(serde_json::from_str(body)?)
    }
}

/// The first line of what a process says, which may be nothing for ever.
fn first_line(out: ChildStdout) -> anyhow::Result<String> {
    let (said, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let read = BufReader::new(out).read_line(&mut line).map(|_| line);
        // Nobody may be waiting for it any more.
        drop(said.send(read));
    });
    Ok(heard.recv_timeout(PATIENCE)??)
}

/// When what happened to an incident, in microseconds.
#[derive(Debug, Deserialize)]
struct Times {
    created_us: u64,
    written_us: Option<u64>,
    noted_us: Option<u64>,
}

/// How long an incident took, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Took {
    /// From its creation to the write of its fields.
    pub(super) written: u64,
    /// To its note, which is the last step.
    pub(super) noted: u64,
}

/// All processes.
pub(super) struct World {
    server: Process,
    servicenow: Process,
    slack: Process,
    _model: Process,
}

impl World {
    pub(super) fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        let script = |name: &str, script: &Value| {
            let path = dir.join(name);
            // JSON is YAML.
            std::fs::write(&path, script.to_string()).map(|()| path)
        };
        let simulator = |name: &str, path: &Path| {
            let args = ["dev", name, "--listen", "127.0.0.1:0"];
            Process::start(program, &args, ("--script", path))
        };
        let proposal = json!({"summary": "s", "category": "network", "priority": "3",
            "assignment_group": GROUP, "rationale": "r"});
        let model = json!({"key": SECRET, "rules": [{"json": proposal}]});
        let model = simulator("model", &script("model.yaml", &model)?)?;
        let now = json!({
            "users": [{"name": "tally", "password": SECRET}],
            "clients": [{"id": SECRET, "secret": SECRET, "user": "tally"}],
        });
        let servicenow = simulator("servicenow", &script("servicenow.yaml", &now)?)?;
        let slack = simulator("slack", &script("slack.yaml", &json!({"token": SECRET}))?)?;
        let config = config(dir, &model, [&servicenow, &slack]);
        let path = script("tally.yaml", &config)?;
        let server = Process::start(program, &["serve"], ("--config", &path))?;
        let world = Self { server, servicenow, slack, _model: model };
        let systems = [world.servicenow.address, world.slack.address];
        let hooks = install::all(world.server.address, dir, systems)?;
        let to = |path: &str| format!("http://{}{path}", world.server.address);
        let hook = json!({"url": to(&hooks.incidents), "secret": SECRET});
        world.tell(&world.servicenow, "webhook", &hook)?;
        let buttons = json!({"url": to(&hooks.cards), "signing_secret": SECRET});
        world.tell(&world.slack, "interactivity", &buttons)?;
        Ok(world)
    }

    fn tell(&self, whom: &Process, what: &str, body: &Value) -> anyhow::Result<()> {
        whom.ask("POST", &format!("/simulator/{what}"), "", &body.to_string()).map(drop)
    }

    /// Has each card approved at once, or none.
    pub(super) fn approving(&self, at_once: bool) -> anyhow::Result<()> {
        let press = json!({"user": "U0ADA", "action_id": "tally_approve"});
        self.tell(&self.slack, "presses", &if at_once { press } else { Value::Null })
    }

    /// Creates incidents, all at once or nearly so.
    pub(super) fn create(&self, count: usize) -> anyhow::Result<Vec<String>> {
        // `tally:bench`.
        let headers = "authorization: Basic dGFsbHk6YmVuY2g=\r\n";
        let body = json!({"short_description": "slow", "priority": "4"}).to_string();
        let path = "/api/now/table/incident";
        let made = std::iter::repeat_with(|| self.servicenow.ask("POST", path, headers, &body));
        let id = |made: anyhow::Result<Value>| {
            let id = made?.pointer("/result/sys_id").and_then(Value::as_str).map(str::to_owned);
            id.context("an incident has no id")
        };
        made.take(count).map(id).collect()
    }

    /// How long these incidents took, once all of them have their note.
    pub(super) fn took(&self, incidents: &[String]) -> anyhow::Result<Vec<Took>> {
        let end = Instant::now() + PATIENCE;
        loop {
            let times = self.servicenow.ask("GET", "/simulator/times", "", "")?;
            let times: BTreeMap<String, Times> = serde_json::from_value(times)?;
            let took = |id: &String| {
                let times = times.get(id)?;
                let since = |at: Option<u64>| Some(at?.saturating_sub(times.created_us));
                Some(Took { written: since(times.written_us)?, noted: since(times.noted_us)? })
            };
            if let Some(took) = incidents.iter().map(took).collect() {
                return Ok(took);
            }
            ensure!(Instant::now() < end, "the incidents are never written back");
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Waits until so many cards are on Slack.
    pub(super) fn asked(&self, cards: usize) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let state = self.slack.ask("GET", "/simulator/state", "", "")?;
            let posted = state.get("messages").and_then(Value::as_array).map_or(0, Vec::len);
            if posted >= cards {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{posted} of {cards} cards are posted");
            std::thread::sleep(10 * LOOK_EVERY);
        }
    }

    /// The processor time that the server has taken.
    pub(super) fn cpu(&self) -> anyhow::Result<Cpu> {
        Cpu::of(self.server.child.id())
    }
}

fn config(dir: &Path, model: &Process, systems: [&Process; 2]) -> Value {
    let price = json!({"input": 2_000_000, "output": 8_000_000, "context": 50_000});
    let provider = json!({
        "name": "simulator", "form": "openai", "base_url": format!("http://{}/v1", model.address),
        "key": "bench", "private": true, "models": {"sim-large": price},
    });
    let grant = |system: &Process| {
        let port = system.address.port();
        json!({"host": "127.0.0.1", "port": port, "private": true})
    };
    json!({
        "data": dir.join("data"),
        "listen": "127.0.0.1:0",
        "models": {"providers": [provider]},
        "grants": {"http": systems.map(grant)},
        "caps": {
            "writes_per_min_workflow": WRITES_PER_MIN,
            "writes_per_min_tenant": WRITES_PER_MIN,
        },
    })
}
