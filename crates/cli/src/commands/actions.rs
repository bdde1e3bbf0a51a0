//! `tally submit` and `tally actions`.

use std::fs;
use std::io::Read as _;

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use proto::actions::action::State;
use proto::actions::reconcile_action_request::Outcome;
use proto::actions::{
    Action, CancelActionRequest, Claims, GetActionRequest, ListActionsRequest,
    ReconcileActionRequest, ReleaseActionRequest, ReverseActionRequest, SubmitActionRequest,
};
use proto::types::{ApprovalDemand, Decision, DemandedStage, Json, Risk};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, usd, when, yes};

/// Bytes of parameters that are read: what the server takes, and one to see that it is more.
const PARAMS_BYTES_MAX: u64 = kernel::limits::PARAMS_BYTES_MAX as u64 + 1;

/// `tally submit`.
#[derive(Debug, Args)]
pub(crate) struct Submit {
    /// The tool, such as core.http_call.
    tool: String,
    /// The parameters: a JSON object, @FILE to read it from a file, or - for standard input.
    #[arg(long, default_value = "{}", value_name = "JSON")]
    params: String,
    /// Repeat the environment of the key; another one is refused.
    #[arg(long, default_value = "", value_name = "NAME")]
    environment: String,
    /// What the action acts on, such as project:SEC.
    #[arg(long, default_value = "", value_name = "TEXT")]
    target: String,
    /// A kind of data involved, such as pii; may be repeated.
    #[arg(long = "data-type", value_name = "KIND")]
    data_types: Vec<String>,
    /// Milliseconds to wait for the end of the action.
    #[arg(long, value_name = "MS")]
    wait_ms: Option<u32>,
    /// The account that pays; without it that of the principal.
    #[arg(long, default_value = "", value_name = "ID")]
    account: String,
    /// A key of your own: a repetition with the same key has no second effect.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Submit {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let params = json_argument(&self.params).context("--params")?;
        let claims = Claims { target: self.target, data_types: self.data_types, extra: None };
        let is_claiming = !claims.target.is_empty() || !claims.data_types.is_empty();
        let request = SubmitActionRequest {
            tool: self.tool,
            params: Some(params),
            environment: self.environment,
            claims: is_claiming.then_some(claims),
            wait_ms: self.wait_ms,
            account_id: self.account,
            ..Default::default()
        };
        let key = self.idempotency_key.as_deref();
        let action = context.client()?.submit_action(&request, key).await?;
        context.output().show(&action, describe)?;
        Ok(Exit::of_state(action.state()))
    }
}

/// `tally actions`.
#[derive(Debug, Subcommand)]
pub(crate) enum Actions {
    /// List the actions of the workspace, newest first.
    List {
        /// Only those in this state, such as awaiting_approval.
        #[arg(long, value_parser = state)]
        state: Option<State>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one action.
    Show {
        /// The id of the action.
        id: String,
    },
    /// Withdraw an action that has not begun to execute.
    Cancel(About),
    /// Release a quarantined action; it is decided again.
    Release(About),
    /// Undo an action: put back what was there before, by an action that is decided like any other.
    Reverse {
        #[command(flatten)]
        about: About,
        /// Milliseconds to wait for the end of the action that undoes it.
        #[arg(long, value_name = "MS")]
        wait_ms: Option<u32>,
        /// The account that pays; without it that of the principal.
        #[arg(long, default_value = "", value_name = "ID")]
        account: String,
        /// A key of your own: a repetition with the same key has no second effect.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// Record what became of an action whose outcome is unknown.
    Reconcile {
        #[command(flatten)]
        about: About,
        /// What is known now.
        #[arg(long)]
        outcome: Known,
        /// What it cost, in millionths of a US dollar.
        #[arg(long, default_value_t = 0, value_name = "N")]
        cost_micro_usd: i64,
    },
}

/// Which action, and why.
#[derive(Debug, Args)]
pub(crate) struct About {
    /// The id of the action.
    id: String,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

/// What a person found out about an effect.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Known {
    /// The effect happened.
    Executed,
    /// The effect did not happen.
    Failed,
}

impl Actions {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List { state, paging: Paging { page_size, page_token } } => {
                let state = state.unwrap_or_default().into();
                let request = ListActionsRequest { state, page_size, page_token };
                let list = client.list_actions(&request).await?;
                output.show(&list, |list| {
                    let rows = list.actions.iter().map(row);
                    let header = ["id", "tool", "environment", "state", "created"];
                    page(header, rows, &next(&list.next_page_token))
                })?;
                Ok(Exit::Done)
            }
            Self::Show { id: action_id } => {
                let action = client.get_action(&GetActionRequest { action_id }).await?;
                output.show(&action, describe)?;
                Ok(Exit::Done)
            }
            Self::Cancel(About { id: action_id, reason }) => {
                let request = CancelActionRequest { action_id, reason };
                output.show(&client.cancel_action(&request, None).await?, describe)?;
                Ok(Exit::Done)
            }
            Self::Release(About { id: action_id, reason }) => {
                let request = ReleaseActionRequest { action_id, reason };
                let action = client.release_action(&request, None).await?;
                output.show(&action, describe)?;
                Ok(Exit::of_state(action.state()))
            }
            Self::Reverse { about, wait_ms, account: account_id, idempotency_key } => {
                let About { id: action_id, reason } = about;
                let request = ReverseActionRequest { action_id, reason, wait_ms, account_id };
                let action = client.reverse_action(&request, idempotency_key.as_deref()).await?;
                output.show(&action, describe)?;
                Ok(Exit::of_state(action.state()))
            }
            Self::Reconcile { about: About { id: action_id, reason }, outcome, cost_micro_usd } => {
                let outcome = match outcome {
                    Known::Executed => Outcome::Executed,
                    Known::Failed => Outcome::Failed,
                };
                let outcome = outcome.into();
                let request = ReconcileActionRequest { action_id, outcome, cost_micro_usd, reason };
                output.show(&client.reconcile_action(&request, None).await?, describe)?;
                Ok(Exit::Done)
            }
        }
    }
}

