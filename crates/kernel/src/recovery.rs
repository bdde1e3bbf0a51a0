//! What to do about a failure: ten strategies and ten rules, both as data, and how much to trust a
//! proposal, by what came of the same before.
//!
//! A proposal is no action: nothing here is carried out.

mod data;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::experience::{Lesson, Trial};
use crate::failure::Category;
use crate::values::Timestamp;

pub use data::{RULES, Rule, STRATEGIES, StrategyFacts, When};

/// Parts in a whole.
pub const MILLION: u64 = 1_000_000;
/// What is trusted of a strategy that was never tried after this failure.
pub const UNTRIED_PPM: u64 = 200_000;
/// What a proposal must be trusted by to be chosen.
pub const SELECT_PPM: u64 = 300_000;
/// How a strategy counts by which the category alone speaks.
const DEFAULT_PPM: u64 = 500_000;

/// A way to go on after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The same again at once.
    RetryImmediate,
    /// The same again, each time later.
    RetryExponential,
    /// The same again, each time later, and not when others do.
    RetryWithJitter,
    /// Another tool, or a value, in its place.
    Fallback,
    /// Nothing for a while where it keeps failing, then one try.
    CircuitBreaker,
    /// Go on without it.
    Skip,
    /// Stop.
    Abort,
    /// Tell who operates it; stop where nobody comes.
    Escalate,
    /// Go back to a state that was good.
    CheckpointRestore,
    /// Wait for a person.
    ManualIntervention,
}

impl Strategy {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RetryImmediate => "retry_immediate",
            Self::RetryExponential => "retry_exponential",
            Self::RetryWithJitter => "retry_with_jitter",
            Self::Fallback => "fallback",
            Self::CircuitBreaker => "circuit_breaker",
            Self::Skip => "skip",
            Self::Abort => "abort",
            Self::Escalate => "escalate",
            Self::CheckpointRestore => "checkpoint_restore",
            Self::ManualIntervention => "manual_intervention",
        }
    }

    /// Whether it does the same again.
    pub fn repeats(self) -> bool {
        matches!(
            self,
            Self::RetryImmediate
                | Self::RetryExponential
                | Self::RetryWithJitter
                | Self::CircuitBreaker
                | Self::CheckpointRestore
        )
    }
}

/// What something is to be done about.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// What kind of failure.
    pub category: Category,
    /// What is known of it, where it happened before.
    pub lesson: Option<&'a Lesson>,
    /// Whether the effect may have happened, and doing it again would do it twice.
    pub in_doubt: bool,
}

/// Where a proposal comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A rule about this very failure.
    Rule(&'static str),
    /// What holds for its category.
    Category,
    /// What holds for everything.
    Global,
}

/// Something that may be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// What.
    pub strategy: Strategy,
    /// Where it comes from.
    pub source: Source,
    /// How much it is trusted, in millionths.
    pub confidence_ppm: u64,
    /// What earlier trials alone say; none where it was never tried.
    pub measured_ppm: Option<u64>,
    /// Earlier trials.
    pub trials: u64,
    /// How many of them helped.
    pub helped: u64,
}

/// What earlier trials say at `now`, in millionths: 0.7 of the share that helped where a trial
/// counts half as much every 30 days, and 0.3 of the plain share. None without trials.
pub fn measured_ppm(trials: &VecDeque<Trial>, now: Timestamp) -> Option<u64> {
    let count = u64::try_from(trials.len()).ok().filter(|count| *count > 0)?;
    let (mut weights, mut helped, mut plain) = (0_u128, 0_u128, 0_u64);
    for trial in trials {
        let weight = data::weight(now.0.saturating_sub(trial.at.0));
        weights += weight;
        if trial.helped {
            helped += weight;
            plain = plain.saturating_add(1);
        }
    }
    // Where all of them are so old that they have no weight left, the plain share is all there is.
    let plain = plain.saturating_mul(MILLION) / count;
    let decayed = (helped * u128::from(MILLION)).checked_div(weights);
    let decayed = decayed.and_then(|share| u64::try_from(share).ok()).unwrap_or(plain);
    Some((decayed.saturating_mul(7) + plain.saturating_mul(3)) / 10)
}

/// What may be done about a problem, the most trusted first. The last resort is always there.
pub fn candidates(problem: Problem<'_>, now: Timestamp) -> Vec<Candidate> {
    let count = problem.lesson.map_or(0, |lesson| lesson.count);
    let mut found: Vec<Candidate> = Vec::new();
    let rules = RULES.iter().filter_map(|rule| {
        let strategy = rule.strategy?;
        let applies = rule.when.applies(problem.category, count);
        applies.then_some((strategy, Source::Rule(rule.id), rule.score_ppm))
    });
    let default = (data::default_of(problem.category), Source::Category, DEFAULT_PPM);
    let global = (Strategy::Abort, Source::Global, DEFAULT_PPM);
    for (strategy, source, score_ppm) in rules.chain([default, global]) {
        let unsafe_now = problem.in_doubt && strategy.repeats();
        if unsafe_now || found.iter().any(|one| one.strategy == strategy) {
            continue;
        }
        found.push(candidate(problem.lesson, strategy, source, score_ppm, now));
    }
    // A rule before a default, and what is said first before what is said later.
    found.sort_by_key(|one| std::cmp::Reverse(one.confidence_ppm));
    found
}

fn candidate(
    lesson: Option<&Lesson>,
    strategy: Strategy,
    source: Source,
    score_ppm: u64,
    now: Timestamp,
) -> Candidate {
    let none = VecDeque::new();
    let trials = lesson.and_then(|lesson| lesson.tried.get(&strategy)).unwrap_or(&none);
    let measured_ppm = measured_ppm(trials, now);
    let count = u64::try_from(trials.len()).unwrap_or(u64::MAX);
    let known = measured_ppm.unwrap_or(UNTRIED_PPM);
    let proven = count >= data::PROVEN_TRIALS && known >= data::PROVEN_PPM;
    let known = if proven { known.saturating_mul(12) / 10 } else { known };
    let helped = trials.iter().filter(|trial| trial.helped).count();
    Candidate {
        strategy,
        source,
        confidence_ppm: u64::midpoint(score_ppm, known.min(MILLION)),
        measured_ppm,
        trials: count,
        helped: u64::try_from(helped).unwrap_or(u64::MAX),
    }
}

/// What to do: the most trusted candidate, or the last resort where none is trusted enough.
pub fn select(candidates: &[Candidate]) -> Strategy {
    let best = candidates.iter().find(|one| one.confidence_ppm >= SELECT_PPM);
    best.map_or(Strategy::Abort, |one| one.strategy)
}

/// How many trials of a lesson there were, and how many helped.
pub fn trials(lesson: &Lesson) -> (usize, usize) {
    let all = || lesson.tried.values().flatten();
    (all().count(), all().filter(|trial| trial.helped).count())
}
