//! Agents: principals of that kind, with what they have left, what they did, and whether they are
//! there. Who they are is the identity's to say; this only shows it.

use std::collections::HashMap;

use kernel::control::{Entity, Principal};
use kernel::ids::{PrincipalId, TenantId};
use kernel::machine::{Kind, State};
use kernel::principal::{PrincipalKind, Role, permitted};
use kernel::receipt::LogId;
use kernel::simulate::cents_down;
use kernel::values::{Digest, MicroUsd, Timestamp};
use ledger::Batch;
use ledger::store::Class;
use parking_lot::Mutex;
use prost::Message;
use proto::agents::agents_service_server::AgentsService;
use proto::agents::{
    Agent, CreateAgentRequest, DisableAgentRequest, GetAgentRequest, HeartbeatAgentRequest,
    HeartbeatAgentResponse, ListAgentsRequest, ListAgentsResponse, RegisterAgentRequest,
    UpdateAgentRequest,
};
use proto::identity::CreatePrincipalRequest;
use proto::identity::principal::Kind as WireKind;
use proto::wire::Timestamp as WireTime;
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::identity::Identity;
use crate::shared::{Caller, Shared};
use crate::{limits, paging};

/// The part of an agent's content that is its last heartbeat.
const PRESENCE: &str = "presence";
/// The permission to see agents.
const READ: &str = "agents:read";

/// Serves agents.
pub(crate) struct AgentsApi(pub(crate) Identity);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// When an agent was last heard of, and what it said of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Beat {
    at: Timestamp,
    build: String,
}

/// A heartbeat in memory.
struct Heard {
    beat: Beat,
    /// When it was last kept.
    kept: Timestamp,
}

/// Which agents are there. Each heartbeat is remembered, and one in a while is kept beside the
/// log: what is kept is at most that much older.
#[derive(Default)]
pub(crate) struct Presence(Mutex<HashMap<(TenantId, PrincipalId), Heard>>);

impl Presence {
    /// Remembers a heartbeat. What is to be kept of it now, if anything.
    fn beat(
        &self,
        caller: &Caller,
        known: Option<Beat>,
        build: Option<String>,
        at: Timestamp,
    ) -> Option<Beat> {
        let every = i64::try_from(limits::HEARTBEAT_KEEP_EVERY.as_micros()).unwrap_or(i64::MAX);
        let mut heard = self.0.lock();
        let key = (caller.tenant.clone(), caller.id.clone());
        let heard = heard.entry(key).or_insert_with(|| {
            let beat = known.unwrap_or_default();
            Heard { kept: beat.at, beat }
        });
        let new = build.filter(|build| *build != heard.beat.build);
        let due = new.is_some() || at.0.saturating_sub(heard.kept.0) >= every;
        heard.beat.at = heard.beat.at.max(at);
        if let Some(build) = new {
            heard.beat.build = build;
        }
        if due {
            heard.kept = at;
        }
        due.then(|| heard.beat.clone())
    }

    fn last(&self, tenant: &TenantId, agent: &PrincipalId) -> Option<Beat> {
        self.0.lock().get(&(tenant.clone(), agent.clone())).map(|heard| heard.beat.clone())
    }
}

fn body(wire: &impl Message) -> Digest {
    Digest::of(&wire.encode_to_vec())
}

/// How an agent is, by when it was last heard of.
fn status(disabled: bool, last: Option<Timestamp>, now: Timestamp) -> &'static str {
    let patience = limits::HEARTBEAT_EVERY_S * limits::HEARTBEATS_MISSED_MAX;
    let patience = i64::from(patience).saturating_mul(1_000_000);
    match last {
        _ if disabled => "disabled",
        None => "absent",
        Some(at) if now.0.saturating_sub(at.0) <= patience => "online",
        Some(_) => "stale",
    }
}

