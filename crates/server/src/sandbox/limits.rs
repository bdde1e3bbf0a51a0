//! Every bound of the sandbox's configuration, of the registry of its tools, and of executions.

use std::time::Duration;

/// Memory that an execution may have, in MiB, where nothing says otherwise.
pub(crate) const MEMORY_MB_DEFAULT: u32 = 512;
/// Memory that an execution may have, in MiB: what 32 bits address.
pub(crate) const MEMORY_MB_MAX: u32 = 4_096;
/// How long an execution's code may run where nothing says otherwise, in milliseconds.
pub(crate) const CPU_MS_DEFAULT: u64 = 1_000;
/// How long an execution's code may run, in milliseconds.
pub(crate) const CPU_MS_MAX: u64 = 600_000;
/// How long an execution may take where nothing says otherwise, in milliseconds.
pub(crate) const WALL_MS_DEFAULT: u64 = 60_000;
/// How long an execution may take, in milliseconds.
pub(crate) const WALL_MS_MAX: u64 = 3_600_000;
/// Fuel of an execution where nothing says otherwise.
pub(crate) const FUEL_DEFAULT: u64 = 10_000_000_000;
/// Fuel of an execution: about an hour of instructions.
pub(crate) const FUEL_MAX: u64 = 10_000_000_000_000;
/// Bytes of a result where nothing says otherwise.
pub(crate) const OUTPUT_BYTES_DEFAULT: u64 = 1 << 20;
/// Bytes of a result: what a receipt's content may have.
pub(crate) const OUTPUT_BYTES_MAX: u64 = kernel::limits::RESULT_BYTES_MAX as u64;
/// Calls of tools where nothing says otherwise.
pub(crate) const TOOL_CALLS_DEFAULT: u32 = 100;
/// Calls of tools that one execution may make.
pub(crate) const TOOL_CALLS_MAX: u32 = 10_000;
/// How long a call waits for people where nothing says otherwise, in seconds.
pub(crate) const HOLD_S_DEFAULT: u32 = 3_600;
/// How long a call may wait for people, in seconds.
pub(crate) const HOLD_S_MAX: u32 = 86_400;
/// Sandboxes of one tenant that live at once where nothing says otherwise.
pub(crate) const SANDBOXES_DEFAULT: u32 = 10;
/// Sandboxes of one tenant that may live at once.
pub(crate) const SANDBOXES_MAX: u32 = 1_000;
/// Sandboxes of all tenants that live at once.
pub(crate) const SANDBOXES_LIVE_MAX: usize = 1_000;
/// How long an attestation is relied on where nothing says otherwise, in days.
pub(crate) const RETENTION_DAYS_DEFAULT: u32 = 90;
/// How long an attestation may be relied on, in days.
pub(crate) const RETENTION_DAYS_MAX: u32 = 3_650;
/// Variables that may exist for code in a sandbox.
pub(crate) const VARIABLES_MAX: usize = 256;
/// Bytes of the value of one of them.
pub(crate) const VARIABLE_BYTES_MAX: usize = 32 << 10;
/// Grants of one kind that a request may ask for.
pub(crate) const GRANTS_MAX: usize = 64;
/// Bytes of one of them.
pub(crate) const GRANT_BYTES_MAX: usize = 1_024;
/// How deep code in a sandbox may run further code.
pub(crate) const DEPTH_MAX: u32 = 3;
/// How often a call that policy puts off is asked again.
pub(crate) const ASK_AGAIN_MAX: u32 = 20;
/// How long to wait before that where policy does not say, in milliseconds.
pub(crate) const ASK_AGAIN_MS: u64 = 500;
/// The longest wait before that, in milliseconds.
pub(crate) const ASK_AGAIN_MS_MAX: u64 = 60_000;
/// Characters kept of what code calls a tool.
pub(crate) const NAME_CHARS_MAX: usize = 200;
/// What an attempt may take besides its own time and that of people: compiling, and the end of a
/// last call that began in time.
pub(crate) const ATTEMPT_SLACK: Duration = Duration::from_secs(300);
/// How long before the end of its lease an attempt is ended.
pub(crate) const LEASE_MARGIN: Duration = Duration::from_secs(10);
/// How long to wait for an execution that was canceled to end.
pub(crate) const CANCEL_WAIT: Duration = Duration::from_secs(10);
/// How soon an interrupted execution is due again: not before this server is gone.
pub(crate) const INTERRUPTED_MS: i64 = 1_000;
/// Characters shown of each side of a difference.
pub(crate) const DIFFERENCE_CHARS_MAX: usize = 400;
/// Tools given as code that one tenant may have registered, revoked ones included.
pub(crate) const REGISTERED_MAX: usize = 1_000;
/// Bytes of a manifest.
pub(crate) const MANIFEST_BYTES_MAX: usize = 64 << 10;
/// Bytes of a component.
pub(crate) const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Bytes of source text.
pub(crate) const SOURCE_BYTES_MAX: usize = 512 << 10;
/// Characters of a description.
pub(crate) const DESCRIPTION_CHARS_MAX: usize = 2_000;
/// Labels of a tool.
pub(crate) const LABELS_MAX: usize = 16;
/// Bytes of a label.
pub(crate) const LABEL_BYTES_MAX: usize = 64;
/// Ways to fail that a manifest names.
pub(crate) const FAILURE_MODES_MAX: usize = 64;
/// Variants of a manifest.
pub(crate) const VARIANTS_MAX: usize = 32;
/// Bytes of memory that an MCP server under LIGHT can write to.
pub(crate) const UPSTREAM_MEMORY_BYTES: u64 = 2 << 30;
/// Bytes of a file that it writes.
pub(crate) const UPSTREAM_FILE_BYTES: u64 = 1 << 30;
/// Files that it can have open.
pub(crate) const UPSTREAM_OPEN_FILES: u64 = 1_024;
/// Bytes that one execution's tools are told and give, all together: they are kept for a day.
pub(crate) const SAID_BYTES_MAX: usize = 32 << 20;

/// Components that came with requests and that no execution has, kept ready.
pub(super) const INLINE_IDLE_MAX: usize = 16;
/// Bytes of all of them.
pub(super) const INLINE_IDLE_BYTES_MAX: usize = 8 << 20;
