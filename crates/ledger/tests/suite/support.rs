//! A ledger in a folder of its own, and what the tests commit to it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use ::ledger::keys::{FileKeys, KeyProvider};
use ::ledger::sqlite::Sqlite;
use ::ledger::store::Store;
use ::ledger::{Batch, Clock, Committed, Error, Ledger};
use kernel::account::{Input as Money, Purpose};
use kernel::ids::{AccountId, TenantId, WorkspaceId};
use kernel::machine::{Command, Input, Kind};
use kernel::receipt::LogId;
use kernel::values::{MicroUsd, Timestamp};

pub(crate) const HOST: &str = "tally.example";
/// 2026-11-21T02:00:00Z.
pub(crate) const START: Timestamp = Timestamp(1_795_226_400_000_000);

pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
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
        Arc::new(Sqlite::open(&self.db()).unwrap())
    }

    pub(crate) fn open(&self) -> Ledger {
        self.open_on(self.store())
    }

    pub(crate) fn open_on(&self, store: Arc<dyn Store>) -> Ledger {
        Ledger::start(store, self.keys(), clock(), HOST).unwrap()
    }

    /// Runs SQL beside the ledger, as somebody with the file would.
    pub(crate) fn tamper(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.db()).unwrap();
        assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
    }
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
        money("funds", Money::Debit { amount, to: account(id) }),
        money(id, Money::Credit { amount, from: account("funds") }),
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
