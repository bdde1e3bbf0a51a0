//! The flagship, end to end: from the event to the write-back, with a model that answers at once
//! and somebody who approves at once; what a thousand incidents cost that wait for somebody; and
//! how fast a call fails whose system is left alone.

mod circuit;
mod install;
mod world;

use std::path::Path;
use std::time::Duration;

use crate::fsync::Probe;
use crate::report::{Cell, Report, Table};
use crate::server;
use crate::stats::{self, Times};
use world::World;

/// Incidents at once.
const AT_ONCE: [usize; 2] = [1, 32];
/// Incidents that are measured with each.
const INCIDENTS: [usize; 2] = [100, 320];
/// Incidents before that, which are not.
const WARM_UP: usize = 5;
const WAITING: usize = 1_000;
/// How long a server with nothing to do is looked at, and how often. The median counts: what it
/// does once in a while, whoever waits, is in few of them.
const IDLE: Duration = Duration::from_secs(4);
const IDLE_LOOKS: usize = 7;
/// What all that waits may take: a ten-thousandth of a processor is no more than nothing.
const WAITING_US: f64 = 100.0;
const PROBES: u64 = 200;
const P95_MS: f64 = 50.0;

/// What was measured with one number of incidents at once.
#[derive(Default)]
struct Found {
    written: Times,
    noted: Times,
    /// Microseconds of processor time that the server took for all of them.
    server: f64,
    fsync: Vec<f64>,
}

/// The processor time that waiting took.
struct Idle {
    /// Microseconds a second, without anything that waits.
    before: f64,
    /// The same with all that waits.
    waiting: f64,
}

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let program = server::build()?;
    let mut report = Report::new("itsm");
    let probe = Probe::new(dir)?;
    let folder = tempfile::tempdir_in(dir)?;
    let world = World::start(&program, folder.path())?;
    world.approving(true)?;
    rounds(&world, WARM_UP, 1)?;
    let mut found = Vec::new();
    for (at_once, incidents) in AT_ONCE.into_iter().zip(INCIDENTS) {
        let mut synced = probe.run(PROBES)?;
        let before = world.cpu()?;
        let mut one = rounds(&world, incidents, at_once)?;
        one.server = world.cpu()?.since(&before).values().sum();
        synced.extend(probe.run(PROBES)?);
        one.fsync.push(synced.percentile(50));
        found.push(one);
    }
    world.approving(false)?;
    let posted = WARM_UP + INCIDENTS.iter().sum::<usize>();
    let before = idle(&world)?;
    world.create(WAITING)?;
    world.asked(posted + WAITING)?;
    let waits = Idle { before, waiting: idle(&world)? };
    report.table(latencies(&mut found));
    report.table(waiting(&waits));
    if let [one, many] = found.as_mut_slice() {
        let p95 = one.noted.percentile(95) / 1_000.0;
        report.at_most("p95 ms, 1 incident at once", p95, P95_MS);
        let p95 = many.noted.percentile(95) / 1_000.0;
        report.at_most("p95 ms, 32 incidents at once", p95, P95_MS);
    }
    let more = waits.waiting - waits.before;
    report.at_most("us a second for 1,000 incidents that wait", more, WAITING_US);
    // With nothing else at work.
    drop(world);
    circuit::measure(&program, &folder.path().join("circuit"), &mut report)?;
    notes(&mut report);
    Ok(report)
}

/// Incidents in rounds of so many at once.
fn rounds(world: &World, incidents: usize, at_once: usize) -> anyhow::Result<Found> {
    let mut found = Found::default();
    for _ in 0..incidents.div_ceil(at_once) {
        let created = world.create(at_once)?;
        for took in world.took(&created)? {
            found.written.push(Duration::from_micros(took.written));
            found.noted.push(Duration::from_micros(took.noted));
        }
    }
    Ok(found)
}

/// Microseconds of processor time that the server takes in a second with nothing to do.
fn idle(world: &World) -> anyhow::Result<f64> {
    // What was under way a moment ago ends.
    std::thread::sleep(IDLE);
    let mut looks = Vec::with_capacity(IDLE_LOOKS);
    for _ in 0..IDLE_LOOKS {
        let before = world.cpu()?;
        std::thread::sleep(IDLE);
        let taken: f64 = world.cpu()?.since(&before).values().sum();
        looks.push(taken / IDLE.as_secs_f64());
    }
    Ok(stats::median(looks))
}

fn latencies(found: &mut [Found]) -> Table {
    let columns = [
        "at once",
        "incidents",
        "written p50 ms",
        "noted p50 ms",
        "noted p95 ms",
        "noted p99 ms",
        "server CPU ms each",
        "p50/fdatasync",
    ];
    let mut table = Table::new("from the event to the write-back", &columns);
    for (at_once, found) in AT_ONCE.into_iter().zip(found) {
        let fsync = stats::median(found.fsync.iter().copied());
        let (written, noted) = (found.written.percentile(50), found.noted.percentile(50));
        let [p95, p99] = [95, 99].map(|percent| found.noted.percentile(percent));
        let counts = [at_once.to_string(), found.noted.count().to_string()].map(Cell::from);
        let each = found.server / stats::figure(found.noted.count());
        let times = [written, noted, p95, p99, each].map(|micros| Cell::from(micros / 1_000.0));
        table.row(counts.into_iter().chain(times).chain([Cell::from(noted / fsync)]));
    }
    table
}

fn waiting(idle: &Idle) -> Table {
    let columns = ["incidents that wait for people", "CPU of the server, us a second"];
    let mut table = Table::new("waiting", &columns);
    for (count, taken) in [(0, idle.before), (WAITING, idle.waiting)] {
        table.row([Cell::from(count.to_string()), Cell::from(taken)]);
    }
    table
}

fn notes(report: &mut Report) {
    report.note(
        "An incident: ServiceNow's webhook, read, model, card on Slack, button, write, note; four \
         actions and a card, each decided and receipted. The simulator of ServiceNow takes the \
         times, from the creation of the record to its write and to its note.",
    );
    report.note(
        "ServiceNow, Slack and the model are simulators that answer at once; the approver presses \
         the button as soon as the card is there. All of them, the server and the disk share this \
         machine.",
    );
}
