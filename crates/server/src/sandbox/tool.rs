//! The tools that run code: `sandbox.execute`, and `sandbox.replay`, which runs it once more
//! without any effect.

use std::collections::BTreeSet;

use connectors::schema::Validator;
use kernel::capability::{Capabilities, Glob};
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::tool::{CallFacts, FailureMode, Manifest};
use kernel::units::Unit;
use kernel::values::{Digest, MicroUsd};
use serde::Deserialize;
use serde_json::{Value, json};

use super::limits;
use crate::shared::{Caller, Shared};
use crate::{Config, StartError};

/// Runs code.
pub(crate) const EXECUTE: &str = "sandbox.execute";
/// Runs it again.
pub(crate) const REPLAY: &str = "sandbox.replay";

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Execute,
    Replay,
}

/// One of the tools that run code.
#[derive(Debug)]
pub(crate) struct CodeTool {
    pub(crate) which: Which,
    pub(crate) manifest: Manifest,
    /// Of the manifest; part of every plan.
    pub(crate) digest: Digest,
    /// The processor time that a call may use where it names none.
    cpu_ms: u64,
    validator: Validator,
}

/// Whether it is the id of a tool that runs code.
pub(crate) fn is_code(tool: &ToolId) -> bool {
    matches!(tool.as_str(), EXECUTE | REPLAY)
}

impl CodeTool {
    /// Both of them, as `config` has them: what may be asked, and what `tenant` pays where it has
    /// prices of its own, is part of what the tool is.
    pub(crate) fn all(config: &Config, tenant: Option<&TenantId>) -> Result<[Self; 2], StartError> {
        Ok([
            Self::new(Which::Execute, execute(config), (config, tenant))?,
            Self::new(Which::Replay, replay(config), (config, tenant))?,
        ])
    }

    fn new(
        which: Which,
        manifest: Value,
        (config, tenant): (&Config, Option<&TenantId>),
    ) -> Result<Self, StartError> {
        let broken = |reason: String| StartError::Start(format!("a manifest: {reason}"));
        let mut manifest: Manifest =
            serde_json::from_value(manifest).map_err(|error| broken(error.to_string()))?;
        manifest.cost.per_call_micro_usd = price(config, tenant, &manifest.id)?;
        let digest = manifest.digest().map_err(|error| broken(error.to_string()))?;
        let validator = Validator::new(&manifest.input_schema).map_err(broken)?;
        let cpu_ms = config.sandbox.limits().cpu_ms;
        Ok(Self { which, manifest, digest, cpu_ms, validator })
    }

    /// Checks parameters before anything is decided about them.
    pub(crate) fn validate(
        &self,
        shared: &Shared,
        caller: &Caller,
        params: &RawJson,
    ) -> Result<(), Failure> {
        self.validator.check(&params.to_value())?;
        match self.which {
            Which::Execute => super::job::Job::read(shared, caller, params).map(drop),
            Which::Replay => Ok(()),
        }
    }

    /// What a call with these parameters is: labels follow from what it is granted.
    pub(crate) fn facts(&self, params: &RawJson) -> CallFacts {
        let mut facts = self.manifest.facts(params);
        let mut cpu_ms = self.cpu_ms;
        if self.which == Which::Execute {
            let asked = Asked::read(params);
            facts = granted(facts, &asked.capabilities);
            cpu_ms = asked.limits.cpu_ms.unwrap_or(cpu_ms);
        }
        CallFacts { units: facts.units.with(Unit::CpuMs, cpu_ms), ..facts }
    }

    /// How long one attempt may take, waiting for people included.
    pub(crate) fn timeout_ms(&self, config: &Config, params: &RawJson) -> u64 {
        let params = params.to_value();
        let wall = params.pointer("/limits/wall_ms").and_then(Value::as_u64);
        let wall = match self.which {
            // More than there may be is refused.
            Which::Execute => wall.unwrap_or(u64::MAX).min(config.sandbox.wall_ms),
            Which::Replay => config.sandbox.wall_ms,
        };
        attempt_ms(config, wall)
    }
}

/// How long an attempt with so much time of its own may take, waiting for people included.
pub(crate) fn attempt_ms(config: &Config, wall_ms: u64) -> u64 {
    let hold = u64::from(config.sandbox.hold_s).saturating_mul(1_000);
    let slack = u64::try_from(limits::ATTEMPT_SLACK.as_millis()).unwrap_or(u64::MAX);
    wall_ms.saturating_add(hold).saturating_add(slack)
}

/// What a call of `sandbox.execute` asks for that says what kind of call it is.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Asked {
    capabilities: Capabilities,
    limits: AskedLimits,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AskedLimits {
    cpu_ms: Option<u64>,
}

