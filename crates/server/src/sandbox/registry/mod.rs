//! Tools that are given as code: which ones a tenant has, and which of them can be called.
//!
//! The log says it (`kernel::wasm_tool`), by digests; manifests and code are kept beside it under
//! those digests. This is its fold in memory.

pub(crate) mod api;
mod manifest;
mod ready;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use kernel::attestation::{CodeKind, Limits};
use kernel::capability::Capabilities;
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use kernel::tool::{Code, Manifest};
use kernel::values::Digest;
use kernel::wasm_tool::{self, Status};
use ledger::Ledger;
use parking_lot::{Mutex, RwLock};

use self::manifest::Schemas;
use crate::follow::Follower;
use crate::shared::Caller;

pub(crate) use ready::ready;

/// The environment in which a tool runs only by the word of two.
const PROD: &str = "prod";

/// A registered tool that can be called.
pub(crate) struct WasmTool {
    /// As it is called: with what follows from its grant.
    pub(crate) manifest: Manifest,
    /// Of the manifest, which names code and grant; part of every plan.
    pub(crate) digest: Digest,
    /// Of the code.
    pub(crate) component: Digest,
    /// What the code is.
    pub(crate) kind: CodeKind,
    /// What it may reach.
    pub(crate) capabilities: Capabilities,
    /// What it may use.
    pub(crate) limits: Limits,
    /// Whether another than who registered it granted it.
    reviewed: bool,
    /// What the code was compiled to.
    binding: wasm_tool::Binding,
    schemas: Schemas,
}

impl std::fmt::Debug for WasmTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WasmTool").field("id", &self.manifest.id).finish_non_exhaustive()
    }
}

impl WasmTool {
    /// Whether it may run in the caller's environment.
    pub(crate) fn may_run(&self, caller: &Caller) -> bool {
        self.reviewed || caller.environment.as_str() != PROD
    }

    /// Checks the parameters of a call, and that the tool may run at all.
    pub(crate) fn validate(&self, caller: &Caller, params: &RawJson) -> Result<(), Failure> {
        if !self.may_run(caller) {
            let message = "in prod, a tool runs only if another than who registered it granted it";
            return Err(Failure::new(Category::Permission, "tool_unreviewed", message));
        }
        self.schemas.check_input(params)
    }

    /// Checks what a call came to.
    pub(crate) fn check_output(&self, result: &RawJson) -> Result<(), Failure> {
        self.schemas.check_output(result)
    }
}

/// Why a tool that is granted cannot be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    /// Its manifest is not kept, or not the one that was.
    ManifestLost,
    /// The configuration grants less by now.
    BeyondCeiling,
}

impl Unusable {
    fn as_str(self) -> &'static str {
        match self {
            Self::ManifestLost => "manifest_lost",
            Self::BeyondCeiling => "capability_not_grantable",
        }
    }
}

/// A tool as the log has it, and what was made of it.
struct Entry {
    state: wasm_tool::WasmTool,
    /// None as long as the log does not let it run.
    made: Option<Result<Arc<WasmTool>, Unusable>>,
}

/// The registered tools of all tenants.
pub(crate) struct Registry {
    control: Ledger,
    /// The most that the configuration grants.
    ceiling: Capabilities,
    entries: RwLock<HashMap<TenantId, BTreeMap<ToolId, Entry>>>,
    /// Code that this process has compiled or found compiled.
    bound: Mutex<HashSet<(TenantId, Digest)>>,
    /// Held while code of the tenant is compiled.
    binding: Mutex<HashMap<TenantId, Arc<tokio::sync::Mutex<()>>>>,
}

impl Follower for Registry {
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Control(tenant) = log else { return };
        for (_, state) in states {
            self.put(tenant, state);
        }
    }
}

impl Registry {
    pub(crate) fn new(control: &Ledger, ceiling: Capabilities) -> Self {
        Self {
            control: control.clone(),
            ceiling,
            entries: RwLock::default(),
            bound: Mutex::default(),
            binding: Mutex::default(),
        }
    }

    /// The tool of that id, where it can be called.
    pub(crate) fn tool(&self, tenant: &TenantId, id: &ToolId) -> Option<Arc<WasmTool>> {
        let entries = self.entries.read();
        entries.get(tenant)?.get(id)?.made.as_ref()?.as_ref().ok().cloned()
    }

