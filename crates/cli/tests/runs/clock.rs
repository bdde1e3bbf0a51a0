//! The clock of the machine jumps, forwards and back, while runs wait.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use proto::identity::principal::Kind;
use proto::runs::{RunState, StartRunRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Duration, Instant};

use super::{Place, approve_step, named, reaches, read, states, timed_run, with, workflow};
use crate::common::{Server, assert_code, json as printed};

const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// The clock of a server process.
pub(super) struct Clock {
    file: PathBuf,
    library: PathBuf,
    _folder: TempDir,
}

impl Clock {
    /// The library that shifts it is made here: whoever links Rust programs can compile it.
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (file, library) = (folder.path().join("shift"), folder.path().join("clock.so"));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runs/clock.c");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
        let compiled = compile.output();
        let compiled =
            compiled.unwrap_or_else(|e| panic!("these tests need a C compiler as `cc`: {e}"));
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        let clock = Self { file, library, _folder: folder };
        clock.shift(0);
        clock
    }

    /// Has it show so many seconds more than the time.
    pub(super) fn shift(&self, seconds: i64) {
        use std::os::unix::fs::FileExt as _;
        // In place: the process has the file mapped.
        let mut options = fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).open(&self.file).unwrap();
        file.write_all_at(&(seconds * 1_000_000).to_ne_bytes(), 0).unwrap();
    }

    /// What a process needs in its environment to go by it.
    pub(super) fn env(&self) -> Vec<(String, PathBuf)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.clone()),
            ("TALLY_TEST_CLOCK".to_owned(), self.file.clone()),
        ]
    }

    pub(super) async fn place(&self) -> Place {
        self.place_with("").await
    }

    async fn place_with(&self, yaml: &str) -> Place {
        let start = |yaml: &str| Server::start_with(tempfile::tempdir().unwrap(), yaml, self.env());
        Place::by(start, yaml).await
    }
}

fn wait(id: &str, seconds: i64) -> Value {
    json!({"id": id, "action": "time.wait", "input": {"seconds": seconds}})
}

