//! What a plan would cost and take, and whether it may run, before anything does: the same
//! question has the same answer.
//!
//! Prices and times come from cost models, corrected by what earlier attempts took. Failures are
//! predicted from earlier attempts alone: without a history there is no risk to tell of, only an
//! estimate to trust less.

mod divergence;
mod model;
mod names;
mod result;

use std::collections::BTreeMap;

use serde::Serialize;

use crate::decision::Effect;
use crate::failure::{Category, Failure};
use crate::ids::{StepId, ToolId};
use crate::json;
use crate::limits;
use crate::values::{Digest, MicroUsd};
use crate::workflow::skills::skill_of;
use crate::workflow::{Plan, Step};

pub use divergence::{Divergence, divergence};
pub use model::{Calibration, History, Model, Models, Spread, TextPrice, prior_latency_ms};
pub use result::{
    Alternative, Answer, Confidence, Gap, Outlook, Simulation, Status, StepEstimate, StepRisk,
    Warning, cents, cents_down,
};

/// Millionths in one.
const MILLION: u64 = 1_000_000;

/// What is known of a step beyond its price: whether it can be called, and what policy says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether the tool is there to be called by the caller.
    pub available: bool,
    /// What policy says; none where it cannot be asked.
    pub effect: Option<Effect>,
    /// The rules that matched.
    pub rules: Vec<String>,
    /// Why, as codes.
    pub reasons: Vec<String>,
    /// Whether policy was asked about these very parameters, rather than the tool in general.
    pub exact: bool,
    /// What is wrong with the parameters.
    pub problem: Option<Failure>,
    /// What a call costs at most, where that follows from its parameters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<MicroUsd>,
}

/// What policy and the tools say of each step. A step that is not in it counts as not available.
pub type Verdicts = BTreeMap<StepId, Verdict>;

/// Simulates `plan`: with prices and times of `models`, `budget` to spend, what policy says of
/// each step in `verdicts`, and earlier attempts in `calibration`. Every step counts as if it ran,
/// as often as it may, at the first attempt; steps of one group take as long as the slowest.
pub fn simulate(
    plan: &Plan,
    models: &Models,
    budget: MicroUsd,
    verdicts: &Verdicts,
    calibration: &Calibration,
    seed: u32,
) -> Result<Simulation, json::Error> {
    let tools = || plan.steps.iter().map(|step| &step.tool);
    let used = tools().filter_map(|tool| Some((tool, models.get(tool)?))).collect();
    let known: BTreeMap<_, _> =
        tools().filter_map(|tool| Some((tool, calibration.get(tool)?))).collect();
    let known = match known.is_empty() {
        true => None,
        false => Some(Digest::of(&json::canonical(&known)?)),
    };
    let question = Question { plan: plan.digest(), models: used, budget, calibration: known, seed };
    let answer = Simulator { plan, models, budget, verdicts, calibration }.answer();
    Simulation::new(&question, answer, known)
}

/// The answer where there is no plan, and why. `source` is the digest of what was sent.
pub fn invalid(
    refusal: Failure,
    source: Digest,
    budget: MicroUsd,
    seed: u32,
) -> Result<Simulation, json::Error> {
    #[derive(Serialize)]
    struct NoPlan {
        source: Digest,
        budget: MicroUsd,
        seed: u32,
    }
    let answer = Answer {
        status: Status::InvalidPlan,
        refusal: Some(refusal),
        confidence: Confidence::Low,
        permitted: false,
        ..Answer::empty(budget)
    };
    Simulation::new(&NoPlan { source, budget, seed }, answer, None)
}

/// All that an answer follows from, but for what policy says: that is in the answer itself.
#[derive(Serialize)]
struct Question<'a> {
    plan: Digest,
    models: BTreeMap<&'a ToolId, &'a Model>,
    budget: MicroUsd,
    calibration: Option<Digest>,
    seed: u32,
}

struct Simulator<'a> {
    plan: &'a Plan,
    models: &'a Models,
    budget: MicroUsd,
    verdicts: &'a Verdicts,
    calibration: &'a Calibration,
}

/// A step whose tool has a model, in micro-USD.
struct Priced<'a> {
    step: &'a Step,
    model: &'a Model,
    /// What one call costs at most.
    worst: i64,
    /// What one call usually costs.
    one: i64,
}

impl Priced<'_> {
    /// What all iterations together cost.
    fn all(&self) -> i64 {
        self.one.saturating_mul(self.step.iterations.into())
    }
}

