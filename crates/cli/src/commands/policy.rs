//! `tally policy`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;
use policy::{P256Signer, Report, Source, check_publishable};
use proto::policies::{
    GetPolicyStatusRequest, ListPoliciesRequest, Policy as Entry, PolicyStatus,
    RollbackPolicyRequest, SimulatePolicyRequest,
};
use proto::types::Json;

use super::{Paging, actions, next};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{fields, page, when, yes};
use crate::setup;

/// `tally policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    /// Check a folder of Rego offline: compile it, run its tests, try generated inputs.
    Test {
        /// The folder.
        dir: PathBuf,
    },
    /// Pack a folder into a bundle, after the same checks.
    Build {
        /// The folder.
        dir: PathBuf,
        /// Where to write the bundle.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Sign it with this P-256 private key (PKCS#8). A server signs what it publishes itself.
        #[arg(long, value_name = "PEM")]
        key: Option<PathBuf>,
        /// The name under which verifiers know the key.
        #[arg(long, default_value = "policy", value_name = "NAME")]
        key_id: String,
    },
    /// Draft a policy and publish it: the policy that decides from then on, but not in prod,
    /// which takes another principal to publish it.
    Publish {
        /// A folder or a bundle (.tar.gz).
        path: PathBuf,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
        /// Keep a draft only, for another principal to publish.
        #[arg(long)]
        draft: bool,
    },
    /// Publish a draft of another principal.
    PublishDraft {
        /// The id of the draft.
        id: String,
    },
    /// Put an earlier policy back.
    Rollback {
        /// The policy to put back; without it the one published before.
        #[arg(long, default_value = "", value_name = "ID")]
        to: String,
    },
    /// Say what a policy would decide. Changes nothing.
    Simulate {
        /// A folder or a bundle to try; without it and --id the policy that decides now.
        #[arg(long, value_name = "PATH", conflicts_with = "id")]
        bundle: Option<PathBuf>,
        /// A stored policy to try.
        #[arg(long, default_value = "", value_name = "ID")]
        id: String,
        /// An input: JSON, @FILE, or - for standard input; may be repeated.
        #[arg(long, required = true, value_name = "JSON")]
        input: Vec<String>,
    },
    /// Say which policy decides now and how fresh it is.
    Status,
    /// List the policies of the tenant, newest first.
    List(Paging),
}

impl Policy {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        match self {
            Self::Test { dir } => test(&dir, context),
            Self::Build { dir, out, key, key_id } => build(&dir, &out, key.as_deref(), &key_id),
            Self::Publish { path, description, draft } => {
                let client = context.client()?;
                let mut policy = setup::draft(&client, bundle(&path)?, description).await?;
                if !draft {
                    policy = setup::publish(&client, policy.policy_id).await?;
                }
                show(&policy, context)
            }
            Self::PublishDraft { id } => {
                show(&setup::publish(&context.client()?, id).await?, context)
            }
            Self::Rollback { to: to_policy_id } => {
                let request = RollbackPolicyRequest { to_policy_id };
                show(&context.client()?.rollback_policy(&request, None).await?, context)
            }
            Self::Simulate { bundle, id, input } => simulate(bundle, id, &input, context).await,
            Self::Status => {
                let status =
                    context.client()?.get_policy_status(&GetPolicyStatusRequest {}).await?;
                context.output().show(&status, describe_status)?;
                Ok(Exit::Done)
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListPoliciesRequest { page_size, page_token };
                let list = context.client()?.list_policies(&request).await?;
                context.output().show(&list, |list| {
                    let header = ["id", "state", "revision", "created", "description"];
                    page(header, list.policies.iter().map(row), &next(&list.next_page_token))
                })?;
                Ok(Exit::Done)
            }
        }
    }
}

fn show(policy: &Entry, context: &Context) -> anyhow::Result<Exit> {
    context.output().show(policy, describe)?;
    Ok(Exit::Done)
}

