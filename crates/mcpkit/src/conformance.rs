//! The client that the official suite drives: the MCP client of the product, told what to do by
//! the suite's environment.

mod auth;
mod plain;
mod program;

use std::sync::Arc;

use connectors::mcp::{
    Authorizer, Back, Call, Definition, Ended, Lane, Method, Offer, Parts, RpcError, SessionLane,
    Spec, Transport, Upstream,
};
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use testkit::permit;
use tokio_util::sync::CancellationToken;

pub use self::program::main;

/// What the suite wants of the client.
#[derive(Debug)]
pub struct Wanted {
    /// The server to talk to.
    pub url: String,
    /// The name of the scenario.
    pub scenario: String,
    /// The revision that the scenario is for.
    pub version: String,
    /// What else the scenario says, as JSON.
    pub context: Value,
}

impl Wanted {
    /// What the suite says in the environment of a program, for the server at `url`.
    #[must_use]
    pub fn of_environment(url: String) -> Self {
        let variable = |name: &str| std::env::var(format!("MCP_CONFORMANCE_{name}"));
        let context = variable("CONTEXT").ok().and_then(|text| serde_json::from_str(&text).ok());
        Self {
            url,
            scenario: variable("SCENARIO").unwrap_or_default(),
            version: variable("PROTOCOL_VERSION").unwrap_or_default(),
            context: context.unwrap_or(Value::Null),
        }
    }

    /// The upstream that the server is to the product.
    #[must_use]
    pub fn spec(&self) -> Spec {
        let transport =
            Transport::Http { url: self.url.clone(), headers: Default::default(), private: true };
        Spec {
            name: "suite".to_owned(),
            transport,
            timeout_ms: 25_000,
            auth: Default::default(),
            revision: None,
            sandbox: None,
        }
    }

    /// The tools that are to be called, if the scenario names any.
    fn calls(&self) -> Option<Vec<ToolCall>> {
        let calls = self.context.get("toolCalls").or_else(|| self.context.get("tool_calls"))?;
        Some(serde_json::from_value(calls.clone()).unwrap())
            .filter(|calls: &Vec<_>| !calls.is_empty())
    }
}

#[derive(Deserialize)]
struct ToolCall {
    name: String,
    #[serde(default)]
    arguments: Option<Value>,
}

/// Does what the suite wants: connects, lists, and calls each tool that it is to call.
///
/// # Errors
/// What failed, for a person.
pub async fn run(wanted: &Wanted, authorizer: Option<Arc<dyn Authorizer>>) -> Result<(), String> {
    let parts = Parts { authorizer, ..Parts::default() };
    let upstream = Upstream::new(wanted.spec(), parts).map_err(|e| e.to_string())?;
    let offer = upstream.offer().await.map_err(|failure| format!("{failure:?}"))?;
    let mut failed = Vec::new();
    for call in wanted.calls().unwrap_or_else(|| calls(&wanted.scenario, &offer)) {
        let arguments = call.arguments.unwrap_or_else(|| json!({}));
        match tool(&upstream, &call.name, &arguments).await {
            Ended::Result { .. } => {}
            other => failed.push(format!("{}: {other:?}", call.name)),
        }
    }
    if wanted.scenario == "http-standard-headers" {
        for resource in &offer.resources {
            let params = json!({"uri": resource.name});
            call(&upstream, Method::ReadResource, "", &params).await;
        }
        for prompt in &offer.prompts {
            let params = json!({"name": prompt.name, "arguments": {}});
            call(&upstream, Method::GetPrompt, "", &params).await;
        }
    }
    upstream.close_lane(LANE).await;
    upstream.close().await;
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

/// The calls that a scenario is about which does not name them: of each tool.
fn calls(scenario: &str, offer: &Offer) -> Vec<ToolCall> {
    let of = |tool: &Definition, arguments| ToolCall {
        name: tool.name.clone(),
        arguments: Some(arguments),
    };
    match (scenario, offer.tools.as_slice()) {
        // It wants a list alone.
        ("json-schema-ref-no-deref", _) => Vec::new(),
        // It wants to have the schema of one tool told by the other.
        ("json-schema-2020-12-preservation", [focal, echo]) => {
            vec![of(echo, json!({"schema": focal.json.to_value()["inputSchema"]}))]
        }
        (_, tools) => tools.iter().map(|tool| of(tool, arguments(&tool.json.to_value()))).collect(),
    }
}

const LANE: &str = "suite";
const CAPABILITIES: &str = r#"{"elicitation":{"form":{}},"sampling":{}}"#;

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

/// Calls one tool for a client that can be asked.
pub async fn tool(upstream: &Upstream, name: &str, arguments: &Value) -> Ended {
    call(upstream, Method::CallTool, name, arguments).await
}

async fn call(upstream: &Upstream, method: Method, tool: &str, params: &Value) -> Ended {
    let plan = Digest::of(b"conformance");
    let params = RawJson::parse(&params.to_string()).unwrap();
    let lane = SessionLane {
        id: LANE.to_owned(),
        client: raw(r#"{"name":"tally-conformance","version":"1"}"#),
        capabilities: raw(CAPABILITIES),
    };
    let call = Call {
        permit: &permit(plan),
        plan_digest: plan,
        now: Timestamp(0),
        method,
        tool,
        params: &params,
        continuation: None,
        idempotent: false,
        meta: None,
        progress_token: None,
        lane: Lane::Session(lane),
        back: Arc::new(Person { capabilities: raw(CAPABILITIES) }),
        subject: None,
        cancel: CancellationToken::new(),
    };
    upstream.call(call).await
}

/// Answers with what a form suggests, and samples the same text each time.
struct Person {
    capabilities: Box<RawValue>,
}

#[async_trait::async_trait]
impl Back for Person {
    fn capabilities(&self) -> Option<&RawValue> {
        Some(&self.capabilities)
    }

    fn rounds(&self) -> bool {
        false
    }

    async fn ask(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, RpcError> {
        let params: Value = serde_json::from_str(params.get()).unwrap();
        let answer = match method {
            "elicitation/create" => json!({
                "action": "accept",
                "content": suggested(&params["requestedSchema"]),
            }),
            "sampling/createMessage" => json!({
                "role": "assistant",
                "content": {"type": "text", "text": "a sample"},
                "model": "none",
                "stopReason": "endTurn",
            }),
            _ => return Err(RpcError::method_not_found(method)),
        };
        Ok(raw(&answer.to_string()))
    }

    fn notify(&self, _method: &str, _params: &RawValue) {}
}

/// A form filled in with its defaults, and with anything where one is required and has none.
fn suggested(schema: &Value) -> Value {
    let required = |name: &String| {
        schema["required"].as_array().is_some_and(|all| all.iter().any(|one| one == name))
    };
    let fields = schema["properties"].as_object().cloned().unwrap_or_default();
    let fields = fields.into_iter().filter_map(|(name, field)| match field.get("default") {
        Some(default) => Some((name, default.clone())),
        None => required(&name).then(|| (name.clone(), anything(&field))),
    });
    Value::Object(fields.collect::<Map<_, _>>())
}

/// Arguments that a tool takes, by its schema.
fn arguments(tool: &Value) -> Value {
    suggested(&tool["inputSchema"])
}

fn anything(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].get(0) {
        return first.clone();
    }
    match schema["type"].as_str() {
        Some("integer" | "number") => json!(1),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => suggested(schema),
        _ => json!("text"),
    }
}
