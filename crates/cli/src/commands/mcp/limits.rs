//! Every bound of `tally mcp -- COMMAND`, in one place.

use std::time::Duration;

/// Bytes of a message from the client: what the endpoint takes.
pub(crate) const LINE_BYTES_MAX: usize = 4 << 20;
/// Bytes of a message to the client: a result of the endpoint's bound and what is around it.
pub(crate) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// Requests under way.
pub(crate) const REQUESTS_MAX: usize = 1_024;
/// Lines that wait for either side to read them.
pub(crate) const LINES_WAITING_MAX: usize = 64;
/// How often one request is sent.
pub(crate) const TRIES_MAX: u32 = 5;
/// How long a notification or a response to the server may take.
pub(crate) const POST_TIME: Duration = Duration::from_secs(30);
/// How long an answer's `Retry-After` is waited for.
pub(crate) const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);
/// The pause before a stream is opened again, where the server names none.
pub(crate) const STREAM_REST: Duration = Duration::from_secs(1);
/// The longest such pause.
pub(crate) const STREAM_REST_MAX: Duration = Duration::from_secs(60);
/// Resources whose subscription is made again in a new session.
pub(crate) const SUBSCRIPTIONS_MAX: usize = 1_024;
/// How long the answers of what is under way are waited for when the client has no more to ask.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(10);
/// How long the goodbyes may take: the end of the session, of the child, of the server.
pub(crate) const LEAVE_TIME: Duration = Duration::from_secs(5);
/// How long a command's start is waited for before the command is ended.
pub(crate) const AWAKEN_TIME: Duration = Duration::from_secs(3);
/// How long a server on the data folder is looked for, or waited for to end.
pub(crate) const FIND_TIME: Duration = Duration::from_secs(30);
/// Between two looks.
pub(crate) const FIND_EVERY: Duration = Duration::from_millis(20);
/// Days after which the agent's key is given another secret.
pub(crate) const KEY_DAYS: u64 = 7;
/// Seconds that the secret before is still good for: another `tally mcp` may be using it.
pub(crate) const KEY_OVERLAP_S: u32 = 86_400;
/// Names tried for a command whose own is taken by another.
pub(crate) const NAMES_MAX: u32 = 99;
/// Bytes of the name of an MCP server.
pub(crate) const NAME_BYTES_MAX: usize = 32;
