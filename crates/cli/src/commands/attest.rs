//! `tally attest`: what is attested of an execution, and whether it can be repeated.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use proto::sandboxes::{Difference, GetAttestationRequest, Replay, ReplayExecutionRequest};
use serde_json::Value;

use super::attest_verify::Verify;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::fields;

/// How long a repetition is waited for.
const WAIT_MS: u32 = 60_000;

/// `tally attest`.
#[derive(Debug, Subcommand)]
pub(crate) enum Attest {
    /// Show the attestation of an execution. The whole document is what strangers verify.
    Show {
        /// The id of the execution.
        id: String,
        /// Write the document to this file.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Run an execution again on what was recorded of it, without any effect, and compare.
    Replay {
        /// The id of the execution.
        id: String,
        /// Code in place of its own.
        #[arg(long, value_name = "FILE")]
        code: Option<PathBuf>,
    },
    /// Verify an attestation offline: that its receipt is signed and in its log, that nothing in
    /// it was changed, and that what you have is what ran.
    Verify(Verify),
}

impl Attest {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let output = context.output();
        match self {
            Self::Verify(command) => command.run(context),
            Self::Show { id: execution_id, out } => {
                let request = GetAttestationRequest { execution_id };
                let document = context.client()?.get_attestation(&request).await?;
                if let Some(path) = &out {
                    write(path, &document.data)?;
                }
                let value: Value = serde_json::from_slice(&document.data)?;
                output.show(&value, describe)?;
                Ok(Exit::Done)
            }
            Self::Replay { id: execution_id, code } => {
                let mut request = ReplayExecutionRequest { execution_id, ..Default::default() };
                request.wait_ms = Some(WAIT_MS);
                match code {
                    Some(path) if path.extension().is_some_and(|e| e == "wasm") => {
                        request.component = read(&path)?;
                    }
                    Some(path) => request.source = String::from_utf8(read(&path)?)?,
                    None => {}
                }
                let replay = context.client()?.replay_execution(&request, None).await?;
                output.show(&replay, told)?;
                Ok(match Exit::of_state(replay.state()) {
                    Exit::Done => Exit::of_verification(replay.matches),
                    other => other,
                })
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("`{}`", path.display()))
}

fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    fs::write(path, bytes).with_context(|| format!("cannot write `{}`", path.display()))
}

/// A document for people: what is attested. The rest is for machines.
fn describe(document: &Value) -> String {
    let attested = &document["attestation"];
    let text = |name: &str| match &attested[name] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let execution = document["execution_id"].as_str().unwrap_or_default();
    fields([
        ("execution", execution.to_owned()),
        ("level", text("level")),
        ("sandbox", format!("{} {}", text("sandbox_type"), text("sandbox_id"))),
        ("ending", text("ending")),
        ("code", format!("{} {}", text("code_kind"), text("agent_hash"))),
        ("input", text("input_hash")),
        ("output", text("output_hash")),
        ("limits", text("limits")),
        ("fuel used", text("fuel_used")),
        ("capabilities", text("capabilities_hash")),
        ("denied", text("denied")),
        ("runtime", text("runtime")),
        ("tools", text("tool_hashes")),
        ("tool calls", text("tool_calls")),
        ("receipt key", document["receipt_key"].as_str().map(first_line).unwrap_or_default()),
    ])
}

/// The first line of what a PEM block holds: enough to see that it is another key.
fn first_line(pem: &str) -> String {
    pem.lines().nth(1).unwrap_or_default().to_owned()
}

/// A repetition for people.
fn told(replay: &Replay) -> String {
    if let Some(error) = &replay.error {
        return format!("not repeated: {} ({})", error.message, error.code);
    }
    if replay.matches {
        return "matches: output, fuel and calls are the same".to_owned();
    }
    let mut text = "DIFFERS:\n".to_owned();
    for Difference { field, recorded, replayed } in &replay.differences {
        text.push_str(&format!("{field}\n  recorded: {recorded}\n  replayed: {replayed}\n"));
    }
    text
}
