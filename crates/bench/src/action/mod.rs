//! A governed action, end to end: HTTP, credential, policy, durable permit, effect, durable
//! outcome, answer; against `/healthz` of the same server and fdatasync on the same disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::ensure;

use crate::cpu::Cpu;
use crate::fsync::Probe;
use crate::load::{self, Until};
use crate::metrics::Metrics;
use crate::report::{Cell, Report, Table};
use crate::server::{self, Server, Setup, TOOL};
use crate::stats::{self, Times, figure};

const CLIENTS: [usize; 3] = [1, 64, 256];
/// Clients where only the cost of an action matters.
const MANY: usize = 256;
const ROUNDS: usize = 3;
const HEALTH: Duration = Duration::from_secs(1);
const ACTIONS: Duration = Duration::from_secs(2);
const PROBES: u64 = 200;
/// Receipts in the log where the cost of an action is looked at.
const SIZES: [u64; 3] = [1_000, 10_000, 100_000];
/// Actions over which it is looked at, so often; the median counts.
const SAMPLE: u64 = 1_500;
const SAMPLES: u64 = 3;
/// Each allowed action leaves a permit and an outcome.
const RECEIPTS_PER_ACTION: u64 = 2;
const STAGES: [&str; 5] = ["prepare", "decide", "permit", "execute", "outcome"];
const PRICE_MICRO_USD: i64 = 5;

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let program = server::build()?;
    let mut report = Report::new("action");
    let [free, paid] = [tempfile::tempdir_in(dir)?, tempfile::tempdir_in(dir)?];
    let probe = Probe::new(dir)?;
    let server = Server::start(&program, free.path(), &Setup::default())?;
    let costs = flatness(&server)?;
    let found = rounds(&server, &probe, ROUNDS)?;
    drop(server);
    let paying = Setup { price: Some(PRICE_MICRO_USD), ..Setup::default() };
    let server = Server::start(&program, paid.path(), &paying)?;
    let priced = rounds(&server, &probe, 1)?;
    drop(server);
    tables(&mut report, &found, &priced, &costs);
    aims(&mut report, &found, &costs);
    notes(&mut report);
    Ok(report)
}

/// What was measured with one number of clients.
#[derive(Default)]
struct Found {
    times: Times,
    p50: Vec<f64>,
    actions: Vec<f64>,
    health: Vec<f64>,
    health_times: Times,
    fsync: Vec<f64>,
    /// Processor time of the server for an action, by thread.
    cpu: Vec<BTreeMap<String, f64>>,
    generator: Vec<f64>,
    stages: Vec<Vec<f64>>,
}

impl Found {
    /// Microseconds of the server's processor time for an action.
    fn cost(&self) -> f64 {
        stats::median(self.cpu.iter().map(|by_thread| by_thread.values().sum()))
    }

    /// The median time of a synced write.
    fn fsync(&self) -> f64 {
        stats::median(self.fsync.iter().copied())
    }

    /// Half of the actions took at most so many synced writes, as the median of the rounds' own
    /// ratios.
    fn in_syncs(&self) -> f64 {
        stats::median(self.p50.iter().zip(&self.fsync).map(|(p50, fsync)| p50 / fsync))
    }
}

/// Measures health, the disk and actions by turns, so that a busy neighbour slows all alike.
fn rounds(server: &Server, probe: &Probe, rounds: usize) -> anyhow::Result<[Found; 3]> {
    let mut found = CLIENTS.map(|_| Found::default());
    for _ in 0..rounds {
        for (clients, found) in CLIENTS.into_iter().zip(&mut found) {
            let health = load::run(&server.health, clients, Until::Over(HEALTH))?.all_ok()?;
            found.health.push(health.per_second());
            found.health_times.extend(health.times);
            // On both sides, since a shared disk is fast now and slow then.
            let mut synced = probe.run(PROBES)?;
            actions(server, clients, found)?;
            synced.extend(probe.run(PROBES)?);
            found.fsync.push(synced.percentile(50));
        }
    }
    Ok(found)
}

fn actions(server: &Server, clients: usize, found: &mut Found) -> anyhow::Result<()> {
    let before = (server.cpu()?, Cpu::of(std::process::id())?, Metrics::read(server.address)?);
    let load = load::run(&server.action, clients, Until::Over(ACTIONS))?.all_ok()?;
    let own = Cpu::of(std::process::id())?.since(&before.1);
    let cpu = server.cpu()?.since(&before.0);
    let metrics = Metrics::read(server.address)?;
    let count = figure(load.count());
    let executed = metrics.executed() - before.2.executed();
    ensure!((executed - count).abs() < 0.5, "{count} answers, but {executed} executed actions");
    found.actions.push(load.per_second());
    let mut times = load.times;
    found.p50.push(times.percentile(50));
    found.times.extend(times);
    found.cpu.push(cpu.into_iter().map(|(name, us)| (name, us / count)).collect());
    found.generator.push(own.values().sum::<f64>() / count);
    let stage = |stage: &&str| metrics.stage(&before.2, stage).unwrap_or(0.0);
    found.stages.push(STAGES.iter().map(stage).collect());
    Ok(())
}

