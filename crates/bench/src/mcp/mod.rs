//! A call of a tool through the MCP gateway, as both revisions make it, against the same call
//! without it and against an action of the REST API on the same server.

mod upstream;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use kernel::ids::{TenantId, WorkspaceId};
use kernel::receipt::LogId;
use ledger::keys::FileKeys;
use ledger::rebuild::verify_log;
use ledger::sqlite::Sqlite;
use ledger::store::Store as _;
use serde_json::json;

use self::upstream::TOOL;
use crate::load::{self, Load, Target, Until};
use crate::metrics::Metrics;
use crate::pace;
use crate::report::{Cell, Report, Table};
use crate::server::{self, Server, Setup};
use crate::stats::{self, Times, figure};

const CLIENTS: [usize; 3] = [1, 16, 64];
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(2);
/// Requests a second, and from how many connections.
const RATES: [u32; 2] = [500, 2_000];
const PACED: usize = 64;
const PACE: Duration = Duration::from_secs(5);
/// Calls before anything is measured.
const WARM: u64 = 2_000;
/// How long the gateway may take to find the upstream.
const FOUND: Duration = Duration::from_secs(30);
const RECEIPTS_PER_ACTION: u64 = 2;
const UPSTREAM: &str = "fast";
/// Nine digits: each request of a connection has its own.
const ID: &str = "100000000";
const STAGES: [&str; 5] = ["prepare", "decide", "permit", "execute", "outcome"];

/// How a call is made.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the upstream itself.
    Direct,
    /// Through Tally, as revision 2026-07-28 does: each request stands by itself.
    Modern,
    /// Through Tally, as revision 2025-11-25 does: in a session for each client.
    Session,
    /// No call: an action by the REST API.
    Rest,
}

impl Way {
    const ALL: [Self; 4] = [Self::Direct, Self::Modern, Self::Session, Self::Rest];

    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Modern => "2026-07-28",
            Self::Session => "2025-11-25",
            Self::Rest => "REST action",
        }
    }

    fn governed(self) -> bool {
        self != Self::Direct
    }
}

/// What was measured of one way with one number of clients.
#[derive(Default)]
struct Found {
    times: Times,
    per_second: Vec<f64>,
    cost: Vec<f64>,
    stages: Vec<Vec<f64>>,
}

/// A server, what is behind it, and how many actions it has had.
struct Bench {
    server: Server,
    upstream: SocketAddr,
    /// What each client sends in its session. An agent may have only so many of them.
    sessions: Vec<Target>,
    actions: u64,
}

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let program = server::build()?;
    let mut report = Report::new("mcp");
    let dir = tempfile::tempdir_in(dir)?;
    let upstream = upstream::serve()?;
    let setup = Setup { upstream: Some((UPSTREAM, upstream)), ..Setup::default() };
    let server = Server::start(&program, dir.path(), &setup)?;
    let mut bench = Bench { server, upstream, sessions: Vec::new(), actions: 0 };
    bench.wait()?;
    for way in Way::ALL {
        bench.closed(way, PACED, Until::Sent(WARM))?;
    }
    let mut found = CLIENTS.map(|_| Way::ALL.map(|_| Found::default()));
    for _ in 0..ROUNDS {
        for (clients, found) in CLIENTS.into_iter().zip(&mut found) {
            for (way, found) in Way::ALL.into_iter().zip(found) {
                bench.measure(way, clients, found)?;
            }
        }
    }
    let mut paced = Vec::new();
    for rate in RATES {
        for way in [Way::Direct, Way::Modern, Way::Session] {
            paced.push((rate, way, bench.paced(way, rate)?));
        }
    }
    let Bench { server, actions, .. } = bench;
    drop(server);
    let size = proven(&dir.path().join("data"), actions)?;
    tables(&mut report, &found, paced)?;
    aims(&mut report, &found)?;
    notes(&mut report, actions, size);
    Ok(report)
}

