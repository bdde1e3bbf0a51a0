//! The store on SQLite: WAL, synchronous=FULL, one writing connection, a pool of readers.

use std::path::{Path, PathBuf};

use kernel::machine::{Kind, Stream};
use kernel::receipt::LogId;
use kernel::tree::Frontier;
use kernel::values::{Digest, Timestamp};
use parking_lot::Mutex;
use rusqlite::config::DbConfig;
use rusqlite::{
    Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params,
};

use crate::migrations::{self, Engine, Known};
use crate::store::{
    Class, Commit, ContentRow, EntityRow, Head, HeadUpdate, Page, ReceiptRow, SideRow, Store,
};
use crate::{Error, sql};

/// Readers kept open. Each holds a few pages; more than this wait for one another.
const READERS: usize = 4;
/// Statements kept compiled on each connection: there are fewer than this.
const STATEMENTS: usize = 32;
/// A page holds several receipts and states: fewer pages to write than at half the size, and no
/// more bytes in a commit of one receipt than the disk takes at once.
const PAGE_BYTES: i64 = 8_192;
/// Pages in the write-ahead log, about, before it is folded into the file: 16 MiB.
const LOG_PAGES: i64 = 2_000;
/// KiB of pages that a connection keeps: the inner pages of every index. What it writes is rarely
/// looked at again, and filling fresh memory with it costs more than using the same again.
const CACHE_KIB: i64 = 8_192;

/// A SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    path: PathBuf,
    writer: Mutex<Connection>,
    readers: Vec<Mutex<Connection>>,
}

impl Sqlite {
    /// Opens `path`, making it where it is absent. A file that is not what the
    /// migrations make is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let no_room = |error| no_room(path, error);
        let mut writer = connect(path, OpenFlags::default()).map_err(no_room)?;
        // Of a new file; one that is there keeps its own.
        writer.pragma_update(None, "page_size", PAGE_BYTES)?;
        writer.pragma_update(None, "journal_mode", "WAL").map_err(no_room)?;
        let journal: String = writer.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        if journal != "wal" {
            // Network file systems and the like: SQLite stays in the old mode without an error.
            return Err(Error::Store(format!("{} cannot be used in WAL mode", path.display())));
        }
        writer.pragma_update(None, "synchronous", "FULL")?;
        writer.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
        migrate(&mut writer)?;
        let read_only = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let readers = (0..READERS)
            .map(|_| connect(path, read_only).map(Mutex::new).map_err(no_room))
            .collect::<Result<_, _>>()?;
        Ok(Self { path: path.to_owned(), writer: Mutex::new(writer), readers })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `query` on a reader that is free, or on the first to become so.
    fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<T, Error> {
        let free = self.readers.iter().find_map(|reader| reader.try_lock());
        match free.or_else(|| self.readers.first().map(|reader| reader.lock())) {
            Some(connection) => Ok(query(&connection)?),
            None => Err(Error::Store("no reader".to_owned())),
        }
    }
}

/// SQLite calls a full disk an I/O error where it cannot make room for the index of its log. Only
/// where a file is opened is it sure that nothing was written then.
fn no_room(path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error().map(|error| error.extended_code);
    if code != Some(rusqlite::ffi::SQLITE_IOERR_SHMSIZE) {
        return error.into();
    }
    let path = path.display();
    Error::Full(format!("no space is left beside `{path}`: make some, and start again"))
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS);
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    // Else a statement is compiled anew for each value that its range is compared with.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "mmap_size", 256 << 20)?;
    // What is deleted is overwritten in its page, not only forgotten.
    connection.pragma_update(None, "secure_delete", true)?;
    Ok(connection)
}

/// Applies the migrations that the file lacks; refuses a file that was changed otherwise.
fn migrate(connection: &mut Connection) -> Result<(), Error> {
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    tx.execute(&Engine::Sqlite.text(migrations::TABLE), [])?;
    let known: Vec<Known> = tx
        .prepare(migrations::KNOWN)?
        .query_map([], |row| {
            let (number, name) = (row.get(0)?, row.get(1)?);
            Ok(Known { number, name, checksum: row.get(2)?, tables: row.get(3)? })
        })?
        .collect::<Result<_, _>>()?;
    for migration in migrations::missing(Engine::Sqlite, &known, &tables(&tx)?)? {
        tx.execute_batch(&migration.sql(Engine::Sqlite))?;
        let (number, name) = (migration.number, migration.name);
        let tables = migrations::tables_json(&tables(&tx)?)?;
        let checksum = migration.checksum(Engine::Sqlite);
        tx.execute(migrations::RECORD, params![number, name, checksum, tables])?;
    }
    Ok(tx.commit()?)
}

