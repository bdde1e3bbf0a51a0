//! The SQL text, one for every engine: only BIGINT, TEXT and bytes; `$n` parameters in order of
//! first use; no clock, sequence or trigger of the database. The tenant comes first in every key.

/// The tables. `BYTES` stands for the engine's type of bytes.
pub(crate) const SCHEMA: &str = "
CREATE TABLE writer (id BIGINT NOT NULL PRIMARY KEY, epoch BIGINT NOT NULL, schema BIGINT NOT NULL);
INSERT INTO writer (id, epoch, schema) VALUES (1, 0, 1);
CREATE TABLE ledger_head (
  tenant TEXT NOT NULL, log TEXT NOT NULL, size BIGINT NOT NULL, prev BYTES NOT NULL,
  time BIGINT NOT NULL, frontier TEXT NOT NULL, checkpoint TEXT NOT NULL,
  PRIMARY KEY (tenant, log));
CREATE TABLE receipt (
  tenant TEXT NOT NULL, log TEXT NOT NULL, idx BIGINT NOT NULL,
  envelope BYTES NOT NULL, leaf BYTES NOT NULL,
  PRIMARY KEY (tenant, log, idx));
CREATE TABLE tree_hash (
  tenant TEXT NOT NULL, log TEXT NOT NULL, level BIGINT NOT NULL, idx BIGINT NOT NULL,
  hash BYTES NOT NULL,
  PRIMARY KEY (tenant, log, level, idx));
CREATE TABLE entity (
  tenant TEXT NOT NULL, log TEXT NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,
  version BIGINT NOT NULL, status TEXT NOT NULL, due_at BIGINT, body TEXT NOT NULL,
  PRIMARY KEY (tenant, log, kind, id));
CREATE INDEX entity_due ON entity (due_at) WHERE due_at IS NOT NULL;
CREATE TABLE content (
  tenant TEXT NOT NULL, id TEXT NOT NULL, part TEXT NOT NULL, class TEXT NOT NULL,
  day BIGINT NOT NULL, sealed BYTES NOT NULL,
  PRIMARY KEY (tenant, id, part));
CREATE TABLE content_key (
  tenant TEXT NOT NULL, class TEXT NOT NULL, day BIGINT NOT NULL, wrapped BYTES NOT NULL,
  PRIMARY KEY (tenant, class, day));
CREATE TABLE blob (
  tenant TEXT NOT NULL, digest BYTES NOT NULL, bytes BYTES NOT NULL,
  PRIMARY KEY (tenant, digest));
";

/// The version of [`SCHEMA`].
pub(crate) const SCHEMA_VERSION: i64 = 1;

pub(crate) const ACQUIRE: &str = "UPDATE writer SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch";
/// Read under the lock that the commit holds anyway.
pub(crate) const FENCE: &str = "SELECT epoch FROM writer WHERE id = 1";
pub(crate) const HEAD_INSERT: &str = "INSERT INTO ledger_head \
    (tenant, log, size, prev, time, frontier, checkpoint) VALUES ($1, $2, $3, $4, $5, $6, $7) \
    ON CONFLICT DO NOTHING";
pub(crate) const HEAD_UPDATE: &str = "UPDATE ledger_head SET size = $1, prev = $2, time = $3, \
    frontier = $4, checkpoint = $5 WHERE tenant = $6 AND log = $7 AND size = $8";
pub(crate) const RECEIPT_INSERT: &str =
    "INSERT INTO receipt (tenant, log, idx, envelope, leaf) VALUES ($1, $2, $3, $4, $5)";
pub(crate) const HASH_INSERT: &str =
    "INSERT INTO tree_hash (tenant, log, level, idx, hash) VALUES ($1, $2, $3, $4, $5)";
pub(crate) const ENTITY_UPSERT: &str = "INSERT INTO entity \
    (tenant, log, kind, id, version, status, due_at, body) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
    ON CONFLICT (tenant, log, kind, id) DO UPDATE SET version = excluded.version, \
    status = excluded.status, due_at = excluded.due_at, body = excluded.body";
pub(crate) const CONTENT_UPSERT: &str = "INSERT INTO content \
    (tenant, id, part, class, day, sealed) VALUES ($1, $2, $3, $4, $5, $6) \
    ON CONFLICT (tenant, id, part) DO UPDATE SET class = excluded.class, day = excluded.day, \
    sealed = excluded.sealed";
pub(crate) const CONTENT_DELETE: &str =
    "DELETE FROM content WHERE tenant = $1 AND id = $2 AND part = $3";
pub(crate) const CONTENT_KEY_INSERT: &str = "INSERT INTO content_key \
    (tenant, class, day, wrapped) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING";
pub(crate) const BLOB_INSERT: &str =
    "INSERT INTO blob (tenant, digest, bytes) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

pub(crate) const LOGS: &str = "SELECT tenant, log FROM ledger_head ORDER BY tenant, log";
pub(crate) const HEAD: &str = "SELECT prev, time, frontier, checkpoint FROM ledger_head \
    WHERE tenant = $1 AND log = $2";
pub(crate) const ENTITY: &str = "SELECT version, status, due_at, body FROM entity \
    WHERE tenant = $1 AND log = $2 AND kind = $3 AND id = $4";
pub(crate) const ENTITIES: &str = "SELECT id, version, status, due_at, body FROM entity \
    WHERE tenant = $1 AND log = $2 AND kind = $3 AND id < $4 AND ($5 = '' OR status = $5) \
    ORDER BY id DESC LIMIT $6";
pub(crate) const DUE: &str = "SELECT tenant, log, kind, id FROM entity \
    WHERE due_at IS NOT NULL AND due_at <= $1 ORDER BY due_at LIMIT $2";
pub(crate) const NEXT_DUE: &str = "SELECT min(due_at) FROM entity WHERE due_at IS NOT NULL";
pub(crate) const RECEIPTS: &str = "SELECT idx, envelope, leaf FROM receipt \
    WHERE tenant = $1 AND log = $2 AND idx >= $3 ORDER BY idx LIMIT $4";
pub(crate) const LEAVES: &str = "SELECT leaf FROM receipt \
    WHERE tenant = $1 AND log = $2 AND idx >= $3 ORDER BY idx LIMIT $4";
pub(crate) const HASHES: &str = "SELECT hash FROM tree_hash \
    WHERE tenant = $1 AND log = $2 AND level = $3 AND idx >= $4 ORDER BY idx LIMIT $5";
pub(crate) const CONTENT: &str = "SELECT class, day, sealed FROM content \
    WHERE tenant = $1 AND id = $2 AND part = $3";
pub(crate) const CONTENT_KEY: &str =
    "SELECT wrapped FROM content_key WHERE tenant = $1 AND class = $2 AND day = $3";
pub(crate) const CONTENT_DESTROY: &str = "DELETE FROM content WHERE class = $1 AND day < $2";
pub(crate) const CONTENT_KEY_DESTROY: &str =
    "DELETE FROM content_key WHERE class = $1 AND day < $2";
pub(crate) const BLOB: &str = "SELECT bytes FROM blob WHERE tenant = $1 AND digest = $2";
pub(crate) const SCAN: &str = "SELECT kind, id, version, status, due_at, body FROM entity \
    WHERE tenant = $1 AND log = $2 AND (kind > $3 OR (kind = $3 AND id > $4)) \
    ORDER BY kind, id LIMIT $5";
pub(crate) const ENTITIES_CLEAR: &str = "DELETE FROM entity WHERE tenant = $1 AND log = $2";
