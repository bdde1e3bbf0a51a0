//! A receipt: the in-toto statement that says which transitions one commit made, and where it
//! stands in its log.

use serde::{Deserialize, Serialize};

use crate::ids::{TenantId, WorkspaceId};
use crate::machine::{Change, Kind, Stream};
use crate::values::{Digest, Timestamp};
use crate::{
    action, connector, control, limits, release, run, signing_key, trigger, upstream_tool,
    wasm_tool, workflow_registry,
};

/// The type of the statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// The type of the predicate.
pub const PREDICATE_TYPE: &str = "https://tally.dev/receipt/v1";

/// A log: one chain of receipts and one tree over them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogId {
    /// The tenants of a host.
    System,
    /// What may exist in a tenant.
    Control(TenantId),
    /// What happens in a workspace.
    Workspace(TenantId, WorkspaceId),
}

/// The tenant under which the system log's rows and keys are kept. No tenant may have this name.
pub const SYSTEM: &str = "system";
/// The name of a tenant's control log. No workspace may have this name.
pub const CONTROL: &str = "control";

impl LogId {
    /// The tenant whose log it is; `system` for the system log.
    pub fn tenant(&self) -> &str {
        match self {
            Self::System => SYSTEM,
            Self::Control(tenant) | Self::Workspace(tenant, _) => tenant.as_str(),
        }
    }

    /// Its name within the tenant.
    pub fn name(&self) -> &str {
        match self {
            Self::System => SYSTEM,
            Self::Control(_) => CONTROL,
            Self::Workspace(_, workspace) => workspace.as_str(),
        }
    }

    /// The log of that name; the inverse of [`Self::tenant`] and [`Self::name`].
    pub fn from_parts(tenant: &str, name: &str) -> Result<Self, crate::ids::InvalidId> {
        Ok(match (tenant, name) {
            (SYSTEM, SYSTEM) => Self::System,
            (tenant, CONTROL) => Self::Control(TenantId::new(tenant)?),
            (tenant, name) => Self::Workspace(TenantId::new(tenant)?, WorkspaceId::new(name)?),
        })
    }

    /// Its origin, which checkpoints and receipts name.
    pub fn origin(&self, host: &str) -> String {
        match self {
            Self::System => format!("{host}/{SYSTEM}"),
            _ => format!("{host}/{}/{}", self.tenant(), self.name()),
        }
    }

    /// The id of its receipt at `index`: `ops.17`.
    pub fn receipt_id(&self, index: u64) -> String {
        format!("{}.{index}", self.name())
    }
}

/// The origin of the control log of the tenant whose workspace has a log of this origin.
pub(crate) fn control_origin(origin: &str) -> Option<String> {
    let (tenant, _workspace) = origin.rsplit_once('/')?;
    Some(format!("{tenant}/{CONTROL}"))
}

/// Reads a receipt id: the name of the log and the index.
pub fn parse_receipt_id(id: &str) -> Option<(&str, u64)> {
    let (name, index) = id.rsplit_once('.')?;
    let digits = index.bytes().all(|byte| byte.is_ascii_digit());
    let canonical = digits && (index == "0" || !index.starts_with('0'));
    Some((name, index.parse().ok().filter(|_| canonical)?))
}

/// Where a receipt stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// The origin of the log.
    pub origin: String,
    /// From 0, without a gap.
    pub index: u64,
    /// SHA-256 of the payload of the receipt before it; of no bytes for the first.
    pub prev: Digest,
}

/// One change of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Transition {
    /// Of which thing.
    pub stream: Stream,
    /// Its number among the changes of that thing, from 1. `stream@version` is its id.
    pub version: u64,
    /// What changed.
    pub change: Change,
}

