//! The attempts that this server carries out at this moment.
//!
//! A lease is over by the clock, which may jump. An attempt that is known to go on here is not lost
//! before it has had its time by a clock that does not, nor while its outcome is being kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kernel::action::Action;
use kernel::ids::ActionId;
use kernel::limits::PERMIT_MICROS_MAX;
use parking_lot::Mutex;

#[derive(Debug)]
struct Attempt {
    number: u32,
    began: Instant,
    /// Whether its effect is over, and its outcome in hand.
    ended: bool,
}

/// The attempts.
#[derive(Debug, Default)]
pub(crate) struct Underway(Mutex<HashMap<ActionId, Attempt>>);

/// An attempt that goes on until this is dropped.
pub(super) struct Going<'a> {
    underway: &'a Underway,
    action: ActionId,
    number: u32,
}

impl Underway {
    /// An attempt begins.
    pub(super) fn begin(&self, action: &ActionId, number: u32) -> Going<'_> {
        let attempt = Attempt { number, began: Instant::now(), ended: false };
        self.0.lock().insert(action.clone(), attempt);
        Going { underway: self, action: action.clone(), number }
    }

    /// Whether the attempt of `action` goes on here, and may.
    pub(super) fn holds(&self, action: &Action) -> bool {
        let Some(attempt) = &action.attempt else { return false };
        let most = Duration::from_micros(PERMIT_MICROS_MAX.unsigned_abs())
            .saturating_add(Duration::from_millis(action.request.timeout_ms));
        let underway = self.0.lock();
        let own = underway.get(&action.id).filter(|own| own.number == attempt.number);
        own.is_some_and(|own| own.ended || own.began.elapsed() < most)
    }
}

impl Going<'_> {
    /// Its effect is over.
    pub(super) fn ended(&self) {
        let mut underway = self.underway.0.lock();
        let own = underway.get_mut(&self.action).filter(|own| own.number == self.number);
        if let Some(own) = own {
            own.ended = true;
        }
    }
}

impl Drop for Going<'_> {
    fn drop(&mut self) {
        let mut underway = self.underway.0.lock();
        if underway.get(&self.action).is_some_and(|own| own.number == self.number) {
            underway.remove(&self.action);
        }
    }
}
