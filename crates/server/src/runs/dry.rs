//! What a run would come to if it were started now: nothing is done and nothing recorded.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::json::RawJson;
use kernel::values::MicroUsd;
use kernel::workflow::template::{self, Context};
use kernel::workflow::{Draft, Plan, Step};
use proto::runs::{Run as WireRun, RunStep};

use super::document::Document;
use super::start::Wanted;
use super::view::named;
use crate::actions::remaining;
use crate::error::{Refused, Result};
use crate::runtime::foreseen;
use crate::shared::{Caller, Shared};

/// The run that is not there, with its simulation.
pub(super) fn dry_run(shared: &Arc<Shared>, caller: &Caller, wanted: Wanted) -> Result<WireRun> {
    let Wanted { plan, input, account, budget, .. } = wanted;
    let known = rendered(&plan, &input)?;
    let caller = Caller { account, ..caller.clone() };
    let left = || caller.account.as_ref().and_then(|id| remaining(shared, &caller, id));
    // Whoever pays for nothing runs what costs nothing.
    let budget = budget.or_else(left).unwrap_or(MicroUsd::ZERO);
    let mut simulation = foreseen(shared, &caller, &known, budget)?;
    let document = Document::new(&caller, plan, input)?;
    let mut wire = WireRun { environment: document.environment.clone(), ..WireRun::default() };
    named(&mut wire, &document)?;
    simulation.plan_digest.clone_from(&wire.plan_digest);
    wire.steps = document.plan.steps.iter().zip(&known.steps).map(step).collect();
    wire.budget_micro_usd = Some(budget.0);
    wire.account_id = caller.account.as_ref().map(ToString::to_string).unwrap_or_default();
    wire.simulation = Some(simulation);
    Ok(wire)
}

/// The plan with the parameters that are known before anything has run.
fn rendered(plan: &Plan, input: &RawJson) -> Result<Plan> {
    let (input, outputs) = (input.to_value(), BTreeMap::new());
    let render = |(index, step): (usize, &Step)| {
        let context = Context { input: &input, outputs: &outputs, previous: plan.previous(index) };
        // What reads the output of another step is decided when there is one. What would read as a
        // template once it is put in stays one.
        let params = template::render(&step.params, &context).ok().filter(template::is_constant);
        Step { params: params.unwrap_or_else(|| step.params.clone()), ..step.clone() }
    };
    let steps = plan.steps.iter().enumerate().map(render).collect();
    let known = Plan::new(Draft { steps, ..Draft::from(plan.clone()) });
    known.map_err(|refused| Refused::invalid(refused.to_string()))
}

fn step((planned, known): (&Step, &Step)) -> RunStep {
    let constant = template::is_constant(&planned.params) || planned.params != known.params;
    let params = constant.then(|| proto::wire::Json { text: known.params.as_str().to_owned() });
    RunStep {
        step_id: planned.id.to_string(),
        tool: planned.tool.to_string(),
        state: kernel::run::StepStatus::Ready.as_str().to_owned(),
        group: planned.group.as_ref().map(ToString::to_string).unwrap_or_default(),
        params,
        ..RunStep::default()
    }
}
