//! `tally approvals`, `tally approve` and `tally reject`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use client::Client;
use kernel::approval::Verdict;
use proto::actions::GetActionRequest;
use proto::approvals::approval::State;
use proto::approvals::stage::State as StageState;
use proto::approvals::{
    Approval, BreakGlassRequest, Choice, DecideApprovalRequest, DelegateApprovalRequest,
    GetApprovalRequest, ListApprovalsRequest, Narrow, Stage, Vote,
};

use super::actions::risk;
use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, pretty, when, yes};
use crate::signing::{self, Key};

/// `tally approvals`.
#[derive(Debug, Subcommand)]
pub(crate) enum Approvals {
    /// List the approvals of the workspace, newest first.
    List {
        /// Only those in this state, such as requested.
        #[arg(long, value_parser = state)]
        state: Option<State>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one approval with the document to decide about.
    Show {
        /// The id of the approval.
        id: String,
    },
    /// Hand your say in the open stages to another user who may decide approvals.
    Delegate {
        /// The id of the approval.
        id: String,
        /// The id of the user.
        #[arg(long, value_name = "PRINCIPAL")]
        to: String,
        /// Why, for the record.
        #[arg(long, default_value = "", value_name = "TEXT")]
        reason: String,
    },
}

/// What a decision is about, and why.
#[derive(Debug, Args)]
pub(crate) struct About {
    /// The id of the approval.
    id: String,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// The digest of the plan that you mean, where you saw it elsewhere. Another one is refused.
    #[arg(long, value_name = "DIGEST")]
    plan_digest: Option<String>,
    /// The stage to decide in; without it the first open one in which you may.
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// A code of your second factor.
    #[arg(long, default_value = "", value_name = "CODE")]
    totp: String,
    /// Sign the decision with this private key (PEM), whose public half you registered.
    #[arg(long, value_name = "FILE")]
    sign: Option<PathBuf>,
}

/// `tally approve`.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    #[command(flatten)]
    about: About,
    /// Make the approval good for so many seconds only, once it is granted.
    #[arg(long, value_name = "SECONDS")]
    valid_s: Option<u32>,
    /// Let the action be attempted so often only.
    #[arg(long, value_name = "N")]
    max_attempts: Option<u32>,
    /// Refuse an effect that differs from the plan even where policy allows it.
    #[arg(long)]
    exact: bool,
}

/// `tally reject`.
#[derive(Debug, Args)]
pub(crate) struct Reject {
    #[command(flatten)]
    about: About,
    /// Why, as a code such as wrong_target: kept in the receipt.
    #[arg(long, default_value = "", value_name = "CODE")]
    reason_code: String,
}

/// `tally break-glass`.
#[derive(Debug, Args)]
pub(crate) struct BreakGlass {
    /// The id of the action that waits.
    id: String,
    /// Why, for the record: give two different reasons.
    #[arg(long = "reason", required = true, value_name = "TEXT")]
    reasons: Vec<String>,
    /// A code of your second factor.
    #[arg(long, value_name = "CODE")]
    totp: String,
    /// The digest of the plan that you mean, where you saw it elsewhere. Another one is refused.
    #[arg(long, value_name = "DIGEST")]
    plan_digest: Option<String>,
}

impl Approvals {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List { state, paging: Paging { page_size, page_token } } => {
                let state = state.unwrap_or_default().into();
                let request = ListApprovalsRequest { state, page_size, page_token };
                let list = client.list_approvals(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "state", "tool", "environment", "action", "expires"];
                    let rows = list.approvals.iter().map(row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { id } => output.show(&get(&client, id).await?, describe)?,
            Self::Delegate { id: approval_id, to, reason } => {
                let request = DelegateApprovalRequest { approval_id, to, reason };
                output.show(&client.delegate_approval(&request, None).await?, describe)?;
            }
        }
        Ok(Exit::Done)
    }
}

impl Approve {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { about, valid_s, max_attempts, exact } = self;
        let narrows = valid_s.is_some() || max_attempts.is_some() || exact;
        let narrow = narrows.then_some(Narrow { valid_s, max_attempts, exact });
        let decision = Choice::Approve.into();
        about
            .decide(context, DecideApprovalRequest { decision, narrow, ..Default::default() })
            .await
    }
}

impl Reject {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { about, reason_code } = self;
        let decision = Choice::Reject.into();
        let request = DecideApprovalRequest { decision, reason_code, ..Default::default() };
        about.decide(context, request).await
    }
}

