//! The strategies, the rules, and how trials lose weight.

use super::Strategy;
use crate::failure::Category;

/// A strategy with what it is carried out by.
#[derive(Clone, Copy, Debug)]
pub struct StrategyFacts {
    /// Which.
    pub strategy: Strategy,
    /// What it does.
    pub meaning: &'static str,
    /// By what numbers.
    pub parameters: &'static [(&'static str, i64)],
}

const fn facts(
    strategy: Strategy,
    meaning: &'static str,
    parameters: &'static [(&'static str, i64)],
) -> StrategyFacts {
    StrategyFacts { strategy, meaning, parameters }
}

/// Every strategy.
#[rustfmt::skip]
pub const STRATEGIES: [StrategyFacts; 10] = [
    facts(Strategy::RetryImmediate, "do the same again at once", &[("attempts", 1)]),
    facts(Strategy::RetryExponential, "do the same again, each time after twice as long",
        &[("attempts", 3), ("initial_ms", 1_000), ("max_ms", 30_000), ("multiplier", 2)]),
    facts(Strategy::RetryWithJitter, "the same, and spread the times by a quarter",
        &[("attempts", 3), ("initial_ms", 1_000), ("max_ms", 30_000), ("multiplier", 2),
            ("jitter_percent", 25)]),
    facts(Strategy::Fallback, "use another tool, or a value, in its place", &[]),
    facts(Strategy::CircuitBreaker, "after so many failures stop asking, then try once",
        &[("failures", 5), ("open_s", 60), ("half_open_calls", 1)]),
    facts(Strategy::Skip, "go on without it", &[]),
    facts(Strategy::Abort, "stop: clean up, keep a checkpoint, tell who asked",
        &[("cleanup", 1), ("checkpoint", 1), ("notify", 1)]),
    facts(Strategy::Escalate, "tell who operates it; stop where nobody comes in time",
        &[("wait_s", 3_600)]),
    facts(Strategy::CheckpointRestore, "go back to the last state that was good",
        &[("attempts", 1), ("max_s", 300)]),
    facts(Strategy::ManualIntervention, "wait for a person", &[("wait_s", 86_400)]),
];

/// When a rule applies.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// The failure is of one of these categories.
    Category(&'static [Category]),
    /// It happened at least so often.
    Often(u64),
    /// What was tried at least so often helped in at least so many millionths.
    Proven(u64, u64),
}

impl When {
    /// Whether it applies to a failure that happened so often. What is proven raises the trust in
    /// other rules and proposes nothing itself.
    pub fn applies(self, category: Category, count: u64) -> bool {
        match self {
            Self::Category(categories) => categories.contains(&category),
            Self::Often(least) => count >= least,
            Self::Proven(..) => false,
        }
    }
}

/// A rule.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Its name.
    pub id: &'static str,
    /// When it applies.
    pub when: When,
    /// What it proposes.
    pub strategy: Option<Strategy>,
    /// How much that counts, in millionths; with what is proven, by how much trust is multiplied.
    pub score_ppm: u64,
}

/// How often something must have been tried to be proven.
pub(super) const PROVEN_TRIALS: u64 = 3;
/// How often it must have helped, in millionths.
pub(super) const PROVEN_PPM: u64 = 700_000;

const fn rule(id: &'static str, when: When, strategy: Strategy, score_ppm: u64) -> Rule {
    Rule { id, when, strategy: Some(strategy), score_ppm }
}

/// Every rule, in the order in which they are heard.
pub const RULES: [Rule; 10] = [
    rule("timeout", When::Category(&[Category::Timeout]), Strategy::RetryExponential, 850_000),
    rule(
        "rate_limit",
        When::Category(&[Category::RateLimited]),
        Strategy::RetryExponential,
        900_000,
    ),
    rule("upstream", When::Category(&[Category::Upstream]), Strategy::CircuitBreaker, 800_000),
    rule("budget", When::Category(&[Category::Budget]), Strategy::Fallback, 850_000),
    rule(
        "auth",
        When::Category(&[Category::Auth, Category::Permission]),
        Strategy::Escalate,
        750_000,
    ),
    rule("connection", When::Category(&[Category::Network]), Strategy::RetryWithJitter, 800_000),
    Rule {
        id: "proven",
        when: When::Proven(PROVEN_TRIALS, PROVEN_PPM),
        strategy: None,
        score_ppm: 1_200_000,
    },
    rule("often", When::Often(5), Strategy::Escalate, 700_000),
    rule("very_often", When::Often(10), Strategy::ManualIntervention, 750_000),
    rule("unknown", When::Category(&[Category::Internal]), Strategy::ManualIntervention, 500_000),
];

/// What is done about a category where no rule knows better.
pub(super) fn default_of(category: Category) -> Strategy {
    match category {
        Category::Network | Category::Upstream | Category::Timeout => Strategy::RetryWithJitter,
        Category::RateLimited | Category::Conflict | Category::Sandbox => {
            Strategy::RetryExponential
        }
        Category::PolicyDenied
        | Category::Validation
        | Category::Auth
        | Category::Permission
        | Category::Budget
        | Category::NotFound
        | Category::Permanent
        | Category::Internal => Strategy::Abort,
    }
}

const DAY_MICROS: i64 = 24 * 3_600 * 1_000_000;
/// Days after which a trial counts half as much.
const HALF_LIFE_DAYS: u64 = 30;
/// What a trial of today weighs.
const WEIGHT: u128 = 1 << 40;
/// 2^(-1/30) in 2^-40.
const DAILY: u128 = 1_074_398_747_491;

/// What a trial of that age weighs. By whole days, in integers: the same everywhere.
pub(super) fn weight(age_micros: i64) -> u128 {
    let days = u64::try_from(age_micros.max(0) / DAY_MICROS).unwrap_or(u64::MAX);
    let halvings = u32::try_from(days / HALF_LIFE_DAYS).unwrap_or(u32::MAX);
    let mut weight = WEIGHT.checked_shr(halvings).unwrap_or(0);
    for _ in 0..days % HALF_LIFE_DAYS {
        weight = (weight * DAILY) >> 40;
    }
    weight
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_loses_half_its_weight_in_thirty_days() {
        let at = |days: i64| weight(days * DAY_MICROS);
        assert_eq!((at(0), at(-1), at(30), at(60)), (WEIGHT, WEIGHT, WEIGHT / 2, WEIGHT / 4));
        assert_eq!(weight(i64::MAX), 0);
        for days in 0..400 {
            assert!(at(days + 1) <= at(days), "{days}");
        }
        let fifteen = at(15) * 1_000_000 / WEIGHT;
        assert!((707_106..=707_107).contains(&fifteen), "{fifteen}");
    }
}