/// The server's processor time for an action as the log grows.
fn flatness(server: &Server) -> anyhow::Result<[f64; 3]> {
    let mut costs = [0.0; 3];
    let mut receipts = 0;
    for (size, cost) in SIZES.into_iter().zip(&mut costs) {
        let fill = (size - receipts) / RECEIPTS_PER_ACTION;
        load::run(&server.action, MANY, Until::Sent(fill))?.all_ok()?;
        let mut samples = Vec::new();
        for _ in 0..SAMPLES {
            let before = server.cpu()?;
            let load = load::run(&server.action, MANY, Until::Sent(SAMPLE))?.all_ok()?;
            let taken: f64 = server.cpu()?.since(&before).values().sum();
            samples.push(taken / figure(load.count()));
        }
        *cost = stats::median(samples);
        receipts += (fill + SAMPLES * SAMPLE) * RECEIPTS_PER_ACTION;
    }
    Ok(costs)
}

fn tables(report: &mut Report, found: &[Found; 3], priced: &[Found; 3], costs: &[f64; 3]) {
    report.table(throughput("allowed actions, free of charge", found));
    report.table(throughput("allowed actions, paid for by an account (hold and post)", priced));
    report.table(health(found));
    report.table(stages(found));
    report.table(threads(found, priced));
    let title = format!("server processor time, {MANY} clients, as the log grows");
    let mut table = Table::new(title, &["receipts at first", "us an action", "of the first"]);
    for (size, cost) in SIZES.into_iter().zip(costs) {
        table.row([size.into(), (*cost).into(), (cost / costs[0]).into()]);
    }
    report.table(table);
}

/// A table with a row for each number of clients.
fn by_clients<'a>(
    title: &str,
    columns: &[&'static str],
    found: &'a [Found],
    row: impl Fn(&'a Found) -> Vec<f64>,
) -> Table {
    let mut table = Table::new(title, columns);
    for (clients, found) in CLIENTS.iter().zip(found) {
        let figures = row(found).into_iter().map(Cell::from);
        table.row(std::iter::once(clients.to_string().into()).chain(figures));
    }
    table
}

fn throughput(title: &str, found: &[Found]) -> Table {
    let columns =
        ["clients", "actions/s", "p50 us", "p99 us", "server us", "client us", "p50/fdatasync"];
    by_clients(title, &columns, found, |found| {
        let [mut p50, mut p99] = [found.times.clone(), found.times.clone()];
        let (p50, p99) = (p50.percentile(50), p99.percentile(99));
        let generator = stats::median(found.generator.iter().copied());
        let per_second = stats::median(found.actions.iter().copied());
        vec![per_second, p50, p99, found.cost(), generator, found.in_syncs()]
    })
}

fn health(found: &[Found]) -> Table {
    let columns = ["clients", "healthz/s", "p50 us", "p99 us", "actions/healthz", "fdatasync us"];
    by_clients(
        "floors in the same run: GET /healthz, and 4 KiB with fdatasync",
        &columns,
        found,
        |f| {
            let mut times = f.health_times.clone();
            let per_second = stats::median(f.health.iter().copied());
            let (p50, p99) = (times.percentile(50), times.percentile(99));
            vec![per_second, p50, p99, ratio(f), f.fsync()]
        },
    )
}

/// Actions for each `/healthz`, as the median of the rounds' own ratios.
fn ratio(found: &Found) -> f64 {
    stats::median(found.actions.iter().zip(&found.health).map(|(action, health)| action / health))
}

fn stages(found: &[Found]) -> Table {
    let columns = ["clients", "prepare", "decide", "permit", "execute", "outcome"];
    by_clients("time of each stage by the server's clock, average us", &columns, found, |found| {
        let nth = |nth: usize| {
            stats::median(found.stages.iter().filter_map(|stages| stages.get(nth).copied()))
        };
        (0..STAGES.len()).map(nth).collect()
    })
}

fn threads(found: &[Found; 3], priced: &[Found; 3]) -> Table {
    let title = "server processor time for an action by thread, us";
    let columns = ["threads", "1 client", "64", "256", "256, paid for"];
    let mut table = Table::new(title, &columns);
    let of = |found: &Found, name: &str| {
        stats::median(found.cpu.iter().map(|cpu| cpu.get(name).copied().unwrap_or(0.0)))
    };
    let all: Vec<&Found> = found.iter().chain(priced.last()).collect();
    let names = all.iter().flat_map(|found| &found.cpu).flat_map(|cpu| cpu.keys());
    for name in names.collect::<std::collections::BTreeSet<_>>() {
        let figures = all.iter().map(|found| Cell::from(of(found, name)));
        table.row(std::iter::once(name.as_str().into()).chain(figures));
    }
    let figures = all.iter().map(|found| Cell::from(found.cost()));
    table.row(std::iter::once("all".into()).chain(figures));
    table
}

fn aims(report: &mut Report, found: &[Found; 3], costs: &[f64; 3]) {
    let [one, _, many] = found;
    report.at_least("actions / healthz, 256 clients", ratio(many), 0.10);
    report.at_most("server us an action, 256 clients", many.cost(), 140.0);
    report.at_most("p50 / fdatasync, 1 client", one.in_syncs(), 6.0);
    let [first, .., last] = costs;
    report.at_most("cost at 10^5 receipts off that at 10^3", (last / first - 1.0).abs(), 0.10);
}

fn notes(report: &mut Report) {
    report.note(format!(
        "The action is `{TOOL}` of a small file, allowed by the baseline in dev: a real effect \
         that needs neither another process nor another network peer."
    ));
    report.note(
        "Each leaves two signed receipts: its permit is durable before the effect, its outcome \
         before the answer (SQLite, WAL, synchronous=FULL).",
    );
    report.note("Server, clients and disk share this machine; the rows ran on a log of > 10^5.");
    report.note("`client us` is what the load generator itself takes of the processors.");
}
