//! A tool of an MCP server: what Tally makes of the server's definition and its operator's word.

use std::collections::BTreeSet;
use std::sync::Arc;

use connectors::mcp::{Method, Spec, Transport};
use connectors::schema::Validator;
use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::json::{self, RawJson};
use kernel::tool::{CostModel, Executor, FailureMode, Manifest, Source};
use kernel::values::{Digest, MicroUsd};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Registered;
use super::limits;
use super::settings::ToolSettings;

/// The version of every manifest made here: a change of one is told by its digest.
const VERSION: &str = "1.0.0";

/// What can be called of an MCP server.
pub(crate) struct McpTool {
    pub(crate) manifest: Manifest,
    /// Of the manifest; part of every plan.
    pub(crate) digest: Digest,
    pub(crate) upstream: Arc<Registered>,
    pub(crate) method: Method,
    /// The server's own name of it; for the other methods, `resources/read` and the like.
    pub(crate) name: String,
    /// As the server gave it; none for the other methods.
    pub(crate) definition: Option<Arc<RawJson>>,
    validator: Validator,
}

impl std::fmt::Debug for McpTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpTool").field("id", &self.manifest.id).finish_non_exhaustive()
    }
}

/// The methods besides `tools/call`, which are tools of each server too.
pub(crate) const METHODS: [Method; 3] = [Method::ReadResource, Method::GetPrompt, Method::Complete];

/// Whether a server's own name of a tool is that of a method.
pub(crate) fn is_reserved(name: &str) -> bool {
    METHODS.iter().any(|method| method.as_str() == name)
}

/// Why a tool cannot be called, whatever the log says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unusable {
    /// Its name cannot be part of an id.
    NameInvalid,
    /// Its name is that of a method.
    NameReserved,
    /// The server has two of this name.
    NameTwice,
    /// The server has more tools than are taken.
    TooMany,
    /// Its definition is longer than is kept.
    TooLarge,
    /// The schema of its parameters is none, or refers to what is elsewhere.
    SchemaInvalid,
    /// Its definition is not kept, or not the one that was.
    DefinitionLost,
}

impl Unusable {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NameInvalid => "tool_name_invalid",
            Self::NameReserved => "tool_name_reserved",
            Self::NameTwice => "tool_name_twice",
            Self::TooMany => "too_many_tools",
            Self::TooLarge => "definition_too_large",
            Self::SchemaInvalid => "schema_invalid",
            Self::DefinitionLost => "definition_lost",
        }
    }
}

/// What is read of a definition.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Definition {
    #[serde(default)]
    title: Option<String>,
    #[serde(default)]
    description: Option<String>,
    input_schema: Value,
    #[serde(default)]
    output_schema: Option<Value>,
    #[serde(default)]
    annotations: Option<Annotations>,
}

/// What a server says of how its tool behaves. Nobody need believe it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Annotations {
    read_only_hint: Option<bool>,
    destructive_hint: Option<bool>,
    idempotent_hint: Option<bool>,
    open_world_hint: Option<bool>,
}

/// The digest of a definition: that of its canonical form, so that the order in which a server
/// happens to write its members makes no difference.
pub(crate) fn definition_digest(definition: &RawJson) -> Result<Digest, json::Error> {
    json::canonical(definition).map(|form| Digest::of(&form))
}

/// Whether a definition can be called.
pub(crate) fn check(definition: &RawJson) -> Result<(), Unusable> {
    read(definition).map(drop)
}

fn read(definition: &RawJson) -> Result<(Definition, Validator), Unusable> {
    if definition.as_str().len() > limits::DEFINITION_BYTES_MAX {
        return Err(Unusable::TooLarge);
    }
    let invalid = |_| Unusable::SchemaInvalid;
    let read: Definition = serde_json::from_str(definition.as_str()).map_err(invalid)?;
    // Arguments are an object: what takes anything else takes nothing.
    let takes_objects = match read.input_schema.get("type") {
        Some(Value::String(of)) => of == "object",
        Some(Value::Array(of)) => of.iter().any(|of| of == "object"),
        Some(_) => false,
        None => read.input_schema.is_object(),
    };
    if !takes_objects {
        return Err(Unusable::SchemaInvalid);
    }
    let validator = Validator::foreign(&read.input_schema).map_err(|_| Unusable::SchemaInvalid)?;
    Ok((read, validator))
}

