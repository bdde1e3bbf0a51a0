//! The one door to whatever can be called: the built-in tools and those of MCP servers.

use std::sync::Arc;

use connectors::RegisteredTool;
use kernel::failure::Failure;
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::tool::Manifest;
use kernel::values::Digest;

use crate::limits;
use crate::shared::Shared;
use crate::upstreams::McpTool;

/// A tool that can be called.
pub(crate) enum Found<'a> {
    /// Of Tally itself.
    Builtin(&'a RegisteredTool),
    /// Of an MCP server.
    Mcp(Arc<McpTool>),
}

impl Found<'_> {
    /// What it says of itself.
    pub(crate) fn manifest(&self) -> &Manifest {
        match self {
            Self::Builtin(tool) => &tool.manifest,
            Self::Mcp(tool) => &tool.manifest,
        }
    }

    /// The digest of that; part of every plan.
    pub(crate) fn digest(&self) -> Digest {
        match self {
            Self::Builtin(tool) => tool.digest,
            Self::Mcp(tool) => tool.digest,
        }
    }

    /// How long one attempt may take.
    pub(crate) fn timeout_ms(&self) -> u64 {
        match self {
            Self::Builtin(tool) => tool.manifest.timeout_ms,
            Self::Mcp(tool) => tool.manifest.timeout_ms.saturating_add(limits::ANSWERS_MS_MAX),
        }
    }

    /// Checks parameters before anything is decided about them.
    pub(crate) fn validate(&self, shared: &Shared, params: &RawJson) -> Result<(), Failure> {
        match self {
            Self::Builtin(tool) => shared.tools.validate(&tool.manifest.id, params),
            Self::Mcp(tool) => tool.validate(params),
        }
    }
}

/// The tool `id` as the tenant has it.
pub(crate) fn find<'a>(shared: &'a Shared, tenant: &TenantId, id: &ToolId) -> Option<Found<'a>> {
    let served = || shared.upstreams.tool(tenant, id).map(Found::Mcp);
    shared.tools.get(id).map(Found::Builtin).or_else(served)
}

/// Every tool of the tenant, in the order of their ids.
pub(crate) fn all<'a>(shared: &'a Shared, tenant: &TenantId) -> Vec<Found<'a>> {
    let (tools, methods) = (shared.upstreams.tools(tenant), shared.upstreams.methods(tenant));
    let served = tools.into_iter().chain(methods).map(Found::Mcp);
    let mut all: Vec<_> = shared.tools.all().map(Found::Builtin).chain(served).collect();
    all.sort_by(|a, b| a.manifest().id.cmp(&b.manifest().id));
    all
}
