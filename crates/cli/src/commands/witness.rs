//! `tally witness`: cosigns the checkpoints of logs on other servers, as long as they only grow.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use kernel::note::VerifierKey;
use serde::Serialize;
use server::Tls;
use server::witness::{self, AlarmRow, Config};
use tokio::signal::unix::{SignalKind, signal};

use super::demands::log_key;
use super::serve::log_to_stderr;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::print;
use tracing_subscriber::filter::LevelFilter;

/// `tally witness`.
#[derive(Debug, Subcommand)]
pub(crate) enum Witness {
    /// Run a witness (C2SP tlog-witness).
    Serve(Serve),
    /// Print the key of the witness of a folder, making it on the first call: what the servers
    /// that ask this witness put into their configuration.
    Key {
        #[command(flatten)]
        folder: Folder,
    },
    /// Show which logs did not keep their word, with the evidence. Ends with 6 where an alarm
    /// stands.
    Alarms {
        /// The folder of the witness.
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
    },
}

/// Whose witness.
#[derive(Debug, Args)]
pub(crate) struct Folder {
    /// The folder of the witness: its memory and its key. Never restore it from a copy.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The name of a new witness, such as witness.example/w1. It never changes.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

/// `tally witness serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    #[command(flatten)]
    folder: Folder,
    /// Where to listen; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8490")]
    listen: String,
    /// The key of a log to watch, or @FILE; may be repeated.
    #[arg(long, value_name = "VKEY", required_unless_present = "log_keys")]
    log_key: Vec<String>,
    /// A file of keys of logs to watch, one a line; lines that begin with # are passed over.
    #[arg(long, value_name = "FILE")]
    log_keys: Option<PathBuf>,
    /// A certificate chain, PEM: serve HTTPS.
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, PEM.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

/// The key, as `--json` shows it.
#[derive(Serialize)]
struct Key {
    name: String,
    vkey: String,
}

/// The alarms, as `--json` shows them.
#[derive(Serialize)]
struct Alarms {
    alarms: Vec<AlarmRow>,
}

impl Witness {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Serve(serve) => serve.run().await,
            Self::Key { folder } => {
                let key = witness::key(&folder.data, folder.name.as_deref())?;
                let key = Key { name: key.name().to_owned(), vkey: key.to_string() };
                context.output().show(&key, |key| key.vkey.clone())?;
                Ok(Exit::Done)
            }
            Self::Alarms { data } => {
                let alarms = Alarms { alarms: witness::alarms(&data)? };
                context.output().show(&alarms, describe)?;
                let standing = alarms.alarms.iter().any(|alarm| alarm.resolved_us.is_none());
                Ok(Exit::of_verification(!standing))
            }
        }
    }
}

impl Serve {
    /// Serves until it is told to stop by SIGINT or SIGTERM.
    async fn run(self) -> anyhow::Result<Exit> {
        log_to_stderr(LevelFilter::INFO)?;
        let logs = self.logs()?;
        let tls = self.tls_cert.zip(self.tls_key).map(|(cert, key)| Tls { cert, key });
        let Folder { data, name } = self.folder;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let running = witness::start(Config { data, listen: self.listen, tls, name, logs }).await?;
        print(&format!("listening on {}", running.url()))?;
        let stopped_by_itself = tokio::select! {
            _ = interrupt.recv() => false,
            _ = terminate.recv() => false,
            () = running.wait() => true,
        };
        running.stop().await;
        Ok(if stopped_by_itself { Exit::Internal } else { Exit::Done })
    }

    fn logs(&self) -> anyhow::Result<Vec<VerifierKey>> {
        let mut logs: Vec<VerifierKey> =
            self.log_key.iter().map(|key| log_key(key)).collect::<Result<_, _>>()?;
        let Some(path) = &self.log_keys else { return Ok(logs) };
        let text = fs::read_to_string(path).with_context(|| format!("`{}`", path.display()))?;
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |error: kernel::note::Error| {
                Failure::Usage(format!("`{}`, line {number}: {error}", path.display()))
            };
            logs.push(line.parse().map_err(bad)?);
        }
        Ok(logs)
    }
}

fn describe(found: &Alarms) -> String {
    if found.alarms.is_empty() {
        return "no alarm: every log that was shown has only grown".to_owned();
    }
    let alarms = found.alarms.iter().map(|alarm| {
        let AlarmRow { origin, kind, known, presented, times, resolved_us, .. } = alarm;
        let state = if resolved_us.is_some() { "resolved" } else { "STANDS" };
        let indent = |note: &str| format!("  {}", note.trim_end().replace('\n', "\n  "));
        format!(
            "{kind} of {origin}: {state}, seen {times} times\n cosigned:\n{}\n shown:\n{}",
            indent(known),
            indent(presented)
        )
    });
    alarms.collect::<Vec<_>>().join("\n")
}
