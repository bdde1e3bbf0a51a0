//! Every bound of a sandbox, in one place.

use std::time::Duration;

use kernel::attestation::Limits;

/// What an execution may use where nothing else is asked for.
pub const DEFAULT: Limits = Limits {
    memory_bytes: 512 << 20,
    cpu_ms: 1_000,
    wall_ms: 60_000,
    fuel: 10_000_000_000,
    output_bytes: 1 << 20,
    tool_calls: 100,
};
/// The most that an execution may ask for.
pub const MOST: Limits = Limits {
    memory_bytes: 4 << 30,
    cpu_ms: 600_000,
    wall_ms: 3_600_000,
    fuel: 10_000_000_000_000,
    output_bytes: 8 << 20,
    tool_calls: 10_000,
};
/// Sandboxes of one tenant that are live at once, unless configured otherwise.
pub const TENANT_LIVE: usize = 10;
/// Sandboxes that can be live at once in a server, whatever is configured.
pub const LIVE_MAX: usize = 4_096;

/// Bytes of source text.
pub const SOURCE_BYTES_MAX: usize = 512 << 10;
/// Bytes of a component.
pub const COMPONENT_BYTES_MAX: usize = 32 << 20;
/// Bytes of the input of an execution.
pub const INPUT_BYTES_MAX: usize = 8 << 20;
/// Bytes of a component that may run out of the pool, where stores are ready made.
pub const POOLED_BYTES_MAX: usize = 1 << 20;
/// Components of one tenant that are loaded.
pub const COMPONENTS_MAX: usize = 1_100;
/// Bytes of the name of a tool in a call.
pub const TOOL_NAME_BYTES_MAX: usize = 256;
/// Bytes of the arguments of a call, and of any value that code hands to us at once.
pub const HANDED_BYTES_MAX: usize = 16 << 20;
/// Bytes of a failure's text.
pub const FAILURE_TEXT_BYTES_MAX: usize = 4 << 10;
/// Denials that are told apart in a report; all are counted.
pub const DENIALS_MAX: usize = 100;
/// Characters of what code is told of a denial by which that is known again.
pub const TOLD_CHARS_MAX: usize = 200;
/// Bytes of what was wanted, in a denial.
pub const WANTED_BYTES_MAX: usize = 512;

/// Core instances, memories and tables of one store.
pub const INSTANCES_MAX: usize = 200;
/// Entries of all the tables of one store.
pub const TABLE_ENTRIES_MAX: usize = 200_000;
/// Handles of the host that one sandbox can hold: streams, files, requests.
pub const HANDLES_MAX: usize = 1_000;
/// Core instances of one component that runs out of the pool.
pub const POOLED_INSTANCES_MAX: u32 = 8;
/// Memories or tables of one component that runs out of the pool.
pub const POOLED_MEMORIES_MAX: u32 = 2;
/// Entries of a table in the pool.
pub const POOLED_TABLE_ENTRIES_MAX: usize = 20_000;
/// Bytes of a memory in the pool that stay resident for its next use.
pub const POOLED_RESIDENT_BYTES: usize = 64 << 10;
/// Bytes of stack for WebAssembly.
pub const WASM_STACK_BYTES: usize = 1 << 20;
/// Bytes of stack for WebAssembly and the host functions that it calls.
pub const STACK_BYTES: usize = 2 << 20;
/// Random bytes in one reading.
pub const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// How often running code is looked at.
pub const TICK: Duration = Duration::from_millis(1);
/// After how many looks running code lets others run on its thread.
pub const TICKS_UNTIL_YIELD: u32 = 10;
/// How far each reading moves the clock of a sandbox.
pub const CLOCK_STEP_NANOS: u64 = 1_000;
/// How often it is asked whether a tool is still being called, once the time is over.
pub const CALL_ASKED_EVERY: Duration = Duration::from_millis(100);

/// Files that are staged for one execution.
pub const STAGED_FILES_MAX: usize = 1_000;
/// Bytes of files that are staged, and that are written.
pub const STAGED_BYTES_MAX: u64 = 64 << 20;
/// Entries of folders that are looked at for staging.
pub const WALKED_MAX: usize = 20_000;
/// How deep folders are walked.
pub const DEPTH_MAX: usize = 32;
/// Files and folders that one sandbox can make.
pub const FILES_MADE_MAX: usize = 1_000;
/// Files that one sandbox can have open.
pub const FILES_OPEN_MAX: usize = 64;
/// Bytes of a path.
pub const PATH_BYTES_MAX: usize = 4_096;

/// How long compiling one component may take.
pub const COMPILE_TIMEOUT: Duration = Duration::from_secs(300);
/// Seconds of processor time of a compiler.
pub const COMPILE_CPU_SECONDS: u64 = 240;
/// Bytes of address space of a compiler.
pub const COMPILE_MEMORY_BYTES: u64 = 8 << 30;
/// Bytes of compiled code.
pub const COMPILED_BYTES_MAX: usize = 256 << 20;
/// Bytes of what a compiler says.
pub const COMPILER_TEXT_BYTES_MAX: u64 = 4 << 10;
/// Bytes of `runtimes.json`.
pub const RUNTIMES_TEXT_BYTES_MAX: u64 = 64 << 10;
/// Bytes of an interpreter.
pub const RUNTIME_BYTES_MAX: usize = 128 << 20;

/// Bytes of a line that LIGHT's child and we say to each other.
pub const LINE_BYTES_MAX: usize = 16 << 20;
/// Bytes of memory that Node takes for itself.
pub const LIGHT_NODE_BYTES: u64 = 1 << 30;
/// How long a process may go on after it has closed its pipes.
pub const LIGHT_END_TIMEOUT: Duration = Duration::from_secs(2);
/// Files that code under LIGHT can have open.
pub const LIGHT_FILES: u64 = 64;
