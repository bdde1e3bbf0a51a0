//! A client of 2026-07-28 that writes its messages by hand, so that it can lie.

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::common::wire::{Ask, Reply, Wire};
use crate::common::{LOOK_EVERY, PATIENCE};

/// The client.
#[derive(Clone)]
pub(crate) struct Raw {
    wire: Wire,
    key: String,
    capabilities: Value,
}

impl Raw {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        Self { wire: Wire::new(url), key: key.to_owned(), capabilities: json!({}) }
    }

    /// The same client with these capabilities.
    pub(crate) fn with(&self, capabilities: Value) -> Self {
        Self { capabilities, ..self.clone() }
    }

    /// `params` with what each request must have.
    pub(crate) fn params(&self, mut params: Value) -> Value {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientInfo": {"name": "raw", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": self.capabilities,
        });
        params
    }

    /// A POST to the endpoint, without the headers that repeat the body.
    pub(crate) fn post(&self) -> Ask {
        self.wire
            .ask("POST", "/mcp")
            .header("authorization", &format!("Bearer {}", self.key))
            .header("accept", "application/json, text/event-stream")
            .header("mcp-protocol-version", "2026-07-28")
    }

    /// The request as a POST with the right headers.
    pub(crate) fn request(&self, method: &str, params: Value) -> Ask {
        let params = self.params(params);
        let named = ["name", "uri", "taskId"].into_iter().find_map(|key| params[key].as_str());
        let name = named.map(str::to_owned);
        let body = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let post = self.post().header("mcp-method", method).json(&body);
        match name {
            Some(name) if plain(&name) => post.header("mcp-name", &name),
            // What a header cannot hold is put into base64.
            Some(name) => post.header("mcp-name", &sentinel(&name)),
            None => post,
        }
    }

    /// The answer: the whole JSON-RPC message.
    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        answer(&self.request(method, params).send().await)
    }

    /// Calls a tool: the whole JSON-RPC message.
    pub(crate) async fn call(&self, tool: &str, arguments: Value) -> Value {
        self.ask("tools/call", json!({"name": tool, "arguments": arguments})).await
    }

    /// The names of all tools, over all pages.
    pub(crate) async fn tools(&self) -> Vec<String> {
        self.all("tools/list", "tools", "name").await
    }

    /// This member of all items of a list, over all pages.
    pub(crate) async fn all(&self, method: &str, list: &str, member: &str) -> Vec<String> {
        let (mut found, mut cursor) = (Vec::new(), Value::Null);
        loop {
            let params = if cursor.is_null() { json!({}) } else { json!({"cursor": cursor}) };
            let page = self.ask(method, params).await;
            let items = page["result"][list].as_array().unwrap_or_else(|| panic!("{page}"));
            found.extend(items.iter().map(|item| item[member].as_str().unwrap().to_owned()));
            cursor = page["result"]["nextCursor"].clone();
            if cursor.is_null() {
                return found;
            }
        }
    }

    /// Waits until `tool` is listed: upstreams are reached in the background.
    pub(crate) async fn lists(&self, tool: &str) {
        self.lists_when(tool, true).await;
    }

    /// Waits until `tool` is no longer listed.
    pub(crate) async fn lists_no_more(&self, tool: &str) {
        self.lists_when(tool, false).await;
    }

    async fn lists_when(&self, tool: &str, listed: bool) {
        let until = Instant::now() + PATIENCE;
        loop {
            let tools = self.tools().await;
            if tools.iter().any(|one| one == tool) == listed {
                return;
            }
            assert!(Instant::now() < until, "{tool} should be listed: {listed}: {tools:?}");
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Whether a header holds it as it is.
fn plain(text: &str) -> bool {
    text.trim() == text && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

fn sentinel(text: &str) -> String {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(text);
    format!("=?base64?{encoded}?=")
}

/// The message that answers, from JSON or from the end of a stream.
pub(crate) fn answer(reply: &Reply) -> Value {
    if !reply.header("content-type").starts_with("text/event-stream") {
        return reply.json();
    }
    let text = reply.text();
    let messages = text.lines().filter_map(|line| line.strip_prefix("data:"));
    let messages = messages.filter_map(|data| serde_json::from_str::<Value>(data.trim()).ok());
    let mut answers = messages.filter(|one| one.get("method").is_none());
    answers.next_back().unwrap_or_else(|| panic!("no answer: {text}"))
}

/// The text of a tool's result.
pub(crate) fn said(message: &Value) -> &str {
    let text = &message["result"]["content"][0]["text"];
    text.as_str().unwrap_or_else(|| panic!("{message}"))
}

/// The code of an error in place of a result.
pub(crate) fn code(message: &Value) -> i64 {
    message["error"]["code"].as_i64().unwrap_or_else(|| panic!("no error: {message}"))
}
