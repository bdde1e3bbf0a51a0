//! `tally evidence`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use proto::HttpBody;
use proto::evidence::{
    CoverageGap, ExportEvidenceRequest, GetCoverageRequest, GetCoverageResponse,
    RequirementCoverage, VerifyEvidenceResponse,
};
use proto::wire::Timestamp;
use serde::Serialize;

use crate::context::Context;
use crate::exit::Exit;
use crate::output::when;

/// The type of a bundle.
pub(crate) const TAR: &str = "application/x-tar";

/// `tally evidence`.
#[derive(Debug, Subcommand)]
pub(crate) enum Evidence {
    /// Export an evidence bundle: a tar of receipts with all that a stranger needs.
    Export(Export),
    /// Say which controls of a framework a period covers, and what is missing. Ends with 6 where
    /// something is.
    Coverage(CoverageArgs),
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
    /// Only what belongs to this run: its receipts, its actions and their approvals, with run.json.
    #[arg(
        long,
        default_value = "",
        value_name = "ID",
        conflicts_with_all = ["action_id", "from", "to", "since", "until"]
    )]
    run: String,
    /// Only receipts from this time on, such as 2026-11-01T00:00:00Z.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["action_id", "from", "to"])]
    since: Option<Timestamp>,
    /// Only receipts before this time.
    #[arg(long, value_name = "TIME", conflicts_with_all = ["action_id", "from", "to"])]
    until: Option<Timestamp>,
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

/// Which controls, and when.
#[derive(Debug, Args)]
pub(crate) struct CoverageArgs {
    /// A catalog that comes along: soc2, iso_42001 or eu_ai_act.
    #[arg(long, value_name = "NAME", required_unless_present = "catalog")]
    framework: Option<String>,
    /// A catalog of one's own, YAML.
    #[arg(long, value_name = "FILE", conflicts_with = "framework")]
    catalog: Option<PathBuf>,
    /// From this time on, such as 2026-11-01T00:00:00Z; without it 90 days before the end.
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
    /// Before this time; without it now.
    #[arg(long, value_name = "TIME")]
    until: Option<Timestamp>,
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
            Self::Coverage(asked) => return asked.run(context).await,
            Self::Export(export) => {
                let Export { out, action_id, run, since, until, from, to, full_log, cosigned } =
                    export;
                let request = ExportEvidenceRequest {
                    workspace: String::new(),
                    from_index: from,
                    to_index: to,
                    action_id,
                    full_log,
                    cosigned,
                    run_id: run,
                    since,
                    until,
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

impl CoverageArgs {
    async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Self { framework, catalog, since, until } = self;
        let read = |file: &PathBuf| {
            fs::read_to_string(file).with_context(|| format!("`{}`", file.display()))
        };
        let catalog = catalog.as_ref().map(read).transpose()?.unwrap_or_default();
        let framework = framework.unwrap_or_default();
        let workspace = String::new();
        let request = GetCoverageRequest { workspace, framework, catalog, since, until };
        let coverage = context.client()?.get_coverage(&request).await?;
        context.output().show(&coverage, describe_coverage)?;
        let whole = coverage.controls.iter().all(|control| control.covered);
        Ok(Exit::of_verification(whole))
    }
}

fn describe_coverage(coverage: &GetCoverageResponse) -> String {
    let GetCoverageResponse { title, version, controls, covered, .. } = coverage;
    let (since, until) = (when(coverage.since), when(coverage.until));
    let all = controls.len();
    let mut lines =
        vec![format!("{title}, {version}: {covered} of {all} controls, {since} to {until}")];
    for control in controls {
        let mark = if control.covered { "covered" } else { "GAP    " };
        lines.push(format!("{mark}  {}  {}", control.control, control.title));
        lines.extend(control.requirements.iter().map(describe_requirement));
    }
    lines.join("\n")
}

fn describe_requirement(requirement: &RequirementCoverage) -> String {
    let RequirementCoverage { shows, found, first_receipt, last_receipt, .. } = requirement;
    if requirement.met {
        return format!("    {shows}: {found} ({first_receipt} to {last_receipt})");
    }
    let filter = requirement.filter.as_ref().map_or("{}", |filter| filter.text.as_str());
    let gap = |gap: &CoverageGap| format!("{} to {}", when(gap.since), when(gap.until));
    let gaps: Vec<String> = requirement.gaps.iter().map(gap).collect();
    let least = requirement.at_least;
    format!(
        "    MISSING {shows}: {found} of at least {least}; {} where {filter}; nothing in {}",
        requirement.receipts.join(", "),
        if gaps.is_empty() { "no stretch".to_owned() } else { gaps.join(", ") },
    )
}
