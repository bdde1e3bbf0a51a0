//! Every bound of the PostgreSQL store, in one place.

use std::time::Duration;

/// How long connecting may take.
pub const CONNECT: Duration = Duration::from_secs(10);
/// How long a read may take, with waiting for a connection.
pub const READ: Duration = Duration::from_secs(30);
/// How long a commit, or another write, may take.
pub const WRITE: Duration = Duration::from_secs(60);
/// How long applying one migration may take.
pub const MIGRATE: Duration = Duration::from_secs(3_600);
/// How long the database lets a transaction of ours rest between two statements. A writer that is
/// frozen in the middle of a commit would hold up whoever takes over for so long.
pub const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(5);
/// Connections for reads of one tenant.
pub const READERS: usize = 8;
/// Connections for reads across tenants.
pub const WIDE_READERS: usize = 2;
/// Threads that drive the connections of one store.
pub const THREADS: usize = 2;
/// How often a transaction is tried that fails for reasons of the moment.
pub const TRIES: u32 = 4;
/// The pause before another try; it doubles with each.
pub const TRY_AGAIN: Duration = Duration::from_millis(10);
/// How often the writer says that it lives.
pub const BEAT: Duration = Duration::from_secs(1);
/// How long one heartbeat may take.
pub const BEAT_TIME: Duration = Duration::from_secs(2);
/// A writer whose last heartbeat is older than this commits nothing.
pub const LAPSE: Duration = Duration::from_secs(4);
/// A standby takes over from a writer whose counter has stood still for so long. Longer than
/// [`LAPSE`]: by then that writer has stopped committing by itself.
pub const TAKEOVER: Duration = Duration::from_secs(5);
/// How often a standby looks.
pub const LOOK: Duration = Duration::from_millis(250);
/// How long giving up the lease may take when the server stops.
pub const RELEASE: Duration = Duration::from_secs(5);
/// States written by one statement.
pub const ROWS: usize = 1_024;
