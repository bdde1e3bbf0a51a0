//! A ledger in a folder of its own, and what the tests commit to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::ledger::keys::{FileKeys, KeyProvider};
use ::ledger::postgres::{Database, Owner, Plane, Postgres, migrate};
use ::ledger::sqlite::Sqlite;
use ::ledger::store::Store;
use ::ledger::{Batch, Clock, Committed, Error, Ledger};
use kernel::account::{Input as Money, Purpose};
use kernel::ids::{AccountId, TenantId, WorkspaceId};
use kernel::machine::{Command, Input, Kind};
use kernel::receipt::LogId;
use kernel::units::Units;
use kernel::values::{MicroUsd, Timestamp};
use testkit::Cluster;

pub(crate) const HOST: &str = "tally.example";
/// 2026-11-21T02:00:00Z.
pub(crate) const START: Timestamp = Timestamp(1_795_226_400_000_000);

/// Which engine a case runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    Sqlite,
    Postgres,
}

/// Makes tests of cases, one on each engine.
macro_rules! on_both {
    ($($case:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::support::Engine::Sqlite).await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case($crate::support::Engine::Postgres).await;
            })+
        }
    };
}
pub(crate) use on_both;

pub(crate) struct Place {
    dir: tempfile::TempDir,
    database: Option<testkit::Database>,
}

impl Place {
    pub(crate) fn new(engine: Engine) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let database = (engine == Engine::Postgres).then(migrated);
        Self { dir, database }
    }

    /// A place whose logs are in `database`.
    pub(crate) fn on(database: &testkit::Database) -> Self {
        Self { dir: tempfile::tempdir().unwrap(), database: Some(database.clone()) }
    }

    pub(crate) fn sqlite() -> Self {
        Self::new(Engine::Sqlite)
    }

    pub(crate) fn database(&self) -> Option<&testkit::Database> {
        self.database.as_ref()
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.dir.path().join("tally.db")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn keys(&self) -> Arc<dyn KeyProvider> {
        Arc::new(FileKeys::open(&self.dir.path().join("keys")).unwrap())
    }

    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match &self.database {
            None => Arc::new(Sqlite::open(&self.db()).unwrap()),
            Some(database) => Arc::new(open(database)),
        }
    }

    /// Another store with the same content.
    pub(crate) fn copy(&self) -> Arc<dyn Store> {
        let Some(database) = &self.database else {
            let copy = self.dir.path().join("copy.db");
            let connection = rusqlite::Connection::open(self.db()).unwrap();
            connection.execute("VACUUM INTO $1", [copy.to_str().unwrap()]).unwrap();
            return Arc::new(Sqlite::open(&copy).unwrap());
        };
        Arc::new(open(&database.copy()))
    }

    pub(crate) fn open(&self) -> Ledger {
        self.open_on(self.store())
    }

    pub(crate) fn open_on(&self, store: Arc<dyn Store>) -> Ledger {
        Ledger::start(store, self.keys(), clock(), HOST).unwrap()
    }

    /// Runs SQL beside the ledger, as somebody with the file or the database would. `FLIPPED` and
    /// `ZEROS` are written as the engine wants them.
    pub(crate) fn tamper(&self, sql: &str) {
        if let Some(database) = &self.database {
            let flip = "convert_to(replace(convert_from(envelope, 'UTF8'), \
                substr(convert_from(envelope, 'UTF8'), 400, 12), 'AAAABBBBCCCC'), 'UTF8')";
            let zeros = "decode(repeat('00', 32), 'hex')";
            let sql = sql.replace("FLIPPED", flip).replace("ZEROS", zeros);
            let changed = format!("WITH done AS ({sql} RETURNING 1) SELECT count(*) FROM done");
            let changed = database.sql(&format!("SET search_path = tally_runtime; {changed}"));
            assert_ne!(changed.trim(), "0", "{sql}");
            return;
        }
        let flip = "CAST(replace(CAST(envelope AS TEXT), \
            substr(CAST(envelope AS TEXT), 400, 12), 'AAAABBBBCCCC') AS BLOB)";
        let sql = &sql.replace("FLIPPED", flip).replace("ZEROS", "zeroblob(32)");
        let connection = rusqlite::Connection::open(self.db()).unwrap();
        assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
    }
}

/// A new database of the test program's cluster, migrated.
pub(crate) fn migrated() -> testkit::Database {
    migrated_on(Cluster::shared())
}

pub(crate) fn migrated_on(cluster: &Cluster) -> testkit::Database {
    let database = cluster.database();
    let owner = Database::parse(&database.owner_url(), None).unwrap();
    assert!(!migrate::migrate(&owner).unwrap().is_empty());
    database.grant();
    database
}

/// The runtime plane of a database, as a server opens it.
pub(crate) fn open(database: &testkit::Database) -> Postgres {
    let url = Database::parse(&database.server_url(), None).unwrap();
    let owner = Owner { id: "a test".to_owned(), address: "nowhere".to_owned() };
    Postgres::open(&url, Plane::Runtime, owner).unwrap()
}

/// One microsecond later each time it is read.
pub(crate) fn clock() -> Clock {
    let now = AtomicI64::new(START.0);
    Arc::new(move || Timestamp(now.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn log(workspace: &str) -> LogId {
    LogId::Workspace(TenantId::new("acme").unwrap(), WorkspaceId::new(workspace).unwrap())
}

pub(crate) fn account(id: &str) -> AccountId {
    AccountId::new(id).unwrap()
}

pub(crate) fn money(id: &str, input: Money) -> Command {
    Command::new(Kind::Account, id, Input::Account(input))
}

pub(crate) fn open_account(id: &str, purpose: Purpose) -> Command {
    money(id, Money::Ensure { purpose })
}

/// Moves money from the account `funds`, which has as much as anybody asks for.
pub(crate) fn fund(id: &str, amount: i64) -> Vec<Command> {
    let amount = MicroUsd(amount);
    vec![
        open_account("funds", Purpose::Funding),
        open_account(id, Purpose::Budget),
        money("funds", Money::Debit { amount, units: Units::NONE, to: account(id) }),
        money(id, Money::Credit { amount, units: Units::NONE, from: account("funds") }),
    ]
}

pub(crate) async fn commit(
    ledger: &Ledger,
    log: &LogId,
    commands: Vec<Command>,
) -> Result<Committed, Error> {
    ledger.commit(Batch::new(log.clone(), commands)).await
}

/// A log of `count` receipts, each of which funds one of seven accounts.
pub(crate) async fn grow(ledger: &Ledger, log: &LogId, count: u64) {
    let commits = (0..count).map(|i| {
        let (ledger, log) = (ledger.clone(), log.clone());
        let amount = i64::try_from(i).unwrap() + 1;
        tokio::spawn(async move {
            commit(&ledger, &log, fund(&format!("acc-{}", i % 7), amount)).await.unwrap();
        })
    });
    let commits: Vec<_> = commits.collect();
    for commit in commits {
        commit.await.unwrap();
    }
}
