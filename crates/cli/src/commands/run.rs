//! `tally run`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Subcommand, ValueEnum};
use proto::runs::{
    CancelRunRequest, DiffRunsRequest, DiffRunsResponse, DiscardRunRequest,
    GetRunDivergenceRequest, GetRunRequest, ListRunsRequest, ListRunsResponse, PauseRunRequest,
    ReplayRunRequest, ReplayRunResponse, ResumeRunRequest, Run as WireRun, RunDivergence, RunPin,
    RunState, StartRunRequest,
};

use super::actions::json_argument;
use super::runtime::{attempts, describe as foreseen, parse_plan, read};
use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, pretty, print, usd, when};

/// How long one look of `watch` waits for a change.
const LOOK_MS: u32 = 20_000;
/// Between two looks at a run that did not change.
const REST: Duration = Duration::from_millis(100);

/// `tally run`.
#[derive(Debug, Subcommand)]
pub(crate) enum Run {
    /// Run a plan or a workflow, step by step.
    Start {
        /// A JSON list of skills or a workflow document in YAML; `-` for standard input.
        #[arg(required_unless_present = "workflow", conflicts_with = "workflow")]
        file: Option<PathBuf>,
        /// A workflow that is kept, by its name: the release of it that is in force.
        #[arg(long, value_name = "NAME")]
        workflow: Option<String>,
        /// A version of it, whatever is in force; not in prod.
        #[arg(long, value_name = "VERSION", requires = "workflow", default_value = "")]
        workflow_version: String,
        /// What the templates call `input`: JSON, @FILE to read it from a file, or -.
        #[arg(long, value_name = "JSON")]
        input: Option<String>,
        /// What it may spend, in millionths of a US dollar: set aside, and the rest goes back.
        #[arg(long, value_name = "N")]
        budget_micro_usd: Option<i64>,
        /// How many of its calls may write.
        #[arg(long, value_name = "N")]
        max_writes: Option<u32>,
        /// After how many seconds it fails, where it has not ended.
        #[arg(long, value_name = "S")]
        timeout_s: Option<u32>,
        /// The account that pays; without it that of the principal.
        #[arg(long, default_value = "", value_name = "ID")]
        account: String,
        /// Milliseconds to wait for its end.
        #[arg(long, value_name = "MS")]
        wait_ms: Option<u32>,
        /// A key of your own: a repetition with the same key starts no second run.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
        /// Only say what it would come to, and what policy would decide.
        #[arg(long)]
        dry_run: bool,
    },
    /// List the runs of the workspace, newest first.
    List {
        /// Only those in this state; dead letters are failed_retryable.
        #[arg(long, value_parser = state)]
        state: Option<RunState>,
        /// Only those that this agent takes part in.
        #[arg(long, default_value = "", value_name = "ID")]
        agent: String,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a run with its steps.
    Show {
        /// The id of the run.
        id: String,
    },
    /// Print what changes, until the run ends.
    Watch {
        /// The id of the run.
        id: String,
    },
    /// End a run: what waits is withdrawn, what executes may end.
    Cancel {
        /// The id of the run.
        id: String,
    },
    /// Start nothing new of a run until it is resumed.
    Pause {
        /// The id of the run.
        id: String,
    },
    /// Let a paused run go on.
    Resume {
        /// The id of the run.
        id: String,
    },
    /// Run again: go on with a dead letter, start anew, or see what would happen.
    Replay {
        /// The id of the run.
        id: String,
        /// How.
        #[arg(long, default_value = "resume")]
        mode: Mode,
        /// With `resume`: from which step; from the one that failed where it is not given.
        #[arg(long, default_value = "", value_name = "STEP")]
        from: String,
    },
    /// Give up a dead letter.
    Discard {
        /// The id of the run.
        id: String,
    },
    /// Show how far what a run took and cost was from what was estimated.
    Divergence {
        /// The id of the run.
        id: String,
    },
    /// Compare two runs; the exit code is 1 where they differ.
    Diff {
        /// The one run.
        left: String,
        /// The other.
        right: String,
    },
}

/// How to run again.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// A dead letter goes on from the step that failed.
    Resume,
    /// A new run of the same plan.
    FullReplay,
    /// Nothing is done: whether all would be as recorded.
    MockReplay,
    /// Nothing is done: what policy says now, and what it would cost.
    DryRun,
}

fn state(text: &str) -> Result<RunState, String> {
    let known = RunState::from_str_name(text).filter(|state| *state != RunState::Unspecified);
    known.ok_or_else(|| format!("`{text}` is no state of a run"))
}

