//! Instances of connectors: which ones a tenant has, and which of their tools can be called.
//!
//! The log says it (`kernel::connector`), by digests; definitions and configurations are kept
//! beside it under those. This is its fold in memory. A text that is not the one whose digest the
//! log has makes the tools absent.

mod api;
mod run;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use connectors::declared::{Definition, Instance, InstanceConfig, Offered};
use kernel::connector::{self, Status};
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use kernel::values::Digest;
use ledger::Ledger;
use parking_lot::RwLock;

use crate::follow::Follower;
use crate::shared::{Caller, Shared};

pub(crate) use api::ConnectorsApi;
pub(crate) use run::call;
pub use settings::ConnectorsConfig;

/// The environment in which a tool runs only by the word of two.
const PROD: &str = "prod";

/// An operation of an instance that can be called.
#[derive(Debug)]
pub(crate) struct ConnectorTool {
    pub(crate) offered: Offered,
    /// Whether another than who installed its definition configured or enabled it.
    reviewed: bool,
    /// Whether the operator lets this tenant use its definition.
    allowed: bool,
}

impl ConnectorTool {
    /// Whether it may run in the caller's environment.
    pub(crate) fn may_run(&self, caller: &Caller) -> bool {
        self.allowed && self.reviewed_for(caller)
    }

    fn reviewed_for(&self, caller: &Caller) -> bool {
        self.reviewed || caller.environment.as_str() != PROD
    }

    /// Checks the parameters of a call, and that the tool may run at all.
    pub(crate) fn validate(&self, caller: &Caller, params: &RawJson) -> Result<(), Failure> {
        if !self.allowed {
            return Err(not_allowed("call"));
        }
        if !self.reviewed_for(caller) {
            let message = "in prod, a connector runs only if another than who installed it \
                           configured or enabled it";
            return Err(Failure::new(Category::Permission, "tool_unreviewed", message));
        }
        self.offered.validate(params)
    }
}

/// The operator's list lacks a definition (`connectors.allow`), also one that was installed before
/// the list was made.
fn not_allowed(what: &str) -> Failure {
    let message = format!("the operator does not let this tenant {what} this definition");
    Failure::new(Category::Permission, "connector_not_allowed", message)
}

/// Why an instance that is enabled cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// Its definition is not kept, or not the one that was installed.
    DefinitionLost,
    /// Its configuration is not kept, or not the one that was made.
    ConfigLost,
    /// Its configuration does not fit its definition.
    Misfit,
}

impl Unusable {
    fn as_str(self) -> &'static str {
        match self {
            Self::DefinitionLost => "definition_lost",
            Self::ConfigLost => "config_lost",
            Self::Misfit => "config_misfit",
        }
    }
}

type Tools = BTreeMap<ToolId, Arc<ConnectorTool>>;

/// An instance as the log has it, and what was made of it.
struct Entry {
    state: connector::Connector,
    /// None as long as the log does not let it be called.
    made: Option<Result<Tools, Unusable>>,
}

/// The instances of all tenants.
pub(crate) struct Instances {
    control: Ledger,
    config: ConnectorsConfig,
    entries: RwLock<HashMap<TenantId, BTreeMap<String, Entry>>>,
}

impl Follower for Instances {
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Control(tenant) = log else { return };
        for (_, state) in states {
            self.put(tenant, state);
        }
    }
}

impl Instances {
    pub(crate) fn new(control: &Ledger, config: &ConnectorsConfig) -> Self {
        let (control, config) = (control.clone(), config.clone());
        Self { control, config, entries: RwLock::default() }
    }

    /// The tool of that id, where it can be called.
    pub(crate) fn tool(&self, tenant: &TenantId, id: &ToolId) -> Option<Arc<ConnectorTool>> {
        let (name, _) = id.as_str().split_once('.')?;
        let entries = self.entries.read();
        entries.get(tenant)?.get(name)?.made.as_ref()?.as_ref().ok()?.get(id).cloned()
    }

    /// The tools that can be called, by id.
    pub(crate) fn tools(&self, tenant: &TenantId) -> Vec<Arc<ConnectorTool>> {
        let entries = self.entries.read();
        let of_tenant = entries.get(tenant).into_iter().flat_map(BTreeMap::values);
        let made = of_tenant.filter_map(|entry| entry.made.as_ref()?.as_ref().ok());
        made.flat_map(BTreeMap::values).cloned().collect()
    }

