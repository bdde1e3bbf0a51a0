//! Executions on the wire: requests that become parameters, and results that are taken apart.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::action::Action;
use kernel::attestation::{Ending, Level, SandboxType};
use kernel::json::RawJson;
use kernel::receipt::LogId;
use proto::sandboxes::{
    Denial, Difference, ExecuteRequest, Execution, Replay, ReplayExecutionRequest, ToolCall,
    WrittenFile,
};
use proto::wire::Json;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::replay::Replayed;
use crate::actions::Answer;
use crate::error::{Refused, Result};

/// The parameters of `sandbox.execute` that a request is.
pub(super) fn params(wire: &ExecuteRequest) -> Result<RawJson> {
    let mut params = Map::new();
    for (name, text) in [
        ("language", &wire.language),
        ("source", &wire.source),
        ("tool", &wire.tool),
        ("type", &wire.r#type),
        ("attestation", &wire.attestation),
    ] {
        if !text.is_empty() {
            params.insert(name.to_owned(), text.as_str().into());
        }
    }
    if !wire.component.is_empty() {
        params.insert("component".to_owned(), STANDARD.encode(&wire.component).into());
    }
    if let Some(capabilities) = &wire.capabilities {
        let network = capabilities.network.clone().unwrap_or_default();
        let granted = json!({
            "file_read": capabilities.file_read,
            "file_write": capabilities.file_write,
            "network": {"allowlist": network.allowlist, "denylist": network.denylist},
            "env": capabilities.env,
        });
        params.insert("capabilities".to_owned(), granted);
    }
    if let Some(limits) = &wire.limits {
        let each = [
            ("memory_bytes", limits.memory_bytes),
            ("cpu_ms", limits.cpu_ms),
            ("wall_ms", limits.wall_ms),
            ("fuel", limits.fuel),
            ("output_bytes", limits.output_bytes),
            ("tool_calls", limits.tool_calls.map(u64::from)),
        ];
        let asked = each.into_iter().filter_map(|(name, most)| Some((name, most?)));
        let asked = asked.map(|(name, most)| (name.to_owned(), most.into())).collect();
        params.insert("limits".to_owned(), Value::Object(asked));
    }
    // The input is kept byte for byte.
    #[derive(Serialize)]
    struct Whole<'a> {
        #[serde(flatten)]
        params: Map<String, Value>,
        #[serde(skip_serializing_if = "Option::is_none")]
        input: Option<&'a RawValue>,
    }
    let read = |json: &Json| {
        let checked = crate::actions::parse_json("input", &json.text)?;
        RawValue::from_string(checked.as_str().to_owned()).map_err(Refused::internal)
    };
    let input = wire.input.as_ref().map(read).transpose()?;
    written(&Whole { params, input: input.as_deref() })
}

/// The parameters of `sandbox.replay` that a request is.
pub(super) fn replay_params(wire: &ReplayExecutionRequest) -> Result<RawJson> {
    #[derive(Serialize)]
    struct Params<'a> {
        execution_id: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        source: &'a str,
        #[serde(skip_serializing_if = "String::is_empty")]
        component: String,
    }
    written(&Params {
        execution_id: &wire.execution_id,
        source: &wire.source,
        component: STANDARD.encode(&wire.component),
    })
}

fn written<T: Serialize>(params: &T) -> Result<RawJson> {
    let text = serde_json::to_string(params).map_err(Refused::internal)?;
    crate::actions::parse_json("the request", &text)
}

/// What is read of the result of an execution.
#[derive(Deserialize, Default)]
struct Shown {
    #[serde(default)]
    output: Option<Box<RawValue>>,
    #[serde(default)]
    denials: Vec<ShownDenial>,
    #[serde(default)]
    fuel_used: u64,
    #[serde(default)]
    memory_peak_bytes: u64,
    #[serde(default)]
    written: Vec<ShownFile>,
    #[serde(default)]
    tool_calls: Vec<ShownCall>,
}

#[derive(Deserialize)]
struct ShownDenial {
    capability: String,
    wanted: String,
}

#[derive(Deserialize)]
struct ShownFile {
    path: String,
    digest: String,
    bytes: u64,
}

#[derive(Deserialize)]
struct ShownCall {
    seq: u32,
    tool: String,
    #[serde(default)]
    action_id: String,
    status: String,
    #[serde(default)]
    error: String,
}

/// The name of something that serialises as a word.
fn word<T: Serialize>(value: T) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

fn shown(action: &proto::actions::Action) -> Shown {
    let text = action.result.as_ref().map(|json| json.text.as_str());
    // A result that was routed to another tool is none of an execution.
    text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// An execution as its action has it.
pub(super) fn execution(answer: Answer, log: &LogId) -> Execution {
    let attested = attested(&answer.action);
    let action = answer.wire(log);
    let state = action.state;
    let shown = shown(&action);
    let mut execution = Execution {
        execution_id: action.action_id,
        state,
        error: action.error,
        approval_id: action.approval_id,
        decision: action.decision,
        plan_digest: action.plan_digest,
        receipts: action.receipts,
        checkpoint: action.checkpoint,
        created_at: action.created_at,
        updated_at: action.updated_at,
        cost_micro_usd: action.cost_micro_usd,
        output: shown.output.map(|raw| Json { text: raw.get().to_owned() }),
        fuel_used: shown.fuel_used,
        memory_peak_bytes: shown.memory_peak_bytes,
        ..Execution::default()
    };
    let denial = |ShownDenial { capability, wanted }| Denial { capability, wanted };
    let call = |ShownCall { seq, tool, action_id, status, error }| ToolCall {
        seq,
        tool,
        action_id,
        status,
        error,
    };
    let file = |ShownFile { path, digest, bytes }| WrittenFile { path, digest, bytes };
    execution.denials = shown.denials.into_iter().map(denial).collect();
    execution.tool_calls = shown.tool_calls.into_iter().map(call).collect();
    execution.written = shown.written.into_iter().map(file).collect();
    if let Some(Attested { ending, sandbox_id, sandbox_type, level, agent_hash }) = attested {
        execution.outcome = word(ending);
        execution.sandbox_id = sandbox_id;
        execution.r#type = word(sandbox_type);
        execution.attestation = word(level);
        execution.agent_hash = agent_hash;
    }
    execution
}

struct Attested {
    ending: Ending,
    sandbox_id: String,
    sandbox_type: SandboxType,
    level: Level,
    agent_hash: String,
}

fn attested(action: &Action) -> Option<Attested> {
    let attestation = action.outcome.as_ref()?.attestation.as_ref()?;
    Some(Attested {
        ending: attestation.ending,
        sandbox_id: attestation.sandbox_id.clone(),
        sandbox_type: attestation.sandbox_type,
        level: attestation.level,
        agent_hash: attestation.agent_hash.hex(),
    })
}

/// A repetition as its action has it.
pub(super) fn replay(execution_id: &str, answer: Answer, log: &LogId) -> Replay {
    let action = answer.wire(log);
    let text = action.result.as_ref().map(|json| json.text.as_str());
    let replayed: Option<Replayed> = text.and_then(|text| serde_json::from_str(text).ok());
    let difference = |d: super::replay::Difference| Difference {
        field: d.field,
        recorded: d.recorded,
        replayed: d.replayed,
    };
    let (matches, differences) = match replayed {
        Some(Replayed { matches, differences }) => {
            (matches, differences.into_iter().map(difference).collect())
        }
        None => (false, Vec::new()),
    };
    Replay {
        execution_id: execution_id.to_owned(),
        action_id: action.action_id,
        state: action.state,
        matches,
        differences,
        error: action.error,
    }
}