async fn begin(place: &Place, steps: &[Value]) -> String {
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(steps) };
    place.agent.start_run(&request, None).await.unwrap().run_id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_goes_back_holds_nothing_up_and_lets_nothing_through_early() {
    let clock = Clock::new();
    let place = clock.place().await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let held = |id: &str| with(place.call(id, "PUT", "/held"), json!({"approval": {"quorum": 1}}));
    let began = Instant::now();
    let waits = timed_run(&place, 2, "/timer").await;
    let asks = begin(&place, &[place.call("before", "PUT", "/before"), held("held")]).await;
    let asked = reaches(&place.agent, &asks, RunState::WaitingApproval).await;
    clock.shift(-DAY);
    reaches(&place.agent, &waits, RunState::Succeeded).await;
    assert!(began.elapsed() >= Duration::from_secs(2), "the timer was over too early");
    approve_step(&approver, &asked, "held").await;
    reaches(&place.agent, &asks, RunState::Succeeded).await;
    // What begins now has the same times as what began before: it does not wait for a day.
    let retry = json!({"retry": {"attempts": 3, "backoffMs": 50}});
    let again = with(place.call("again", "POST", "/unavailable/again"), retry);
    let later = begin(&place, &[again, wait("timer", 1), place.call("put", "PUT", "/later")]).await;
    reaches(&place.agent, &later, RunState::Succeeded).await;
    // And once more, by less than is waited for.
    clock.shift(-DAY - 1);
    let later = timed_run(&place, 1, "/last").await;
    reaches(&place.agent, &later, RunState::Succeeded).await;
    let calls = [
        ("/before", 1),
        ("/held", 1),
        ("/last", 1),
        ("/later", 1),
        ("/timer", 1),
        ("/unavailable/again", 3),
    ];
    assert_eq!(place.calls(), calls.map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_with_its_clock_behind_goes_on_from_its_log() {
    let clock = Clock::new();
    clock.shift(DAY);
    let mut place = clock.place().await;
    let id = timed_run(&place, 2, "/timer").await;
    place.server.kill();
    clock.shift(0);
    place.server.restart();
    reaches(&place.agent, &id, RunState::Succeeded).await;
    let id = timed_run(&place, 1, "/timer").await;
    reaches(&place.agent, &id, RunState::Succeeded).await;
    assert_eq!(place.calls(), [("/timer", 2)].map(named).into());
    assert!(place.server.terminate().success());
    place.server.offline("verify");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_ahead_ends_what_waits_and_repeats_nothing() {
    let clock = Clock::new();
    let place = clock.place().await;
    let expires = json!({"approval": {"quorum": 1, "expires_s": HOUR}});
    let held = with(place.call("held", "PUT", "/never"), expires);
    let asks = begin(&place, &[held]).await;
    reaches(&place.agent, &asks, RunState::WaitingApproval).await;
    // Two calls under way, whose leases are over by the clock: one that may be repeated, and one
    // that may not.
    let put = begin(&place, &[place.call("put", "PUT", "/waits/put")]).await;
    let post = begin(&place, &[place.call("post", "POST", "/waits/post")]).await;
    place.target.asked("/waits/put").await;
    place.target.asked("/waits/post").await;
    let waits = timed_run(&place, 2 * HOUR, "/timer").await;
    clock.shift(DAY);
    // The queue takes up what became due first.
    reaches(&place.agent, &waits, RunState::Succeeded).await;
    let expired = reaches(&place.agent, &asks, RunState::FailedTerminal).await;
    assert_eq!(expired.error.unwrap().code, "approval_expired");
    for id in [&put, &post] {
        let run = read(&place.agent, id).await;
        assert_eq!((run.state(), states(&run)), (RunState::Running, vec!["running"]), "{run:?}");
    }
    place.target.let_go();
    for id in [&put, &post] {
        let run = reaches(&place.agent, id, RunState::Succeeded).await;
        assert_eq!(run.steps[0].tries, 1, "{run:?}");
    }
    // Back to where it was.
    clock.shift(0);
    let id = timed_run(&place, 1, "/back").await;
    reaches(&place.agent, &id, RunState::Succeeded).await;
    let calls = [("/back", 1), ("/waits/post", 1), ("/waits/put", 1), ("/timer", 1)];
    assert_eq!(place.calls(), calls.map(named).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_runs_cost_is_told_day_by_day() {
    let clock = Clock::new();
    let place = clock.place_with("prices: {core.http_call: 7}").await;
    let agent = place.server.paying_agent("till", 1_000).await;
    let place = Place { agent, ..place };
    // One on the first day, and two on the next.
    for (day, calls) in [(0, 1), (1, 2), (1, 1)] {
        clock.shift(day * DAY);
        let steps: Vec<Value> =
            (0..calls).map(|n| place.call(&format!("s{n}"), "PUT", "/day")).collect();
        let id = begin(&place, &steps).await;
        reaches(&place.agent, &id, RunState::Succeeded).await;
    }
    let args = ["cost", "tickets", "--by", "day", "--json"];
    let told = place.server.tally(&place.server.owner_key(), &args);
    assert_code(&told, 0);
    let told = printed(&told);
    let rows = told["rows"].as_array().unwrap();
    // Numbers of 64 bits are texts in JSON, or not: it is their value that counts.
    let number = |value: &Value| value.to_string().trim_matches('"').parse::<i64>().unwrap();
    let of = |row: &Value| (number(&row["runs"]), number(&row["cost_micro_usd"]));
    assert_eq!(rows.iter().map(of).collect::<Vec<_>>(), [(1, 7), (2, 21)], "{told:#}");
    assert_eq!(of(&told["total"]), (3, 28));
    let days: Vec<&str> = rows.iter().map(|row| row["key"].as_str().unwrap()).collect();
    assert!(days[0] < days[1] && days[0].len() == "2026-01-01".len(), "{days:?}");
}