    /// Whether the tenant has an instance whose tools begin with that vendor.
    pub(crate) fn has(&self, tenant: &TenantId, vendor: &str) -> bool {
        self.entries.read().get(tenant).is_some_and(|of| of.contains_key(vendor))
    }

    /// Takes a state, unless a newer one has passed it.
    fn put(&self, tenant: &TenantId, state: &State) {
        let State::Connector(state) = state else { return };
        let made = (state.status() == Status::Enabled).then(|| self.make(tenant, state));
        if let Some(Err(why)) = &made {
            tracing::error!(%tenant, connector = state.name, why = why.as_str(), "not callable");
        }
        let mut entries = self.entries.write();
        let entries = entries.entry(tenant.clone()).or_default();
        if entries.get(&state.name).is_none_or(|known| known.state.revision <= state.revision) {
            entries.insert(state.name.clone(), Entry { state: state.clone(), made });
        }
    }

    fn make(&self, tenant: &TenantId, state: &connector::Connector) -> Result<Tools, Unusable> {
        let definition = self.definition(tenant, state.installation.definition)?;
        let allowed = self.config.allows(tenant, &definition);
        let configuration = state.configuration.as_ref().ok_or(Unusable::ConfigLost)?;
        let config = self.config(tenant, configuration.config)?;
        let instance = Instance::new(&state.name, Arc::new(definition), config);
        let instance = Arc::new(instance.map_err(|_| Unusable::Misfit)?);
        let offered = Offered::all(&instance).map_err(|_| Unusable::Misfit)?;
        let reviewed = state.reviewed();
        let tools = offered.into_iter().map(|offered| {
            let id = offered.manifest.id.clone();
            (id, Arc::new(ConnectorTool { offered, reviewed, allowed }))
        });
        Ok(tools.collect())
    }

    /// What is kept under a digest, if it is what the digest is of.
    fn text(&self, tenant: &TenantId, digest: Digest) -> Option<String> {
        let kept = self.control.store().blob(tenant.as_str(), digest).ok().flatten()?;
        if Digest::of(&kept) != digest {
            return None;
        }
        String::from_utf8(kept).ok()
    }

    fn definition(&self, tenant: &TenantId, digest: Digest) -> Result<Definition, Unusable> {
        let text = self.text(tenant, digest).ok_or(Unusable::DefinitionLost)?;
        Definition::parse(&text).map_err(|_| Unusable::DefinitionLost)
    }

    fn config(&self, tenant: &TenantId, digest: Digest) -> Result<InstanceConfig, Unusable> {
        let text = self.text(tenant, digest).ok_or(Unusable::ConfigLost)?;
        serde_json::from_str(&text).map_err(|_| Unusable::ConfigLost)
    }

    /// What the log says of an instance.
    fn state(&self, tenant: &TenantId, name: &str) -> Option<connector::Connector> {
        self.entries.read().get(tenant)?.get(name).map(|entry| entry.state.clone())
    }

    fn names(&self, tenant: &TenantId) -> Vec<String> {
        self.entries.read().get(tenant).map(|of| of.keys().cloned().collect()).unwrap_or_default()
    }

    /// The ids of an instance's tools, or why there is none although it is enabled.
    fn shown(&self, tenant: &TenantId, name: &str) -> (Vec<String>, Option<Unusable>) {
        let entries = self.entries.read();
        let entry = entries.get(tenant).and_then(|of| of.get(name));
        match entry.and_then(|entry| entry.made.as_ref()) {
            Some(Ok(tools)) => (tools.keys().map(ToString::to_string).collect(), None),
            Some(Err(why)) => (Vec::new(), Some(*why)),
            None => (Vec::new(), None),
        }
    }
}

/// Whether calling the tool calls a system by a connector.
pub(crate) fn serves(shared: &Shared, tenant: &TenantId, tool: &ToolId) -> bool {
    let vendor = tool.as_str().split_once('.').map(|(vendor, _)| vendor);
    vendor.is_some_and(|vendor| shared.instances.has(tenant, vendor))
}
