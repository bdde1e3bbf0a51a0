//! Rate limits: a token bucket for each API key.

use std::collections::HashMap;

use kernel::values::Timestamp;
use parking_lot::Mutex;

/// Buckets kept; beyond it, those that are full again are forgotten.
const BUCKETS_MAX: usize = 100_000;

/// What is left of a key's allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests a minute.
    pub(crate) limit: u32,
    /// Requests that may follow at once.
    pub(crate) remaining: u32,
    /// Milliseconds until the allowance is whole again.
    pub(crate) reset_ms: u64,
}

#[derive(Clone, Copy)]
struct Bucket {
    /// Requests left, in millionths.
    level: i64,
    at: Timestamp,
}

/// The buckets of all keys.
#[derive(Default)]
pub(crate) struct Rates(Mutex<HashMap<String, Bucket>>);

const ONE: i64 = 1_000_000;
const MINUTE_MICROS: i64 = 60_000_000;

impl Rates {
    /// Takes one request from the bucket of `key`. `Err` carries the milliseconds until there is
    /// one to take.
    pub(crate) fn take(
        &self,
        key: &str,
        per_min: u32,
        now: Timestamp,
    ) -> Result<Allowance, (Allowance, u64)> {
        let full = i64::from(per_min).saturating_mul(ONE);
        let mut buckets = self.0.lock();
        if buckets.len() > BUCKETS_MAX {
            buckets.retain(|_, b| now.0.saturating_sub(b.at.0) < MINUTE_MICROS);
        }
        let bucket = match buckets.get_mut(key) {
            Some(bucket) => bucket,
            None => buckets.entry(key.to_owned()).or_insert(Bucket { level: full, at: now }),
        };
        // Level per micro: per_min × 10^6 millionths in 60 × 10^6 µs.
        let passed = now.0.saturating_sub(bucket.at.0).clamp(0, MINUTE_MICROS);
        let refill = passed.saturating_mul(i64::from(per_min)) / 60;
        bucket.level = bucket.level.saturating_add(refill).min(full);
        bucket.at = now;
        let wait_ms = |missing: i64| {
            let micros = missing.saturating_mul(60) / i64::from(per_min.max(1));
            u64::try_from(micros.div_euclid(1_000)).unwrap_or(0).saturating_add(1)
        };
        let taken = bucket.level >= ONE;
        if taken {
            bucket.level -= ONE;
        }
        let allowance = Allowance {
            limit: per_min,
            remaining: u32::try_from(bucket.level / ONE).unwrap_or(0),
            reset_ms: wait_ms(full - bucket.level),
        };
        if taken { Ok(allowance) } else { Err((allowance, wait_ms(ONE - bucket.level))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refills_evenly() {
        let rates = Rates::default();
        let at = |ms: i64| Timestamp(ms * 1_000);
        for left in (0..60).rev() {
            assert_eq!(rates.take("k", 60, at(0)).unwrap().remaining, left);
        }
        let (empty, wait_ms) = rates.take("k", 60, at(0)).unwrap_err();
        assert_eq!((empty.remaining, empty.limit), (0, 60));
        assert!((1_000..=1_001).contains(&wait_ms), "{wait_ms}");
        assert!(rates.take("k", 60, at(999)).is_err());
        assert!(rates.take("k", 60, at(1_000)).is_ok());
        assert!(rates.take("k", 60, at(1_000)).is_err());
        assert!(rates.take("other", 60, at(0)).is_ok(), "keys do not share");
        assert!(rates.take("k", 60, at(0)).is_err(), "a clock that runs back gives nothing");
    }
}
