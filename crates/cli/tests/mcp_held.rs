//! Calls at the gateway that people must approve: held, adopted, told, carried out once.

mod adoption;
mod extension;
mod kill;
mod states;
mod tasks;

use mcpkit::misbehave::{Misbehave, Vice};
use mcpkit::{Revisions, Running};
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, ListActionsRequest};
use proto::identity::principal::Kind;
use serde_json::{Value, json};

use crate::common::desk::{ONE, held_by};
use crate::common::wire::{Reply, Wire};
use crate::common::{Server, reaches};

/// The only tool that the tests call.
const TOOL: &str = "victim";
const MODERN: &str = "2026-07-28";
const OLDER: &str = "2025-11-25";
/// What a client declares that can send a person to a page.
fn url() -> Value {
    json!({"elicitation": {"url": {}}})
}
/// What a client declares that takes tasks.
fn tasks() -> Value {
    json!({"extensions": {"io.modelcontextprotocol/tasks": {}}})
}

/// A server in front of an MCP server that remembers what it was asked.
struct Desk {
    server: Server,
    upstream: Misbehave,
    _running: Running,
}

impl Desk {
    /// Every call is held for one approver.
    async fn new() -> Self {
        Self::under(&held_by(ONE), "").await
    }

    async fn under(policy: &Source, more: &str) -> Self {
        Self::before(Vice::None, policy, more).await
    }

    /// The same before a server with a vice.
    async fn before(vice: Vice, policy: &Source, more: &str) -> Self {
        let upstream = Misbehave::new(Revisions::Both, vice);
        let running = upstream.http().await;
        let transport = format!("{{type: http, url: '{}', private: true}}", running.url);
        let server = Server::start(&format!(
            "policy: {{decision_limit_ms: 5000}}\n\
             mcp:\n  upstreams: [{{name: kit, transport: {transport}}}]\n{more}"
        ));
        server.publish(policy).await;
        let desk = Self { server, upstream, _running: running };
        desk.ready().await;
        desk
    }

    /// Until the gateway has made the server's acquaintance.
    async fn ready(&self) {
        let until = tokio::time::Instant::now() + crate::common::PATIENCE;
        let path = "/v1/tools/mcp.kit.victim";
        loop {
            let key = self.server.owner_key();
            let reply = Wire::new(&self.server.url).ask_as(&key, "GET", path).send().await;
            if reply.status == 200 {
                return;
            }
            assert!(tokio::time::Instant::now() < until, "{}", reply.text());
            tokio::time::sleep(crate::common::LOOK_EVERY).await;
        }
    }

    async fn agent(&self) -> Caller {
        let key = self.server.key(Kind::Agent, &["agent"], "dev").await;
        Caller { wire: Wire::new(&self.server.url), key, session: None, declares: json!({}) }
    }

    /// How often the server was called.
    fn calls(&self) -> usize {
        let received = self.upstream.received();
        received.iter().filter(|text| text.contains("\"tools/call\"")).count()
    }

    /// Every action of the workspace, the newest first.
    async fn actions(&self) -> Vec<Action> {
        let request = ListActionsRequest { page_size: 200, ..Default::default() };
        self.server.owner.list_actions(&request).await.unwrap().actions
    }

    /// The only action that there is.
    async fn only(&self) -> Action {
        let mut all = self.actions().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.remove(0)
    }

    async fn action(&self, id: &str) -> Action {
        let request = GetActionRequest { action_id: id.to_owned() };
        self.server.owner.get_action(&request).await.unwrap()
    }

    /// Has somebody say yes, by the program.
    async fn approve(&self, action: &Action) {
        self.decide("approve", action).await;
    }

    async fn reject(&self, action: &Action) {
        self.decide("reject", action).await;
    }

    async fn decide(&self, verb: &str, action: &Action) {
        let key = self.server.key(Kind::User, &["approver"], "dev").await;
        let args = [verb, &action.approval_id, "--reason", "as a test has it"];
        crate::common::assert_code(&self.server.tally(&key, &args), 0);
    }

    async fn reaches(&self, action: &Action, state: State) -> Action {
        reaches(&self.server.owner, &action.action_id, state).await
    }
}

/// A client of the gateway.
#[derive(Clone)]
struct Caller {
    wire: Wire,
    key: String,
    /// Of a client of the older revision.
    session: Option<String>,
    /// Its capabilities.
    declares: Value,
}

impl Caller {
    /// The same client, which declares this.
    fn declaring(&self, declares: Value) -> Self {
        Self { declares, ..self.clone() }
    }

    /// A client of the older revision, which declares this.
    async fn older(&self, declares: Value) -> Self {
        let mut older = self.declaring(declares);
        let params = json!({
            "protocolVersion": OLDER,
            "capabilities": older.declares,
            "clientInfo": {"name": "test", "version": "1"},
        });
        let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let reply = older.post().json(&body).send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        older.session = Some(reply.header("mcp-session-id").to_owned());
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        let reply = older.post().json(&done).send().await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        older
    }

    fn post(&self) -> crate::common::wire::Ask {
        let ask = self.wire.ask("POST", "/mcp");
        let ask = ask.header("authorization", &format!("Bearer {}", self.key));
        let ask = ask.header("accept", "application/json, text/event-stream");
        match &self.session {
            None => ask,
            Some(session) => {
                ask.header("mcp-session-id", session).header("mcp-protocol-version", OLDER)
            }
        }
    }

    /// The answer to a request: with `result` or `error`.
    async fn ask(&self, method: &str, mut params: Value) -> Value {
        let mut post = self.post();
        if self.session.is_none() {
            params["_meta"] = json!({
                "io.modelcontextprotocol/protocolVersion": MODERN,
                "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
                "io.modelcontextprotocol/clientCapabilities": self.declares,
            });
            post = post.header("mcp-protocol-version", MODERN).header("mcp-method", method);
            let name = params.get("name").or_else(|| params.get("taskId"));
            if let Some(name) = name {
                post = post.header("mcp-name", name.as_str().unwrap());
            }
        }
        let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        answer(&post.json(&body).send().await)
    }

    /// Calls the tool with `text`.
    async fn call(&self, text: &str) -> Value {
        self.call_with(text, json!({})).await
    }

    /// The same with more parameters of the request.
    async fn call_with(&self, text: &str, more: Value) -> Value {
        let mut params = json!({"name": TOOL, "arguments": {"text": text}});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask("tools/call", params).await
    }
}

/// The message of an answer: JSON, or the last event of a stream.
fn answer(reply: &Reply) -> Value {
    if reply.header("content-type").starts_with("text/event-stream") {
        let text = reply.text();
        let last = text.lines().filter_map(|line| line.strip_prefix("data:")).next_back();
        return serde_json::from_str(last.unwrap()).unwrap();
    }
    reply.json()
}

/// The text of a tool's result, which must be an error or none.
#[track_caller]
fn said(answer: &Value, is_error: bool) -> String {
    let result = &answer["result"];
    assert_eq!(result["isError"].as_bool().unwrap_or_default(), is_error, "{answer}");
    result["content"][0]["text"].as_str().unwrap().to_owned()
}

/// What Tally notes of the action in an answer.
fn noted(answer: &Value) -> Value {
    answer["result"]["_meta"]["dev.tally/action"].clone()
}
