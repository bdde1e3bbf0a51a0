//! What is kept beside an execution's receipt: its recording, for as long as its result, and what
//! its attestation discloses, for as long as that is relied on.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::action::Action;
use kernel::attestation::{CodeKind, Disclosure, Ending, Level, Limits, SandboxType};
use kernel::capability::Capabilities;
use kernel::failure::Category;
use kernel::ids::{ActionId, TenantId, ToolId};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use ledger::store::{Class, SideRow};
use serde::{Deserialize, Serialize};

use super::attest::disclosure;
use super::door::Call;
use super::execute::Ran;
use super::job::{Job, JobCode};
use crate::actions::Body;
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// The part of an execution's content that it can be repeated from.
const RECORDING: &str = "recording";
/// The part that its attestation discloses.
const DISCLOSURE: &str = "disclosure";

/// Deletes what an execution could be repeated from.
pub(crate) fn drop_recording(log: &LogId, action: &Action) -> Option<SideRow> {
    let ran = action.outcome.as_ref().is_some_and(|outcome| outcome.attestation.is_some());
    let (tenant, id) = (log.tenant().to_owned(), action.id.to_string());
    ran.then_some(SideRow::DropContent { tenant, id, part: RECORDING })
}

/// The code of an execution, as it is kept.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Kept {
    Source(CodeKind, String),
    /// Base64.
    Inline(String),
    Registered(ToolId, Digest),
}

/// All that an execution was given, and what it came to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Recording {
    code: Kept,
    pub(super) input: String,
    pub(super) sandbox_type: SandboxType,
    pub(super) level: Level,
    pub(super) capabilities: Capabilities,
    pub(super) limits: Limits,
    /// Hex.
    seed: String,
    pub(super) started_at: Timestamp,
    pub(super) calls: Vec<Call>,
    pub(super) ending: Ending,
    pub(super) output: std::result::Result<String, String>,
    pub(super) fuel_used: u64,
    pub(super) files_read: BTreeMap<String, Digest>,
    pub(super) written: BTreeMap<String, Digest>,
}

impl Recording {
    fn of(ran: &Ran) -> Self {
        let Ran { job, report, .. } = ran;
        let code = match &job.code {
            JobCode::Source { kind, text } => Kept::Source(*kind, text.to_string()),
            JobCode::Inline(bytes) => Kept::Inline(STANDARD.encode(bytes)),
            JobCode::Registered(tool) => Kept::Registered(tool.manifest.id.clone(), tool.component),
        };
        Self {
            code,
            input: job.input.to_string(),
            sandbox_type: job.sandbox_type,
            level: job.level,
            capabilities: job.capabilities.clone(),
            limits: job.limits,
            seed: hex::encode(ran.seed),
            started_at: ran.started_at,
            calls: ran.calls.clone(),
            ending: report.ending,
            output: report.output.clone(),
            fuel_used: report.fuel_used,
            files_read: report.files_read.clone(),
            written: report.written.iter().map(|w| (w.path.clone(), w.digest)).collect(),
        }
    }

    /// What ran.
    pub(super) fn code(&self, shared: &Shared, tenant: &TenantId) -> Result<JobCode> {
        Ok(match &self.code {
            Kept::Source(kind, text) => {
                JobCode::Source { kind: *kind, text: Arc::from(text.as_str()) }
            }
            Kept::Inline(text) => {
                JobCode::Inline(STANDARD.decode(text).map_err(Refused::internal)?.into())
            }
            Kept::Registered(id, digest) => {
                let tool = shared.registry.tool(tenant, id);
                let tool = tool.filter(|tool| tool.component == *digest);
                let message = "the tool is revoked, or has other code by now";
                let gone = || Refused::new(Category::Conflict, "tool_changed", message);
                JobCode::Registered(tool.ok_or_else(gone)?)
            }
        })
    }

    /// The job, with this code.
    pub(super) fn job(&self, code: JobCode) -> Result<Job> {
        Ok(Job {
            code,
            input: self.input.as_str().into(),
            sandbox_type: self.sandbox_type,
            level: self.level,
            capabilities: self.capabilities.clone(),
            limits: self.limits,
        })
    }

    /// What it had for randomness.
    pub(super) fn seed(&self) -> Result<::sandbox::Seed> {
        let bytes = hex::decode(&self.seed).map_err(Refused::internal)?;
        bytes.try_into().map_err(|_| Refused::internal("a seed of another length"))
    }
}

/// Seals what is kept of an execution, to be stored with the commit of its outcome.
pub(crate) async fn keep(
    shared: &Shared,
    log: &LogId,
    action: &Action,
    ran: &Ran,
    body: &Body,
) -> Result<[SideRow; 2]> {
    let (now, tenant, id) = (shared.now(), log.tenant(), action.id.as_str());
    let text = |value: serde_json::Result<Vec<u8>>| value.map_err(Refused::internal);
    let recording = text(serde_json::to_vec(&Recording::of(ran)))?;
    let disclosing = text(serde_json::to_vec(&disclosure(ran, body.salt())))?;
    let vault = &shared.vault;
    Ok([
        vault.seal(tenant, id, RECORDING, Class::Result, &recording, now).await?,
        vault.seal(tenant, id, DISCLOSURE, Class::Attestation, &disclosing, now).await?,
    ])
}

fn open<T: serde::de::DeserializeOwned>(
    shared: &Shared,
    log: &LogId,
    id: &ActionId,
    part: &'static str,
) -> Result<Option<T>> {
    let bytes = shared.vault.open(log.tenant(), id.as_str(), part)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(Refused::internal)).transpose()
}

/// The recording of an execution, while it is kept.
pub(super) fn recorded(shared: &Shared, log: &LogId, id: &ActionId) -> Result<Option<Recording>> {
    open(shared, log, id, RECORDING)
}

/// What the attestation of an execution discloses, while it is kept.
pub(super) fn disclosed(shared: &Shared, log: &LogId, id: &ActionId) -> Result<Option<Disclosure>> {
    open(shared, log, id, DISCLOSURE)
}
