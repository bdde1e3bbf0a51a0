//! `tally mcp -- COMMAND`: an MCP client starts it in place of COMMAND, and every call is governed.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use kernel::ids::is_server_name;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use super::command::{self, Command};
use super::home::Home;
use super::limits;
use super::pump::Pump;
use super::pump::stdio::{self, Line};
use super::wrap::{Wanted, Wrap};
use crate::commands::serve;
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
    /// Runs until the client has no more to ask, or until it is told to stop.
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        serve::log_to_stderr(LevelFilter::WARN)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // What the client says from now on waits until there is somebody to hear it.
        let lines = stdio::input();
        let (out, written) = stdio::output();
        let wrap = self.wrap(context)?;
        let pump = Pump::new(wrap, out);
        let ended = tokio::select! {
            ended = serve(&pump, lines) => ended,
            _ = interrupt.recv() => Ok(()),
            _ = terminate.recv() => Ok(()),
            // Nobody reads any more.
            _ = written => Ok(()),
        };
        let left = async {
            pump.close().await;
            pump.place().leave().await;
        };
        if timeout(limits::LEAVE_TIME, left).await.is_err() {
            eprintln!("tally: something did not end in time");
        }
        ended.map(|()| Exit::Done)
    }

    fn wrap(self, context: &Context) -> anyhow::Result<Wrap> {
        let variables = command::variables(&self.env)?;
        if let Some(name) = self.name.as_ref().filter(|name| !is_server_name(name)) {
            let rule = "a name has 1 to 32 of a-z, 0-9, `-` and `_`, and begins with one of the \
                        first two";
            return Err(Failure::Usage(format!("--name {name}: {rule}")).into());
        }
        let wanted = Wanted {
            name: self.name,
            command: Command::new(&self.command, self.cwd.as_deref(), &variables)?,
            variables,
            labels: command::labels(&self.labels)?,
            trust_annotations: !self.no_trust_annotations,
        };
        let home = match context.local_folder()? {
            Some(folder) => Home::embedded(self.data.or(Some(folder)))?,
            None if context.names_server() => Home::Named(Box::new(context.session()?)),
            None => Home::embedded(self.data)?,
        };
        Wrap::new(home, wanted)
    }
}

async fn serve(pump: &Arc<Pump<Wrap>>, lines: mpsc::Receiver<Line>) -> anyhow::Result<()> {
    pump.connect().await?;
    eprintln!("{}", pump.place().notice());
    pump.run(lines).await;
    Ok(())
}
