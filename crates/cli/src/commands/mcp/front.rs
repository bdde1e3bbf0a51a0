//! `tally mcp -- COMMAND`: an MCP client starts it in place of COMMAND, and every call is governed.

use std::path::PathBuf;

use clap::Args;

use crate::context::Context;
use crate::exit::{Exit, Failure};

/// Run an MCP server behind Tally: everything a client asks of it is decided, maybe held for a
/// person, and receipted.
#[derive(Debug, Args)]
pub(crate) struct Front {
    /// The name of the server in policy and receipts; without it, made from the command.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// The data folder of the embedded server, made on the first use; without it
    /// ~/.local/share/tally. Where --url or TALLY_URL names a server, that one is used.
    #[arg(long, env = "TALLY_DATA", value_name = "DIR")]
    data: Option<PathBuf>,
    /// The labels of a tool, in place of those that follow from its annotations, such as
    /// delete_file=write,irreversible; may be repeated.
    #[arg(long = "label", value_name = "TOOL=LABEL,…")]
    labels: Vec<String>,
    /// Take nothing from the tools' annotations: every tool is a write to the outside.
    #[arg(long)]
    no_trust_annotations: bool,
    /// A variable for COMMAND, which gets a clean environment; may be repeated. `K` alone takes
    /// the value from this process's environment and keeps it as a secret.
    #[arg(long = "env", value_name = "K[=V]")]
    env: Vec<String>,
    /// The folder in which COMMAND runs; without it the one that this process is in.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// The command of the MCP server and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Front {
    pub(crate) async fn run(self, _context: &Context) -> anyhow::Result<Exit> {
        Err(Failure::Usage("not yet".to_owned()).into())
    }
}