fn test(dir: &Path, context: &Context) -> anyhow::Result<Exit> {
    let report = check_publishable(&Source::read_dir(dir)?);
    context.output().show(&report, describe_report)?;
    Ok(Exit::of_verification(report.publishable()))
}

fn build(dir: &Path, out: &Path, key: Option<&Path>, key_id: &str) -> anyhow::Result<Exit> {
    let source = Source::read_dir(dir)?;
    let report = check_publishable(&source);
    if !report.publishable() {
        eprintln!("{}", describe_report(&report));
        return Ok(Exit::NotVerified);
    }
    let bytes = match key {
        Some(path) => {
            let key = fs::read(path).with_context(|| format!("`{}`", path.display()))?;
            source.pack(&P256Signer::from_pkcs8(key_id, &key)?)?
        }
        None => source.pack_unsigned()?,
    };
    fs::write(out, bytes).with_context(|| format!("cannot write `{}`", out.display()))?;
    Ok(Exit::Done)
}

/// The bytes of a bundle: a folder is packed, a file taken as it is.
fn bundle(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.is_dir() {
        return Ok(Source::read_dir(path)?.pack_unsigned()?);
    }
    let unreadable = |error| Failure::Usage(format!("cannot read `{}`: {error}", path.display()));
    Ok(fs::read(path).map_err(unreadable)?)
}

async fn simulate(
    path: Option<PathBuf>,
    policy_id: String,
    inputs: &[String],
    context: &Context,
) -> anyhow::Result<Exit> {
    let bundle = path.as_deref().map(bundle).transpose()?.unwrap_or_default();
    let inputs: Vec<Json> =
        inputs.iter().map(|input| actions::json_argument(input)).collect::<Result<_, _>>()?;
    let request = SimulatePolicyRequest { bundle, policy_id, inputs };
    let simulated = context.client()?.simulate_policy(&request).await?;
    context.output().show(&simulated, |simulated| {
        simulated.decisions.iter().map(actions::decision).collect::<Vec<_>>().join("\n")
    })?;
    Ok(Exit::Done)
}

fn row(policy: &Entry) -> [String; 5] {
    let state = policy.state().as_str_name().to_owned();
    let Entry { policy_id, revision, created_at, description, .. } = policy.clone();
    [policy_id, state, revision.to_string(), when(created_at), description]
}

fn describe(policy: &Entry) -> String {
    let tests = policy.test_report.as_ref();
    fields([
        ("policy", policy.policy_id.clone()),
        ("state", policy.state().as_str_name().to_owned()),
        ("revision", policy.revision.to_string()),
        ("digest", policy.digest.clone()),
        ("author", policy.author.clone()),
        ("publisher", policy.publisher.clone()),
        ("tests", tests.map_or_else(String::new, |t| format!("{} passed", t.passed))),
    ])
}

fn describe_status(status: &PolicyStatus) -> String {
    if status.revision == 0 {
        return "no policy is published: everything is denied".to_owned();
    }
    fields([
        ("revision", status.revision.to_string()),
        ("digest", status.digest.clone()),
        ("fresh", yes(status.fresh)),
        ("reviewed", reviewed(status.reviewed)),
        ("confirmed", when(status.confirmed_at)),
        ("time to live", format!("{} s", status.ttl_s)),
    ])
}

fn reviewed(reviewed: bool) -> String {
    if reviewed {
        return yes(true);
    }
    "no: its author published it, so everything is denied in prod".to_owned()
}

fn describe_report(report: &Report) -> String {
    let failed = report.tests.failed().count();
    let passed = report.tests.tests.len() - failed;
    let counts = format!("{passed} tests passed, {failed} failed");
    let findings = report.findings.iter().map(|f| format!("{}: {}", f.code, f.message));
    let verdict = if report.publishable() { "may be published" } else { "may NOT be published" };
    let lines: Vec<_> = findings.chain([counts, verdict.to_owned()]).collect();
    lines.join("\n")
}