impl<'de> Deserialize<'de> for Transition {
    /// The kind of the stream says which changes are possible.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Wire<'a> {
            stream: Stream,
            version: u64,
            #[serde(borrow)]
            change: &'a serde_json::value::RawValue,
        }
        let wire = Wire::deserialize(deserializer)?;
        let text = wire.change.get();
        let change = match wire.stream.kind {
            Kind::Action => serde_json::from_str(text).map(Change::Action),
            Kind::Approval => serde_json::from_str(text).map(Change::Approval),
            Kind::Account => serde_json::from_str(text).map(Change::Account),
            Kind::Idempotency => serde_json::from_str(text).map(Change::Reservation),
            Kind::Factor => serde_json::from_str(text).map(Change::Factor),
            Kind::Signer => serde_json::from_str(text).map(Change::Signer),
            Kind::SigningKey => serde_json::from_str(text).map(Change::SigningKey),
            Kind::Session => serde_json::from_str(text).map(Change::Session),
            Kind::Identity => serde_json::from_str(text).map(Change::Identity),
            Kind::Secret => serde_json::from_str(text).map(Change::Secret),
            Kind::Upstream => serde_json::from_str(text).map(Change::Upstream),
            Kind::UpstreamTool => serde_json::from_str(text).map(Change::UpstreamTool),
            Kind::WasmTool => serde_json::from_str(text).map(Change::WasmTool),
            Kind::Connector => serde_json::from_str(text).map(Change::Connector),
            Kind::Meter => Err(serde::de::Error::custom("a meter has no changes of its own")),
            Kind::Run => serde_json::from_str(text).map(Change::Run),
            Kind::Workflow => serde_json::from_str(text).map(Change::Workflow),
            Kind::Release => serde_json::from_str(text).map(Change::Release),
            Kind::UseCase => serde_json::from_str(text).map(Change::UseCase),
            Kind::Trigger => serde_json::from_str(text).map(Change::Trigger),
            Kind::Card => serde_json::from_str(text).map(Change::Card),
            Kind::Delivery => serde_json::from_str(text).map(Change::Delivery),
            Kind::Transfer => serde_json::from_str(text).map(Change::Transfer),
            _ => serde_json::from_str(text).map(Change::Control),
        };
        let change = change.map_err(serde::de::Error::custom)?;
        Ok(Self { stream: wire.stream, version: wire.version, change })
    }
}

/// What a receipt asserts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predicate {
    /// `ops.17`.
    pub id: String,
    /// Where it stands.
    pub log: Position,
    /// When, in microseconds since 1970. Never before the receipt before it.
    pub time_us: Timestamp,
    /// The W3C trace id of the request, 32 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// What changed, in order.
    pub transitions: Vec<Transition>,
}

/// Something that a receipt is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Its digest.
    pub digest: Sha256,
}

/// A digest set with one member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sha256 {
    /// Hex.
    pub sha256: Digest,
}

/// An in-toto Statement v1 with our predicate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// [`STATEMENT_TYPE`].
    #[serde(rename = "_type")]
    pub statement_type: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// [`PREDICATE_TYPE`].
    #[serde(rename = "predicateType")]
    pub predicate_type: String,
    /// What it asserts.
    pub predicate: Predicate,
}

/// Why a payload is not a receipt, or not the next one of its log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a statement of a known type.
    #[error("not a receipt: {0}")]
    Malformed(String),
    /// Too long to be a log entry.
    #[error(
        "the receipt has {0} bytes, at most {max} are possible",
        max = limits::RECEIPT_PAYLOAD_BYTES_MAX
    )]
    TooLong(usize),
    /// It belongs to another log.
    #[error("receipt {index} is of log `{found}`, not of `{expected}`")]
    OtherLog {
        /// Its index.
        index: u64,
        /// The log it names.
        found: String,
        /// The log it is in.
        expected: String,
    },
    /// A gap or a repetition.
    #[error("receipt {found} stands where {expected} is due")]
    Index {
        /// The index it names.
        found: u64,
        /// The index due.
        expected: u64,
    },
    /// Its id is not that of its place.
    #[error("receipt {0} has an id that names another place")]
    Id(u64),
    /// It does not follow the one before it.
    #[error("receipt {0} does not name the digest of the receipt before it")]
    Chain(u64),
    /// Time ran backwards.
    #[error("receipt {0} is older than the receipt before it")]
    Time(u64),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "receipt_malformed",
            Self::TooLong(_) => "receipt_too_long",
            Self::OtherLog { .. } => "receipt_other_log",
            Self::Index { .. } => "receipt_index",
            Self::Id(_) => "receipt_id",
            Self::Chain(_) => "receipt_chain",
            Self::Time(_) => "receipt_time",
        }
    }
}

