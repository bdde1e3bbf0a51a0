//! What a tool is: its manifest, and what the manifest says of one call.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::attestation::{CodeKind, Limits};
use crate::failure::Category;
use crate::ids::ToolId;
use crate::json::RawJson;
use crate::units::{Unit, Units};
use crate::values::{Digest, MicroUsd};

/// Where a tool runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Executor {
    /// In Tally's own process, by code of Tally.
    Builtin,
    /// Over HTTP, by a declarative connector.
    Http,
    /// In the WASM sandbox.
    Wasm,
    /// By an MCP server.
    Mcp,
    /// By an A2A agent.
    A2a,
    /// By a remote runner.
    Runner,
    /// By a payment rail.
    Rail,
}

/// What a call costs at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostModel {
    /// For each call.
    pub per_call_micro_usd: MicroUsd,
}

/// One way in which a tool fails.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailureMode {
    /// The failure's code.
    pub code: String,
    /// What kind of failure it is.
    #[serde(default = "permanent")]
    pub category: Category,
    /// What it means.
    pub meaning: String,
    /// What helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub recovery_hint: String,
    /// Whether the same call may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

/// What is said of a failure whose manifest does not say: that nothing but a person helps.
fn permanent() -> Category {
    Category::Permanent
}

impl FailureMode {
    /// A way of failing that is retryable as its category is.
    pub fn new(code: &str, category: Category, meaning: &str, recovery_hint: &str) -> Self {
        Self {
            code: code.to_owned(),
            category,
            meaning: meaning.to_owned(),
            recovery_hint: recovery_hint.to_owned(),
            retryable: category.retryable(),
        }
    }

    /// The same with `retryable` set.
    #[must_use]
    pub fn retryable(self, retryable: bool) -> Self {
        Self { retryable, ..self }
    }
}

/// How a call with certain parameters differs from the tool at large. Labels are facts, so they
/// follow from parameters by data in the manifest, never from what an agent says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// Applies when each of these string parameters (with its default where absent) has one of
    /// the values.
    pub when: BTreeMap<String, BTreeSet<String>>,
    /// The labels of such a call, in place of the tool's.
    pub labels: BTreeSet<String>,
    /// Whether repeating such a call changes nothing more.
    pub idempotent: bool,
    /// Whether such a call can be undone.
    pub reversible: bool,
}

/// What a tool says of itself. Its digest is part of every plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// `vendor.operation`.
    pub id: ToolId,
    /// SemVer.
    pub version: String,
    /// One sentence.
    pub description: String,
    /// Where it runs.
    pub executor: Executor,
    /// JSON Schema of the parameters.
    pub input_schema: serde_json::Value,
    /// JSON Schema of the result.
    pub output_schema: serde_json::Value,
    /// What policy reads: `read`, `write`, `destructive`, `external` …
    pub labels: BTreeSet<String>,
    /// Whether repeating a call changes nothing more.
    pub idempotent: bool,
    /// Whether a call can be undone.
    pub reversible: bool,
    /// The first that applies wins over the tool's own labels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub variants: Vec<Variant>,
    /// What it costs.
    pub cost: CostModel,
    /// How often it may be called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caps: Option<Caps>,
    /// How it fails.
    pub failure_modes: Vec<FailureMode>,
    /// What it needs: `network`, `filesystem`.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
    /// How long one attempt may take.
    pub timeout_ms: u64,
    /// Where the tool comes from, where it is not of Tally's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The code that it is, where it is run in a sandbox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
}

/// How often a tool may be called by all of one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// Attempts that may begin in any minute.
    pub per_minute: u32,
}

/// The code of a tool that is run in a sandbox, with what it may reach and use: other code, or a
/// wider grant, is another tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// The digest of the code.
    pub digest: Digest,
    /// What the code is.
    pub kind: CodeKind,
    /// The digest of the capabilities that it was granted, in their canonical form.
    pub capabilities: Digest,
    /// What it may use.
    pub limits: Limits,
}

/// Where a tool comes from: the same name on another server, or with another definition, is
/// another tool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// The digest of how the server is reached, without the values of secrets.
    pub upstream: Digest,
    /// The digest of the server's own definition of the tool; none for what the protocol defines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub definition: Option<Digest>,
}

/// What the manifest says of one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFacts {
    /// Its labels.
    pub labels: BTreeSet<String>,
    /// Whether repeating it changes nothing more.
    pub idempotent: bool,
    /// Whether it can be undone.
    pub reversible: bool,
    /// What it costs at most.
    pub estimate: MicroUsd,
    /// What one attempt uses at most.
    pub units: Units,
    /// How often the tool may be called.
    pub caps: Option<Caps>,
}

impl CallFacts {
    /// The same call with other labels: what it is counted as follows from them.
    #[must_use]
    pub fn labelled(self, labels: BTreeSet<String>) -> Self {
        let counted = Units::of_call(&labels);
        let told = [Unit::Tokens, Unit::CpuMs].map(|unit| (unit, self.units.get(unit)));
        let units = told.into_iter().fold(counted, |units, (unit, n)| units.with(unit, n));
        Self { labels, units, ..self }
    }
}

impl Manifest {
    /// The digest of the manifest in its canonical form.
    pub fn digest(&self) -> Result<Digest, crate::json::Error> {
        crate::json::canonical(self).map(|bytes| Digest::of(&bytes))
    }

    /// What the manifest says of a call with `params` (already valid by the schema).
    pub fn facts(&self, params: &RawJson) -> CallFacts {
        let variant = if self.variants.is_empty() {
            None
        } else {
            let params = params.to_value();
            self.variants.iter().find(|variant| {
                variant.when.iter().all(|(name, values)| {
                    self.text_param(&params, name).is_some_and(|text| values.contains(text))
                })
            })
        };
        let (labels, idempotent, reversible) = match variant {
            Some(v) => (&v.labels, v.idempotent, v.reversible),
            None => (&self.labels, self.idempotent, self.reversible),
        };
        let cpu_ms = self.code.as_ref().map_or(0, |code| code.limits.cpu_ms);
        CallFacts {
            labels: labels.clone(),
            idempotent,
            reversible,
            estimate: self.cost.per_call_micro_usd,
            units: Units::of_call(labels).with(Unit::CpuMs, cpu_ms),
            caps: self.caps,
        }
    }

    /// A string parameter, or the default that the schema gives it.
    fn text_param<'a>(&'a self, params: &'a serde_json::Value, name: &str) -> Option<&'a str> {
        match params.get(name) {
            Some(value) => value.as_str(),
            None => self.input_schema.get("properties")?.get(name)?.get("default")?.as_str(),
        }
    }
}