impl Asked {
    /// Valid by the schema, and read by the same types when it runs.
    fn read(params: &RawJson) -> Self {
        serde_json::from_str(params.as_str()).unwrap_or_default()
    }
}

/// The facts of a call of `sandbox.execute`: code that reaches hosts may send them anything, so
/// it changes something as code that writes files does.
fn granted(base: CallFacts, capabilities: &Capabilities) -> CallFacts {
    let mut labels: BTreeSet<String> = base.labels.clone();
    if !capabilities.network.allowlist.is_empty() {
        labels.extend(["network", "external", "write"].map(str::to_owned));
    }
    if !capabilities.file_write.is_empty() {
        labels.insert("write".to_owned());
    }
    CallFacts { idempotent: repeatable(capabilities), ..base }.labelled(labels)
}

/// Whether code with these grants can be run again as if it had never run. What it told a host
/// nobody knows; and where it may read what it writes, it may find what it wrote.
pub(super) fn repeatable(capabilities: &Capabilities) -> bool {
    let Capabilities { file_read, file_write, network, .. } = capabilities;
    let meets = |read: &String| file_write.iter().any(|write| may_meet(read, write));
    network.allowlist.is_empty() && !file_read.iter().any(meets)
}

/// Whether one path may match both globs. A yes may be wrong, a no never is.
fn may_meet(one: &str, other: &str) -> bool {
    let (Ok(first), Ok(second)) = (Glob::parse(one), Glob::parse(other)) else { return true };
    let literal = |text: &str| !text.contains(['*', '?', '[', '\\', '{']);
    match (literal(one), literal(other)) {
        (true, _) => second.matches(one),
        (_, true) => first.matches(other),
        _ => {
            let (a, b) = (first.folder() + "/", second.folder() + "/");
            a.starts_with(&b) || b.starts_with(&a)
        }
    }
}

/// The price of a tool that runs code.
fn price(config: &Config, tenant: Option<&TenantId>, id: &ToolId) -> Result<MicroUsd, StartError> {
    let own = tenant.and_then(|tenant| config.tenant_prices.get(tenant));
    let own = own.and_then(|own| own.tools.get(id));
    let price = own.or_else(|| config.prices.get(id)).copied().unwrap_or(MicroUsd::ZERO);
    if price < MicroUsd::ZERO {
        let reason = format!("`{id}` costs less than nothing");
        let key = if own.is_some() { "tenant_prices" } else { "prices" };
        return Err(crate::ConfigError::Value { key, reason }.into());
    }
    Ok(price)
}

fn failures() -> Vec<FailureMode> {
    let (change, less) = ("change what the message names", "give it less to do, or more of it");
    let ask = "ask for less, or have the operator allow more";
    let time = "it took longer than it was given: TIMEOUT";
    let beyond = |code, meaning, hint| FailureMode::new(code, Category::Sandbox, meaning, hint);
    vec![
        FailureMode::new(
            "params_invalid",
            Category::Validation,
            "the parameters break the input schema",
            change,
        ),
        beyond("sandbox_type_unavailable", "no such sandbox here: nothing weaker is used", ask),
        beyond("capability_not_grantable", "the operator does not let this be granted", ask),
        beyond("limit_not_grantable", "more than the operator lets an execution use", ask),
        beyond("source_too_long", "the source text is longer than code may be", "send less"),
        beyond("attestation_level_unavailable", "so much is not attested of this type", ask),
        beyond("runtime_missing", "there is no interpreter for this language", ask),
        FailureMode::new(
            "too_many_sandboxes",
            Category::RateLimited,
            "the tenant has as many live ones as it may",
            "try again later",
        ),
        beyond("wall_time_exceeded", time, less),
        beyond("cpu_time_exceeded", "it computed for longer than it was given: TIMEOUT", less),
        beyond("fuel_exhausted", "it took more instructions than it was given: TIMEOUT", less),
        beyond("memory_exceeded", "it wanted more memory: MEMORY_EXCEEDED", less),
        beyond("capability_denied", "it wanted what it was not granted: PERMISSION_DENIED", ask),
        beyond("trap", "it broke: CRASH", "correct the code"),
        beyond("raised", "it ended with an error of its own: CRASH", "read what it says"),
        beyond("canceled", "somebody stopped it", "ask who did"),
        beyond(
            "replay_diverged",
            "repeated after a crash, it did something else than before",
            "have the code do the same again for the same input, then submit it again",
        ),
    ]
}

fn base(id: &str, description: &str, input: Value, output: Value, wall_ms: u64) -> Value {
    json!({
        "id": id,
        "version": "1.0.0",
        "executor": "wasm",
        "description": description,
        "labels": ["sandbox", "read"],
        "idempotent": true,
        "reversible": false,
        "cost": {"per_call_micro_usd": 0},
        "capabilities": [],
        "timeout_ms": wall_ms,
        "input_schema": input,
        "output_schema": output,
        "failure_modes": failures(),
    })
}

