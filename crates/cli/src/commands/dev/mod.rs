//! `tally dev`: what helps to build and test on Tally, and is never part of a deployment.

mod fault;
pub(crate) mod model;
pub(crate) mod post;
pub(crate) mod servicenow;
mod site;
pub(crate) mod slack;

use std::sync::{Mutex, MutexGuard, PoisonError};

use clap::Subcommand;

use crate::exit::Exit;

pub(crate) use site::Running;

/// `tally dev`.
#[derive(Debug, Subcommand)]
pub(crate) enum Dev {
    /// Simulate a provider of models on this machine: no model answers, a script does.
    Model(model::Model),
    /// Simulate an instance of ServiceNow on this machine: incidents, work notes, business rules.
    Servicenow(servicenow::Servicenow),
    /// Simulate a workspace of Slack on this machine: messages, and people who press buttons.
    Slack(slack::Slack),
}

impl Dev {
    /// Runs the command.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Model(command) => command.run().await,
            Self::Servicenow(command) => command.run().await,
            Self::Slack(command) => command.run().await,
        }
    }
}

/// What is in it, whoever failed while holding it: a simulator goes on.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