/// Labels follow from what the server says of its tool only where its operator trusts it; the
/// operator's own word replaces them.
fn labels(
    name: &str,
    annotations: Annotations,
    settings: &ToolSettings,
) -> (BTreeSet<String>, bool) {
    let mut labels = BTreeSet::new();
    let mut idempotent = false;
    if settings.trust_annotations {
        let reads = annotations.read_only_hint == Some(true);
        labels.insert(if reads { "read" } else { "write" });
        if !reads && annotations.destructive_hint == Some(true) {
            labels.insert("irreversible");
        }
        if annotations.open_world_hint != Some(false) {
            labels.insert("external");
        }
        idempotent = annotations.idempotent_hint == Some(true);
    } else {
        labels.extend(["write", "external"]);
    }
    let own = settings.labels.get(name).cloned();
    (own.unwrap_or_else(|| labels.into_iter().map(str::to_owned).collect()), idempotent)
}

impl McpTool {
    /// The tool that `definition` of `upstream` is.
    pub(crate) fn new(
        id: ToolId,
        definition: Arc<RawJson>,
        digest: Digest,
        upstream: &Arc<Registered>,
    ) -> Result<Self, Unusable> {
        let (_, name) = id.as_mcp().ok_or(Unusable::NameInvalid)?;
        let name = name.to_owned();
        let (read, validator) = read(&definition)?;
        let settings = &upstream.tools;
        let (labels, idempotent) = labels(&name, read.annotations.unwrap_or_default(), settings);
        let text = read.description.or(read.title).unwrap_or_else(|| name.clone());
        let manifest = Manifest {
            description: text.chars().take(limits::DESCRIPTION_CHARS_MAX).collect(),
            input_schema: read.input_schema,
            output_schema: read.output_schema.unwrap_or_else(|| json!({})),
            labels,
            idempotent,
            ..manifest(id, upstream, Some(digest))
        };
        Self::finish(manifest, upstream, Method::CallTool, name, Some(definition), validator)
    }

    /// What the protocol itself offers of each server.
    pub(crate) fn method(method: Method, upstream: &Arc<Registered>) -> Result<Self, Unusable> {
        let name = method.as_str();
        let id = ToolId::mcp(&upstream.name, name).map_err(|_| Unusable::NameInvalid)?;
        let own = upstream.tools.labels.get(name).cloned();
        let (description, input_schema) = of_method(method);
        let validator = Validator::new(&input_schema).map_err(|_| Unusable::SchemaInvalid)?;
        let manifest = Manifest {
            description: description.to_owned(),
            input_schema,
            labels: own.unwrap_or_else(|| ["read".to_owned()].into()),
            idempotent: true,
            ..manifest(id, upstream, None)
        };
        Self::finish(manifest, upstream, method, name.to_owned(), None, validator)
    }

    fn finish(
        mut manifest: Manifest,
        upstream: &Arc<Registered>,
        method: Method,
        name: String,
        definition: Option<Arc<RawJson>>,
        validator: Validator,
    ) -> Result<Self, Unusable> {
        let price = upstream.tools.prices.get(&name).copied();
        manifest.cost.per_call_micro_usd = price.unwrap_or(MicroUsd::ZERO);
        let digest = manifest.digest().map_err(|_| Unusable::SchemaInvalid)?;
        let upstream = upstream.clone();
        Ok(Self { manifest, digest, upstream, method, name, definition, validator })
    }

    /// Checks the parameters of a call.
    pub(crate) fn validate(&self, params: &RawJson) -> Result<(), Failure> {
        self.validator.check(&params.to_value())
    }
}

/// What all manifests of a server's tools have in common.
fn manifest(id: ToolId, upstream: &Registered, definition: Option<Digest>) -> Manifest {
    let Spec { transport, timeout_ms, .. } = &upstream.spec;
    let capability = match transport {
        Transport::Stdio { .. } => "process",
        Transport::Http { .. } => "network",
    };
    Manifest {
        id,
        version: VERSION.to_owned(),
        description: String::new(),
        executor: Executor::Mcp,
        input_schema: json!({}),
        output_schema: json!({}),
        labels: BTreeSet::new(),
        idempotent: false,
        reversible: false,
        variants: Vec::new(),
        cost: CostModel { per_call_micro_usd: MicroUsd::ZERO },
        caps: None,
        failure_modes: failure_modes(),
        capabilities: [capability.to_owned()].into(),
        timeout_ms: *timeout_ms,
        source: Some(Source { upstream: upstream.settings.spec, definition }),
        code: None,
    }
}

