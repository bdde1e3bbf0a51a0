//! A real server process on a free port, its principals, and the program as a command.

pub(crate) mod desk;
pub(crate) mod disk;
pub(crate) mod leaks;
mod log;
pub(crate) mod money;
pub(crate) mod names;
pub(crate) mod namespace;
pub(crate) mod phone;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod release;
pub(crate) mod simulator;
pub(crate) mod target;
pub(crate) mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use self::disk::Disk;
use self::log::Log;
use self::names::Names;
use self::process::{ended, first_line};
use client::Client;
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, SubmitActionRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, Policy, PublishPolicyRequest};
use proto::types::Json;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// The workspace that a first start makes.
pub(crate) const WORKSPACE: &str = "main";
/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what must come.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where nobody has logged in.
const NO_LOGIN: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/no-login");

/// The program, without any setting of whoever runs the tests.
pub(crate) fn command(args: &[&str]) -> Command {
    command_in(&[], args)
}

/// The same, started by another program.
fn command_in(launcher: &[String], args: &[&str]) -> Command {
    let tally = env!("CARGO_BIN_EXE_tally");
    let mut command = match launcher.split_first() {
        None => Command::new(tally),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(tally);
            command
        }
    };
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TALLY_")) {
        command.env_remove(name);
    }
    command.env("XDG_CONFIG_HOME", NO_LOGIN).args(args);
    command
}

/// Runs the program to its end.
pub(crate) fn tally(args: &[&str]) -> Output {
    command(args).stdin(Stdio::null()).output().unwrap()
}

/// The one JSON document on standard output.
pub(crate) fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
        panic!("{error}: {text:?} {}", String::from_utf8_lossy(&output.stderr))
    })
}

