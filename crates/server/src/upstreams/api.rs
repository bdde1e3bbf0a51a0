//! The wire's face of the MCP servers.

use std::collections::BTreeSet;
use std::sync::Arc;

use connectors::mcp::{self, AuthSpec};
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::machine::{self, Command, Kind};
use kernel::upstream::Input;
use kernel::upstream_tool::{self, Status};
use kernel::values::Digest;
use ledger::Batch;
use prost::Message;
use proto::upstreams::upstreams_service_server::UpstreamsService;
use proto::upstreams::{
    AddUpstreamRequest, BeginUpstreamLoginRequest, BeginUpstreamLoginResponse,
    DisconnectUpstreamRequest, FinishUpstreamLoginRequest, GetUpstreamRequest,
    GetUpstreamToolRequest, ListUpstreamsRequest, ListUpstreamsResponse, RefreshUpstreamRequest,
    ReleaseUpstreamToolRequest, RemoveUpstreamRequest, Upstream, UpstreamTool,
};
use tonic::{Request, Response, Status as RpcStatus};

use super::contact::{self, contact, offer};
use super::declared::{Plan, command, forget_login};
use super::settings::UpstreamConfig;
use super::{Ready, Upstreams, limits, login, show, tool};
use crate::error::{Refused, Result};
use crate::paging;
use crate::shared::{Caller, Mutated, Shared};

/// Serves MCP servers.
pub(crate) struct UpstreamsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

fn body(wire: &impl Message) -> Digest {
    Digest::of(&wire.encode_to_vec())
}

impl UpstreamsApi {
    fn upstreams(&self) -> &Upstreams {
        &self.0.upstreams
    }

    /// Reads and checks what is to be added.
    fn read(&self, wire: &AddUpstreamRequest) -> Result<UpstreamConfig> {
        let text = wire.upstream.as_ref().map_or("null", |json| &json.text);
        let config: UpstreamConfig =
            serde_json::from_str(text).map_err(|e| Refused::invalid(format!("upstream: {e}")))?;
        config.check().map_err(|reason| Refused::invalid(format!("upstream: {reason}")))?;
        if config.is_stdio() && !self.0.config.mcp.allow_stdio {
            let message = "servers that are commands of this machine are declared in `tally.yaml`, \
                           or allowed there by `mcp.allow_stdio`";
            return Err(Refused::new(Category::Permission, "stdio_not_allowed", message));
        }
        Ok(config)
    }

    async fn add(&self, caller: &Caller, wire: &AddUpstreamRequest) -> Result<Upstream> {
        let config = self.read(wire)?;
        let (tenant, name) = (&caller.tenant, config.spec.name.clone());
        if wire.dry_run {
            return self.dry_run(tenant, &config).await;
        }
        // Values of headers and variables have no part in what the log keeps of the request.
        let said = show::shown_settings(&config)?;
        let body = body(&AddUpstreamRequest { upstream: Some(said), ..wire.clone() });
        let plan = self.upstreams().plan(tenant, config.clone(), Some(caller.id.clone()))?;
        if plan.is_empty() {
            return self.shown(caller, &name);
        }
        self.may_set_up(caller, &name, &plan, wire.replace)?;
        if plan.is_first_contact() {
            forget_login(&self.0, tenant, &name, Some(&caller.id)).await?;
            self.connect(tenant, config.clone(), &plan).await?;
        }
        let key = (tenant.clone(), name.clone());
        let made = match plan.batch(&self.0, tenant).await {
            Ok(batch) => self.0.mutate(caller, "upstreams", body, &name, batch).await,
            Err(refused) => Err(refused),
        };
        // What no server was made of is not kept.
        let left = self.upstreams().ready.lock().remove(&key);
        if let Some(Ready { client, .. }) = left {
            client.close().await;
        }
        if let (Mutated::Fresh(_), Some(registered)) = (made?, self.upstreams().get(tenant, &name))
            && let Err(failure) = contact(&self.0, &registered, false).await
            && !awaits_login(&config, &failure)
        {
            return Err(failure.into());
        }
        self.shown(caller, &name)
    }

    /// Whether a server may become what `plan` says.
    fn may_set_up(&self, caller: &Caller, name: &str, plan: &Plan, replace: bool) -> Result<()> {
        if plan.there {
            self.undeclared(&caller.tenant, name)?;
            if !replace {
                let message = format!("there is another MCP server `{name}`: replace or remove it");
                return Err(Refused::new(Category::Conflict, "upstream_exists", message));
            }
        } else if !self.upstreams().has_room(&caller.tenant) {
            let message = format!("at most {} MCP servers: remove one", limits::UPSTREAMS_MAX);
            return Err(Refused::new(Category::Validation, "too_many_upstreams", message));
        }
        Ok(())
    }

