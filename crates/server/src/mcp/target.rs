//! What a request is about: the tool or method of one upstream, with the parameters that policy
//! sees and the upstream gets.

use std::sync::Arc;

use connectors::mcp::RpcError;
use kernel::ids::ToolId;
use kernel::json::{self, RawJson};
use serde_json::value::RawValue;

use super::errors;
use super::lists::Lister;
use super::raw;
use super::revision::Era;
use super::rpc::{self, Asked};
use crate::upstreams::McpTool;

/// The methods that act: each is an action.
pub(super) const ACTS: [&str; 4] =
    ["tools/call", "resources/read", "prompts/get", "completion/complete"];

/// What is called.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) tool: Arc<McpTool>,
    pub(super) params: RawJson,
    /// What kind of thing it is to the client, and its name for it.
    pub(super) kind: &'static str,
    pub(super) shown: String,
}

impl Target {
    /// The answer where it is not there, or may not be seen.
    pub(super) fn unknown(&self, era: Era) -> RpcError {
        errors::unknown(era, self.kind, &self.shown)
    }
}

fn invalid(message: impl Into<String>) -> RpcError {
    RpcError::new(rpc::INVALID_PARAMS, message)
}

/// Parameters as policy sees them.
fn params(place: &str, text: &str) -> Result<RawJson, RpcError> {
    RawJson::parse(text).map_err(|error: json::Error| invalid(format!("{place}: {error}")))
}

/// The name that a request is about, which a header of the modern revision repeats.
pub(super) fn name<'a>(asked: &'a Asked<'_>) -> Option<&'a str> {
    match asked.method.as_ref() {
        "tools/call" | "prompts/get" => asked.params.name.as_deref(),
        "resources/read" => asked.params.uri.as_deref(),
        "tasks/get" | "tasks/update" | "tasks/cancel" => asked.params.task_id.as_deref(),
        _ => None,
    }
}

/// Finds what a request that acts is about.
pub(super) async fn find(
    lister: &Lister<'_>,
    era: Era,
    asked: &Asked<'_>,
) -> Result<Target, RpcError> {
    match asked.method.as_ref() {
        "tools/call" => tool(lister, era, asked),
        "resources/read" => resource(lister, era, asked).await,
        "prompts/get" => prompt(lister, era, asked).await,
        _ => completion(lister, era, asked).await,
    }
}

fn tool(lister: &Lister<'_>, era: Era, asked: &Asked<'_>) -> Result<Target, RpcError> {
    let shown = asked.params.name.clone().ok_or_else(|| invalid("`name` is missing"))?;
    let tool = lister.tool(&shown).ok_or_else(|| errors::unknown(era, "tool", &shown))?;
    let params = match asked.params.arguments {
        None => RawJson::empty_object(),
        Some(arguments) if arguments.get().starts_with('{') => {
            params("arguments", arguments.get())?
        }
        Some(_) => return Err(invalid("`arguments` is an object")),
    };
    Ok(Target { tool, params, kind: "tool", shown })
}

/// The method of an upstream, as a tool.
fn method(lister: &Lister<'_>, upstream: &str, name: &str) -> Option<Arc<McpTool>> {
    let id = ToolId::mcp(upstream, name).ok()?;
    lister.shared.upstreams.tool(&lister.caller.tenant, &id)
}

async fn resource(lister: &Lister<'_>, era: Era, asked: &Asked<'_>) -> Result<Target, RpcError> {
    let uri = asked.params.uri.clone().ok_or_else(|| invalid("`uri` is missing"))?;
    let unknown = || errors::unknown(era, "resource", &uri);
    let upstream = lister.resource(&uri).await.ok_or_else(unknown)?;
    let tool = method(lister, &upstream.name, "resources/read").ok_or_else(unknown)?;
    let params = params("params", &raw::object([("uri", raw::quoted(&uri).as_str())]))?;
    Ok(Target { tool, params, kind: "resource", shown: uri })
}

async fn prompt(lister: &Lister<'_>, era: Era, asked: &Asked<'_>) -> Result<Target, RpcError> {
    let shown = asked.params.name.clone().ok_or_else(|| invalid("`name` is missing"))?;
    let unknown = || errors::unknown(era, "prompt", &shown);
    let (upstream, own) = lister.prompt(&shown).await.ok_or_else(unknown)?;
    let tool = method(lister, &upstream.name, "prompts/get").ok_or_else(unknown)?;
    let own = raw::quoted(&own);
    let mut members = vec![("name", own.as_str())];
    members.extend(asked.params.arguments.map(|arguments| ("arguments", arguments.get())));
    let params = params("params", &raw::object(members))?;
    Ok(Target { tool, params, kind: "prompt", shown })
}

async fn completion(lister: &Lister<'_>, era: Era, asked: &Asked<'_>) -> Result<Target, RpcError> {
    #[derive(serde::Deserialize)]
    struct Reference {
        r#type: String,
        name: Option<String>,
        uri: Option<String>,
    }
    let missing = || invalid("`ref` and `argument` are missing");
    let reference = asked.params.reference.ok_or_else(missing)?;
    let argument = asked.params.argument.ok_or_else(missing)?;
    let read: Reference = serde_json::from_str(reference.get())
        .map_err(|_| invalid("`ref` has a `type` and a `name` or `uri`, all strings"))?;
    let (upstream, text, kind, shown) = match (read.r#type.as_str(), read.name, read.uri) {
        ("ref/prompt", Some(name), _) => {
            let unknown = || errors::unknown(era, "prompt", &name);
            let (upstream, own) = lister.prompt(&name).await.ok_or_else(unknown)?;
            let sent = raw::member(reference.get(), "name").map(RawValue::get);
            let text = match sent {
                Some(sent) if own != name => {
                    raw::replace(reference.get(), sent, &raw::quoted(&own))
                }
                _ => reference.get().to_owned(),
            };
            (upstream, text, "prompt", name)
        }
        ("ref/resource", _, Some(uri)) => {
            let unknown = || errors::unknown(era, "resource", &uri);
            let upstream = lister.template_or_resource(&uri).await.ok_or_else(unknown)?;
            (upstream, reference.get().to_owned(), "resource", uri)
        }
        _ => return Err(invalid("`ref` is a ref/prompt with a name or a ref/resource with a uri")),
    };
    let unknown = || errors::unknown(era, kind, &shown);
    let tool = method(lister, &upstream.name, "completion/complete").ok_or_else(unknown)?;
    let mut members = vec![("ref", text.as_str()), ("argument", argument.get())];
    members.extend(asked.params.context.map(|context| ("context", context.get())));
    let params = params("params", &raw::object(members))?;
    Ok(Target { tool, params, kind, shown })
}
