//! Every bound of the client, in one place.

use std::time::Duration;

/// How long a connection may take to be made, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take. The server bounds `wait_ms` and exports well below this.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);
/// How long an idle connection is kept for the next request.
pub const POOL_IDLE: Duration = Duration::from_secs(30);
/// Idle connections that are kept.
pub const POOL_CONNECTIONS_MAX: usize = 64;
/// Bytes of an answer: an evidence bundle of 10,000 receipts of 64 kB each is the longest.
pub const REPLY_BYTES_MAX: usize = 1 << 30;
/// Attempts at one request, the first included.
pub const ATTEMPTS_MAX: u32 = 4;
/// The pause before the second attempt; it doubles before each further one.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest Retry-After that is waited for. A longer one is left to the caller.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(10);
