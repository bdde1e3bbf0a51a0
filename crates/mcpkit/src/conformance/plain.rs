//! Connecting, listing and calling.

use std::sync::Arc;

use connectors::mcp::{Call, Definition, Detached, Ended, Lane, Method, Spec, Transport, Upstream};
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde_json::{Map, Value, json};
use testkit::permit;
use tokio_util::sync::CancellationToken;

use super::program::Context;

/// An upstream at `url`, on this machine.
pub(crate) fn spec(url: &str) -> Spec {
    Spec {
        name: "suite".to_owned(),
        transport: Transport::Http {
            url: url.to_owned(),
            headers: Default::default(),
            private: true,
        },
        timeout_ms: 20_000,
        auth: Default::default(),
        revision: None,
        sandbox: None,
    }
}

/// Calls each tool once: with what the scenario says, else with what the schema demands.
pub(crate) async fn call_all(upstream: &Upstream, context: &Context) -> Result<(), String> {
    let offer = upstream.offer().await.map_err(|failure| failure.to_string())?;
    let calls: Vec<(String, Value)> = match context.tool_calls.as_slice() {
        [] => offer.tools.iter().map(|tool| (tool.name.clone(), arguments(tool))).collect(),
        calls => {
            let of = |call: &super::program::ToolCall| {
                call.arguments.clone().unwrap_or_else(|| json!({}))
            };
            calls.iter().map(|call| (call.name.clone(), of(call))).collect()
        }
    };
    for (tool, params) in calls {
        match call(upstream, &tool, &params).await {
            Ended::Result { .. } | Ended::Error { .. } => {}
            Ended::NotSent(failure) | Ended::Unknown(failure) => return Err(failure.to_string()),
        }
    }
    Ok(())
}

/// Calls a tool under a permit of its own.
pub(crate) async fn call(upstream: &Upstream, tool: &str, params: &Value) -> Ended {
    let plan_digest = Digest::of(tool.as_bytes());
    let permit = permit(plan_digest);
    let params = RawJson::parse(&params.to_string()).unwrap();
    let call = Call {
        permit: &permit,
        plan_digest,
        now: Timestamp(0),
        method: Method::CallTool,
        tool,
        params: &params,
        continuation: None,
        idempotent: false,
        meta: None,
        progress_token: None,
        lane: Lane::Shared,
        back: Arc::new(Detached),
        subject: None,
        cancel: CancellationToken::new(),
    };
    upstream.call(call).await
}

/// Arguments that have what a tool's schema demands.
fn arguments(tool: &Definition) -> Value {
    let tool: Value = serde_json::from_str(tool.json.as_str()).unwrap();
    let schema = tool.get("inputSchema").cloned().unwrap_or_default();
    let mut arguments = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object);
    for (name, property) in properties.into_iter().flatten() {
        let value = match property.get("type").and_then(Value::as_str) {
            Some("number" | "integer") => json!(1),
            Some("boolean") => json!(true),
            Some("array") => json!([]),
            Some("object") => json!({}),
            _ => json!("text"),
        };
        arguments.insert(name.clone(), value);
    }
    Value::Object(arguments)
}
