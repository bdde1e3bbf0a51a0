//! What an agent asks before it acts: what a plan would come to.

mod verdict;
mod wire;
mod yaml;

use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::json::{self, RawJson};
use kernel::simulate::{self, Calibration, Models, Simulation, Verdicts};
use kernel::values::{Digest, MicroUsd, Timestamp};
use kernel::workflow::Plan;
use kernel::workflow::skills::{SkillStep, compile};
use prost::Message as _;
use proto::runtime::runtime_service_server::RuntimeService;
use proto::runtime::{PlanStep, SimulateRequest, SimulateResponse};
use tonic::{Request, Response, Status};

use crate::actions::parse_json;
use crate::error::{Refused, Result};
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

impl RuntimeApi {
    fn simulate(&self, caller: &Caller, wire: SimulateRequest) -> Result<SimulateResponse> {
        let terms = self.terms(caller, &wire)?;
        let SimulateRequest { plan, workflow, .. } = wire;
        let (made, source) = match (plan.is_empty(), workflow.is_empty()) {
            (_, true) => listed(plan)?,
            (true, false) => (yaml::plan(&workflow), Digest::of(workflow.as_bytes())),
            (false, false) => return Err(Refused::invalid("send a plan or a workflow, not both")),
        };
        let (simulation, plan) = match made {
            Ok(plan) => (self.simulated(caller, &plan, &terms)?, Some(plan)),
            Err(refusal) => {
                let Terms { budget, seed, .. } = terms;
                let simulation = simulate::invalid(refusal, source, budget, seed);
                (simulation.map_err(Refused::internal)?, None)
            }
        };
        let digest = plan.map(|plan| plan.digest()).transpose().map_err(Refused::internal)?;
        Ok(wire::response(simulation, digest, terms.seed))
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

    fn simulated(&self, caller: &Caller, plan: &Plan, terms: &Terms) -> Result<Simulation> {
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
        // Nothing is concluded from earlier attempts yet, so nothing is claimed of them either.
        let history = Calibration::new();
        let Terms { budget, seed, .. } = *terms;
        let simulated = simulate::simulate(plan, &models, budget, &verdicts, &history, seed);
        simulated.map_err(Refused::internal)
    }
}

/// The plan of a list of skills, or why it is none; and the digest of the list.
fn listed(list: Vec<PlanStep>) -> Result<(std::result::Result<Plan, Failure>, Digest)> {
    let mut steps = Vec::with_capacity(list.len());
    for (index, PlanStep { skill, params, iterations }) in list.into_iter().enumerate() {
        let params = match params.filter(|params| !params.text.is_empty()) {
            Some(params) => parse_json(&format!("plan[{index}].params"), &params.text)?,
            None => RawJson::empty_object(),
        };
        steps.push(SkillStep { skill, params, iterations: iterations.unwrap_or(1) });
    }
    let source = json::canonical(&steps).map_err(Refused::internal)?;
    Ok((compile(&steps).map_err(Failure::from), Digest::of(&source)))
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
        Ok(Response::new(simulating.await.map_err(Refused::internal)??))
    }
}