    /// What the configuration declares is changed there.
    fn undeclared(&self, tenant: &TenantId, name: &str) -> Result<()> {
        let declared = self.upstreams().with_fold(tenant, |fold| {
            let known = fold.upstreams.get(name).filter(|upstream| !upstream.removed);
            known.map(|upstream| upstream.settings.by.is_none())
        });
        match declared {
            None => Err(Refused::not_found("MCP server")),
            Some(false) => Ok(()),
            Some(true) => {
                let message = format!("`tally.yaml` declares `{name}`: change it there");
                Err(Refused::new(Category::Conflict, "upstream_declared", message))
            }
        }
    }

    fn client(
        &self,
        tenant: &TenantId,
        config: &UpstreamConfig,
        logs_in: bool,
    ) -> Result<mcp::Upstream> {
        let parts = (self.upstreams().parts)(tenant, &config.spec, logs_in);
        mcp::Upstream::new(config.spec.clone(), parts)
            .map_err(|error| Refused::new(Category::Validation, error.code(), error.to_string()))
    }

    /// Connects to a server before it is added, and keeps client and offer for when it is.
    async fn connect(&self, tenant: &TenantId, config: UpstreamConfig, plan: &Plan) -> Result<()> {
        let client = self.client(tenant, &config, true)?;
        let offer = match offer(&client).await {
            Ok(offer) => offer,
            // Nobody can log in to a server that is not there yet: the first contact comes then.
            Err(failure) if awaits_login(&config, &failure) => {
                client.close().await;
                return Ok(());
            }
            Err(failure) => {
                client.close().await;
                return Err(not_added(failure).into());
            }
        };
        let ready = Ready { settings: plan.settings.clone(), client, offer };
        let before =
            self.upstreams().ready.lock().insert((tenant.clone(), config.spec.name), ready);
        if let Some(Ready { client, .. }) = before {
            client.close().await;
        }
        Ok(())
    }

    async fn dry_run(&self, tenant: &TenantId, config: &UpstreamConfig) -> Result<Upstream> {
        // The login of a server of that name is not shown to what is only tried.
        let client = self.client(tenant, config, false)?;
        let offered = offer(&client).await;
        client.close().await;
        let offered = offered.map_err(not_added)?;
        let sorted = contact::sort(&config.spec.name, &offered, &BTreeSet::new());
        show::dry_run(config, &offered, &sorted)
    }

    fn shown(&self, caller: &Caller, name: &str) -> Result<Upstream> {
        self.upstreams().show(&caller.tenant, name, true)
    }

    fn list(&self, caller: &Caller, wire: &ListUpstreamsRequest) -> Result<ListUpstreamsResponse> {
        let names: Vec<String> = self.upstreams().with_fold(&caller.tenant, |fold| {
            let live = fold.upstreams.values().filter(|upstream| !upstream.removed);
            live.map(|upstream| upstream.name.clone()).collect()
        });
        let (names, next_page_token) =
            paging::by_name(names, wire.page_size, &wire.page_token, |name| name);
        let show = |name: &String| self.upstreams().show(&caller.tenant, name, false);
        let upstreams = names.iter().map(show).collect::<Result<_>>()?;
        Ok(ListUpstreamsResponse { upstreams, next_page_token })
    }

    async fn remove(&self, caller: &Caller, wire: &RemoveUpstreamRequest) -> Result<Upstream> {
        let name = &wire.name;
        // A repeat finds none of that name, and is answered all the same.
        if let Err(refused) = self.undeclared(&caller.tenant, name)
            && refused.0.category != Category::NotFound
        {
            return Err(refused);
        }
        let commands = vec![command(name, Input::Remove { by: Some(caller.id.clone()) })];
        let batch = Batch::new(caller.control_log(), commands);
        let made = self.0.mutate(caller, "upstream_remove", body(wire), name, batch).await?;
        if matches!(made, Mutated::Fresh(_)) {
            forget_login(&self.0, &caller.tenant, name, Some(&caller.id)).await?;
        }
        let mut gone = Upstream { name: name.clone(), ..Upstream::default() };
        gone.set_state(proto::upstreams::upstream::State::Removed);
        Ok(gone)
    }

    async fn refresh(&self, caller: &Caller, wire: &RefreshUpstreamRequest) -> Result<Upstream> {
        let registered = self.upstreams().get(&caller.tenant, &wire.name);
        let registered = registered.ok_or_else(|| Refused::not_found("MCP server"))?;
        registered.client.retry().await;
        contact(&self.0, &registered, true).await?;
        self.shown(caller, &wire.name)
    }

