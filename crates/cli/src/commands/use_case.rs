//! `tally use-case`.

use clap::{ArgAction, Args, Subcommand};
use proto::usecases::{
    CreateUseCaseRequest, GetUseCaseRequest, LinkUseCaseRequest, ListUseCasesRequest,
    ScoreUseCaseRequest, UseCase as Entry, UseCaseAnswers,
};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page};

/// The answers of an intake.
#[derive(Debug, Args)]
pub(crate) struct Answers {
    /// The most sensitive data that it touches: public, internal, confidential or restricted.
    #[arg(long, value_name = "CLASS")]
    data_class: String,
    /// Whether what it does can be undone: reversible, partly or irreversible.
    #[arg(long, value_name = "ANSWER")]
    reversibility: String,
    /// How far a wrong step reaches: record, team, organisation or outside.
    #[arg(long, value_name = "ANSWER")]
    blast_radius: String,
    /// Whether customers see what it does: true or false.
    #[arg(long, value_name = "BOOL", action = ArgAction::Set)]
    customer_facing: bool,
    /// How often it runs in a day: rare (10), daily (100), hourly (1000) or constant.
    #[arg(long, value_name = "ANSWER")]
    volume: String,
}

/// `tally use-case`.
#[derive(Debug, Subcommand)]
pub(crate) enum UseCase {
    /// Take a use case in.
    Create {
        /// What it is called.
        #[arg(long)]
        name: String,
        /// What is wanted.
        #[arg(long, default_value = "", value_name = "TEXT")]
        description: String,
        /// Who answers for it; you without it.
        #[arg(long, default_value = "", value_name = "PRINCIPAL")]
        owner: String,
    },
    /// Answer the questions, for the first time or anew.
    Score {
        /// The id of the use case.
        id: String,
        #[command(flatten)]
        answers: Answers,
    },
    /// Say that a workflow is for it: its releases may claim no lower risk tier.
    Link {
        /// The id of the use case.
        id: String,
        /// The name of the workflow.
        #[arg(long, value_name = "NAME")]
        workflow: String,
    },
    /// List the use cases of the tenant, newest first.
    List(Paging),
    /// Show a use case.
    Show {
        /// The id of the use case.
        id: String,
    },
}

impl UseCase {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let case = match self {
            Self::Create { name, description, owner: owner_principal_id } => {
                let request =
                    CreateUseCaseRequest { name, description, owner_principal_id, answers: None };
                client.create_use_case(&request, None).await?
            }
            Self::Score { id: use_case_id, answers } => {
                let Answers { data_class, reversibility, blast_radius, customer_facing, volume } =
                    answers;
                let answers = Some(UseCaseAnswers {
                    data_class,
                    reversibility,
                    blast_radius,
                    customer_facing: Some(customer_facing),
                    volume,
                });
                let request = ScoreUseCaseRequest { use_case_id, answers };
                client.score_use_case(&request, None).await?
            }
            Self::Link { id: use_case_id, workflow } => {
                client.link_use_case(&LinkUseCaseRequest { use_case_id, workflow }, None).await?
            }
            Self::Show { id: use_case_id } => {
                client.get_use_case(&GetUseCaseRequest { use_case_id }).await?
            }
            Self::List(Paging { page_size, page_token }) => {
                let list =
                    client.list_use_cases(&ListUseCasesRequest { page_size, page_token }).await?;
                output.show(&list, |list| {
                    let rows = list.use_cases.iter().map(|case| {
                        let Entry { use_case_id, name, risk_tier, .. } = case.clone();
                        [use_case_id, score(case), risk_tier, name]
                    });
                    page(["id", "score", "tier", "name"], rows, &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
        };
        output.show(&case, describe)?;
        Ok(Exit::Done)
    }
}

fn score(case: &Entry) -> String {
    case.score.map(|score| score.to_string()).unwrap_or_default()
}

fn describe(case: &Entry) -> String {
    fields([
        ("use case", case.use_case_id.clone()),
        ("name", case.name.clone()),
        ("description", case.description.clone()),
        ("owner", case.owner_principal_id.clone()),
        ("score", score(case)),
        ("tier", case.risk_tier.clone()),
        ("approvers", case.release_approvers.to_string()),
        ("workflows", case.workflows.join(" ")),
    ])
}
