//! How far an estimate was off.

use serde::{Deserialize, Serialize};

/// How far an estimate was off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Divergence {
    /// By at most 5 %.
    Match,
    /// By at most 15 %.
    Minor,
    /// By at most 30 %.
    Major,
    /// By more.
    Mismatch,
}

impl Divergence {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Match => "MATCH",
            Self::Minor => "MINOR",
            Self::Major => "MAJOR",
            Self::Mismatch => "MISMATCH",
        }
    }
}

/// How far `estimate` was off, in parts of the estimate. Where nothing was expected, anything is a
/// mismatch.
pub fn divergence(estimate: u64, actual: u64) -> Divergence {
    let off = u128::from(estimate.abs_diff(actual)) * 100;
    let within = |percent: u128| off <= u128::from(estimate) * percent;
    match () {
        () if within(5) => Divergence::Match,
        () if within(15) => Divergence::Minor,
        () if within(30) => Divergence::Major,
        () => Divergence::Mismatch,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_belong_to_the_smaller_class() {
        use Divergence::{Major, Match, Minor, Mismatch};
        for (estimate, actual, expected) in [
            (0, 0, Match),
            (0, 1, Mismatch),
            (100, 100, Match),
            (100, 105, Match),
            (100, 95, Match),
            (100, 106, Minor),
            (100, 115, Minor),
            (100, 85, Minor),
            (100, 116, Major),
            (100, 130, Major),
            (100, 70, Major),
            (100, 131, Mismatch),
            (100, 69, Mismatch),
            (100, 0, Mismatch),
            (u64::MAX, u64::MAX, Match),
            (1, u64::MAX, Mismatch),
            (u64::MAX, 0, Mismatch),
        ] {
            assert_eq!(divergence(estimate, actual), expected, "{estimate} {actual}");
        }
    }
}
