//! `tally approvals`, `tally approve` and `tally reject`.

use clap::{Args, Subcommand};
use client::Client;
use proto::approvals::approval::State;
use proto::approvals::{
    Approval, Choice, DecideApprovalRequest, GetApprovalRequest, ListApprovalsRequest,
};

use super::actions::risk;
use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, pretty, when, yes};

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
}

/// `tally approve` and `tally reject`.
#[derive(Debug, Args)]
pub(crate) struct Decide {
    /// The id of the approval.
    id: String,
    /// Why, for the record.
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
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
        }
        Ok(Exit::Done)
    }
}

impl Decide {
    pub(crate) async fn approve(self, context: &Context) -> anyhow::Result<Exit> {
        self.decide(context, Choice::Approve).await
    }

    pub(crate) async fn reject(self, context: &Context) -> anyhow::Result<Exit> {
        self.decide(context, Choice::Reject).await
    }

    /// Shows the plan, then decides about exactly what was shown.
    async fn decide(self, context: &Context, choice: Choice) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let seen = get(&client, self.id).await?;
        output.note(&describe(&seen))?;
        let request = DecideApprovalRequest {
            approval_id: seen.approval_id,
            decision: choice.into(),
            plan_digest: self.plan_digest.unwrap_or(seen.plan_digest),
            reason: self.reason,
        };
        let approval = client.decide_approval(&request, None).await?;
        output.show(&approval, |approval| {
            let state = approval.state().as_str_name();
            format!("\nyour decision is recorded: {} is {state}", approval.approval_id)
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
    let state = approval.state().as_str_name().to_owned();
    let Approval { approval_id, tool, environment, action_id, expires_at, .. } = approval.clone();
    [approval_id, state, tool, environment, action_id, when(expires_at)]
}

/// An approval for people, with the document to decide about.
pub(crate) fn describe(approval: &Approval) -> String {
    let votes = approval.approvals.iter();
    let votes =
        votes.map(|vote| format!("{} {}", vote.principal_id, vote.decision().as_str_name()));
    let step_up = if approval.step_up_required { yes(true) } else { String::new() };
    let mut text = fields([
        ("approval", approval.approval_id.clone()),
        ("state", approval.state().as_str_name().to_owned()),
        ("action", approval.action_id.clone()),
        ("tool", format!("{} in {}", approval.tool, approval.environment)),
        ("risk", approval.risk.as_ref().map_or_else(String::new, risk)),
        ("because", approval.reasons.join(", ")),
        ("rules", approval.rules.join(", ")),
        ("quorum", approval.quorum.to_string()),
        ("roles", approval.roles.join(", ")),
        ("second factor", step_up),
        ("duties", approval.sod.clone()),
        ("decisions", votes.collect::<Vec<_>>().join(", ")),
        ("expires", when(approval.expires_at)),
        ("plan", approval.plan_digest.clone()),
    ]);
    if let Some(document) = &approval.action_document {
        text.push_str("document\n");
        text.push_str(&pretty(&document.text));
    }
    text
}
