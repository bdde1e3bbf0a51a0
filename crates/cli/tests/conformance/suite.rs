//! The suite as a program: it is run on a requirement set, and its results are read.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;

/// Which side is looked at.
pub(super) enum Leg {
    /// A server at this URL.
    Server(String),
    /// A client that this command starts; the suite adds a URL.
    Client(String),
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Passed,
    /// Failed, or is what the specification says should not be.
    Failed,
    /// Said for information: either way is right.
    Told,
    Skipped,
}

/// What became of all checks, by scenario and name of the check. A check that is made several
/// times has passed where it passed each time.
#[derive(Debug, Default)]
pub(crate) struct Checks(BTreeMap<String, (Status, Value)>);

impl Checks {
    /// The names of those with this status.
    pub(crate) fn with(&self, status: Status) -> BTreeSet<String> {
        let matching = self.0.iter().filter(|(_, (one, _))| *one == status);
        matching.map(|(name, _)| name.clone()).collect()
    }

    /// The scenarios that had any check.
    pub(super) fn scenarios(&self) -> BTreeSet<&str> {
        self.0.keys().filter_map(|name| name.split(' ').next()).collect()
    }

    /// What the suite says about a check.
    pub(crate) fn explain(&self, name: &str) -> Value {
        match self.0.get(name) {
            Some((_, said)) => json!({"check": name, "said": said}),
            None => json!({"check": name, "said": "it was not made"}),
        }
    }

    fn read(folder: &Path, scenario: &str, checks: &mut Self) {
        let text = fs::read_to_string(folder.join("checks.json")).unwrap();
        for check in serde_json::from_str::<Vec<Value>>(&text).unwrap() {
            let name = format!("{scenario} {}", check["id"].as_str().unwrap());
            let status = match check["status"].as_str().unwrap() {
                "SUCCESS" => Status::Passed,
                "FAILURE" | "WARNING" => Status::Failed,
                "INFO" => Status::Told,
                _ => Status::Skipped,
            };
            let worst = checks.0.entry(name).or_insert((status, check.clone()));
            if status == Status::Failed {
                *worst = (status, check);
            }
        }
    }
}

/// Runs all scenarios that `revision` requires, and those that it runs without scoring them.
pub(super) async fn run(leg: Leg, revision: &str) -> Checks {
    match leg {
        Leg::Server(url) => run_on("server", &["--url", &url, "--requirements", revision]).await,
        Leg::Client(command) => {
            run_on("client", &["--command", &command, "--requirements", revision]).await
        }
    }
}

/// Runs one scenario that no revision requires on the server at `url`.
pub(crate) async fn scenario_of(url: &str, scenario: &str) -> Checks {
    run_on("server", &["--url", url, "--scenario", scenario]).await
}

async fn run_on(side: &str, args: &[&str]) -> Checks {
    let results = tempfile::tempdir().unwrap();
    let output = Command::new(installed("conformance"))
        .arg(side)
        .args(args)
        .arg("--output-dir")
        .arg(results.path())
        // Its `node` is the one that it needs.
        .env("PATH", path())
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let mut checks = Checks::default();
    for folder in folders(results.path()) {
        let scenario = scenario(results.path(), &folder, side);
        Checks::read(&folder, &scenario, &mut checks);
    }
    // It fails where a scenario does; where it did not even run them, it says why.
    assert!(!checks.0.is_empty(), "{output:?}");
    checks
}

/// The folders that have results: the names of scenarios may have slashes.
fn folders(under: &Path) -> Vec<PathBuf> {
    if under.join("checks.json").is_file() {
        return vec![under.to_owned()];
    }
    let entries = fs::read_dir(under).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_dir()).flat_map(|path| folders(&path)).collect()
}

/// The scenario that a folder of results is about: `[server-]NAME-2026-01-01T00-00-00-000Z`.
fn scenario(results: &Path, folder: &Path, side: &str) -> String {
    const TIME: usize = "-2026-01-01T00-00-00-000Z".len();
    let name = folder.strip_prefix(results).unwrap().to_str().unwrap();
    let name = name.strip_prefix(&format!("{side}-")).unwrap_or(name);
    name.split_at(name.len() - TIME).0.to_owned()
}

fn programs() -> PathBuf {
    let modules = env::var_os("TALLY_MCP_NODE_MODULES").map(PathBuf::from);
    let Some(modules) = modules.filter(|folder| folder.join(".bin/conformance").exists()) else {
        panic!("no conformance suite: run `eval \"$(cargo xtask foreign)\"`, or `cargo xtask test`")
    };
    modules.join(".bin")
}

fn installed(program: &str) -> PathBuf {
    programs().join(program)
}

fn path() -> std::ffi::OsString {
    let others = env::var_os("PATH").unwrap_or_default();
    env::join_paths(std::iter::once(programs()).chain(env::split_paths(&others))).unwrap()
}
