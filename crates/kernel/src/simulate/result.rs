//! The form of the answer.

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::failure::Failure;
use crate::ids::{StepId, ToolId};
use crate::json;
use crate::values::{Digest, MicroUsd};

/// Micro-USD in a cent.
pub(super) const CENT: i64 = 10_000;

/// An amount in cents, rounded up.
pub fn cents(amount: MicroUsd) -> i64 {
    let begun = i64::from(amount.0.rem_euclid(CENT) > 0);
    amount.0.div_euclid(CENT).saturating_add(begun)
}

/// An amount in whole cents: what is left of it counts as nothing.
pub fn cents_down(amount: MicroUsd) -> i64 {
    amount.0.div_euclid(CENT)
}

/// What a plan comes to, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It can run.
    Feasible,
    /// The budget does not cover it.
    BudgetInsufficient,
    /// Policy denies a step or holds it back.
    PermissionDenied,
    /// A skill is not known.
    SkillUnavailable,
    /// By what happened before, it fails more often than not.
    RiskTooHigh,
    /// It is no plan.
    InvalidPlan,
}

impl Status {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Feasible => "feasible",
            Self::BudgetInsufficient => "budget_insufficient",
            Self::PermissionDenied => "permission_denied",
            Self::SkillUnavailable => "skill_unavailable",
            Self::RiskTooHigh => "risk_too_high",
            Self::InvalidPlan => "invalid_plan",
        }
    }
}

/// How far an estimate is to be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// It is assumed.
    Low,
    /// It follows from some attempts.
    Medium,
    /// It follows from many.
    High,
}

impl Confidence {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// What one step costs and takes, all its iterations together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepEstimate {
    /// Which step.
    pub step_id: StepId,
    /// Its skill.
    pub skill_id: String,
    /// What it costs, rounded up.
    pub estimated_cost_cents: i64,
    /// What it costs.
    pub estimated_cost_micro_usd: MicroUsd,
    /// How long it takes, one time as another.
    pub estimated_latency_ms: u64,
    /// How long it takes at most, nine times of ten; known from a history alone.
    pub p90_latency_ms: Option<u64>,
    /// What it costs at most, nine times of ten; known from a history alone.
    pub p90_cost_micro_usd: Option<MicroUsd>,
    /// How far that is to be trusted.
    pub confidence: Confidence,
}

/// A step that failed often before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct StepRisk {
    /// Which step.
    pub step_id: StepId,
    /// Its skill.
    pub skill_id: String,
    /// The chance that one call fails, in millionths.
    pub probability_ppm: u64,
    /// Attempts that this follows from.
    pub attempts: u64,
    /// How many of them failed.
    pub failures: u64,
}

/// A step that may not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gap {
    /// Which step.
    pub step_id: StepId,
    /// Its skill.
    pub skill_id: String,
    /// Whether there is a tool to call.
    pub available: bool,
    /// Why, as a code.
    pub code: &'static str,
    /// Why, for a person.
    pub message: String,
}

/// What would help.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Alternative {
    /// Another skill for a step.
    UseSkill {
        /// Which step.
        step_id: StepId,
        /// The skill.
        skill_id: String,
    },
    /// More money.
    RaiseBudget {
        /// How much is enough.
        budget_cents: i64,
    },
}

/// Something that does not stand in the way now but will.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Warning {
    /// Which step.
    pub step_id: StepId,
    /// What, as a code.
    pub code: String,
    /// What, for a person.
    pub message: String,
}

/// A step with what policy and the tools say of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outlook {
    /// Which step.
    pub step_id: StepId,
    /// What it calls.
    pub tool: ToolId,
    /// What is said.
    pub verdict: Verdict,
}

/// What a plan comes to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Whether every skill is known and the budget covers the plan.
    pub feasible: bool,
    /// In a word.
    pub status: Status,
    /// Why it is not `feasible`.
    pub refusal: Option<Failure>,
    /// What all steps cost, rounded up once.
    pub estimated_cost_cents: i64,
    /// What all steps cost.
    pub estimated_cost_micro_usd: MicroUsd,
    /// How long the plan takes.
    pub estimated_duration_ms: u64,
    /// Step by step, those whose skill is known.
    pub step_estimates: Vec<StepEstimate>,
    /// What the budget has left; below zero, what it lacks.
    pub budget_remaining_cents: i64,
    /// Whether the budget covers it.
    pub budget_sufficient: bool,
    /// What failed often before.
    pub risks: Vec<StepRisk>,
    /// The least of the steps'.
    pub confidence: Confidence,
    /// Whether every step can be called and policy lets it run, if need be after approval.
    pub permitted: bool,
    /// Step by step.
    pub outlooks: Vec<Outlook>,
    /// The steps that may not run.
    pub permission_gaps: Vec<Gap>,
    /// What would help.
    pub alternatives: Vec<Alternative>,
    /// What will stand in the way.
    pub warnings: Vec<Warning>,
}

impl Answer {
    /// The answer about no step at all.
    pub(super) fn empty(budget: MicroUsd) -> Self {
        Self {
            feasible: false,
            status: Status::Feasible,
            refusal: None,
            estimated_cost_cents: 0,
            estimated_cost_micro_usd: MicroUsd::ZERO,
            estimated_duration_ms: 0,
            step_estimates: Vec::new(),
            budget_remaining_cents: budget.0.div_euclid(CENT),
            budget_sufficient: true,
            risks: Vec::new(),
            confidence: Confidence::High,
            permitted: true,
            outlooks: Vec::new(),
            permission_gaps: Vec::new(),
            alternatives: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// Takes `cost` out of `budget`.
    pub(super) fn spend(&mut self, budget: MicroUsd, cost: MicroUsd) {
        self.estimated_cost_cents = cents(cost);
        self.estimated_cost_micro_usd = cost;
        self.budget_remaining_cents = budget.0.saturating_sub(cost.0).div_euclid(CENT);
        self.budget_sufficient = cost <= budget;
    }
}

/// An answer with what proves that the same question has the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Simulation {
    /// The answer.
    pub answer: Answer,
    /// SHA-256 of the canonical JSON of question and answer, where the plan and the history stand
    /// by their digests.
    pub root_hash: Digest,
    /// SHA-256 of the canonical JSON of the history that the answer follows from; none where there
    /// is none.
    pub calibration: Option<Digest>,
}

impl Simulation {
    pub(super) fn new(
        question: &impl Serialize,
        answer: Answer,
        calibration: Option<Digest>,
    ) -> Result<Self, json::Error> {
        #[derive(Serialize)]
        struct Whole<'a, Q> {
            input: &'a Q,
            result: &'a Answer,
        }
        let whole = json::canonical(&Whole { input: question, result: &answer })?;
        Ok(Self { answer, root_hash: Digest::of(&whole), calibration })
    }
}