impl AgentsApi {
    fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// The agent of that id, where the caller may see it: an agent sees itself alone.
    fn find(&self, caller: &Caller, id: &str) -> Result<std::sync::Arc<Principal>> {
        let absent = || Refused::not_found("agent");
        let found = self.0.find_principal(caller, id).map_err(|_| absent())?;
        let seen = found.kind == PrincipalKind::Agent && sees(caller, &found.id);
        if seen { Ok(found) } else { Err(absent()) }
    }

    /// The last heartbeat: as it is remembered, else as it was kept.
    fn beat(&self, tenant: &TenantId, agent: &PrincipalId) -> Result<Option<Beat>> {
        if let Some(beat) = self.shared().presence.last(tenant, agent) {
            return Ok(Some(beat));
        }
        self.kept(tenant, agent)
    }

    fn kept(&self, tenant: &TenantId, agent: &PrincipalId) -> Result<Option<Beat>> {
        let bytes = self.shared().vault.open(tenant.as_str(), agent.as_str(), PRESENCE)?;
        bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(Refused::internal)).transpose()
    }

    fn wire(&self, caller: &Caller, agent: &Principal) -> Result<Agent> {
        let shared = self.shared();
        let principal = self.0.wire_principal(&caller.tenant, agent)?;
        let beat = self.beat(&caller.tenant, &agent.id)?;
        let last = beat.as_ref().map(|beat| beat.at);
        let left = match &agent.account {
            None => MicroUsd::ZERO,
            Some(id) => match shared.ledger.read(&caller.log(), Kind::Account, id.as_str())? {
                Some(State::Account(account)) if !account.frozen => account.available(),
                _ => MicroUsd::ZERO,
            },
        };
        let did = shared.experiences.read(&shared.ledger, &caller.log(), |experience| {
            experience.activity(&agent.id).copied().unwrap_or_default()
        })?;
        let cents = cents_down(left);
        let bound = if cents < 0 { i32::MIN } else { i32::MAX };
        Ok(Agent {
            agent_id: principal.principal_id,
            name: principal.name,
            roles: principal.roles,
            disabled: principal.disabled,
            created_at: principal.created_at,
            status: status(agent.disabled, last, shared.now()).to_owned(),
            last_seen_at: last.map(|at| WireTime::from_micros(at.0)),
            build: beat.map(|beat| beat.build).unwrap_or_default(),
            account_id: principal.account_id,
            remaining_budget_cents: i32::try_from(cents).unwrap_or(bound),
            remaining_budget_micro_usd: left.0,
            runs_count: did.actions,
            runs_executed: did.executed,
            runs_failed: did.failed,
        })
    }

    fn get(&self, caller: &Caller, id: &str) -> Result<Agent> {
        let agent = self.find(caller, id)?;
        self.wire(caller, &agent)
    }

    fn list(&self, caller: &Caller, wire: &ListAgentsRequest) -> Result<ListAgentsResponse> {
        let mut page = paging::page(wire.page_size, &wire.page_token, None);
        let size = usize::try_from(page.limit).unwrap_or(usize::MAX);
        page.limit = limits::PAGE_SIZE_MAX;
        let mut agents = Vec::new();
        loop {
            let found = self.0.page(caller, Kind::Principal, &page)?;
            let full = u32::try_from(found.len()).is_ok_and(|len| len >= page.limit);
            for entity in &found {
                let Entity::Principal(principal) = entity else { continue };
                if principal.kind == PrincipalKind::Agent && sees(caller, &principal.id) {
                    if agents.len() == size {
                        let next_page_token = page.before.unwrap_or_default();
                        return Ok(ListAgentsResponse { agents, next_page_token });
                    }
                    agents.push(self.wire(caller, principal)?);
                }
                page.before = Some(principal.id.to_string());
            }
            if !full {
                return Ok(ListAgentsResponse { agents, next_page_token: String::new() });
            }
        }
    }

    async fn create(&self, caller: &Caller, wire: CreateAgentRequest) -> Result<Agent> {
        let body = body(&wire);
        let CreateAgentRequest { name, mut roles, account_id } = wire;
        if roles.is_empty() {
            roles.push(crate::approvals::role_name(&Role::Agent));
        }
        let wanted =
            CreatePrincipalRequest { kind: WireKind::Agent.into(), name, roles, account_id };
        let principal = self.0.create_principal(caller, wanted, body).await?;
        self.get(caller, &principal.principal_id)
    }

    /// Sets the roles of an agent, or disables it.
    async fn change(
        &self,
        caller: &Caller,
        id: &str,
        roles: Option<&[String]>,
        body: Digest,
    ) -> Result<Agent> {
        self.find(caller, id)?;
        self.0.change_principal(caller, id, roles, body).await?;
        self.get(caller, id)
    }

    /// Hears that the caller is there.
    async fn heard(&self, caller: &Caller, build: Option<String>) -> Result<Timestamp> {
        if caller.kind != PrincipalKind::Agent {
            return Err(Refused::invalid("only an agent says that it is there"));
        }
        let shared = self.shared();
        let now = shared.now();
        let known = match shared.presence.last(&caller.tenant, &caller.id) {
            Some(_) => None,
            None => self.kept(&caller.tenant, &caller.id)?,
        };
        if let Some(beat) = shared.presence.beat(caller, known, build, now) {
            let bytes = serde_json::to_vec(&beat).map_err(Refused::internal)?;
            let (tenant, id) = (caller.tenant.as_str(), caller.id.as_str());
            let row = shared.vault.seal(tenant, id, PRESENCE, Class::Record, &bytes, now).await?;
            shared.ledger.commit(Batch::side(LogId::System, vec![row])).await?;
        }
        Ok(now)
    }

    async fn register(&self, caller: &Caller, build: String) -> Result<Agent> {
        if build.is_empty() || build.len() > limits::BUILD_BYTES_MAX {
            return Err(Refused::invalid("build: 1 to 128 characters"));
        }
        self.heard(caller, Some(build)).await?;
        self.get(caller, caller.id.as_str())
    }

    async fn heartbeat(&self, caller: &Caller, id: &str) -> Result<HeartbeatAgentResponse> {
        if id != caller.id.as_str() {
            return Err(Refused::not_found("agent"));
        }
        let at = self.heard(caller, None).await?;
        Ok(HeartbeatAgentResponse {
            status: status(false, Some(at), at).to_owned(),
            last_seen_at: Some(WireTime::from_micros(at.0)),
            next_in_s: limits::HEARTBEAT_EVERY_S,
        })
    }
}

