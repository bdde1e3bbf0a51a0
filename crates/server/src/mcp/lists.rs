//! What a client sees: tools, resources, templates and prompts of all upstreams of its view, each
//! one as policy lists it for this caller.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use connectors::mcp::{Definition, RpcError};
use kernel::failure::Failure;
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::values::Digest;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use super::limits;
use super::raw;
use super::revision::Era;
use super::rpc;
use super::sessions::View;
use super::templates;
use crate::shared::{Caller, Shared};
use crate::tools::visible_with;
use crate::upstreams::{McpTool, Registered, assign};

/// A kind of thing that is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Tools,
    Resources,
    Templates,
    Prompts,
}

impl Kind {
    /// The kind that a method lists.
    pub(super) fn of(method: &str) -> Option<Self> {
        Some(match method {
            "tools/list" => Self::Tools,
            "resources/list" => Self::Resources,
            "resources/templates/list" => Self::Templates,
            "prompts/list" => Self::Prompts,
            _ => return None,
        })
    }

    /// The member of the result.
    fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
            Self::Prompts => "prompts",
        }
    }

    /// What tells a client that the list is another.
    pub(super) fn notification(self) -> &'static str {
        match self {
            Self::Tools => "notifications/tools/list_changed",
            Self::Prompts => "notifications/prompts/list_changed",
            Self::Resources | Self::Templates => "notifications/resources/list_changed",
        }
    }
}

/// One thing in a list: what tells it from others, and its definition.
#[derive(Clone, Debug)]
pub(super) struct Item {
    key: String,
    text: String,
}

/// The digest of a list: it changes when the list does.
pub(super) fn digest(items: &[Item]) -> Digest {
    let text: Vec<&str> = items.iter().map(|item| item.text.as_str()).collect();
    Digest::of(text.join("\n").as_bytes())
}

/// Lists for one caller.
#[derive(Clone, Copy)]
pub(super) struct Lister<'a> {
    pub(super) shared: &'a Shared,
    pub(super) caller: &'a Caller,
    pub(super) view: &'a View,
}

/// The definitions that an upstream gave, or why it gave none.
type Given = (Arc<Registered>, Result<Arc<[Definition]>, Failure>);

