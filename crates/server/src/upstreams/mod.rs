//! MCP servers behind Tally: which ones a tenant has, and which of their tools may be called.
//!
//! The log says it (`kernel::upstream`, `kernel::upstream_tool`); this is its fold in memory, with
//! a client for each server. What a server offers is compared with what is pinned whenever it says
//! that something changed, when it comes up, and from time to time.

mod api;
mod contact;
mod declared;
mod diff;
mod fold;
pub(crate) mod limits;
mod login;
mod names;
mod settings;
mod show;
mod tool;
mod watch;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use connectors::mcp::{self, Event, Offer, Parts, Spec};
use kernel::failure::Failure;
use kernel::ids::{TenantId, ToolId};
use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use kernel::upstream;
use kernel::values::Timestamp;
use ledger::Ledger;
use ledger::content::Vault;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, broadcast};
use tokio_util::sync::CancellationToken;

pub(crate) use api::UpstreamsApi;
pub(crate) use declared::declare;
pub(crate) use names::{Names, assign};
pub use settings::{McpConfig, ToolSettings, UpstreamConfig};
pub(crate) use tool::McpTool;
pub(crate) use watch::serve;

use crate::follow::Follower;
use fold::{Fold, View};

/// What a server's clients must know of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The tools that may be called.
    Tools,
    /// The resources of a server.
    Resources {
        /// Which.
        server: String,
    },
    /// The prompts of a server.
    Prompts {
        /// Which.
        server: String,
    },
    /// Which servers there are.
    Servers,
}

/// Makes what a tenant's clients of MCP servers need of their surroundings, with or without what
/// logs in to the server of that name.
pub(crate) type MakeParts = Box<dyn Fn(&TenantId, &Spec, bool) -> Parts + Send + Sync>;

/// A client that was connected before its server was added, with what it was offered.
struct Ready {
    settings: upstream::Settings,
    client: mcp::Upstream,
    offer: Offer,
}

/// The MCP servers of all tenants.
pub(crate) struct Upstreams {
    control: Ledger,
    vault: Arc<Vault>,
    parts: MakeParts,
    folds: Mutex<BTreeMap<TenantId, Fold>>,
    views: RwLock<HashMap<TenantId, Arc<View>>>,
    ready: Mutex<HashMap<(TenantId, String), Ready>>,
    /// Clients of servers that are gone, to be closed.
    retired: Mutex<Vec<mcp::Upstream>>,
    /// Wakes who watches the servers.
    wake: Notify,
    changed: broadcast::Sender<(TenantId, Change)>,
}

/// An MCP server with its client.
pub(crate) struct Registered {
    pub(crate) tenant: TenantId,
    pub(crate) name: String,
    pub(crate) client: mcp::Upstream,
    pub(crate) spec: Spec,
    pub(crate) tools: ToolSettings,
    pub(crate) settings: upstream::Settings,
    generation: u32,
    seen: Mutex<Seen>,
    /// One contact at a time, and what the first one starts from.
    contact: tokio::sync::Mutex<Option<Offer>>,
    events: Mutex<Option<broadcast::Receiver<Event>>>,
    watched: AtomicBool,
    /// Ends who watches it.
    stop: CancellationToken,
}

/// What the last contact found, as far as the log does not say it.
#[derive(Clone, Debug, Default)]
struct Seen {
    /// The server's own names of its tools, in its order.
    order: Arc<Vec<String>>,
    /// Tools that cannot be known by their names.
    refused: Vec<(String, String)>,
    /// How many there are of them.
    refused_count: usize,
    contacted_at: Option<Timestamp>,
    /// Why the last contact failed.
    error: Option<Failure>,
    /// What the server tells models of itself.
    instructions: Option<String>,
    resources: usize,
    prompts: usize,
}

impl Registered {
    /// What the server tells models of itself.
    pub(crate) fn instructions(&self) -> Option<String> {
        self.seen.lock().instructions.clone()
    }
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Follower for Upstreams {
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Control(tenant) = log else { return };
        let ours = |state: &State| matches!(state, State::Upstream(_) | State::UpstreamTool(_));
        if states.iter().any(|(_, state)| ours(state)) {
            self.fold(tenant, states.iter().map(|(_, state)| state.as_ref()));
        }
    }
}

impl Upstreams {
    /// No server is contacted yet.
    pub(crate) fn new(control: &Ledger, vault: Arc<Vault>, parts: MakeParts) -> Self {
        let (changed, _) = broadcast::channel(limits::CHANGES_KEPT);
        Self {
            control: control.clone(),
            vault,
            parts,
            folds: Mutex::default(),
            views: RwLock::default(),
            ready: Mutex::default(),
            retired: Mutex::default(),
            wake: Notify::new(),
            changed,
        }
    }

    /// What may be called by that id: a tool, or a method of a server.
    pub(crate) fn tool(&self, tenant: &TenantId, id: &ToolId) -> Option<Arc<McpTool>> {
        self.views.read().get(tenant)?.by_id.get(id).cloned()
    }

    /// The tools that may be called, by server and then as the server gave them.
    pub(crate) fn tools(&self, tenant: &TenantId) -> Vec<Arc<McpTool>> {
        self.view(tenant).tools.clone()
    }

    /// The methods that may be called of each server besides its tools.
    pub(crate) fn methods(&self, tenant: &TenantId) -> Vec<Arc<McpTool>> {
        self.view(tenant).methods.clone()
    }

    /// The server of that name.
    pub(crate) fn get(&self, tenant: &TenantId, name: &str) -> Option<Arc<Registered>> {
        self.views.read().get(tenant)?.servers.get(name).cloned()
    }

    /// Every server, by name.
    pub(crate) fn all(&self, tenant: &TenantId) -> Vec<Arc<Registered>> {
        self.view(tenant).servers.values().cloned().collect()
    }

    /// What clients call the tools that may be called.
    pub(crate) fn names(&self, tenant: &TenantId) -> Arc<Names> {
        self.view(tenant).names.clone()
    }

    /// Tells of changes from now on.
    pub(crate) fn changed(&self) -> broadcast::Receiver<(TenantId, Change)> {
        self.changed.subscribe()
    }

    /// Every server of every tenant.
    fn everywhere(&self) -> Vec<Arc<Registered>> {
        let views = self.views.read();
        views.values().flat_map(|view| view.servers.values().cloned()).collect()
    }

    fn view(&self, tenant: &TenantId) -> Arc<View> {
        self.views.read().get(tenant).cloned().unwrap_or_default()
    }

    fn tell(&self, tenant: &TenantId, change: Change) {
        // Nobody need be listening.
        let _listeners = self.changed.send((tenant.clone(), change));
    }
}
