//! The fold of the control logs, as far as they are about MCP servers, and what is made of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use connectors::mcp;
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::machine::State;
use kernel::upstream::Upstream;
use kernel::upstream_tool::{Status, UpstreamTool};
use kernel::values::Digest;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::settings::Kept;
use super::tool::{self, McpTool, Unusable};
use super::{Change, Names, Ready, Registered, Seen, Upstreams};

/// The parts of a server's content.
pub(super) const SPEC: &str = "spec";
pub(super) const ORDER: &str = "order";

/// Under which id the content of a server is kept.
pub(super) fn content_id(name: &str) -> String {
    format!("upstream/{name}")
}

/// What the log of one tenant says, and what was made of it.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) upstreams: BTreeMap<String, Upstream>,
    pub(super) tools: BTreeMap<ToolId, UpstreamTool>,
    servers: BTreeMap<String, Arc<Registered>>,
    /// Servers without a client, and why.
    pub(super) broken: BTreeMap<String, String>,
    made: HashMap<ToolId, Arc<McpTool>>,
    /// Definitions that were offered, and why they can never be called, where they cannot.
    checked: HashMap<Digest, Option<Unusable>>,
    /// Tools that can never be called with the definition that is pinned or offered.
    pub(super) unusable: BTreeMap<ToolId, Unusable>,
}

/// What is asked for at each call.
#[derive(Default)]
pub(super) struct View {
    pub(super) by_id: HashMap<ToolId, Arc<McpTool>>,
    pub(super) tools: Vec<Arc<McpTool>>,
    pub(super) methods: Vec<Arc<McpTool>>,
    pub(super) servers: BTreeMap<String, Arc<Registered>>,
    pub(super) names: Arc<Names>,
}

impl Fold {
    /// Takes a state, unless a newer one has passed it.
    fn take(&mut self, state: &State) {
        match state {
            State::Upstream(upstream) => {
                let known = self.upstreams.get(&upstream.name);
                if known.is_none_or(|known| known.revision <= upstream.revision) {
                    self.upstreams.insert(upstream.name.clone(), upstream.clone());
                }
            }
            State::UpstreamTool(tool) => {
                let known = self.tools.get(&tool.id);
                if known.is_none_or(|known| known.revision <= tool.revision) {
                    self.tools.insert(tool.id.clone(), tool.clone());
                }
            }
            _ => {}
        }
    }

    /// The known tools of a server.
    pub(super) fn tools_of<'a>(
        &'a self,
        server: &'a str,
    ) -> impl Iterator<Item = (&'a str, &'a UpstreamTool)> {
        self.tools.values().filter_map(move |tool| {
            let (of, name) = tool.id.as_mcp()?;
            (of == server).then_some((name, tool))
        })
    }
}

