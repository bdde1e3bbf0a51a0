//! Runs by day, workflow, environment or agent: what they cost, how they ended, what became of
//! their writes. Read from the states of runs and from the meters, which the writer keeps with each
//! commit: no receipt is read.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use kernel::machine::{Kind, State};
use kernel::meter::{Meter, Writes};
use kernel::receipt::LogId;
use kernel::run::{Run, Status, StepStatus};
use kernel::units::Unit;
use ledger::store::Page;
use proto::metering::{GetRunReportRequest, GetRunReportResponse, RunReport};

use super::{MeteringApi, date, days};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Caller;

const DAY_MILLIS: i64 = 86_400_000;

/// By what runs are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupBy {
    Day,
    Workflow,
    Environment,
    Agent,
}

impl GroupBy {
    const ALL: [(&'static str, Self); 4] = [
        ("day", Self::Day),
        ("workflow", Self::Workflow),
        ("environment", Self::Environment),
        ("agent", Self::Agent),
    ];

    fn parse(name: &str) -> Result<(&'static str, Self)> {
        let name = if name.is_empty() { "day" } else { name };
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.ok_or_else(|| {
            Refused::invalid("group_by: `day`, `workflow`, `environment` or `agent`")
        })
    }

    fn of(self, run: &Run) -> String {
        match self {
            Self::Day => date(run.requested_at.day()),
            Self::Workflow => workflow(run).to_owned(),
            Self::Environment => run.request.environment.to_string(),
            Self::Agent => {
                let acting = run.request.actors.acting();
                acting.map(|actor| actor.id.to_string()).unwrap_or_default()
            }
        }
    }
}

/// The workflow that a run is of; empty for a plan that came with the request.
fn workflow(run: &Run) -> &str {
    run.request.release.as_ref().map_or("", |pinned| pinned.workflow.as_str())
}

/// Some runs.
#[derive(Default)]
struct Row {
    costs: Vec<i64>,
    by_status: BTreeMap<&'static str, u64>,
    writes: Writes,
    awaiting: u64,
}

impl Row {
    fn wire(mut self, key: String) -> RunReport {
        self.costs.sort_unstable();
        let count = |status: Status| self.by_status.get(status.as_str()).copied().unwrap_or(0);
        let open = [Status::Queued, Status::Running, Status::Paused].map(count).iter().sum();
        let runs = u64::try_from(self.costs.len()).unwrap_or(u64::MAX);
        let cost = self.costs.iter().fold(0_i64, |sum, cost| sum.saturating_add(*cost));
        RunReport {
            key,
            runs,
            succeeded: count(Status::Succeeded),
            failed_retryable: count(Status::FailedRetryable),
            failed_terminal: count(Status::FailedTerminal),
            canceled: count(Status::Canceled),
            waiting_approval: count(Status::WaitingApproval),
            open,
            cost_micro_usd: cost,
            mean_micro_usd: i64::try_from(runs)
                .map_or(0, |runs| cost.checked_div(runs).unwrap_or(0)),
            p50_micro_usd: at_percent(&self.costs, 50),
            p95_micro_usd: at_percent(&self.costs, 95),
            writes_attempted: self.writes.attempted,
            writes_allowed: self.writes.allowed,
            writes_denied: self.writes.denied,
            writes_awaiting: self.awaiting,
            writes_executed: self.writes.executed,
        }
    }

