//! `tally runtime`.

use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Subcommand;
use proto::runtime::{
    AttemptDivergence, BudgetLeft, GetCapabilitiesRequest, GetCapabilitiesResponse,
    GetDivergenceRequest, GetDivergenceResponse, GetResourceContractRequest, GetSkillRequest,
    ListSkillsRequest, ListSkillsResponse, PlanStep, QueryRequest, RateLeft, ResourceContract,
    SimulateRequest, SimulateResponse, Skill,
};
use proto::types::Json;
use serde_json::{Value, json};

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
    /// List the skills that policy lets you call.
    Skills,
    /// Show the contract of one skill: what it takes, costs, how it fails and what helps.
    Skill {
        /// Its name, such as `http_call`, or the id of the tool.
        id: String,
    },
    /// Show what you may do now, with what is left of the budget and of the requests.
    Capabilities,
    /// Show what bounds a principal (you), a skill or an account now.
    Contract {
        /// Its id.
        id: String,
    },
    /// Ask about the state of an agent: what it has left, what it did, what it may do.
    Query {
        /// `remaining_budget_cents`, `what_did_i_try_already`, `allowed_skills`,
        /// `last_step_outcome` or `skills_available_for_goal`.
        query_type: String,
        /// About another agent than the credential's own.
        #[arg(long, value_name = "ID", default_value = "")]
        agent: String,
        /// What it is to do, in words: for `skills_available_for_goal`.
        #[arg(long, value_name = "TEXT")]
        goal: Option<String>,
        /// Only what was tried with this tool.
        #[arg(long, value_name = "ID")]
        tool: Option<String>,
        /// At most this many entries; 20 where it is not given.
        #[arg(long, value_name = "N")]
        limit: Option<u32>,
    },
    /// Show how far estimates were off, tool by tool, or for one action.
    Divergence {
        /// Only this tool.
        #[arg(long, value_name = "ID", default_value = "")]
        tool: String,
        /// The attempts of this action.
        #[arg(long, value_name = "ID", default_value = "")]
        action: String,
    },
}

impl Runtime {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Simulate { file, budget_cents } => simulate(context, &file, budget_cents).await,
            Self::Skills => {
                let listed = context.client()?.list_skills(&ListSkillsRequest {}).await?;
                context.output().show(&listed, skills)?;
                Ok(Exit::Done)
            }
            Self::Skill { id } => {
                let request = GetSkillRequest { skill_id: id };
                let skill = context.client()?.get_skill(&request).await?;
                context.output().show(&skill, contract_of)?;
                Ok(Exit::Done)
            }
            Self::Capabilities => {
                let request = GetCapabilitiesRequest::default();
                let now = context.client()?.get_capabilities(&request).await?;
                context.output().show(&now, capabilities)?;
                Ok(Exit::Done)
            }
            Self::Contract { id } => {
                let request = GetResourceContractRequest { resource_id: id };
                let contract = context.client()?.get_resource_contract(&request).await?;
                context.output().show(&contract, bounds)?;
                Ok(Exit::Done)
            }
            Self::Query { query_type, agent, goal, tool, limit } => {
                let params = json!({"goal": goal, "tool": tool, "limit": limit});
                let params = Some(Json::of(&params).context("params")?);
                let request = QueryRequest { query_type, agent_id: agent, params };
                let answer = context.client()?.query(&request).await?;
                // An answer is data: for people it is only laid out.
                context.output().show(&answer, |answer| {
                    let result = answer.result.as_ref().map(Json::decode::<Value>);
                    let result = result.and_then(Result::ok).unwrap_or_default();
                    format!("{result:#}\n")
                })?;
                Ok(Exit::Done)
            }
            Self::Divergence { tool: tool_id, action: action_id } => {
                let request = GetDivergenceRequest { tool_id, action_id };
                let report = context.client()?.get_divergence(&request).await?;
                context.output().show(&report, compare)?;
                Ok(Exit::Done)
            }
        }
    }
}

async fn simulate(
    context: &Context,
    file: &PathBuf,
    budget_cents: Option<i32>,
) -> anyhow::Result<Exit> {
    let (plan, workflow) = parse_plan(read(file)?)?;
    let request = SimulateRequest { budget_cents, plan, workflow, ..SimulateRequest::default() };
    let simulated = context.client()?.simulate(&request).await?;
    context.output().show(&simulated, describe)?;
    Ok(if simulated.status == "feasible" { Exit::Done } else { Exit::NotExecuted })
}

/// A plan, or else the text of a workflow: a list is a plan; a document is an object, in YAML as in
/// JSON.
pub(super) fn parse_plan(text: String) -> anyhow::Result<(Vec<PlanStep>, String)> {
    if !text.trim_start().starts_with('[') {
        return Ok((Vec::new(), text));
    }
    let plan: Result<Vec<PlanStep>, _> = serde_json::from_str(&text);
    let plan = plan.map_err(|error| Failure::Usage(format!("no plan: {error}")))?;
    Ok((plan, String::new()))
}

