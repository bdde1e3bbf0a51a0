//! What only PostgreSQL has: roles, row-level security, TLS or nothing, a lease.

use std::sync::Arc;

use ::ledger::Error;
use ::ledger::postgres::{Database, Owner, Plane, Postgres};
use ::ledger::store::{Commit, SideRow, Store};
use kernel::receipt::LogId;
use kernel::values::Digest;
use testkit::Cluster;

use crate::support::*;

const TENANT_TABLES: [&str; 7] =
    ["ledger_head", "receipt", "tree_hash", "entity", "content", "content_key", "blob"];

fn of(tenant: &str) -> LogId {
    use kernel::ids::{TenantId, WorkspaceId};
    LogId::Workspace(TenantId::new(tenant).unwrap(), WorkspaceId::new("ops").unwrap())
}

fn count(database: &testkit::Database, tenant: Option<&str>, table: &str) -> String {
    let name =
        tenant.map_or_else(String::new, |name| format!("SET LOCAL tally.tenant = '{name}';"));
    let count = format!("SELECT count(*) FROM tally_runtime.{table}");
    database.sql(&format!("BEGIN; SET LOCAL ROLE tally_reader; {name} {count}; COMMIT"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_sees_one_tenant_or_nothing() {
    let database = migrated();
    let place = Place::on(&database);
    let ledger = place.open();
    for tenant in ["acme", "other"] {
        grow(&ledger, &of(tenant), 300).await;
        let blob = |bytes: &[u8]| SideRow::Blob {
            tenant: tenant.to_owned(),
            digest: Digest::of(bytes),
            bytes: bytes.to_vec(),
        };
        let batch = ::ledger::Batch::side(of(tenant), vec![blob(b"one")]);
        ledger.commit(batch).await.unwrap();
    }
    for table in TENANT_TABLES {
        assert_eq!(count(&database, None, table).trim(), "0", "{table}");
        assert_eq!(count(&database, Some("nobody"), table).trim(), "0", "{table}");
        let whole = database.sql(&format!("SELECT count(*) FROM tally_runtime.{table}"));
        let own: i64 = count(&database, Some("acme"), table).trim().parse().unwrap();
        assert_eq!(own * 2, whole.trim().parse::<i64>().unwrap(), "{table}");
        let tenants = format!(
            "BEGIN; SET LOCAL ROLE tally_reader; SET LOCAL tally.tenant = 'acme';
            SELECT DISTINCT tenant FROM tally_runtime.{table}; COMMIT"
        );
        assert!(["", "acme"].contains(&database.sql(&tenants).trim()), "{table}");
    }
    let receipts: i64 = count(&database, Some("acme"), "receipt").trim().parse().unwrap();
    assert_eq!(receipts, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_adds_to_the_log_and_cannot_change_it() {
    let database = migrated();
    let place = Place::on(&database);
    grow(&place.open(), &log("ops"), 3).await;
    let refused = |role: &str, sql: &str| {
        let sql = format!(
            "SET ROLE {role}; SET search_path = tally_runtime;
            SET tally.tenant = 'acme'; {sql}"
        );
        let error = database.try_sql(&sql).unwrap_err();
        assert!(error.contains("permission denied"), "{sql}: {error}");
    };
    for table in ["receipt", "tree_hash"] {
        refused("tally_writer", &format!("UPDATE {table} SET tenant = 'x'"));
        refused("tally_writer", &format!("DELETE FROM {table}"));
        refused("tally_writer", &format!("TRUNCATE {table}"));
    }
    refused("tally_writer", "DELETE FROM ledger_head");
    refused("tally_writer", "DELETE FROM blob");
    refused("tally_writer", "UPDATE blob SET bytes = ''");
    refused("tally_writer", "UPDATE content_key SET wrapped = ''");
    refused("tally_writer", "UPDATE migration SET name = ''");
    refused("tally_writer", "INSERT INTO writer VALUES (2, 2)");
    for table in TENANT_TABLES {
        refused("tally_reader", &format!("INSERT INTO {table} DEFAULT VALUES"));
        refused("tally_reader", &format!("UPDATE {table} SET tenant = 'x'"));
        refused("tally_reader", &format!("DELETE FROM {table}"));
    }
    refused("tally_reader", "SELECT * FROM lease");
    refused("tally_reader", "SELECT * FROM writer");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_took_over_is_alone_and_who_lets_go_is_followed() {
    let database = migrated();
    let url = Database::parse(&database.server_url(), None).unwrap();
    let open = |id: &str| {
        let owner = Owner { id: id.to_owned(), address: format!("of {id}") };
        Arc::new(Postgres::open(&url, Plane::Runtime, owner).unwrap())
    };
    let (first, second, third) = (open("one"), open("two"), open("three"));
    assert_eq!(first.vacant().unwrap(), Ok(()));
    let epoch = first.acquire().unwrap();
    assert_eq!(second.vacant().unwrap(), Err("of one".to_owned()));
    assert_eq!(open("one").vacant().unwrap(), Ok(()), "its own restart need not wait");
    let commit = |epoch| Commit { epoch, ..Commit::default() };
    first.commit(&commit(epoch)).unwrap();
    assert!(matches!(first.commit(&commit(epoch + 1)), Err(Error::Fenced)));

    // Two see that it let go; one of them is faster.
    let first = open("one");
    let epoch = first.acquire().unwrap();
    first.release().unwrap();
    assert!(matches!(first.commit(&commit(epoch)), Err(Error::Fenced)));
    first.fenced().await;
    second.stand_by().await.unwrap();
    third.stand_by().await.unwrap();
    let later = second.acquire().unwrap();
    assert!(later > epoch);
    assert!(matches!(third.acquire(), Err(Error::Fenced)));
    second.commit(&commit(later)).unwrap();

    // It falls silent without letting go: its heart stops with it.
    drop(second);
    third.stand_by().await.unwrap();
    assert_eq!(third.acquire().unwrap(), later + 1);
}

#[test]
fn a_login_without_the_roles_and_a_server_without_tls_are_refused() {
    // A cluster of its own: roles belong to all its databases.
    let cluster = Cluster::start();
    let database = migrated_on(&cluster);
    let open = |url: &str| {
        let url = Database::parse(url, None).unwrap();
        let owner = Owner { id: "a test".to_owned(), address: String::new() };
        Postgres::open(&url, Plane::Runtime, owner).unwrap_err()
    };
    database.sql("CREATE ROLE nobody_special LOGIN");
    let url = database.server_url();
    let refused = open(&url.replace("tally_login", "nobody_special"));
    assert!(matches!(&refused, Error::Database(why) if why.contains("GRANT")), "{refused}");
    let refused = open(&format!("{url}?sslmode=verify-full"));
    assert!(matches!(refused, Error::Store(_)), "{refused}");
    database.sql("ALTER ROLE tally_reader BYPASSRLS");
    let refused = open(&url);
    database.sql("ALTER ROLE tally_reader NOBYPASSRLS");
    assert!(matches!(&refused, Error::Schema(why) if why.contains("BYPASSRLS")), "{refused}");
}

/// A cluster of its own, which is cut off from its server.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_made_again() {
    let cluster = Cluster::start();
    let database = migrated_on(&cluster);
    let place = Place::on(&database);
    let ledger = place.open();
    let log = log("ops");
    grow(&ledger, &log, 5).await;
    database.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'tally_login'",
    );
    commit(&ledger, &log, fund("acc-1", 1)).await.unwrap();
    cluster.crash();
    assert!(matches!(commit(&ledger, &log, fund("acc-1", 1)).await, Err(Error::Store(_))));
    assert!(ledger.store().head(&log).is_err());
    cluster.restart();
    // A heartbeat has to arrive first.
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while let Err(error) = commit(&ledger, &log, fund("acc-1", 1)).await {
        assert!(matches!(error, Error::Store(_)) && std::time::Instant::now() < until, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    crate::ledger::check_whole(&place, &ledger, &log, 7);
}