impl Statement {
    /// The statement of one commit.
    pub fn new(log: &LogId, position: Position, time: Timestamp, body: Body) -> Self {
        Self {
            statement_type: STATEMENT_TYPE.to_owned(),
            subject: subjects(&body.transitions),
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                id: log.receipt_id(position.index),
                log: position,
                time_us: time,
                trace_id: body.trace_id,
                transitions: body.transitions,
            },
        }
    }

    /// The bytes to be signed.
    pub fn payload(&self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(2048);
        serde_json::to_writer(&mut bytes, self).map_err(|e| Error::Malformed(e.to_string()))?;
        if bytes.len() > limits::RECEIPT_PAYLOAD_BYTES_MAX {
            return Err(Error::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, Error> {
        if payload.len() > limits::RECEIPT_PAYLOAD_BYTES_MAX {
            return Err(Error::TooLong(payload.len()));
        }
        let statement: Self =
            serde_json::from_slice(payload).map_err(|e| Error::Malformed(e.to_string()))?;
        if statement.statement_type != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE
        {
            return Err(Error::Malformed("the type of the statement or predicate".to_owned()));
        }
        Ok(statement)
    }
}

/// What a commit puts into its receipt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The W3C trace id of the request.
    pub trace_id: Option<String>,
    /// What changed.
    pub transitions: Vec<Transition>,
}

/// What a change of a registered tool is about, by what follows the stream in its name.
fn wasm_tool_subjects(change: &wasm_tool::Change) -> Vec<(&'static str, Digest)> {
    let (code, compiled_to, granted) = ("/component", "/compiled", "/capabilities");
    match change {
        wasm_tool::Change::Registered(registration) => {
            vec![("", registration.manifest), (code, registration.component)]
        }
        wasm_tool::Change::Bound { component, compiled, .. } => {
            vec![(code, *component), (compiled_to, *compiled)]
        }
        wasm_tool::Change::Granted { component, capabilities_hash, .. } => {
            vec![(code, *component), (granted, *capabilities_hash)]
        }
        wasm_tool::Change::Revoked { .. } => Vec::new(),
    }
}

/// What a change of an action is about.
fn action_subjects(stream: &Stream, change: &action::Change, add: &mut impl FnMut(String, Digest)) {
    match change {
        action::Change::Requested(request) => {
            add(stream.to_string(), request.action_digest);
            add(format!("tool/{}", request.tool), request.tool_digest);
        }
        action::Change::Decided { decision, .. } => {
            add(format!("policy/{}", decision.policy.revision), decision.policy.digest);
        }
        action::Change::Finished { attempt, outcome } => {
            if let Some(output) = outcome.output {
                add(format!("{stream}/output/{attempt}"), output);
            }
            if let Some(attestation) = &outcome.attestation {
                add(format!("{stream}/agent/{attempt}"), attestation.agent_hash);
            }
        }
        _ => {}
    }
}

/// What the transitions are about: documents, tools, policies and outputs by their digests.
fn subjects(transitions: &[Transition]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let mut add = |name: String, digest: Digest| {
        subjects.push(Subject { name, digest: Sha256 { sha256: digest } });
    };
    for Transition { stream, change, .. } in transitions {
        match change {
            Change::Action(change) => action_subjects(stream, change, &mut add),
            Change::Run(run::Change::Requested(request)) => {
                add(stream.to_string(), request.document);
            }
            Change::Workflow(workflow_registry::Change::Published(published)) => {
                add(stream.to_string(), published.document);
                add(format!("{stream}/plan"), published.plan);
            }
            Change::Release(release::Change::Created(request)) => {
                add(format!("workflow/{}", request.workflow), request.document);
            }
            Change::Control(control::Change::PolicyDrafted { digest, .. }) => {
                add(stream.to_string(), *digest);
            }
            Change::Control(control::Change::PolicyPublished { revision, digest, .. }) => {
                add(format!("policy/{revision}"), *digest);
            }
            Change::UpstreamTool(
                upstream_tool::Change::Pinned { digest, .. }
                | upstream_tool::Change::Changed { digest, .. }
                | upstream_tool::Change::Released { digest, .. },
            ) => add(stream.to_string(), *digest),
            Change::WasmTool(change) => {
                for (what, digest) in wasm_tool_subjects(change) {
                    add(format!("{stream}{what}"), digest);
                }
            }
            Change::Connector(change) => {
                if let Some(definition) = change.definition() {
                    add(stream.to_string(), definition);
                }
                if let connector::Change::Configured { config, .. } = change {
                    add(format!("{stream}/config"), *config);
                }
            }
            Change::Trigger(trigger::Change::Created(binding)) => {
                add(stream.to_string(), binding.definition);
            }
            // Its id is the digest of the key itself.
            Change::SigningKey(signing_key::Change::Activated { .. }) => {
                if let Some(key_id) = Digest::parse(&stream.id) {
                    add(stream.to_string(), key_id);
                }
            }
            _ => {}
        }
    }
    if subjects.is_empty()
        && let Some(Transition { stream, version, change }) = transitions.first()
        && let Ok(bytes) = serde_json::to_vec(change)
    {
        // A statement needs a subject: a change that is about no document is its own.
        let digest = Sha256 { sha256: Digest::of(&bytes) };
        subjects.push(Subject { name: format!("{stream}@{version}"), digest });
    }
    subjects
}

/// The end of a chain of receipts: what the next one must follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainEnd {
    /// The origin of the log.
    pub origin: String,
    /// How many receipts there are.
    pub size: u64,
    /// The digest of the last payload; of no bytes before the first.
    pub prev: Digest,
    /// The time of the last.
    pub time: Timestamp,
}

