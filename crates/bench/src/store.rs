//! Signed, durable receipts on each engine, beside what the same engine takes of bare rows: the
//! same size, the same number in a commit, neither signed nor chained nor folded.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ledger::postgres::{Database, Owner, Plane, Postgres, migrate};
use ledger::sqlite::Sqlite;
use ledger::store::Store;
use rusqlite::params;
use testkit::Cluster;
use tokio_postgres::NoTls;

use crate::report::{Cell, Report, Table};
use crate::stats::{self, Times};
use crate::workload::Workload;

const WRITERS: [usize; 3] = [1, 64, 512];
/// What the sequencer puts into one commit at most.
const GROUP_MAX: usize = 256;
const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(1);
const AIM: f64 = 0.6;

const TABLE: &str = "CREATE TABLE raw (tenant TEXT NOT NULL, log TEXT NOT NULL, \
    idx BIGINT NOT NULL, envelope BYTES NOT NULL, leaf BYTES NOT NULL, \
    PRIMARY KEY (tenant, log, idx))";
const SQLITE_INSERT: &str =
    "INSERT INTO raw (tenant, log, idx, envelope, leaf) VALUES (?1, ?2, ?3, ?4, ?5)";
const POSTGRES_INSERT: &str = "INSERT INTO raw (tenant, log, idx, envelope, leaf) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[])";

/// The bare rows of an engine.
enum Raw {
    Sqlite(rusqlite::Connection),
    Postgres(tokio_postgres::Client, tokio_postgres::Statement),
}

struct Engine {
    name: &'static str,
    workload: Workload,
    raw: Raw,
    next: i64,
    found: [Found; WRITERS.len()],
}

/// What all rounds with one number of writers came to.
#[derive(Default)]
struct Found {
    times: Times,
    receipts: Vec<f64>,
    rows: Vec<f64>,
    ratios: Vec<f64>,
}

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let mut report = Report::new("store");
    let dir = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let cluster = Cluster::start();
    let mut engines = [sqlite(dir.path())?, runtime.block_on(postgres(dir.path(), &cluster))?];
    for _ in 0..ROUNDS {
        for (at, writers) in WRITERS.into_iter().enumerate() {
            for engine in &mut engines {
                runtime.block_on(engine.round(at, writers))?;
            }
        }
    }
    for engine in &mut engines {
        report.table(engine.table());
    }
    for engine in &engines {
        for (writers, found) in WRITERS.iter().zip(&engine.found) {
            let what = aim(engine.name, *writers);
            report.at_least(what, stats::median(found.ratios.iter().copied()), AIM);
        }
    }
    report.note("A receipt is signed, chained, folded into its state and durable when it counts.");
    report.note("A row is as long as a mean receipt.");
    report.note("A commit of rows has as many as there are writers, at most 256.");
    report.note("SQLite: WAL, synchronous=FULL. PostgreSQL: fsync on, Unix socket.");
    report.note("SQLite's files are in --dir, PostgreSQL's in the temporary folder (TMPDIR).");
    Ok(report)
}

fn aim(engine: &str, writers: usize) -> &'static str {
    match (engine, writers) {
        ("sqlite", 1) => "sqlite, 1 writer",
        ("sqlite", 64) => "sqlite, 64 writers",
        ("sqlite", _) => "sqlite, 512 writers",
        (_, 1) => "postgresql, 1 writer",
        (_, 64) => "postgresql, 64 writers",
        _ => "postgresql, 512 writers",
    }
}

fn engine(
    name: &'static str,
    dir: &Path,
    store: Arc<dyn Store>,
    raw: Raw,
) -> anyhow::Result<Engine> {
    let dir = dir.join(name);
    std::fs::create_dir(&dir)?;
    let workload = Workload::on(&dir, store)?;
    Ok(Engine { name, workload, raw, next: 0, found: Default::default() })
}

