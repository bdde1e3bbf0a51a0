//! The memory of a witness: a SQLite file. Judging a checkpoint and remembering it is one
//! transaction, durable before anybody gets an answer.

use std::path::Path;

use kernel::note::Checkpoint;
use kernel::tree::SIZE_MAX;
use kernel::values::{Digest, Timestamp};
use kernel::witness::{AddCheckpoint, Alarm, Answer, Seen, Verdict, judge};
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use serde::Serialize;

use super::Error;

/// The file's name.
pub(super) const FILE: &str = "witness.sqlite";
/// The version of the tables.
const SCHEMA_VERSION: i64 = 1;
/// Checkpoints of one log that are remembered: a fork at one of their sizes is recognised whenever
/// it is shown.
const HISTORY_MAX: i64 = 10_000;
/// Alarms of one log that are kept. Further ones are logged, as all are.
const ALARMS_MAX: i64 = 1_000;
/// How long a request waits for another process that writes the file.
const BUSY: std::time::Duration = std::time::Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE witness (
  id INTEGER NOT NULL PRIMARY KEY CHECK (id = 1), schema INTEGER NOT NULL, name TEXT, vkey TEXT);
INSERT INTO witness (id, schema) VALUES (1, 1);
CREATE TABLE cosigned (
  origin TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL, note TEXT NOT NULL,
  time_s INTEGER NOT NULL, PRIMARY KEY (origin, size));
CREATE TABLE alarm (
  origin TEXT NOT NULL, kind TEXT NOT NULL, size INTEGER NOT NULL, root BLOB NOT NULL,
  known TEXT NOT NULL, presented TEXT NOT NULL, request TEXT NOT NULL, first_us INTEGER NOT NULL,
  last_us INTEGER NOT NULL, times INTEGER NOT NULL, resolved_us INTEGER,
  PRIMARY KEY (origin, kind, size, root));
";

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.to_string())
    }
}

/// What a log did, and the evidence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AlarmRow {
    /// Which log.
    pub origin: String,
    /// `fork`: the log is convicted. `unproven`: it has not proven that it only grew.
    pub kind: String,
    /// The checkpoint that the witness had cosigned, signed by the log.
    pub known: String,
    /// The checkpoint that does not fit it, signed by the log too.
    pub presented: String,
    /// The request that brought it, with the proof that came along.
    pub request: String,
    /// When it was seen first, in microseconds since 1970.
    pub first_us: i64,
    /// When it was seen last.
    pub last_us: i64,
    /// How often.
    pub times: i64,
    /// When the missing proof came; never after a fork.
    pub resolved_us: Option<i64>,
}

/// What became of a checkpoint.
pub(super) struct Added {
    pub(super) verdict: Verdict,
    /// The time to sign, in seconds since 1970.
    pub(super) time_s: u64,
    /// Whether the alarm, where there is one, is a new one.
    pub(super) new_alarm: bool,
}

/// The checkpoint cosigned last.
struct Latest {
    size: u64,
    root: Digest,
    note: String,
    time_s: i64,
}

