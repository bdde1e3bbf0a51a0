//! `tally tools`.

use clap::Subcommand;
use proto::tools::{GetToolRequest, ListToolsRequest, Tool};
use serde::Deserialize;

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, pretty};

/// `tally tools`.
#[derive(Debug, Subcommand)]
pub(crate) enum Tools {
    /// List the tools that policy lets you call, now or after approval.
    List(Paging),
    /// Show one tool with its manifest.
    Show {
        /// The id of the tool, such as core.http_call.
        id: String,
    },
}

/// What a list shows of a manifest.
#[derive(Default, Deserialize)]
struct Summary {
    #[serde(default)]
    labels: Vec<String>,
    #[serde(default)]
    description: String,
}

impl Tools {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List(Paging { page_size, page_token }) => {
                let request = ListToolsRequest { page_size, page_token };
                let list = client.list_tools(&request).await?;
                output.show(&list, |list| {
                    let rows = list.tools.iter().map(row);
                    page(["id", "labels", "what it does"], rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { id: tool_id } => {
                let tool = client.get_tool(&GetToolRequest { tool_id }).await?;
                output.show(&tool, describe)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(tool: &Tool) -> [String; 3] {
    let manifest = tool.manifest.as_ref().and_then(|json| json.decode::<Summary>().ok());
    let Summary { labels, description } = manifest.unwrap_or_default();
    let sentence = description.split(". ").next().unwrap_or_default().to_owned();
    [tool.tool_id.clone(), labels.join(" "), sentence]
}

fn describe(tool: &Tool) -> String {
    let head = fields([("tool", tool.tool_id.clone()), ("digest", tool.digest.clone())]);
    let manifest = tool.manifest.as_ref().map(|json| pretty(&json.text));
    format!("{head}manifest\n{}", manifest.unwrap_or_default())
}
