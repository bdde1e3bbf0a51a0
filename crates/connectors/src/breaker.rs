//! Circuit breakers: a system that fails again and again is left alone for a while.
//!
//! A circuit is closed at first: calls pass. After so many broken calls in a row, or too large a
//! share of broken ones over a window, it opens: calls fail at once, before anything is read or
//! sent. When that time is over it is half open: one call passes as a probe. The circuit closes if
//! the probe is healthy; else it opens again, for twice as long, up to a most.
//!
//! [`Circuit`] is pure: the time is an argument, so that every sequence of calls can be tested.
//! [`Breakers`] keeps one for each key. Nothing of it is durable: after a restart every circuit is
//! closed, and a system that is still down opens its own again.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use kernel::failure::{Category, Failure};
use kernel::values::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits;

/// The code of a call that is refused because the circuit of its system is open.
pub const CIRCUIT_OPEN: &str = "circuit_open";

/// When a circuit opens, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Broken calls in a row that open it.
    pub failures: u32,
    /// Percentage of broken calls in the window that opens it.
    pub ratio_percent: u32,
    /// Calls in the window below which the percentage says nothing.
    pub ratio_calls: u32,
    /// The window, in milliseconds. It moves on in sixths.
    pub window_ms: u64,
    /// For how long it opens the first time, in milliseconds. It doubles with each failed probe.
    pub open_ms: u64,
    /// The longest that it opens for, in milliseconds.
    pub open_max_ms: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            ratio_percent: 50,
            ratio_calls: 20,
            window_ms: 60_000,
            open_ms: 5_000,
            open_max_ms: 300_000,
        }
    }
}

impl Settings {
    /// Refuses settings that make no sense, in a sentence.
    pub fn check(&self) -> Result<(), String> {
        let most = limits::CIRCUIT_MS_MAX;
        let wrong = |field: &str, range: String| Err(format!("{field} must be {range}"));
        if !(1..=limits::CIRCUIT_CALLS_MAX).contains(&self.failures) {
            return wrong("failures", format!("1 to {}", limits::CIRCUIT_CALLS_MAX));
        }
        if !(1..=limits::CIRCUIT_CALLS_MAX).contains(&self.ratio_calls) {
            return wrong("ratio_calls", format!("1 to {}", limits::CIRCUIT_CALLS_MAX));
        }
        if !(1..=100).contains(&self.ratio_percent) {
            return wrong("ratio_percent", "1 to 100".to_owned());
        }
        if !(SLICES_MS..=most).contains(&self.window_ms) {
            return wrong("window_ms", format!("{SLICES_MS} to {most}"));
        }
        if !(1..=most).contains(&self.open_ms) {
            return wrong("open_ms", format!("1 to {most}"));
        }
        if !(self.open_ms..=most).contains(&self.open_max_ms) {
            return wrong("open_max_ms", format!("{} (open_ms) to {most}", self.open_ms));
        }
        Ok(())
    }
}

/// What became of a call that passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The system answered, whatever it said of the call.
    Healthy,
    /// It could not be reached, took too long, or failed itself.
    Broken,
}

/// Where a circuit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Position {
    /// Calls pass.
    Closed,
    /// The next call is a probe, or one is on its way.
    HalfOpen,
    /// Calls fail at once.
    Open,
}

impl Position {
    /// Every position.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// Its name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Parts that the window is counted in.
const SLICES: usize = 6;
const SLICES_MS: u64 = 6;

/// The calls of one part of the window.
#[derive(Clone, Copy, Debug)]
struct Slice {
    /// Which part, counted from 1970.
    index: i64,
    calls: u32,
    broken: u32,
}

/// How calls of late ended.
#[derive(Clone, Copy, Debug)]
struct Window([Slice; SLICES]);

impl Window {
    const EMPTY: Self = Self([Slice { index: i64::MIN, calls: 0, broken: 0 }; SLICES]);

    fn index(settings: &Settings, now: Timestamp) -> i64 {
        let micros = millis(settings.window_ms).saturating_mul(1_000) / SLICES_MS.cast_signed();
        now.0.div_euclid(micros.max(1))
    }

    fn count(&mut self, settings: &Settings, how: Ended, now: Timestamp) {
        let index = Self::index(settings, now);
        let broken = u32::from(how == Ended::Broken);
        if let Some(slice) = self.0.iter_mut().find(|slice| slice.index == index) {
            slice.calls = slice.calls.saturating_add(1);
            slice.broken = slice.broken.saturating_add(broken);
        } else if let Some(oldest) = self.0.iter_mut().min_by_key(|slice| slice.index) {
            *oldest = Slice { index, calls: 1, broken };
        }
    }

