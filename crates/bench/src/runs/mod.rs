//! Runs, end to end: three steps a workflow, each an action that is decided and receipted, on both
//! engines; and simulations. Beside them a synced write on the same disk.

mod proof;

use std::path::Path;
use std::time::Duration;

use ledger::postgres::{Database, Owner, Plane, Postgres};
use ledger::sqlite::Sqlite;
use serde_json::json;
use testkit::Cluster;

use self::proof::proven;
use crate::fsync::Probe;
use crate::load::{self, Target, Until};
use crate::report::{Cell, Report, Table};
use crate::server::{self, Server, Setup, TOOL};
use crate::stats::{self, Times};

const CLIENTS: [usize; 3] = [1, 16, 64];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
const PROBES: u64 = 200;
const STEPS: u64 = 3;
/// What Restate was seen to do on two cores: three-step workflows a second, and half of them in so
/// many milliseconds.
const PEER: [(f64, f64); 3] = [(133.0, 7.0), (395.0, 38.0), (580.0, 109.0)];
/// By how much more is aimed at where there are many clients.
const FACTOR: f64 = 3.0;
const SIMULATIONS_PER_SECOND: f64 = 20_000.0;
const SIMULATION_P99_US: f64 = 2_000.0;

/// What was measured with one number of clients.
#[derive(Default)]
struct Found {
    times: Times,
    per_second: Vec<f64>,
    fsync: Vec<f64>,
}

impl Found {
    fn workflows(&self) -> f64 {
        stats::median(self.per_second.iter().copied())
    }

    fn percentile(&self, percent: usize) -> f64 {
        self.times.clone().percentile(percent)
    }
}

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let program = server::build()?;
    let mut report = Report::new("runs");
    let probe = Probe::new(dir)?;
    let [files, tables] = [tempfile::tempdir_in(dir)?, tempfile::tempdir_in(dir)?];
    let sqlite = Server::start(&program, files.path(), &Setup::default())?;
    let on_sqlite = rounds(&sqlite, files.path(), &probe)?;
    let simulated = simulate(&sqlite, files.path())?;
    drop(sqlite);
    let data = files.path().join("data");
    let store = Sqlite::open(&data.join("runtime.sqlite"))?;
    let mut receipts = vec![proven(&store, &data, count(&on_sqlite), STEPS)?];
    let cluster = Cluster::start();
    let database = cluster.database();
    server::migrate(&program, &database.owner_url())?;
    database.grant();
    let setup = Setup { database: Some(database.server_url()), ..Setup::default() };
    let postgres = Server::start(&program, tables.path(), &setup)?;
    let on_postgres = rounds(&postgres, tables.path(), &probe)?;
    drop(postgres);
    let owner = Owner { id: "bench".to_owned(), address: String::new() };
    let url = Database::parse(&database.server_url(), None)?;
    let store = Postgres::open(&url, Plane::Runtime, owner)?;
    receipts.push(proven(&store, &tables.path().join("data"), count(&on_postgres), STEPS)?);
    report.table(workflows("three-step workflows on SQLite", &on_sqlite));
    report.table(workflows("three-step workflows on PostgreSQL", &on_postgres));
    report.table(simulations(&simulated));
    aims(&mut report, &on_sqlite, &simulated);
    notes(&mut report, &receipts);
    Ok(report)
}

/// How many workflows ended.
fn count(found: &[Found; 3]) -> u64 {
    found.iter().map(|found| found.times.count()).sum()
}

/// Workflows and the disk by turns, so that a busy neighbour slows both.
fn rounds(server: &Server, dir: &Path, probe: &Probe) -> anyhow::Result<[Found; 3]> {
    let file = dir.join("files").join("report.txt");
    let step = json!({"skill": TOOL, "params": {"path": file}});
    let body = json!({"plan": vec![step; 3]}).to_string();
    let start = Target::post(server.address, "/v1/runs", &server.key, &body);
    let mut found = CLIENTS.map(|_| Found::default());
    for _ in 0..ROUNDS {
        for (clients, found) in CLIENTS.into_iter().zip(&mut found) {
            let mut synced = probe.run(PROBES)?;
            // 200 says that it has ended: what goes on is a 202, and refused here.
            let load = load::run(&start, clients, Until::Over(ROUND))?.all_ok()?;
            synced.extend(probe.run(PROBES)?);
            found.per_second.push(load.per_second());
            found.times.extend(load.times);
            found.fsync.push(synced.percentile(50));
        }
    }
    Ok(found)
}