/// What SQLite says of its tables.
fn tables(connection: &Connection) -> Result<migrations::Tables, Error> {
    let lines: Vec<(String, String)> = connection
        .prepare("SELECT tbl_name, coalesce(sql, '') FROM sqlite_master ORDER BY name")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    Ok(migrations::fingerprints(lines))
}

/// An unsigned number as SQLite has it. Sizes and indices stay below 2^63.
fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(row: &Row<'_>, column: usize) -> Result<u64, rusqlite::Error> {
    let number: i64 = row.get(column)?;
    u64::try_from(number).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, number))
}

fn digest(row: &Row<'_>, column: usize) -> Result<Digest, rusqlite::Error> {
    row.get::<_, [u8; 32]>(column).map(Digest)
}

/// A text that does not read as what it should be: the store is corrupt.
fn corrupt<E: std::error::Error + Send + Sync + 'static>(
    column: usize,
) -> impl FnOnce(E) -> rusqlite::Error {
    move |error| {
        rusqlite::Error::FromSqlConversionFailure(
            column,
            rusqlite::types::Type::Text,
            Box::new(error),
        )
    }
}

fn kind(row: &Row<'_>, column: usize) -> Result<Kind, rusqlite::Error> {
    let name: String = row.get(column)?;
    Kind::parse(&name)
        .ok_or_else(|| corrupt(column)(std::io::Error::other(format!("unknown kind `{name}`"))))
}

fn log_id(row: &Row<'_>, column: usize) -> Result<LogId, rusqlite::Error> {
    let (tenant, name): (String, String) = (row.get(column)?, row.get(column + 1)?);
    LogId::from_parts(&tenant, &name).map_err(corrupt(column))
}

fn write_head(tx: &Transaction<'_>, update: &HeadUpdate) -> Result<(), Error> {
    let HeadUpdate { log, old_size, head } = update;
    let frontier =
        serde_json::to_string(&head.frontier).map_err(|error| Error::Corrupt(error.to_string()))?;
    let size = big(head.frontier.size());
    let changed = if *old_size == 0 {
        tx.prepare_cached(sql::HEAD_INSERT)?.execute(params![
            log.tenant(),
            log.name(),
            size,
            head.prev.0,
            head.time.0,
            frontier,
            head.checkpoint
        ])?
    } else {
        tx.prepare_cached(sql::HEAD_UPDATE)?.execute(params![
            size,
            head.prev.0,
            head.time.0,
            frontier,
            head.checkpoint,
            log.tenant(),
            log.name(),
            big(*old_size)
        ])?
    };
    if changed == 1 { Ok(()) } else { Err(Error::Fenced) }
}

fn write_entity(
    tx: &Transaction<'_>,
    statement: &str,
    row: &EntityRow,
) -> Result<(), rusqlite::Error> {
    tx.prepare_cached(statement)?.execute(params![
        row.log.tenant(),
        row.log.name(),
        row.stream.kind.as_str(),
        row.stream.id,
        big(row.version),
        row.status,
        row.due_at.map(|at| at.0),
        row.body
    ])?;
    Ok(())
}

fn write_side(tx: &Transaction<'_>, side: &SideRow) -> Result<(), rusqlite::Error> {
    match side {
        SideRow::Content(row) => tx.prepare_cached(sql::CONTENT_UPSERT)?.execute(params![
            row.tenant,
            row.id,
            row.part,
            row.class.as_str(),
            row.day,
            row.sealed
        ])?,
        SideRow::DropContent { tenant, id, part } => {
            tx.prepare_cached(sql::CONTENT_DELETE)?.execute(params![tenant, id, part])?
        }
        SideRow::ContentKey(row) => tx
            .prepare_cached(sql::CONTENT_KEY_INSERT)?
            .execute(params![row.tenant, row.class.as_str(), row.day, row.wrapped])?,
        SideRow::Blob { tenant, digest, bytes } => {
            tx.prepare_cached(sql::BLOB_INSERT)?.execute(params![tenant, digest.0, bytes])?
        }
    };
    Ok(())
}

