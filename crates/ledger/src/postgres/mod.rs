//! The store on PostgreSQL (15 or later). A schema for each plane; `tally migrate` makes it.
//!
//! Three kinds of sessions. The writer's act as `tally_writer`, which may add to the log but not
//! change it. Reads of one tenant act as `tally_reader`, to which row-level security shows the
//! tenant that the transaction names and nothing else. Reads across tenants ([`Store::logs`],
//! [`Store::due`], [`Store::next_due`]: the queue, start and verification) act as the writer.

mod commit;
mod connection;
mod database;
mod lease;
pub mod limits;
pub mod migrate;
mod rows;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

pub use self::database::Database;
pub use self::lease::Owner;

use self::commit::{FENCE, big};
use self::connection::{Connection, Params, Pool, Session, Threads, Trouble, store_error};
use self::lease::Lease;
use crate::store::{Class, Commit, ContentRow, EntityRow, Head, Page, ReceiptRow, Store};
use crate::{Error, sql};

/// The role that writes.
pub const WRITER: &str = "tally_writer";
/// The role that reads one tenant.
pub const READER: &str = "tally_reader";

const SET_TENANT: &str = "SELECT set_config('tally.tenant', $1, true)";

/// Whose tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// What may exist.
    Control,
    /// What happens.
    Runtime,
}

impl Plane {
    /// Every plane, in the order in which a server acquires them.
    pub const ALL: [Self; 2] = [Self::Control, Self::Runtime];

    /// The schema of its tables.
    pub fn schema(self) -> &'static str {
        match self {
            Self::Control => "tally_control",
            Self::Runtime => "tally_runtime",
        }
    }
}

/// One plane's tables in a database.
pub struct Postgres {
    threads: Arc<Threads>,
    readers: Pool,
    wide: Pool,
    writer: Pool,
    lease: Arc<Lease>,
    /// A commit was cut off: nothing is read before it is known to have ended.
    unsettled: AtomicBool,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("owner", &self.lease.owner).finish_non_exhaustive()
    }
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Answer(error) => error,
            Trouble::Database(error) | Trouble::Unknown(error) => store_error(&error),
        }
    }
}

impl Postgres {
    /// Opens a plane. A database that is not exactly as `tally migrate` makes it is refused.
    pub fn open(database: &Database, plane: Plane, owner: Owner) -> Result<Self, Error> {
        let threads = Threads::start()?;
        let handle = threads.handle()?.clone();
        let session = |role, limit, size| {
            let session = Session { role, schema: plane.schema(), limit };
            Pool::new(database.clone(), session, handle.clone(), size)
        };
        let pool = |role, limit, size| session(Some(role), limit, size);
        let (login, writer) = (session(None, limits::READ, 1), pool(WRITER, limits::WRITE, 1));
        threads.wait(async || {
            login.with(limits::READ, async |c| migrate::check_login(c, plane).await).await?;
            writer.with(limits::READ, async |c| migrate::check(c, plane).await).await
        })?;
        Ok(Self {
            readers: pool(READER, limits::READ, limits::READERS),
            wide: pool(WRITER, limits::READ, limits::WIDE_READERS),
            lease: Arc::new(Lease::new(owner, pool(WRITER, limits::BEAT_TIME, 1))),
            writer,
            threads,
            unsettled: AtomicBool::new(false),
        })
    }

    /// Whether nobody else writes. Where somebody does, their address.
    pub fn vacant(&self) -> Result<Result<(), String>, Error> {
        let seen = self.threads.wait(async || self.lease.look().await)?;
        if !seen.free_for(&self.lease.owner) {
            return Ok(Err(seen.address));
        }
        self.lease.expect(&seen);
        Ok(Ok(()))
    }

    /// Returns when nobody else writes any more. [`Store::acquire`] then says [`Error::Fenced`]
    /// where a third server was faster.
    pub async fn stand_by(&self) -> Result<(), Error> {
        let lease = self.lease.clone();
        let watching = self.threads.handle()?.spawn(async move { lease.stand_by().await });
        watching.await.map_err(|error| Error::Store(error.to_string()))?
    }

    /// Returns when this server is not the writer any more.
    pub async fn fenced(&self) {
        self.lease.over().await;
    }

    /// Stops writing and lets a standby know.
    pub fn release(&self) -> Result<(), Error> {
        Ok(self.threads.wait(async || self.lease.release().await)?)
    }

    /// Waits until a commit that was cut off has ended one way or the other: it holds the lock of
    /// the fence until then.
    fn settle(&self) -> Result<(), Error> {
        if !self.unsettled.load(Ordering::Acquire) {
            return Ok(());
        }
        self.threads.wait(async || {
            let fence = async |connection: &Connection| Ok(connection.query(FENCE, &[]).await?);
            self.writer.with(limits::WRITE, fence).await
        })?;
        self.unsettled.store(false, Ordering::Release);
        Ok(())
    }