fn sqlite(dir: &Path) -> anyhow::Result<Engine> {
    let store = Arc::new(Sqlite::open(&dir.join("log.sqlite"))?);
    let raw = rusqlite::Connection::open(dir.join("raw.sqlite"))?;
    raw.pragma_update(None, "page_size", 8192)?;
    raw.pragma_update(None, "journal_mode", "WAL")?;
    raw.pragma_update(None, "synchronous", "FULL")?;
    raw.pragma_update(None, "wal_autocheckpoint", 2000)?;
    raw.execute_batch(&TABLE.replace("BYTES", "BLOB"))?;
    engine("sqlite", dir, store, Raw::Sqlite(raw))
}

async fn postgres(dir: &Path, cluster: &Cluster) -> anyhow::Result<Engine> {
    let database = cluster.database();
    let url = Database::parse(&database.owner_url(), None)?;
    migrate::migrate(&url)?;
    let owner = Owner { id: "bench".to_owned(), address: String::new() };
    let store = Arc::new(Postgres::open(&url, Plane::Runtime, owner)?);
    let (client, connection) = tokio_postgres::connect(&database.owner_url(), NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute(&TABLE.replace("BYTES", "BYTEA").replace("TEXT", "TEXT COLLATE \"C\""))
        .await?;
    let insert = client.prepare(POSTGRES_INSERT).await?;
    engine("postgresql", dir, store, Raw::Postgres(client, insert))
}

impl Engine {
    async fn round(&mut self, at: usize, writers: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        let times = self.workload.run(writers, move |_| started.elapsed() < ROUND).await?;
        let receipts = stats::figure(times.count()) / started.elapsed().as_secs_f64();
        let length = self.workload.mean_length()?;
        let (started, before) = (Instant::now(), self.next);
        while started.elapsed() < ROUND {
            self.rows(writers.min(GROUP_MAX), length).await?;
        }
        let rows = stats::figure(u64::try_from(self.next - before)?);
        let rows = rows / started.elapsed().as_secs_f64();
        let found = self.found.get_mut(at).context("a number of writers")?;
        found.times.extend(times);
        found.receipts.push(receipts);
        found.rows.push(rows);
        found.ratios.push(receipts / rows);
        Ok(())
    }

    /// One commit of bare rows.
    async fn rows(&mut self, count: usize, length: usize) -> anyhow::Result<()> {
        let (envelope, leaf) = (vec![0x5a_u8; length], [0x5a_u8; 32]);
        let first = self.next;
        self.next += i64::try_from(count)?;
        match &mut self.raw {
            Raw::Sqlite(connection) => {
                let tx = connection.transaction()?;
                for index in first..self.next {
                    let mut insert = tx.prepare_cached(SQLITE_INSERT)?;
                    insert.execute(params!["acme", "ops", index, envelope, leaf])?;
                }
                tx.commit()?;
            }
            Raw::Postgres(client, insert) => {
                let (tenant, log) = (vec!["acme"; count], vec!["ops"; count]);
                let index: Vec<i64> = (first..self.next).collect();
                let (envelope, leaf) = (vec![&envelope[..]; count], vec![&leaf[..]; count]);
                client.execute(insert, &[&tenant, &log, &index, &envelope, &leaf]).await?;
            }
        }
        Ok(())
    }

    fn table(&mut self) -> Table {
        let title = format!("{}: receipts, and bare rows (latency in microseconds)", self.name);
        let columns = ["writers", "receipts/s", "p50", "p99", "rows/s", "receipts/rows"];
        let mut table = Table::new(title, &columns);
        for (writers, found) in WRITERS.iter().zip(&mut self.found) {
            let (p50, p99) = (found.times.percentile(50), found.times.percentile(99));
            let median = |figures: &[f64]| stats::median(figures.iter().copied());
            let (receipts, rows) = (median(&found.receipts), median(&found.rows));
            let figures = [receipts, p50, p99, rows, median(&found.ratios)].map(Cell::from);
            table.row(std::iter::once(writers.to_string().into()).chain(figures));
        }
        table
    }
}
