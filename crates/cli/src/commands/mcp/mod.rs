//! `tally mcp`: MCP servers behind Tally, and Tally in front of one.

mod command;
mod front;
mod home;
pub(crate) mod limits;
mod login;
mod manage;
mod pump;
mod wrap;

use clap::Args;

use crate::context::Context;
use crate::exit::Exit;

/// What `tally mcp --help` says after its options.
const EXAMPLES: &str = "\
In front of one server, in a client's configuration, in place of the server's own command:
  \"command\": \"tally\", \"args\": [\"mcp\", \"--\", \"npx\", \"-y\", \"some-mcp-server\"]
What policy holds is decided by a person, in any terminal of the same user:
  export TALLY_CREDENTIALS=~/.local/share/tally/approver.json
  tally approvals list
  tally approve ID";

/// `tally mcp`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    arg_required_else_help = true,
    after_help = EXAMPLES
)]
pub(crate) struct Mcp {
    #[command(subcommand)]
    manage: Option<manage::Manage>,
    #[command(flatten)]
    front: front::Front,
}

impl Mcp {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self.manage {
            Some(manage) => manage.run(context).await,
            None => self.front.run(context).await,
        }
    }
}