impl Lister<'_> {
    /// The upstreams of the view, by name.
    pub(super) fn upstreams(&self) -> Vec<Arc<Registered>> {
        let mut all = self.shared.upstreams.all(&self.caller.tenant);
        all.retain(|upstream| self.view.shows(&upstream.name));
        all
    }

    /// The tool that the client calls `name`. Names are exact.
    pub(super) fn tool(&self, name: &str) -> Option<Arc<McpTool>> {
        let tenant = &self.caller.tenant;
        match &self.view.0 {
            None => self.shared.upstreams.names(tenant).tool(name).cloned(),
            Some(server) => {
                let id = ToolId::mcp(server, name).ok()?;
                let tool = self.shared.upstreams.tool(tenant, &id)?;
                tool.definition.is_some().then_some(tool)
            }
        }
    }

    /// Whether policy lists a tool for the caller.
    pub(super) fn lists(&self, tool: &McpTool, params: &RawJson) -> bool {
        let seen = visible_with(self.shared, self.caller, &tool.manifest, tool.digest, params);
        seen.unwrap_or_else(|refused| {
            tracing::error!(error = %refused.0, "a tool could not be listed");
            false
        })
    }

    /// Everything of a kind that the caller sees, sorted.
    pub(super) async fn items(&self, kind: Kind, era: Era) -> Vec<Item> {
        match kind {
            Kind::Tools => self.tools(era),
            Kind::Resources | Kind::Templates => self.resources(kind).await,
            Kind::Prompts => self.prompts().await,
        }
    }

    fn tools(&self, era: Era) -> Vec<Item> {
        let tenant = &self.caller.tenant;
        let names = self.shared.upstreams.names(tenant);
        let empty = RawJson::empty_object();
        let mut items = Vec::new();
        for tool in self.shared.upstreams.tools(tenant) {
            if !self.view.shows(&tool.upstream.name) || !self.lists(&tool, &empty) {
                continue;
            }
            let Some(definition) = &tool.definition else { continue };
            let key = match &self.view.0 {
                Some(_) => Some(tool.name.as_str()),
                None => names.name(&tool.manifest.id),
            };
            let Some(key) = key else { continue };
            let text = renamed(definition.as_str(), &tool.name, key);
            items.push(Item { key: key.to_owned(), text: execution(era, text) });
        }
        items
    }

    async fn resources(&self, kind: Kind) -> Vec<Item> {
        let mut items: Vec<Item> = Vec::new();
        let mut known = std::collections::HashSet::new();
        for (upstream, given) in self.given(kind).await {
            let Some(tool) = self.method(&upstream, "resources/read") else { continue };
            for definition in given.iter().flat_map(|given| given.iter()) {
                let uri = raw::quoted(&definition.name);
                let params = RawJson::parse(&raw::object([("uri", uri.as_str())]));
                let seen = params.is_ok_and(|params| self.lists(&tool, &params));
                if seen && known.insert(definition.name.clone()) {
                    let text = definition.json.as_str().to_owned();
                    items.push(Item { key: definition.name.clone(), text });
                }
            }
        }
        items
    }

    async fn prompts(&self) -> Vec<Item> {
        let mut items = Vec::new();
        for (name, upstream, definition) in self.named_prompts().await {
            let Some(tool) = self.method(&upstream, "prompts/get") else { continue };
            let own = raw::quoted(&definition.name);
            let params = RawJson::parse(&raw::object([("name", own.as_str())]));
            if params.is_ok_and(|params| self.lists(&tool, &params)) {
                let text = renamed(definition.json.as_str(), &definition.name, &name);
                items.push(Item { key: name, text });
            }
        }
        items
    }

    /// The prompts of the view with their names to the client, which do not depend on policy.
    async fn named_prompts(&self) -> Vec<(String, Arc<Registered>, Definition)> {
        let given = self.given(Kind::Prompts).await;
        let prompts = given.into_iter().flat_map(|(upstream, given)| {
            let given: Vec<Definition> = given.iter().flat_map(|given| given.to_vec()).collect();
            given.into_iter().map(move |definition| (upstream.clone(), definition))
        });
        let prompts: Vec<(Arc<Registered>, Definition)> = prompts.collect();
        let pairs: Vec<(&str, &str)> = prompts
            .iter()
            .map(|(upstream, prompt)| (upstream.name.as_str(), prompt.name.as_str()))
            .collect();
        let names = assign(&pairs);
        let named = names.into_iter().zip(prompts);
        named.map(|(name, (upstream, prompt))| (name, upstream, prompt)).collect()
    }

    /// What the upstreams of the view offer. One that does not answer holds up nobody else.
    async fn given(&self, kind: Kind) -> Vec<Given> {
        let upstreams = self.upstreams();
        let mut asking = JoinSet::new();
        for (place, upstream) in upstreams.iter().cloned().enumerate() {
            asking.spawn(async move {
                let client = upstream.client.clone();
                let asked = async {
                    match kind {
                        Kind::Tools | Kind::Resources => client.resources().await,
                        Kind::Templates => client.templates().await,
                        Kind::Prompts => client.prompts().await,
                    }
                };
                let given = tokio::time::timeout(limits::LIST_WAIT, asked).await;
                (place, upstream, given)
            });
        }
        let mut given = Vec::new();
        while let Some(joined) = asking.join_next().await {
            if let Ok((place, upstream, Ok(listed))) = joined {
                if let Err(error) = &listed {
                    tracing::debug!(upstream = upstream.name, %error, "an upstream lists nothing");
                }
                given.push((place, (upstream, listed)));
            }
        }
        given.sort_by_key(|(place, _)| *place);
        given.into_iter().map(|(_, given)| given).collect()
    }

    fn method(&self, upstream: &Registered, method: &str) -> Option<Arc<McpTool>> {
        let id = ToolId::mcp(&upstream.name, method).ok()?;
        self.shared.upstreams.tool(&self.caller.tenant, &id)
    }

    /// The prompt that the client calls `name`: its upstream, and its name there.
    pub(super) async fn prompt(&self, name: &str) -> Option<(Arc<Registered>, String)> {
        let prompts = self.named_prompts().await;
        let found = prompts.into_iter().find(|(known, ..)| known == name);
        found.map(|(_, upstream, prompt)| (upstream, prompt.name))
    }

    /// The upstream that has a resource: the first by name that lists it, else the first with a
    /// template for it, else the only one that has resources at all. A resource need not be
    /// listed to be read.
    pub(super) async fn resource(&self, uri: &str) -> Option<Arc<Registered>> {
        let resources = self.given(Kind::Resources).await;
        if let Some(upstream) = offers(&resources, |known| known == uri) {
            return Some(upstream);
        }
        let patterns = self.given(Kind::Templates).await;
        if let Some(upstream) = offers(&patterns, |known| templates::matches(known, uri)) {
            return Some(upstream);
        }
        let any = resources
            .iter()
            .chain(&patterns)
            .filter(|(_, given)| given.as_ref().is_ok_and(|given| !given.is_empty()));
        let mut any: Vec<&Arc<Registered>> = any.map(|(upstream, _)| upstream).collect();
        any.dedup_by(|a, b| Arc::ptr_eq(a, b));
        match any.as_slice() {
            [first, rest @ ..] if rest.iter().all(|other| other.name == first.name) => {
                Some((*first).clone())
            }
            _ => None,
        }
    }

    /// The upstream of a resource that policy lists for the caller.
    pub(super) async fn readable(&self, uri: &str) -> Option<Arc<Registered>> {
        let upstream = self.resource(uri).await?;
        let tool = self.method(&upstream, "resources/read")?;
        let quoted = raw::quoted(uri);
        let params = RawJson::parse(&raw::object([("uri", quoted.as_str())])).ok()?;
        self.lists(&tool, &params).then_some(upstream)
    }

    /// Whether the caller may call anything of an upstream.
    pub(super) fn sees_any_of(&self, upstream: &str) -> bool {
        let empty = RawJson::empty_object();
        let upstreams = &self.shared.upstreams;
        let tenant = &self.caller.tenant;
        let all = upstreams.tools(tenant).into_iter().chain(upstreams.methods(tenant));
        let mut own = all.filter(|tool| tool.upstream.name == upstream);
        own.any(|tool| self.lists(&tool, &empty))
    }

    /// The upstream of a template, or of a resource.
    pub(super) async fn template_or_resource(&self, uri: &str) -> Option<Arc<Registered>> {
        let patterns = self.given(Kind::Templates).await;
        match offers(&patterns, |known| known == uri) {
            Some(upstream) => Some(upstream),
            None => self.resource(uri).await,
        }
    }
}

