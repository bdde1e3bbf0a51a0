//! A workflow in two versions, its releases up to one that rolls back by itself, and what it is
//! for.

use kernel::ids::{EnvironmentId, ReleaseId, UseCaseId, WorkflowId};
use kernel::machine::{Change, Kind};
use kernel::release::{Cause, Change as Release, ErrorBudget, Request, Ring};
use kernel::risk::Tier;
use kernel::use_case::{Answers, BlastRadius, Change as UseCase, DataClass, Reversibility, Volume};
use kernel::values::Digest;
use kernel::workflow::ModelPin;
use kernel::workflow_registry::{Canary, Change as Workflow, InForce, Publication};

use super::{Told, principal};

/// The type of every transition of workflows, releases and use cases.
pub(crate) const TYPES: [&str; 11] = [
    "workflow.published",
    "workflow.released",
    "release.created",
    "release.approved",
    "release.promoted",
    "release.superseded",
    "release.rolled_back",
    "release.reinstated",
    "use_case.created",
    "use_case.scored",
    "use_case.linked",
];

fn pin(model: &str) -> Option<ModelPin> {
    let (provider, model) = ("anthropic".to_owned(), model.to_owned());
    Some(ModelPin { provider, model, allow_fallback: false })
}

fn published(version: &str, model: &str) -> Workflow {
    Workflow::Published(Publication {
        version: version.parse().unwrap(),
        document: Digest::of(format!("triage {version}").as_bytes()),
        plan: Digest::of(format!("plan {version}").as_bytes()),
        model_pin: pin(model),
        risk_tier: Tier::High,
        by: principal("u_4"),
    })
}

fn release(id: &str) -> ReleaseId {
    ReleaseId::new(id).unwrap()
}

fn created(version: &str, model: &str) -> Release {
    Release::Created(
        Request {
            workflow: WorkflowId::new("triage").unwrap(),
            version: version.parse().unwrap(),
            document: Digest::of(format!("triage {version}").as_bytes()),
            policy_revision: 1,
            model_pin: pin(model),
            risk_tier: Tier::High,
            environment: EnvironmentId::new("prod").unwrap(),
            error_budget: ErrorBudget::default(),
            use_case: Some(UseCaseId::new("uc_1").unwrap()),
            tier_floor: Some(Tier::Medium),
            approvers: 2,
            separated: true,
            author: principal("u_4"),
            publisher: principal("u_4"),
        }
        .into(),
    )
}

/// Every change of workflows, releases and use cases.
pub(super) fn commits() -> Vec<Vec<Told>> {
    let workflow = |change| (Kind::Workflow, "triage", Change::Workflow(change));
    let of = |id: &'static str, change| (Kind::Release, id, Change::Release(change));
    let case = |change| (Kind::UseCase, "uc_1", Change::UseCase(change));
    let in_force = |stable: Option<&str>, canary: Option<(&str, u8)>| {
        let canary = canary.map(|(id, percent)| Canary { release: release(id), percent });
        let in_force = InForce { stable: stable.map(release), canary };
        let environment = EnvironmentId::new("prod").unwrap();
        workflow(Workflow::Released { environment, in_force })
    };
    let promoted = |ring, replaces: Option<&str>| {
        let replaces = replaces.map(release);
        Release::Promoted { by: principal("u_1"), ring, replaces }
    };
    let approved = |by: &str, evaluation| Release::Approved { by: principal(by), evaluation };
    let answers = Answers {
        data_class: DataClass::Confidential,
        reversibility: Reversibility::Partly,
        blast_radius: BlastRadius::Team,
        customer_facing: true,
        volume: Volume::Daily,
    };
    let (score, by) = (answers.score(), || principal("u_1"));
    let spent = Cause::ErrorBudget { runs: 5, failures: 3 };
    let looked_at = Some(Digest::of(b"simulation"));
    let commits = vec![
        vec![
            case(UseCase::Created { owner: principal("u_2"), by: by() }),
            case(UseCase::Scored { answers, score, by: by() }),
        ],
        vec![workflow(published("1.0.0", "m-1"))],
        vec![case(UseCase::Linked { workflow: WorkflowId::new("triage").unwrap(), by: by() })],
        vec![of("rel_1", created("1.0.0", "m-1"))],
        vec![of("rel_1", approved("u_1", looked_at))],
        vec![of("rel_1", approved("u_2", None))],
        vec![of("rel_1", promoted(Ring::All {}, None)), in_force(Some("rel_1"), None)],
        vec![workflow(published("1.1.0", "m-2"))],
        vec![of("rel_2", created("1.1.0", "m-2"))],
        vec![of("rel_2", approved("u_1", None)), of("rel_2", approved("u_2", None))],
        vec![
            of("rel_2", promoted(Ring::Canary { percent: 10 }, None)),
            in_force(Some("rel_1"), Some(("rel_2", 10))),
        ],
        vec![of("rel_2", Release::RolledBack { cause: spent }), in_force(Some("rel_1"), None)],
        vec![of("rel_3", created("1.1.0", "m-2"))],
        vec![of("rel_3", approved("u_1", None)), of("rel_3", approved("u_2", None))],
        vec![
            of("rel_3", promoted(Ring::All {}, Some("rel_1"))),
            of("rel_1", Release::Superseded { with: release("rel_3") }),
            in_force(Some("rel_3"), None),
        ],
        vec![
            of("rel_3", Release::RolledBack { cause: Cause::Person { by: by() } }),
            of("rel_1", Release::Reinstated { after: release("rel_3") }),
            in_force(Some("rel_1"), None),
        ],
    ];
    let told = |name: &str| {
        let types = commits.iter().flatten().map(|(_, _, change)| serde_json::to_value(change));
        types.into_iter().any(|change| change.unwrap()["type"] == name)
    };
    assert!(TYPES.into_iter().all(told));
    commits
}
