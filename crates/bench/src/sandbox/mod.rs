//! Sandboxes against a bare host of WebAssembly: how long one takes to be made, run and dropped,
//! how many there can be in a second and at once, and whether anything is left of them.

mod bare;
mod guests;
mod served;

pub(crate) use self::guests::COMPILE;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use kernel::attestation::CodeKind;
use tokio::runtime::{Builder, Runtime};

use self::bare::Bare;
use self::guests::{Gate, Guest, Guests, Host};
use crate::report::{Report, Table};
use crate::stats::{self, Times, figure};

/// Rounds, in which both sides run by turns.
const ROUNDS: usize = 10;
/// How long each side runs in a round.
const SIDE: Duration = Duration::from_millis(500);
/// Sandboxes that are live at once.
const LIVE: usize = 1_000;
/// More than there ever are.
const LIVE_MAX: u32 = 1_200;
/// Executions after which nothing may have grown, and those before that.
const SPAWNS: u64 = 100_000;
const WARM: u64 = 10_000;
/// Of an interpreter, which takes far longer.
const INTERPRETED: u64 = 100;
/// The most that a sandbox may take, of a bare instance.
const AIM: f64 = 1.25;
/// The most that memory may grow over all spawns, in KiB.
const GROWTH_KIB: f64 = 4_096.0;

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let mut report = Report::new("sandbox");
    let runtimes = std::env::var_os("TALLY_RUNTIMES").map(PathBuf::from);
    let runtimes =
        runtimes.context("TALLY_RUNTIMES is not set: run `cargo xtask bench sandbox`")?;
    let dir = tempfile::tempdir_in(dir)?;
    let guests = Guests::read(&runtimes)?;
    let live_max = usize::try_from(LIVE_MAX)?;
    let first = Arc::new(Host::new(dir.path(), runtimes.clone(), live_max)?);
    let one = Builder::new_current_thread().enable_all().build()?;
    let cores = thread::available_parallelism()?.get();
    let all = Builder::new_multi_thread().worker_threads(cores).enable_all().build()?;
    for guest in guests.short.iter().chain(&guests.waiting) {
        one.block_on(first.prepare(guest))?;
    }
    // The bare host compiles in this process. What that leaves free would hide what is lost, so
    // memory is looked at before.
    growth(&mut report, &one, &first, &guests.short)?;
    live(&mut report, &all, &first, &guests.waiting)?;
    drop(first);
    // Both sides begin with pools that nobody has used: after so many at once, wasmtime goes
    // through all their stacks in turn, and none of them is in a cache.
    let host = Host::new(dir.path(), runtimes, live_max)?;
    for guest in &guests.short {
        one.block_on(host.prepare(guest))?;
    }
    let bare = bare::all(&guests.short, LIVE_MAX)?;
    let pairs: Vec<(&Guest, &Bare)> = guests.short.iter().zip(&bare).collect();
    spawns(&mut report, &one, &host, &pairs)?;
    rates(&mut report, cores, &host, &pairs)?;
    if let Some(tiny) = guests.short.first() {
        served::run(&mut report, &one, &host, (tiny, dir.path()))?;
    }
    report.note(
        "Bare is wasmtime with what no host of strangers' code can do without: fuel, epochs, a \
         memory limit, a store and an instance for each call. A sandbox besides checks a permit \
         and grants, counts the tenant's sandboxes, has clocks and randomness of its own, meters \
         processor time, and reports.",
    );
    report.note(
        "Agents give back a number of their input. Python and JavaScript include parsing the \
         program, for each execution has an interpreter of its own.",
    );
    Ok(report)
}

/// One after the other, on one thread.
fn spawns(
    report: &mut Report,
    runtime: &Runtime,
    host: &Host,
    pairs: &[(&Guest, &Bare)],
) -> anyhow::Result<()> {
    let title = "made, run and dropped, one at a time (microseconds)";
    let columns = ["", "p50", "p99", "bare p50", "bare p99", "p50/bare"];
    let mut table = Table::new(title, &columns);
    for (guest, bare) in pairs {
        let gate = Arc::new(Gate::default());
        let code = Host::code(guest);
        let [mut whole, mut floor] = [Times::default(), Times::default()];
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let mut ours = runtime
                .block_on(timed(async || host.run(code.clone(), guest.input, &gate).await))?;
            let mut theirs = runtime.block_on(timed(async || bare.run().await))?;
            ratios.push(ours.percentile(50) / theirs.percentile(50));
            whole.extend(ours);
            floor.extend(theirs);
        }
        let ratio = stats::median(ratios);
        let [p50, p99] = [50, 99].map(|percent| whole.percentile(percent).into());
        let [bare50, bare99] = [50, 99].map(|percent| floor.percentile(percent).into());
        table.row([guest.name.into(), p50, p99, bare50, bare99, ratio.into()]);
        report.at_most(aim(guest), ratio, AIM);
    }
    report.table(table);
    Ok(())
}

fn aim(guest: &Guest) -> &'static str {
    match guest.name {
        "JavaScript" => "JavaScript / bare, p50",
        "Python" => "Python / bare, p50",
        _ => "tiny component / bare, p50",
    }
}

/// Runs `job` for the time of a side.
async fn timed(job: impl AsyncFn() -> anyhow::Result<()>) -> anyhow::Result<Times> {
    let mut times = Times::default();
    let until = Instant::now() + SIDE;
    while Instant::now() < until {
        let started = Instant::now();
        job().await?;
        times.push(started.elapsed());
    }
    Ok(times)
}