fn list(description: &str) -> Value {
    json!({
        "type": "array",
        "items": {"type": "string", "minLength": 1, "maxLength": limits::GRANT_BYTES_MAX},
        "maxItems": limits::GRANTS_MAX,
        "description": description,
    })
}

fn object(properties: Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "properties": properties})
}

fn code_properties() -> Value {
    json!({
        "language": {"enum": ["python", "javascript"]},
        "source": {
            "type": "string",
            "minLength": 1,
            "description": "Python that defines `run(input)`, or JavaScript that exports it.",
        },
        "component": {
            "type": "string",
            "minLength": 1,
            "description": "A WebAssembly component of the world `tally:agent/agent`, base64.",
        },
        "tool": {"type": "string", "description": "A registered component, by its id."},
    })
}

fn execute(config: &Config) -> Value {
    let most = config.sandbox.limits();
    let limit = |most: u64| json!({"type": "integer", "minimum": 1, "default": most});
    let mut input = object(code_properties());
    let own = json!({
        "input": {"description": "What the code is given: any JSON value."},
        "type": {
            "enum": ["light", "standard", "hardened", "tee"],
            "default": config.sandbox.default_type,
        },
        "capabilities": object(json!({
            "file_read": list("Globs of absolute paths that may be read."),
            "file_write": list("Globs of absolute paths that may be written."),
            "network": object(json!({
                "allowlist": list("`host:port`, `host`, `*.host`, `*.host:port`."),
                "denylist": list("Ranges of addresses that no host may have."),
            })),
            "env": list("Globs of names of variables."),
        })),
        "limits": object(json!({
            "memory_bytes": limit(most.memory_bytes),
            "cpu_ms": limit(most.cpu_ms),
            "wall_ms": limit(most.wall_ms),
            "fuel": limit(most.fuel),
            "output_bytes": limit(most.output_bytes),
            "tool_calls": {"type": "integer", "minimum": 0, "default": most.tool_calls},
        })),
        "attestation": {"enum": ["basic", "full"], "default": config.attestation.level},
    });
    extend(&mut input, own);
    let output = object(json!({
        "outcome": {
            "enum": ["SUCCESS", "TIMEOUT", "MEMORY_EXCEEDED", "PERMISSION_DENIED", "CRASH"],
        },
        "output": {},
        "error": {"type": "object"},
        "denials": {"type": "array"},
        "fuel_used": {"type": "integer"},
        "memory_peak_bytes": {"type": "integer"},
        "written": {"type": "array"},
        "tool_calls": {"type": "array"},
    }));
    let description = "Runs an agent's code in a sandbox, with what it is granted and nothing \
        else. Each tool that it calls is an action of its own.";
    base(EXECUTE, description, input, output, config.sandbox.wall_ms)
}

fn replay(config: &Config) -> Value {
    let mut input = object(json!({
        "execution_id": {"type": "string", "minLength": 1, "maxLength": 64},
        "source": {"type": "string", "minLength": 1, "description": "In place of its own code."},
        "component": {"type": "string", "minLength": 1, "description": "The same, base64."},
    }));
    if let Some(input) = input.as_object_mut() {
        input.insert("required".to_owned(), json!(["execution_id"]));
    }
    let output = object(json!({
        "matches": {"type": "boolean"},
        "differences": {"type": "array"},
    }));
    let description = "Runs an execution again on what was recorded of it, without any effect, \
        and says where the two differ.";
    base(REPLAY, description, input, output, config.sandbox.wall_ms)
}

fn extend(schema: &mut Value, own: Value) {
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    if let (Some(properties), Value::Object(own)) = (properties, own) {
        properties.extend(own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_run_again() {
        let check = |read: &[&str], write: &[&str], host: &[&str], again: bool| {
            let list = |items: &[&str]| items.iter().map(|item| (*item).to_owned()).collect();
            let mut granted = Capabilities {
                file_read: list(read),
                file_write: list(write),
                ..Capabilities::default()
            };
            granted.network.allowlist = list(host);
            assert_eq!(repeatable(&granted), again, "{granted:?}");
        };
        check(&[], &[], &[], true);
        check(&["/in/**"], &["/out/*"], &[], true);
        check(&["/data/in"], &["/data/out"], &[], true);
        check(&["/data/*"], &["/data/out"], &[], false);
        check(&["/data/count"], &["/data/**"], &[], false);
        check(&["/data/a/*"], &["/data/**"], &[], false);
        check(&["/*/x"], &["/out/*"], &[], false);
        check(&[], &[], &["example.com"], false);
    }
}
