//! Whether a period has the receipts that a catalog asks for.

use super::{Catalog, Control, Filter, Requirement};
use crate::decision::Effect;
use crate::values::Timestamp;

const DAY_MICROS: i64 = 86_400_000_000;

/// A change and what it is about.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Its type: `action.decided`.
    pub change: &'a str,
    /// The id of its receipt.
    pub receipt: &'a str,
    /// When.
    pub time: Timestamp,
    /// The tool of its action.
    pub tool: Option<&'a str>,
    /// The labels of that which weigh in its risk.
    pub labels: &'a [String],
    /// Where.
    pub environment: Option<&'a str>,
    /// The decision about its action.
    pub effect: Option<Effect>,
    /// The rules that took part in it.
    pub rules: &'a [String],
    /// The state that the change says.
    pub status: Option<&'a str>,
}

/// What was found for one requirement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// How many changes.
    pub found: u64,
    /// The receipt of the first.
    pub first: Option<String>,
    /// The receipt of the last.
    pub last: Option<String>,
    /// How many in each stretch of so many days as one is expected in.
    windows: Vec<u64>,
}

/// A stretch of time without what is expected in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Its beginning.
    pub from: Timestamp,
    /// Its end, which is not part of it.
    pub to: Timestamp,
}

/// How one requirement is met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Met<'a> {
    /// Which.
    pub requirement: &'a Requirement,
    /// What was found.
    pub evidence: Evidence,
    /// When nothing was, though something is expected.
    pub gaps: Vec<Gap>,
}

impl Met<'_> {
    /// Whether it is met.
    pub fn is_met(&self) -> bool {
        self.gaps.is_empty() && self.evidence.found >= self.requirement.at_least
    }
}

/// Looks for what a catalog asks for.
#[derive(Debug)]
pub struct Coverage<'a> {
    catalog: &'a Catalog,
    since: Timestamp,
    until: Timestamp,
    /// For each control, for each of its requirements.
    found: Vec<Vec<Evidence>>,
}

impl<'a> Coverage<'a> {
    /// Of the time from `since` to, not including, `until`.
    pub fn new(catalog: &'a Catalog, since: Timestamp, until: Timestamp) -> Self {
        let windows = |requirement: &Requirement| {
            let windows = usize::try_from(windows(requirement, since, until)).unwrap_or(0);
            Evidence { windows: vec![0; windows], ..Evidence::default() }
        };
        let of = |control: &Control| control.requires.iter().map(windows).collect();
        let found = catalog.controls.iter().map(of).collect();
        Self { catalog, since, until, found }
    }

    /// Takes a change into account. They come in the order of their log.
    pub fn see(&mut self, seen: &Seen<'_>) {
        if seen.time < self.since || seen.time >= self.until {
            return;
        }
        for (control, found) in self.catalog.controls.iter().zip(&mut self.found) {
            for (requirement, evidence) in control.requires.iter().zip(found) {
                if requirement.counts(seen) {
                    evidence.take(requirement, seen, self.since);
                }
            }
        }
    }

    /// What was found, control by control.
    pub fn met(self) -> Vec<(&'a Control, Vec<Met<'a>>)> {
        let Self { catalog, since, until, found } = self;
        let met = |(requirement, evidence): (&'a Requirement, Evidence)| {
            let gaps = gaps(requirement, &evidence, since, until);
            Met { requirement, evidence, gaps }
        };
        let controls = catalog.controls.iter().zip(found);
        controls.map(|(c, found)| (c, c.requires.iter().zip(found).map(met).collect())).collect()
    }
}

impl Evidence {
    fn take(&mut self, requirement: &Requirement, seen: &Seen<'_>, since: Timestamp) {
        self.found = self.found.saturating_add(1);
        if self.first.is_none() {
            self.first = Some(seen.receipt.to_owned());
        }
        self.last = Some(seen.receipt.to_owned());
        let passed = seen.time.0.saturating_sub(since.0);
        let window = length(requirement).map(|length| passed / length);
        let window = window.and_then(|window| usize::try_from(window).ok());
        if let Some(count) = window.and_then(|window| self.windows.get_mut(window)) {
            *count = count.saturating_add(1);
        }
    }
}

fn length(requirement: &Requirement) -> Option<i64> {
    requirement.every_days.map(|days| i64::from(days).saturating_mul(DAY_MICROS))
}

/// How many stretches the period has: whole ones, and one at least. What is left at the end is too
/// short for anything to be expected in it.
fn windows(requirement: &Requirement, since: Timestamp, until: Timestamp) -> i64 {
    let period = until.0.saturating_sub(since.0).max(0);
    length(requirement).map_or(0, |length| (period / length).max(1))
}

fn gaps(
    requirement: &Requirement,
    evidence: &Evidence,
    since: Timestamp,
    until: Timestamp,
) -> Vec<Gap> {
    let mut gaps: Vec<Gap> = Vec::new();
    let Some(length) = length(requirement) else {
        return match evidence.found {
            0 => vec![Gap { from: since, to: until }],
            _ => gaps,
        };
    };
    let mut from = since;
    for found in &evidence.windows {
        let to = from.plus_micros(length).min(until);
        match gaps.last_mut() {
            Some(last) if *found == 0 && last.to == from => last.to = to,
            _ if *found == 0 => gaps.push(Gap { from, to }),
            _ => {}
        }
        from = to;
    }
    gaps
}

impl Requirement {
    fn counts(&self, seen: &Seen<'_>) -> bool {
        self.receipts.iter().any(|change| change == seen.change) && self.filter.passes(seen)
    }
}

/// Whether `pattern` is `text`, or ends with `*` and `text` begins with the rest.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(beginning) => text.starts_with(beginning),
        None => pattern == text,
    }
}

fn any(patterns: &[String], text: Option<&str>) -> bool {
    patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|p| fits(p, text)))
}

impl Filter {
    /// Whether a change is about what it must be about.
    pub fn passes(&self, seen: &Seen<'_>) -> bool {
        let rule = |pattern: &String| seen.rules.iter().any(|rule| fits(pattern, rule));
        any(&self.tools, seen.tool)
            && self.labels.iter().all(|label| seen.labels.contains(label))
            && (self.effects.is_empty() || seen.effect.is_some_and(|e| self.effects.contains(&e)))
            && (self.rules.is_empty() || self.rules.iter().any(rule))
            && any(&self.environments, seen.environment)
            && any(&self.statuses, seen.status)
    }
}
