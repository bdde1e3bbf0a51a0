//! Commits to a ledger through its API, in process: durable (synchronous=FULL) and signed.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cpu::Cpu;
use crate::fsync::Probe;
use crate::report::{Cell, Report, Table};
use crate::stats::{self, Times};
use crate::workload::Workload;

const TASKS: [usize; 3] = [1, 64, 256];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
const PROBES: u64 = 200;

/// What all rounds with one number of tasks came to.
#[derive(Default)]
struct Found {
    times: Times,
    per_second: Vec<f64>,
    cpu: Vec<std::collections::BTreeMap<String, f64>>,
    fsync: Vec<f64>,
}

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let mut report = Report::new("ledger");
    let dir = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let workload = Workload::new(dir.path())?;
    let probe = Probe::new(dir.path())?;
    let mut found = TASKS.map(|_| Found::default());
    for _ in 0..ROUNDS {
        for (tasks, found) in TASKS.into_iter().zip(&mut found) {
            found.fsync.push(probe.run(PROBES)?.percentile(50));
            let before = Cpu::of(std::process::id())?;
            let started = Instant::now();
            let times =
                runtime.block_on(workload.run(tasks, move |_| started.elapsed() < ROUND))?;
            let commits = times.count();
            found.per_second.push(stats::figure(commits) / started.elapsed().as_secs_f64());
            let taken = Cpu::of(std::process::id())?.since(&before);
            let each = taken.into_iter().map(|(name, us)| (name, us / stats::figure(commits)));
            found.cpu.push(each.collect());
            found.times.extend(times);
        }
    }
    tables(&mut report, &mut found);
    report.note("A commit is one receipt: by turns the permit and the outcome of an action.");
    report.note("Every commit is signed and durable (SQLite, WAL, synchronous=FULL).");
    Ok(report)
}

fn tables(report: &mut Report, found: &mut [Found]) {
    let title = "commits, each one receipt (latency in microseconds)";
    let columns = ["tasks", "commits/s", "p50", "p99", "fdatasync", "p50/fdatasync"];
    let mut table = Table::new(title, &columns);
    for (tasks, found) in TASKS.iter().zip(found.iter_mut()) {
        let (p50, p99) = (found.times.percentile(50), found.times.percentile(99));
        let fsync = stats::median(found.fsync.iter().copied());
        let per_second = stats::median(found.per_second.iter().copied());
        let figures = [per_second, p50, p99, fsync, p50 / fsync].map(Cell::from);
        table.row(std::iter::once(tasks.to_string().into()).chain(figures));
    }
    report.table(table);
    let columns = ["threads", "1 task", "64 tasks", "256 tasks"];
    let mut table = Table::new("processor time a commit by thread, microseconds", &columns);
    let names = found.iter().flat_map(|found| &found.cpu).flat_map(|cpu| cpu.keys().cloned());
    let names: std::collections::BTreeSet<String> = names.collect();
    for name in names {
        let each = |found: &Found| {
            stats::median(found.cpu.iter().map(|cpu| cpu.get(&name).copied().unwrap_or(0.0)))
        };
        let row: Vec<Cell> = found.iter().map(|found| each(found).into()).collect();
        table.row(std::iter::once(name.clone().into()).chain(row));
    }
    report.table(table);
}
