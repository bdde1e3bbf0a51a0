//! Every bound of the connectors, in one place.

use std::time::Duration;

/// Bytes of a URL.
pub const URL_BYTES_MAX: usize = 8_192;
/// Headers that a call may set, and that an answer may have.
pub const HEADERS_MAX: usize = 64;
/// Bytes of the names and values of the headers that a call sets.
pub const HEADER_BYTES_MAX: usize = 16 << 10;
/// Bytes of the head of an answer.
pub const RESPONSE_HEAD_BYTES_MAX: usize = 64 << 10;
/// Bytes of a content in a result, written as JSON. With the headers of an answer (64 KiB, which
/// JSON at most doubles) it fits the kernel's 1 MiB for one JSON text.
pub const CONTENT_JSON_BYTES_MAX: usize = 896 << 10;
/// Bytes of an answer's body that are kept, unless a call asks for fewer.
pub const RESPONSE_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Redirects followed in one call.
pub const REDIRECTS_MAX: usize = 5;
/// How long one call of `core.http_call` may take, all its hops together.
pub const HTTP_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one address may take to accept a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one host that are tried.
pub const ADDRESSES_MAX: usize = 8;
/// The longest wait that an answer's `Retry-After` can ask of us.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4_096;
/// Bytes of a file that are read, unless a call asks for fewer.
pub const FILE_READ_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Bytes of a file that are copied on the spot where the kernel has them in memory: the copy takes
/// less than to have another thread make it.
pub const FILE_CACHED_BYTES_MAX: usize = 64 << 10;
/// How long one call on a file may take.
pub const FILE_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a jq filter.
pub const FILTER_BYTES_MAX: usize = 16 << 10;
/// Values that a jq filter may put out.
pub const TRANSFORM_OUTPUTS_MAX: usize = 10_000;
/// Bytes of all the values that a jq filter puts out.
pub const TRANSFORM_OUTPUT_BYTES_MAX: usize = CONTENT_JSON_BYTES_MAX;
/// Bytes of a jq worker's request: the parameters and what carries them.
pub const TRANSFORM_REQUEST_BYTES_MAX: u64 = 4 << 20;
/// How long a jq filter may run.
pub const TRANSFORM_TIMEOUT: Duration = Duration::from_secs(5);
/// Seconds of processor time of a jq worker, in case that whoever started it is gone.
pub const TRANSFORM_CPU_SECONDS: u64 = 6;
/// Bytes of address space of a jq worker.
pub const TRANSFORM_MEMORY_BYTES: u64 = 512 << 20;
/// jq workers that run at once.
pub const TRANSFORM_WORKERS_MAX: usize = 4;
/// Depth of nested brackets in a jq filter; its parser is recursive.
pub const FILTER_DEPTH_MAX: usize = 200;
