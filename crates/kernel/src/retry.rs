//! How often, and after which wait, a failed attempt is repeated: one table for everything that is
//! tried again.
//!
//! The wait grows by a factor from a base to a most, and is spread by a tenth to either side, so
//! that what failed together does not come back together. The spread follows from a seed and the
//! attempt: the same history has the same waits.

use serde::Serialize;

use crate::failure::{Category, Failure};
use crate::values::Digest;

/// How attempts that fail in one way are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// Attempts, the first included: 1 where none is repeated.
    pub attempts: u32,
    /// The wait before the second attempt.
    pub base_ms: u64,
    /// The longest wait.
    pub max_ms: u64,
    /// By how much each wait is longer than the one before it, in hundredths.
    pub factor_percent: u32,
}

/// Nothing is repeated.
const NEVER: Rule = Rule { attempts: 1, base_ms: 0, max_ms: 0, factor_percent: 100 };

/// The rule for failures of a category.
pub const fn rule(category: Category) -> Rule {
    let (attempts, base_ms, max_ms, factor_percent) = match category {
        Category::RateLimited => (4, 1_000, 30_000, 200),
        Category::Upstream => (3, 500, 10_000, 200),
        Category::Network => (4, 100, 5_000, 200),
        Category::Timeout => (3, 200, 5_000, 150),
        Category::PolicyDenied
        | Category::Validation
        | Category::Auth
        | Category::Permission
        | Category::Budget
        | Category::Conflict
        | Category::NotFound
        | Category::Sandbox
        | Category::Permanent
        | Category::Internal => return NEVER,
    };
    Rule { attempts, base_ms, max_ms, factor_percent }
}

impl Rule {
    /// The wait after `attempt` (from 1) before the next one, without its spread.
    pub fn wait_ms(self, attempt: u32) -> u64 {
        let mut wait = u128::from(self.base_ms);
        let most = u128::from(self.max_ms);
        for _ in 1..attempt {
            if wait >= most {
                break;
            }
            wait = wait.saturating_mul(u128::from(self.factor_percent)) / 100;
        }
        u64::try_from(wait.min(most)).unwrap_or(self.max_ms)
    }

    /// The same, spread by a tenth to either side.
    pub fn spread_wait_ms(self, attempt: u32, seed: &str) -> u64 {
        let wait = self.wait_ms(attempt);
        let Digest([low, high, ..]) = Digest::of(format!("{seed}:{attempt}").as_bytes());
        // From 900 to 1,100 thousandths.
        let thousandths = 900 + u128::from(u16::from_le_bytes([low, high])) * 200 / 65_535;
        u64::try_from(u128::from(wait) * thousandths / 1_000).unwrap_or(u64::MAX)
    }
}

/// How long to wait after `attempt` (from 1) ended with `failure` before it is repeated: never
/// less than the other side asked for. None where it is not repeated.
pub fn wait_ms(failure: &Failure, attempt: u32, seed: &str) -> Option<u64> {
    let rule = rule(failure.category);
    if !failure.retryable || attempt >= rule.attempts {
        return None;
    }
    Some(rule.spread_wait_ms(attempt, seed).max(failure.retry_after_ms.unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_from_base_to_most() {
        let check = |category, expect: &[u64]| {
            let rule = rule(category);
            let waits: Vec<u64> = (1..=expect.len()).map(|n| rule.wait_ms(n as u32)).collect();
            assert_eq!(waits, expect, "{category:?}");
        };
        check(Category::RateLimited, &[1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        check(Category::Upstream, &[500, 1_000, 2_000, 4_000, 8_000, 10_000]);
        check(Category::Network, &[100, 200, 400, 800, 1_600, 3_200, 5_000]);
        check(Category::Timeout, &[200, 300, 450, 675, 1_012]);
        check(Category::Validation, &[0, 0]);
        assert_eq!(rule(Category::Timeout).wait_ms(u32::MAX), 5_000);
    }

    #[test]
    fn a_wait_is_spread_by_a_tenth_and_the_same_again() {
        let rule = rule(Category::RateLimited);
        let spread: Vec<u64> =
            (0..1_000).map(|n| rule.spread_wait_ms(1, &format!("act_{n}"))).collect();
        assert!(spread.iter().all(|wait| (900..=1_100).contains(wait)));
        assert!(spread.iter().any(|wait| *wait < 930) && spread.iter().any(|wait| *wait > 1_070));
        assert_eq!(rule.spread_wait_ms(1, "act_7"), spread[7]);
    }

    #[test]
    fn a_failure_is_repeated_as_its_category_says_and_not_before_the_other_side_wants() {
        let timeout = Failure::new(Category::Timeout, "timeout", "");
        let waits = |failure: &Failure| -> Vec<bool> {
            (1..=5).map(|attempt| wait_ms(failure, attempt, "s").is_some()).collect()
        };
        assert_eq!(waits(&timeout), [true, true, false, false, false]);
        assert_eq!(waits(&timeout.clone().retryable(false)), [false; 5]);
        let limited = Failure::new(Category::RateLimited, "rate_limited", "");
        assert_eq!(waits(&limited), [true, true, true, false, false]);
        assert_eq!(wait_ms(&limited.clone().retry_after_ms(60_000), 1, "s"), Some(60_000));
        assert!(wait_ms(&limited.retry_after_ms(1), 1, "s").unwrap() >= 900);
        let stale = Failure::new(Category::PolicyDenied, "policy_stale", "").retryable(true);
        assert_eq!(waits(&stale), [false; 5]);
    }

    #[test]
    fn what_is_repeated_is_what_is_retryable() {
        for category in [
            Category::PolicyDenied,
            Category::Validation,
            Category::Auth,
            Category::Permission,
            Category::RateLimited,
            Category::Budget,
            Category::Upstream,
            Category::Network,
            Category::Timeout,
            Category::Conflict,
            Category::NotFound,
            Category::Sandbox,
            Category::Permanent,
            Category::Internal,
        ] {
            let rule = rule(category);
            assert_eq!(rule.attempts > 1, category.retryable(), "{category:?}");
            assert!(rule.attempts <= crate::limits::ATTEMPTS_MAX, "{category:?}");
            assert!(rule.base_ms <= rule.max_ms, "{category:?}");
        }
    }
}