/// The plan of two skills that the contract has as its example.
fn simulate(server: &Server, dir: &Path) -> anyhow::Result<[Found; 3]> {
    let file = dir.join("files").join("report.txt");
    let plan = json!([
        {"skill": TOOL, "params": {"path": file}},
        {"skill": "llm_invoke", "params": {"prompt": "…"}},
    ]);
    let body = json!({"plan": plan, "budget_cents": 100}).to_string();
    let path = "/api/v1/runtime/simulate";
    let ask = Target::post(server.address, path, &server.key, &body);
    let mut found = CLIENTS.map(|_| Found::default());
    for _ in 0..ROUNDS {
        for (clients, found) in CLIENTS.into_iter().zip(&mut found) {
            let load = load::run(&ask, clients, Until::Over(ROUND))?.all_ok()?;
            found.per_second.push(load.per_second());
            found.times.extend(load.times);
        }
    }
    Ok(found)
}

fn workflows(title: &str, found: &[Found; 3]) -> Table {
    let columns =
        ["clients", "workflows/s", "steps/s", "p50 ms", "p99 ms", "p50/fdatasync", "of Restate"];
    let mut table = Table::new(title, &columns);
    for ((clients, found), (peer, _)) in CLIENTS.iter().zip(found).zip(PEER) {
        let fsync = stats::median(found.fsync.iter().copied());
        let (p50, p99) = (found.percentile(50), found.percentile(99));
        let per_second = found.workflows();
        let steps = per_second * stats::figure(STEPS);
        let figures =
            [per_second, steps, p50 / 1_000.0, p99 / 1_000.0, p50 / fsync, per_second / peer];
        table.row(std::iter::once(clients.to_string().into()).chain(figures.map(Cell::from)));
    }
    table
}

fn simulations(found: &[Found; 3]) -> Table {
    let mut table = Table::new(
        "simulations of a plan of two steps",
        &["clients", "per second", "p50 us", "p99 us"],
    );
    for (clients, found) in CLIENTS.iter().zip(found) {
        let figures = [found.workflows(), found.percentile(50), found.percentile(99)];
        table.row(std::iter::once(clients.to_string().into()).chain(figures.map(Cell::from)));
    }
    table
}

fn aims(report: &mut Report, found: &[Found; 3], simulated: &[Found; 3]) {
    let [one, some, many] = found;
    let [(_, p50), (some_peer, _), (many_peer, _)] = PEER;
    report.at_most("p50 ms of a workflow, 1 client", one.percentile(50) / 1_000.0, p50);
    report.at_least("workflows/s, 16 clients", some.workflows(), FACTOR * some_peer);
    report.at_least("workflows/s, 64 clients", many.workflows(), FACTOR * many_peer);
    let [_, simulated, _] = simulated;
    report.at_least("simulations/s, 16 clients", simulated.workflows(), SIMULATIONS_PER_SECOND);
    report.at_most(
        "p99 us of a simulation, 16 clients",
        simulated.percentile(99),
        SIMULATION_P99_US,
    );
}

fn notes(report: &mut Report, receipts: &[u64]) {
    report.note(format!(
        "Every step was decided, permitted and receipted: {receipts:?} receipts, each log verified \
         from its first to its last."
    ));
    report.note(format!(
        "A workflow is three steps of `{TOOL}`; each is decided, permitted and receipted. The \
         outcome of one step and the permit of the next are one commit: four in all."
    ));
    report.note(
        "Restate, on two cores, as it was seen: 133, 395 and 580 workflows/s with 1, 16 and 64 \
         clients, p50 7, 38 and 109 ms. It was not measured in this run.",
    );
    report.note("Server, clients, database and disk share this machine.");
}
