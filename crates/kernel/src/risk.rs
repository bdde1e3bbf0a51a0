//! How risky an action is: a score from 0 to 100 out of facts, which claims can only raise.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Where the score lies: low < 40 ≤ medium < 70 ≤ high < 90 ≤ critical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Below 40.
    Low,
    /// 40 to 69.
    Medium,
    /// 70 to 89.
    High,
    /// 90 and up.
    Critical,
}

/// The risk of one action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    /// 0 to 100.
    pub score: u8,
    /// Where that lies.
    pub tier: Tier,
    /// What it was made of, sorted.
    pub signals: Vec<String>,
}

/// What a signal adds to the score. A label of a tool that is not listed here adds nothing: it is
/// for policy to read.
const LABEL_WEIGHTS: &[(&str, u8)] = &[
    ("destructive", 60),
    ("financial", 40),
    ("privileged", 40),
    ("irreversible", 20),
    ("write", 25),
    ("external", 10),
    ("execute", 25),
];

/// What the data that an agent says it touches adds.
const DATA_WEIGHTS: &[(&str, u8)] =
    &[("pii", 20), ("phi", 30), ("pci", 30), ("credentials", 40), ("finance", 20)];

const BASE: u8 = 10;
const PROD: u8 = 20;

impl Risk {
    /// The risk of a tool with `labels` in `environment`, raised by the types of data claimed.
    pub fn assess(
        labels: &BTreeSet<String>,
        environment: &str,
        claimed_data: &BTreeSet<String>,
    ) -> Self {
        let mut score = BASE;
        let mut signals = BTreeSet::new();
        let weighed = LABEL_WEIGHTS
            .iter()
            .filter(|(name, _)| labels.contains(*name))
            .chain(DATA_WEIGHTS.iter().filter(|(name, _)| claimed_data.contains(*name)));
        for (name, weight) in weighed {
            score = score.saturating_add(*weight);
            signals.insert((*name).to_owned());
        }
        // Reading in production is no riskier than reading anywhere; changing it is.
        if environment == "prod" && !signals.is_empty() {
            score = score.saturating_add(PROD);
            signals.insert("prod".to_owned());
        }
        let score = score.min(100);
        Self { score, tier: tier(score), signals: signals.into_iter().collect() }
    }
}

/// The tier of a score.
pub fn tier(score: u8) -> Tier {
    match score {
        0..40 => Tier::Low,
        40..70 => Tier::Medium,
        70..90 => Tier::High,
        _ => Tier::Critical,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: &[&str], environment: &str, data: &[&str], expect: (u8, Tier)) {
        let set = |items: &[&str]| items.iter().map(|s| (*s).to_owned()).collect();
        let risk = Risk::assess(&set(labels), environment, &set(data));
        assert_eq!((risk.score, risk.tier), expect, "{labels:?} {environment} {data:?}");
    }

    #[test]
    fn scores() {
        check(&["read"], "dev", &[], (10, Tier::Low));
        check(&["read"], "prod", &[], (10, Tier::Low));
        check(&["read"], "prod", &["pii"], (50, Tier::Medium));
        check(&["write"], "dev", &[], (35, Tier::Low));
        check(&["write"], "prod", &[], (55, Tier::Medium));
        check(&["write", "external"], "prod", &["pii"], (85, Tier::High));
        check(&["destructive"], "dev", &[], (70, Tier::High));
        check(&["destructive", "write"], "prod", &[], (100, Tier::Critical));
        check(&["unheard"], "dev", &["unheard"], (10, Tier::Low));
    }

    #[test]
    fn claims_never_lower() {
        let labels: BTreeSet<String> = ["write".to_owned()].into();
        let without = Risk::assess(&labels, "prod", &BTreeSet::new());
        for (name, _) in DATA_WEIGHTS {
            let with = Risk::assess(&labels, "prod", &[(*name).to_owned()].into());
            assert!(with.score >= without.score);
        }
    }
}
