//! What is asked to run: read from an action's parameters, and held to what the operator lets be.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kernel::attestation::{CodeKind, Level, Limits, SandboxType};
use kernel::capability::Capabilities;
use kernel::failure::{Category, Failure};
use kernel::ids::{EnvironmentId, ToolId};
use kernel::json::RawJson;
use kernel::values::Digest;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::limits;
use super::registry::WasmTool;
use crate::Config;
use crate::shared::{Caller, Shared};

/// Where mistakes are dear.
const PROD: &str = "prod";

/// The code of an execution.
#[derive(Clone, Debug)]
pub(crate) enum JobCode {
    /// Source text.
    Source { kind: CodeKind, text: Arc<str> },
    /// A component that came with the request.
    Inline(Arc<[u8]>),
    /// Code that was registered.
    Registered(Arc<WasmTool>),
}

impl JobCode {
    /// What it is.
    pub(crate) fn kind(&self) -> CodeKind {
        match self {
            Self::Source { kind, .. } => *kind,
            Self::Inline(_) => CodeKind::Component,
            Self::Registered(tool) => tool.kind,
        }
    }

    /// SHA-256 of it.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Source { text, .. } => Digest::of(text.as_bytes()),
            Self::Inline(bytes) => Digest::of(bytes),
            Self::Registered(tool) => tool.component,
        }
    }
}

/// One execution as it was asked for, with what was left out filled in.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) code: JobCode,
    /// JSON text.
    pub(crate) input: Arc<str>,
    pub(crate) sandbox_type: SandboxType,
    pub(crate) level: Level,
    pub(crate) capabilities: Capabilities,
    pub(crate) limits: Limits,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Params {
    #[serde(default)]
    language: Option<CodeKind>,
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    component: Option<String>,
    #[serde(default)]
    tool: Option<ToolId>,
    #[serde(default)]
    input: Option<Box<RawValue>>,
    #[serde(default, rename = "type")]
    sandbox_type: Option<SandboxType>,
    #[serde(default)]
    capabilities: Capabilities,
    #[serde(default)]
    limits: Asked,
    #[serde(default)]
    attestation: Option<Level>,
}

/// Limits as far as they were asked for.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    memory_bytes: Option<u64>,
    cpu_ms: Option<u64>,
    wall_ms: Option<u64>,
    fuel: Option<u64>,
    output_bytes: Option<u64>,
    tool_calls: Option<u32>,
}

impl Asked {
    fn or(self, most: Limits) -> Limits {
        Limits {
            memory_bytes: self.memory_bytes.unwrap_or(most.memory_bytes),
            cpu_ms: self.cpu_ms.unwrap_or(most.cpu_ms),
            wall_ms: self.wall_ms.unwrap_or(most.wall_ms),
            fuel: self.fuel.unwrap_or(most.fuel),
            output_bytes: self.output_bytes.unwrap_or(most.output_bytes),
            tool_calls: self.tool_calls.unwrap_or(most.tool_calls),
        }
    }
}

fn invalid(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(Category::Validation, code, message)
}

fn beyond(code: &str, message: impl Into<String>) -> Failure {
    Failure::new(Category::Sandbox, code, message)
}

impl Job {
    /// Reads the parameters of `sandbox.execute` and checks them. Asked before anything is
    /// decided, and again before anything runs: what was decided long ago may be too much by now.
    /// What does not read is a failure of the category `VALIDATION`; what the operator does not
    /// let be is one of `SANDBOX`, and that is refused with a receipt.
    pub(crate) fn read(
        shared: &Shared,
        caller: &Caller,
        params: &RawJson,
    ) -> Result<Self, Failure> {
        let config = &shared.config;
        let params: Params = serde_json::from_str(params.as_str())
            .map_err(|error| invalid("params_invalid", error.to_string()))?;
        let sandbox_type = params.sandbox_type.unwrap_or(config.sandbox.default_type);
        check_type(config, &caller.environment, sandbox_type)?;
        let level = level(config, sandbox_type, params.attestation)?;
        let mut capabilities = granted(config, &params.capabilities)?;
        let code = code(shared, caller, &params)?;
        if let JobCode::Registered(tool) = &code {
            let within = capabilities.within(&tool.capabilities);
            capabilities = within.map_err(|error| beyond(error.code(), error.to_string()))?;
        }
        let job = Self {
            code,
            input: params.input.as_ref().map_or("null", |input| input.get()).into(),
            sandbox_type,
            level,
            capabilities,
            limits: check_limits(config.sandbox.limits(), params.limits)?,
        };
        job.check_runs(config)?;
        Ok(job)
    }