/// Standard output as text.
pub(crate) fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Checks the exit code, and shows everything where it is another.
#[track_caller]
pub(crate) fn assert_code(output: &Output, expected: i32) {
    let (out, err) = (text(output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(expected), "stdout: {out}\nstderr: {err}");
}

/// What servers log: all that our own code has to say.
const LOG: &str = "info,server=debug,ledger=debug,policy=debug,connectors=debug,tally=debug";

/// A program that a test needs and the test command installs.
pub(crate) fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

/// A server process. It is killed when this is dropped, and must have left no credential of any
/// test and no word of an incident behind: see [`leaks::of_server`].
pub(crate) struct Server {
    /// Where it is; the same after a restart.
    pub(crate) url: String,
    /// The owner's client.
    pub(crate) owner: Client,
    /// Its data folder.
    pub(crate) data: PathBuf,
    config: PathBuf,
    env: Vec<(String, PathBuf)>,
    /// The disk that its data folder is on, where that is a small one.
    disk: Option<Disk>,
    /// The host names that it knows, where it does not know the system's.
    names: Option<Names>,
    process: Child,
    log: Log,
    /// The keys that were made for principals.
    keys: Mutex<Vec<String>>,
    /// The URL of its database, where it has one.
    database: Option<String>,
    _folder: TempDir,
}

impl Server {
    /// Starts a server in a new folder. `yaml` is added to its configuration.
    pub(crate) fn start(yaml: &str) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), yaml)
    }

    /// Starts a server in a folder where one may have been before, under `data`.
    pub(crate) fn start_in(folder: TempDir, yaml: &str) -> Self {
        Self::start_with(folder, yaml, Vec::new())
    }

    /// The same, with variables that its environment has besides.
    pub(crate) fn start_with(folder: TempDir, yaml: &str, env: Vec<(String, PathBuf)>) -> Self {
        Self::start_among(None, folder, yaml, env)
    }

    /// Starts a server that knows no host names but these.
    pub(crate) fn start_knowing(names: Names, yaml: &str) -> Self {
        Self::start_among(Some(names), tempfile::tempdir().unwrap(), yaml, Vec::new())
    }

    fn start_among(
        names: Option<Names>,
        folder: TempDir,
        yaml: &str,
        env: Vec<(String, PathBuf)>,
    ) -> Self {
        let data = folder.path().join("data");
        let config = folder.path().join("tally.yaml");
        fs::write(&config, format!("host: tally.test\n{yaml}\n")).unwrap();
        let launcher = names.as_ref().map(Names::enter).unwrap_or_default();
        let (process, url, log) = spawn(&launcher, &data, &config, "127.0.0.1:0", &env);
        let owner = Client::new(&url, credentials(&data)["key"].as_str().unwrap()).unwrap();
        let (database, disk, keys, _folder) = (None, None, Mutex::default(), folder);
        Self { url, owner, data, config, env, disk, names, process, log, keys, database, _folder }
    }

    /// Starts a server whose data folder is on a disk of so many bytes.
    pub(crate) fn start_small(bytes: u64, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let config = folder.path().join("tally.yaml");
        fs::create_dir(&data).unwrap();
        fs::write(&config, format!("host: tally.test\n{yaml}\n")).unwrap();
        let disk = Disk::over(&data, bytes);
        let (process, url, log) = spawn(&disk.enter(), &data, &config, "127.0.0.1:0", &[]);
        let key = credentials(&disk.outside(&data));
        let owner = Client::new(&url, key["key"].as_str().unwrap()).unwrap();
        let (database, disk, names) = (None, Some(disk), None);
        let (env, keys, _folder) = (Vec::new(), Mutex::default(), folder);
        Self { url, owner, data, config, env, disk, names, process, log, keys, database, _folder }
    }

    /// The disk that its data folder is on.
    pub(crate) fn disk(&self) -> &Disk {
        self.disk.as_ref().unwrap()
    }

    /// The host names that it knows.
    pub(crate) fn names(&self) -> &Names {
        self.names.as_ref().unwrap()
    }

    /// What starts a program that is to see what the server sees.
    fn launcher(&self) -> Vec<String> {
        let names = self.names.as_ref().map(Names::enter);
        self.disk.as_ref().map(Disk::enter).or(names).unwrap_or_default()
    }

    /// Ends the process as a crash does: kill -9.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = Pid::from_child(&self.process);
        kill_process(pid, Signal::TERM).unwrap();
        ended(&mut self.process)
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    /// The process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the process to end by itself.
    pub(crate) fn ends(&mut self) -> ExitStatus {
        ended(&mut self.process)
    }

    /// What the process wrote to standard error. It must have ended before.
    pub(crate) fn log(&mut self) -> String {
        String::from_utf8(self.log.whole()).unwrap()
    }

    /// Starts the server again, on the same data and address. It must have ended before.
    pub(crate) fn restart(&mut self) {
        let address = self.url.split("://").nth(1).unwrap();
        let (process, url, log) =
            spawn(&self.launcher(), &self.data, &self.config, address, &self.env);
        assert_eq!(url, self.url);
        self.process = process;
        self.log.goes_on_with(log);
    }

    /// Starts it where it cannot start, and gives what it says.
    pub(crate) fn refuses_to_start(&self) -> String {
        let mut process = command_in(&self.launcher(), &["serve", "--listen", "127.0.0.1:0"]);
        let process = process.arg("--data").arg(&self.data).arg("--config").arg(&self.config);
        let ended = process.stdin(Stdio::null()).output().unwrap();
        assert_ne!(ended.status.code(), Some(0), "{ended:?}");
        String::from_utf8_lossy(&ended.stderr).into_owned()
    }

    /// Gives the server another configuration, from its next start on.
    pub(crate) fn configure(&self, yaml: &str) {
        fs::write(&self.config, format!("host: tally.test\n{yaml}\n")).unwrap();
    }

    /// A client for a new principal with one key for the workspace and environment `dev`.
    pub(crate) async fn principal(&self, kind: Kind, roles: &[&str]) -> Client {
        self.principal_in(kind, roles, "dev").await
    }

    /// The same for another environment.
    pub(crate) async fn principal_in(&self, kind: Kind, roles: &[&str], env: &str) -> Client {
        Client::new(&self.url, &self.key(kind, roles, env).await).unwrap()
    }

    /// The key of a new principal.
    pub(crate) async fn key(&self, kind: Kind, roles: &[&str], environment: &str) -> String {
        let request = CreatePrincipalRequest {
            kind: kind.into(),
            name: "a principal of a test".to_owned(),
            roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            account_id: String::new(),
        };
        let principal_id = self.owner.create_principal(&request, None).await.unwrap().principal_id;
        let request = CreateKeyRequest {
            principal_id,
            workspace: WORKSPACE.to_owned(),
            environment: environment.to_owned(),
            ..Default::default()
        };
        let key = self.owner.create_key(&request, None).await.unwrap().key;
        self.keys.lock().unwrap().push(key.clone());
        key
    }

    /// Publishes a policy, which decides everywhere but in `prod`: its author publishes it.
    pub(crate) async fn publish(&self, source: &Source) -> Policy {
        self.publish_by(&self.owner, source).await
    }

    /// Has `publisher` publish a policy of the owner's.
    pub(crate) async fn publish_by(&self, publisher: &Client, source: &Source) -> Policy {
        let bundle = source.pack_unsigned().unwrap();
        let request = CreatePolicyDraftRequest { bundle, description: "a test's".to_owned() };
        let policy_id = self.owner.create_policy_draft(&request, None).await.unwrap().policy_id;
        publisher.publish_policy(&PublishPolicyRequest { policy_id }, None).await.unwrap()
    }

    /// Runs the program against this server with `key`.
    pub(crate) fn tally(&self, key: &str, args: &[&str]) -> Output {
        let mut command = command(args);
        command.env("TALLY_URL", &self.url).env("TALLY_API_KEY", key);
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The owner's key.
    pub(crate) fn owner_key(&self) -> String {
        let data = self.disk.as_ref().map(|disk| disk.outside(&self.data));
        let credentials = credentials(data.as_ref().unwrap_or(&self.data));
        credentials["key"].as_str().unwrap().to_owned()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let metrics = leaks::metrics(&self.url);
        // It may have ended already.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
        let data = self.disk.as_ref().map(|disk| disk.outside(&self.data));
        let told = [self.log.so_far(), metrics].concat();
        let keys = self.keys.lock().map(|keys| keys.clone()).unwrap_or_default();
        let leaks = leaks::of_server(data.as_ref().unwrap_or(&self.data), &told, &keys);
        // A test that fails says why by itself, and what went wrong here may be the reason.
        if std::thread::panicking() {
            let told = String::from_utf8_lossy(&told);
            let wrong = told.lines().filter(|line| line.contains("ERROR") || line.contains("WARN"));
            wrong.for_each(|line| eprintln!("{}: {line}", self.url));
            return;
        }
        assert!(leaks.is_empty(), "a server left behind: {leaks:?}");
    }
}

