//! `tally cost`.

use clap::{Args, Subcommand, ValueEnum};
use proto::metering::{
    GetRunReportRequest, GetRunReportResponse, GetUsageRequest, GetUsageResponse, RunReport, Usage,
};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{page, print, usd};

/// `tally cost`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cost {
    /// Sum up what actions cost and used.
    Report(Report),
    /// Say what runs (tickets) cost and how they ended, and what became of their writes.
    Tickets(Tickets),
}

/// What to sum up.
#[derive(Debug, Args)]
pub(crate) struct Report {
    /// By what.
    #[arg(long, value_enum, default_value_t = By::Agent)]
    by: By,
    /// The first day, such as 2026-11-01, in UTC; without it 29 days before the last.
    #[arg(long, value_name = "DAY", default_value = "")]
    from: String,
    /// The last day, included; without it today.
    #[arg(long, value_name = "DAY", default_value = "")]
    to: String,
    /// Only what this run did.
    #[arg(long, value_name = "ID", default_value = "")]
    run: String,
    /// Only what this principal did.
    #[arg(long, value_name = "ID", default_value = "")]
    agent: String,
    /// Only what this account paid for.
    #[arg(long, value_name = "ID", default_value = "")]
    account: String,
    /// Print CSV.
    #[arg(long)]
    csv: bool,
}

/// By what sums are told apart.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    Run,
    Agent,
    Tool,
    Account,
    Day,
    Environment,
}

/// Which runs, and by what.
#[derive(Debug, Args)]
pub(crate) struct Tickets {
    /// By what.
    #[arg(long, value_enum, default_value_t = TicketsBy::Day)]
    by: TicketsBy,
    /// The first day, such as 2026-11-01, in UTC; without it 29 days before the last.
    #[arg(long, value_name = "DAY", default_value = "")]
    from: String,
    /// The last day, included; without it today.
    #[arg(long, value_name = "DAY", default_value = "")]
    to: String,
    /// Only runs of this workflow.
    #[arg(long, value_name = "NAME", default_value = "")]
    workflow: String,
    /// Only runs in this environment.
    #[arg(long, value_name = "ID", default_value = "")]
    environment: String,
    /// Print CSV.
    #[arg(long)]
    csv: bool,
}

/// By what runs are told apart.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum TicketsBy {
    Day,
    Workflow,
    Environment,
    Agent,
}

impl Cost {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Report(report) => report.run(context).await,
            Self::Tickets(tickets) => tickets.run(context).await,
        }
    }
}

impl Report {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { by, from, to, run: run_id, agent: agent_id, account: account_id, csv } = self;
        let group_by = by.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let request = GetUsageRequest { group_by, from, to, run_id, agent_id, account_id };
        let client = context.client()?;
        if csv {
            let body = client.export_usage(&request).await?;
            print(&String::from_utf8(body.data)?)?;
            return Ok(Exit::Done);
        }
        let usage = client.get_usage(&request).await?;
        context.output().show(&usage, describe)?;
        Ok(Exit::Done)
    }
}

impl Tickets {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { by, from, to, workflow, environment, csv } = self;
        let group_by = by.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
        let request = GetRunReportRequest { group_by, from, to, workflow, environment };
        let client = context.client()?;
        if csv {
            let body = client.export_run_report(&request).await?;
            print(&String::from_utf8(body.data)?)?;
            return Ok(Exit::Done);
        }
        let report = client.get_run_report(&request).await?;
        context.output().show(&report, describe_runs)?;
        Ok(Exit::Done)
    }
}

fn describe_runs(report: &GetRunReportResponse) -> String {
    let header = [
        report.group_by.as_str(),
        "runs",
        "cost",
        "mean",
        "p50",
        "p95",
        "succeeded",
        "failed",
        "canceled",
        "waiting",
        "open",
        "writes",
        "allowed",
        "denied",
        "awaiting",
        "executed",
    ];
    let total = report.total.iter().map(|total| run_row("total", total));
    page(header, report.rows.iter().map(|row| run_row(&row.key, row)).chain(total), "")
}

fn run_row(key: &str, row: &RunReport) -> [String; 16] {
    let key = if key.is_empty() { "-" } else { key }.to_owned();
    let failed = row.failed_retryable.saturating_add(row.failed_terminal);
    [
        key,
        row.runs.to_string(),
        usd(row.cost_micro_usd),
        usd(row.mean_micro_usd),
        usd(row.p50_micro_usd),
        usd(row.p95_micro_usd),
        row.succeeded.to_string(),
        failed.to_string(),
        row.canceled.to_string(),
        row.waiting_approval.to_string(),
        row.open.to_string(),
        row.writes_attempted.to_string(),
        row.writes_allowed.to_string(),
        row.writes_denied.to_string(),
        row.writes_awaiting.to_string(),
        row.writes_executed.to_string(),
    ]
}

fn describe(usage: &GetUsageResponse) -> String {
    let header = [
        usage.group_by.as_str(),
        "cost",
        "actions",
        "executed",
        "failed",
        "denied",
        "retries",
        "tokens",
        "calls",
        "writes",
        "cpu ms",
    ];
    let total = usage.total.iter().map(|total| row("total", total));
    page(header, usage.rows.iter().map(|usage| row(&usage.key, usage)).chain(total), "")
}

fn row(key: &str, usage: &Usage) -> [String; 11] {
    let counts = [
        usage.actions,
        usage.executed,
        usage.failed,
        usage.denied,
        usage.retries,
        usage.tokens,
        usage.calls,
        usage.writes,
        usage.cpu_ms,
    ];
    let [actions, executed, failed, denied, retries, tokens, calls, writes, cpu_ms] =
        counts.map(|count| count.to_string());
    let key = if key.is_empty() { "-" } else { key }.to_owned();
    let cost = usd(usage.cost_micro_usd);
    [key, cost, actions, executed, failed, denied, retries, tokens, calls, writes, cpu_ms]
}
