//! From what happened to what is attested of it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    Attestation, CodeKind, Denial, Ending, Files, Level, Limits, Runtime, SandboxType, ToolCall,
};
use crate::capability::{Capabilities, Capability};
use crate::ids::ToolId;
use crate::json;
use crate::limits;
use crate::values::{Digest, Timestamp};

/// SHA-256(salt ‖ content): says nothing to whoever does not know the salt.
pub fn salted(salt: &str, content: &[u8]) -> Digest {
    Digest::of(&[salt.as_bytes(), content].concat())
}

/// What an attestation is made of.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// How much is told.
    pub level: Level,
    /// 128 random bits, hex.
    pub salt: &'a str,
    /// The sandbox.
    pub sandbox_id: &'a str,
    /// What kept the code apart.
    pub sandbox_type: SandboxType,
    /// What the code is.
    pub code_kind: CodeKind,
    /// SHA-256 of the code.
    pub agent_hash: Digest,
    /// What it was given: JSON text.
    pub input: &'a str,
    /// What it gave: JSON text, or why it failed.
    pub output: &'a str,
    /// How it ended.
    pub ending: Ending,
    /// What its clock began with.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// Until when the attestation is to be relied on; 90 days after the end where nobody says.
    pub not_after: Option<Timestamp>,
    /// What it had for randomness.
    pub seed: &'a [u8],
    /// What it may have used.
    pub limits: Limits,
    /// Fuel that it used.
    pub fuel_used: u64,
    /// The most memory that it had.
    pub memory_peak_bytes: u64,
    /// What it was granted.
    pub capabilities: &'a Capabilities,
    /// How often it wanted what it was not granted.
    pub denied: &'a BTreeMap<Capability, u32>,
    /// What that was, without repeats.
    pub denials: &'a [Denial],
    /// The files that it had and wrote.
    pub files: &'a Files,
    /// What it ran in.
    pub runtime: &'a Runtime,
    /// The digests of the manifests of the tools that it called.
    pub tools: &'a BTreeMap<ToolId, Digest>,
    /// Its calls, in order.
    pub calls: &'a [ToolCall],
}

impl Attestation {
    /// What is attested of an execution.
    pub fn build(facts: Facts<'_>) -> Result<Self, json::Error> {
        let salt = facts.salt;
        let basic = Self {
            level: facts.level,
            sandbox_id: facts.sandbox_id.to_owned(),
            sandbox_type: facts.sandbox_type,
            code_kind: facts.code_kind,
            agent_hash: facts.agent_hash,
            input_hash: salted(salt, facts.input.as_bytes()),
            output_hash: salted(salt, facts.output.as_bytes()),
            ending: facts.ending,
            started_at: facts.started_at,
            ended_at: facts.ended_at,
            not_after: facts
                .not_after
                .unwrap_or(facts.ended_at.plus_micros(limits::ATTESTATION_MICROS)),
            seed_hash: salted(salt, facts.seed),
            salt_hash: Digest::of(salt.as_bytes()),
            limits: None,
            fuel_used: None,
            memory_peak_bytes: None,
            capabilities_hash: None,
            denied: BTreeMap::new(),
            denials_hash: None,
            files_hash: None,
            runtime: None,
            tool_hashes: BTreeMap::new(),
            tools_hash: None,
            tool_calls_made: None,
            tool_calls_hash: None,
            tool_calls: Vec::new(),
            tee_quote: None,
        };
        if facts.level == Level::Basic {
            return Ok(basic);
        }
        let told = facts.tools.iter().take(limits::ATTESTED_TOOLS_MAX);
        Ok(Self {
            limits: Some(facts.limits),
            fuel_used: Some(facts.fuel_used),
            memory_peak_bytes: Some(facts.memory_peak_bytes),
            capabilities_hash: Some(canonical_hash(facts.capabilities)?),
            denied: facts.denied.clone(),
            denials_hash: Some(salted_hash(salt, facts.denials)?),
            files_hash: Some(salted_hash(salt, facts.files)?),
            runtime: Some(facts.runtime.clone()),
            tool_hashes: told.map(|(tool, digest)| (tool.clone(), *digest)).collect(),
            tools_hash: Some(canonical_hash(facts.tools)?),
            tool_calls_made: Some(u32::try_from(facts.calls.len()).unwrap_or(u32::MAX)),
            tool_calls_hash: Some(canonical_hash(facts.calls)?),
            tool_calls: facts.calls.iter().take(limits::ATTESTED_CALLS_MAX).cloned().collect(),
            ..basic
        })
    }
}

/// SHA-256 of canonical JSON.
pub(super) fn canonical_hash<T: Serialize + ?Sized>(value: &T) -> Result<Digest, json::Error> {
    json::canonical(&value).map(|form| Digest::of(&form))
}

/// SHA-256(salt ‖ canonical JSON).
pub(super) fn salted_hash<T: Serialize + ?Sized>(
    salt: &str,
    value: &T,
) -> Result<Digest, json::Error> {
    json::canonical(&value).map(|form| salted(salt, &form))
}