impl Run {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let client = context.client()?;
        let run = match self {
            Self::Start { .. } => return self.start(context).await,
            Self::List { state, agent, paging } => {
                let request = ListRunsRequest {
                    state: state.unwrap_or(RunState::Unspecified).into(),
                    agent_id: agent,
                    page_size: paging.page_size,
                    page_token: paging.page_token,
                };
                let listed = client.list_runs(&request).await?;
                context.output().show(&listed, list)?;
                return Ok(Exit::Done);
            }
            Self::Watch { id } => return watch(context, id).await,
            Self::Replay { id, mode, from } => return replay(context, id, mode, from).await,
            Self::Divergence { id } => {
                let request = GetRunDivergenceRequest { run_id: id };
                let report = client.get_run_divergence(&request).await?;
                context.output().show(&report, describe_divergence)?;
                return Ok(Exit::Done);
            }
            Self::Diff { left, right } => return diff(context, left, right).await,
            Self::Show { id } => {
                let request = GetRunRequest { run_id: id, ..GetRunRequest::default() };
                let run = client.get_run(&request).await?;
                context.output().show(&run, describe)?;
                return Ok(Exit::Done);
            }
            Self::Cancel { id } => {
                client.cancel_run(&CancelRunRequest { run_id: id }, None).await?
            }
            Self::Pause { id } => client.pause_run(&PauseRunRequest { run_id: id }, None).await?,
            Self::Resume { id } => {
                client.resume_run(&ResumeRunRequest { run_id: id }, None).await?
            }
            Self::Discard { id } => {
                client.discard_run(&DiscardRunRequest { run_id: id }, None).await?
            }
        };
        context.output().show(&run, describe)?;
        Ok(Exit::Done)
    }

    async fn start(self, context: &Context) -> anyhow::Result<Exit> {
        let Self::Start {
            file,
            workflow: workflow_name,
            workflow_version,
            input,
            budget_micro_usd,
            max_writes,
            timeout_s,
            account,
            wait_ms,
            idempotency_key,
            dry_run,
        } = self
        else {
            return Ok(Exit::Internal);
        };
        let (plan, workflow) = match &file {
            Some(file) => parse_plan(read(file)?)?,
            None => Default::default(),
        };
        let request = StartRunRequest {
            plan,
            workflow,
            workflow_name: workflow_name.unwrap_or_default(),
            workflow_version,
            input: input.as_deref().map(json_argument).transpose()?,
            budget_micro_usd,
            max_writes,
            timeout_s,
            account_id: account,
            wait_ms,
            dry_run,
            ..StartRunRequest::default()
        };
        let started = context.client()?.start_run(&request, idempotency_key.as_deref()).await?;
        if let Some(simulation) = &started.simulation {
            context.output().show(&started, |_| foreseen(simulation))?;
            let feasible = simulation.status == "feasible";
            return Ok(if feasible { Exit::Done } else { Exit::NotExecuted });
        }
        context.output().show(&started, describe)?;
        Ok(of_state(started.state()))
    }
}

/// How a run's state ends the command that asked for it.
fn of_state(state: RunState) -> Exit {
    match state {
        RunState::Succeeded => Exit::Done,
        RunState::FailedRetryable | RunState::FailedTerminal | RunState::Canceled => {
            Exit::NotExecuted
        }
        RunState::Queued | RunState::Running | RunState::Paused | RunState::WaitingApproval => {
            Exit::Pending
        }
        RunState::Unspecified => Exit::Internal,
    }
}

async fn watch(context: &Context, id: String) -> anyhow::Result<Exit> {
    let client = context.client()?;
    let mut request = GetRunRequest { run_id: id, ..GetRunRequest::default() };
    let mut told: Vec<String> = Vec::new();
    loop {
        let run = client.get_run(&request).await?;
        let lines = std::iter::once(format!("run {}", run.state().as_str_name())).chain(
            run.steps.iter().map(|step| {
                let action = if step.action_id.is_empty() { "" } else { " " };
                format!("{} {}{action}{}", step.step_id, step.state, step.action_id)
            }),
        );
        let lines: Vec<String> = lines.collect();
        for (index, line) in lines.iter().enumerate() {
            let new = told.get(index) != Some(line);
            // What has not begun is not told.
            if new && !(told.is_empty() && line.ends_with(" ready")) {
                print(line)?;
            }
        }
        told = lines;
        let ended = of_state(run.state());
        if ended != Exit::Pending {
            context.output().show(&run, describe)?;
            return Ok(ended);
        }
        (request.wait_ms, request.after_receipt) = (LOOK_MS, run.last_receipt);
        tokio::time::sleep(REST).await;
    }
}

async fn replay(context: &Context, id: String, mode: Mode, from: String) -> anyhow::Result<Exit> {
    let name = match mode {
        Mode::Resume => "resume",
        Mode::FullReplay => "full_replay",
        Mode::MockReplay => "mock_replay",
        Mode::DryRun => "dry_run",
    };
    let request = ReplayRunRequest { run_id: id, mode: name.to_owned(), from_step: from };
    let replayed = context.client()?.replay_run(&request, None).await?;
    context.output().show(&replayed, describe_replay)?;
    let does_nothing = matches!(mode, Mode::MockReplay | Mode::DryRun);
    Ok(if does_nothing && !replayed.matches { Exit::Internal } else { Exit::Done })
}