pub(super) struct Store(Mutex<Connection>);

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(BUSY)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let sql = "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table'";
        if !tx.query_row(sql, [], |row| row.get(0))? {
            tx.execute_batch(SCHEMA)?;
        }
        let sql = "SELECT schema FROM witness WHERE id = 1";
        let version: i64 = tx.query_row(sql, [], |row| row.get(0))?;
        if version != SCHEMA_VERSION {
            let message = format!("schema version {version}: this program knows {SCHEMA_VERSION}");
            return Err(Error::Store(message));
        }
        tx.commit()?;
        Ok(Self(Mutex::new(connection)))
    }

    /// The witness's name: as `asked` for the first time, for ever after the same.
    pub(super) fn name(&self, asked: Option<&str>, default: &str) -> Result<String, Error> {
        let sql = "UPDATE witness SET name = coalesce(name, ?1) WHERE id = 1 RETURNING name";
        let first = asked.unwrap_or(default);
        let name: String = self.0.lock().query_row(sql, [first], |row| row.get(0))?;
        if asked.is_some_and(|asked| asked != name) {
            let message = format!("this witness is named `{name}` for ever: leave out the name");
            return Err(Error::Configuration(message));
        }
        Ok(name)
    }

    /// Binds this memory to the key `vkey`; one that is bound to another key is refused.
    pub(super) fn bind(&self, vkey: &str) -> Result<(), Error> {
        let sql = "UPDATE witness SET vkey = coalesce(vkey, ?1) WHERE id = 1 RETURNING vkey";
        let bound: String = self.0.lock().query_row(sql, [vkey], |row| row.get(0))?;
        if bound == vkey {
            return Ok(());
        }
        let message = format!("this memory belongs to the key {bound}, which is not in `keys`");
        Err(Error::Configuration(message))
    }

    /// Judges a checkpoint that its log signed, and remembers what came of it.
    pub(super) fn add(
        &self,
        request: &AddCheckpoint,
        checkpoint: &Checkpoint,
        now: Timestamp,
    ) -> Result<Added, Error> {
        let mut connection = self.0.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let latest = latest(&tx, &checkpoint.origin)?;
        let same = cosigned_at(&tx, &checkpoint.origin, checkpoint.size)?;
        let seen = Seen {
            latest: latest.as_ref().map(|latest| (latest.size, latest.root)),
            at_this_size: same.as_ref().map(|(root, _)| *root),
        };
        let verdict = judge(&seen, request.old, &request.proof, checkpoint);
        // Time never runs backwards in what a witness says of one log.
        let last_s = latest.as_ref().map_or(0, |latest| latest.time_s);
        let time_s = (now.0 / 1_000_000).max(last_s);
        let mut new_alarm = false;
        if verdict.answer == Answer::Cosign {
            remember(&tx, request, checkpoint, time_s)?;
            resolve(&tx, checkpoint, now)?;
        }
        if let Some(alarm) = verdict.alarm {
            let rewritten = same.filter(|(root, _)| *root != checkpoint.root);
            let known = rewritten.map(|(_, note)| note).or(latest.map(|latest| latest.note));
            new_alarm = raise(&tx, alarm, request, checkpoint, &known.unwrap_or_default(), now)?;
        }
        tx.commit()?;
        Ok(Added { verdict, time_s: u64::try_from(time_s).unwrap_or(0), new_alarm })
    }

    /// Every alarm, the newest first.
    pub(super) fn alarms(&self) -> Result<Vec<AlarmRow>, Error> {
        let connection = self.0.lock();
        let mut query = connection.prepare_cached(
            "SELECT origin, kind, known, presented, request, first_us, last_us, times, resolved_us \
             FROM alarm ORDER BY first_us DESC, origin, kind, size LIMIT ?1",
        )?;
        let rows = query.query_map([ALARMS_MAX], |row| {
            Ok(AlarmRow {
                origin: row.get(0)?,
                kind: row.get(1)?,
                known: row.get(2)?,
                presented: row.get(3)?,
                request: row.get(4)?,
                first_us: row.get(5)?,
                last_us: row.get(6)?,
                times: row.get(7)?,
                resolved_us: row.get(8)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// How many alarms of a kind are not resolved.
    pub(super) fn open_alarms(&self, kind: Alarm) -> Result<i64, Error> {
        let sql = "SELECT count(*) FROM alarm WHERE kind = ?1 AND resolved_us IS NULL";
        Ok(self.0.lock().query_row(sql, [kind.as_str()], |row| row.get(0))?)
    }
}

/// A size as SQLite has it: checkpoints of larger trees are refused before.
fn big(size: u64) -> i64 {
    i64::try_from(size.min(SIZE_MAX)).unwrap_or(i64::MAX)
}

fn latest(tx: &Transaction<'_>, origin: &str) -> Result<Option<Latest>, Error> {
    let sql = "SELECT size, root, note, time_s FROM cosigned WHERE origin = ?1 \
               ORDER BY size DESC LIMIT 1";
    let row = tx.query_row(sql, [origin], |row| {
        let size: i64 = row.get(0)?;
        Ok(Latest {
            size: u64::try_from(size)
                .map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, size))?,
            root: Digest(row.get(1)?),
            note: row.get(2)?,
            time_s: row.get(3)?,
        })
    });
    Ok(row.optional()?)
}

fn cosigned_at(
    tx: &Transaction<'_>,
    origin: &str,
    size: u64,
) -> Result<Option<(Digest, String)>, Error> {
    let sql = "SELECT root, note FROM cosigned WHERE origin = ?1 AND size = ?2";
    let row =
        tx.query_row(sql, params![origin, big(size)], |row| Ok((Digest(row.get(0)?), row.get(1)?)));
    Ok(row.optional()?)
}

fn remember(
    tx: &Transaction<'_>,
    request: &AddCheckpoint,
    checkpoint: &Checkpoint,
    time_s: i64,
) -> Result<(), Error> {
    tx.execute(
        "INSERT INTO cosigned (origin, size, root, note, time_s) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (origin, size) DO UPDATE SET time_s = excluded.time_s",
        params![
            checkpoint.origin,
            big(checkpoint.size),
            checkpoint.root.0,
            request.checkpoint.to_string(),
            time_s
        ],
    )?;
    tx.execute(
        "DELETE FROM cosigned WHERE origin = ?1 AND size <= (SELECT size FROM cosigned \
         WHERE origin = ?1 ORDER BY size DESC LIMIT 1 OFFSET ?2)",
        params![checkpoint.origin, HISTORY_MAX],
    )?;
    Ok(())
}

/// The proof that was missing has come: the log did grow to this very tree.
fn resolve(tx: &Transaction<'_>, checkpoint: &Checkpoint, now: Timestamp) -> Result<(), Error> {
    tx.execute(
        "UPDATE alarm SET resolved_us = ?1 WHERE origin = ?2 AND kind = ?3 AND size = ?4 \
         AND root = ?5 AND resolved_us IS NULL",
        params![
            now.0,
            checkpoint.origin,
            Alarm::Unproven.as_str(),
            big(checkpoint.size),
            checkpoint.root.0
        ],
    )?;
    Ok(())
}

/// Keeps the evidence. True where it was not known.
fn raise(
    tx: &Transaction<'_>,
    alarm: Alarm,
    request: &AddCheckpoint,
    checkpoint: &Checkpoint,
    known: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let (origin, size, root) = (&checkpoint.origin, big(checkpoint.size), checkpoint.root.0);
    let again = tx.execute(
        "UPDATE alarm SET last_us = ?1, times = times + 1 \
         WHERE origin = ?2 AND kind = ?3 AND size = ?4 AND root = ?5",
        params![now.0, origin, alarm.as_str(), size, root],
    )?;
    if again > 0 {
        return Ok(false);
    }
    // Each kind has room of its own, so that nobody hides a fork behind what is unproven.
    tx.execute(
        "INSERT INTO alarm (origin, kind, size, root, known, presented, request, first_us, \
         last_us, times) SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, 1 \
         WHERE (SELECT count(*) FROM alarm WHERE origin = ?1 AND kind = ?2) < ?9",
        params![
            origin,
            alarm.as_str(),
            size,
            root,
            known,
            request.checkpoint.to_string(),
            request.to_string(),
            now.0,
            ALARMS_MAX
        ],
    )?;
    Ok(true)
}