    /// A registered tool, on what it was granted.
    pub(crate) fn of_tool(
        config: &Config,
        tool: Arc<WasmTool>,
        params: &RawJson,
    ) -> Result<Self, Failure> {
        let job = Self {
            input: params.as_str().into(),
            sandbox_type: SandboxType::Standard,
            level: config.attestation.level,
            capabilities: tool.capabilities.clone(),
            limits: least(tool.limits, config.sandbox.limits()),
            code: JobCode::Registered(tool),
        };
        job.check_runs(config)?;
        Ok(job)
    }

    /// Whether what it needs is here.
    fn check_runs(&self, config: &Config) -> Result<(), Failure> {
        let kind = self.code.kind();
        match (self.sandbox_type, kind) {
            (SandboxType::Light, CodeKind::Component) => {
                let message = "a component runs in a sandbox of the type `standard`";
                Err(beyond("sandbox_type_unavailable", message))
            }
            (SandboxType::Light, CodeKind::Python) if config.sandbox.light.python.is_none() => {
                Err(beyond("runtime_missing", "`sandbox.light.python` names no program"))
            }
            (SandboxType::Light, CodeKind::Javascript) if config.sandbox.light.node.is_none() => {
                Err(beyond("runtime_missing", "`sandbox.light.node` names no program"))
            }
            (SandboxType::Light, _) | (_, CodeKind::Component) => Ok(()),
            _ => check_runtime(config, kind),
        }
    }
}

/// Whether there is such a sandbox. One that is not there is refused: nothing weaker takes its
/// place.
fn check_type(
    config: &Config,
    environment: &EnvironmentId,
    wanted: SandboxType,
) -> Result<(), Failure> {
    let unavailable = |message| Err(beyond("sandbox_type_unavailable", message));
    match wanted {
        SandboxType::Standard => Ok(()),
        SandboxType::Light if environment.as_str() == PROD => unavailable(
            "`light` is a process like any other: never in `prod`, use `standard` there",
        ),
        SandboxType::Light if !config.sandbox.light.enabled => {
            unavailable("`light` is off: `sandbox.light.enabled` in tally.yaml turns it on")
        }
        SandboxType::Light => Ok(()),
        SandboxType::Hardened => {
            unavailable("`hardened` is not built yet: WebAssembly in a confined process of its own")
        }
        SandboxType::Tee => unavailable(
            "`tee` is not built yet: it takes a trusted execution environment and its quotes",
        ),
    }
}

/// How much is attested.
fn level(
    config: &Config,
    sandbox_type: SandboxType,
    asked: Option<Level>,
) -> Result<Level, Failure> {
    match (sandbox_type, asked) {
        (SandboxType::Light, Some(Level::Full)) => {
            let message = "of a sandbox of the type `light` only `basic` is attested";
            Err(beyond("attestation_level_unavailable", message))
        }
        (SandboxType::Light, _) => Ok(Level::Basic),
        (_, asked) => Ok(asked.unwrap_or(config.attestation.level)),
    }
}

/// What is granted of what is asked for: all of it, where the operator lets all of it be granted,
/// without the addresses that the operator denies.
fn granted(config: &Config, asked: &Capabilities) -> Result<Capabilities, Failure> {
    asked.validate().map_err(|error| invalid(error.code(), error.to_string()))?;
    let within = asked.within(&config.sandbox.ceiling());
    let within = within.map_err(|error| beyond(error.code(), error.to_string()))?;
    // Where no host is granted there is nothing to deny.
    Ok(if asked.network.allowlist.is_empty() { asked.clone() } else { within })
}

