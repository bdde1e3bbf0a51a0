//! The program that the suite starts. It names the scenario in the environment, appends the URL of
//! its server, and watches what comes. Nothing here speaks MCP or OAuth: that is
//! `connectors::mcp`.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::{Wanted, auth};

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

/// Runs the scenario that the environment names, and nothing where it names none. Ends the process
/// where the scenario fails.
pub fn main() {
    let Ok(scenario) = std::env::var("MCP_CONFORMANCE_SCENARIO") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(PATIENCE, run(&scenario)).await });
    let ended = ended.unwrap_or_else(|_| Err("no end in time".to_owned()));
    if let Err(error) = ended {
        eprintln!("{scenario}: {error}");
        std::process::exit(1);
    }
}

async fn run(scenario: &str) -> Result<(), String> {
    let context = std::env::var("MCP_CONFORMANCE_CONTEXT").ok();
    let context = context.map(|text| serde_json::from_str(&text).unwrap()).unwrap_or_default();
    let url = std::env::args().next_back().unwrap();
    if scenario.starts_with("auth/") {
        auth::run(scenario, &url, &context).await
    } else {
        super::run(&Wanted::of_environment(url), None).await
    }
}