    /// Runs a transaction on the writer's connection.
    fn write<T: Send>(
        &self,
        work: impl AsyncFn(&Connection) -> Result<T, Trouble> + Send,
    ) -> Result<T, Error> {
        self.settle()?;
        let written = self.threads.wait(async || self.writer.with(limits::WRITE, work).await);
        if let Err(Trouble::Unknown(_) | Trouble::Answer(Error::Store(_))) = &written {
            self.unsettled.store(true, Ordering::Release);
        }
        Ok(written?)
    }

    /// Reads rows of one tenant, as the role that sees no other.
    fn read<T>(
        &self,
        tenant: &str,
        sql: &'static str,
        params: Params<'_>,
        decode: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.settle()?;
        let found = self.threads.wait(async || {
            let bound = async |c: &Connection| bound(c, tenant, sql, params).await;
            self.readers.with(limits::READ, bound).await
        });
        match found {
            Ok(rows) => rows.iter().map(decode).collect(),
            Err(trouble) if no_text(&trouble) => Ok(Vec::new()),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// Reads rows of all tenants, as the writer's role.
    fn read_wide<T>(
        &self,
        sql: &'static str,
        params: Params<'_>,
        decode: impl Fn(&Row) -> Result<T, Error>,
    ) -> Result<Vec<T>, Error> {
        self.settle()?;
        let rows = self.threads.wait(async || {
            let query = async |connection: &Connection| Ok(connection.query(sql, params).await?);
            self.wide.with(limits::READ, query).await
        })?;
        rows.iter().map(decode).collect()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.lease.end();
    }
}

/// Whether a parameter cannot be a text of the database (it has a NUL): no row has it either.
fn no_text(trouble: &Trouble) -> bool {
    let Trouble::Database(error) = trouble else { return false };
    error.code() == Some(&SqlState::CHARACTER_NOT_IN_REPERTOIRE)
}

/// Runs a query that sees the rows of one tenant: the name holds until the transaction ends.
async fn bound(
    connection: &Connection,
    tenant: &str,
    sql: &'static str,
    params: Params<'_>,
) -> Result<Vec<Row>, Trouble> {
    let (name, query) = (connection.statement(SET_TENANT).await?, connection.statement(sql).await?);
    let (client, named): (_, Params<'_>) = (&connection.client, &[&tenant]);
    // Pipelined: one trip. Outside a transaction the name would be gone, and with it every row.
    let (begun, set, rows, ended) = tokio::join!(
        biased;
        client.batch_execute("BEGIN READ ONLY"),
        client.execute(&name, named),
        client.query(&query, params),
        client.batch_execute("COMMIT"),
    );
    begun?;
    set?;
    let rows = rows?;
    ended?;
    Ok(rows)
}

fn first<T>(rows: Vec<T>) -> Option<T> {
    rows.into_iter().next()
}

impl Store for Postgres {
    fn acquire(&self) -> Result<u64, Error> {
        let epoch = self.threads.wait(async || self.lease.acquire().await)?;
        let (threads, lease) = (self.threads.clone(), self.lease.clone());
        // The runtime lives for as long as its last user.
        let beat = move || threads.handle().map(|handle| handle.block_on(lease.beat(epoch)));
        std::thread::Builder::new()
            .name("tally-heartbeat".to_owned())
            .spawn(beat)
            .map_err(|error| Error::Store(error.to_string()))?;
        Ok(epoch)
    }

    fn commit(&self, commit: &Commit) -> Result<(), Error> {
        commit.check_texts()?;
        self.lease.check()?;
        let committed = self.write(async |c| commit::commit(c, commit).await);
        if matches!(committed, Err(Error::Fenced)) {
            self.lease.end();
        }
        committed
    }

    fn writable(&self) -> Result<(), Error> {
        self.lease.check()
    }

    /// Across tenants.
    fn logs(&self) -> Result<Vec<LogId>, Error> {
        self.read_wide(sql::LOGS, &[], |row| rows::log_id(row, 0))
    }

    fn head(&self, log: &LogId) -> Result<Option<Head>, Error> {
        let (tenant, name) = (log.tenant(), log.name());
        self.read(tenant, sql::HEAD, &[&tenant, &name], rows::head).map(first)
    }

    fn entity(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        let (tenant, name, kind) = (log.tenant(), log.name(), stream.kind.as_str());
        let decode = |row: &Row| rows::entity(log, stream.clone(), row, 0);
        self.read(tenant, sql::ENTITY, &[&tenant, &name, &kind, &&*stream.id], decode).map(first)
    }

    fn entities(&self, log: &LogId, kind: Kind, page: &Page) -> Result<Vec<EntityRow>, Error> {
        let (tenant, name, of) = (log.tenant(), log.name(), kind.as_str());
        let status = page.status.as_deref().unwrap_or("");
        let limit = i64::from(page.limit);
        let decode = |row: &Row| {
            let stream = Stream { kind, id: rows::get::<String>(row, 0)?.into() };
            rows::entity(log, stream, row, 1)
        };
        match &page.before {
            None => {
                let params: Params<'_> = &[&tenant, &name, &of, &status, &limit];
                self.read(tenant, sql::ENTITIES, params, decode)
            }
            Some(before) => {
                let params: Params<'_> = &[&tenant, &name, &of, &status, before, &limit];
                self.read(tenant, sql::ENTITIES_BELOW, params, decode)
            }
        }
    }

    /// Across tenants.
    fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<(LogId, Stream)>, Error> {
        self.read_wide(sql::DUE, &[&now.0, &i64::from(limit)], |row| {
            let stream =
                Stream { kind: rows::kind(row, 2)?, id: rows::get::<String>(row, 3)?.into() };
            Ok((rows::log_id(row, 0)?, stream))
        })
    }

    /// Across tenants.
    fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        let due = self.read_wide(sql::NEXT_DUE, &[], |row| rows::get::<Option<i64>>(row, 0))?;
        Ok(due.into_iter().flatten().next().map(Timestamp))
    }

    fn receipts(&self, log: &LogId, from: u64, limit: u32) -> Result<Vec<ReceiptRow>, Error> {
        let (tenant, name) = (log.tenant(), log.name());
        let params: Params<'_> = &[&tenant, &name, &big(from), &i64::from(limit)];
        self.read(tenant, sql::RECEIPTS, params, |row| rows::receipt(log, row))
    }

    fn hashes(&self, log: &LogId, level: u8, first: u64, count: u32) -> Result<Vec<Digest>, Error> {
        let (tenant, name) = (log.tenant(), log.name());
        let (first, count, of) = (big(first), i64::from(count), i64::from(level));
        let decode = |row: &Row| rows::digest(row, 0);
        if level == 0 {
            return self.read(tenant, sql::LEAVES, &[&tenant, &name, &first, &count], decode);
        }
        self.read(tenant, sql::HASHES, &[&tenant, &name, &of, &first, &count], decode)
    }

    fn content(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
    ) -> Result<Option<ContentRow>, Error> {
        let decode = |row: &Row| rows::content(tenant, id, part, row);
        self.read(tenant, sql::CONTENT, &[&tenant, &id, &part], decode).map(first)
    }

    fn content_key(&self, tenant: &str, class: Class, day: i64) -> Result<Option<Vec<u8>>, Error> {
        let params: Params<'_> = &[&tenant, &class.as_str(), &day];
        self.read(tenant, sql::CONTENT_KEY, params, |row| rows::get(row, 0)).map(first)
    }

    /// Across tenants. What was deleted stays in the database's pages and its write-ahead log
    /// until vacuum and recycling have come by.
    fn destroy_content(&self, class: Class, day: i64) -> Result<u64, Error> {
        self.lease.check()?;
        self.write(async |connection| {
            connection.client.batch_execute("BEGIN").await?;
            connection.execute(sql::CONTENT_KEY_DESTROY, &[&class.as_str(), &day]).await?;
            let rows = connection.execute(sql::CONTENT_DESTROY, &[&class.as_str(), &day]).await?;
            connection.end().await?;
            Ok(rows)
        })
    }

    fn blob(&self, tenant: &str, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        let params: Params<'_> = &[&tenant, &&digest.0[..]];
        self.read(tenant, sql::BLOB, params, |row| rows::get(row, 0)).map(first)
    }

    fn scan(
        &self,
        log: &LogId,
        after: Option<&Stream>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, Error> {
        let (tenant, name) = (log.tenant(), log.name());
        let (kind, id) = after.map_or(("", ""), |stream| (stream.kind.as_str(), &*stream.id));
        let params: Params<'_> = &[&tenant, &name, &kind, &id, &i64::from(limit)];
        self.read(tenant, sql::SCAN, params, |row| {
            let stream =
                Stream { kind: rows::kind(row, 0)?, id: rows::get::<String>(row, 1)?.into() };
            rows::entity(log, stream, row, 2)
        })
    }

    fn replace_entities(
        &self,
        log: &LogId,
        rows: &mut dyn Iterator<Item = EntityRow>,
    ) -> Result<(), Error> {
        let rows: Vec<EntityRow> = rows.collect();
        let (tenant, name) = (log.tenant(), log.name());
        self.write(async |connection| {
            connection.client.batch_execute("BEGIN").await?;
            connection.execute(sql::ENTITIES_CLEAR, &[&tenant, &name]).await?;
            for page in rows.chunks(limits::ROWS) {
                commit::entities(connection, page).await?;
            }
            connection.end().await
        })
    }
}
