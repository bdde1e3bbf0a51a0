//! `tally evidence`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use proto::HttpBody;
use proto::evidence::{ExportEvidenceRequest, VerifyEvidenceResponse};
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;

/// The type of a bundle.
pub(crate) const TAR: &str = "application/x-tar";

/// `tally evidence`.
#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Export an evidence bundle: a tar of receipts with all that a stranger needs.
    Export(Export),
    /// Have the server verify a bundle. `tally verify` does it offline.
    Verify {
        /// The bundle.
        file: PathBuf,
    },
}

/// Which receipts to export, and where to.
#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Where to write the bundle.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only the receipts of this action.
    #[arg(long, default_value = "", value_name = "ID", conflicts_with_all = ["from", "to"])]
    action_id: String,
    /// The first index.
    #[arg(long, default_value_t = 0, value_name = "INDEX")]
    from: u64,
    /// The index after the last; without it the size of the log.
    #[arg(long, value_name = "INDEX")]
    to: Option<u64>,
    /// Add every entry of the log, so that it can be replayed.
    #[arg(long)]
    full_log: bool,
    /// Export under the newest checkpoint that enough witnesses cosigned.
    #[arg(long)]
    cosigned: bool,
}

/// What was written.
#[derive(Serialize)]
struct Written<'a> {
    file: &'a Path,
    bytes: usize,
}

impl Evidence {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Export(Export { out, action_id, from, to, full_log, cosigned }) => {
                let request = ExportEvidenceRequest {
                    workspace: String::new(),
                    from_index: from,
                    to_index: to,
                    action_id,
                    full_log,
                    cosigned,
                };
                let bundle = client.export_evidence(&request).await?;
                let context = || format!("cannot write `{}`", out.display());
                fs::write(&out, &bundle.data).with_context(context)?;
                let written = Written { file: &out, bytes: bundle.data.len() };
                output.show(&written, |written| {
                    let file = written.file.display();
                    format!(
                        "wrote {file} ({} bytes): check it with `tally verify {file}`",
                        written.bytes
                    )
                })?;
                Ok(Exit::Done)
            }
            Self::Verify { file } => {
                let read = fs::read(&file).with_context(|| format!("`{}`", file.display()))?;
                let content_type = TAR.to_owned();
                let bundle = HttpBody { content_type, data: read, extensions: Vec::new() };
                let verified = client.verify_evidence(&bundle).await?;
                output.show(&verified, describe)?;
                Ok(Exit::of_verification(verified.valid))
            }
        }
    }
}

fn describe(verified: &VerifyEvidenceResponse) -> String {
    if verified.valid {
        format!("valid: {} receipts", verified.receipts)
    } else {
        format!("NOT valid:\n{}", verified.errors.join("\n"))
    }
}