impl Upstreams {
    /// Takes `states` of a tenant and makes of it what may be called.
    pub(super) fn fold<'a>(&self, tenant: &TenantId, states: impl Iterator<Item = &'a State>) {
        let mut folds = self.folds.lock();
        let fold = folds.entry(tenant.clone()).or_default();
        states.for_each(|state| fold.take(state));
        self.remake(tenant, fold);
    }

    /// The same without anything new: what could not be read may be there by now.
    pub(super) fn refresh(&self, tenant: &TenantId) {
        self.fold(tenant, std::iter::empty());
    }

    /// What the fold of a tenant says.
    pub(super) fn with_fold<T>(&self, tenant: &TenantId, look: impl FnOnce(&Fold) -> T) -> T {
        look(self.folds.lock().entry(tenant.clone()).or_default())
    }

    fn remake(&self, tenant: &TenantId, fold: &mut Fold) {
        let servers = self.remake_servers(tenant, fold);
        let before = std::mem::take(&mut fold.made);
        fold.unusable.clear();
        let tools: Vec<UpstreamTool> = fold.tools.values().cloned().collect();
        let checked = std::mem::take(&mut fold.checked);
        for tool in tools {
            if let (Status::Quarantined, Some(offered)) = (tool.status, tool.offered) {
                let known = checked.get(&offered).copied();
                let why = known.unwrap_or_else(|| self.check(tenant, offered));
                fold.checked.insert(offered, why);
                fold.unusable.extend(why.map(|why| (tool.id.clone(), why)));
                continue;
            }
            let Some((server, _)) = tool.id.as_mcp() else { continue };
            let Some(registered) = fold.servers.get(server) else { continue };
            let Some(digest) = callable(&tool, registered) else { continue };
            let same = |made: &&Arc<McpTool>| {
                Arc::ptr_eq(&made.upstream, registered)
                    && made.manifest.source.as_ref().and_then(|s| s.definition) == Some(digest)
            };
            let made = match before.get(&tool.id).filter(same) {
                Some(made) => Ok(made.clone()),
                None => self.make(tenant, &tool.id, digest, registered).map(Arc::new),
            };
            match made {
                Ok(made) => drop(fold.made.insert(tool.id.clone(), made)),
                Err(why) => {
                    tracing::warn!(%tenant, tool = %tool.id, why = why.as_str(), "not callable");
                    fold.unusable.insert(tool.id.clone(), why);
                }
            }
        }
        let view = Arc::new(view(fold));
        let old = self.views.write().insert(tenant.clone(), view.clone());
        let digests =
            |view: &View| -> Vec<Digest> { view.tools.iter().map(|t| t.digest).collect() };
        if old.is_none_or(|old| digests(&old) != digests(&view)) {
            self.tell(tenant, Change::Tools);
        }
        if servers {
            self.tell(tenant, Change::Servers);
            self.wake.notify_one();
        }
    }

    /// Makes a client for each server that is new or another, and lets go of those that are gone.
    fn remake_servers(&self, tenant: &TenantId, fold: &mut Fold) -> bool {
        let before = std::mem::take(&mut fold.servers);
        fold.broken.clear();
        for upstream in fold.upstreams.values().filter(|upstream| !upstream.removed) {
            let name = &upstream.name;
            let known = before.get(name).filter(|known| known.generation == upstream.generation);
            let same = known.filter(|known| known.settings == upstream.settings);
            let made = match same {
                Some(known) => Ok(known.clone()),
                None => self.register(tenant, upstream, known).map(Arc::new),
            };
            match made {
                Ok(registered) => drop(fold.servers.insert(name.clone(), registered)),
                Err(why) => {
                    tracing::error!(%tenant, server = name, why, "an MCP server cannot be used");
                    fold.broken.insert(name.clone(), why);
                }
            }
        }
        let mut changed = before.len() != fold.servers.len();
        for (name, old) in before {
            let new = fold.servers.get(&name);
            if new.is_some_and(|new| Arc::ptr_eq(new, &old)) {
                continue;
            }
            changed = true;
            old.stop.cancel();
            // Another description of the same server goes on with its client.
            if new.is_none_or(|new| new.generation != old.generation) {
                self.retired.lock().push(old.client.clone());
            }
        }
        changed
    }

    /// A server with its client: the one that was connected when it was added, that of `known`
    /// where it is the same server, or a new one.
    fn register(
        &self,
        tenant: &TenantId,
        upstream: &Upstream,
        known: Option<&Arc<Registered>>,
    ) -> Result<Registered, String> {
        let kept = self.kept(tenant, &upstream.name)?.ok_or("its description is gone")?;
        let settings = kept.settings(upstream.settings.by.clone()).map_err(|e| e.to_string())?;
        if settings != upstream.settings {
            return Err("its description is not the one that the log names".to_owned());
        }
        let config = kept.config;
        let ready = self.ready.lock().remove(&(tenant.clone(), upstream.name.clone()));
        let ready = ready.filter(|ready| ready.settings == settings);
        let (client, offer, seen) = match (ready, known) {
            (Some(Ready { client, offer, .. }), _) => (client, Some(offer), Seen::default()),
            (None, Some(known)) => (known.client.clone(), None, known.seen.lock().clone()),
            (None, None) => {
                let parts = (self.parts)(tenant, &config.spec, true);
                let client = mcp::Upstream::new(config.spec.clone(), parts);
                let order = Arc::new(self.kept_order(tenant, &upstream.name));
                let seen = Seen { order, ..Seen::default() };
                (client.map_err(|error| error.to_string())?, None, seen)
            }
        };
        Ok(Registered {
            tenant: tenant.clone(),
            name: upstream.name.clone(),
            events: Mutex::new(Some(client.events())),
            client,
            spec: config.spec,
            tools: config.tools,
            settings,
            generation: upstream.generation,
            seen: Mutex::new(seen),
            contact: tokio::sync::Mutex::new(offer),
            watched: AtomicBool::new(false),
            stop: CancellationToken::new(),
        })
    }

    /// A server's description as it is kept.
    pub(super) fn kept(&self, tenant: &TenantId, name: &str) -> Result<Option<Kept>, String> {
        let sealed = self.vault.open(tenant.as_str(), &content_id(name), SPEC);
        let Some(bytes) = sealed.map_err(|error| error.to_string())? else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| error.to_string())
    }

    /// The order of a server's tools at its last contact. It is for the eye: without it, by name.
    fn kept_order(&self, tenant: &TenantId, name: &str) -> Vec<String> {
        let kept = self.vault.open(tenant.as_str(), &content_id(name), ORDER);
        let order = kept.map(|bytes| bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()));
        order
            .unwrap_or_else(|error| {
                tracing::warn!(%tenant, server = name, %error, "the order of its tools is lost");
                None
            })
            .unwrap_or_default()
    }

    /// A definition by its digest.
    pub(super) fn definition(
        &self,
        tenant: &TenantId,
        digest: Digest,
    ) -> Result<Arc<RawJson>, Unusable> {
        let lost = |error: &dyn std::fmt::Display| {
            tracing::error!(%tenant, %digest, %error, "a definition cannot be read");
            Unusable::DefinitionLost
        };
        let bytes = self.control.store().blob(tenant.as_str(), digest).map_err(|e| lost(&e))?;
        let bytes = bytes.ok_or_else(|| lost(&"it is gone"))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| lost(&e))?;
        let raw = serde_json::from_str(text).map_err(|e| lost(&e))?;
        let definition = RawJson::result(raw).map_err(|e| lost(&e))?;
        match tool::definition_digest(&definition) {
            Ok(own) if own == digest => Ok(Arc::new(definition)),
            _ => Err(lost(&"it is another one")),
        }
    }

    /// Why a definition can never be called, where it cannot.
    fn check(&self, tenant: &TenantId, digest: Digest) -> Option<Unusable> {
        self.definition(tenant, digest).and_then(|definition| tool::check(&definition)).err()
    }

    fn make(
        &self,
        tenant: &TenantId,
        id: &ToolId,
        digest: Digest,
        registered: &Arc<Registered>,
    ) -> Result<McpTool, Unusable> {
        let definition = self.definition(tenant, digest)?;
        McpTool::new(id.clone(), definition, digest, registered)
    }
}

