//! `tally cost`.

use clap::{Args, Subcommand, ValueEnum};
use proto::metering::{GetUsageRequest, GetUsageResponse, Usage};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{page, print, usd};

/// `tally cost`.
#[derive(Debug, Subcommand)]
pub(crate) enum Cost {
    /// Sum up what actions cost and used.
    Report(Report),
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

impl Cost {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self::Report(report) = self;
        report.run(context).await
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