    /// The tools that can be called, by id.
    pub(crate) fn tools(&self, tenant: &TenantId) -> Vec<Arc<WasmTool>> {
        let entries = self.entries.read();
        let of_tenant = entries.get(tenant).into_iter().flat_map(BTreeMap::values);
        of_tenant.filter_map(|entry| entry.made.as_ref()?.as_ref().ok().cloned()).collect()
    }

    /// Waits until no other code of the tenant is being compiled for the registry.
    async fn turn(&self, tenant: &TenantId) -> tokio::sync::OwnedMutexGuard<()> {
        let own = self.binding.lock().entry(tenant.clone()).or_default().clone();
        own.lock_owned().await
    }

    /// Whether this process has seen to it that code of a registered tool is bound.
    pub(super) fn has_bound(&self, tenant: &TenantId, component: Digest) -> bool {
        self.bound.lock().contains(&(tenant.clone(), component))
    }

    /// Takes a state, unless a newer one has passed it.
    fn put(&self, tenant: &TenantId, state: &State) {
        let State::WasmTool(state) = state else { return };
        let made = (state.status() == Status::Active).then(|| self.make(tenant, state));
        if let Some(Err(why)) = &made {
            tracing::warn!(%tenant, tool = %state.id, why = why.as_str(), "not callable");
        }
        let mut entries = self.entries.write();
        let entries = entries.entry(tenant.clone()).or_default();
        if entries.get(&state.id).is_none_or(|known| known.state.revision <= state.revision) {
            entries.insert(state.id.clone(), Entry { state: state.clone(), made });
        }
    }

    fn make(
        &self,
        tenant: &TenantId,
        state: &wasm_tool::WasmTool,
    ) -> Result<Arc<WasmTool>, Unusable> {
        let (Some(grant), Some(binding)) = (&state.grant, &state.binding) else {
            return Err(Unusable::ManifestLost);
        };
        let registered = self.manifest(tenant, state.registration.manifest)?;
        let schemas = Schemas::of(&registered).map_err(|_| Unusable::ManifestLost)?;
        let within = grant.capabilities.within(&self.ceiling);
        let capabilities = within.map_err(|_| Unusable::BeyondCeiling)?;
        let mut manifest = manifest::granted(&registered, &capabilities);
        let (component, kind) = (state.registration.component, state.registration.kind);
        manifest.code = Some(Code {
            digest: component,
            kind,
            capabilities: capabilities.digest(),
            limits: grant.limits,
        });
        let digest = manifest.digest().map_err(|_| Unusable::ManifestLost)?;
        Ok(Arc::new(WasmTool {
            manifest,
            digest,
            component,
            kind,
            capabilities,
            limits: grant.limits,
            reviewed: grant.by != state.registration.by,
            binding: binding.clone(),
            schemas,
        }))
    }

    /// A manifest as it was registered.
    fn manifest(&self, tenant: &TenantId, digest: Digest) -> Result<Manifest, Unusable> {
        let kept = self.control.store().blob(tenant.as_str(), digest).ok().flatten();
        let kept = kept.filter(|bytes| Digest::of(bytes) == digest);
        let read = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        read.ok_or(Unusable::ManifestLost)
    }

    /// What the log says of a tool.
    fn state(&self, tenant: &TenantId, id: &ToolId) -> Option<wasm_tool::WasmTool> {
        let entries = self.entries.read();
        entries.get(tenant)?.get(id).map(|entry| entry.state.clone())
    }

    /// What was made of a tool that the log lets run.
    fn made(&self, tenant: &TenantId, id: &ToolId) -> Option<Result<Arc<WasmTool>, Unusable>> {
        self.entries.read().get(tenant)?.get(id)?.made.clone()
    }

    /// Whether a tool of the tenant that is not revoked has the code `digest`.
    fn uses(&self, tenant: &TenantId, digest: Digest) -> bool {
        let entries = self.entries.read();
        let mut tools = entries.get(tenant).into_iter().flat_map(BTreeMap::values);
        tools.any(|Entry { state, .. }| {
            state.registration.component == digest && state.status() != Status::Revoked
        })
    }

    /// The ids of the registered tools.
    pub(crate) fn ids(&self, tenant: &TenantId) -> Vec<ToolId> {
        let entries = self.entries.read();
        entries.get(tenant).map(|of| of.keys().cloned().collect()).unwrap_or_default()
    }
}
