//! When an estimator is not to be believed for a while.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::limits;
use crate::simulate::{Divergence, divergence};
use crate::values::Timestamp;

/// How an estimator has done lately, and until when it is disabled.
///
/// It is judged by samples: the median of ten attempts against what was estimated when the first
/// of them began. One slow call is no drift. Three samples in a row that are a mismatch, or five
/// that are off by more than a fifth on average and to the same side, disable it for a day.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Drift {
    /// Mismatches in a row.
    mismatches: u32,
    /// By how much the latest samples were off, in millionths of the estimate, with the sign.
    shifts: VecDeque<i64>,
    /// Until when it is disabled.
    disabled_until: Option<Timestamp>,
    /// How often it was disabled.
    disabled: u32,
}

impl Drift {
    /// Takes a sample that was complete at `now`. Differences up to `tolerance` are none.
    pub fn observe(&mut self, estimate: u64, actual: u64, tolerance: u64, now: Timestamp) {
        if self.disabled_until(now).is_some() {
            return;
        }
        let close = estimate.abs_diff(actual) <= tolerance;
        let actual = if close { estimate } else { actual };
        let mismatch = divergence(estimate, actual) == Divergence::Mismatch;
        self.mismatches = if mismatch { self.mismatches.saturating_add(1) } else { 0 };
        if self.shifts.len() >= limits::DRIFT_SAMPLES {
            self.shifts.pop_front();
        }
        self.shifts.push_back(shift_ppm(estimate, actual));
        let mismatched = self.mismatches >= limits::DRIFT_MISMATCHES;
        if mismatched || self.drift_ppm().abs() > limits::DRIFT_PPM_MAX {
            let disabled = self.disabled.saturating_add(1);
            let until = now.plus_micros(limits::DRIFT_DISABLED_MICROS);
            *self = Self { disabled_until: Some(until), disabled, ..Self::default() };
        }
    }

    /// The average shift of the latest samples, in millionths; 0 where there are too few.
    pub fn drift_ppm(&self) -> i64 {
        if self.shifts.len() < limits::DRIFT_SAMPLES {
            return 0;
        }
        let count = i64::try_from(self.shifts.len()).unwrap_or(i64::MAX);
        self.shifts.iter().copied().fold(0, i64::saturating_add) / count
    }

    /// Until when it is disabled, where it is at `now`.
    pub fn disabled_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.disabled_until.filter(|until| now < *until)
    }

    /// How often it was disabled.
    pub fn times_disabled(&self) -> u32 {
        self.disabled
    }
}

/// By how much `actual` is above `estimate`, in millionths of it, within bounds.
fn shift_ppm(estimate: u64, actual: u64) -> i64 {
    let off = i128::from(actual) - i128::from(estimate);
    let ppm = off.saturating_mul(1_000_000) / i128::from(estimate.max(1));
    i64::try_from(ppm.clamp(-limits::SHIFT_PPM_MAX, limits::SHIFT_PPM_MAX)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3_600 * 1_000_000;

    /// Until when it is disabled after these samples, one a second, against an estimate of 1,000.
    fn after(samples: &[u64]) -> Option<i64> {
        let mut drift = Drift::default();
        for (second, actual) in (1_i64..).zip(samples) {
            drift.observe(1_000, *actual, 20, Timestamp(second * 1_000_000));
        }
        drift.disabled_until(Timestamp(10_000_000)).map(|at| at.0)
    }

    #[test]
    fn what_disables() {
        for (samples, expected) in [
            (&[][..], None),
            (&[9_000, 9_000], None),
            (&[9_000, 9_000, 9_000], Some(3_000_000 + DAY)),
            // Too fast is as wrong as too slow.
            (&[1, 1, 1], Some(3_000_000 + DAY)),
            (&[9_000, 9_000, 1_000, 9_000, 9_000], Some(5_000_000 + DAY)),
            // 30 % off is no mismatch, but it is drift.
            (&[1_300, 1_300, 1_300, 1_300], None),
            (&[1_300, 1_300, 1_300, 1_300, 1_300], Some(5_000_000 + DAY)),
            (&[1_200, 1_200, 1_200, 1_200, 1_200], None),
            (&[1_201, 1_201, 1_201, 1_201, 1_201], Some(5_000_000 + DAY)),
            // What is off to both sides is no drift.
            (&[1_290, 710, 1_290, 710, 1_290, 710], None),
            (&[1_020, 980, 1_020, 1_020, 1_020, 1_020], None),
        ] {
            assert_eq!(after(samples), expected, "{samples:?}");
        }
    }

    #[test]
    fn it_is_believed_again_after_a_day() {
        let mut drift = Drift::default();
        for _ in 0..3 {
            drift.observe(1_000, 9_000, 0, Timestamp(0));
        }
        let until = Timestamp(DAY);
        assert_eq!(drift.disabled_until(Timestamp(DAY - 1)), Some(until));
        // What is seen meanwhile neither prolongs nor counts later.
        drift.observe(1_000, 9_000, 0, Timestamp(DAY - 1));
        drift.observe(1_000, 9_000, 0, Timestamp(DAY - 1));
        assert_eq!(drift.disabled_until(until), None);
        drift.observe(1_000, 9_000, 0, until);
        assert_eq!((drift.disabled_until(until), drift.times_disabled()), (None, 1));
        drift.observe(1_000, 9_000, 0, until);
        drift.observe(1_000, 9_000, 0, until);
        assert_eq!(drift.disabled_until(until), Some(Timestamp(2 * DAY)));
        assert_eq!(drift.times_disabled(), 2);
    }
}
