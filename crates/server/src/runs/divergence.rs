//! How far a run was from what was estimated of its attempts.

use kernel::experience::Comparison;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::run::Run;
use kernel::simulate::divergence;
use proto::runs::{RunDivergence, StepDivergence};

use super::history::history;
use crate::error::Result;
use crate::runtime::attempt_divergence;
use crate::shared::Shared;

/// What is remembered of the attempts of `run`.
pub(super) fn report(shared: &Shared, log: &LogId, run: &Run) -> Result<RunDivergence> {
    let mut wire = RunDivergence { run_id: run.id.to_string(), ..RunDivergence::default() };
    let (mut estimated_cost, mut cost) = (0_i64, 0_i64);
    for ((spec, _), actions) in run.each().zip(history(shared, log, run)?) {
        let mut step = StepDivergence { step_id: spec.id.to_string(), ..Default::default() };
        for (_, id) in actions {
            let state = shared.ledger.read(log, Kind::Action, id.as_str())?;
            let Some(State::Action(action)) = state else { continue };
            let compared =
                shared.experiences.read(&shared.ledger, log, |all| all.compare(&action))?;
            step.tool = action.request.tool.to_string();
            wire.forgotten += u32::from(compared.is_empty() && action.attempts > 0);
            for one in compared {
                let Comparison { attempt, .. } = one;
                estimated_cost = estimated_cost.saturating_add(attempt.estimated_cost.0);
                cost = cost.saturating_add(attempt.cost.0);
                let ms = (attempt.estimated_ms.into(), attempt.took_ms.into());
                wire.estimated_latency_ms = wire.estimated_latency_ms.saturating_add(ms.0);
                wire.latency_ms = wire.latency_ms.saturating_add(ms.1);
                step.attempts.push(attempt_divergence(one, |at| log.receipt_id(at)));
            }
        }
        if !step.tool.is_empty() {
            wire.steps.push(step);
        }
    }
    if wire.steps.iter().any(|step| !step.attempts.is_empty()) {
        let verdict = |estimate, actual| divergence(estimate, actual).as_str().to_owned();
        let money = |amount: i64| amount.max(0).unsigned_abs();
        wire.cost_verdict = verdict(money(estimated_cost), money(cost));
        wire.latency_verdict = verdict(wire.estimated_latency_ms, wire.latency_ms);
    }
    (wire.estimated_cost_micro_usd, wire.cost_micro_usd) = (estimated_cost, cost);
    Ok(wire)
}
