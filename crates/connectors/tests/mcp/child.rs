//! Servers over stdio: this program starts itself again, as the test that follows.

use std::collections::BTreeMap;
use std::io::Write as _;

use connectors::mcp::{Revision, Transport};
use serde_json::{Value, json};

const MODE: &str = "MCP_FIXTURE";

/// The transport that starts a server which behaves as `mode` says.
pub(crate) fn transport(mode: &str) -> Transport {
    let program = std::env::current_exe().unwrap();
    let args = ["child::serve", "--exact", "--nocapture", "--test-threads=1"];
    Transport::Stdio {
        command: program.to_str().unwrap().to_owned(),
        args: args.map(str::to_owned).to_vec(),
        env: BTreeMap::from([(MODE.to_owned(), mode.to_owned())]),
        cwd: None,
    }
}

/// The mode of an honest server of `revision`.
pub(crate) fn honest(revision: Revision) -> &'static str {
    match revision {
        Revision::V2025_11_25 => "old",
        Revision::V2026_07_28 => "new",
    }
}

/// Is the server where it was started as one, and nothing in a run of the tests.
#[test]
fn serve() {
    let Ok(mode) = std::env::var(MODE) else { return };
    // The test harness has begun a line.
    line("");
    loop {
        let line = read();
        if line.is_empty() {
            std::process::exit(0);
        }
        let message: Value = serde_json::from_str(&line).unwrap();
        answer(&mode, &message);
    }
}

/// The next line; empty at the end.
fn read() -> String {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    line
}

fn say(message: &Value) {
    line(&message.to_string());
}

fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn answer(mode: &str, message: &Value) {
    let id = &message["id"];
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
    let capabilities = json!({"tools": {"listChanged": true}, "logging": {}});
    match message["method"].as_str().unwrap_or_default() {
        "server/discover" if mode == "new" => say(&result(json!({
            "resultType": "complete",
            "supportedVersions": ["2026-07-28"],
            "capabilities": capabilities,
            "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "child", "version": "1"}},
        }))),
        "server/discover" if mode == "crash-on-discover" => std::process::exit(3),
        "initialize" if mode != "new" => say(&result(json!({
            "protocolVersion": "2025-06-18",
            "capabilities": capabilities,
            "serverInfo": {"name": "child", "version": "1"},
            "instructions": "be nice",
        }))),
        "tools/list" => say(&result(json!({"tools": [
            {"name": "echo", "inputSchema": {"type": "object"}},
        ]}))),
        "tools/call" => call(mode, message),
        method if message.get("id").is_some() => say(&json!({
            "jsonrpc": "2.0", "id": id,
            "error": {"code": -32601, "message": format!("no {method}")},
        })),
        _ => {}
    }
}

fn call(mode: &str, message: &Value) {
    let id = &message["id"];
    let params = &message["params"];
    let echo = json!({"jsonrpc": "2.0", "id": id, "result": {
        "content": [], "structuredContent": params["arguments"], "_meta": params["_meta"],
    }});
    let progress = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {
        "progressToken": params["_meta"]["progressToken"], "progress": 1,
    }});
    match params["name"].as_str().unwrap() {
        "echo" => say(&echo),
        "environment" => {
            let names: Vec<String> = std::env::vars().map(|(name, _)| name).collect();
            say(&json!({"jsonrpc": "2.0", "id": id, "result": {"names": names}}));
        }
        "pid" => say(&json!({"jsonrpc": "2.0", "id": id, "result": {"pid": std::process::id()}})),
        "progress" => {
            say(&progress);
            say(&echo);
        }
        "ask" => {
            say(&json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
                "params": {"message": "?", "requestedSchema": {"type": "object"}}}));
            let answer: Value = serde_json::from_str(&read()).unwrap();
            say(&json!({"jsonrpc": "2.0", "id": id, "result": {"answer": answer}}));
        }
        "crash" => std::process::exit(3),
        "hang" => {
            // Until it is told that nobody waits any more.
            let file = std::path::Path::new(params["arguments"]["file"].as_str().unwrap());
            std::fs::write(file.with_extension("begun"), "").unwrap();
            std::fs::write(file, read()).unwrap();
        }
        "flood" => {
            for _ in 0..50_000 {
                say(&progress);
            }
            say(&echo);
        }
        "long" => line(&"x".repeat(5 << 20)),
        "deep" => {
            let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
            line(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":{deep}}}}}"#));
        }
        "duplicate" => line(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"a":1,"a":2}}}}"#)),
        "wrong-id" => {
            say(&json!({"jsonrpc": "2.0", "id": 999_999, "result": {"wrong": true}}));
            say(&json!({"jsonrpc": "2.0", "id": id.to_string(), "result": {"wrong": true}}));
            say(&echo);
        }
        "twice" => {
            say(&echo);
            say(&json!({"jsonrpc": "2.0", "id": id, "result": {"second": true}}));
        }
        "stderr" => {
            std::io::stderr().write_all(&vec![b'e'; 200_000]).unwrap();
            say(&echo);
        }
        other => panic!("{mode}: no tool {other}"),
    }
}
