//! What is run and what comes of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Bytes;
use kernel::attestation::{CodeKind, Ending, Limits, Runtime, SandboxType};
use kernel::capability::{Capabilities, Capability, Network};
use kernel::ids::TenantId;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use tokio_util::sync::CancellationToken;

/// What a sandbox has for randomness.
pub type Seed = [u8; 32];

/// Code to run.
#[derive(Clone, Debug)]
pub enum Code {
    /// Source text of [`CodeKind::Python`] or [`CodeKind::Javascript`].
    Source {
        /// Which language.
        kind: CodeKind,
        /// The text.
        text: Arc<str>,
    },
    /// The bytes of a component that was bound before; its digest is looked up, never compiled
    /// anew on this path.
    Component {
        /// SHA-256 of its bytes.
        digest: Digest,
    },
}

/// One execution.
#[derive(Debug)]
pub struct Run<'a> {
    /// The permit, checked before anything is made.
    pub permit: &'a Permit,
    /// The plan that the permit must be for.
    pub plan_digest: Digest,
    /// Now.
    pub now: Timestamp,
    /// Whose code it is. Stores, folders and bound components are each tenant's own.
    pub tenant: &'a TenantId,
    /// 128 random bits, hex.
    pub sandbox_id: &'a str,
    /// What keeps it apart.
    pub sandbox_type: SandboxType,
    /// What runs.
    pub code: Code,
    /// What it is given: JSON text.
    pub input: &'a str,
    /// What it may reach.
    pub capabilities: &'a Capabilities,
    /// The variables that exist, of which `capabilities.env` picks.
    pub environment: &'a BTreeMap<String, String>,
    /// What it may use.
    pub limits: Limits,
    /// Its randomness.
    pub seed: Seed,
    /// What its clock begins with.
    pub started_at: Timestamp,
    /// Its tools.
    pub door: Arc<dyn Door>,
    /// Its hosts.
    pub egress: Arc<dyn Egress>,
    /// Whether its files stay where they are: what it would have written is told all the same.
    pub rehearsal: bool,
    /// Ends it from outside.
    pub cancel: CancellationToken,
}

/// The one way out to tools.
#[async_trait]
pub trait Door: Send + Sync + std::fmt::Debug {
    /// Calls a tool with JSON arguments and gives its JSON result. `seq` counts from 1. `Err` is
    /// what the code is told. Time spent in here does not count as CPU time. Wall time stands still
    /// until it returns and counts it then, without `DoorAnswer::held_ms`: how long people were
    /// waited for. Dropped in between where the execution is canceled.
    async fn call(&self, seq: u32, tool: &str, args: &str) -> DoorAnswer;
}

/// What came of a call.
#[derive(Clone, Debug)]
pub struct DoorAnswer {
    /// JSON, or what went wrong.
    pub result: Result<String, DoorFailure>,
    /// How long people were waited for.
    pub held_ms: u64,
}

/// Why a tool gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorFailure {
    /// Stable and lower-case.
    pub code: String,
    /// What the code is told.
    pub message: String,
    /// Whether the sandbox is to end at once, since it cannot go on.
    pub fatal: bool,
    /// Whether the tool was not granted: that is on record as a denial.
    pub denied: bool,
}

/// The one way out to hosts. Redirects are not followed: the code sees them and asks again.
#[async_trait]
pub trait Egress: Send + Sync + std::fmt::Debug {
    /// Sends one request where `network` allows its host, port and address.
    async fn send(
        &self,
        network: &Network,
        request: http::Request<EgressBody>,
    ) -> Result<http::Response<EgressBody>, EgressFailure>;
}

/// A body on its way.
pub type EgressBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// Why a request did not go out or has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressFailure {
    /// Stable and lower-case.
    pub code: String,
    /// What is wrong.
    pub message: String,
    /// Whether it was not granted, and so did not go out.
    pub denied: bool,
}

/// What a sandbox wanted and was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// What kind.
    pub capability: Capability,
    /// What exactly: a path, a host and port, a name.
    pub wanted: String,
}

/// A file that it wrote, now in place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Where.
    pub path: String,
    /// Of its content.
    pub digest: Digest,
    /// How long it is.
    pub bytes: u64,
}

/// What came of an execution.
#[derive(Clone, Debug)]
pub struct Report {
    /// How it ended.
    pub ending: Ending,
    /// JSON on success; else a sentence that names the reason, and what was denied.
    pub output: Result<String, String>,
    /// Stable and lower-case, where it did not succeed: `wall_time_exceeded`, `cpu_time_exceeded`,
    /// `fuel_exhausted`, `memory_exceeded`, `capability_denied`, `output_too_long`,
    /// `too_many_tool_calls`, `stack_exhausted`, `trap`, `raised`, `canceled` …
    pub code: Option<&'static str>,
    /// What was denied, without repeats, at most `limits::DENIALS_MAX`.
    pub denials: Vec<Denial>,
    /// How often something of the kind was.
    pub denied: BTreeMap<Capability, u32>,
    /// Fuel that was used.
    pub fuel_used: u64,
    /// The most memory that it had.
    pub memory_peak_bytes: u64,
    /// Microseconds in which its code ran.
    pub cpu_us: u64,
    /// Files that it wrote.
    pub written: Vec<Written>,
    /// Digests of the granted files that it had, by path.
    pub files_read: BTreeMap<String, Digest>,
    /// What it ran in.
    pub runtime: Runtime,
}
