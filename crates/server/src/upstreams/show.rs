//! MCP servers and their tools as the wire has them.

use std::sync::Arc;

use connectors::mcp::{Offer, State as Connection, Transport};
use kernel::ids::TenantId;
use kernel::json::RawJson;
use kernel::upstream::Upstream;
use kernel::upstream_tool::{Status, UpstreamTool};
use kernel::values::Digest;
use proto::upstreams::upstream::State as WireState;
use proto::upstreams::upstream_tool::State as WireToolState;
use proto::upstreams::{Upstream as WireUpstream, UpstreamTool as WireTool};
use proto::wire::{Json, Timestamp};
use serde_json::{Map, Value};

use super::contact::{Offered, Sorted};
use super::fold::Fold;
use super::settings::UpstreamConfig;
use super::{McpTool, Registered, Upstreams, diff, limits};
use crate::error::{Refused, Result};

/// What stands for a value that is not shown.
const HIDDEN: &str = "…";

/// The settings of a server without the values that may be secrets: those of headers and
/// variables, unless they only refer to secrets.
pub(super) fn shown_settings(config: &UpstreamConfig) -> Result<Json> {
    let mut config = config.clone();
    let values = match &mut config.spec.transport {
        Transport::Stdio { env, .. } => env,
        Transport::Http { headers, .. } => headers,
    };
    for value in values.values_mut().filter(|value| !is_reference(value)) {
        HIDDEN.clone_into(value);
    }
    Json::of(&Map::<String, Value>::from(config)).map_err(Refused::internal)
}

/// Whether a value is one reference to a secret, perhaps after a scheme such as `Bearer`.
fn is_reference(value: &str) -> bool {
    let reference = value.strip_prefix("Bearer ").unwrap_or(value);
    let name = reference.strip_prefix("${secret:").and_then(|rest| rest.strip_suffix('}'));
    name.is_some_and(|name| !name.contains(['$', '{', '}']))
}

