//! Use cases: what a workflow is for, and how much care that takes.
//!
//! An intake answers a few questions about what is wanted. The answers give a score by a fixed
//! table, the score a tier of risk, and the tier what a release of a workflow for it must have.
//! Names and descriptions are content; here are the answers and what follows from them.

use serde::{Deserialize, Serialize};

use crate::ids::{PrincipalId, UseCaseId, WorkflowId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::risk::{self, Tier};
use crate::values::Timestamp;

/// The most sensitive data that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DataClass {
    /// Anybody may have it.
    Public,
    /// Everybody within may have it.
    Internal,
    /// Some may have it: personal data.
    Confidential,
    /// Few may have it: health, payment, credentials.
    Restricted,
}

/// Whether what it does can be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reversibility {
    /// All of it, on command.
    Reversible,
    /// Some of it, or by hand.
    Partly,
    /// None of it.
    Irreversible,
}

/// How much one wrong step reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlastRadius {
    /// One record.
    Record,
    /// One team.
    Team,
    /// The whole organisation.
    Organisation,
    /// People outside.
    Outside,
}

/// How often it runs in a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Volume {
    /// At most 10 times.
    Rare,
    /// At most 100 times.
    Daily,
    /// At most 1,000 times.
    Hourly,
    /// More often.
    Constant,
}

/// The answers of an intake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answers {
    /// What data it touches.
    pub data_class: DataClass,
    /// Whether it can be undone.
    pub reversibility: Reversibility,
    /// How far a wrong step reaches.
    pub blast_radius: BlastRadius,
    /// Whether customers see what it does.
    pub customer_facing: bool,
    /// How often it runs.
    pub volume: Volume,
}

/// What the answers come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// 0 to 100.
    pub points: u8,
    /// Where that lies; never below high where restricted data is changed for good.
    pub tier: Tier,
}

impl Answers {
    /// The score of these answers: the sum of what the table gives for each.
    pub fn score(&self) -> Score {
        let data = match self.data_class {
            DataClass::Public => 0,
            DataClass::Internal => 10,
            DataClass::Confidential => 20,
            DataClass::Restricted => 30,
        };
        let reversibility = match self.reversibility {
            Reversibility::Reversible => 0,
            Reversibility::Partly => 10,
            Reversibility::Irreversible => 25,
        };
        let radius = match self.blast_radius {
            BlastRadius::Record => 0,
            BlastRadius::Team => 5,
            BlastRadius::Organisation => 15,
            BlastRadius::Outside => 20,
        };
        let customers = if self.customer_facing { 15 } else { 0 };
        let volume = match self.volume {
            Volume::Rare => 0,
            Volume::Daily => 3,
            Volume::Hourly => 6,
            Volume::Constant => 10,
        };
        let points = data + reversibility + radius + customers + volume;
        let grave = self.data_class == DataClass::Restricted
            && self.reversibility == Reversibility::Irreversible;
        let floor = if grave { Tier::High } else { Tier::Low };
        Score { points, tier: risk::tier(points).max(floor) }
    }
}

/// How many people approve the release of a workflow of this tier in prod.
pub fn approvers(tier: Tier) -> u8 {
    match tier {
        Tier::Low | Tier::Medium => 1,
        Tier::High | Tier::Critical => 2,
    }
}

/// What changes a use case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// Somebody wants something.
    #[serde(rename = "use_case.created")]
    Created {
        /// Who answers for it.
        owner: PrincipalId,
        /// Who took it in.
        by: PrincipalId,
    },
    /// The questions were answered, for the first time or anew.
    #[serde(rename = "use_case.scored")]
    Scored {
        /// How.
        answers: Answers,
        /// What they come to.
        score: Score,
        /// By whom.
        by: PrincipalId,
    },
    /// A workflow is for it.
    #[serde(rename = "use_case.linked")]
    Linked {
        /// Which.
        workflow: WorkflowId,
        /// Who says so.
        by: PrincipalId,
    },
}

/// What is asked of a use case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Take it in.
    Create {
        /// Who answers for it.
        owner: PrincipalId,
        /// Who takes it in.
        by: PrincipalId,
    },
    /// Answer the questions.
    Score {
        /// How.
        answers: Answers,
        /// By whom.
        by: PrincipalId,
    },
    /// Say that a workflow is for it.
    Link {
        /// Which.
        workflow: WorkflowId,
        /// Who says so.
        by: PrincipalId,
    },
}

/// A use case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UseCase {
    /// Which.
    pub id: UseCaseId,
    /// Who answers for it.
    pub owner: PrincipalId,
    /// The answers, once they are given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answers: Option<Answers>,
    /// What they come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// The workflows that are for it.
    pub workflows: Vec<WorkflowId>,
    /// Counts its changes, from 1.
    pub revision: u64,
    /// When it was taken in.
    pub created_at: Timestamp,
    /// When it changed last.
    pub changed_at: Timestamp,
}

impl UseCase {
    /// The least tier that a workflow for it may claim: the highest, as long as nobody has scored
    /// it.
    pub fn floor(&self) -> Tier {
        self.score.map_or(Tier::Critical, |score| score.tier)
    }

    /// A short word for where it stands.
    pub fn status(&self) -> &'static str {
        if self.score.is_some() { "scored" } else { "taken_in" }
    }
}

/// The change that `input` makes to a use case, or why it makes none.
pub fn step(state: Option<&UseCase>, input: Input) -> Result<Change, Refusal> {
    match (state, input) {
        (None, Input::Create { owner, by }) => Ok(Change::Created { owner, by }),
        (Some(_), Input::Create { .. }) => Err(Refusal::Exists),
        (None, _) => Err(Refusal::Absent),
        (Some(case), Input::Score { answers, by }) => {
            if case.answers == Some(answers) {
                return Err(Refusal::State("unchanged"));
            }
            Ok(Change::Scored { answers, score: answers.score(), by })
        }
        (Some(case), Input::Link { workflow, by }) => {
            if case.workflows.contains(&workflow) {
                return Err(Refusal::State("unchanged"));
            }
            if case.workflows.len() >= limits::USE_CASE_WORKFLOWS_MAX {
                return Err(Refusal::InvalidInput("at most 64 workflows are for one use case"));
            }
            Ok(Change::Linked { workflow, by })
        }
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<UseCase>, change: &Change, applied: &Applied<'_>) {
    let Some(case) = state else {
        let (Change::Created { owner, .. }, Ok(id)) = (change, UseCaseId::new(applied.id)) else {
            return;
        };
        *state = Some(UseCase {
            id,
            owner: owner.clone(),
            answers: None,
            score: None,
            workflows: Vec::new(),
            revision: 1,
            created_at: applied.time,
            changed_at: applied.time,
        });
        return;
    };
    match change {
        Change::Created { .. } => {}
        Change::Scored { answers, score, .. } => {
            (case.answers, case.score) = (Some(*answers), Some(*score));
        }
        Change::Linked { workflow, .. } => case.workflows.push(workflow.clone()),
    }
    case.revision = case.revision.saturating_add(1);
    case.changed_at = applied.time;
}