/// What was granted once may be more than the operator lets be by now.
fn least(granted: Limits, most: Limits) -> Limits {
    Limits {
        memory_bytes: granted.memory_bytes.min(most.memory_bytes),
        cpu_ms: granted.cpu_ms.min(most.cpu_ms),
        wall_ms: granted.wall_ms.min(most.wall_ms),
        fuel: granted.fuel.min(most.fuel),
        output_bytes: granted.output_bytes.min(most.output_bytes),
        tool_calls: granted.tool_calls.min(most.tool_calls),
    }
}

fn check_limits(most: Limits, asked: Asked) -> Result<Limits, Failure> {
    let wanted = asked.or(most);
    let each = [
        ("memory_bytes", wanted.memory_bytes, most.memory_bytes),
        ("cpu_ms", wanted.cpu_ms, most.cpu_ms),
        ("wall_ms", wanted.wall_ms, most.wall_ms),
        ("fuel", wanted.fuel, most.fuel),
        ("output_bytes", wanted.output_bytes, most.output_bytes),
        ("tool_calls", wanted.tool_calls.into(), most.tool_calls.into()),
    ];
    match each.into_iter().find(|(_, wanted, most)| wanted > most) {
        None => Ok(wanted),
        Some((name, wanted, most)) => {
            let message = format!("limits.{name}: {wanted} is more than the {most} there may be");
            Err(beyond("limit_not_grantable", message))
        }
    }
}

fn code(shared: &Shared, caller: &Caller, params: &Params) -> Result<JobCode, Failure> {
    let Params { language, source, component, tool, .. } = params;
    match (language, source, component, tool) {
        (Some(kind @ (CodeKind::Python | CodeKind::Javascript)), Some(text), None, None) => {
            if text.len() > limits::SOURCE_BYTES_MAX {
                let most = limits::SOURCE_BYTES_MAX;
                return Err(beyond("source_too_long", format!("source: at most {most} bytes")));
            }
            Ok(JobCode::Source { kind: *kind, text: text.as_str().into() })
        }
        (None, None, Some(text), None) => {
            let bytes = STANDARD.decode(text);
            let bytes = bytes.map_err(|_| invalid("params_invalid", "component: no base64"))?;
            Ok(JobCode::Inline(bytes.into()))
        }
        (None, None, None, Some(id)) => registered(shared, caller, id, params),
        _ => {
            let message = "name one: `source` with its `language`, `component`, or `tool`";
            Err(invalid("params_invalid", message))
        }
    }
}

/// A registered tool, on no more than it was granted itself.
fn registered(
    shared: &Shared,
    caller: &Caller,
    id: &ToolId,
    params: &Params,
) -> Result<JobCode, Failure> {
    let tool = shared.registry.tool(&caller.tenant, id).ok_or_else(|| {
        let message = format!("tool: there is no tool `{id}` that is given as code");
        Failure::new(Category::NotFound, "unknown_tool", message)
    })?;
    let input = params.input.as_ref().map_or("null", |input| input.get());
    let input = RawJson::parse(input).map_err(|e| invalid(e.code(), format!("input: {e}")))?;
    tool.validate(caller, &input)?;
    Ok(JobCode::Registered(tool))
}

/// Whether there is an interpreter of the language.
fn check_runtime(config: &Config, kind: CodeKind) -> Result<(), Failure> {
    let name = match kind {
        CodeKind::Python => "python",
        CodeKind::Javascript => "javascript",
        CodeKind::Component => return Ok(()),
    };
    let folder = super::runtimes(config);
    let here = folder.is_some_and(|folder| folder.join(format!("{name}.wasm")).is_file());
    if here {
        return Ok(());
    }
    let message = format!(
        "there is no interpreter for {name}: `cargo xtask runtimes` builds it, and \
         `sandbox.runtimes` in tally.yaml or the variable TALLY_RUNTIMES names its folder"
    );
    Err(beyond("runtime_missing", message))
}