impl Bench {
    fn call(address: SocketAddr, headers: &str, meta: bool) -> anyhow::Result<Target> {
        let mut params = json!({"name": TOOL, "arguments": {"text": "what a model would say"}});
        if meta && let Some(params) = params.as_object_mut() {
            let meta = json!({
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientInfo": {"name": "bench", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": {},
            });
            params.insert("_meta".to_owned(), meta);
        }
        let params = params.to_string();
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{ID},"method":"tools/call","params":{params}}}"#);
        let headers = format!("Accept: application/json, text/event-stream\r\n{headers}");
        Target::send(address, "/mcp", &headers, &body).numbered(ID)
    }

    /// What one client sends, the same again and again.
    fn target(&self, way: Way) -> anyhow::Result<Target> {
        let (address, key) = (self.server.address, &self.server.key);
        let modern = format!(
            "MCP-Protocol-Version: 2026-07-28\r\nMcp-Method: tools/call\r\nMcp-Name: {TOOL}\r\n"
        );
        let bearer = format!("Authorization: Bearer {key}\r\n");
        match way {
            Way::Direct => Self::call(self.upstream, &modern, true),
            Way::Modern => Self::call(address, &(modern + &bearer), true),
            Way::Session => {
                let session = open(address, &bearer)?;
                let version = "MCP-Protocol-Version: 2025-11-25\r\n";
                let headers = format!("{version}Mcp-Session-Id: {session}\r\n{bearer}");
                Self::call(address, &headers, false)
            }
            Way::Rest => Ok(self.server.action.clone()),
        }
    }

    fn targets(&mut self, way: Way, clients: usize) -> anyhow::Result<Vec<Target>> {
        if way != Way::Session {
            return Ok(vec![self.target(way)?; clients]);
        }
        while self.sessions.len() < clients {
            self.sessions.push(self.target(way)?);
        }
        Ok(self.sessions.iter().take(clients).cloned().collect())
    }

    /// Waits until the gateway has found the upstream and its tool.
    fn wait(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + FOUND;
        let target = self.target(Way::Modern)?;
        loop {
            let before = Metrics::read(self.server.address)?.executed();
            load::run(&target, 1, Until::Sent(1))?;
            if Metrics::read(self.server.address)?.executed() > before {
                self.actions += 1;
                return Ok(());
            }
            ensure!(Instant::now() < until, "the gateway does not find the tool `{TOOL}`");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A closed loop: each client sends again when it has its answer.
    fn closed(&mut self, way: Way, clients: usize, until: Until) -> anyhow::Result<Load> {
        let targets = self.targets(way, clients)?;
        let before = Metrics::read(self.server.address)?;
        let load = load::run_each(&targets, until)?.all_ok()?;
        self.counted(way, load.count(), &before)?;
        Ok(load)
    }

    /// Counts calls in, each of which must have been an executed action.
    fn counted(&mut self, way: Way, count: u64, before: &Metrics) -> anyhow::Result<()> {
        let executed = Metrics::read(self.server.address)?.executed() - before.executed();
        let expected = if way.governed() { count } else { 0 };
        let differs = (executed - figure(expected)).abs() > 0.5;
        ensure!(!differs, "{expected} governed answers, but {executed} executed actions");
        self.actions += expected;
        Ok(())
    }

    fn measure(&mut self, way: Way, clients: usize, found: &mut Found) -> anyhow::Result<()> {
        let before = (self.server.cpu()?, Metrics::read(self.server.address)?);
        let load = self.closed(way, clients, Until::Over(ROUND))?;
        let taken: f64 = self.server.cpu()?.since(&before.0).values().sum();
        let metrics = Metrics::read(self.server.address)?;
        found.cost.push(if way.governed() { taken / figure(load.count()) } else { 0.0 });
        found.per_second.push(load.per_second());
        found.times.extend(load.times);
        let stage = |stage: &&str| metrics.stage(&before.1, stage).unwrap_or(0.0);
        found.stages.push(STAGES.iter().map(stage).collect());
        Ok(())
    }

    fn paced(&mut self, way: Way, rate: u32) -> anyhow::Result<Times> {
        let targets = self.targets(way, PACED)?;
        let before = Metrics::read(self.server.address)?;
        let times = pace::run(&targets, rate, PACE)?;
        self.counted(way, times.count(), &before)?;
        Ok(times)
    }
}

/// Opens a session and returns its id.
fn open(address: SocketAddr, bearer: &str) -> anyhow::Result<String> {
    let params = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "1"},
    });
    let body = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params});
    let answer = exchange(address, bearer, &body.to_string())?;
    let session = answer.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("mcp-session-id").then(|| value.trim().to_owned())
    });
    let session = session.with_context(|| format!("no session was opened: {answer}"))?;
    let body = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let headers =
        format!("{bearer}Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
    exchange(address, &headers, &body.to_string())?;
    Ok(session)
}

/// One request on a connection of its own; an answer that is no success is an error.
fn exchange(address: SocketAddr, headers: &str, body: &str) -> anyhow::Result<String> {
    let headers =
        format!("{headers}Connection: close\r\nAccept: application/json, text/event-stream\r\n");
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(FOUND))?;
    stream.write_all(&Target::send(address, "/mcp", &headers, body).request)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if !answer.starts_with("HTTP/1.1 2") {
        bail!("the gateway answered {answer}");
    }
    Ok(answer)
}