impl Store for Sqlite {
    fn acquire(&self) -> Result<u64, Error> {
        let writer = self.writer.lock();
        Ok(writer.query_row(sql::ACQUIRE, [], |row| unsigned(row, 0))?)
    }

    fn commit(&self, commit: &Commit) -> Result<(), Error> {
        commit.check_texts()?;
        let mut writer = self.writer.lock();
        let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Immediate: nobody else writes until this transaction ends.
        let epoch = tx.prepare_cached(sql::FENCE)?.query_row([], |row| unsigned(row, 0))?;
        if epoch != commit.epoch {
            return Err(Error::Fenced);
        }
        for update in &commit.heads {
            write_head(&tx, update)?;
        }
        for row in &commit.receipts {
            tx.prepare_cached(sql::RECEIPT_INSERT)?.execute(params![
                row.log.tenant(),
                row.log.name(),
                big(row.index),
                row.envelope,
                row.leaf.0
            ])?;
        }
        for row in &commit.hashes {
            tx.prepare_cached(sql::HASH_INSERT)?.execute(params![
                row.log.tenant(),
                row.log.name(),
                row.level,
                big(row.index),
                row.hash.0
            ])?;
        }
        for row in &commit.created {
            write_entity(&tx, sql::ENTITY_INSERT, row)?;
        }
        for row in &commit.entities {
            write_entity(&tx, sql::ENTITY_UPSERT, row)?;
        }
        for side in &commit.side {
            write_side(&tx, side)?;
        }
        Ok(tx.commit()?)
    }

    fn logs(&self) -> Result<Vec<LogId>, Error> {
        self.read(|c| c.prepare_cached(sql::LOGS)?.query_map([], |row| log_id(row, 0))?.collect())
    }

