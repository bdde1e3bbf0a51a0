//! What an agent asks before it acts: what a plan would come to, what it has left and what it did.

mod capabilities;
mod divergence;
mod query;
mod skills;
mod verdict;
mod wire;
pub(crate) mod yaml;

pub(crate) use divergence::attempt as attempt_divergence;

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::json::{self, RawJson};
use kernel::simulate::{self, Calibration, Models, Simulation, Verdicts};
use kernel::values::{Digest, MicroUsd, Timestamp};
use kernel::workflow::Plan;
use kernel::workflow::skills::{SkillStep, compile};
use prost::Message as _;
use proto::runtime::runtime_service_server::RuntimeService;
use proto::runtime::{
    GetCapabilitiesRequest, GetCapabilitiesResponse, GetDivergenceRequest, GetDivergenceResponse,
    GetResourceContractRequest, GetSkillRequest, ListSkillsRequest, ListSkillsResponse, PlanStep,
    QueryRequest, QueryResponse, ResourceContract, SimulateRequest, SimulateResponse, Skill,
};
use tonic::{Request, Response, Status};

use crate::actions::parse_json;
use crate::error::{Refused, Result};
use crate::rate::Allowance;
use crate::shared::{Caller, Shared};
use crate::toolbox;

/// The budget where the request does not say, in cents.
const BUDGET_CENTS_DEFAULT: i32 = 1_000;
/// The seed where the request does not say.
const SEED_DEFAULT: u32 = 42;
/// Micro-USD in a cent.
const CENT: i64 = 10_000;

/// Steps and bytes of a request that is answered on the thread that it came in on, as an action
/// is decided there. A larger one would keep others waiting.
const SMALL: (usize, usize) = (8, 64 << 10);

/// Serves what is asked before acting.
#[derive(Clone)]
pub(crate) struct RuntimeApi(pub(crate) Arc<Shared>);

/// What of a request is not the plan.
struct Terms {
    budget: MicroUsd,
    seed: u32,
    now: Timestamp,
}

/// A simulation with what is known of its history.
struct Simulated {
    simulation: Simulation,
    calibrated_to: u64,
}

impl RuntimeApi {
    fn simulate(&self, caller: &Caller, wire: SimulateRequest) -> Result<SimulateResponse> {
        let terms = self.terms(caller, &wire)?;
        let SimulateRequest { plan, workflow, .. } = wire;
        let sent = match (plan.is_empty(), workflow.is_empty()) {
            (_, true) => Sent::List(listed(plan)?),
            (true, false) => Sent::Workflow(workflow),
            (false, false) => return Err(Refused::invalid("send a plan or a workflow, not both")),
        };
        let (simulation, plan) = match sent.plan() {
            Ok(plan) => (self.simulated(caller, &plan, &terms)?, Some(plan.digest())),
            Err(refusal) => {
                let Terms { budget, seed, .. } = terms;
                let simulation = simulate::invalid(refusal, sent.digest()?, budget, seed);
                let simulation = simulation.map_err(Refused::internal)?;
                (Simulated { simulation, calibrated_to: 0 }, None)
            }
        };
        Ok(wire::response(simulation, plan, terms.seed))
    }

    /// Checks what the request says of the caller, and reads its terms.
    fn terms(&self, caller: &Caller, wire: &SimulateRequest) -> Result<Terms> {
        let other = |field: &str| {
            let message = format!("`{field}` is not the credential's own: leave it out");
            Err(Refused::new(Category::Permission, "credential_binding", message))
        };
        if !wire.tenant_id.is_empty() && wire.tenant_id != caller.tenant.as_str() {
            return other("tenant_id");
        }
        let actors = caller.actors();
        let known = |id: &str| actors.actors().iter().any(|actor| actor.id.as_str() == id);
        if !wire.agent_id.is_empty() && !known(&wire.agent_id) {
            return other("agent_id");
        }
        if wire.save_trace {
            let message = "save_trace: traces are not kept; leave it out";
            return Err(Refused::new(Category::Validation, "not_supported", message));
        }
        let cents = wire.budget_cents.unwrap_or(BUDGET_CENTS_DEFAULT);
        if cents < 0 {
            return Err(Refused::invalid("budget_cents: 0 or more"));
        }
        Ok(Terms {
            budget: MicroUsd(i64::from(cents).saturating_mul(CENT)),
            seed: wire.seed.unwrap_or(SEED_DEFAULT),
            now: wire.timestamp.map_or_else(|| self.0.now(), |at| Timestamp(at.micros())),
        })
    }

    fn simulated(&self, caller: &Caller, plan: &Plan, terms: &Terms) -> Result<Simulated> {
        let mut models = Models::priors();
        let mut verdicts = Verdicts::new();
        for step in &plan.steps {
            let found = toolbox::find(&self.0, &caller.tenant, &step.tool);
            let found = found.filter(|tool| tool.may_run(caller));
            let verdict = match &found {
                Some(tool) => {
                    models.learn(tool.manifest());
                    verdict::of(&self.0, caller, tool, step, terms.now)?
                }
                None => simulate::Verdict::default(),
            };
            verdicts.insert(step.id.clone(), verdict);
        }
        let Terms { budget, seed, now } = *terms;
        let (history, calibrated_to) = self.calibration(caller, plan, now)?;
        let simulation = simulate::simulate(plan, &models, budget, &verdicts, &history, seed);
        Ok(Simulated { simulation: simulation.map_err(Refused::internal)?, calibrated_to })
    }

