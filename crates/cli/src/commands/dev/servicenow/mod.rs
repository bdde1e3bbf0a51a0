//! `tally dev servicenow`: a simulator of an instance of ServiceNow. It has the Table API for
//! incidents, their journal, groups and users, tokens of OAuth 2, and a business rule that calls
//! out when an incident is created. Everything that it says of itself says that it is a simulator.

mod access;
mod query;
mod records;
mod rule;
mod script;
mod serve;
mod show;

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use tokio::net::TcpListener;

use super::site::{self, Running};
use crate::exit::Exit;
use crate::output::print;
pub(crate) use script::Script;
use serve::Instance;

/// `tally dev servicenow`.
#[derive(Debug, Args)]
pub(crate) struct Servicenow {
    /// Where to listen; an address of this machine alone. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8491", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// Who may log in, which incidents there are, whom to call, what goes wrong: a YAML file.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
}

impl Servicenow {
    /// Runs the command, until it is stopped.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let script = match self.script {
            Some(path) => Script::load(&path)?,
            None => Script::sample(),
        };
        let listener = site::listen(self.listen).await?;
        let address = listener.local_addr()?;
        let instance = Instance::new(script, &address.to_string(), true)?;
        print(&format!("ServiceNow simulator (no ServiceNow here) listening on http://{address}"))?;
        site::serve(listener, instance).await?;
        Ok(Exit::Done)
    }
}

/// Starts one in this process, on a free port.
pub(crate) async fn start(script: Script) -> anyhow::Result<Running> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let instance = Instance::new(script, &listener.local_addr()?.to_string(), false)?;
    site::start(listener, instance)
}
