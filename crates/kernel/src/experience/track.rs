//! How the attempts of one tool went, and how well that was foreseen.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::{Drift, Ended};
use crate::failure::Category;
use crate::ids::ToolId;
use crate::limits;
use crate::simulate::{Divergence, History, Spread, divergence, prior_latency_ms};
use crate::values::{MicroUsd, Timestamp};

/// One attempt that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub struct Observation {
    /// The receipt that tells of its end.
    pub index: u64,
    /// How long it took, from the receipt of its start on.
    pub took_ms: u32,
    /// What was estimated.
    pub estimated_ms: u32,
    /// What it cost.
    pub cost: MicroUsd,
    /// What was estimated.
    pub estimated_cost: MicroUsd,
    /// Why it failed; none where it executed.
    pub failure: Option<Category>,
}

/// An observation as it is kept: there may be a hundred thousand.
type Row = (u64, u32, u32, i64, i64, Option<Category>);

impl From<Row> for Observation {
    fn from((index, took_ms, estimated_ms, cost, estimated_cost, failure): Row) -> Self {
        let (cost, estimated_cost) = (MicroUsd(cost), MicroUsd(estimated_cost));
        Self { index, took_ms, estimated_ms, cost, estimated_cost, failure }
    }
}

impl From<Observation> for Row {
    fn from(one: Observation) -> Self {
        let (cost, estimated_cost) = (one.cost.0, one.estimated_cost.0);
        (one.index, one.took_ms, one.estimated_ms, cost, estimated_cost, one.failure)
    }
}

/// What is estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Estimator {
    /// How long an attempt takes.
    Latency,
    /// What it costs.
    Cost,
}

impl Estimator {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Latency, Self::Cost];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Latency => "latency",
            Self::Cost => "cost",
        }
    }

    /// What counts as no difference.
    fn tolerance(self) -> u64 {
        match self {
            Self::Latency => limits::LATENCY_TOLERANCE_MS,
            Self::Cost => 0,
        }
    }

    /// What was estimated, and what it came to.
    fn of(self, one: &Observation) -> (u64, u64) {
        let money = |amount: MicroUsd| u64::try_from(amount.0).unwrap_or(0);
        match self {
            Self::Latency => (one.estimated_ms.into(), one.took_ms.into()),
            Self::Cost => (money(one.estimated_cost), money(one.cost)),
        }
    }
}

/// What is estimated from now on, until the next ten attempts executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fit {
    latency: Spread,
    cost: Spread,
}

/// How the latest attempts of one tool in one environment went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Track {
    /// What is assumed before anything is known.
    prior_ms: u32,
    /// The latest attempts, the oldest first.
    window: VecDeque<Observation>,
    /// All attempts that ever ended.
    attempts: u64,
    /// How many of them executed.
    executed: u64,
    /// After how many of them another attempt followed.
    retried: u64,
    fit: Option<Fit>,
    latency: Drift,
    cost: Drift,
    last_index: u64,
}

/// How an attempt compares with what was estimated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// The attempt.
    pub attempt: Observation,
    /// How far its time was off.
    pub latency: Divergence,
    /// How far its cost was off.
    pub cost: Divergence,
}

/// How well one estimator of a tool does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Which.
    pub estimator: Estimator,
    /// Attempts that executed and are remembered.
    pub samples: u64,
    /// Half of them were off by at most so many millionths of the estimate.
    pub delta_p50_ppm: u64,
    /// Nine of ten were off by at most so many.
    pub delta_p90_ppm: u64,
    /// How many were a mismatch.
    pub outliers: u64,
    /// How many were a match.
    pub matches: u64,
    /// What the typical difference is.
    pub verdict: Option<Divergence>,
    /// By how much the latest samples were off, to one side.
    pub drift_ppm: i64,
    /// Until when it is disabled.
    pub disabled_until: Option<Timestamp>,
    /// How often it was disabled.
    pub times_disabled: u32,
}

impl Track {
    pub(super) fn new(tool: &ToolId, index: u64) -> Self {
        Self {
            prior_ms: u32::try_from(prior_latency_ms(tool)).unwrap_or(u32::MAX),
            window: VecDeque::new(),
            attempts: 0,
            executed: 0,
            retried: 0,
            fit: None,
            latency: Drift::default(),
            cost: Drift::default(),
            last_index: index,
        }
    }

    /// The receipt that it was last told of.
    pub(super) fn last_index(&self) -> u64 {
        self.last_index
    }

    /// All attempts that ever ended, and after how many another followed.
    pub fn totals(&self) -> (u64, u64) {
        (self.attempts, self.retried)
    }

    pub(super) fn observe(&mut self, ended: &Ended<'_>, cost: MicroUsd) {
        self.last_index = ended.index;
        self.attempts = self.attempts.saturating_add(1);
        self.retried = self.retried.saturating_add(ended.retried.into());
        let fit = |drift: &Drift| self.fit.filter(|_| drift.disabled_until(ended.at).is_none());
        let known_ms = fit(&self.latency).map(|fit| clamped(fit.latency.p50));
        let known_cost = fit(&self.cost).map(|fit| amount(fit.cost.p50));
        if self.window.len() >= limits::EXPERIENCE_WINDOW {
            self.window.pop_front();
        }
        self.window.push_back(Observation {
            index: ended.index,
            took_ms: ended.took_ms(),
            estimated_ms: known_ms.unwrap_or(self.prior_ms),
            cost,
            estimated_cost: known_cost.unwrap_or(ended.request.estimate),
            failure: ended.failure.map(|(_, category)| category),
        });
        if ended.failure.is_none() {
            self.executed = self.executed.saturating_add(1);
            if self.executed.is_multiple_of(limits::HISTORY_MIN) {
                self.sample(ended.at);
            }
        }
    }

