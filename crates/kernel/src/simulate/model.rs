//! What tools cost and how long they take, before and after there is a history.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::failure::Category;
use crate::ids::ToolId;
use crate::json::RawJson;
use crate::limits;
use crate::tool::Manifest;
use crate::values::{MicroUsd, Timestamp};

/// What one call costs and takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The least that a call costs.
    pub per_call_micro_usd: MicroUsd,
    /// What its text costs, where that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<TextPrice>,
    /// How long a call takes where nothing is known from earlier ones.
    pub latency_ms: u64,
}

/// A price by the length of the text that is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextPrice {
    /// For each character, as Unicode counts them.
    pub per_char_micro_usd: MicroUsd,
    /// The parameters that have the text, at any depth.
    pub params: Vec<String>,
}

impl Model {
    /// What a call with `params` costs. A template counts as the text that it is written with.
    pub fn price(&self, params: &RawJson) -> MicroUsd {
        let Some(text) = &self.text else { return self.per_call_micro_usd };
        let params = params.to_value();
        let chars = text.params.iter().filter_map(|name| params.get(name)).map(chars);
        let price = chars.fold(0, i64::saturating_add).saturating_mul(text.per_char_micro_usd.0);
        self.per_call_micro_usd.max(MicroUsd(price))
    }
}

fn chars(value: &Value) -> i64 {
    match value {
        Value::String(text) => i64::try_from(text.chars().count()).unwrap_or(i64::MAX),
        Value::Array(items) => items.iter().map(chars).fold(0, i64::saturating_add),
        Value::Object(members) => members.values().map(chars).fold(0, i64::saturating_add),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

/// A cent for a thousand characters.
const LLM_CHAR: MicroUsd = MicroUsd(10);

/// How long a call of a tool takes of which nothing at all is known.
const LATENCY_MS: u64 = 1_000;

/// Skills, what a call costs in micro-USD, and milliseconds that it takes.
const PRIORS: [(&str, i64, u64); 9] = [
    ("email.send", 10_000, 500),
    ("core.fs_read", 0, 50),
    ("core.fs_write", 0, 100),
    ("core.http_call", 0, 500),
    ("core.json_transform", 0, 10),
    ("kv.get", 0, 5),
    ("kv.set", 0, 10),
    (LLM, 50_000, 2_000),
    ("webhook.send", 0, 300),
];

const LLM: &str = "llm.invoke";

/// What is assumed of the skills that there are or will be, before anything is known of them.
static ASSUMED: LazyLock<BTreeMap<ToolId, Model>> = LazyLock::new(|| {
    let models = PRIORS.iter().filter_map(|(tool, micro_usd, latency_ms)| {
        let text = (*tool == LLM).then(|| TextPrice {
            per_char_micro_usd: LLM_CHAR,
            params: ["prompt", "system", "messages"].map(str::to_owned).to_vec(),
        });
        let per_call_micro_usd = MicroUsd(*micro_usd);
        let model = Model { per_call_micro_usd, text, latency_ms: *latency_ms };
        Some((ToolId::new(tool).ok()?, model))
    });
    models.collect()
});

/// The models of all tools that a plan may name: those that were learnt, and what is assumed of
/// the skills that there are or will be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Models(BTreeMap<ToolId, Model>);

impl Models {
    /// What is assumed before anything is known.
    pub fn priors() -> Self {
        Self::default()
    }

    /// Adds a tool that is there to be called. It costs what it says, unless it is paid by the
    /// text, of which its manifest has no price; how long it takes stays as it was assumed.
    pub fn learn(&mut self, manifest: &Manifest) {
        let per_call_micro_usd = manifest.cost.per_call_micro_usd;
        let unknown = || Model { per_call_micro_usd, text: None, latency_ms: LATENCY_MS };
        let assumed = || ASSUMED.get(&manifest.id).cloned().unwrap_or_else(unknown);
        let model = self.0.entry(manifest.id.clone()).or_insert_with(assumed);
        if model.text.is_none() {
            model.per_call_micro_usd = per_call_micro_usd;
        }
    }

    /// The model of a tool.
    pub fn get(&self, tool: &ToolId) -> Option<&Model> {
        self.0.get(tool).or_else(|| ASSUMED.get(tool))
    }

    /// The tools, in the order of their ids.
    pub fn tools(&self) -> impl Iterator<Item = &ToolId> {
        let all: BTreeSet<&ToolId> = self.0.keys().chain(ASSUMED.keys()).collect();
        all.into_iter()
    }
}

/// How long a call of a tool is assumed to take before anything is known of it.
pub fn prior_latency_ms(tool: &ToolId) -> u64 {
    let prior = PRIORS.iter().find(|(known, ..)| *known == tool.as_str());
    prior.map_or(LATENCY_MS, |(_, _, latency_ms)| *latency_ms)
}

/// What half and nine tenths of all values do not exceed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spread {
    /// Half of them are at most this.
    pub p50: u64,
    /// Nine of ten are at most this.
    pub p90: u64,
}

/// What the latest attempts of a tool came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct History {
    /// How many there were.
    pub attempts: u64,
    /// How many of them failed.
    pub failures: u64,
    /// The same by category.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<Category, u64>,
    /// How long those took that executed, in milliseconds; none where too few did.
    pub latency: Option<Spread>,
    /// What those cost that executed, in micro-USD; none where too few did.
    pub cost: Option<Spread>,
    /// Until when `latency` is not to be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_disabled_until: Option<Timestamp>,
    /// Until when `cost` is not to be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_disabled_until: Option<Timestamp>,
}

impl History {
    /// How long half of the attempts take, where there were enough and they are to be believed.
    pub fn usual_ms(&self) -> Option<u64> {
        let known = self.latency().filter(|_| self.attempts >= limits::HISTORY_MIN)?;
        Some(known.p50)
    }

    /// How long an attempt takes, where that can be said.
    pub(super) fn latency(&self) -> Option<Spread> {
        self.latency.filter(|_| self.latency_disabled_until.is_none())
    }

    /// What an attempt costs, where that can be said.
    pub(super) fn cost(&self) -> Option<Spread> {
        self.cost.filter(|_| self.cost_disabled_until.is_none())
    }

    /// Failures in a million attempts.
    pub(super) fn failure_ppm(&self) -> u64 {
        let failures = u128::from(self.failures.min(self.attempts)) * 1_000_000;
        let share = failures.checked_div(self.attempts.into()).unwrap_or(0);
        u64::try_from(share).unwrap_or(super::MILLION)
    }
}

/// The history of each tool that has one.
pub type Calibration = BTreeMap<ToolId, History>;