/// Attempts beside what was estimated of them.
pub(super) fn attempts(all: &[AttemptDivergence]) -> String {
    let rows = all.iter().map(|one| {
        let time = format!("{} / {} ms", one.estimated_latency_ms, one.latency_ms);
        let (estimated, cost) = (one.estimated_cost_micro_usd, one.cost_micro_usd);
        let cost = format!("{} / {}", crate::output::usd(estimated), crate::output::usd(cost));
        let verdicts = (one.latency_verdict.clone(), one.cost_verdict.clone());
        [one.receipt_id.clone(), time, verdicts.0, cost, verdicts.1, one.failure.clone()]
    });
    page(["receipt", "time", "verdict", "cost", "verdict", "failure"], rows, "")
}

fn compare(report: &GetDivergenceResponse) -> String {
    if !report.attempts.is_empty() {
        return attempts(&report.attempts);
    }
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    let rows = report.tools.iter().flat_map(|tool| {
        tool.estimators.iter().map(move |one| {
            let disabled = one.disabled_until.map_or_else(|| "-".to_owned(), |at| at.to_string());
            [
                tool.tool_id.clone(),
                one.estimator.clone(),
                one.samples.to_string(),
                percent(one.delta_p50),
                percent(one.delta_p90),
                one.verdict.clone(),
                percent(tool.fail_ratio),
                disabled,
            ]
        })
    });
    let header =
        ["tool", "estimate", "samples", "p50", "p90", "verdict", "failed", "disabled until"];
    page(header, rows, "")
}

pub(super) fn read(file: &PathBuf) -> anyhow::Result<String> {
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

/// A simulation, for people.
pub(super) fn describe(simulated: &SimulateResponse) -> String {
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

/// An object of the answer, by its members' names.
fn members(json: Option<&proto::types::Json>) -> Vec<(String, Value)> {
    let value = json.and_then(|json| serde_json::from_str::<Value>(&json.text).ok());
    match value {
        Some(Value::Object(members)) => members.into_iter().collect(),
        _ => Vec::new(),
    }
}

fn word(value: &Value, name: &str) -> String {
    match value.get(name) {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

fn skills(listed: &ListSkillsResponse) -> String {
    let rows = members(listed.descriptors.as_ref()).into_iter().map(|(name, one)| {
        let version = word(&one, "version");
        [name, word(&one, "tool_id"), version, word(&one, "description")]
    });
    page(["skill", "tool", "version", "what it does"], rows, "")
}

fn contract_of(skill: &Skill) -> String {
    let cost = skill.cost_model.unwrap_or_default();
    let bounds = skill.constraints.clone().unwrap_or_default();
    let hints = skill.composition_hints.clone().unwrap_or_default();
    let head = fields([
        ("skill", skill.skill_id.clone()),
        ("tool", skill.tool_id.clone()),
        ("version", skill.version.clone()),
        ("what it does", skill.description.clone()),
        ("cost", format!("{} cents", cost.base_cents)),
        ("labels", bounds.labels.join(" ")),
        ("idempotent", yes(bounds.idempotent)),
        ("reversible", yes(bounds.reversible)),
        ("attempt", format!("at most {} ms", bounds.max_timeout_ms)),
        ("often before", hints.often_preceded_by.join(" ")),
        ("often after", hints.often_followed_by.join(" ")),
    ]);
    let rows = skill.failure_modes.iter().map(|mode| {
        let chance = mode.probability.map_or_else(|| "-".to_owned(), |p| format!("{p:.2}"));
        [mode.code.clone(), mode.category.clone(), chance, mode.recovery_hint.clone()]
    });
    let failures = page(["failure", "category", "seen", "what helps"], rows, "");
    format!("{head}{failures}")
}

fn budget_line(budget: Option<&BudgetLeft>) -> String {
    budget.map_or_else(
        || "no account".to_owned(),
        |left| format!("{} of {} cents left", left.remaining_cents, left.total_cents),
    )
}

fn rate_line(rate: Option<&RateLeft>) -> String {
    let left = rate.copied().unwrap_or_default();
    format!("{} of {} requests a minute left", left.remaining, left.requests_per_minute)
}

fn capabilities(now: &GetCapabilitiesResponse) -> String {
    let head = fields([
        ("who", now.agent_id.clone()),
        ("budget", budget_line(now.budget.as_ref())),
        ("rate", rate_line(now.rate_limits.as_ref())),
    ]);
    let rows = members(now.skills.as_ref()).into_iter().map(|(name, one)| {
        let available = word(&one, "available");
        let cost = format!("{} cents", word(&one, "cost_estimate_cents"));
        [name, available, cost, word(&one, "policy"), word(&one, "reason")]
    });
    let skills = page(["skill", "available", "cost", "policy", "why not"], rows, "");
    format!("{head}{skills}")
}

fn bounds(contract: &ResourceContract) -> String {
    let running = contract.concurrency.unwrap_or_default();
    let time = contract.time.unwrap_or_default();
    fields([
        ("resource", contract.resource_id.clone()),
        ("kind", contract.kind.clone()),
        ("budget", budget_line(contract.budget.as_ref())),
        ("rate", rate_line(contract.rate_limits.as_ref())),
        ("running", format!("{} of {}", running.current_running, running.max_concurrent)),
        ("attempt", format!("at most {} ms", time.max_attempt_ms)),
    ])
}
