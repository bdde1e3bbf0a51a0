//! The one commit: columns instead of rows, so that each table takes one statement and one trip.

use std::collections::HashMap;

use tokio_postgres::error::SqlState;

use super::connection::{Connection, Params, Trouble};
use crate::Error;
use crate::store::{Commit, ContentRow, EntityRow, HeadUpdate, SideRow};

/// [`crate::sql::FENCE`], under a lock: nobody takes over while this commit is under way.
pub(super) const FENCE: &str = "SELECT epoch FROM writer WHERE id = 1 FOR UPDATE";
const HEADS_INSERT: &str = "INSERT INTO ledger_head \
    (tenant, log, size, prev, time, frontier, checkpoint) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[], \
    $6::text[], $7::text[]) ON CONFLICT DO NOTHING";
const HEADS_UPDATE: &str = "UPDATE ledger_head AS h SET size = n.size, prev = n.prev, \
    time = n.time, frontier = n.frontier, checkpoint = n.checkpoint \
    FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bigint[], $6::text[], \
    $7::text[], $8::bigint[]) AS n (tenant, log, size, prev, time, frontier, checkpoint, old) \
    WHERE h.tenant = n.tenant AND h.log = n.log AND h.size = n.old";
const RECEIPTS_INSERT: &str = "INSERT INTO receipt (tenant, log, idx, envelope, leaf) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[], $5::bytea[])";
const HASHES_INSERT: &str = "INSERT INTO tree_hash (tenant, log, level, idx, hash) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bytea[])";
const ENTITIES_INSERT: &str = "INSERT INTO entity \
    (tenant, log, kind, id, version, status, due_at, body) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], \
    $6::text[], $7::bigint[], $8::text[])";
const ENTITIES_UPSERT: &str = "INSERT INTO entity \
    (tenant, log, kind, id, version, status, due_at, body) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], \
    $6::text[], $7::bigint[], $8::text[]) \
    ON CONFLICT (tenant, log, kind, id) DO UPDATE SET version = excluded.version, \
    status = excluded.status, due_at = excluded.due_at, body = excluded.body";
const CONTENT_UPSERT: &str = "INSERT INTO content (tenant, id, part, class, day, sealed) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], \
    $6::bytea[]) ON CONFLICT (tenant, id, part) DO UPDATE SET class = excluded.class, \
    day = excluded.day, sealed = excluded.sealed";
const CONTENT_DELETE: &str = "DELETE FROM content AS c \
    USING unnest($1::text[], $2::text[], $3::text[]) AS d (tenant, id, part) \
    WHERE c.tenant = d.tenant AND c.id = d.id AND c.part = d.part";
const KEYS_INSERT: &str = "INSERT INTO content_key (tenant, class, day, wrapped) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bytea[]) \
    ON CONFLICT DO NOTHING";
const BLOBS_INSERT: &str = "INSERT INTO blob (tenant, digest, bytes) \
    SELECT * FROM unnest($1::text[], $2::bytea[], $3::bytea[]) ON CONFLICT DO NOTHING";

