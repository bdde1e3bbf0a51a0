//! Workflows, releases and use cases as callers see them.

use kernel::release::{Cause, Release, Ring, Status};
use kernel::risk::Tier;
use kernel::use_case::{self, Answers, UseCase};
use kernel::values::Timestamp as Time;
use kernel::workflow::ModelPin;
use kernel::workflow_registry::{Kept, Workflow};
use proto::releases::{ErrorBudget, Release as WireRelease, ReleaseApproval, ReleaseState};
use proto::usecases::{UseCase as WireCase, UseCaseAnswers};
use proto::wire::Timestamp;
use proto::workflows::{
    InForce, ModelPin as WirePin, Workflow as WireWorkflow, WorkflowVersion as WireVersion,
};

use super::Factory;
use crate::error::{Refused, Result};
use crate::shared::Caller;

fn time(at: Time) -> Option<Timestamp> {
    Some(Timestamp::from_micros(at.0))
}

pub(super) fn tier(tier: Tier) -> String {
    let name = match tier {
        Tier::Low => "low",
        Tier::Medium => "medium",
        Tier::High => "high",
        Tier::Critical => "critical",
    };
    name.to_owned()
}

pub(super) fn pin(pin: Option<&ModelPin>) -> Option<WirePin> {
    pin.cloned().map(|ModelPin { provider, model, allow_fallback }| WirePin {
        provider,
        model,
        allow_fallback,
    })
}

pub(super) fn version(kept: &Kept) -> WireVersion {
    let Kept { publication, at } = kept;
    WireVersion {
        version: publication.version.to_string(),
        digest: publication.document.to_string(),
        plan_digest: publication.plan.to_string(),
        model_pin: pin(publication.model_pin.as_ref()),
        risk_tier: tier(publication.risk_tier),
        author: publication.by.to_string(),
        published_at: time(*at),
        yaml: String::new(),
    }
}

