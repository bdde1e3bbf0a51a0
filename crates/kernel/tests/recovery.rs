//! What is proposed after failures, and how much a proposal is trusted.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeSet, VecDeque};

use kernel::experience::{Lesson, Trial};
use kernel::failure::Category;
use kernel::limits;
use kernel::recovery::{
    Problem, RULES, STRATEGIES, Source, Strategy, candidates, measured_ppm, select,
};
use kernel::values::Timestamp;
use proptest::prelude::*;

const DAY: i64 = 24 * 3_600 * 1_000_000;
const NOW: Timestamp = Timestamp(1_000 * DAY);

fn trial(days_ago: i64, helped: bool) -> Trial {
    Trial { at: NOW.plus_micros(-days_ago * DAY), helped }
}

fn lesson(category: Category, count: u64, tried: &[(Strategy, &[Trial])]) -> Lesson {
    let tried = tried.iter().map(|(what, trials)| (*what, trials.iter().copied().collect()));
    Lesson { category, count, last: NOW, tried: tried.collect() }
}

/// What is selected, with its trust in thousandths.
fn chosen(category: Category, lesson: Option<&Lesson>, in_doubt: bool) -> (Strategy, u64) {
    let found = candidates(Problem { category, lesson, in_doubt }, NOW);
    let selected = select(&found);
    let trust = found.iter().find(|one| one.strategy == selected).unwrap().confidence_ppm;
    (selected, trust / 1_000)
}

#[test]
fn there_are_ten_of_each() {
    let strategies: BTreeSet<Strategy> = STRATEGIES.iter().map(|facts| facts.strategy).collect();
    let rules: BTreeSet<&str> = RULES.iter().map(|rule| rule.id).collect();
    assert_eq!((strategies.len(), rules.len()), (10, 10));
}

#[test]
fn without_a_history_the_rules_speak() {
    use Category as C;
    for (category, expected) in [
        (C::Timeout, (Strategy::RetryExponential, 525)),
        (C::RateLimited, (Strategy::RetryExponential, 550)),
        (C::Upstream, (Strategy::CircuitBreaker, 500)),
        (C::Budget, (Strategy::Fallback, 525)),
        (C::Auth, (Strategy::Escalate, 475)),
        (C::Permission, (Strategy::Escalate, 475)),
        (C::Network, (Strategy::RetryWithJitter, 500)),
        (C::Internal, (Strategy::ManualIntervention, 350)),
        (C::Conflict, (Strategy::RetryExponential, 350)),
        (C::Sandbox, (Strategy::RetryExponential, 350)),
        (C::Validation, (Strategy::Abort, 350)),
        (C::PolicyDenied, (Strategy::Abort, 350)),
        (C::NotFound, (Strategy::Abort, 350)),
        (C::Permanent, (Strategy::Abort, 350)),
    ] {
        assert_eq!(chosen(category, None, false), expected, "{category:?}");
    }
}

#[test]
fn outcomes_speak_louder() {
    let timeouts = |count, tried: &[(Strategy, &[Trial])]| {
        chosen(Category::Timeout, Some(&lesson(Category::Timeout, count, tried)), false)
    };
    let exponential = Strategy::RetryExponential;
    let (good, bad) = ([trial(0, true); 3], [trial(0, false); 3]);
    // Many timeouts and nothing tried: try again.
    assert_eq!(timeouts(4, &[]), (exponential, 525));
    assert_eq!(timeouts(50, &[]), (exponential, 525));
    assert_eq!(timeouts(4, &[(exponential, &good)]), (exponential, 925));
    assert_eq!(timeouts(4, &[(exponential, &bad)]), (exponential, 425));
    // What never helps is left to people once it happened often.
    assert_eq!(timeouts(5, &[(exponential, &bad)]), (Strategy::Escalate, 450));
    assert_eq!(timeouts(10, &[(exponential, &bad)]), (Strategy::ManualIntervention, 475));
    // The default of the category proves better than the rule.
    let jitter = Strategy::RetryWithJitter;
    let tried = [(exponential, &bad[..]), (jitter, &good[..])];
    assert_eq!(timeouts(4, &tried), (jitter, 750));
    // Two of three are not enough to be proven, three of four are: 0.75 x 1.2.
    let mixed = [trial(0, true), trial(0, false), trial(0, true), trial(0, true)];
    assert_eq!(timeouts(4, &[(exponential, &mixed[..3])]).1, 758);
    assert_eq!(timeouts(4, &[(exponential, &mixed)]).1, 875);
}

#[test]
fn what_may_have_happened_is_not_done_again() {
    let lesson = lesson(Category::Timeout, 1, &[]);
    let found = candidates(
        Problem { category: Category::Timeout, lesson: Some(&lesson), in_doubt: true },
        NOW,
    );
    assert!(found.iter().all(|one| !one.strategy.repeats()), "{found:?}");
    assert_eq!(select(&found), Strategy::Abort);
    assert!(found.iter().any(|one| one.source == Source::Global));
}

#[test]
fn old_trials_count_less() {
    let measure = |trials: &[Trial]| measured_ppm(&trials.iter().copied().collect(), NOW);
    assert_eq!(measure(&[]), None);
    assert_eq!(measure(&[trial(0, true)]), Some(1_000_000));
    assert_eq!(measure(&[trial(900, true)]), Some(1_000_000));
    // One of two helped; the one that did weighs a half: 0.7 x 1/3 + 0.3 x 1/2.
    assert_eq!(measure(&[trial(30, true), trial(0, false)]), Some(383_333));
    assert_eq!(measure(&[trial(30, false), trial(0, true)]), Some(616_666));
    // So old that nothing has weight: the plain share.
    assert_eq!(measure(&[trial(100_000, true), trial(100_000, false)]), Some(500_000));
}

proptest! {
    /// Trust is a share; what helped raises it, what did not lowers it.
    #[test]
    fn trust_follows_outcomes(
        trials in prop::collection::vec((0..400_i64, any::<bool>()), 0..80),
        count in 0..20_u64,
        category in prop::sample::select(vec![Category::Timeout, Category::Auth]),
    ) {
        let mut trials: Vec<Trial> = trials.iter().map(|(days, ok)| trial(*days, *ok)).collect();
        trials.sort_by_key(|trial| trial.at);
        let strategies = STRATEGIES.map(|facts| facts.strategy);
        let trust = |trials: &[Trial]| -> Vec<(Strategy, u64)> {
            // The window, as it is kept.
            let from = trials.len().saturating_sub(limits::TRIALS_MAX);
            let kept: VecDeque<Trial> = trials[from..].iter().copied().collect();
            let tried = strategies.iter().map(|strategy| (*strategy, kept.clone())).collect();
            let known = Lesson { category, count, last: NOW, tried };
            let problem = Problem { category, lesson: Some(&known), in_doubt: false };
            let mut found: Vec<_> = candidates(problem, NOW)
                .iter()
                .map(|one| (one.strategy, one.confidence_ppm))
                .collect();
            found.sort_unstable();
            found
        };
        let before = trust(&trials);
        for helped in [true, false] {
            let after = trust(&[&trials[..], &[trial(0, helped)]].concat());
            prop_assert_eq!(after.len(), before.len());
            for ((strategy, was), (_, is)) in before.iter().zip(&after) {
                prop_assert!(*is <= 1_000_000);
                // Integers are rounded down: by a few millionths.
                let fits = if helped { is + 3 >= *was } else { *is <= was + 3 };
                prop_assert!(fits, "{:?}: {} {} {}", strategy, was, helped, is);
            }
        }
    }
}
