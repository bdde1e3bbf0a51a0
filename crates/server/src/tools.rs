//! Tools: what the caller may use, by the word of policy.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::decision::{
    DecisionInput, DecisionPoint, Effect, InputBudget, InputOperational, InputPrincipal, InputTool,
    Phase,
};
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::risk::Risk;
use kernel::tool::Manifest;
use kernel::values::Digest;
use proto::tools::tools_service_server::ToolsService;
use proto::tools::{
    GetToolRegistrationRequest, GetToolRequest, GrantToolRequest, ListToolRegistrationsRequest,
    ListToolRegistrationsResponse, ListToolsRequest, ListToolsResponse, RegisterToolRequest,
    RevokeToolRequest, Tool, ToolRegistration,
};
use proto::wire::Json;
use tonic::{Request, Response, Status};

use crate::actions::{Claims, remaining, unknown_tool};
use crate::error::{Refused, Result};
use crate::paging;
use crate::policies::reviewed;
use crate::sandbox::registry::api as registry;
use crate::shared::{Caller, Shared};
use crate::toolbox;

/// Serves tools.
pub(crate) struct ToolsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// Whether policy lets the caller call the tool in at least one of its variants.
pub(crate) fn visible(
    shared: &Shared,
    caller: &Caller,
    manifest: &Manifest,
    digest: Digest,
) -> Result<bool> {
    visible_with(shared, caller, manifest, digest, &RawJson::empty_object())
}

/// The same with parameters, for what is listed one by one.
pub(crate) fn visible_with(
    shared: &Shared,
    caller: &Caller,
    manifest: &Manifest,
    digest: Digest,
    params: &RawJson,
) -> Result<bool> {
    let variants = manifest.variants.iter().map(|variant| &variant.labels);
    for labels in std::iter::once(&manifest.labels).chain(variants) {
        if listed(shared, caller, manifest, digest, labels, params)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn listed(
    shared: &Shared,
    caller: &Caller,
    manifest: &Manifest,
    digest: Digest,
    labels: &BTreeSet<String>,
    params: &RawJson,
) -> Result<bool> {
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
        params,
        claims: &claims.json,
        risk: &Risk::assess(labels, environment.as_str(), &claims.data_types),
        budget: InputBudget {
            remaining_micro_usd: account.and_then(|id| remaining(shared, caller, id)),
            estimate_micro_usd: manifest.cost.per_call_micro_usd,
        },
        approval: None,
        operational: InputOperational::default(),
        run: None,
        now: shared.now().into(),
    };
    let decision = reviewed(shared, caller, shared.policy.list(&input));
    Ok(decision.effect != Effect::Deny)
}

impl ToolsApi {
    fn list(&self, caller: &Caller, wire: &ListToolsRequest) -> Result<ListToolsResponse> {
        let mut shown = Vec::new();
        for tool in toolbox::all(&self.0, &caller.tenant) {
            let runs = tool.may_run(caller);
            if runs && visible(&self.0, caller, tool.manifest(), tool.digest())? {
                shown.push(wire_tool(tool.manifest(), tool.digest())?);
            }
        }
        let (tools, next_page_token) =
            paging::by_name(shown, wire.page_size, &wire.page_token, |tool| &tool.tool_id);
        Ok(ListToolsResponse { tools, next_page_token })
    }

    fn get(&self, caller: &Caller, id: &str) -> Result<Tool> {
        let id = ToolId::new(id).map_err(|error| Refused::invalid(error.to_string()))?;
        let tool = toolbox::find(&self.0, &caller.tenant, &id);
        let tool = tool.ok_or_else(|| unknown_tool(&id))?;
        let runs = tool.may_run(caller);
        if !runs || !visible(&self.0, caller, tool.manifest(), tool.digest())? {
            return Err(unknown_tool(&id));
        }
        wire_tool(tool.manifest(), tool.digest())
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
    async fn register_tool(
        &self,
        request: Request<RegisterToolRequest>,
    ) -> Reply<ToolRegistration> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(registry::register(&self.0, &caller, request.into_inner()).await?))
    }

    async fn list_tool_registrations(
        &self,
        request: Request<ListToolRegistrationsRequest>,
    ) -> Reply<ListToolRegistrationsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(registry::list(&self.0, &caller, request.get_ref())?))
    }

    async fn get_tool_registration(
        &self,
        request: Request<GetToolRegistrationRequest>,
    ) -> Reply<ToolRegistration> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(registry::get(&self.0, &caller, &request.get_ref().tool_id)?))
    }

    async fn grant_tool(&self, request: Request<GrantToolRequest>) -> Reply<ToolRegistration> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(registry::grant(&self.0, &caller, request.into_inner()).await?))
    }

    async fn revoke_tool(&self, request: Request<RevokeToolRequest>) -> Reply<ToolRegistration> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(registry::revoke(&self.0, &caller, request.get_ref()).await?))
    }
}