/// Checks that the log has the receipts of all calls and no others, and verifies it: every
/// signature, the chain, the tree and the checkpoint.
fn proven(data: &Path, actions: u64) -> anyhow::Result<u64> {
    let store = Sqlite::open(&data.join("runtime.sqlite"))?;
    let keys = FileKeys::open(&data.join("keys"))?;
    let log = LogId::Workspace(TenantId::new("main")?, WorkspaceId::new("main")?);
    let head = store.head(&log)?.context("an empty log")?;
    let report = verify_log(&store, "localhost", &keys, &log)?;
    ensure!(report.valid(), "the log does not verify: {:?}", report.errors);
    let (size, expected) = (head.frontier.size(), actions * RECEIPTS_PER_ACTION);
    ensure!(size == expected, "{actions} actions, but {size} receipts and not {expected}");
    Ok(size)
}

fn of(found: &[Found; 4], way: Way) -> anyhow::Result<&Found> {
    let at = Way::ALL.iter().position(|known| *known == way);
    at.and_then(|at| found.get(at)).context("a way")
}

fn rate(found: &Found) -> f64 {
    stats::median(found.per_second.iter().copied())
}

fn cost(found: &Found) -> f64 {
    stats::median(found.cost.iter().copied())
}

/// The median of the rounds' own ratios.
fn ratio(one: &Found, other: &Found) -> f64 {
    stats::median(one.per_second.iter().zip(&other.per_second).map(|(one, other)| one / other))
}

fn tables(
    report: &mut Report,
    found: &[[Found; 4]; 3],
    mut paced: Vec<(u32, Way, Times)>,
) -> anyhow::Result<()> {
    let columns =
        ["calls", "clients", "1/s", "p50 us", "p99 us", "server us", "of direct", "of REST"];
    let mut table = Table::new("tools/call, closed loop", &columns);
    for (clients, found) in CLIENTS.iter().zip(found) {
        let (direct, rest) = (of(found, Way::Direct)?, of(found, Way::Rest)?);
        for (way, found) in Way::ALL.into_iter().zip(found) {
            let mut times = found.times.clone();
            let figures = [rate(found), times.percentile(50), times.percentile(99), cost(found)];
            let ratios = [ratio(found, direct), ratio(found, rest)];
            let name = [Cell::from(way.name()), clients.to_string().as_str().into()];
            table.row(name.into_iter().chain(figures.into_iter().chain(ratios).map(Cell::from)));
        }
    }
    report.table(table);
    let columns = ["calls", "1/s", "p50 us", "p99 us", "added p50", "added p99"];
    let title = format!("tools/call, open loop of {PACED} clients: time since it was due");
    let mut table = Table::new(title, &columns);
    let mut direct = (0.0, 0.0);
    for (rate, way, times) in &mut paced {
        let (p50, p99) = (times.percentile(50), times.percentile(99));
        if *way == Way::Direct {
            direct = (p50, p99);
        }
        let figures = [p50, p99, p50 - direct.0, p99 - direct.1].map(Cell::from);
        table.row([way.name().into(), u64::from(*rate).into()].into_iter().chain(figures));
    }
    report.table(table);
    let columns = ["calls", "prepare", "decide", "permit", "execute", "outcome"];
    let title = "time of each stage by the server's clock, 64 clients, average us";
    let mut table = Table::new(title, &columns);
    let many = found.last().context("a number of clients")?;
    for way in Way::ALL.into_iter().filter(|way| way.governed()) {
        let stages = &of(many, way)?.stages;
        let nth =
            |nth| stats::median(stages.iter().filter_map(|all: &Vec<f64>| all.get(nth).copied()));
        let figures = (0..STAGES.len()).map(nth).map(Cell::from);
        table.row(std::iter::once(way.name().into()).chain(figures));
    }
    report.table(table);
    Ok(())
}

fn aims(report: &mut Report, found: &[[Found; 4]; 3]) -> anyhow::Result<()> {
    let many = found.last().context("a number of clients")?;
    let (modern, session) = (of(many, Way::Modern)?, of(many, Way::Session)?);
    report.at_least("2026-07-28: calls/s, 64 clients", rate(modern), 5_000.0);
    report.at_least("2025-11-25: calls/s, 64 clients", rate(session), 5_000.0);
    report.at_most("2026-07-28: server us a call, 64 clients", cost(modern), 200.0);
    report.at_most("2025-11-25: server us a call, 64 clients", cost(session), 200.0);
    Ok(())
}

fn notes(report: &mut Report, actions: u64, size: u64) {
    report.note(format!(
        "Every call but the direct ones was decided by the baseline policy in dev, durable before \
         and after (SQLite, synchronous=FULL) and signed: {actions} actions left {size} receipts, \
         and the log that they made verifies."
    ));
    report.note(
        "The upstream is a thread of the load generator that looks at the id and the method of a \
         message; its time, and that of the clients, is not in `server us`.",
    );
    report.note("`added` is over the direct calls of the same rate. All share this machine.");
}
