//! Every bound of policy, in one place.

/// Bytes of a bundle as packed (`.tar.gz`).
pub const BUNDLE_BYTES_MAX: usize = 4 << 20;
/// Bytes of all files of a bundle together, unpacked.
pub const BUNDLE_UNPACKED_BYTES_MAX: usize = 16 << 20;
/// Files in a bundle, its signature included.
pub const BUNDLE_FILES_MAX: usize = 256;
/// Bytes of a file's name in a bundle.
pub const FILE_NAME_BYTES_MAX: usize = 200;
/// Depth of folders below a source directory.
pub const DIR_DEPTH_MAX: usize = 8;
/// How long one decision may take, in ms, where the configuration does not say.
pub const DECISION_MS_DEFAULT: u64 = 50;
/// Instructions between two looks at the clock. At about 50 ns each that is every 13 µs.
pub const TIMER_INTERVAL: u32 = 256;
/// Instructions of one decision: a second bound for a clock that stands still. At 20 to 100 ns
/// each it lies far above the time limit's default.
pub const INSTRUCTIONS_MAX: usize = 20_000_000;
/// How long one test on the interpreter may take, in ms.
pub const TEST_MS_MAX: u64 = 5_000;
/// How long a revision counts as confirmed, in seconds, where the configuration does not say.
pub const CONFIRMATION_TTL_S_DEFAULT: i64 = 600;
/// How far a confirmation may lie in the future, in µs: two clocks are never the same.
pub const CONFIRMATION_SKEW_MICROS: i64 = 30_000_000;
/// Tenants whose compiled policy one thread keeps. Each costs its program and its data; the one
/// used longest ago gives way.
pub const MACHINES_PER_THREAD_MAX: usize = 64;
/// Generated inputs that a bundle must survive before it is published.
pub const GENERATED_INPUTS: usize = 300;
/// Cases in one `cases.json`.
pub const CASES_MAX: usize = 2_000;
/// Inputs of one simulation.
pub const SIMULATED_INPUTS_MAX: usize = 1_000;
/// Findings that one report names; more would not help anybody.
pub const FINDINGS_MAX: usize = 50;
/// Texts of parts of inputs whose value one thread keeps. A thread has as many as it meets
/// principals, tools and the like; more of them than this cost a parse each.
pub const KNOWN_PARTS: usize = 512;
/// Bytes of a part that is kept.
pub const KNOWN_PART_BYTES_MAX: usize = 1_024;