/// Whether the caller may see an agent: itself, or all of them by a role that is not an agent's.
fn sees(caller: &Caller, agent: &PrincipalId) -> bool {
    let others = caller.roles.iter().filter(|role| **role != Role::Agent);
    caller.id == *agent || (permitted(others, READ) && caller.may(READ))
}

#[tonic::async_trait]
impl AgentsService for AgentsApi {
    async fn create_agent(&self, request: Request<CreateAgentRequest>) -> Reply<Agent> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }

    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Reply<ListAgentsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_agent(&self, request: Request<GetAgentRequest>) -> Reply<Agent> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.get(&caller, &request.get_ref().agent_id)?))
    }

    async fn update_agent(&self, request: Request<UpdateAgentRequest>) -> Reply<Agent> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let body = body(&wire);
        Ok(Response::new(self.change(&caller, &wire.agent_id, Some(&wire.roles), body).await?))
    }

    async fn disable_agent(&self, request: Request<DisableAgentRequest>) -> Reply<Agent> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let body = body(&wire);
        Ok(Response::new(self.change(&caller, &wire.agent_id, None, body).await?))
    }

    async fn register_agent(&self, request: Request<RegisterAgentRequest>) -> Reply<Agent> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.register(&caller, request.into_inner().build).await?))
    }

    async fn heartbeat_agent(
        &self,
        request: Request<HeartbeatAgentRequest>,
    ) -> Reply<HeartbeatAgentResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.heartbeat(&caller, &request.get_ref().agent_id).await?))
    }
}