/// The first upstream with a definition of that name.
fn offers(given: &[Given], is: impl Fn(&str) -> bool) -> Option<Arc<Registered>> {
    let found = given.iter().find(|(_, given)| {
        given.as_ref().is_ok_and(|given| given.iter().any(|definition| is(&definition.name)))
    });
    found.map(|(upstream, _)| upstream.clone())
}

/// A definition under the name that the client knows.
fn renamed(definition: &str, own: &str, name: &str) -> String {
    if own == name {
        return definition.to_owned();
    }
    match raw::member(definition, "name") {
        Some(sent) => raw::replace(definition, sent.get(), &raw::quoted(name)),
        None => definition.to_owned(),
    }
}

/// What a definition says of tasks. It is we who make tasks, of held calls; those of an upstream
/// are not handed through.
fn execution(era: Era, definition: String) -> String {
    const OURS: &str = r#"{"taskSupport":"optional"}"#;
    let own = match definition.contains("execution") {
        true => raw::member(&definition, "execution").map(RawValue::get),
        false => None,
    };
    match (own, era) {
        (Some(own), _) => raw::replace(&definition, own, OURS),
        (None, Era::Legacy) => raw::insert(&definition, &format!(r#""execution":{OURS}"#)),
        (None, Era::Modern) => definition,
    }
}

/// A page of a list: its members, without braces, and whether it is the first.
pub(super) fn page(kind: Kind, items: &[Item], cursor: Option<&str>) -> Result<String, RpcError> {
    let start = match cursor {
        None => 0,
        Some(cursor) => after(items, cursor).ok_or_else(|| {
            RpcError::new(rpc::INVALID_PARAMS, "the cursor is not, or no longer, one of this list")
        })?,
    };
    let mut text = format!(r#""{}":["#, kind.member());
    let mut bytes = 0_usize;
    let mut last = None;
    for (count, item) in items.iter().skip(start).enumerate() {
        bytes = bytes.saturating_add(item.text.len());
        if count > 0 && (count == limits::PAGE || bytes > limits::PAGE_BYTES) {
            let next = last.map(|last: &Item| BASE64URL.encode(&last.key)).unwrap_or_default();
            return Ok(format!(r#"{text}],"nextCursor":"{next}""#));
        }
        if count > 0 {
            text.push(',');
        }
        text.push_str(&item.text);
        last = Some(item);
    }
    text.push(']');
    Ok(text)
}

/// The place behind the item that a cursor names.
fn after(items: &[Item], cursor: &str) -> Option<usize> {
    let key = BASE64URL.decode(cursor).ok()?;
    let place = items.iter().position(|item| item.key.as_bytes() == key.as_slice())?;
    Some(place + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(count: usize) -> Vec<Item> {
        let item = |n: usize| Item { key: format!("k{n}"), text: format!(r#"{{"n":{n}}}"#) };
        (0..count).map(item).collect()
    }

    #[test]
    fn pages_follow_one_another() {
        let all = items(2 * limits::PAGE + 1);
        let (mut cursor, mut seen, mut pages) = (None, 0, 0);
        loop {
            let page = page(Kind::Tools, &all, cursor.as_deref()).unwrap();
            let page: serde_json::Value = serde_json::from_str(&format!("{{{page}}}")).unwrap();
            for tool in page["tools"].as_array().unwrap() {
                assert_eq!(tool["n"], seen);
                seen += 1;
            }
            pages += 1;
            cursor = page["nextCursor"].as_str().map(str::to_owned);
            if cursor.is_none() {
                break;
            }
        }
        assert_eq!((seen, pages), (all.len(), 3));
        assert_eq!(page(Kind::Prompts, &[], None).unwrap(), r#""prompts":[]"#);
        for cursor in ["", "a*", "a2V5"] {
            assert!(page(Kind::Tools, &all, Some(cursor)).is_err(), "{cursor}");
        }
    }

    #[test]
    fn definitions_stay_but_for_what_is_ours() {
        let text = r#"{"name":"a", "inputSchema": {"x":1.0}}"#;
        assert_eq!(renamed(text, "a", "a"), text);
        assert_eq!(renamed(text, "a", "s__a"), r#"{"name":"s__a", "inputSchema": {"x":1.0}}"#);
        assert_eq!(execution(Era::Modern, text.to_owned()), text);
        let legacy = execution(Era::Legacy, text.to_owned());
        assert!(legacy.starts_with(r#"{"execution":{"taskSupport":"optional"},"name""#));
        let own = r#"{"name":"a","execution":{"taskSupport":"required"}}"#;
        let ours = r#"{"name":"a","execution":{"taskSupport":"optional"}}"#;
        assert_eq!(execution(Era::Modern, own.to_owned()), ours);
    }
}
