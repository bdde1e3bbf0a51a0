//! `tally serve`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use server::{Config, DatabaseUrl, Overrides, Tls};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::exit::Exit;
use crate::output::print;

/// `tally serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The folder of the logs and keys.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The database of the logs, instead of files: postgres://USER@HOST/NAME. Others may see a
    /// command line: a password is better in the variable, in PGPASSWORD or in a passfile.
    #[arg(long, env = "TALLY_DATABASE", hide_env_values = true, value_name = "URL")]
    database: Option<String>,
    /// Where to listen, such as 127.0.0.1:8480; port 0 takes a free one.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The configuration; what is given here besides wins over it.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A certificate chain, PEM: serve HTTPS.
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of the certificate, PEM.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Serve {
    /// Serves until it is told to stop by SIGINT or SIGTERM.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        log_to_stderr(LevelFilter::INFO)?;
        let tls = self.tls_cert.zip(self.tls_key).map(|(cert, key)| Tls { cert, key });
        let database = self.database.map(DatabaseUrl);
        let overrides = Overrides { data: self.data, database, listen: self.listen, tls };
        let config = Config::load(self.config.as_deref(), overrides)?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let running = server::start(config).await?;
        print(&format!("listening on {}", running.url()))?;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            reason = running.wait() => anyhow::bail!(reason),
        }
        running.stop().await;
        Ok(Exit::Done)
    }
}

/// Logs to standard error, so that standard output has the one line. `TALLY_LOG` says how much,
/// such as `info,ledger=debug`; where it does not, `default`.
pub(crate) fn log_to_stderr(default: LevelFilter) -> anyhow::Result<()> {
    let filter =
        EnvFilter::builder().with_default_directive(default.into()).with_env_var("TALLY_LOG");
    let filter = filter.from_env().context("TALLY_LOG")?;
    // The OAuth library tells codes and what servers say of refusals: none of that is for a log.
    let filter = filter.add_directive("rmcp=off".parse().context("TALLY_LOG")?);
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal())
        .with_writer(io::stderr);
    let started = subscriber.try_init();
    started.map_err(|error| anyhow::anyhow!("logging: {error}"))
}
