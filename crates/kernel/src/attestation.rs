//! What ran in a sandbox, on what, under which limits, and what came out: part of the outcome of
//! the action that ran it, so that the receipt of that outcome attests it.

mod build;
mod document;
mod error;
mod verify;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use self::build::{Facts, salted};
pub use self::document::{Denial, Disclosure, Document, Files, Written};
pub use self::error::Refused;
pub use self::verify::{Check, Given, Verified, verify};
use crate::capability::Capability;
use crate::ids::{ActionId, ToolId};
use crate::values::{Digest, Timestamp};

/// What keeps the code apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SandboxType {
    /// A process of its own with a clean environment. For development.
    Light,
    /// WebAssembly.
    Standard,
    /// WebAssembly in a confined process.
    Hardened,
    /// A trusted execution environment.
    Tee,
}

/// How much is attested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// The hashes of code, input and output.
    Basic,
    /// Also the calls of tools, limits, capabilities and runtime.
    Full,
}

/// What the code is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CodeKind {
    /// Source text.
    Python,
    /// Source text.
    Javascript,
    /// A WebAssembly component.
    Component,
}

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Ending {
    /// The code gave a result.
    Success,
    /// It took more time or fuel than it was given.
    Timeout,
    /// It wanted more memory than it was given.
    MemoryExceeded,
    /// It wanted what it was not granted, and ended over it.
    PermissionDenied,
    /// It failed by itself, or broke another limit.
    Crash,
}

/// What an execution may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Milliseconds in which its code runs; waiting does not count.
    pub cpu_ms: u64,
    /// Milliseconds from start to end; waiting for people does not count.
    pub wall_ms: u64,
    /// Units of fuel: about one an instruction, the same for the same code and input.
    pub fuel: u64,
    /// Bytes of its result, and of each file that it writes.
    pub output_bytes: u64,
    /// Calls of tools.
    pub tool_calls: u32,
}

/// What the code ran in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runtime {
    /// `wasmtime 48.0.8`, or the name of a program.
    pub engine: String,
    /// The digest of the component that ran: the interpreter, or the code itself.
    pub digest: Digest,
    /// The digest of the machine code that it was compiled to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiled: Option<Digest>,
}

/// One call of a tool out of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolCall {
    /// From 1, in the order in which they were made.
    pub seq: u32,
    /// Which tool; none where the name is no tool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<ToolId>,
    /// The action that it became; none where it was refused before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<ActionId>,
    /// SHA-256(salt ‖ arguments).
    pub args: Digest,
    /// SHA-256(salt ‖ result), of what the code was given.
    pub result: Digest,
    /// Whether it was given an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub failed: bool,
}

/// What ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attestation {
    /// How much of what follows is told.
    pub level: Level,
    /// The sandbox: 128 random bits, hex. The execution is the action.
    pub sandbox_id: String,
    /// What kept the code apart.
    pub sandbox_type: SandboxType,
    /// What the code is.
    pub code_kind: CodeKind,
    /// SHA-256 of the code.
    pub agent_hash: Digest,
    /// SHA-256(salt ‖ input).
    pub input_hash: Digest,
    /// SHA-256(salt ‖ result or failure text).
    pub output_hash: Digest,
    /// How it ended.
    pub ending: Ending,
    /// When it began: what its clock began with.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Until when the attestation is to be relied on.
    pub not_after: Timestamp,
    /// SHA-256(salt ‖ seed) of what it was given as randomness.
    pub seed_hash: Digest,
    /// SHA-256 of the salt, so that nobody can show another one.
    pub salt_hash: Digest,
    /// What it may have used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// What it used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fuel_used: Option<u64>,
    /// The most memory that it had, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_peak_bytes: Option<u64>,
    /// SHA-256 of the canonical JSON of its capabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities_hash: Option<Digest>,
    /// How often it wanted what it was not granted.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub denied: BTreeMap<Capability, u32>,
    /// SHA-256(salt ‖ canonical JSON) of what it wanted and was not granted, without repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denials_hash: Option<Digest>,
    /// SHA-256(salt ‖ canonical JSON) of the files that it had and wrote, by their digests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files_hash: Option<Digest>,
    /// What it ran in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// The digests of the manifests of the tools that it called: the first of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tool_hashes: BTreeMap<ToolId, Digest>,
    /// SHA-256 of the canonical JSON of all those digests, by tool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools_hash: Option<Digest>,
    /// How many calls it made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls_made: Option<u32>,
    /// SHA-256 of the canonical JSON of all calls, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls_hash: Option<Digest>,
    /// The first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
    /// The quote of a trusted execution environment, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tee_quote: Option<String>,
}