fn failure_modes() -> Vec<FailureMode> {
    use Category::{Auth, Network, RateLimited, Timeout, Upstream, Validation};
    let (change, again) = ("change what the message names", "try again");
    let reconcile = "where the action is unknown, find out whether the server acted; reconcile it";
    let modes = [
        ("params_invalid", Validation, "the parameters break the input schema", change),
        ("connect_failed", Network, "no connection, so nothing was sent", again),
        ("connection_lost", Network, "the connection broke after the call was sent", reconcile),
        ("session_ended", Network, "the server forgot the session", again),
        ("child_ended", Network, "the server's process ended", reconcile),
        ("rate_limited", RateLimited, "the server wants fewer calls", "wait as long as it says"),
        ("upstream_busy", RateLimited, "as many calls as there may be are under way", again),
        ("upstream_unavailable", Upstream, "the server takes no calls for now", again),
        ("upstream_failed", Upstream, "the server broke, perhaps after it acted", reconcile),
        ("upstream_refused", Upstream, "the server does not take this call", change),
        ("upstream_error", Upstream, "the server answered with an error", "read what it says"),
        ("upstream_unauthorized", Auth, "the server refuses the credential", "have it renewed"),
        ("timeout", Timeout, "the server took too long", reconcile),
    ];
    let refusals = ["upstream_refused", "upstream_error"];
    let made = modes.map(|(code, category, meaning, hint)| {
        let mode = FailureMode::new(code, category, meaning, hint);
        let retryable = mode.retryable && !refusals.contains(&code);
        mode.retryable(retryable)
    });
    made.into()
}

fn of_method(method: Method) -> (&'static str, Value) {
    let object = json!({"type": "object"});
    let text = json!({"type": "string", "minLength": 1});
    match method {
        Method::ReadResource => (
            "Reads a resource of the server.",
            json!({"type": "object", "required": ["uri"], "properties": {"uri": text}}),
        ),
        Method::GetPrompt => (
            "Gets a prompt of the server.",
            json!({
                "type": "object",
                "required": ["name"],
                "properties": {"name": text, "arguments": object},
            }),
        ),
        Method::Complete | Method::CallTool => (
            "Completes an argument of a prompt or a resource of the server.",
            json!({
                "type": "object",
                "required": ["ref", "argument"],
                "properties": {"ref": object, "argument": object, "context": object},
            }),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_from_trust_and_the_operators_word() {
        let annotations = |text: &str| serde_json::from_str::<Annotations>(text).unwrap();
        let check = |trusted: bool, said: &str, expect: &str, idempotent: bool| {
            let settings = ToolSettings { trust_annotations: trusted, ..ToolSettings::default() };
            let (labels, repeats) = labels("x", annotations(said), &settings);
            let labels: Vec<String> = labels.into_iter().collect();
            assert_eq!((labels.join(" "), repeats), (expect.to_owned(), idempotent), "{said}");
        };
        check(true, "{}", "external write", false);
        check(true, r#"{"readOnlyHint":true}"#, "external read", false);
        check(true, r#"{"readOnlyHint":true,"openWorldHint":false}"#, "read", false);
        check(true, r#"{"readOnlyHint":true,"destructiveHint":true}"#, "external read", false);
        check(true, r#"{"destructiveHint":true}"#, "external irreversible write", false);
        check(
            true,
            r#"{"idempotentHint":true,"openWorldHint":false,"destructiveHint":false}"#,
            "write",
            true,
        );
        check(false, r#"{"readOnlyHint":true,"idempotentHint":true}"#, "external write", false);
        let own = [("x".to_owned(), ["read".to_owned()].into())].into();
        let settings = ToolSettings { labels: own, ..ToolSettings::default() };
        assert_eq!(labels("x", Annotations::default(), &settings).0, ["read".to_owned()].into());
        assert!(labels("y", Annotations::default(), &settings).0.contains("write"));
    }
}
