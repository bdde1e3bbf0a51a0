//! MCP servers as their operator describes them: in `tally.yaml`, or over the API.

use std::collections::{BTreeMap, BTreeSet};

use connectors::mcp::{Spec, Transport};
use kernel::ids::{PrincipalId, is_mcp_tool_name, is_server_name};
use kernel::values::{Digest, MicroUsd};
use kernel::{json, upstream};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::limits;

/// The section `mcp` of `tally.yaml`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct McpConfig {
    /// The MCP servers of the first tenant. What is taken out here is removed at the next start.
    pub upstreams: Vec<UpstreamConfig>,
    /// Whether servers that are added over the API may be commands of this machine. Whoever may
    /// add one then runs what they like as the user that runs Tally.
    pub allow_stdio: bool,
    /// Whether servers that are commands run only while somebody uses them: they are not started
    /// with Tally, and end when they are disconnected.
    pub on_demand: bool,
    /// Further names, such as `tally.lan`, under which a server that listens on this machine
    /// alone is reached.
    pub allowed_hosts: Vec<String>,
    /// Further origins, such as `https://console.example.com`, of pages that may use `/mcp`.
    pub allowed_origins: Vec<String>,
    /// How long a call that people must approve waits for them before its caller is told that it
    /// is held, in milliseconds.
    pub wait_for_approval_ms: u32,
}

impl McpConfig {
    /// Checks what serde cannot.
    pub(crate) fn check(&self) -> Result<(), crate::ConfigError> {
        if self.wait_for_approval_ms > crate::limits::WAIT_MS_MAX {
            let reason = format!("at most {}", crate::limits::WAIT_MS_MAX);
            return Err(crate::ConfigError::Value { key: "mcp.wait_for_approval_ms", reason });
        }
        let refuse = |reason| Err(crate::ConfigError::Value { key: "mcp.upstreams", reason });
        let mut names = BTreeSet::new();
        for upstream in &self.upstreams {
            if let Err(reason) = upstream.check() {
                return refuse(format!("`{}`: {reason}", upstream.spec.name));
            }
            if !names.insert(&upstream.spec.name) {
                return refuse(format!("`{}` is there twice", upstream.spec.name));
            }
        }
        if names.len() > limits::UPSTREAMS_MAX {
            return refuse(format!("at most {} servers", limits::UPSTREAMS_MAX));
        }
        Ok(())
    }
}

/// An MCP server: how it is reached, and what its operator says of its tools.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Map<String, Value>", into = "Map<String, Value>")]
pub struct UpstreamConfig {
    /// How it is reached.
    pub spec: Spec,
    /// What its operator says of its tools.
    pub tools: ToolSettings,
}

/// What an operator says of a server's tools.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ToolSettings {
    /// Whether labels may follow from what the server says of its own tools.
    pub trust_annotations: bool,
    /// Labels by the server's own name for a tool, in place of all others.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, BTreeSet<String>>,
    /// The price of one call by the server's own name for a tool, in micro-USD.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prices: BTreeMap<String, MicroUsd>,
}

/// The members of a server's description that are not of its [`Spec`].
const OWN: [&str; 3] = ["trust_annotations", "labels", "prices"];

impl TryFrom<Map<String, Value>> for UpstreamConfig {
    type Error = serde_json::Error;

    fn try_from(mut whole: Map<String, Value>) -> Result<Self, Self::Error> {
        let own: Map<String, Value> =
            OWN.iter().filter_map(|key| whole.remove_entry(*key)).collect();
        Ok(Self {
            spec: serde_json::from_value(Value::Object(whole))?,
            tools: serde_json::from_value(Value::Object(own))?,
        })
    }
}

impl From<UpstreamConfig> for Map<String, Value> {
    fn from(config: UpstreamConfig) -> Self {
        let object = |value: Result<Value, serde_json::Error>| match value {
            Ok(Value::Object(map)) => map,
            // Both are structs with text keys: there is nothing that could fail.
            _ => Self::new(),
        };
        let mut whole = object(serde_json::to_value(&config.spec));
        whole.extend(object(serde_json::to_value(&config.tools)));
        whole
    }
}

impl UpstreamConfig {
    /// Checks what serde cannot; the reason names what to change.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.spec.check().map_err(|error| error.to_string())?;
        if !is_server_name(&self.spec.name) {
            return Err("a name has 1 to 32 of a-z, 0-9, `_` and `-`, begins with a letter or \
                        digit, has no `__` and does not end with `_`"
                .to_owned());
        }
        let named = self.tools.labels.len().max(self.tools.prices.len());
        if named > limits::TOOLS_MAX {
            return Err(format!("labels and prices name at most {} tools", limits::TOOLS_MAX));
        }
        for (tool, labels) in &self.tools.labels {
            let word = |label: &String| {
                (1..=limits::LABEL_BYTES_MAX).contains(&label.len())
                    && label.bytes().all(|b| {
                        b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-')
                    })
            };
            if !is_mcp_tool_name(tool) {
                return Err(format!("labels: `{tool}` cannot be a tool"));
            }
            if labels.len() > limits::LABELS_MAX || !labels.iter().all(word) {
                return Err(format!("labels of `{tool}`: at most 16 words of a-z, 0-9, `_`, `-`"));
            }
        }
        for (tool, price) in &self.tools.prices {
            let range = 0..=kernel::limits::AMOUNT_MICRO_USD_MAX;
            if !is_mcp_tool_name(tool) || !range.contains(&price.0) {
                return Err(format!("prices: `{tool}` cannot be a tool, or not at this price"));
            }
        }
        Ok(())
    }

    /// Whether it is a command of this machine.
    pub(crate) fn is_stdio(&self) -> bool {
        matches!(self.spec.transport, Transport::Stdio { .. })
    }
}

/// A server's description as it is kept: sealed, beside the log that has its digests.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    /// 128 random bits, so that the digests give nothing away.
    pub(crate) nonce: String,
    pub(crate) config: UpstreamConfig,
}

#[derive(Serialize)]
struct Salted<'a, T> {
    nonce: &'a str,
    value: &'a T,
}

impl Kept {
    /// With digests that no other description has.
    pub(crate) fn new(config: UpstreamConfig) -> Result<Self, ledger::Error> {
        let nonce = ledger::keys::random::<16>()?;
        Ok(Self { nonce: hex::encode(nonce.as_ref()), config })
    }

    /// What the log says of it.
    pub(crate) fn settings(
        &self,
        by: Option<PrincipalId>,
    ) -> Result<upstream::Settings, json::Error> {
        fn digest<T: Serialize>(nonce: &str, value: &T) -> Result<Digest, json::Error> {
            json::canonical(&Salted { nonce, value }).map(|form| Digest::of(&form))
        }
        Ok(upstream::Settings {
            spec: digest(&self.nonce, &self.config.spec)?,
            settings: digest(&self.nonce, &self.config)?,
            by,
        })
    }

    /// The same server with another description of it: digests of what stays the same stay too.
    pub(crate) fn with(&self, config: UpstreamConfig) -> Self {
        Self { nonce: self.nonce.clone(), config }
    }
}
