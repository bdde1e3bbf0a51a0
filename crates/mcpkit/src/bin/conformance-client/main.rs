//! The upstream client of Tally as the official conformance suite drives it:
//!
//!     conformance client --command conformance-client --scenario NAME
//!
//! The suite names the scenario in the environment, appends the URL of its server, and watches what
//! comes. Nothing here speaks MCP or OAuth: that is `connectors::mcp`.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

mod auth;
mod permit;
mod plain;

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// What the suite tells about a scenario.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Context {
    pub(crate) client_id: Option<String>,
    pub(crate) client_secret: Option<String>,
    pub(crate) private_key_pem: Option<String>,
    pub(crate) signing_algorithm: Option<String>,
    #[serde(rename = "toolCalls")]
    pub(crate) tool_calls: Vec<ToolCall>,
}

/// A call that a scenario wants.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ToolCall {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) arguments: Option<Value>,
}

/// Below the suite's own patience.
const PATIENCE: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() {
    let scenario = std::env::var("MCP_CONFORMANCE_SCENARIO").unwrap_or_default();
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").ok();
    let context = context.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
    let url = std::env::args().next_back().unwrap();
    let run = async {
        if scenario.starts_with("auth/") {
            auth::run(&scenario, &url, &context).await
        } else {
            plain::run(&url, &context).await
        }
    };
    let ended = tokio::time::timeout(PATIENCE, run).await;
    let ended = ended.unwrap_or_else(|_| Err("no end in time".to_owned()));
    if let Err(error) = ended {
        eprintln!("{scenario}: {error}");
        std::process::exit(1);
    }
}