impl About {
    /// Shows the plan, then decides about exactly what was shown.
    async fn decide(
        self,
        context: &Context,
        request: DecideApprovalRequest,
    ) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let seen = get(&client, self.id).await?;
        output.note(&describe(&seen))?;
        let plan_digest = self.plan_digest.unwrap_or_else(|| seen.plan_digest.clone());
        let (stage, signature) = match self.sign {
            None => (self.stage, None),
            Some(file) => {
                let verdict = match request.decision() {
                    Choice::Approve => Verdict::Approve,
                    _ => Verdict::Reject,
                };
                let key = Key::read(&file)?;
                let (stage, signature) =
                    signing::sign(&key, &seen, &plan_digest, verdict, self.stage)?;
                (Some(stage), Some(signature))
            }
        };
        let request = DecideApprovalRequest {
            approval_id: seen.approval_id,
            plan_digest,
            reason: self.reason,
            stage,
            totp_code: self.totp,
            signature,
            ..request
        };
        let approval = client.decide_approval(&request, None).await?;
        output.show(&approval, |approval| {
            let state = approval.state().as_str_name();
            format!("\nyour decision is recorded: {} is {state}", approval.approval_id)
        })?;
        Ok(Exit::Done)
    }
}

impl BreakGlass {
    /// Shows the plan, then breaks glass for exactly what was shown.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let action = client.get_action(&GetActionRequest { action_id: self.id }).await?;
        let seen = get(&client, action.approval_id).await?;
        output.note(&describe(&seen))?;
        let request = BreakGlassRequest {
            action_id: action.action_id,
            plan_digest: self.plan_digest.unwrap_or(seen.plan_digest),
            reasons: self.reasons,
            totp_code: self.totp,
        };
        let approval = client.break_glass(&request, None).await?;
        output.show(&approval, |approval| {
            format!("\nglass is broken, on record: {} may run", approval.action_id)
        })?;
        Ok(Exit::Done)
    }
}

async fn get(client: &Client, approval_id: String) -> Result<Approval, client::Error> {
    client.get_approval(&GetApprovalRequest { approval_id }).await
}

fn state(name: &str) -> Result<State, String> {
    let known = State::from_str_name(name).filter(|state| *state != State::Unspecified);
    known.ok_or_else(|| "write requested, approved, rejected, expired or canceled".to_owned())
}

fn row(approval: &Approval) -> [String; 6] {
    let mut state = approval.state().as_str_name().to_owned();
    if approval.broken_glass {
        state.push_str(" (glass broken)");
    } else if approval.escalated {
        state.push_str(" (escalated)");
    }
    let Approval { approval_id, tool, environment, action_id, expires_at, .. } = approval.clone();
    [approval_id, state, tool, environment, action_id, when(expires_at)]
}

/// A vote for people: `usr_1 approve as usr_2 in legal`.
fn vote(vote: &Vote) -> String {
    let mut text = format!("{} {}", vote.principal_id, vote.decision().as_str_name());
    let more = [
        (" for ", vote.delegated_by.as_str()),
        (" in ", vote.stage.as_str()),
        (" because of ", vote.reason_code.as_str()),
    ];
    for (word, value) in more.into_iter().filter(|(_, value)| !value.is_empty()) {
        text.push_str(word);
        text.push_str(value);
    }
    if vote.signature.is_some() {
        text.push_str(" (signed)");
    }
    text
}

/// A stage for people: `legal 1 of 2, open, escalates 2026-…`.
fn stage(stage: &Stage) -> String {
    let mut text = format!("{} {} of {}", stage.name, stage.approvals, stage.quorum);
    text.push_str(match stage.state() {
        StageState::Waiting => ", waiting",
        StageState::Open => ", open",
        StageState::Complete => ", complete",
        StageState::Unspecified => "",
    });
    if stage.escalated {
        text.push_str(", escalated");
    }
    if stage.escalates_at.is_some() {
        text.push_str(&format!(", escalates {}", when(stage.escalates_at)));
    }
    text.trim_start().to_owned()
}

fn joined<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join("; ")
}

/// An approval for people, with the document to decide about.
pub(crate) fn describe(approval: &Approval) -> String {
    let only_if = |yes_or_no: bool| if yes_or_no { yes(true) } else { String::new() };
    let mut text = fields([
        ("approval", approval.approval_id.clone()),
        ("state", approval.state().as_str_name().to_owned()),
        ("action", approval.action_id.clone()),
        ("tool", format!("{} in {}", approval.tool, approval.environment)),
        ("risk", approval.risk.as_ref().map_or_else(String::new, risk)),
        ("because", approval.reasons.join(", ")),
        ("rules", approval.rules.join(", ")),
        ("quorum", approval.quorum.to_string()),
        ("stages", joined(&approval.stages, stage)),
        ("roles", approval.roles.join(", ")),
        ("second factor", only_if(approval.step_up_required)),
        ("signature", only_if(approval.signature_required)),
        ("duties", approval.sod.clone()),
        ("decisions", joined(&approval.approvals, vote)),
        ("delegated", joined(&approval.delegations, |d| format!("{} to {}", d.from, d.to))),
        ("glass broken by", approval.broken_glass_by.clone()),
        ("expires", when(approval.expires_at)),
        ("valid until", approval.valid_until.map_or_else(String::new, |at| when(Some(at)))),
        ("plan", approval.plan_digest.clone()),
    ]);
    if let Some(document) = &approval.action_document {
        text.push_str("document\n");
        text.push_str(&pretty(&document.text));
    }
    text
}
