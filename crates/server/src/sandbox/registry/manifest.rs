//! The manifest of a tool that is given as code: what its author says, checked, and what is made
//! of it once somebody has said what the code may reach.

use std::collections::BTreeSet;

use connectors::schema::Validator;
use kernel::capability::Capabilities;
use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::json::{self, RawJson};
use kernel::tool::{CostModel, Executor, FailureMode, Manifest, Variant};
use kernel::values::{Digest, MicroUsd};
use kernel::version::Version;
use kernel::wasm_tool;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Refused, Result};
use crate::sandbox::limits;

/// A manifest as its author writes it. What follows from the grant is not for the author to say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    id: ToolId,
    version: String,
    description: String,
    #[serde(default = "wasm")]
    executor: Executor,
    input_schema: Value,
    #[serde(default = "anything")]
    output_schema: Value,
    labels: BTreeSet<String>,
    #[serde(default)]
    reversible: bool,
    #[serde(default)]
    variants: Vec<Variant>,
    #[serde(default)]
    cost: Option<CostModel>,
    #[serde(default)]
    failure_modes: Vec<FailureMode>,
    #[serde(default)]
    timeout_ms: Option<u64>,
}

fn wasm() -> Executor {
    Executor::Wasm
}

fn anything() -> Value {
    json!({})
}

/// A manifest that can be registered.
pub(super) struct Checked {
    pub(super) manifest: Manifest,
    pub(super) version: Version,
    /// The manifest in its canonical form, as it is kept.
    pub(super) text: Vec<u8>,
}

impl Checked {
    pub(super) fn digest(&self) -> Digest {
        Digest::of(&self.text)
    }
}

fn invalid(reason: impl std::fmt::Display) -> Refused {
    let message = format!("manifest: {reason}");
    Refused::new(Category::Validation, "manifest_invalid", message)
}

/// Reads and checks a manifest; the failure names what to change.
pub(super) fn check(text: &RawJson, wall_ms: u64) -> Result<Checked> {
    if text.as_str().len() > limits::MANIFEST_BYTES_MAX {
        return Err(invalid(format!("at most {} bytes", limits::MANIFEST_BYTES_MAX)));
    }
    let given: Given = serde_json::from_str(text.as_str()).map_err(invalid)?;
    let version = Version::parse(&given.version).map_err(invalid)?;
    if !wasm_tool::may_be_named(&given.id) {
        let reason = "`vendor.operation`, of a vendor other than core, mcp, sandbox and tally";
        return Err(invalid(format!("id: {reason}")));
    }
    if given.executor != Executor::Wasm {
        return Err(invalid("executor: a tool that is given as code has `wasm`"));
    }
    check_words(&given)?;
    let cost = given.cost.unwrap_or(CostModel { per_call_micro_usd: MicroUsd::ZERO });
    let amounts = 0..=kernel::limits::AMOUNT_MICRO_USD_MAX;
    if !amounts.contains(&cost.per_call_micro_usd.0) {
        return Err(invalid("cost.per_call_micro_usd: 0 or more"));
    }
    let timeout_ms = given.timeout_ms.unwrap_or(wall_ms);
    if !(1..=limits::WALL_MS_MAX).contains(&timeout_ms) {
        return Err(invalid(format!("timeout_ms: 1 to {}", limits::WALL_MS_MAX)));
    }
    let manifest = Manifest {
        id: given.id,
        version: given.version,
        description: given.description,
        executor: Executor::Wasm,
        input_schema: given.input_schema,
        output_schema: given.output_schema,
        labels: given.labels,
        idempotent: false,
        reversible: given.reversible,
        variants: given.variants,
        cost,
        caps: None,
        failure_modes: given.failure_modes,
        capabilities: BTreeSet::new(),
        timeout_ms,
        source: None,
        code: None,
    };
    Schemas::of(&manifest).map_err(invalid)?;
    let text = json::canonical(&manifest).map_err(invalid)?;
    Ok(Checked { manifest, version, text })
}

/// Labels are what policy reads, so there has to be one.
fn check_words(given: &Given) -> Result<()> {
    let chars = given.description.chars().count();
    if !(1..=limits::DESCRIPTION_CHARS_MAX).contains(&chars) {
        let most = limits::DESCRIPTION_CHARS_MAX;
        return Err(invalid(format!("description: 1 to {most} characters")));
    }
    let word = |label: &String| {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b);
        (1..=limits::LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(plain)
    };
    let all = given.variants.iter().map(|variant| &variant.labels);
    for labels in std::iter::once(&given.labels).chain(all) {
        if !(1..=limits::LABELS_MAX).contains(&labels.len()) || !labels.iter().all(word) {
            let words = "of a-z, 0-9, `_` and `-`, such as read, write, external";
            return Err(invalid(format!("labels: 1 to {} words {words}", limits::LABELS_MAX)));
        }
    }
    if given.failure_modes.len() > limits::FAILURE_MODES_MAX {
        return Err(invalid(format!("failure_modes: at most {}", limits::FAILURE_MODES_MAX)));
    }
    if given.variants.len() > limits::VARIANTS_MAX {
        return Err(invalid(format!("variants: at most {}", limits::VARIANTS_MAX)));
    }
    Ok(())
}

/// The schemas of a manifest, compiled. A stranger wrote them.
pub(super) struct Schemas {
    input: Validator,
    output: Validator,
}

