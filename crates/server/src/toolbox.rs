//! The one door to whatever can be called: the built-in tools, those of MCP servers, those of
//! connectors, and those that are given as code.

use std::sync::Arc;

use connectors::RegisteredTool;
use kernel::failure::Failure;
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::tool::{CallFacts, Manifest};
use kernel::values::Digest;

use crate::instances::ConnectorTool;
use crate::sandbox::registry::WasmTool;
use crate::sandbox::{self, CodeTool};
use crate::shared::{Caller, Shared};
use crate::upstreams::McpTool;
use crate::{Config, limits};

/// A tool that can be called.
pub(crate) enum Found<'a> {
    /// Of Tally itself.
    Builtin(&'a RegisteredTool),
    /// Of an MCP server.
    Mcp(Arc<McpTool>),
    /// Of an instance of a connector.
    Http(Arc<ConnectorTool>),
    /// Given as code.
    Wasm(Arc<WasmTool>),
    /// Runs code that is given with the call.
    Code(&'a CodeTool),
}

impl Found<'_> {
    /// What it says of itself.
    pub(crate) fn manifest(&self) -> &Manifest {
        match self {
            Self::Builtin(tool) => &tool.manifest,
            Self::Mcp(tool) => &tool.manifest,
            Self::Http(tool) => &tool.offered.manifest,
            Self::Wasm(tool) => &tool.manifest,
            Self::Code(tool) => &tool.manifest,
        }
    }

    /// The digest of that; part of every plan.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Builtin(tool) => tool.digest,
            Self::Mcp(tool) => tool.digest,
            Self::Http(tool) => tool.offered.digest,
            Self::Wasm(tool) => tool.digest,
            Self::Code(tool) => tool.digest,
        }
    }

    /// Whether it may run in the caller's environment, whatever policy says.
    pub(crate) fn may_run(&self, caller: &Caller) -> bool {
        match self {
            Self::Wasm(tool) => tool.may_run(caller),
            Self::Http(tool) => tool.may_run(caller),
            Self::Builtin(_) | Self::Mcp(_) | Self::Code(_) => true,
        }
    }

    /// How long one attempt with these parameters may take.
    pub(crate) fn timeout_ms(&self, config: &Config, params: &RawJson) -> u64 {
        match self {
            Self::Builtin(tool) => tool.manifest.timeout_ms,
            Self::Mcp(tool) => tool.manifest.timeout_ms.saturating_add(limits::ANSWERS_MS_MAX),
            Self::Http(tool) => tool.offered.manifest.timeout_ms,
            Self::Wasm(tool) => sandbox::attempt_ms(config, tool.limits.wall_ms),
            Self::Code(tool) => tool.timeout_ms(config, params),
        }
    }

    /// What a call with these parameters (already valid) is.
    pub(crate) fn facts(&self, params: &RawJson) -> CallFacts {
        match self {
            Self::Builtin(tool) => tool.facts(params),
            Self::Code(tool) => tool.facts(params),
            other => other.manifest().facts(params),
        }
    }

    /// Whether it runs code in a sandbox.
    pub(crate) fn is_sandboxed(&self) -> bool {
        matches!(self, Self::Wasm(_) | Self::Code(_))
    }

    /// Checks parameters before anything is decided about them.
    pub(crate) fn validate(
        &self,
        shared: &Shared,
        caller: &Caller,
        params: &RawJson,
    ) -> Result<(), Failure> {
        match self {
            Self::Builtin(tool) => shared.tools.validate(&tool.manifest.id, params),
            Self::Mcp(tool) => tool.validate(params),
            Self::Http(tool) => tool.validate(caller, params),
            Self::Wasm(tool) => tool.validate(caller, params),
            Self::Code(tool) => tool.validate(shared, caller, params),
        }
    }
}

/// The tool `id` as the tenant has it.
pub(crate) fn find<'a>(shared: &'a Shared, tenant: &TenantId, id: &ToolId) -> Option<Found<'a>> {
    let served = || shared.upstreams.tool(tenant, id).map(Found::Mcp);
    let given = || shared.registry.tool(tenant, id).map(Found::Wasm);
    let declared = || shared.instances.tool(tenant, id).map(Found::Http);
    let code = || {
        let mut tools = shared.sandbox.tools(tenant).iter();
        tools.find(|tool| tool.manifest.id == *id).map(Found::Code)
    };
    let own = shared.tools.get(tenant, id).map(Found::Builtin).or_else(code);
    own.or_else(served).or_else(declared).or_else(given)
}

/// Every tool of the tenant, in the order of their ids.
pub(crate) fn all<'a>(shared: &'a Shared, tenant: &TenantId) -> Vec<Found<'a>> {
    let (tools, methods) = (shared.upstreams.tools(tenant), shared.upstreams.methods(tenant));
    let served = tools.into_iter().chain(methods).map(Found::Mcp);
    let declared = shared.instances.tools(tenant).into_iter().map(Found::Http);
    let given = shared.registry.tools(tenant).into_iter().map(Found::Wasm).chain(declared);
    let code = shared.sandbox.tools(tenant).iter().map(Found::Code);
    let own = shared.tools.all(tenant).map(Found::Builtin).chain(code);
    let mut all: Vec<_> = own.chain(served).chain(given).collect();
    all.sort_by(|a, b| a.manifest().id.cmp(&b.manifest().id));
    all
}