/// A workflow without its versions.
pub(super) fn workflow(factory: &Factory, caller: &Caller, workflow: &Workflow) -> WireWorkflow {
    let in_force = workflow.in_force.iter().map(|(environment, in_force)| {
        let text = |id: Option<&kernel::ids::ReleaseId>| id.map(ToString::to_string);
        let canary = in_force.canary.as_ref();
        InForce {
            environment: environment.to_string(),
            release_id: text(in_force.stable.as_ref()).unwrap_or_default(),
            canary_release_id: text(canary.map(|canary| &canary.release)).unwrap_or_default(),
            canary_percent: canary.map_or(0, |canary| canary.percent.into()),
        }
    });
    let latest = workflow.latest().map(|kept| kept.publication.version.to_string());
    let cases = factory.cases_of(&caller.tenant, &workflow.id);
    WireWorkflow {
        name: workflow.id.to_string(),
        latest_version: latest.unwrap_or_default(),
        versions: Vec::new(),
        in_force: in_force.collect(),
        use_cases: cases.iter().map(|case| case.id.to_string()).collect(),
        created_at: time(workflow.created_at),
        changed_at: time(workflow.changed_at),
        revision: small(workflow.revision),
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

pub(super) fn state(status: Status) -> ReleaseState {
    match status {
        Status::Candidate => ReleaseState::Candidate,
        Status::Approved => ReleaseState::Approved,
        Status::Active => ReleaseState::Active,
        Status::Superseded => ReleaseState::Superseded,
        Status::RolledBack => ReleaseState::RolledBack,
    }
}

pub(super) fn release(release: &Release) -> WireRelease {
    let request = &release.request;
    let approvals = release.approvals.iter().map(|approval| ReleaseApproval {
        principal_id: approval.by.to_string(),
        evaluation: approval.evaluation.map(|digest| digest.to_string()).unwrap_or_default(),
        at: time(approval.at),
    });
    let text = |id: Option<String>| id.unwrap_or_default();
    let mut wire = WireRelease {
        release_id: release.id.to_string(),
        state: state(release.status).into(),
        workflow: request.workflow.to_string(),
        version: request.version.to_string(),
        digest: request.document.to_string(),
        environment: request.environment.to_string(),
        ring: release.ring.map(Ring::as_str).unwrap_or_default().to_owned(),
        percent: match release.ring {
            Some(Ring::Canary { percent }) => percent.into(),
            _ => 0,
        },
        policy_revision: small(request.policy_revision),
        model_pin: pin(request.model_pin.as_ref()),
        risk_tier: tier(request.risk_tier),
        use_case_id: text(request.use_case.as_ref().map(ToString::to_string)),
        error_budget: Some(ErrorBudget {
            window_runs: request.error_budget.window_runs,
            failures_max: request.error_budget.failures_max,
        }),
        approvers: request.approvers.into(),
        approvals: approvals.collect(),
        author: request.author.to_string(),
        publisher: request.publisher.to_string(),
        replaces: text(release.replaces.as_ref().map(ToString::to_string)),
        created_at: time(release.created_at),
        changed_at: time(release.changed_at),
        active_since: release.active_since.and_then(time),
        revision: small(release.revision),
        ..WireRelease::default()
    };
    match &release.cause {
        None => {}
        Some(Cause::Person { by }) => {
            "person".clone_into(&mut wire.cause);
            wire.rolled_back_by = by.to_string();
        }
        Some(Cause::ErrorBudget { runs, failures }) => {
            "error_budget".clone_into(&mut wire.cause);
            (wire.window_runs, wire.window_failures) = (*runs, *failures);
        }
    }
    wire
}

/// The answers of an intake, each of which is needed.
pub(super) fn answers(wire: UseCaseAnswers) -> Result<Answers> {
    fn read<T: serde::de::DeserializeOwned>(field: &str, text: String, any: &str) -> Result<T> {
        let read = serde_json::from_value(serde_json::Value::String(text));
        read.map_err(|_| Refused::invalid(format!("answers.{field}: {any}")))
    }
    let customer_facing = wire
        .customer_facing
        .ok_or_else(|| Refused::invalid("answers.customer_facing: `true` or `false`"))?;
    let classes = "`public`, `internal`, `confidential` or `restricted`";
    let radii = "`record`, `team`, `organisation` or `outside`";
    Ok(Answers {
        data_class: read("data_class", wire.data_class, classes)?,
        reversibility: read(
            "reversibility",
            wire.reversibility,
            "`reversible`, `partly` or `irreversible`",
        )?,
        blast_radius: read("blast_radius", wire.blast_radius, radii)?,
        customer_facing,
        volume: read("volume", wire.volume, "`rare`, `daily`, `hourly` or `constant`")?,
    })
}

/// A use case, with what it is called and what is wanted.
pub(super) fn case(case: &UseCase, (name, description): (String, String)) -> WireCase {
    let name_of = |answer: serde_json::Value| answer.as_str().unwrap_or_default().to_owned();
    let text = |answer: serde_json::Result<serde_json::Value>| answer.map(name_of);
    let answers = case.answers.as_ref().map(|answers| UseCaseAnswers {
        data_class: text(serde_json::to_value(answers.data_class)).unwrap_or_default(),
        reversibility: text(serde_json::to_value(answers.reversibility)).unwrap_or_default(),
        blast_radius: text(serde_json::to_value(answers.blast_radius)).unwrap_or_default(),
        customer_facing: Some(answers.customer_facing),
        volume: text(serde_json::to_value(answers.volume)).unwrap_or_default(),
    });
    WireCase {
        use_case_id: case.id.to_string(),
        name,
        description,
        owner_principal_id: case.owner.to_string(),
        answers,
        score: case.score.map(|score| score.points.into()),
        risk_tier: tier(case.floor()),
        release_approvers: use_case::approvers(case.floor()).into(),
        workflows: case.workflows.iter().map(ToString::to_string).collect(),
        created_at: time(case.created_at),
        changed_at: time(case.changed_at),
    }
}