/// A number as a column has it. Sizes and indices stay below 2^63.
pub(super) fn big(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The columns of a list of rows: one vector for each expression.
macro_rules! columns {
    ($rows:expr, $row:ident => $($column:expr),+ $(,)?) => {
        ($($rows.iter().map(|$row| $column).collect::<Vec<_>>(),)+)
    };
}

/// What is kept beside, by what happens to it. A row that is written more than once ends as it is
/// written last, as it would row by row.
#[derive(Default)]
struct Side<'a> {
    content: Vec<&'a ContentRow>,
    dropped: Vec<(&'a str, &'a str, &'a str)>,
    keys: Vec<(&'a str, &'static str, i64, &'a [u8])>,
    blobs: Vec<(&'a str, &'a [u8], &'a [u8])>,
}

impl<'a> Side<'a> {
    fn of(rows: &'a [SideRow]) -> Self {
        let mut side = Self::default();
        let mut last: HashMap<(&str, &str, &str), Option<&ContentRow>> = HashMap::new();
        for row in rows {
            match row {
                SideRow::Content(row) => {
                    last.insert((&row.tenant, &row.id, row.part), Some(row));
                }
                SideRow::DropContent { tenant, id, part } => {
                    last.insert((tenant, id, part), None);
                }
                SideRow::ContentKey(row) => {
                    side.keys.push((&row.tenant, row.class.as_str(), row.day, &row.wrapped));
                }
                SideRow::Blob { tenant, digest, bytes } => {
                    side.blobs.push((tenant, &digest.0, bytes));
                }
            }
        }
        for (key, row) in last {
            match row {
                Some(row) => side.content.push(row),
                None => side.dropped.push(key),
            }
        }
        side
    }
}

/// Makes `commit` durable in two trips: the transaction with all that it writes, and its end. It
/// ends well only where its epoch held and every log was where it should be.
pub(super) async fn commit(connection: &Connection, commit: &Commit) -> Result<(), Trouble> {
    let side = Side::of(&commit.side);
    let (new, grown): (Vec<_>, Vec<_>) = commit.heads.iter().partition(|head| head.old_size == 0);
    let (inserting, updating) = (frontiers(&new)?, frontiers(&grown)?);
    // Pipelined: one trip for all of them. One that fails fails the transaction.
    let (
        begun,
        epoch,
        inserted,
        updated,
        receipts,
        hashes,
        created,
        entities,
        content,
        dropped,
        keys,
        blobs,
    ) = tokio::join!(
        biased;
        connection.client.batch_execute("BEGIN"),
        connection.query(FENCE, &[]),
        heads(connection, &new, &inserting),
        heads_moved(connection, &grown, &updating),
        receipts(connection, commit),
        hashes(connection, commit),
        created(connection, &commit.created),
        entities(connection, &commit.entities),
        content(connection, &side),
        dropped(connection, &side),
        keys(connection, &side),
        blobs(connection, &side),
    );
    begun?;
    let epoch: Option<i64> = epoch?.first().map(|row| row.try_get(0)).transpose()?;
    if epoch != Some(big(commit.epoch)) {
        return Err(Error::Fenced.into());
    }
    let (inserted, updated) = (inserted.map_err(clash)?, updated.map_err(clash)?);
    let expected = |rows: &[&HeadUpdate]| u64::try_from(rows.len()).unwrap_or(u64::MAX);
    if inserted != expected(&new) || updated != expected(&grown) {
        return Err(Error::Fenced.into());
    }
    for rest in [receipts, hashes, created, entities, content, dropped, keys, blobs] {
        rest.map_err(clash)?;
    }
    connection.end().await
}

/// A receipt that is there already is somebody else's.
fn clash(error: tokio_postgres::Error) -> Trouble {
    if error.code() == Some(&SqlState::UNIQUE_VIOLATION) {
        return Error::Store("a row of the log is there already".to_owned()).into();
    }
    error.into()
}

type Written = Result<u64, tokio_postgres::Error>;

fn frontiers(rows: &[&HeadUpdate]) -> Result<Vec<String>, Error> {
    let text = |row: &&HeadUpdate| serde_json::to_string(&row.head.frontier);
    let texts: Result<_, _> = rows.iter().map(text).collect();
    texts.map_err(|error: serde_json::Error| Error::Corrupt(error.to_string()))
}

async fn heads(c: &Connection, rows: &[&HeadUpdate], frontiers: &[String]) -> Written {
    if rows.is_empty() {
        return Ok(0);
    }
    let (tenant, log, size, prev, time, checkpoint) = columns!(rows, row =>
        row.log.tenant(), row.log.name(), big(row.head.frontier.size()), &row.head.prev.0[..],
        row.head.time.0, row.head.checkpoint.as_str());
    let params: Params<'_> = &[&tenant, &log, &size, &prev, &time, &frontiers, &checkpoint];
    c.execute(HEADS_INSERT, params).await
}

async fn heads_moved(c: &Connection, rows: &[&HeadUpdate], frontiers: &[String]) -> Written {
    if rows.is_empty() {
        return Ok(0);
    }
    let (tenant, log, size, prev, time, checkpoint, old) = columns!(rows, row =>
        row.log.tenant(), row.log.name(), big(row.head.frontier.size()), &row.head.prev.0[..],
        row.head.time.0, row.head.checkpoint.as_str(), big(row.old_size));
    let params: Params<'_> = &[&tenant, &log, &size, &prev, &time, &frontiers, &checkpoint, &old];
    c.execute(HEADS_UPDATE, params).await
}

async fn receipts(c: &Connection, commit: &Commit) -> Written {
    if commit.receipts.is_empty() {
        return Ok(0);
    }
    let (tenant, log, index, envelope, leaf) = columns!(commit.receipts, row =>
        row.log.tenant(), row.log.name(), big(row.index), row.envelope.as_slice(),
        &row.leaf.0[..]);
    c.execute(RECEIPTS_INSERT, &[&tenant, &log, &index, &envelope, &leaf]).await
}

async fn hashes(c: &Connection, commit: &Commit) -> Written {
    if commit.hashes.is_empty() {
        return Ok(0);
    }
    let (tenant, log, level, index, hash) = columns!(commit.hashes, row =>
        row.log.tenant(), row.log.name(), i64::from(row.level), big(row.index),
        &row.hash.0[..]);
    c.execute(HASHES_INSERT, &[&tenant, &log, &level, &index, &hash]).await
}

/// Writes the states of new streams.
async fn created(c: &Connection, rows: &[EntityRow]) -> Written {
    states(c, ENTITIES_INSERT, &rows.iter().collect::<Vec<_>>()).await
}

/// Writes states. One that is given more than once ends as it is given last.
pub(super) async fn entities(c: &Connection, rows: &[EntityRow]) -> Written {
    let last: HashMap<_, _> = rows.iter().map(|row| ((&row.log, &row.stream), row)).collect();
    states(c, ENTITIES_UPSERT, &last.into_values().collect::<Vec<_>>()).await
}

async fn states(c: &Connection, statement: &'static str, rows: &[&EntityRow]) -> Written {
    if rows.is_empty() {
        return Ok(0);
    }
    let (tenant, log, kind, id, version, status, due_at, body) = columns!(rows, row =>
        row.log.tenant(), row.log.name(), row.stream.kind.as_str(), &*row.stream.id,
        big(row.version), row.status.as_str(), row.due_at.map(|at| at.0), row.body.as_str());
    let params: Params<'_> = &[&tenant, &log, &kind, &id, &version, &status, &due_at, &body];
    c.execute(statement, params).await
}

async fn content(c: &Connection, side: &Side<'_>) -> Written {
    if side.content.is_empty() {
        return Ok(0);
    }
    let (tenant, id, part, class, day, sealed) = columns!(side.content, row =>
        row.tenant.as_str(), row.id.as_str(), row.part, row.class.as_str(), row.day,
        row.sealed.as_slice());
    c.execute(CONTENT_UPSERT, &[&tenant, &id, &part, &class, &day, &sealed]).await
}

async fn dropped(c: &Connection, side: &Side<'_>) -> Written {
    if side.dropped.is_empty() {
        return Ok(0);
    }
    let (tenant, id, part) = columns!(side.dropped, row => row.0, row.1, row.2);
    c.execute(CONTENT_DELETE, &[&tenant, &id, &part]).await
}

async fn keys(c: &Connection, side: &Side<'_>) -> Written {
    if side.keys.is_empty() {
        return Ok(0);
    }
    let (tenant, class, day, wrapped) = columns!(side.keys, row => row.0, row.1, row.2, row.3);
    c.execute(KEYS_INSERT, &[&tenant, &class, &day, &wrapped]).await
}

async fn blobs(c: &Connection, side: &Side<'_>) -> Written {
    if side.blobs.is_empty() {
        return Ok(0);
    }
    let (tenant, digest, bytes) = columns!(side.blobs, row => row.0, row.1, row.2);
    c.execute(BLOBS_INSERT, &[&tenant, &digest, &bytes]).await
}
