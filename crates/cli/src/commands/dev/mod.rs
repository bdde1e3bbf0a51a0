//! `tally dev`: what helps to build and test on Tally, and is never part of a deployment.

mod model;

use clap::Subcommand;

use crate::exit::Exit;

/// `tally dev`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Simulate a provider of models on this machine: no model answers, a script does.
    Model(model::Model),
}

impl Dev {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Model(command) => command.run().await,
        }
    }
}
