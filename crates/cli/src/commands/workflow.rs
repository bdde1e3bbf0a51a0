//! `tally workflow`.

use std::path::PathBuf;

use clap::Subcommand;
use proto::workflows::{
    GetWorkflowRequest, GetWorkflowVersionRequest, ListWorkflowsRequest, PublishWorkflowRequest,
    ValidateWorkflowRequest, Workflow as Entry, WorkflowVersion,
};

use super::runtime::read;
use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, print, when};

/// `tally workflow`.
#[derive(Debug, Subcommand)]
pub(crate) enum Workflow {
    /// Check a document as publishing would, with the line of what is wrong. Keeps nothing.
    Validate {
        /// The document, in YAML; `-` for standard input.
        file: PathBuf,
    },
    /// Keep a workflow, or a higher version of it.
    Publish {
        /// The document, in YAML; `-` for standard input.
        file: PathBuf,
    },
    /// List the workflows of the tenant.
    List(Paging),
    /// Show a workflow with its versions, or the document of one.
    Show {
        /// Its name.
        name: String,
        /// Print the document of this version.
        #[arg(long, value_name = "VERSION")]
        version: Option<String>,
    },
}

impl Workflow {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Validate { file } => {
                let request = ValidateWorkflowRequest { yaml: read(&file)? };
                output.show(&client.validate_workflow(&request).await?, |found| {
                    let version = found.version.clone().unwrap_or_default();
                    fields([
                        ("workflow", found.name.clone()),
                        ("version", version.version.clone()),
                        ("steps", found.steps.to_string()),
                        ("risk tier", version.risk_tier.clone()),
                        ("model", model(&version)),
                        ("digest", version.digest),
                    ])
                })?;
            }
            Self::Publish { file } => {
                let request = PublishWorkflowRequest { yaml: read(&file)? };
                output.show(&client.publish_workflow(&request, None).await?, describe)?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListWorkflowsRequest { page_size, page_token };
                let list = client.list_workflows(&request).await?;
                output.show(&list, |list| {
                    let rows = list.workflows.iter().map(|one| {
                        [one.name.clone(), one.latest_version.clone(), when(one.changed_at)]
                    });
                    page(["name", "latest", "changed"], rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { name, version: None } => {
                let shown = client.get_workflow(&GetWorkflowRequest { name }).await?;
                output.show(&shown, describe)?;
            }
            Self::Show { name, version: Some(version) } => {
                let request = GetWorkflowVersionRequest { name, version };
                let shown = client.get_workflow_version(&request).await?;
                match output.json {
                    true => output.show(&shown, |_| String::new())?,
                    false => print(shown.yaml.trim_end())?,
                }
            }
        }
        Ok(Exit::Done)
    }
}

fn model(version: &WorkflowVersion) -> String {
    let pin = version.model_pin.as_ref();
    pin.map(|pin| format!("{}/{}", pin.provider, pin.model)).unwrap_or_default()
}

fn describe(workflow: &Entry) -> String {
    let head = fields([
        ("workflow", workflow.name.clone()),
        ("latest", workflow.latest_version.clone()),
        ("use cases", workflow.use_cases.join(" ")),
    ]);
    let in_force = workflow.in_force.iter().map(|place| {
        let canary = match place.canary_release_id.as_str() {
            "" => String::new(),
            id => format!(", {id} for {} of 100", place.canary_percent),
        };
        let release = if place.release_id.is_empty() { "none" } else { &place.release_id };
        format!("in force in {}: {release}{canary}\n", place.environment)
    });
    let versions = workflow.versions.iter().map(|version| {
        let WorkflowVersion { digest, risk_tier, author, .. } = version.clone();
        [version.version.clone(), risk_tier, model(version), author, digest]
    });
    let table = page(["version", "risk", "model", "author", "digest"], versions, "");
    let in_force: String = in_force.collect();
    format!("{head}{in_force}{table}")
}
