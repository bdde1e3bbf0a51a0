//! `tally dev slack`: a simulator of a workspace of Slack. It has the methods of the Web API that
//! approvals use, keeps the messages, and presses buttons for the people that a script names.
//! Everything that it says of itself says that it is a simulator.

mod check;
mod people;
mod press;
mod script;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::site::{self, Running};
use crate::exit::Exit;
use crate::output::print;
pub(crate) use script::Script;
use serve::Workspace;

/// `tally dev slack`.
#[derive(Debug, Args)]
pub(crate) struct Slack {
    /// Where to listen; an address of this machine alone. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8492", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// The token, the people and channels, where buttons call, what goes wrong: a YAML file.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

impl Slack {
    /// Runs the command, until it is stopped.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let script = match self.script {
            Some(path) => Script::load(&path)?,
            None => Script::default(),
        };
        let listener = site::listen(self.listen).await?;
        let address = listener.local_addr()?;
        print(&format!("Slack simulator (no Slack here) listening on http://{address}"))?;
        site::serve(listener, Workspace::new(script, &address.to_string(), true)).await?;
        Ok(Exit::Done)
    }
}

/// Starts one in this process, on a free port.
pub(crate) async fn start(script: Script) -> anyhow::Result<Running> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    site::start(listener, Workspace::new(script, &address, false))
}
