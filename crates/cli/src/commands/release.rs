//! `tally release`.

use clap::Subcommand;
use proto::releases::{
    ApproveReleaseRequest, CreateReleaseRequest, ErrorBudget, GetReleaseRequest,
    ListReleasesRequest, PromoteReleaseRequest, Release as Entry, ReleaseState,
    RollbackReleaseRequest,
};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, when};

/// `tally release`.
#[derive(Debug, Subcommand)]
pub(crate) enum Release {
    /// Make a candidate of a version, for the environment of the credential.
    Create {
        /// The name of the workflow.
        workflow: String,
        /// The version; the highest without it.
        #[arg(long, default_value = "", value_name = "VERSION")]
        version: String,
        /// Of how many runs of its canary the failed ones are counted.
        #[arg(long, default_value_t = 0, value_name = "N")]
        window_runs: u32,
        /// As many failed ones roll it back.
        #[arg(long, default_value_t = 0, value_name = "N")]
        failures_max: u32,
    },
    /// Approve a candidate: in prod, as another than who made it.
    Approve {
        /// The id of the release.
        id: String,
        /// What you looked at: the root hash of a simulation or of a replay.
        #[arg(long, default_value = "", value_name = "DIGEST")]
        evaluation: String,
    },
    /// Have runs take an approved release: all of them, or a share.
    Promote {
        /// The id of the release.
        id: String,
        /// How many runs of a hundred.
        #[arg(long, value_name = "PERCENT")]
        canary: Option<u32>,
    },
    /// Have no further run take a release. The one before it is in force again.
    Rollback {
        /// The id of the release.
        id: String,
    },
    /// List the releases of the tenant, newest first.
    List {
        /// Only those of this workflow.
        #[arg(long, default_value = "", value_name = "NAME")]
        workflow: String,
        /// Only those in this state.
        #[arg(long, value_parser = state)]
        state: Option<ReleaseState>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a release.
    Show {
        /// The id of the release.
        id: String,
    },
}

fn state(text: &str) -> Result<ReleaseState, String> {
    let known = ReleaseState::from_str_name(text);
    let known = known.filter(|state| *state != ReleaseState::Unspecified);
    known.ok_or_else(|| format!("`{text}` is no state of a release"))
}

impl Release {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        let release = match self {
            Self::Create { workflow, version, window_runs, failures_max } => {
                let error_budget = Some(ErrorBudget { window_runs, failures_max });
                let request = CreateReleaseRequest { workflow, version, error_budget };
                client.create_release(&request, None).await?
            }
            Self::Approve { id: release_id, evaluation } => {
                let request = ApproveReleaseRequest { release_id, evaluation };
                client.approve_release(&request, None).await?
            }
            Self::Promote { id: release_id, canary: canary_percent } => {
                let request = PromoteReleaseRequest { release_id, canary_percent };
                client.promote_release(&request, None).await?
            }
            Self::Rollback { id: release_id } => {
                client.rollback_release(&RollbackReleaseRequest { release_id }, None).await?
            }
            Self::Show { id: release_id } => {
                client.get_release(&GetReleaseRequest { release_id }).await?
            }
            Self::List { workflow, state, paging } => {
                let request = ListReleasesRequest {
                    workflow,
                    state: state.unwrap_or(ReleaseState::Unspecified).into(),
                    page_size: paging.page_size,
                    page_token: paging.page_token,
                };
                let list = client.list_releases(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "workflow", "version", "where", "state", "runs"];
                    page(header, list.releases.iter().map(row), &next(&list.next_page_token))
                })?;
                return Ok(Exit::Done);
            }
        };
        output.show(&release, describe)?;
        Ok(Exit::Done)
    }
}

/// Which runs take it, or took it last.
fn ring(release: &Entry) -> String {
    match release.ring.as_str() {
        "canary" => format!("{} of 100", release.percent),
        other => other.to_owned(),
    }
}

fn row(release: &Entry) -> [String; 6] {
    let state = release.state().as_str_name().to_owned();
    let Entry { release_id, workflow, version, environment, .. } = release.clone();
    [release_id, workflow, version, environment, state, ring(release)]
}

fn describe(release: &Entry) -> String {
    let pin = release.model_pin.as_ref();
    let model = pin.map(|pin| format!("{}/{}", pin.provider, pin.model)).unwrap_or_default();
    let approvals = release.approvals.iter().map(|approval| match approval.evaluation.as_str() {
        "" => approval.principal_id.clone(),
        evaluation => format!("{} (after {evaluation})", approval.principal_id),
    });
    let approvals: Vec<String> = approvals.collect();
    let approved = format!("{} of {}", approvals.len(), release.approvers);
    let cause = match release.cause.as_str() {
        "error_budget" => {
            format!("{} of the last {} runs failed", release.window_failures, release.window_runs)
        }
        "person" => format!("by {}", release.rolled_back_by),
        other => other.to_owned(),
    };
    let budget = release.error_budget.unwrap_or_default();
    fields([
        ("release", release.release_id.clone()),
        ("workflow", format!("{} {}", release.workflow, release.version)),
        ("digest", release.digest.clone()),
        ("environment", release.environment.clone()),
        ("state", release.state().as_str_name().to_owned()),
        ("runs", ring(release)),
        ("risk tier", release.risk_tier.clone()),
        ("use case", release.use_case_id.clone()),
        ("policy", format!("revision {}", release.policy_revision)),
        ("model", model),
        ("author", release.author.clone()),
        ("approved", format!("{approved} {}", approvals.join(", ")).trim_end().to_owned()),
        ("budget", format!("{} of {} runs", budget.failures_max, budget.window_runs)),
        ("rolled back", cause),
        ("active since", when(release.active_since)),
    ])
}
