//! A bound on how much happens in any span of time, and whose turn it is next.
//!
//! What happened is kept by its time in the log, so that the bound holds of the log: of any span,
//! begin excluded and end included, at most so many are in it. What is about to happen counts
//! until it has happened or come to nothing. Who comes too early and will come back is given a
//! time, and whoever comes later has to wait behind it: nobody starves, and nobody asks again and
//! again. Such times bound nothing: they are forgotten with the process, and the rule still holds.

use std::collections::{BTreeSet, VecDeque};

use crate::limits;
use crate::values::Timestamp;

/// How long a time that was given is kept for somebody who does not come, in microseconds.
const GRACE_MICROS: i64 = 10_000_000;
/// When to look again where all that there is room for is about to happen, in microseconds.
const SOON_MICROS: i64 = 1_000_000;

/// What happened of late, and what is to come.
#[derive(Clone, Debug)]
pub struct Window {
    limit: usize,
    micros: i64,
    /// When it happened, the earliest first.
    taken: VecDeque<Timestamp>,
    /// About to happen.
    pending: usize,
    /// The times that were given, and to whom.
    booked: BTreeSet<(Timestamp, String)>,
}

fn at_least_one(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX).max(1)
}

impl Window {
    /// At most `limit` in any span of `micros`.
    pub fn new(limit: u32, micros: i64) -> Self {
        Self {
            limit: at_least_one(limit),
            micros: micros.max(1),
            taken: VecDeque::new(),
            pending: 0,
            booked: BTreeSet::new(),
        }
    }

    /// Bounds it by another number from now on: what happened is kept, and counts.
    pub fn bound_by(&mut self, limit: u32) {
        self.limit = at_least_one(limit);
    }

    /// Whether one more may happen now.
    pub fn has_room(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.taken.len().saturating_add(self.pending) < self.limit
    }

    /// When one more may happen that has not asked before: behind those who were given a time.
    pub fn earliest(&mut self, now: Timestamp) -> Timestamp {
        self.forget(now);
        let ahead = std::iter::repeat_n(now, self.pending);
        let given = self.booked.iter().map(|(at, _)| *at);
        let mut all: Vec<Timestamp> =
            self.taken.iter().copied().chain(ahead).chain(given).collect();
        all.sort_unstable();
        if self.fits(&all, now) {
            return now;
        }
        let after = all.iter().map(|at| at.plus_micros(self.micros));
        // After the last of them there is always room.
        let fits = { after }.find(|at| *at > now && self.fits(&all, *at));
        fits.unwrap_or(now.plus_micros(self.micros))
    }

    /// Whether no span would have too many in it with one more at `at`.
    fn fits(&self, all: &[Timestamp], at: Timestamp) -> bool {
        let place = all.partition_point(|other| *other <= at);
        let (before, after) = all.split_at_checked(place).unwrap_or((all, &[]));
        let mut with: VecDeque<Timestamp> = VecDeque::with_capacity(self.limit.saturating_mul(2));
        with.extend(before.iter().skip(before.len().saturating_sub(self.limit)));
        with.push_back(at);
        with.extend(after.iter().take(self.limit));
        let later = with.iter().skip(self.limit);
        !with.iter().zip(later).any(|(first, last)| last.0.saturating_sub(first.0) < self.micros)
    }

    /// When to come back where there is no room for `who` although their time has come: behind
    /// those who were told the same.
    pub fn again(&mut self, who: &str, now: Timestamp) -> Timestamp {
        self.forget(now);
        let soon = now.plus_micros(SOON_MICROS);
        let others = self.booked.iter().filter(|(_, name)| name != who);
        let told = others.filter(|(at, _)| *at > now && *at <= soon).count();
        let over = self.taken.len().saturating_add(self.pending).saturating_sub(self.limit);
        match self.taken.get(over.saturating_add(told)) {
            Some(at) => at.plus_micros(self.micros).max(now.plus_micros(1)),
            None => soon,
        }
    }

    /// The time that `who` was given.
    pub fn given(&self, who: &str) -> Option<Timestamp> {
        self.booked.iter().find(|(_, name)| name == who).map(|(at, _)| *at)
    }

    /// Gives `who` a time, in place of any that it had; whether one more can be given.
    pub fn give(&mut self, who: &str, at: Timestamp) -> bool {
        self.take_back(who);
        let room = self.booked.len() < limits::CAP_BOOKED_MAX;
        room && self.booked.insert((at, who.to_owned()))
    }

    /// Takes the time of `who` back.
    pub fn take_back(&mut self, who: &str) {
        self.booked.retain(|(_, name)| name != who);
    }

    /// One more is about to happen.
    pub fn enter(&mut self) {
        self.pending = self.pending.saturating_add(1);
    }

    /// What was about to happen came to nothing.
    pub fn leave(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// What was about to happen has happened.
    pub fn took(&mut self, at: Timestamp) {
        self.leave();
        self.happened(at);
    }

    /// It happened, as the log says.
    pub fn happened(&mut self, at: Timestamp) {
        let place = self.taken.partition_point(|other| *other <= at);
        self.taken.insert(place, at);
    }

    /// Whether it knows nothing that a new one would not.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.taken.is_empty() && self.pending == 0 && self.booked.is_empty()
    }

    fn forget(&mut self, now: Timestamp) {
        let past = now.plus_micros(self.micros.saturating_neg());
        while self.taken.front().is_some_and(|at| *at <= past) {
            self.taken.pop_front();
        }
        let stale = now.plus_micros(-GRACE_MICROS);
        while self.booked.first().is_some_and(|(at, _)| *at < stale) {
            self.booked.pop_first();
        }
    }
}