    fn head(&self, log: &LogId) -> Result<Option<Head>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::HEAD)?
                .query_row(params![log.tenant(), log.name()], |row| {
                    let frontier: String = row.get(2)?;
                    let frontier: Frontier = serde_json::from_str(&frontier).map_err(corrupt(2))?;
                    Ok(Head {
                        prev: digest(row, 0)?,
                        time: Timestamp(row.get(1)?),
                        frontier,
                        checkpoint: row.get(3)?,
                    })
                })
                .optional()
        })
    }

    fn entity(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        self.read(|c| read_entity(c, log, stream))
    }

    fn latest(&self, log: &LogId, stream: &Stream) -> Result<Option<EntityRow>, Error> {
        Ok(read_entity(&self.writer.lock(), log, stream)?)
    }

    fn entities(&self, log: &LogId, kind: Kind, page: &Page) -> Result<Vec<EntityRow>, Error> {
        let (tenant, name, of) = (log.tenant(), log.name(), kind.as_str());
        let status = page.status.as_deref().unwrap_or("");
        let row = |row: &Row<'_>| {
            let stream = Stream { kind, id: row.get(0)? };
            entity_row(log, stream, row, 1)
        };
        self.read(|c| match &page.before {
            None => c
                .prepare_cached(sql::ENTITIES)?
                .query_map(params![tenant, name, of, status, page.limit], row)?
                .collect(),
            Some(before) => c
                .prepare_cached(sql::ENTITIES_BELOW)?
                .query_map(params![tenant, name, of, status, before, page.limit], row)?
                .collect(),
        })
    }

    fn due(&self, now: Timestamp, limit: u32) -> Result<Vec<(LogId, Stream)>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::DUE)?
                .query_map(params![now.0, limit], |row| {
                    let stream = Stream { kind: kind(row, 2)?, id: row.get(3)? };
                    Ok((log_id(row, 0)?, stream))
                })?
                .collect()
        })
    }

    fn next_due(&self) -> Result<Option<Timestamp>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::NEXT_DUE)?
                .query_row([], |row| row.get::<_, Option<i64>>(0))
                .map(|at| at.map(Timestamp))
        })
    }

    fn receipts(&self, log: &LogId, from: u64, limit: u32) -> Result<Vec<ReceiptRow>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::RECEIPTS)?
                .query_map(params![log.tenant(), log.name(), big(from), limit], |row| {
                    Ok(ReceiptRow {
                        log: log.clone(),
                        index: unsigned(row, 0)?,
                        envelope: row.get(1)?,
                        leaf: digest(row, 2)?,
                    })
                })?
                .collect()
        })
    }

    fn hashes(&self, log: &LogId, level: u8, first: u64, count: u32) -> Result<Vec<Digest>, Error> {
        self.read(|c| {
            if level == 0 {
                c.prepare_cached(sql::LEAVES)?
                    .query_map(params![log.tenant(), log.name(), big(first), count], |row| {
                        digest(row, 0)
                    })?
                    .collect()
            } else {
                c.prepare_cached(sql::HASHES)?
                    .query_map(
                        params![log.tenant(), log.name(), level, big(first), count],
                        |row| digest(row, 0),
                    )?
                    .collect()
            }
        })
    }

    fn content(
        &self,
        tenant: &str,
        id: &str,
        part: &'static str,
    ) -> Result<Option<ContentRow>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::CONTENT)?
                .query_row(params![tenant, id, part], |row| {
                    let class: String = row.get(0)?;
                    let class = Class::ALL
                        .into_iter()
                        .find(|known| known.as_str() == class)
                        .ok_or_else(|| corrupt(0)(std::io::Error::other("unknown class")))?;
                    Ok(ContentRow {
                        tenant: tenant.to_owned(),
                        id: id.to_owned(),
                        part,
                        class,
                        day: row.get(1)?,
                        sealed: row.get(2)?,
                    })
                })
                .optional()
        })
    }

    fn content_key(&self, tenant: &str, class: Class, day: i64) -> Result<Option<Vec<u8>>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::CONTENT_KEY)?
                .query_row(params![tenant, class.as_str(), day], |row| row.get(0))
                .optional()
        })
    }

    fn destroy_content(&self, class: Class, day: i64) -> Result<u64, Error> {
        let mut writer = self.writer.lock();
        let keys = writer.execute(sql::CONTENT_KEY_DESTROY, params![class.as_str(), day])?;
        if keys > 0 {
            // The write-ahead log still has the keys: it is folded into the file and cut off.
            writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let rows = tx.execute(sql::CONTENT_DESTROY, params![class.as_str(), day])?;
        tx.commit()?;
        Ok(u64::try_from(rows).unwrap_or(0))
    }

    fn blob(&self, tenant: &str, digest: Digest) -> Result<Option<Vec<u8>>, Error> {
        self.read(|c| {
            c.prepare_cached(sql::BLOB)?
                .query_row(params![tenant, digest.0], |row| row.get(0))
                .optional()
        })
    }

    fn scan(
        &self,
        log: &LogId,
        after: Option<&Stream>,
        limit: u32,
    ) -> Result<Vec<EntityRow>, Error> {
        let (after_kind, after_id) =
            after.map_or(("", ""), |stream| (stream.kind.as_str(), &*stream.id));
        self.read(|c| {
            c.prepare_cached(sql::SCAN)?
                .query_map(params![log.tenant(), log.name(), after_kind, after_id, limit], |row| {
                    let stream = Stream { kind: kind(row, 0)?, id: row.get(1)? };
                    entity_row(log, stream, row, 2)
                })?
                .collect()
        })
    }

    fn replace_entities(
        &self,
        log: &LogId,
        rows: &mut dyn Iterator<Item = EntityRow>,
    ) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        let tx = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute(sql::ENTITIES_CLEAR, params![log.tenant(), log.name()])?;
        for row in rows {
            write_entity(&tx, sql::ENTITY_UPSERT, &row)?;
        }
        Ok(tx.commit()?)
    }
}

fn read_entity(
    connection: &Connection,
    log: &LogId,
    stream: &Stream,
) -> Result<Option<EntityRow>, rusqlite::Error> {
    let key = params![log.tenant(), log.name(), stream.kind.as_str(), stream.id];
    connection
        .prepare_cached(sql::ENTITY)?
        .query_row(key, |row| entity_row(log, stream.clone(), row, 0))
        .optional()
}

/// The columns version, status, due_at and body, from `first` on.
fn entity_row(
    log: &LogId,
    stream: Stream,
    row: &Row<'_>,
    first: usize,
) -> Result<EntityRow, rusqlite::Error> {
    Ok(EntityRow {
        log: log.clone(),
        stream,
        version: unsigned(row, first)?,
        status: row.get(first + 1)?,
        due_at: row.get::<_, Option<i64>>(first + 2)?.map(Timestamp),
        body: row.get(first + 3)?,
    })
}