impl Schemas {
    pub(super) fn of(manifest: &Manifest) -> std::result::Result<Self, String> {
        let takes_objects = match manifest.input_schema.get("type") {
            Some(Value::String(of)) => of == "object",
            _ => false,
        };
        if !takes_objects {
            return Err("input_schema: a JSON Schema of `\"type\": \"object\"`".to_owned());
        }
        let compile = |name: &str, schema: &Value| {
            Validator::foreign(schema).map_err(|why| format!("{name}: {why}"))
        };
        Ok(Self {
            input: compile("input_schema", &manifest.input_schema)?,
            output: compile("output_schema", &manifest.output_schema)?,
        })
    }

    /// Checks the parameters of a call.
    pub(super) fn check_input(&self, params: &RawJson) -> std::result::Result<(), Failure> {
        self.input.check(&params.to_value())
    }

    /// Checks what a call came to.
    pub(super) fn check_output(&self, result: &RawJson) -> std::result::Result<(), Failure> {
        self.output.check(&result.to_value()).map_err(|_| {
            let message = "the tool's result breaks the output schema of its own manifest";
            Failure::new(Category::Sandbox, "output_invalid", message)
        })
    }
}

/// The manifest as it is called: what the grant makes of it is not left to its author.
pub(super) fn granted(registered: &Manifest, capabilities: &Capabilities) -> Manifest {
    let mut manifest = registered.clone();
    let repeatable = crate::sandbox::tool::repeatable(capabilities);
    let (network, files) = (
        !capabilities.network.allowlist.is_empty(),
        !capabilities.file_read.is_empty() || !capabilities.file_write.is_empty(),
    );
    let words = [(network, "external"), (!capabilities.file_write.is_empty(), "write")];
    let implied: Vec<String> =
        words.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()).collect();
    manifest.labels.extend(implied.iter().cloned());
    for variant in &mut manifest.variants {
        variant.labels.extend(implied.iter().cloned());
        variant.idempotent = repeatable;
    }
    // Such code does what it did when it is run again: its own calls of tools are found by their
    // numbers, and files are put in place after it succeeded.
    manifest.idempotent = repeatable;
    let needs = [(network, "network"), (files, "filesystem")];
    manifest.capabilities =
        needs.into_iter().filter(|(is, _)| *is).map(|(_, word)| word.to_owned()).collect();
    manifest
}

#[cfg(test)]
mod tests {
    use kernel::capability::Network;

    use super::*;

    fn checked(change: &Value) -> std::result::Result<Checked, String> {
        let mut manifest = json!({
            "id": "acme.sum", "version": "1.0.0", "description": "Adds.",
            "input_schema": {"type": "object"}, "labels": ["read"],
        });
        for (key, value) in change.as_object().unwrap() {
            manifest[key] = value.clone();
        }
        let text = RawJson::parse(&manifest.to_string()).unwrap();
        check(&text, 1_000).map_err(|refused| refused.0.to_string())
    }

    #[test]
    fn what_is_refused_names_what_to_change() {
        let good = checked(&json!({})).unwrap();
        assert_eq!((good.manifest.timeout_ms, good.manifest.executor), (1_000, Executor::Wasm));
        for (bad, why) in [
            (json!({"id": "core.sum"}), "id:"),
            (json!({"id": "mcp.a.sum"}), "id:"),
            (json!({"id": "sandbox.sum"}), "id:"),
            (json!({"id": "sum"}), "id:"),
            (json!({"version": "1.0"}), "version"),
            (json!({"version": "01.0.0"}), "version"),
            (json!({"executor": "builtin"}), "executor:"),
            (json!({"description": ""}), "description:"),
            (json!({"labels": []}), "labels:"),
            (json!({"labels": ["Read!"]}), "labels:"),
            (json!({"input_schema": {"type": "string"}}), "input_schema:"),
            (json!({"input_schema": {"type": "objekt"}}), "input_schema:"),
            (
                json!({"input_schema": {"type": "object", "properties": {"a": {"type": "x"}}}}),
                "input_schema:",
            ),
            (json!({"output_schema": {"$ref": "https://example.com/x.json"}}), "output_schema:"),
            (json!({"cost": {"per_call_micro_usd": -1}}), "cost.per_call_micro_usd:"),
            (json!({"timeout_ms": 0}), "timeout_ms:"),
            (json!({"idempotent": true}), "idempotent"),
            (json!({"capabilities": ["network"]}), "capabilities"),
        ] {
            let said = checked(&bad).map(drop).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }

    #[test]
    fn a_grant_shows_in_labels() {
        let registered = checked(&json!({})).unwrap().manifest;
        let labels = |capabilities: &Capabilities| {
            let manifest = granted(&registered, capabilities);
            (manifest.labels.into_iter().collect::<Vec<_>>().join(" "), manifest.idempotent)
        };
        assert_eq!(labels(&Capabilities::default()), ("read".to_owned(), true));
        let hosts = Network { allowlist: vec!["a.example".to_owned()], denylist: vec![] };
        let capabilities = Capabilities { network: hosts, ..Capabilities::default() };
        assert_eq!(labels(&capabilities), ("external read".to_owned(), false));
        let written = vec!["/tmp/*".to_owned()];
        let capabilities = Capabilities { file_write: written, ..Capabilities::default() };
        assert_eq!(labels(&capabilities), ("read write".to_owned(), true));
    }
}