    fn and(&mut self, more: &Self) {
        self.costs.extend(&more.costs);
        for (status, count) in &more.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
        self.writes = self.writes.plus(&more.writes);
        self.awaiting = self.awaiting.saturating_add(more.awaiting);
    }
}

/// What so many of a hundred are at most, by the nearest rank.
fn at_percent(sorted: &[i64], percent: usize) -> i64 {
    let rank = sorted.len().saturating_mul(percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(0)
}

impl MeteringApi {
    /// What a report is about.
    pub(super) fn report(
        &self,
        caller: &Caller,
        wire: &GetRunReportRequest,
    ) -> Result<GetRunReportResponse> {
        let (group_by, group) = GroupBy::parse(&wire.group_by)?;
        let (from, to) = days(&self.0, &wire.from, &wire.to)?;
        let log = caller.log();
        let mut rows: BTreeMap<String, Row> = BTreeMap::new();
        let mut keys: HashMap<String, String> = HashMap::new();
        self.runs(&log, (from, to), |run| {
            let fits = |asked: &str, has: &str| asked.is_empty() || asked == has;
            let wanted = fits(&wire.workflow, workflow(&run))
                && fits(&wire.environment, run.request.environment.as_str());
            if !wanted {
                return Ok(());
            }
            if keys.len() >= limits::REPORT_RUNS_MAX {
                return Err(Refused::invalid("more than 100000 runs: ask for fewer days"));
            }
            let key = group.of(&run);
            let row = rows.entry(key.clone()).or_default();
            row.costs.push(run.cost.0);
            *row.by_status.entry(run.status.as_str()).or_default() += 1;
            row.awaiting += self.awaiting(&log, &run)?;
            keys.insert(run.id.to_string(), key);
            Ok(())
        })?;
        // What a run did after the day on which it was asked for counts too.
        let today = self.0.now().day().max(to);
        self.each(caller, (from, today), |Meter { key, sums }| {
            let of = key.run.as_ref().and_then(|run| keys.get(run));
            if let Some(row) = of.and_then(|key| rows.get_mut(key)) {
                row.writes = row.writes.plus(&sums.writes);
            }
            Ok(())
        })?;
        let mut total = Row::default();
        rows.values().for_each(|row| total.and(row));
        Ok(GetRunReportResponse {
            group_by: group_by.to_owned(),
            from: date(from),
            to: date(to),
            rows: rows.into_iter().map(|(key, row)| row.wire(key)).collect(),
            total: Some(total.wire(String::new())),
        })
    }

    /// The runs that were asked for on the days `from` to `to`, the newest first.
    fn runs(
        &self,
        log: &LogId,
        (from, to): (i64, i64),
        mut each: impl FnMut(Run) -> Result<()>,
    ) -> Result<()> {
        let limit = limits::REPORT_PAGE;
        // Ids are made a moment before the run is: a day more on either side is enough.
        let mut before = id_of_day(to.saturating_add(2));
        loop {
            let page = Page { before: Some(before), status: None, limit };
            let states = self.0.ledger.list(log, Kind::Run, &page)?;
            let full = u32::try_from(states.len()).is_ok_and(|got| got >= limit);
            before = String::new();
            for state in states {
                let State::Run(run) = state else {
                    return Err(Refused::internal("a run that is none"));
                };
                let day = run.requested_at.day();
                if day < from.saturating_sub(1) {
                    return Ok(());
                }
                before = run.id.to_string();
                if (from..=to).contains(&day) {
                    each(run)?;
                }
            }
            if !full {
                return Ok(());
            }
        }
    }

    /// How many of the writes of a run wait for people.
    fn awaiting(&self, log: &LogId, run: &Run) -> Result<u64> {
        let mut awaiting = 0;
        let waits = |step: &&kernel::run::Step| {
            step.status == StepStatus::WaitingApproval && !step.in_doubt
        };
        if run.status.has_ended() {
            return Ok(0);
        }
        for id in run.steps.iter().filter(waits).filter_map(|step| step.action.as_ref()) {
            if let Some(State::Action(action)) =
                self.0.ledger.read(log, Kind::Action, id.as_str())?
            {
                awaiting += u64::from(action.request.units.get(Unit::Writes) > 0);
            }
        }
        Ok(awaiting)
    }
}

/// The lowest id of a run that is asked for on a day.
fn id_of_day(day: i64) -> String {
    let millis = u64::try_from(day.saturating_mul(DAY_MILLIS)).unwrap_or(0);
    format!("run_{}", ulid::Ulid::from_parts(millis, 0).to_string().to_ascii_lowercase())
}

/// The rows as CSV (RFC 4180), without their total. No key has a comma, a quote or a line break.
pub(super) fn csv(answer: &GetRunReportResponse) -> std::result::Result<String, std::fmt::Error> {
    let mut text = format!(
        "{},runs,succeeded,failed_retryable,failed_terminal,canceled,waiting_approval,open,\
         cost_micro_usd,mean_micro_usd,p50_micro_usd,p95_micro_usd,writes_attempted,\
         writes_allowed,writes_denied,writes_awaiting,writes_executed\r\n",
        answer.group_by
    );
    for row in &answer.rows {
        let RunReport { key, runs, succeeded, failed_retryable, failed_terminal, .. } = row;
        write!(text, "{key},{runs},{succeeded},{failed_retryable},{failed_terminal},")?;
        let RunReport { canceled, waiting_approval, open, cost_micro_usd, .. } = row;
        write!(text, "{canceled},{waiting_approval},{open},{cost_micro_usd},")?;
        let RunReport { mean_micro_usd, p50_micro_usd, p95_micro_usd, .. } = row;
        write!(text, "{mean_micro_usd},{p50_micro_usd},{p95_micro_usd},")?;
        let RunReport { writes_attempted, writes_allowed, writes_denied, .. } = row;
        write!(text, "{writes_attempted},{writes_allowed},{writes_denied},")?;
        let RunReport { writes_awaiting, writes_executed, .. } = row;
        write!(text, "{writes_awaiting},{writes_executed}\r\n")?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_the_nearest_rank() {
        let hundred: Vec<i64> = (1..=100).collect();
        for (sorted, percent, expect) in [
            (&[][..], 50, 0),
            (&[7][..], 95, 7),
            (&[1, 2][..], 50, 1),
            (&[1, 2, 3][..], 50, 2),
            (&hundred[..], 50, 50),
            (&hundred[..], 95, 95),
            (&hundred[..20], 95, 19),
        ] {
            assert_eq!(at_percent(sorted, percent), expect, "{percent} of {sorted:?}");
        }
    }

    #[test]
    fn ids_of_a_day_follow_those_of_the_day_before() {
        let run = |millis: u64| {
            let ulid = ulid::Ulid::from_parts(millis, u128::MAX);
            format!("run_{}", ulid.to_string().to_ascii_lowercase())
        };
        let begins = 20_778 * 86_400_000;
        assert!(run(begins - 1) < id_of_day(20_778));
        assert!(run(begins) >= id_of_day(20_778));
    }
}
