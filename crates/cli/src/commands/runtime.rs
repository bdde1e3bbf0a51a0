//! `tally runtime`.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use proto::runtime::{PlanStep, SimulateRequest, SimulateResponse};

use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, yes};

/// The most that is read of a plan.
const PLAN_BYTES_MAX: u64 = 2 << 20;

/// `tally runtime`.
#[derive(Debug, Subcommand)]
pub(crate) enum Runtime {
    /// Say what a plan would cost and take, and whether policy lets it run. Nothing is run.
    Simulate {
        /// A JSON list of skills or a workflow document in YAML; `-` for standard input.
        file: PathBuf,
        /// The budget; 1000 where it is not given.
        #[arg(long, value_name = "N")]
        budget_cents: Option<i32>,
    },
}

impl Runtime {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self::Simulate { file, budget_cents } = self;
        let text = read(&file)?;
        let mut request = SimulateRequest { budget_cents, ..SimulateRequest::default() };
        // A list is a plan; a document is an object, in YAML as in JSON.
        if text.trim_start().starts_with('[') {
            let plan: Result<Vec<PlanStep>, _> = serde_json::from_str(&text);
            request.plan = plan.map_err(|error| Failure::Usage(format!("no plan: {error}")))?;
        } else {
            request.workflow = text;
        }
        let simulated = context.client()?.simulate(&request).await?;
        context.output().show(&simulated, describe)?;
        Ok(if simulated.status == "feasible" { Exit::Done } else { Exit::NotExecuted })
    }
}

fn read(file: &PathBuf) -> anyhow::Result<String> {
    let mut text = String::new();
    let from: Box<dyn std::io::Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        let unreadable = |e| Failure::Usage(format!("cannot read `{}`: {e}", file.display()));
        Box::new(std::fs::File::open(file).map_err(unreadable)?)
    };
    from.take(PLAN_BYTES_MAX).read_to_string(&mut text).context("the plan")?;
    Ok(text)
}

fn describe(simulated: &SimulateResponse) -> String {
    let refusal = simulated.refusal.as_ref();
    let head = fields([
        ("status", simulated.status.clone()),
        ("why", refusal.map_or_else(String::new, |error| error.message.clone())),
        ("feasible", yes(simulated.feasible)),
        ("permitted", yes(simulated.permitted)),
        ("cost", format!("{} cents", simulated.estimated_cost_cents)),
        ("remaining", format!("{} cents", simulated.budget_remaining_cents)),
        ("duration", format!("{} ms", simulated.estimated_duration_ms)),
        ("confidence", simulated.confidence.clone()),
        ("root hash", simulated.root_hash.clone()),
    ]);
    let rows = simulated.steps.iter().map(|step| {
        let effect = match step.effect {
            Some(_) => step.effect().as_str_name().to_owned(),
            None => "-".to_owned(),
        };
        let cost = step.estimated_cost_micro_usd.map_or_else(|| "-".to_owned(), crate::output::usd);
        [step.step_id.clone(), step.tool_id.clone(), cost, effect, step.reasons.join(" ")]
    });
    let steps = page(["step", "tool", "cost", "policy", "why"], rows, "");
    let gaps =
        simulated.permission_gaps.iter().map(|gap| format!("{}: {}", gap.step_id, gap.message));
    let warned = simulated.warnings.iter().map(|one| format!("{}: {}", one.step_id, one.message));
    let notes: Vec<String> = gaps.chain(warned).collect();
    format!("{head}{steps}\n{}", notes.join("\n"))
}