/// The definition with which a tool may be called, if it may.
fn callable(tool: &UpstreamTool, registered: &Registered) -> Option<Digest> {
    let active = tool.status == Status::Active && tool.generation == registered.generation;
    tool.pinned.filter(|_| active)
}

fn view(fold: &Fold) -> View {
    let (mut tools, mut methods) = (Vec::new(), Vec::new());
    for registered in fold.servers.values() {
        let order = registered.seen.lock().order.clone();
        let places: HashMap<&str, usize> =
            order.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
        let mut own: Vec<Arc<McpTool>> = fold
            .made
            .values()
            .filter(|tool| Arc::ptr_eq(&tool.upstream, registered))
            .cloned()
            .collect();
        let place = |tool: &Arc<McpTool>| places.get(tool.name.as_str()).copied();
        own.sort_by_cached_key(|tool| (place(tool).unwrap_or(usize::MAX), tool.name.clone()));
        tools.extend(own);
        for method in tool::METHODS {
            match McpTool::method(method, registered) {
                Ok(tool) => methods.push(Arc::new(tool)),
                Err(why) => {
                    let (server, method) = (&registered.name, method.as_str());
                    tracing::error!(server, method, why = why.as_str(), "not callable");
                }
            }
        }
    }
    let all = tools.iter().chain(&methods);
    View {
        by_id: all.map(|tool| (tool.manifest.id.clone(), tool.clone())).collect(),
        names: Arc::new(Names::of(&tools)),
        tools,
        methods,
        servers: fold.servers.clone(),
    }
}
