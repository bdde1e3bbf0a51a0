//! Metering: what was used and what it cost, summed up from the meters that follow from receipts.

mod tickets;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use kernel::machine::{Kind, State};
use kernel::meter::{self, Key, Meter, Sums};
use kernel::units::Unit;
use ledger::store::Page;
use proto::HttpBody;
use proto::metering::metering_service_server::MeteringService;
use proto::metering::{
    GetRunReportRequest, GetRunReportResponse, GetUsageRequest, GetUsageResponse, Usage,
};
use proto::wire::Timestamp;
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// Serves metering.
pub(crate) struct MeteringApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// By what sums are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GroupBy {
    Run,
    Agent,
    Tool,
    Account,
    Day,
    Environment,
}

impl GroupBy {
    const ALL: [(&'static str, Self); 6] = [
        ("run", Self::Run),
        ("agent", Self::Agent),
        ("tool", Self::Tool),
        ("account", Self::Account),
        ("day", Self::Day),
        ("environment", Self::Environment),
    ];

    fn parse(name: &str) -> Result<(&'static str, Self)> {
        let name = if name.is_empty() { "agent" } else { name };
        let found = Self::ALL.into_iter().find(|(known, _)| *known == name);
        found.ok_or_else(|| {
            Refused::invalid("group_by: `run`, `agent`, `tool`, `account`, `day` or `environment`")
        })
    }

    fn of(self, key: &Key) -> String {
        match self {
            Self::Run => key.run.clone().unwrap_or_default(),
            Self::Agent => key.agent.to_string(),
            Self::Tool => key.tool.to_string(),
            Self::Account => key.account.as_ref().map(ToString::to_string).unwrap_or_default(),
            Self::Day => date(key.day),
            Self::Environment => key.environment.to_string(),
        }
    }
}

const DAY_MICROS: i64 = 86_400_000_000;

/// A day as `2026-11-21`.
fn date(day: i64) -> String {
    let time = Timestamp::from_micros(day.saturating_mul(DAY_MICROS)).to_string();
    time.split('T').next().unwrap_or_default().to_owned()
}

/// The day of such a text.
fn day(field: &str, text: &str) -> Result<Option<i64>> {
    if text.is_empty() {
        return Ok(None);
    }
    let time = format!("{text}T00:00:00Z").parse::<Timestamp>();
    let wrong = |_| Refused::invalid(format!("{field}: write the day as `2026-11-21`"));
    Ok(Some(time.map_err(wrong)?.micros().div_euclid(DAY_MICROS)))
}

/// The days that are asked for.
fn days(shared: &Shared, from: &str, to: &str) -> Result<(i64, i64)> {
    let to = day("to", to)?.unwrap_or_else(|| shared.now().day());
    let from = day("from", from)?.unwrap_or(to - (limits::USAGE_DAYS_DEFAULT - 1));
    if from > to || to - from >= limits::USAGE_DAYS_MAX {
        return Err(Refused::invalid("from, to: at most 366 days, the first one first"));
    }
    Ok((from, to))
}

/// Whether a meter is among what was asked for.
fn wanted(wire: &GetUsageRequest, key: &Key) -> bool {
    let fits = |asked: &str, has: Option<&str>| asked.is_empty() || has == Some(asked);
    fits(&wire.run_id, key.run.as_deref())
        && fits(&wire.agent_id, Some(key.agent.as_str()))
        && fits(&wire.account_id, key.account.as_ref().map(kernel::ids::AccountId::as_str))
}

fn usage(key: String, sums: &Sums) -> Usage {
    Usage {
        key,
        actions: sums.actions,
        executed: sums.executed,
        failed: sums.failed,
        denied: sums.denied,
        retries: sums.retries,
        cost_micro_usd: sums.money.0,
        tokens: sums.units.get(Unit::Tokens),
        calls: sums.units.get(Unit::Calls),
        writes: sums.units.get(Unit::Writes),
        cpu_ms: sums.units.get(Unit::CpuMs),
        duration_ms: sums.duration_us / 1_000,
    }
}

impl MeteringApi {
    /// The meters of the days `from` to `to`, the newest first.
    fn each(
        &self,
        caller: &Caller,
        (from, to): (i64, i64),
        mut each: impl FnMut(Meter) -> Result<()>,
    ) -> Result<()> {
        let (log, limit) = (caller.log(), limits::METERS_PAGE);
        let mut before = meter::first_id(to.saturating_add(1));
        loop {
            let page = Page { before: Some(before), status: None, limit };
            let states = self.0.ledger.list(&log, Kind::Meter, &page)?;
            let full = u32::try_from(states.len()).is_ok_and(|got| got >= limit);
            let mut last = String::new();
            for state in states {
                let State::Meter(meter) = state else {
                    return Err(Refused::internal("a meter that is none"));
                };
                if meter.key.day < from {
                    return Ok(());
                }
                last = meter.key.id();
                each(meter)?;
            }
            if !full {
                return Ok(());
            }
            before = last;
        }
    }