    /// What earlier attempts of the plan's tools came to in the caller's environment, and how many
    /// receipts that follows from.
    fn calibration(
        &self,
        caller: &Caller,
        plan: &Plan,
        now: Timestamp,
    ) -> Result<(Calibration, u64)> {
        let tools: BTreeSet<&ToolId> = plan.steps.iter().map(|step| &step.tool).collect();
        self.0.experiences.read(&self.0.ledger, &caller.log(), |experience| {
            let known = tools.into_iter().filter_map(|tool| {
                let history = experience.history(&caller.environment, tool, now)?;
                Some((tool.clone(), history))
            });
            (known.collect(), experience.next)
        })
    }
}

/// What `plan` would come to if it were run now by `caller` with `budget` to spend.
pub(crate) fn foreseen(
    shared: &Arc<Shared>,
    caller: &Caller,
    plan: &Plan,
    budget: MicroUsd,
) -> Result<SimulateResponse> {
    let terms = Terms { budget, seed: SEED_DEFAULT, now: shared.now() };
    let simulated = RuntimeApi(shared.clone()).simulated(caller, plan, &terms)?;
    Ok(wire::response(simulated, None, terms.seed))
}

/// What a plan is to be made of.
enum Sent {
    List(Vec<SkillStep>),
    Workflow(String),
}

impl Sent {
    /// The plan, or why it is none.
    fn plan(&self) -> std::result::Result<Plan, Failure> {
        match self {
            Self::List(steps) => compile(steps).map_err(Failure::from),
            Self::Workflow(text) => yaml::plan(text),
        }
    }

    fn digest(&self) -> Result<Digest> {
        match self {
            Self::List(steps) => {
                json::canonical(steps).map(|form| Digest::of(&form)).map_err(Refused::internal)
            }
            Self::Workflow(text) => Ok(Digest::of(text.as_bytes())),
        }
    }
}

/// A list of skills with their parameters read.
pub(crate) fn listed(list: Vec<PlanStep>) -> Result<Vec<SkillStep>> {
    let mut steps = Vec::with_capacity(list.len());
    for (index, PlanStep { skill, params, iterations }) in list.into_iter().enumerate() {
        let params = match params.filter(|params| !params.text.is_empty()) {
            Some(params) => parse_json(&format!("plan[{index}].params"), &params.text)?,
            None => RawJson::empty_object(),
        };
        steps.push(SkillStep { skill, params, iterations: iterations.unwrap_or(1) });
    }
    Ok(steps)
}

#[tonic::async_trait]
impl RuntimeService for RuntimeApi {
    async fn simulate(
        &self,
        request: Request<SimulateRequest>,
    ) -> std::result::Result<Response<SimulateResponse>, Status> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        let (steps, bytes) = SMALL;
        if wire.workflow.is_empty() && wire.plan.len() <= steps && wire.encoded_len() <= bytes {
            return Ok(Response::new(self.simulate(&caller, wire)?));
        }
        let own = self.clone();
        let simulating = tokio::task::spawn_blocking(move || own.simulate(&caller, wire));
        Ok(Response::new(simulating.await.map_err(Refused::not_ended)??))
    }

    async fn list_skills(&self, request: Request<ListSkillsRequest>) -> Reply<ListSkillsResponse> {
        let caller = crate::caller(&request)?;
        let own = self.0.clone();
        apart(move || skills::list(&own, &caller)).await
    }

    async fn get_skill(&self, request: Request<GetSkillRequest>) -> Reply<Skill> {
        let (caller, own) = (crate::caller(&request)?, self.0.clone());
        let skill = request.into_inner().skill_id;
        apart(move || skills::describe(&own, &caller, &skill)).await
    }

    async fn get_capabilities(
        &self,
        request: Request<GetCapabilitiesRequest>,
    ) -> Reply<GetCapabilitiesResponse> {
        let (caller, allowance) = (crate::caller(&request)?, allowance(&request)?);
        let (own, wire) = (self.0.clone(), request.into_inner());
        apart(move || capabilities::get(&own, &caller, allowance, &wire)).await
    }

    async fn get_resource_contract(
        &self,
        request: Request<GetResourceContractRequest>,
    ) -> Reply<ResourceContract> {
        let (caller, allowance) = (crate::caller(&request)?, allowance(&request)?);
        let (own, id) = (self.0.clone(), request.into_inner().resource_id);
        apart(move || capabilities::contract(&own, &caller, allowance, &id)).await
    }

    async fn query(&self, request: Request<QueryRequest>) -> Reply<QueryResponse> {
        let (caller, own) = (crate::caller(&request)?, self.0.clone());
        let wire = request.into_inner();
        apart(move || query::answer(&own, &caller, wire)).await
    }

    async fn get_divergence(
        &self,
        request: Request<GetDivergenceRequest>,
    ) -> Reply<GetDivergenceResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(divergence::report(&self.0, &caller, request.get_ref())?))
    }
}

type Reply<T> = std::result::Result<Response<T>, Status>;

/// Asks policy of each tool, and reads the log, where that keeps nobody waiting.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Reply<T> {
    let worked = tokio::task::spawn_blocking(work).await.map_err(Refused::not_ended)?;
    Ok(Response::new(worked?))
}

/// What is left of the requests of the credential: the middleware has put it there.
fn allowance<T>(request: &Request<T>) -> Result<Allowance> {
    let allowance = request.extensions().get::<Allowance>().copied();
    allowance.ok_or_else(|| Refused::internal("a route without an allowance"))
}
