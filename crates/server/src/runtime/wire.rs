//! The answer as the wire has it.

use kernel::simulate::{Alternative, Answer, Outlook, Simulation, StepEstimate};
use kernel::values::Digest;
use kernel::workflow::skills::skill_of;
use proto::runtime::{
    Alternative as WireAlternative, PermissionGap, SimulateResponse, StepEstimate as WireEstimate,
    StepOutlook, StepRisk, Warning,
};

use super::Simulated;
use crate::actions;

/// Parts in a whole.
const MILLION: f64 = 1_000_000.0;

/// The answer. What is beyond an integer of the wire is its greatest.
pub(super) fn response(simulated: Simulated, plan: Option<Digest>, seed: u32) -> SimulateResponse {
    let Simulated { simulation, calibrated_to } = simulated;
    let Simulation { answer, root_hash, calibration } = simulation;
    let steps = answer.outlooks.iter().map(|outlook| step(outlook, &answer)).collect();
    SimulateResponse {
        feasible: answer.feasible,
        estimated_cost_cents: signed(answer.estimated_cost_cents),
        estimated_duration_ms: unsigned(answer.estimated_duration_ms),
        step_estimates: answer.step_estimates.iter().map(estimate).collect(),
        budget_remaining_cents: signed(answer.budget_remaining_cents),
        budget_sufficient: answer.budget_sufficient,
        risks: risks(&answer),
        status: answer.status.as_str().to_owned(),
        refusal: answer.refusal.map(crate::error::wire),
        permitted: answer.permitted,
        steps,
        permission_gaps: answer
            .permission_gaps
            .into_iter()
            .map(|gap| PermissionGap {
                step_id: gap.step_id.to_string(),
                skill_id: gap.skill_id,
                available: gap.available,
                code: gap.code.to_owned(),
                message: gap.message,
            })
            .collect(),
        alternatives: answer.alternatives.into_iter().map(alternative).collect(),
        warnings: answer
            .warnings
            .into_iter()
            .map(|warning| Warning {
                step_id: warning.step_id.to_string(),
                code: warning.code,
                message: warning.message,
            })
            .collect(),
        confidence: answer.confidence.as_str().to_owned(),
        plan_digest: plan.map_or_else(String::new, |digest| digest.to_string()),
        root_hash: root_hash.to_string(),
        seed,
        calibrated_to,
        calibration_digest: calibration.map_or_else(String::new, |digest| digest.to_string()),
    }
}

fn estimate(estimate: &StepEstimate) -> WireEstimate {
    WireEstimate {
        skill_id: estimate.skill_id.clone(),
        estimated_cost_cents: signed(estimate.estimated_cost_cents),
        estimated_latency_ms: unsigned(estimate.estimated_latency_ms),
    }
}

fn risks(answer: &Answer) -> Vec<StepRisk> {
    let risks = answer.risks.iter().map(|risk| StepRisk {
        step_id: risk.step_id.to_string(),
        skill_id: risk.skill_id.clone(),
        probability: f64::from(unsigned(risk.probability_ppm)) / MILLION,
        attempts: unsigned(risk.attempts),
        failures: unsigned(risk.failures),
    });
    risks.collect()
}

fn step(outlook: &Outlook, answer: &Answer) -> StepOutlook {
    let verdict = &outlook.verdict;
    let estimate = answer.step_estimates.iter().find(|one| one.step_id == outlook.step_id);
    StepOutlook {
        step_id: outlook.step_id.to_string(),
        skill_id: skill_of(&outlook.tool).to_owned(),
        tool_id: outlook.tool.to_string(),
        available: verdict.available,
        effect: verdict.effect.map(|effect| actions::effect(effect).into()),
        rules: verdict.rules.clone(),
        reasons: verdict.reasons.clone(),
        exact: verdict.exact,
        estimated_cost_micro_usd: estimate.map(|one| one.estimated_cost_micro_usd.0),
        p90_latency_ms: estimate.and_then(|one| one.p90_latency_ms).map(unsigned),
        confidence: estimate.map_or("low", |one| one.confidence.as_str()).to_owned(),
        p90_cost_micro_usd: estimate.and_then(|one| one.p90_cost_micro_usd).map(|cost| cost.0),
    }
}

fn alternative(alternative: Alternative) -> WireAlternative {
    match alternative {
        Alternative::UseSkill { step_id, skill_id } => WireAlternative {
            kind: "use_skill".to_owned(),
            step_id: step_id.to_string(),
            skill_id,
            budget_cents: None,
        },
        Alternative::RaiseBudget { budget_cents } => WireAlternative {
            kind: "raise_budget".to_owned(),
            budget_cents: Some(signed(budget_cents)),
            ..WireAlternative::default()
        },
    }
}

pub(super) fn signed(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

pub(super) fn unsigned(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}