    /// Calls in the window, and how many of them were broken.
    fn sum(&self, settings: &Settings, now: Timestamp) -> (u32, u32) {
        let index = Self::index(settings, now);
        let first = index.saturating_sub(SLICES_MS.cast_signed());
        let of_late = self.0.iter().filter(|slice| slice.index > first && slice.index <= index);
        of_late.fold((0, 0), |(calls, broken), slice| {
            (slice.calls.saturating_add(calls), slice.broken.saturating_add(broken))
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open {
        since: Timestamp,
        ms: u64,
    },
    /// `ms` is how long it was open for before.
    Probing {
        ms: u64,
    },
}

/// The right to make one call, and what its end says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// How often the circuit had moved when the call began: an end of an earlier time says nothing
    /// of what is so now.
    generation: u64,
}

/// One circuit.
#[derive(Clone, Debug)]
pub struct Circuit {
    state: State,
    in_a_row: u32,
    window: Window,
    generation: u64,
    used: Timestamp,
    opened: u64,
    refused: u64,
}

impl Circuit {
    /// A closed one.
    pub fn new(now: Timestamp) -> Self {
        Self {
            state: State::Closed,
            in_a_row: 0,
            window: Window::EMPTY,
            generation: 0,
            used: now,
            opened: 0,
            refused: 0,
        }
    }

    /// Where it is: a circuit whose time is over is half open, even before the next call.
    pub fn position(&self, now: Timestamp) -> Position {
        match self.state {
            State::Closed => Position::Closed,
            State::Probing { .. } => Position::HalfOpen,
            State::Open { since, ms } if left_ms(since, ms, now) == 0 => Position::HalfOpen,
            State::Open { .. } => Position::Open,
        }
    }

    /// Lets a call pass, or says in how many milliseconds to try again.
    pub fn enter(&mut self, settings: &Settings, now: Timestamp) -> Result<Ticket, u64> {
        self.used = now;
        let wait = match self.state {
            State::Closed => return Ok(Ticket { generation: self.generation }),
            // How long the probe takes is not known: as long as the circuit first opens for is a
            // time in which it is not asked again and again.
            State::Probing { .. } => settings.open_ms,
            State::Open { since, ms } => {
                if now < since {
                    // The clock ran back: the time starts anew, so it is never longer than meant.
                    self.state = State::Open { since: now, ms };
                    ms
                } else {
                    let left = left_ms(since, ms, now);
                    if left == 0 {
                        self.go(State::Probing { ms });
                        return Ok(Ticket { generation: self.generation });
                    }
                    left
                }
            }
        };
        self.refused = self.refused.saturating_add(1);
        Err(wait)
    }

    /// In how many milliseconds to try again, where a call would not pass now.
    pub fn wait_ms(&self, settings: &Settings, now: Timestamp) -> Option<u64> {
        match self.state {
            State::Closed => None,
            State::Probing { .. } => Some(settings.open_ms),
            State::Open { since, ms } => Some(left_ms(since, ms, now).min(ms)).filter(|ms| *ms > 0),
        }
    }

    /// A call that passed has ended.
    pub fn ended(&mut self, settings: &Settings, ticket: Ticket, how: Ended, now: Timestamp) {
        if ticket.generation != self.generation {
            return;
        }
        match (self.state, how) {
            (State::Closed, _) => {
                self.in_a_row = match how {
                    Ended::Healthy => 0,
                    Ended::Broken => self.in_a_row.saturating_add(1),
                };
                self.window.count(settings, how, now);
                if how == Ended::Broken && self.too_many(settings, now) {
                    self.open(now, settings.open_ms);
                }
            }
            (State::Probing { .. }, Ended::Healthy) => self.go(State::Closed),
            (State::Probing { ms }, Ended::Broken) => {
                self.open(now, ms.saturating_mul(2).min(settings.open_max_ms));
            }
            // No call passes while it is open, so no ticket is of this generation.
            (State::Open { .. }, _) => {}
        }
    }

    /// A call that passed was given up, and says nothing: the next one may be the probe.
    pub fn dropped(&mut self, ticket: Ticket, now: Timestamp) {
        if let (State::Probing { ms }, true) = (self.state, ticket.generation == self.generation) {
            let since = now.plus_millis(millis(ms).saturating_neg());
            self.go(State::Open { since, ms });
        }
    }

    fn too_many(&self, settings: &Settings, now: Timestamp) -> bool {
        let (calls, broken) = self.window.sum(settings, now);
        let share = u64::from(broken) * 100 >= u64::from(calls) * u64::from(settings.ratio_percent);
        self.in_a_row >= settings.failures || (calls >= settings.ratio_calls && share)
    }

    fn open(&mut self, now: Timestamp, ms: u64) {
        self.opened = self.opened.saturating_add(1);
        self.go(State::Open { since: now, ms });
    }

    fn go(&mut self, state: State) {
        self.state = state;
        self.in_a_row = 0;
        self.window = Window::EMPTY;
        self.generation = self.generation.wrapping_add(1);
    }

    /// Whether it knows nothing that a new one would not.
    fn idle(&self, settings: &Settings, now: Timestamp) -> bool {
        let still = now.0.saturating_sub(self.used.0) > millis(settings.window_ms) * 1_000;
        still && matches!(self.state, State::Closed) && self.in_a_row == 0
    }
}

fn millis(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

/// Milliseconds until a circuit that opened at `since` for `ms` is half open.
fn left_ms(since: Timestamp, ms: u64, now: Timestamp) -> u64 {
    let until = since.plus_millis(millis(ms));
    let micros = u64::try_from(until.0.saturating_sub(now.0)).unwrap_or(0);
    micros.div_ceil(1_000)
}

/// A circuit as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Whose it is.
    pub key: String,
    /// Where it is.
    pub position: Position,
    /// How often it opened since this process started.
    pub opened: u64,
    /// Calls that it refused since then.
    pub refused: u64,
}

/// The circuits of all systems, by key: `<tenant>/<instance>`, so that none hears of another
/// tenant's.
#[derive(Debug)]
pub struct Breakers {
    settings: Settings,
    circuits: Mutex<HashMap<String, Circuit>>,
}

impl Breakers {
    /// No circuit yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, circuits: Mutex::default() }
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashMap<String, Circuit>) -> T) -> T {
        act(&mut self.circuits.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a call to the system of `key` pass. The failure says when to try again.
    pub fn enter(&self, key: &str, now: Timestamp) -> Result<Pass<'_>, Failure> {
        let entered = self.with(|circuits| {
            if !circuits.contains_key(key) {
                make_room(circuits, &self.settings, now);
            }
            let circuit = circuits.entry(key.to_owned()).or_insert_with(|| Circuit::new(now));
            circuit.enter(&self.settings, now)
        });
        match entered {
            Ok(ticket) => {
                let of = Some(self);
                Ok(Pass { of, key: key.to_owned(), ticket, at: now, entered: Instant::now() })
            }
            Err(wait_ms) => Err(refused(key, wait_ms)),
        }
    }

    /// The failure that a call to the system of `key` would have now, without one: for who can
    /// wait. None where a call may pass.
    pub fn peek(&self, key: &str, now: Timestamp) -> Option<Failure> {
        let wait = self.with(|circuits| circuits.get(key)?.wait_ms(&self.settings, now));
        wait.map(|wait_ms| refused(key, wait_ms))
    }

    /// Every circuit, by key.
    pub fn seen(&self, now: Timestamp) -> Vec<Seen> {
        let mut seen: Vec<Seen> = self.with(|circuits| {
            let seen = circuits.iter().map(|(key, circuit)| Seen {
                key: key.clone(),
                position: circuit.position(now),
                opened: circuit.opened,
                refused: circuit.refused,
            });
            seen.collect()
        });
        seen.sort_by(|a, b| a.key.cmp(&b.key));
        seen
    }

    /// Forgets the circuit of `key`: there is no such system any more, or it is another one now.
    pub fn forget(&self, key: &str) {
        self.with(|circuits| circuits.remove(key));
    }
}

fn refused(key: &str, wait_ms: u64) -> Failure {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    let message =
        format!("`{name}` failed again and again, and is not called for another {wait_ms} ms");
    Failure::new(Category::Upstream, CIRCUIT_OPEN, message).retry_after_ms(wait_ms)
}

/// Keeps the circuits within their bound: those that know nothing go first, then whichever was
/// used longest ago.
fn make_room(circuits: &mut HashMap<String, Circuit>, settings: &Settings, now: Timestamp) {
    if circuits.len() < limits::CIRCUITS_MAX {
        return;
    }
    circuits.retain(|_, circuit| !circuit.idle(settings, now));
    while circuits.len() >= limits::CIRCUITS_MAX {
        let oldest = circuits.iter().min_by_key(|(_, circuit)| circuit.used);
        let Some(key) = oldest.map(|(key, _)| key.clone()) else { return };
        circuits.remove(&key);
    }
}

/// One call that passed. Dropped without an end it says nothing, and frees the place of a probe.
#[derive(Debug)]
pub struct Pass<'a> {
    of: Option<&'a Breakers>,
    key: String,
    ticket: Ticket,
    at: Timestamp,
    entered: Instant,
}

impl Pass<'_> {
    /// The call has ended.
    pub fn ended(mut self, how: Ended) {
        let now = self.now();
        if let Some(of) = self.of.take() {
            of.with(|circuits| {
                if let Some(circuit) = circuits.get_mut(&self.key) {
                    circuit.ended(&of.settings, self.ticket, how, now);
                }
            });
        }
    }

    /// The time at which the call began, and what has passed since: a call may take long.
    fn now(&self) -> Timestamp {
        let passed = i64::try_from(self.entered.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.at.plus_micros(passed)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let now = self.now();
        if let Some(of) = self.of.take() {
            of.with(|circuits| {
                if let Some(circuit) = circuits.get_mut(&self.key) {
                    circuit.dropped(self.ticket, now);
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
