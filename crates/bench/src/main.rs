//! The measurements: `cargo xtask bench NAME`. Each prints its figures beside a floor or a peer
//! that was measured in the same run.

mod action;
mod cpu;
mod fsync;
mod itsm;
mod ledger;
mod load;
mod mcp;
mod metrics;
mod pace;
mod policy;
mod report;
mod runs;
mod sandbox;
mod server;
mod stats;
mod store;
mod verify;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, ValueEnum};

use crate::report::Report;

/// Measures Tally. An aim that is missed is printed as missed; only a measurement that cannot be
/// made is an error.
#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Args {
    /// What to measure.
    name: Name,
    /// Also write the figures as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where the temporary data goes: on the disk that is to be measured. Without it, next to
    /// this program.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Name {
    /// A governed action, end to end, over HTTP.
    Action,
    /// Triage of incidents, from the event to the write-back.
    Itsm,
    /// Commits to the ledger, in process.
    Ledger,
    /// A call of a tool through the MCP gateway against the same call without it.
    Mcp,
    /// Decisions against bare evaluations.
    Policy,
    /// Runs of three steps on both engines, and simulations.
    Runs,
    /// Sandboxes against a bare host of WebAssembly.
    Sandbox,
    /// Commits to the ledger on each engine against bare rows.
    Store,
    /// Verification of a log against bare signature verification.
    Verify,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(sandbox::COMPILE) {
        return ::sandbox::compile_main();
    }
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => {
            let program = std::env::current_exe()?;
            program.parent().context("this program lies in no folder")?.to_owned()
        }
    };
    let report = match args.name {
        Name::Action => action::run(&dir)?,
        Name::Itsm => itsm::run(&dir)?,
        Name::Ledger => ledger::run(&dir)?,
        Name::Mcp => mcp::run(&dir)?,
        Name::Policy => policy::run()?,
        Name::Runs => runs::run(&dir)?,
        Name::Sandbox => sandbox::run(&dir)?,
        Name::Store => store::run(&dir)?,
        Name::Verify => verify::run(&dir)?,
    };
    finish(&report, args)
}

fn finish(report: &Report, args: &Args) -> anyhow::Result<()> {
    print!("{report}");
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("{}", path.display()))?;
    }
    Ok(())
}