/// A policy of these rules, which lists whatever they decide about.
pub(crate) fn rego(rules: &str) -> Source {
    let listing = "listing contains decision if some decision in decisions";
    let text = format!("package tally\n\n{rules}\n\n{listing}\n");
    Source::new([("tally.rego".to_owned(), text.into_bytes())]).unwrap()
}

/// A policy that allows everything.
pub(crate) fn allow_all() -> Source {
    rego(r#"decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true"#)
}

/// Settings that let tools read and write below `folder`, and that give policy time on a busy
/// machine.
pub(crate) fn granting(folder: &Path) -> String {
    let grants = format!("grants: {{fs_read: [{folder:?}], fs_write: [{folder:?}]}}");
    format!("{grants}\npolicy: {{decision_limit_ms: 5000}}")
}

/// An action to submit.
pub(crate) fn action(tool: &str, params: &Value) -> SubmitActionRequest {
    let params = Some(Json::of(params).unwrap());
    SubmitActionRequest { tool: tool.to_owned(), params, ..Default::default() }
}

/// The action once it is in `state`. Reading it moves nothing.
pub(crate) async fn reaches(client: &Client, action_id: &str, state: State) -> Action {
    let request = GetActionRequest { action_id: action_id.to_owned() };
    let until = Instant::now() + PATIENCE;
    loop {
        let action = client.get_action(&request).await.unwrap();
        if action.state() == state {
            return action;
        }
        assert!(Instant::now() < until, "{action_id} never becomes {state:?}: {action:?}");
        sleep(LOOK_EVERY).await;
    }
}

/// The HTTP status and code with which a call was refused.
#[track_caller]
pub(crate) fn refusal<T: std::fmt::Debug>(answer: Result<T, client::Error>) -> (u16, String) {
    match answer {
        Err(client::Error::Refused { status, error }) => (status, error.code),
        other => panic!("this should have been refused: {other:?}"),
    }
}

/// The credentials file of a data folder.
pub(crate) fn credentials(data: &Path) -> Value {
    serde_json::from_slice(&fs::read(data.join("credentials.json")).unwrap()).unwrap()
}

/// Starts a process and waits for its one line.
fn spawn(
    launcher: &[String],
    data: &Path,
    config: &Path,
    address: &str,
    env: &[(String, PathBuf)],
) -> (Child, String, Log) {
    let mut process = command_in(launcher, &["serve", "--listen", address])
        .arg("--data")
        .arg(data)
        .arg("--config")
        .arg(config)
        .env("TALLY_LOG", LOG)
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = Log::of(process.stderr.take().unwrap());
    let line = first_line(&mut process);
    let Some(url) = line.strip_prefix("listening on ") else {
        process.kill().unwrap();
        let log = log.whole();
        panic!("the server does not start: {line:?} {}", String::from_utf8_lossy(&log));
    };
    (process, url.trim_end().to_owned(), log)
}
