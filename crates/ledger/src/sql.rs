//! The SQL text, one for every engine: only BIGINT, TEXT and bytes; `$n` parameters in order of
//! first use; no clock, sequence or trigger of the database. The tenant comes first in every key.

pub(crate) const ACQUIRE: &str = "UPDATE writer SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch";
/// Read under a lock that no other writer gets until the commit has ended: SQLite's transaction
/// holds it anyway, PostgreSQL adds [`crate::postgres`]'s `FOR UPDATE`.
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
pub(crate) const ENTITY_INSERT: &str = "INSERT INTO entity \
    (tenant, log, kind, id, version, status, due_at, body) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
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
// Two texts, not one with a bound that may be absent: so the index finds where a page begins.
pub(crate) const ENTITIES: &str = "SELECT id, version, status, due_at, body FROM entity \
    WHERE tenant = $1 AND log = $2 AND kind = $3 AND ($4 = '' OR status = $4) \
    ORDER BY id DESC LIMIT $5";
pub(crate) const ENTITIES_BELOW: &str = "SELECT id, version, status, due_at, body FROM entity \
    WHERE tenant = $1 AND log = $2 AND kind = $3 AND ($4 = '' OR status = $4) AND id < $5 \
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
