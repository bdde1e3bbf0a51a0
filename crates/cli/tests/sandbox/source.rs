//! Agents as source text, by the real interpreters.

use std::collections::BTreeSet;
use std::path::PathBuf;

use proto::actions::action::State;
use proto::sandboxes::{Capabilities, ExecuteRequest, Limits, ReplayExecutionRequest};
use proto::types::Json;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::offline::{calls_are_evident, each_leaf_flipped_fails, verifies};
use super::place::{Place, json_of, soon};
use super::verified;
use crate::common::desk::approve;
use crate::common::{LOOK_EVERY, PATIENCE};

/// What the test command installs.
pub(crate) fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

/// Settings under which the interpreters run on a busy machine.
pub(crate) fn interpreters() -> String {
    interpreters_and("")
}

/// The same, with more of the section `sandbox`.
pub(crate) fn interpreters_and(more: &str) -> String {
    let (runtimes, cache) = (installed("TALLY_RUNTIMES"), installed("TALLY_SANDBOX_CACHE"));
    format!(
        "sandbox: {{runtimes: {runtimes:?}, cache: {cache:?}, wasm: {{cpu_quota_ms: 120000}}, \
         wall_ms: 300000, fuel: 1000000000000{more}}}"
    )
}

const PYTHON: &str = r#"
from tally import call_tool, ToolError

def run(input):
    text = call_tool("core.fs_read", {"path": input["folder"] + "/in"})["content"]
    call_tool("core.fs_write", path=input["folder"] + "/out", content="once\n", mode="append")
    try:
        call_tool("core.http_call", url="https://example.com/")
    except ToolError as error:
        return {"text": text.upper(), "denied": error.code}
"#;

const JAVASCRIPT: &str = r#"
export async function run(input) {
  const text = callTool("core.fs_read", { path: input.folder + "/in" }).content;
  const line = { path: input.folder + "/out", content: "once\n", mode: "append" };
  callTool("core.fs_write", line);
  try {
    callTool("core.http_call", { url: "https://example.com/" });
  } catch (error) {
    return { text: text.toUpperCase(), denied: error.code };
  }
}
"#;

async fn an_agent_in(language: &str, source: &str) {
    let place = Place::new(&interpreters_and(", capabilities: {env: ['APP_*']}")).await;
    let input = json!({"folder": place.root});
    let request = ExecuteRequest {
        language: language.to_owned(),
        source: source.to_owned(),
        input: Some(Json::of(&input).unwrap()),
        limits: Some(Limits::default()),
        capabilities: Some(Capabilities { env: vec!["APP_*".to_owned()], ..Default::default() }),
        wait_ms: Some(0),
        ..Default::default()
    };
    let execution = place.run(request).await;
    let held = place.held(&execution).await;
    assert_eq!(place.written(), 0);
    approve(&place.approver().await, &held).await.unwrap();
    let ended = place.reaches(&execution, State::Executed).await;
    let expected = json!({"text": "SEVEN", "denied": "no_http"});
    assert_eq!((json_of(ended.output.as_ref()), place.written()), (expected, 1), "{ended:?}");
    let states: Vec<_> = ended.tool_calls.iter().map(|call| call.status.as_str()).collect();
    assert_eq!(states, ["executed", "executed", "denied"]);

    let document = place.attestation(&ended).await;
    let told = verified(&document).unwrap();
    let digest = kernel::values::Digest::of(source.as_bytes());
    assert_eq!(told.attestation.agent_hash, digest);
    each_leaf_flipped_fails(&document);
    verifies(&document, [source, &input.to_string(), &ended.output.as_ref().unwrap().text]);
    calls_are_evident(&place, &ended);

    let again = place.replay(&ended, &[]).await;
    assert!(again.matches, "{again:?}");
    let request = ReplayExecutionRequest {
        execution_id: ended.execution_id.clone(),
        source: source.replace("once", "twice"),
        wait_ms: Some(60_000),
        ..Default::default()
    };
    let other = place.agent.replay_execution(&request, None).await.unwrap();
    let named: Vec<_> = other.differences.iter().map(|d| d.field.as_str()).collect();
    for field in ["code", "tool_calls"] {
        assert!(!other.matches && named.contains(&field), "{field}: {other:?}");
    }
    assert_eq!(place.written(), 1, "what is repeated has no effect");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_python_calls_tools() {
    an_agent_in("python", PYTHON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_in_javascript_calls_tools() {
    an_agent_in("javascript", JAVASCRIPT).await;
}

/// Each interpreter is loaded after the start without anybody asking for it, and the log says so.
#[tokio::test(flavor = "multi_thread")]
async fn interpreters_are_ready_before_they_are_needed() {
    let mut place = Place::new(&interpreters()).await;
    let maps = format!("/proc/{}/maps", place.server.pid());
    let cache = installed("TALLY_SANDBOX_CACHE").display().to_string();
    let until = Instant::now() + PATIENCE;
    loop {
        let maps = std::fs::read_to_string(&maps).unwrap();
        let mapped: BTreeSet<_> =
            maps.lines().filter_map(|line| line.split_once(&cache).map(|(_, file)| file)).collect();
        if mapped.len() >= 2 {
            break;
        }
        assert!(Instant::now() < until, "only {mapped:?} are loaded");
        sleep(LOOK_EVERY).await;
    }
    for (language, text) in
        [("python", "def run(i): return 1"), ("javascript", "export const run = () => 1")]
    {
        let (language, source) = (language.to_owned(), text.to_owned());
        let request = ExecuteRequest { language, source, ..soon(Vec::new()) };
        let execution = place.run(request).await;
        place.reaches(&execution, State::Executed).await;
    }
    assert!(place.server.terminate().success());
    let log = place.server.log();
    for language in ["python", "javascript"] {
        let line =
            log.lines().find(|line| line.contains("ready to run") && line.contains(language));
        assert!(line.is_some(), "{log}");
    }
}