/// As many as all processors can.
fn rates(
    report: &mut Report,
    cores: usize,
    host: &Host,
    pairs: &[(&Guest, &Bare)],
) -> anyhow::Result<()> {
    let title = format!("executions a second on {cores} cores");
    let mut table = Table::new(title, &["", "sandbox", "bare", "of bare"]);
    for (guest, bare) in pairs {
        let gate = Arc::new(Gate::default());
        let code = Host::code(guest);
        let [mut whole, mut floor] = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            whole.push(rate(cores, async || host.run(code.clone(), guest.input, &gate).await)?);
            floor.push(rate(cores, async || bare.run().await)?);
        }
        let [whole, floor] = [whole, floor].map(stats::median);
        table.row([guest.name.into(), whole.into(), floor.into(), (whole / floor).into()]);
    }
    report.table(table);
    Ok(())
}

/// How often in a second `threads` threads do `job` together.
fn rate(threads: usize, job: impl AsyncFn() -> anyhow::Result<()> + Sync) -> anyhow::Result<f64> {
    let started = Instant::now();
    let count = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let runtime = Builder::new_current_thread().enable_all().build()?;
                    runtime.block_on(timed(&job))
                })
            })
            .collect();
        let mut count = 0;
        for thread in running {
            let times = thread.join().unwrap_or_else(|_| Err(anyhow!("a thread panicked")))?;
            count += times.count();
        }
        anyhow::Ok(count)
    })?;
    Ok(figure(count) / started.elapsed().as_secs_f64())
}

/// What is left of many executions.
fn growth(
    report: &mut Report,
    runtime: &Runtime,
    host: &Host,
    guests: &[Guest],
) -> anyhow::Result<()> {
    let title = format!("{SPAWNS} spawns, and {} of each interpreter", SPAWNS / INTERPRETED);
    let columns = ["", "KiB before", "KiB after", "handles before", "handles after"];
    let mut table = Table::new(title, &columns);
    let mut grown: f64 = 0.0;
    for guest in guests {
        let share = if guest.source.is_some() { INTERPRETED } else { 1 };
        let gate = Arc::new(Gate::default());
        let code = Host::code(guest);
        let spawn = async |count: u64| -> anyhow::Result<()> {
            for _ in 0..count {
                host.run(code.clone(), guest.input, &gate).await?;
            }
            Ok(())
        };
        runtime.block_on(spawn(WARM / share))?;
        let (memory, handles) = (private_kib()?, handles()?);
        runtime.block_on(spawn(SPAWNS / share))?;
        let (memory_after, handles_after) = (private_kib()?, self::handles()?);
        grown = grown.max(figure(memory_after) - figure(memory));
        grown = if handles_after > handles { f64::INFINITY } else { grown };
        let figures = [memory, memory_after, handles, handles_after].map(Into::into);
        table.row(std::iter::once(guest.name.into()).chain(figures));
    }
    report.table(table);
    report.at_most("growth over all spawns, KiB", grown, GROWTH_KIB);
    Ok(())
}

/// Many at once, each waiting for a tool.
fn live(
    report: &mut Report,
    runtime: &Runtime,
    host: &Arc<Host>,
    guests: &[Guest],
) -> anyhow::Result<()> {
    let title = format!("{LIVE} live at once, each in a call of a tool");
    let mut table = Table::new(title, &["", "MiB in all", "KiB each"]);
    for guest in guests {
        let gate = Arc::new(Gate::default());
        let before = private_kib()?;
        let failed = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..LIVE)
            .map(|_| {
                let (host, code, gate) = (Arc::clone(host), Host::code(guest), Arc::clone(&gate));
                let (input, failed) = (guest.input, Arc::clone(&failed));
                runtime.spawn(async move {
                    let ran = host.run(code, input, &gate).await;
                    if ran.is_err() {
                        failed.fetch_add(1, Ordering::AcqRel);
                    }
                    ran
                })
            })
            .collect();
        let gone = || failed.load(Ordering::Acquire) > 0;
        while gate.arrived.load(Ordering::Acquire) < LIVE && !gone() {
            thread::sleep(Duration::from_millis(10));
        }
        let all = figure(private_kib()?.saturating_sub(before));
        gate.open();
        for task in tasks {
            runtime.block_on(task)??;
        }
        let count = figure(u64::try_from(LIVE)?);
        table.row([guest.name.into(), (all / 1024.0).into(), (all / count).into()]);
        let (what, stated) = stated_mib(guest.kind);
        report.at_most(what, all / 1024.0, stated);
    }
    report.table(table);
    Ok(())
}

/// What so many may take together, in MiB. docs/guide/benchmarks.md states the same.
fn stated_mib(kind: CodeKind) -> (&'static str, f64) {
    match kind {
        CodeKind::Component => ("private memory of 1,000 live components, MiB", 64.0),
        CodeKind::Javascript => ("private memory of 1,000 live JavaScript agents, MiB", 1_280.0),
        CodeKind::Python => ("private memory of 1,000 live Python agents, MiB", 3_072.0),
    }
}

/// Memory that is this process's alone and was written.
fn private_kib() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/smaps_rollup")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Private_Dirty:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse().ok());
    kib.context("smaps_rollup has no Private_Dirty")
}

fn handles() -> anyhow::Result<u64> {
    Ok(u64::try_from(std::fs::read_dir("/proc/self/fd")?.count())?)
}
