//! The server's clock: the system's, but never back.
//!
//! The log gives each receipt a time that is not before that of the receipt in front of it. What
//! is due, leased or timed follows from those times, so a clock that went back would leave all of
//! it undone until it is there again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kernel::values::Timestamp;
use ledger::store::Store;
use ledger::{Clock, Error};
use parking_lot::Mutex;

/// By how much the system's clock may be behind what was told before: it is set right by about so
/// much now and then. Until it is there again the server's stands still.
const STEP: Duration = Duration::from_secs(1);
/// Hundredths of its usual pace at which the server's clock goes on while the system's is further
/// behind: they meet again one day, and what was to take a minute takes little more.
const PACE_PERCENT: u128 = 90;

/// The system's clock.
pub(crate) fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    })
}

/// The system's clock, and the server's on what is stored.
pub(crate) fn of(stores: [&dyn Store; 2]) -> Result<(Clock, Clock), Error> {
    let wall = system_clock();
    let clock = steady(wall.clone(), latest(stores)?);
    Ok((wall, clock))
}

/// A clock that shows what `system` does, but nothing before what it showed, nor before `floor`.
fn steady(system: Clock, floor: Timestamp) -> Clock {
    let origin = Instant::now();
    let steady = Steady::new(system, floor, move || origin.elapsed());
    Arc::new(move || steady.now())
}

/// The time of the latest receipt in `stores`: the log's time began there.
fn latest(stores: [&dyn Store; 2]) -> Result<Timestamp, Error> {
    let mut latest = Timestamp(0);
    for store in stores {
        for log in store.logs()? {
            latest = latest.max(store.head(&log)?.map_or(latest, |head| head.time));
        }
    }
    Ok(latest)
}

struct Steady<E> {
    system: Clock,
    /// The latest time that was shown, in microseconds.
    shown: AtomicI64,
    /// What passes whatever the system's clock shows.
    elapsed: E,
    /// Since when it goes on by itself, and what it showed then.
    alone: Mutex<Option<(Duration, Timestamp)>>,
}

impl<E: Fn() -> Duration> Steady<E> {
    fn new(system: Clock, floor: Timestamp, elapsed: E) -> Self {
        let (shown, alone) = (AtomicI64::new(floor.0), Mutex::default());
        Self { system, shown, elapsed, alone }
    }

    fn now(&self) -> Timestamp {
        let system = (self.system)();
        let before = Timestamp(self.shown.fetch_max(system.0, Ordering::AcqRel));
        let behind = u128::from(before.0.saturating_sub(system.0).max(0).unsigned_abs());
        if behind <= STEP.as_micros() {
            return before.max(system);
        }
        self.go_on(before, behind)
    }

    /// Goes on without the system's clock, which is behind.
    fn go_on(&self, before: Timestamp, behind: u128) -> Timestamp {
        let mut alone = self.alone.lock();
        let elapsed = (self.elapsed)();
        let (since, from) = match *alone {
            // What was shown since came from the system: it had caught up meanwhile.
            Some((since, from)) if own(from, elapsed.saturating_sub(since)) >= before => {
                (since, from)
            }
            last => {
                if last.is_none() {
                    let behind_ms = behind / 1_000;
                    tracing::warn!(behind_ms, "the system's clock is behind the log's");
                }
                *alone.insert((elapsed, before))
            }
        };
        let now = own(from, elapsed.saturating_sub(since));
        Timestamp(self.shown.fetch_max(now.0, Ordering::AcqRel)).max(now)
    }
}

/// What the clock shows that has gone on by itself for so long.
fn own(from: Timestamp, alone: Duration) -> Timestamp {
    let micros = alone.as_micros() * PACE_PERCENT / 100;
    from.plus_micros(i64::try_from(micros).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the system's clock shows and what has passed, in seconds; and what the server's shows.
    fn shows(floor_s: i64, looks: &[(i64, u64, i64)]) {
        let system = Arc::new(AtomicI64::new(0));
        let passed = Arc::new(AtomicI64::new(0));
        let (own, since) = (system.clone(), passed.clone());
        let clock = Steady::new(
            Arc::new(move || Timestamp(own.load(Ordering::Relaxed) * 1_000_000)),
            Timestamp(floor_s * 1_000_000),
            move || Duration::from_secs(since.load(Ordering::Relaxed).unsigned_abs()),
        );
        for (at, (wall, elapsed, expected)) in looks.iter().enumerate() {
            system.store(*wall, Ordering::Relaxed);
            passed.store(i64::try_from(*elapsed).unwrap(), Ordering::Relaxed);
            assert_eq!(clock.now().0 / 1_000_000, *expected, "look {at}");
        }
    }

    #[test]
    fn the_clock_follows_the_system_and_its_jumps_forward() {
        shows(0, &[(100, 0, 100), (101, 1, 101), (4_000, 2, 4_000), (4_001, 3, 4_001)]);
    }

    #[test]
    fn a_small_step_back_is_waited_for() {
        shows(0, &[(100, 0, 100), (99, 0, 100), (100, 1, 100), (101, 2, 101)]);
    }

    #[test]
    fn after_a_jump_back_it_goes_on_at_its_pace_until_they_meet() {
        shows(
            0,
            &[
                (1_000, 0, 1_000),
                (400, 0, 1_000),
                (410, 10, 1_009),
                (500, 100, 1_090),
                // So much later the two meet.
                (6_400, 6_000, 6_400),
                (6_410, 6_010, 6_410),
                // And once more.
                (6_000, 6_010, 6_410),
                (6_100, 6_110, 6_500),
            ],
        );
    }

    #[test]
    fn a_jump_forward_while_it_goes_on_alone_is_followed() {
        shows(0, &[(1_000, 0, 1_000), (400, 0, 1_000), (5_000, 10, 5_000), (4_000, 20, 5_000)]);
        shows(0, &[(1_000, 0, 1_000), (400, 0, 1_000), (5_000, 10, 5_000), (4_000, 110, 5_000)]);
    }

    #[test]
    fn a_server_that_starts_behind_its_logs_goes_on_from_them() {
        shows(9_000, &[(100, 0, 9_000), (110, 10, 9_009), (120, 20, 9_018)]);
    }
}
