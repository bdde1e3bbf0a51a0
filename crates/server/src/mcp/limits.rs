//! Every bound of `/mcp`.

use std::time::Duration;

/// Bytes of one message at `/mcp`.
pub(super) const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Bytes of the id of a request at `/mcp`, and of a progress token.
pub(super) const ID_BYTES_MAX: usize = 256;
/// Sessions that one principal has at `/mcp`; beyond, the one that rested longest ends.
pub(super) const SESSIONS_PER_PRINCIPAL: usize = 64;
/// Sessions at `/mcp` in all.
pub(super) const SESSIONS_MAX: usize = 10_000;
/// How long a session at `/mcp` may rest.
pub(super) const SESSION_IDLE: Duration = Duration::from_secs(30 * 60);
/// Requests of one session, or of one principal without a session, under way at once.
pub(super) const IN_FLIGHT_MAX: usize = 256;
/// Streams that one principal listens on at once.
pub(super) const LISTENERS_PER_PRINCIPAL: usize = 64;
/// Resources that one session, or one listener, is told about.
pub(super) const SUBSCRIPTIONS_MAX: usize = 256;
/// Events that wait on one stream for whoever reads it; beyond, notifications are left out.
pub(super) const STREAM_EVENTS_MAX: usize = 1_024;
/// Bytes that wait on one stream; beyond, notifications are left out.
pub(super) const STREAM_BYTES_MAX: usize = 1 << 20;
/// Streams that ended and are kept in a session, to be read again.
pub(super) const STREAMS_KEPT: usize = 32;
/// Bytes of the streams that are kept so.
pub(super) const KEPT_BYTES_MAX: usize = 8 << 20;
/// How long a request is silent before its answer becomes a stream, which can be kept alive.
pub(super) const SILENCE: Duration = Duration::from_secs(10);
/// How often a silent stream says that it is alive.
pub(super) const ALIVE_EVERY: Duration = Duration::from_secs(15);
/// When a client whose stream broke comes back, in milliseconds.
pub(super) const RETRY_MS: u64 = 1_000;
/// How long a question to a client may take.
pub(super) const ASK: Duration = Duration::from_secs(600);
/// Questions that are open in one session or one call.
pub(super) const ASKS_MAX: usize = 32;
/// Calls of one principal that wait for answers of its client without a request that waits.
pub(super) const PARKED_PER_PRINCIPAL: usize = 64;
/// Items on a page of a list at `/mcp`.
pub(super) const PAGE: usize = 1_000;
/// Bytes of a page of a list at `/mcp`, unless one item alone has more.
pub(super) const PAGE_BYTES: usize = 4 << 20;
/// For how long a client may keep a list, in milliseconds; it is told of changes.
pub(super) const LIST_TTL_MS: u64 = 10_000;
/// How often it is looked whether what a client sees has changed.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Characters of the instructions of one upstream that a client is told.
pub(super) const INSTRUCTIONS_CHARS_MAX: usize = 4_000;
/// How long a lane that no request uses stays open.
pub(super) const LANE_IDLE: Duration = Duration::from_secs(600);
/// How long an upstream may take to say what it offers before a list goes without it.
pub(super) const LIST_WAIT: Duration = Duration::from_secs(10);
