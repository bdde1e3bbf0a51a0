//! `tally dev model`: a simulator of a provider of models. It speaks the forms of OpenAI and
//! Anthropic over HTTP and answers by a script, the same each time. Everything that it says of
//! itself says that it is a simulator.

mod anthropic;
mod asked;
mod instance;
mod openai;
mod record;
mod reply;
mod responses;
mod script;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use tokio::net::TcpListener;

use super::site::Running;
use crate::exit::Exit;
use crate::output::print;
use record::Record;
use script::Script;

/// What the names of its models begin with. It answers for no other.
const PREFIX: &str = "sim-";
/// The models that it lists; every other name with the prefix works as well.
const MODELS: [&str; 2] = ["sim-large", "sim-small"];
/// When its models and answers were made: always then, so that answers are the same each time.
const MADE_AT: u64 = 1_767_225_600;
/// Bytes of a request.
const BODY_BYTES_MAX: usize = 4 << 20;

/// `tally dev model`.
#[derive(Debug, Args)]
pub(crate) struct Model {
    /// Where to listen; an address of this machine alone. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8490", value_name = "ADDRESS")]
    listen: SocketAddr,
    /// How to answer: a YAML file of rules. Without it every message is summed up.
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// Where to note each request for an answer: a file of JSON lines with the milliseconds since
    /// the start at which it came, the model, and the status that it was answered with.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
}

impl Model {
    /// Runs the command, until it is stopped.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        let Self { listen, script, record } = self;
        if !listen.ip().is_loopback() {
            bail!("--listen: {listen} is not of this machine alone: write 127.0.0.1 or [::1]");
        }
        let script = match script {
            Some(path) => Script::load(&path)?,
            None => Script::default(),
        };
        let record = Record::open(record.as_deref())?;
        let listener = TcpListener::bind(listen).await;
        let listener = listener.with_context(|| format!("cannot listen on {listen}"))?;
        let address = listener.local_addr()?;
        print(&format!("model simulator (no model answers here) listening on http://{address}"))?;
        serve::run(listener, Arc::new(script), record).await?;
        Ok(Exit::Done)
    }
}

/// Starts one in this process, on a free port. `script` is YAML.
pub(crate) async fn start(script: &str) -> anyhow::Result<Running> {
    let script: Script = serde_yaml_ng::from_str(script)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let serving = tokio::spawn(serve::run(listener, Arc::new(script), Record::open(None)?));
    Ok(Running::new(address, serving.abort_handle()))
}