impl Simulator<'_> {
    fn answer(&self) -> Answer {
        let mut answer = Answer::empty(self.budget);
        let (mut known, mut cost) = (true, 0_i64);
        let mut survives = MILLION * MILLION;
        let priced: Vec<_> = self.plan.steps.iter().map(|step| self.price(step)).collect();
        for (step, priced) in self.plan.steps.iter().zip(&priced) {
            match priced {
                Some(priced) => {
                    self.estimate(priced, &mut answer);
                    cost = cost.saturating_add(priced.all());
                    survives = self.risk(step, survives, &mut answer);
                }
                None => {
                    known = false;
                    answer.confidence = Confidence::Low;
                    self.propose(step, &mut answer);
                }
            }
            self.judge(step, &mut answer);
        }
        answer.estimated_duration_ms = self.duration();
        answer.spend(self.budget, MicroUsd(cost));
        if answer.budget_sufficient {
            self.warn_of_holds(&priced, &mut answer);
        }
        answer.feasible = known && answer.budget_sufficient;
        let risk_ppm = MILLION.saturating_sub(survives / MILLION);
        self.conclude(known, risk_ppm, &mut answer);
        answer
    }

    /// Adds what a step costs and takes.
    fn estimate(&self, priced: &Priced<'_>, answer: &mut Answer) {
        let Priced { step, model, .. } = priced;
        let history = self.history(step);
        let times = u64::from(step.iterations);
        let micro = priced.all();
        let p90_cost = self.usual_cost(step, model).map(|cost| {
            let one = i64::try_from(cost.p90).unwrap_or(i64::MAX);
            MicroUsd(one.saturating_mul(step.iterations.into()))
        });
        let latency = history.and_then(History::latency);
        let believed = history.is_some_and(|history| {
            history.latency().is_some() && history.cost_disabled_until.is_none()
        });
        let confidence = match history {
            Some(history) if believed && history.attempts >= limits::HISTORY_LONG => {
                Confidence::High
            }
            Some(_) if believed => Confidence::Medium,
            _ => Confidence::Low,
        };
        answer.confidence = answer.confidence.min(confidence);
        answer.step_estimates.push(StepEstimate {
            step_id: step.id.clone(),
            skill_id: skill_of(&step.tool).to_owned(),
            estimated_cost_cents: cents(MicroUsd(micro)),
            estimated_cost_micro_usd: MicroUsd(micro),
            estimated_latency_ms: self.latency_ms(step, model),
            p90_latency_ms: latency.map(|l| l.p90.max(l.p50).saturating_mul(times)),
            p90_cost_micro_usd: p90_cost,
            confidence,
        });
        self.doubt(step, answer);
    }

    /// What is held for a step is the worst case: says from which step on the budget may not do.
    fn warn_of_holds(&self, priced: &[Option<Priced<'_>>], answer: &mut Answer) {
        let mut spent = 0_i64;
        for priced in priced.iter().flatten() {
            let before = priced.all().saturating_sub(priced.one);
            if spent.saturating_add(before).saturating_add(priced.worst) > self.budget.0 {
                let message = "what is usual fits the budget, but what is held for this step may \
                               not: its worst case is more"
                    .to_owned();
                let (step_id, code) = (priced.step.id.clone(), TIGHT.to_owned());
                answer.warnings.push(Warning { step_id, code, message });
                return;
            }
            spent = spent.saturating_add(priced.all());
        }
    }

    /// Says where an estimate is not what earlier attempts came to, since these drifted.
    fn doubt(&self, step: &Step, answer: &mut Answer) {
        let Some(history) = self.history(step) else { return };
        let disabled =
            [("latency", history.latency_disabled_until), ("cost", history.cost_disabled_until)];
        for (what, until) in disabled {
            if until.is_none() {
                continue;
            }
            let skill = skill_of(&step.tool);
            let message = format!("the {what} of `{skill}` drifted: for a day it is assumed");
            let (step_id, code) = (step.id.clone(), DISABLED.to_owned());
            answer.warnings.push(Warning { step_id, code, message });
        }
    }

    /// What happened before, where it is enough to conclude from.
    fn history(&self, step: &Step) -> Option<&History> {
        self.calibration.get(&step.tool).filter(|h| h.attempts >= limits::HISTORY_MIN)
    }

    /// What a call usually costs, where its price does not follow from what is sent.
    fn usual_cost(&self, step: &Step, model: &Model) -> Option<Spread> {
        let priced = model.text.is_none() || self.told(step).is_some();
        self.history(step).filter(|_| priced)?.cost()
    }

    /// What the tool says of a call's worst case.
    fn told(&self, step: &Step) -> Option<MicroUsd> {
        self.verdicts.get(&step.id)?.worst
    }

    /// What a step costs; none where nothing is known of its tool.
    fn price<'a>(&'a self, step: &'a Step) -> Option<Priced<'a>> {
        let model = self.models.get(&step.tool)?;
        let worst = self.told(step).unwrap_or_else(|| model.price(&step.params)).0;
        let usual = self.usual_cost(step, model);
        let usual = usual.map(|cost| i64::try_from(cost.p50).unwrap_or(i64::MAX));
        Some(Priced { step, model, worst, one: usual.unwrap_or(worst) })
    }

    fn latency_ms(&self, step: &Step, model: &Model) -> u64 {
        let known = self.history(step).and_then(History::latency);
        let one = known.map_or(model.latency_ms, |latency| latency.p50);
        one.saturating_mul(step.iterations.into())
    }

    /// How long the plan takes: one step after the other, a group as long as its slowest.
    fn duration(&self) -> u64 {
        let groups = self.plan.steps.chunk_by(|a, b| a.group.is_some() && a.group == b.group);
        let slowest = |steps: &[Step]| {
            let known =
                steps.iter().filter_map(|s| Some(self.latency_ms(s, self.models.get(&s.tool)?)));
            known.max().unwrap_or(0)
        };
        groups.map(slowest).fold(0, u64::saturating_add)
    }

    /// Tells of a step that failed before; gives the chance that nothing has failed by its end.
    fn risk(&self, step: &Step, mut survives: u64, answer: &mut Answer) -> u64 {
        let Some(history) = self.history(step) else { return survives };
        let one = history.failure_ppm();
        for _ in 0..step.iterations {
            survives = survives * MILLION.saturating_sub(one) / MILLION;
        }
        if one > limits::RISK_PPM_MIN {
            answer.risks.push(StepRisk {
                step_id: step.id.clone(),
                skill_id: skill_of(&step.tool).to_owned(),
                probability_ppm: one,
                attempts: history.attempts,
                failures: history.failures,
            });
        }
        survives
    }

    /// Proposes names in place of one that is not known.
    fn propose(&self, step: &Step, answer: &mut Answer) {
        let unknown = skill_of(&step.tool);
        let known = self.models.tools().map(skill_of);
        for skill_id in names::nearest(unknown, known) {
            let step_id = step.id.clone();
            answer.alternatives.push(Alternative::UseSkill { step_id, skill_id });
        }
    }

    /// What policy and the tools say of a step.
    fn judge(&self, step: &Step, answer: &mut Answer) {
        let absent = Verdict::default();
        let verdict = self.verdicts.get(&step.id).unwrap_or(&absent);
        let skill_id = skill_of(&step.tool).to_owned();
        if let Some(gap) = gap(verdict, &skill_id) {
            answer.permitted = false;
            let (code, message) = gap;
            let (step_id, available) = (step.id.clone(), verdict.available);
            answer.permission_gaps.push(Gap { step_id, skill_id, available, code, message });
        }
        if let Some(problem) = &verdict.problem {
            answer.warnings.push(Warning {
                step_id: step.id.clone(),
                code: problem.code.clone(),
                message: problem.message.clone(),
            });
        }
        answer.outlooks.push(Outlook {
            step_id: step.id.clone(),
            tool: step.tool.clone(),
            verdict: verdict.clone(),
        });
    }

    /// The status, with why it is not `feasible`: what cannot be comes before what may not be.
    fn conclude(&self, known: bool, risk_ppm: u64, answer: &mut Answer) {
        let denied = answer.permission_gaps.iter().find(|gap| gap.code != UNAVAILABLE);
        let (status, category, message) = if !known {
            let tool = self.plan.steps.iter().find(|step| self.models.get(&step.tool).is_none());
            let name = tool.map_or_else(String::new, |step| skill_of(&step.tool).to_owned());
            let message = format!("there is no skill `{name}`");
            (Status::SkillUnavailable, Category::NotFound, message)
        } else if !answer.budget_sufficient {
            let (cost, budget) = (answer.estimated_cost_cents, self.budget.0 / result::CENT);
            let message = format!("the plan costs {cost} cents, and the budget has {budget}");
            answer.alternatives.push(Alternative::RaiseBudget { budget_cents: cost });
            (Status::BudgetInsufficient, Category::Budget, message)
        } else if let Some(gap) = denied {
            (Status::PermissionDenied, Category::PolicyDenied, gap.message.clone())
        } else if risk_ppm > limits::PLAN_RISK_PPM_MAX {
            let percent = risk_ppm / 10_000;
            let message = format!("by what happened before, {percent} % of such plans fail");
            (Status::RiskTooHigh, Category::Permanent, message)
        } else {
            answer.status = Status::Feasible;
            return;
        };
        answer.status = status;
        answer.refusal = Some(Failure::new(category, status.as_str(), message));
    }
}

/// The code of the warning where an estimator is disabled.
const DISABLED: &str = "estimator_disabled";
/// The code of the warning where the budget covers what is usual, but not what is held.
const TIGHT: &str = "budget_below_worst_case";

/// The code of the gap where a tool is not there.
const UNAVAILABLE: &str = "tool_unavailable";

/// Why a step may not run.
fn gap(verdict: &Verdict, skill: &str) -> Option<(&'static str, String)> {
    let reasons = || verdict.reasons.join(", ");
    match verdict.effect {
        _ if !verdict.available => {
            Some((UNAVAILABLE, format!("no tool that you may call stands behind `{skill}` here")))
        }
        None => Some(("policy_unknown", format!("policy was not asked about `{skill}`"))),
        Some(Effect::Deny) => {
            Some(("policy_denied", format!("policy denies `{skill}`: {}", reasons())))
        }
        Some(Effect::Quarantine) => {
            Some(("policy_quarantine", format!("policy holds `{skill}` back: {}", reasons())))
        }
        Some(_) => None,
    }
}