    fn sum_up(&self, caller: &Caller, wire: &GetUsageRequest) -> Result<GetUsageResponse> {
        let (group_by, group) = GroupBy::parse(&wire.group_by)?;
        let (from, to) = days(&self.0, &wire.from, &wire.to)?;
        let (mut rows, mut total) = (BTreeMap::<String, Sums>::new(), Sums::default());
        self.each(caller, (from, to), |Meter { key, sums }| {
            if wanted(wire, &key) {
                let row = rows.entry(group.of(&key)).or_default();
                *row = row.plus(&sums);
                total = total.plus(&sums);
            }
            if rows.len() > limits::USAGE_ROWS_MAX {
                return Err(Refused::invalid("more than 10000 rows: ask for fewer days"));
            }
            Ok(())
        })?;
        Ok(GetUsageResponse {
            group_by: group_by.to_owned(),
            from: date(from),
            to: date(to),
            rows: rows.into_iter().map(|(key, sums)| usage(key, &sums)).collect(),
            total: Some(usage(String::new(), &total)),
        })
    }
}

/// The rows as CSV (RFC 4180), without their total: a sum over the column is the total. No key has
/// a comma, a quote or a line break.
fn csv(answer: &GetUsageResponse) -> std::result::Result<String, std::fmt::Error> {
    let mut text = format!(
        "{},actions,executed,failed,denied,retries,cost_micro_usd,tokens,calls,writes,cpu_ms,\
         duration_ms\r\n",
        answer.group_by
    );
    for row in &answer.rows {
        let Usage { key, actions, executed, failed, denied, retries, .. } = row;
        write!(text, "{key},{actions},{executed},{failed},{denied},{retries},")?;
        let Usage { cost_micro_usd, tokens, calls, writes, cpu_ms, duration_ms, .. } = row;
        write!(text, "{cost_micro_usd},{tokens},{calls},{writes},{cpu_ms},{duration_ms}\r\n")?;
    }
    Ok(text)
}

fn as_csv(text: String) -> Response<HttpBody> {
    let content_type = "text/csv; charset=utf-8".to_owned();
    Response::new(HttpBody { content_type, data: text.into_bytes(), extensions: Vec::new() })
}

impl MeteringApi {
    /// A report on runs: many states may have to be read.
    async fn told(
        &self,
        caller: Caller,
        wire: GetRunReportRequest,
    ) -> Result<GetRunReportResponse> {
        let shared = self.0.clone();
        let telling = tokio::task::spawn_blocking(move || Self(shared).report(&caller, &wire));
        telling.await.map_err(Refused::internal)?
    }
}

#[tonic::async_trait]
impl MeteringService for MeteringApi {
    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Reply<GetUsageResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.sum_up(&caller, request.get_ref())?))
    }

    async fn export_usage(&self, request: Request<GetUsageRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        let answer = self.sum_up(&caller, request.get_ref())?;
        Ok(as_csv(csv(&answer).map_err(Refused::internal)?))
    }

    async fn get_run_report(
        &self,
        request: Request<GetRunReportRequest>,
    ) -> Reply<GetRunReportResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.told(caller, request.into_inner()).await?))
    }

    async fn export_run_report(&self, request: Request<GetRunReportRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        let answer = self.told(caller, request.into_inner()).await?;
        Ok(as_csv(tickets::csv(&answer).map_err(Refused::internal)?))
    }
}