    /// Lets go of the connections where no call needs them.
    async fn disconnect(
        &self,
        caller: &Caller,
        wire: &DisconnectUpstreamRequest,
    ) -> Result<Upstream> {
        let registered = self.upstreams().get(&caller.tenant, &wire.name);
        let registered = registered.ok_or_else(|| Refused::not_found("MCP server"))?;
        {
            // Whoever asks what it offers has done so, or finds it disconnected.
            let _turn = registered.contact.lock().await;
            if registered.client.health().in_flight == 0 {
                registered.client.close().await;
            }
        }
        self.shown(caller, &wire.name)
    }

    async fn release(
        &self,
        caller: &Caller,
        wire: &ReleaseUpstreamToolRequest,
    ) -> Result<UpstreamTool> {
        let (tenant, server) = (&caller.tenant, &wire.name);
        let unknown = || Refused::not_found("tool of this server");
        let digest = Digest::parse(&wire.digest)
            .ok_or_else(|| Refused::invalid("digest: `sha256:` and 64 lower-case hex digits"))?;
        let id = ToolId::mcp(server, &wire.tool).map_err(|_| unknown())?;
        let known = self.upstreams().with_fold(tenant, |fold| {
            let live = fold.upstreams.get(server).is_some_and(|upstream| !upstream.removed);
            fold.tools.get(&id).filter(|_| live).cloned()
        });
        let known = known.ok_or_else(unknown)?;
        if known.status == Status::Quarantined && known.offered == Some(digest) {
            let definition = self.upstreams().definition(tenant, digest);
            let usable = definition.and_then(|definition| tool::check(&definition));
            usable.map_err(|why| {
                let message = "this definition can never be called: the server must change it";
                Refused::new(Category::Conflict, why.as_str(), message)
            })?;
        }
        let by = caller.id.clone();
        let input = upstream_tool::Input::Release { digest, by };
        let input = machine::Input::UpstreamTool(input);
        let commands = vec![Command::new(Kind::UpstreamTool, id.as_str(), input)];
        let batch = Batch::new(caller.control_log(), commands);
        self.0.mutate(caller, "upstream_release", body(wire), id.as_str(), batch).await?;
        self.upstreams().show_tool(tenant, server, &wire.tool)
    }
}

/// Whether a server only waits for a person to log in.
fn awaits_login(config: &UpstreamConfig, failure: &Failure) -> bool {
    matches!(config.spec.auth, AuthSpec::Oauth(_)) && failure.code == "authorization_required"
}

/// A server that cannot be understood is not added.
fn not_added(failure: Failure) -> Failure {
    let message = format!("the MCP server was not added: {}", failure.message);
    Failure { message, ..failure }
}

#[tonic::async_trait]
impl UpstreamsService for UpstreamsApi {
    async fn add_upstream(&self, request: Request<AddUpstreamRequest>) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.add(&caller, request.get_ref()).await?))
    }

    async fn list_upstreams(
        &self,
        request: Request<ListUpstreamsRequest>,
    ) -> Reply<ListUpstreamsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_upstream(&self, request: Request<GetUpstreamRequest>) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.shown(&caller, &request.get_ref().name)?))
    }

    async fn get_upstream_tool(
        &self,
        request: Request<GetUpstreamToolRequest>,
    ) -> Reply<UpstreamTool> {
        let caller = crate::caller(&request)?;
        let GetUpstreamToolRequest { name, tool } = request.get_ref();
        Ok(Response::new(self.upstreams().show_tool(&caller.tenant, name, tool)?))
    }

    async fn remove_upstream(&self, request: Request<RemoveUpstreamRequest>) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.remove(&caller, request.get_ref()).await?))
    }

    async fn refresh_upstream(&self, request: Request<RefreshUpstreamRequest>) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.refresh(&caller, request.get_ref()).await?))
    }

    async fn begin_upstream_login(
        &self,
        request: Request<BeginUpstreamLoginRequest>,
    ) -> Reply<BeginUpstreamLoginResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(login::begin(&self.0, &caller, request.get_ref()).await?))
    }

    async fn finish_upstream_login(
        &self,
        request: Request<FinishUpstreamLoginRequest>,
    ) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        login::finish(&self.0, &caller, request.get_ref()).await?;
        Ok(Response::new(self.shown(&caller, &request.get_ref().name)?))
    }

    async fn disconnect_upstream(
        &self,
        request: Request<DisconnectUpstreamRequest>,
    ) -> Reply<Upstream> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.disconnect(&caller, request.get_ref()).await?))
    }

    async fn release_upstream_tool(
        &self,
        request: Request<ReleaseUpstreamToolRequest>,
    ) -> Reply<UpstreamTool> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.release(&caller, request.get_ref()).await?))
    }
}
