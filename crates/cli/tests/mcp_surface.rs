//! `/mcp` as clients see it: both revisions, their rules, streams, sessions, and what is not
//! shown to whom.

mod client;
mod rules;
mod sessions;
mod streams;
mod views;

use mcpkit::everything::Everything;
use mcpkit::{Revisions, Running};
use policy::Source;
use proto::actions::{Action, ListActionsRequest};
use proto::identity::principal::Kind;
use serde_json::{Value, json};

use crate::common::wire::Wire;
use crate::common::{Server, allow_all};
use client::{Mcp, until};

/// A server of Tally in front of the MCP server that has everything.
struct Place {
    server: Server,
    kit: Everything,
    _running: Running,
}

impl Place {
    async fn new(revisions: Revisions) -> Self {
        Self::under(revisions, &allow_all(), "").await
    }

    async fn under(revisions: Revisions, policy: &Source, more: &str) -> Self {
        let kit = Everything::new(revisions);
        let running = kit.http().await;
        let transport = format!("{{type: http, url: '{}', private: true}}", running.url);
        let server = Server::start(&format!(
            "policy: {{decision_limit_ms: 5000}}\n\
             mcp:\n  upstreams: [{{name: kit, transport: {transport}}}]\n{more}"
        ));
        server.publish(policy).await;
        let place = Self { server, kit, _running: running };
        place.knows("kit", "echo").await;
        place
    }

    /// Waits until a tool of an upstream is known.
    async fn knows(&self, upstream: &str, tool: &str) {
        let (wire, key) = (Wire::new(&self.server.url), self.server.owner_key());
        let path = format!("/v1/tools/mcp.{upstream}.{tool}");
        until("the tool is known", async || {
            wire.ask_as(&key, "GET", &path).send().await.status == 200
        })
        .await;
    }

    async fn agent_key(&self) -> String {
        self.server.key(Kind::Agent, &["agent"], "dev").await
    }

    async fn modern(&self, capabilities: Value) -> Mcp {
        Mcp::modern(&self.server.url, &self.agent_key().await, capabilities)
    }

    async fn legacy(&self, capabilities: Value) -> Mcp {
        Mcp::legacy(&self.server.url, &self.agent_key().await, capabilities).await
    }

    /// Every action, the newest first.
    async fn actions(&self) -> Vec<Action> {
        let request = ListActionsRequest { page_size: 200, ..Default::default() };
        self.server.owner.list_actions(&request).await.unwrap().actions
    }
}

/// The text of a tool's result.
fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}"))
}

/// A client that can fill in forms.
fn forms() -> Value {
    json!({"elicitation": {"form": {}}})
}