impl ChainEnd {
    /// Before the first receipt.
    pub fn start(origin: impl Into<String>) -> Self {
        Self { origin: origin.into(), size: 0, prev: Digest::of(b""), time: Timestamp(i64::MIN) }
    }

    /// Checks that `payload` is the next receipt, and moves on.
    pub fn follow(&mut self, payload: &[u8]) -> Result<Statement, Error> {
        let statement = Statement::parse(payload)?;
        let Predicate { id, log, time_us, .. } = &statement.predicate;
        if log.origin != self.origin {
            return Err(Error::OtherLog {
                index: self.size,
                found: log.origin.clone(),
                expected: self.origin.clone(),
            });
        }
        if log.index != self.size {
            return Err(Error::Index { found: log.index, expected: self.size });
        }
        let name = self.origin.rsplit('/').next().unwrap_or_default();
        if parse_receipt_id(id) != Some((name, log.index)) {
            return Err(Error::Id(log.index));
        }
        if log.prev != self.prev {
            return Err(Error::Chain(log.index));
        }
        if *time_us < self.time {
            return Err(Error::Time(log.index));
        }
        self.advance(payload, *time_us);
        Ok(statement)
    }

    /// Moves on past `payload`, which is known to be the next receipt.
    pub fn advance(&mut self, payload: &[u8], time: Timestamp) {
        self.size = self.size.saturating_add(1);
        self.prev = Digest::of(payload);
        self.time = time;
    }
}