fn at(micros: i64) -> Option<Timestamp> {
    Some(Timestamp::from_micros(micros))
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

fn json(raw: &RawJson) -> Result<Json> {
    Json::new(raw.as_str()).map_err(Refused::internal)
}

fn digest(digest: Option<Digest>) -> String {
    digest.map(|digest| digest.to_string()).unwrap_or_default()
}

/// Makes `wire` say how the server is.
fn show_health(wire: &mut WireUpstream, registered: &Registered) -> Result<()> {
    let health = registered.client.health();
    let state = match health.state {
        Connection::Connecting => WireState::Connecting,
        Connection::Up => WireState::Up,
        Connection::Down => WireState::Down,
    };
    wire.set_state(state);
    wire.state_since = at(health.since);
    wire.last_error = health.last_error.unwrap_or_default();
    wire.in_flight = count(health.in_flight);
    wire.failures = health.failures;
    wire.protocol_version = health.revision.map(|r| r.as_str().to_owned()).unwrap_or_default();
    if let Some(info) = &health.server_info {
        wire.server_info = Some(Json::new(info.get()).map_err(Refused::internal)?);
    }
    wire.stderr_tail = registered.client.stderr();
    let seen = registered.seen.lock();
    wire.contacted_at = seen.contacted_at.and_then(|contacted| at(contacted.0));
    (wire.resources, wire.prompts) = (count(seen.resources), count(seen.prompts));
    if let (Some(failure), true) = (&seen.error, wire.last_error.is_empty()) {
        wire.last_error = failure.to_string();
    }
    Ok(())
}

impl Upstreams {
    /// A server; with its tools where they are wanted.
    pub(super) fn show(
        &self,
        tenant: &TenantId,
        name: &str,
        with_tools: bool,
    ) -> Result<WireUpstream> {
        let unknown = || Refused::not_found("MCP server");
        let live = |upstream: &Upstream| !upstream.removed;
        let (upstream, broken, tools) = self.with_fold(tenant, |fold| {
            let upstream = fold.upstreams.get(name).filter(|u| live(u)).cloned();
            let known = fold.tools_of(name).map(|(name, tool)| known_tool(fold, name, tool));
            (upstream, fold.broken.get(name).cloned(), known.collect::<Vec<WireTool>>())
        });
        let upstream = upstream.ok_or_else(unknown)?;
        let mut wire = WireUpstream {
            name: name.to_owned(),
            spec_digest: upstream.settings.spec.to_string(),
            declared: upstream.settings.by.is_none(),
            added_by: upstream.settings.by.as_ref().map(ToString::to_string).unwrap_or_default(),
            pinned: upstream.pinned,
            created_at: at(upstream.created_at.0),
            changed_at: at(upstream.changed_at.0),
            ..WireUpstream::default()
        };
        let registered = self.get(tenant, name);
        match (&registered, broken) {
            (Some(registered), None) => {
                let tools = registered.tools.clone();
                let config = UpstreamConfig { spec: registered.spec.clone(), tools };
                wire.settings = Some(shown_settings(&config)?);
                show_health(&mut wire, registered)?;
            }
            (_, why) => {
                wire.set_state(WireState::Broken);
                wire.last_error = why.unwrap_or_default();
            }
        }
        let refused = registered.map(|registered| {
            let seen = registered.seen.lock();
            (seen.refused.clone(), seen.refused_count)
        });
        let (refused, refused_count) = refused.unwrap_or_default();
        let of = |state| tools.iter().filter(|tool| tool.state() == state).count();
        wire.tools_active = count(of(WireToolState::Active));
        wire.tools_quarantined = count(of(WireToolState::Quarantined) + refused_count);
        wire.tools_gone = count(of(WireToolState::Gone));
        if with_tools {
            wire.tools = tools;
            wire.tools.extend(refused.iter().map(refused_tool));
            for tool in &mut wire.tools {
                self.say_more(tenant, tool);
            }
        }
        Ok(wire)
    }

    /// What follows from the manifest of a tool that may be called.
    fn say_more(&self, tenant: &TenantId, wire: &mut WireTool) {
        let id = kernel::ids::ToolId::new(&wire.tool_id).ok();
        if let Some(tool) = id.and_then(|id| self.tool(tenant, &id)) {
            of_manifest(wire, &tool);
        }
    }

    /// A tool with its definitions.
    pub(super) fn show_tool(
        &self,
        tenant: &TenantId,
        server: &str,
        name: &str,
    ) -> Result<WireTool> {
        let found = self.with_fold(tenant, |fold| {
            let live = fold.upstreams.get(server).is_some_and(|upstream| !upstream.removed);
            let mut tools = fold.tools_of(server).filter(|_| live);
            let tool = tools.find(|(own, _)| *own == name).map(|(_, tool)| tool.clone())?;
            Some((known_tool(fold, name, &tool), tool))
        });
        let (mut wire, tool) = found.ok_or_else(|| Refused::not_found("tool of this server"))?;
        self.say_more(tenant, &mut wire);
        // A definition that is lost, or was too long to be kept, is shown by its digest alone.
        let read =
            |digest: Option<Digest>| digest.map(|digest| self.definition(tenant, digest).ok());
        let pinned: Option<Arc<RawJson>> = read(tool.pinned).flatten();
        let offered: Option<Arc<RawJson>> = read(tool.offered).flatten();
        wire.pinned = pinned.as_deref().map(json).transpose()?;
        wire.offered = offered.as_deref().map(json).transpose()?;
        if let (Some(pinned), Some(offered)) = (&pinned, &offered) {
            wire.differences = diff::between(&pinned.to_value(), &offered.to_value())?;
        }
        if wire.description.is_empty()
            && let Some(definition) = offered.or(pinned)
        {
            wire.description = description(&definition);
        }
        Ok(wire)
    }
}

fn description(definition: &RawJson) -> String {
    let value = definition.to_value();
    let text = value.get("description").and_then(Value::as_str).unwrap_or_default();
    text.chars().take(limits::DESCRIPTION_CHARS_MAX).collect()
}

fn of_manifest(wire: &mut WireTool, tool: &McpTool) {
    wire.labels = tool.manifest.labels.iter().cloned().collect();
    wire.tool_digest = tool.digest.to_string();
    wire.description.clone_from(&tool.manifest.description);
}

/// A tool as the log has it.
fn known_tool(fold: &Fold, name: &str, tool: &UpstreamTool) -> WireTool {
    let unusable = fold.unusable.get(&tool.id);
    // A tool of an earlier adding that the first contact has not found yet.
    let current = fold.upstreams.get(tool.id.as_mcp().map_or("", |(server, _)| server));
    let current = current.is_some_and(|upstream| upstream.generation == tool.generation);
    let state = match tool.status {
        Status::Gone => WireToolState::Gone,
        _ if !current => WireToolState::Gone,
        Status::Active if unusable.is_none() => WireToolState::Active,
        Status::Active | Status::Quarantined => WireToolState::Quarantined,
    };
    let reason = match (state, unusable) {
        (WireToolState::Quarantined, Some(why)) => why.as_str(),
        (WireToolState::Quarantined, None) if tool.pinned.is_none() => "new",
        (WireToolState::Quarantined, None) => "changed",
        _ => "",
    };
    let mut wire = WireTool {
        name: name.to_owned(),
        tool_id: tool.id.to_string(),
        reason: reason.to_owned(),
        pinned_digest: digest(tool.pinned),
        offered_digest: digest(tool.offered),
        released_by: tool.released_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        changed_at: at(tool.changed_at.0),
        ..WireTool::default()
    };
    wire.set_state(state);
    wire
}

fn refused_tool((name, why): &(String, String)) -> WireTool {
    let (name, reason) = (name.clone(), why.clone());
    let mut wire = WireTool { name, reason, ..WireTool::default() };
    wire.set_state(WireToolState::Quarantined);
    wire
}

/// What adding a server would come to.
pub(super) fn dry_run(
    config: &UpstreamConfig,
    offer: &Offer,
    sorted: &Sorted<'_>,
) -> Result<WireUpstream> {
    let tool = |offered: &Offered<'_>| {
        let mut wire = WireTool {
            name: offered.definition.name.clone(),
            tool_id: offered.id.to_string(),
            description: description(&offered.definition.json),
            ..WireTool::default()
        };
        match offered.unusable {
            None => {
                wire.set_state(WireToolState::Active);
                wire.pinned_digest = offered.digest.to_string();
            }
            Some(why) => {
                wire.set_state(WireToolState::Quarantined);
                wire.offered_digest = offered.digest.to_string();
                why.as_str().clone_into(&mut wire.reason);
            }
        }
        wire
    };
    let mut tools: Vec<WireTool> = sorted.tools.iter().map(tool).collect();
    let refused = sorted.refused.iter().take(limits::REFUSED_NAMED_MAX);
    tools.extend(refused.map(refused_tool));
    let active = sorted.tools.iter().filter(|offered| offered.unusable.is_none()).count();
    let all = sorted.tools.len().saturating_add(sorted.refused.len());
    let mut wire = WireUpstream {
        name: config.spec.name.clone(),
        settings: Some(shown_settings(config)?),
        protocol_version: offer.revision.as_str().to_owned(),
        tools_active: count(active),
        tools_quarantined: count(all.saturating_sub(active)),
        resources: count(offer.resources.len().saturating_add(offer.templates.len())),
        prompts: count(offer.prompts.len()),
        tools,
        ..WireUpstream::default()
    };
    wire.set_state(WireState::DryRun);
    Ok(wire)
}
