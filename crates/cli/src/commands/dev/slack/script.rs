//! The script: the token, who is there, where buttons call, what goes wrong.

use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::commands::dev::fault::Fault;
use crate::commands::dev::post::is_local;

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    /// The bot token that requests must have.
    pub(super) token: String,
    /// The id of the workspace.
    pub(super) team: String,
    /// People, the bot not among them.
    pub(super) users: Vec<User>,
    /// Channels that the bot is in.
    pub(super) channels: Vec<Channel>,
    /// Where buttons call, and with what that is signed.
    pub(super) interactivity: Option<Interactivity>,
    /// Who presses a button as soon as it is there.
    pub(super) presses: Option<Presses>,
    /// What goes wrong.
    pub(super) faults: Vec<Fault>,
    /// Milliseconds before every answer.
    pub(super) latency_ms: u64,
}

/// Somebody.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: String,
}

/// A channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Channel {
    pub(super) id: String,
    pub(super) name: String,
}

/// Where buttons call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Interactivity {
    pub(super) url: String,
    pub(super) signing_secret: String,
}

/// Somebody who never thinks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Presses {
    pub(super) user: String,
    pub(super) action_id: String,
}

impl Default for Script {
    fn default() -> Self {
        let user = |id: &str, name: &str| User { id: id.to_owned(), name: name.to_owned() };
        let (id, name) = ("C0SIM".to_owned(), "approvals".to_owned());
        Self {
            token: "sim-slack-token".to_owned(),
            team: "T0SIM".to_owned(),
            users: vec![user("U0ADA", "ada"), user("U0BOB", "bob")],
            channels: vec![Channel { id, name }],
            interactivity: None,
            presses: None,
            faults: Vec::new(),
            latency_ms: 0,
        }
    }
}

impl Script {
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        Self::parse(&text).with_context(|| format!("{shown}"))
    }

    /// Reads YAML.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let script: Self = serde_yaml_ng::from_str(text)?;
        ensure!(!script.token.is_empty(), "token: a workspace without one is not Slack's");
        let local = script.interactivity.as_ref().is_none_or(|to| is_local(&to.url));
        ensure!(local, "interactivity.url: a simulator calls http on this machine alone");
        Ok(script)
    }
}
