//! `tally`: the server, its commands and the offline verifier, in one program.

mod args;
mod browser;
mod commands;
mod context;
mod credentials;
mod demo;
mod exit;
mod output;
mod setup;
mod signing;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::Cli;
use crate::exit::Exit;

/// Allocating is about a tenth of an action's cost with the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for calls that block: files, name look-ups, long checks. More of them than this only
/// take turns on the disk.
const BLOCKING_THREADS: usize = 32;

/// How the server starts this program as a jq worker.
const JQ_WORKER: [&str; 2] = ["internal", "jq"];
/// How it starts this program as the compiler of components.
const SANDBOX_COMPILER: [&str; 2] = ["internal", "sandbox-compile"];
/// How it starts this program to confine itself and become another.
const SANDBOX_LIGHT: [&str; 2] = ["internal", "sandbox-light"];

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq(JQ_WORKER) {
        return jq_worker();
    }
    if std::env::args_os().skip(1).eq(SANDBOX_COMPILER) {
        return sandbox::compile_main();
    }
    if std::env::args_os().skip(1).take(2).eq(SANDBOX_LIGHT) {
        return sandbox::light_main(std::env::args_os().skip(3));
    }
    let cli = Cli::parse();
    let output = cli.context.output();
    match run(cli) {
        Ok(exit) => exit.into(),
        Err(error) => {
            report(&error, output);
            Exit::of_error(&error).into()
        }
    }
}

/// This program again, as a worker that runs one jq filter for the server.
fn jq_worker() -> ExitCode {
    match connectors::transform::worker_main() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tally: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    runtime.block_on(cli.command.run(&cli.context))
}

/// Says what went wrong: a line to standard error and, where JSON was asked for, the API's error
/// document to standard output.
fn report(error: &anyhow::Error, output: output::Output) {
    eprintln!("tally: {error:#}");
    let refused = error.chain().find_map(|cause| cause.downcast_ref::<client::Error>());
    if let Some(client::Error::Refused { error, .. }) = refused.filter(|_| output.json) {
        let body = proto::error::ErrorBody { error: (**error).clone() };
        if let Err(error) = output.show(&body, |_| String::new()) {
            eprintln!("tally: {error:#}");
        }
    }
}
