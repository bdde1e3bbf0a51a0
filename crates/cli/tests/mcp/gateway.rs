//! A server that stands in front of MCP servers and lets policy decide.

use mcpkit::Running;
use mcpkit::peer::{Client, Speaks};
use policy::Source;
use proto::actions::action::State;
use proto::actions::{Action, ListActionsRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreateKeyResponse, CreatePrincipalRequest};
use serde_json::{Value, json};

use super::raw::Raw;
use crate::common::{Server, WORKSPACE, allow_all};

/// A server with upstreams, and an agent of it.
pub(crate) struct Gateway {
    pub(crate) server: Server,
    /// The agent's key.
    pub(crate) key: String,
}

/// What `tally.yaml` says of an upstream over HTTP on this machine.
pub(crate) fn over_http(name: &str, running: &Running) -> Value {
    let transport = json!({"type": "http", "url": running.url, "private": true});
    json!({"name": name, "transport": transport})
}

/// What `tally.yaml` says of an upstream over stdio.
pub(crate) fn over_stdio(name: &str, command: &[String]) -> Value {
    let (program, args) = command.split_first().unwrap();
    let transport = json!({"type": "stdio", "command": program, "args": args});
    json!({"name": name, "transport": transport})
}

/// The section `mcp` with these upstreams and, besides, these settings.
pub(crate) fn section(upstreams: &[Value], settings: &Value) -> String {
    let mut section = json!({"allow_stdio": true, "upstreams": upstreams});
    for (name, value) in settings.as_object().unwrap() {
        section[name] = value.clone();
    }
    // YAML takes JSON.
    format!("policy: {{decision_limit_ms: 5000}}\nmcp: {section}")
}

impl Gateway {
    /// A gateway whose policy allows everything.
    pub(crate) async fn start(upstreams: &[Value]) -> Self {
        Self::start_with(upstreams, &json!({}), &allow_all()).await
    }

    /// The same with another policy and further settings.
    pub(crate) async fn start_with(upstreams: &[Value], settings: &Value, policy: &Source) -> Self {
        let server = Server::start(&section(upstreams, settings));
        server.publish(policy).await;
        let key = server.key(Kind::Agent, &["agent"], "dev").await;
        Self { server, key }
    }

    /// Where MCP clients go.
    pub(crate) fn url(&self) -> String {
        format!("{}/mcp", self.server.url)
    }

    /// The agent, speaking 2026-07-28 by hand.
    pub(crate) fn raw(&self) -> Raw {
        self.raw_of(&self.key)
    }

    /// The same for whoever has `key`.
    pub(crate) fn raw_of(&self, key: &str) -> Raw {
        Raw::new(&self.server.url, key)
    }

    /// Another agent's key.
    pub(crate) async fn other(&self) -> String {
        self.agent().await.key
    }

    /// The same with the key's id.
    pub(crate) async fn agent(&self) -> CreateKeyResponse {
        let request = CreatePrincipalRequest {
            kind: Kind::Agent.into(),
            name: "another agent".to_owned(),
            roles: vec!["agent".to_owned()],
            ..Default::default()
        };
        let principal = self.server.owner.create_principal(&request, None).await.unwrap();
        let request = CreateKeyRequest {
            principal_id: principal.principal_id,
            workspace: WORKSPACE.to_owned(),
            environment: "dev".to_owned(),
            ..Default::default()
        };
        self.server.owner.create_key(&request, None).await.unwrap()
    }

    /// The agent's client, once `tool` is listed.
    pub(crate) async fn client(&self, speaks: Speaks, tool: &str) -> Client {
        self.raw().lists(tool).await;
        self.client_of(&self.key, speaks).await
    }

    /// The client of whoever has `key`.
    pub(crate) async fn client_of(&self, key: &str, speaks: Speaks) -> Client {
        Client::http(&self.url(), Some(key), speaks).await.unwrap()
    }

    /// All actions of the workspace in `state`.
    pub(crate) async fn actions(&self, state: State) -> Vec<Action> {
        let mut request = ListActionsRequest { state: state.into(), ..Default::default() };
        let mut actions = Vec::new();
        loop {
            let page = self.server.owner.list_actions(&request).await.unwrap();
            actions.extend(page.actions);
            if page.next_page_token.is_empty() {
                return actions;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Ends the server and has its ledger verified from the files.
    pub(crate) fn verify(mut self) {
        assert!(self.server.terminate().success());
        self.server.offline("verify");
    }
}
