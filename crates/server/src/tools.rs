//! Tools: what the caller may use, by the word of policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::decision::{
    DecisionInput, DecisionPoint, Effect, InputBudget, InputPrincipal, InputTool, Phase,
};
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::risk::Risk;
use kernel::tool::Manifest;
use kernel::values::Digest;
use proto::tools::tools_service_server::ToolsService;
use proto::tools::{GetToolRequest, ListToolsRequest, ListToolsResponse, Tool};
use proto::wire::Json;
use tonic::{Request, Response, Status};

use crate::actions::{Claims, remaining, unknown_tool};
use crate::error::{Refused, Result};
use crate::paging;
use crate::policies::reviewed;
use crate::shared::{Caller, Shared};

/// Serves tools.
pub(crate) struct ToolsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

impl ToolsApi {
    /// Whether policy lets the caller call the tool in at least one of its variants.
    fn visible(&self, caller: &Caller, manifest: &Manifest, digest: Digest) -> Result<bool> {
        let variants = manifest.variants.iter().map(|variant| &variant.labels);
        for labels in std::iter::once(&manifest.labels).chain(variants) {
            if self.listed(caller, manifest, digest, labels)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn listed(
        &self,
        caller: &Caller,
        manifest: &Manifest,
        digest: Digest,
        labels: &BTreeSet<String>,
    ) -> Result<bool> {
        let params = RawJson::empty_object();
        let claims = Claims::new(None)?;
        let actors = caller.actors();
        let environment = &caller.environment;
        let account = caller.account.as_ref();
        let input = DecisionInput {
            phase: Phase::List,
            tenant: &caller.tenant,
            workspace: &caller.workspace,
            environment,
            principal: InputPrincipal { id: &caller.id, kind: caller.kind, roles: &caller.roles },
            actor_chain: actors.actors(),
            tool: InputTool { id: &manifest.id, labels, digest },
            params: &params,
            claims: &claims.json,
            risk: &Risk::assess(labels, environment.as_str(), &claims.data_types),
            budget: InputBudget {
                remaining_micro_usd: account.and_then(|id| remaining(&self.0, caller, id)),
                estimate_micro_usd: manifest.cost.per_call_micro_usd,
            },
            approval: None,
            now: self.0.now().into(),
        };
        let decision = reviewed(&self.0, caller, self.0.policy.list(&input));
        Ok(decision.effect != Effect::Deny)
    }

    fn list(&self, caller: &Caller, wire: &ListToolsRequest) -> Result<ListToolsResponse> {
        let mut visible = Vec::new();
        for (manifest, digest) in self.0.tools.manifests() {
            if self.visible(caller, manifest, digest)? {
                visible.push(wire_tool(manifest, digest)?);
            }
        }
        let (tools, next_page_token) =
            paging::by_name(visible, wire.page_size, &wire.page_token, |tool| &tool.tool_id);
        Ok(ListToolsResponse { tools, next_page_token })
    }

    fn get(&self, caller: &Caller, id: &str) -> Result<Tool> {
        let id = ToolId::new(id).map_err(|error| Refused::invalid(error.to_string()))?;
        let tool = self.0.tools.get(&id).ok_or_else(|| unknown_tool(&id))?;
        if !self.visible(caller, &tool.manifest, tool.digest)? {
            return Err(unknown_tool(&id));
        }
        wire_tool(&tool.manifest, tool.digest)
    }
}

fn wire_tool(manifest: &Manifest, digest: Digest) -> Result<Tool> {
    Ok(Tool {
        tool_id: manifest.id.to_string(),
        manifest: Some(Json::of(manifest).map_err(Refused::internal)?),
        digest: digest.to_string(),
    })
}

#[tonic::async_trait]
impl ToolsService for ToolsApi {
    async fn list_tools(&self, request: Request<ListToolsRequest>) -> Reply<ListToolsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_tool(&self, request: Request<GetToolRequest>) -> Reply<Tool> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.get(&caller, &request.get_ref().tool_id)?))
    }
}