    /// Ten more have executed: compares them with what was estimated, and estimates anew.
    fn sample(&mut self, now: Timestamp) {
        let latest = usize::try_from(limits::HISTORY_MIN).unwrap_or(usize::MAX);
        if let Some(fit) = self.fit {
            let estimates = [fit.latency.p50, fit.cost.p50];
            let medians = Estimator::ALL.map(|what| {
                let latest = self.executed_ones().rev().take(latest);
                spread(latest.map(|one| what.of(one).1).collect()).p50
            });
            let drifts = [&mut self.latency, &mut self.cost];
            for (((what, drift), estimate), median) in
                Estimator::ALL.into_iter().zip(drifts).zip(estimates).zip(medians)
            {
                drift.observe(estimate, median, what.tolerance(), now);
            }
        }
        let [latency, cost] = Estimator::ALL
            .map(|what| spread(self.executed_ones().map(|one| what.of(one).1).collect()));
        self.fit = Some(Fit { latency, cost });
    }

    fn executed_ones(&self) -> impl DoubleEndedIterator<Item = &Observation> {
        self.window.iter().filter(|one| one.failure.is_none())
    }

    /// How many of the latest attempts failed, by category.
    pub fn failures(&self) -> BTreeMap<Category, u64> {
        let mut failures = BTreeMap::new();
        for category in self.window.iter().filter_map(|one| one.failure) {
            *failures.entry(category).or_default() += 1;
        }
        failures
    }

    /// What a simulation needs to know.
    pub(super) fn history(&self, now: Timestamp) -> History {
        let failures = self.failures();
        let until = |drift: &Drift| drift.disabled_until(now);
        History {
            attempts: count(self.window.len()),
            failures: failures.values().sum(),
            categories: failures,
            latency: self.fit.map(|fit| fit.latency),
            cost: self.fit.map(|fit| fit.cost),
            latency_disabled_until: until(&self.latency),
            cost_disabled_until: until(&self.cost),
        }
    }

    /// How well an estimator does.
    pub fn report(&self, estimator: Estimator, now: Timestamp) -> Report {
        let pairs: Vec<(u64, u64)> =
            self.executed_ones().map(|one| close(estimator, one)).collect();
        let deltas =
            spread(pairs.iter().map(|(estimate, actual)| delta(*estimate, *actual)).collect());
        let verdicts = || pairs.iter().map(|(estimate, actual)| divergence(*estimate, *actual));
        let drift = match estimator {
            Estimator::Latency => &self.latency,
            Estimator::Cost => &self.cost,
        };
        Report {
            estimator,
            samples: count(pairs.len()),
            delta_p50_ppm: deltas.p50,
            delta_p90_ppm: deltas.p90,
            outliers: count(verdicts().filter(|v| *v == Divergence::Mismatch).count()),
            matches: count(verdicts().filter(|v| *v == Divergence::Match).count()),
            verdict: (!pairs.is_empty()).then(|| typical(deltas.p50)),
            drift_ppm: drift.drift_ppm(),
            disabled_until: drift.disabled_until(now),
            times_disabled: drift.times_disabled(),
        }
    }

    /// How many of the latest attempts are remembered.
    pub fn remembered(&self) -> u64 {
        count(self.window.len())
    }

    /// What is remembered of the attempts whose end these receipts tell of.
    pub(super) fn comparisons(&self, receipts: &[u64]) -> Vec<Comparison> {
        let told = self.window.iter().filter(|one| receipts.contains(&one.index));
        told.map(|one| {
            let off = |what| {
                let (estimate, actual) = close(what, one);
                divergence(estimate, actual)
            };
            Comparison {
                attempt: *one,
                latency: off(Estimator::Latency),
                cost: off(Estimator::Cost),
            }
        })
        .collect()
    }
}

/// What was estimated and what it came to, where a difference that does not count is none.
fn close(estimator: Estimator, one: &Observation) -> (u64, u64) {
    let (estimate, actual) = estimator.of(one);
    let near = estimate.abs_diff(actual) <= estimator.tolerance();
    (estimate, if near { estimate } else { actual })
}

/// How far an estimate was off, in millionths of it.
fn delta(estimate: u64, actual: u64) -> u64 {
    let off = u128::from(estimate.abs_diff(actual)) * 1_000_000;
    u64::try_from(off / u128::from(estimate.max(1))).unwrap_or(u64::MAX)
}

fn typical(delta_ppm: u64) -> Divergence {
    divergence(1_000_000, 1_000_000_u64.saturating_add(delta_ppm))
}

/// The values that half and nine tenths of `values` do not exceed (nearest rank: exact).
fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let rank = |tenths: usize| {
        let rank = (values.len() * tenths).div_ceil(10).saturating_sub(1);
        values.get(rank).copied().unwrap_or(0)
    };
    Spread { p50: rank(5), p90: rank(9) }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn clamped(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn amount(value: u64) -> MicroUsd {
    MicroUsd(i64::try_from(value).unwrap_or(i64::MAX))
}
