//! Servers on a database.

use std::fs;
use std::path::{Path, PathBuf};

use client::Client;
use ledger::postgres::{self, Owner, Plane, Postgres};
use ledger::sqlite::Sqlite;
use ledger::store::Store;
use testkit::{Cluster, Database};
use tokio::time::{Instant, sleep};

use super::wire::Wire;
use super::{LOOK_EVERY, PATIENCE, Server, assert_code, command_in, spawn, tally};

/// A database that `tally migrate` has made.
pub(crate) fn migrated(cluster: &Cluster) -> Database {
    let database = cluster.database();
    assert_code(&tally(&["migrate", "--database", &database.owner_url()]), 0);
    database.grant();
    database
}

impl Server {
    /// Starts a server on a database.
    pub(crate) fn start_on(database: &Database, yaml: &str) -> Self {
        Self::start_on_with(database, yaml, Vec::new())
    }

    /// The same, with variables that its environment has besides.
    pub(crate) fn start_on_with(
        database: &Database,
        yaml: &str,
        env: Vec<(String, PathBuf)>,
    ) -> Self {
        let url = database.server_url();
        let yaml = format!("database: {url:?}\n{yaml}");
        let mut server = Self::start_with(tempfile::tempdir().unwrap(), &yaml, env);
        server.database = Some(url);
        server
    }

    /// Starts another server on the database and with the keys of this one. The owner's client is
    /// for it.
    pub(crate) fn start_beside(&self, yaml: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let config = folder.path().join("tally.yaml");
        let (database, keys) = (self.database.as_ref().unwrap(), self.data.join("keys"));
        let yaml =
            format!("host: tally.test\ndatabase: {database:?}\nkeys_dir: {keys:?}\n{yaml}\n");
        fs::write(&config, yaml).unwrap();
        let env = self.env.clone();
        let (process, url, log) = spawn(&[], &data, &config, "127.0.0.1:0", &env);
        let owner = Client::new(&url, &self.owner_key()).unwrap();
        let (database, disk, names) = (self.database.clone(), None, None);
        let (keys, _folder) = (Default::default(), folder);
        Self { url, owner, data, config, env, disk, names, process, log, keys, database, _folder }
    }

    /// What a stopped server has left behind: the stores of its planes.
    pub(crate) fn stores(&self) -> Vec<Box<dyn Store>> {
        let Some(url) = &self.database else {
            return ["control.sqlite", "runtime.sqlite"]
                .map(|name| -> Box<dyn Store> {
                    Box::new(Sqlite::open(&self.data.join(name)).unwrap())
                })
                .into();
        };
        let database = postgres::Database::parse(url, None).unwrap();
        let owner = Owner { id: "a test".to_owned(), address: String::new() };
        Plane::ALL
            .map(|plane| -> Box<dyn Store> {
                Box::new(Postgres::open(&database, plane, owner.clone()).unwrap())
            })
            .into()
    }

    /// Waits until the server serves.
    pub(crate) async fn ready(&self) {
        let wire = Wire::new(&self.url);
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = wire.ask("GET", "/readyz").try_send().await;
            if answer.as_ref().is_ok_and(|reply| reply.status == 200) {
                return;
            }
            assert!(Instant::now() < until, "it never gets ready: {answer:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Runs `tally ledger …` on what a stopped server has left behind.
    pub(crate) fn offline(&self, what: &str) {
        self.offline_with(what, &self.data);
    }

    /// The same with another folder of keys.
    pub(crate) fn offline_with(&self, what: &str, data: &Path) {
        let args = ["ledger", what, "--json", "--host", "tally.test", "--data"];
        let mut ledger = command_in(&self.launcher(), &args);
        ledger.arg(data);
        if let Some(url) = &self.database {
            ledger.env("TALLY_DATABASE", url);
        }
        assert_code(&ledger.output().unwrap(), 0);
    }
}