async fn diff(context: &Context, left: String, right: String) -> anyhow::Result<Exit> {
    let request = DiffRunsRequest { run_id: left, other_id: right };
    let compared = context.client()?.diff_runs(&request).await?;
    context.output().show(&compared, describe_diff)?;
    Ok(if compared.equal { Exit::Done } else { Exit::Internal })
}

fn list(listed: &ListRunsResponse) -> String {
    let rows = listed.runs.iter().map(|run| {
        [
            run.run_id.clone(),
            run.state().as_str_name().to_owned(),
            run.name.clone(),
            usd(run.cost_micro_usd),
            when(run.created_at),
        ]
    });
    let header = ["run", "state", "plan", "cost", "started"];
    page(header, rows, &next(&listed.next_page_token))
}

fn describe(run: &WireRun) -> String {
    let error = run.error.as_ref();
    let head = fields([
        ("run", run.run_id.clone()),
        ("state", run.state().as_str_name().to_owned()),
        ("why", error.map_or_else(String::new, |e| format!("{}: {}", e.code, e.message))),
        ("plan", format!("{} {}", run.name, run.version).trim().to_owned()),
        ("plan digest", run.plan_digest.clone()),
        ("release", run.pinned.as_ref().map(pinned).unwrap_or_default()),
        ("cost", usd(run.cost_micro_usd)),
        ("budget", run.budget_micro_usd.map_or_else(String::new, usd)),
        ("root hash", run.root_hash.clone()),
        ("receipts", format!("{} to {}", run.first_receipt, run.last_receipt)),
    ]);
    let rows = run.steps.iter().map(|step| {
        let why = match &step.error {
            Some(error) => error.code.clone(),
            None if step.output_unknown => "output unknown".to_owned(),
            None => String::new(),
        };
        let state = if step.skipped { "skipped".to_owned() } else { step.state.clone() };
        [step.step_id.clone(), state, step.tool.clone(), step.action_id.clone(), why]
    });
    let steps = page(["step", "state", "tool", "action", "why"], rows, "");
    let output = run.output.as_ref().map_or_else(String::new, |json| pretty(&json.text));
    format!("{head}{steps}{output}")
}

/// What a run of a kept workflow is bound to.
fn pinned(pin: &RunPin) -> String {
    let by = match pin.release_id.as_str() {
        "" => "no release".to_owned(),
        id => format!("{id}, ring {}", pin.ring),
    };
    let policy = match pin.policy_in_force {
        true => "in force",
        false => "no longer in force: decisions follow the one that is",
    };
    let revision = pin.policy_revision;
    format!("{} {} by {by}, policy revision {revision} ({policy})", pin.workflow, pin.version)
}

fn describe_replay(replayed: &ReplayRunResponse) -> String {
    let run = replayed.run.as_ref().map(describe).unwrap_or_default();
    if replayed.steps.is_empty() {
        return run;
    }
    let rows = replayed.steps.iter().map(|step| {
        let effect = match step.effect {
            Some(_) => step.effect().as_str_name().to_owned(),
            None => "-".to_owned(),
        };
        let differs = step.differs.join(" ");
        [step.step_id.clone(), effect, usd(step.estimate_micro_usd), differs]
    });
    let steps = page(["step", "policy", "cost at most", "differs"], rows, "");
    let matches = if replayed.matches { "as it was recorded" } else { "not as it was recorded" };
    format!("{steps}{matches}")
}

fn describe_divergence(report: &RunDivergence) -> String {
    let steps = report
        .steps
        .iter()
        .map(|step| format!("{} {}\n{}", step.step_id, step.tool, attempts(&step.attempts)));
    let (cost, latency) = (&report.cost_verdict, &report.latency_verdict);
    let head = fields([
        ("run", report.run_id.clone()),
        ("estimated cost", usd(report.estimated_cost_micro_usd)),
        ("cost", format!("{} {cost}", usd(report.cost_micro_usd)).trim().to_owned()),
        ("estimated time", format!("{} ms", report.estimated_latency_ms)),
        ("time", format!("{} ms {latency}", report.latency_ms).trim().to_owned()),
    ]);
    format!("{head}{}", steps.collect::<String>())
}

fn describe_diff(compared: &DiffRunsResponse) -> String {
    let text = |json: &Option<proto::types::Json>| {
        json.as_ref().map_or_else(|| "-".to_owned(), |json| json.text.clone())
    };
    let rows = compared
        .differences
        .iter()
        .map(|one| [one.step_id.clone(), one.field.clone(), text(&one.left), text(&one.right)]);
    let equal = if compared.equal { "the same" } else { "different" };
    format!("{}{equal}", page(["step", "field", "left", "right"], rows, ""))
}