pub(crate) fn state(name: &str) -> Result<State, String> {
    let known = State::from_str_name(name).filter(|state| *state != State::Unspecified);
    known.ok_or_else(|| "write a state such as awaiting_approval, executed or denied".to_owned())
}

fn row(action: &Action) -> [String; 5] {
    let state = action.state().as_str_name().to_owned();
    let Action { action_id, tool, environment, created_at, .. } = action.clone();
    [action_id, tool, environment, state, when(created_at)]
}

/// An action for people.
pub(crate) fn describe(action: &Action) -> String {
    let text = |json: &Option<Json>| json.as_ref().map_or_else(String::new, |j| j.text.clone());
    let error = action.error.as_ref();
    fields([
        ("action", action.action_id.clone()),
        ("tool", format!("{} in {}", action.tool, action.environment)),
        ("state", action.state().as_str_name().to_owned()),
        ("decision", action.decision.as_ref().map_or_else(String::new, decision)),
        ("risk", action.risk.as_ref().map_or_else(String::new, risk)),
        ("plan", action.plan_digest.clone()),
        ("approval", action.approval_id.clone()),
        ("glass broken", if action.broken_glass { yes(true) } else { String::new() }),
        ("result", text(&action.result)),
        ("error", error.map_or_else(String::new, |e| format!("{} ({})", e.message, e.code))),
        ("undoes", action.reverses.clone()),
        ("can be undone", if action.reversible { yes(true) } else { String::new() }),
        (if action.reversed { "undone by" } else { "being undone by" }, action.reversal_id.clone()),
        ("cost", usd(action.cost_micro_usd)),
        ("receipts", action.receipts.join(" ")),
    ])
}

/// A decision for people: `DENY by R-DESTRUCTIVE: destructive`.
pub(crate) fn decision(decision: &Decision) -> String {
    let by = if decision.rules.is_empty() {
        String::new()
    } else {
        format!(" by {}", decision.rules.join(", "))
    };
    let why = decision.reasons.join(", ");
    let people = decision.approval.as_ref().map(demand).unwrap_or_default();
    format!("{}{by}: {why}{people}", decision.effect().as_str_name())
}

/// What people have to do: `; 1 of admin (legal), then 2 of auditor (security) within 3600 s`.
fn demand(demand: &ApprovalDemand) -> String {
    let stage = |stage: &DemandedStage| {
        let roles = if stage.roles.is_empty() { "approver" } else { &stage.roles.join("/") };
        let named = [" named ", &stage.approvers.join("/")].concat();
        let named = if stage.approvers.is_empty() { String::new() } else { named };
        let name = if stage.name.is_empty() { &stage.name } else { &format!(" ({})", stage.name) };
        format!("{} of {roles}{named}{name}", stage.quorum)
    };
    let order = if demand.mode == "serial" { ", then " } else { " and " };
    let mut text = demand.stages.iter().map(stage).collect::<Vec<_>>().join(order);
    text.push_str(&format!(" within {} s", demand.expires_s));
    let valid = demand.valid_s.map(|s| format!("good for {s} s")).unwrap_or_default();
    let notes = [
        (demand.valid_s.is_some(), valid.as_str()),
        (demand.signed, "each signs"),
        (demand.sod == "strict", "nobody of the chain"),
        (demand.break_glass == "forbidden", "glass is not to be broken"),
    ];
    for (_, note) in notes.iter().filter(|(applies, _)| *applies) {
        text.push_str(", ");
        text.push_str(note);
    }
    format!("; {text}")
}

/// A risk for people: `45 medium (write, prod)`.
pub(crate) fn risk(risk: &Risk) -> String {
    let signals = risk.signals.join(", ");
    let signals = if signals.is_empty() { signals } else { format!(" ({signals})") };
    format!("{} {}{signals}", risk.score, risk.tier)
}

/// JSON that was given as it is, as `@FILE`, or as `-` for standard input.
pub(crate) fn json_argument(argument: &str) -> anyhow::Result<Json> {
    let text = match argument.strip_prefix('@') {
        Some(path) => fs::File::open(path)
            .and_then(read)
            .map_err(|error| Failure::Usage(format!("cannot read `{path}`: {error}")))?,
        None if argument == "-" => read(std::io::stdin())?,
        None => argument.to_owned(),
    };
    Ok(Json::new(text.trim()).map_err(|error| Failure::Usage(format!("no JSON: {error}")))?)
}

fn read(from: impl std::io::Read) -> std::io::Result<String> {
    let mut text = String::new();
    from.take(PARAMS_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}
