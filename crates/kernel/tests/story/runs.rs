//! Runs: one that succeeds, one that fails and is replayed and discarded, one that is canceled.

use kernel::action::{self, FailureCode};
use kernel::failure::Category;
use kernel::ids::{AccountId, ActionId, EnvironmentId, ReleaseId, RunId, StepId, WorkflowId};
use kernel::machine::{Change, Kind};
use kernel::release::Ring;
use kernel::run::{Change as Run, Pinned, Request, Status, StepSpec, StepStatus, Trigger};
use kernel::values::{Digest, MicroUsd, Shared};

use super::{Told, actors, budget, principal, time};

/// The type of every transition of a run.
pub(crate) const TYPES: [&str; 17] = [
    "run.requested",
    "run.admitted",
    "run.step_started",
    "run.step_moved",
    "run.step_skipped",
    "run.step_waits",
    "run.step_refused",
    "run.paused",
    "run.resumed",
    "run.ending",
    "run.ended",
    "run.replayed",
    "run.discarded",
    "run.settled",
    "run.wrote",
    "run.spent",
    "run.content_dropped",
];

fn step(id: &str) -> StepId {
    StepId::new(id).unwrap()
}

fn request(of: Option<&str>) -> Shared<Request> {
    let spec = |id: &str, group: Option<&str>| StepSpec {
        id: step(id),
        group: group.map(step),
        iterations: 1,
        attempts: 2,
        backoff_ms: 0,
    };
    let steps = vec![spec("read", None), spec("left", Some("both")), spec("right", Some("both"))];
    Shared::new(Request {
        document: Digest::of(b"run document"),
        environment: EnvironmentId::new("prod").unwrap(),
        actors: actors(),
        trigger: if of.is_some() { Trigger::Replay } else { Trigger::Manual },
        of: of.map(|id| RunId::new(id).unwrap()),
        steps,
        account: of.is_none().then(budget),
        payer: of.is_none().then(|| AccountId::new("acc_2").unwrap()),
        budget: of.is_none().then_some(MicroUsd(10_000)),
        writes_max: of.is_none().then_some(5),
        deadline: of.is_none().then(|| time(86_400)),
        release: of.is_none().then(pinned),
        metadata_only: of.is_none(),
    })
}

fn pinned() -> Pinned {
    Pinned {
        workflow: WorkflowId::new("triage").unwrap(),
        version: "1.1.0".parse().unwrap(),
        digest: Digest::of(b"triage 1.1.0"),
        release: Some(ReleaseId::new("rel_2").unwrap()),
        ring: Some(Ring::Canary { percent: 10 }),
        policy_revision: 1,
        model_pin: None,
    }
}

fn started(name: &str, action: &str) -> Run {
    let action = ActionId::new(action).unwrap();
    Run::StepStarted { step: step(name), iteration: 1, action, writes: name != "read" }
}

fn moved(name: &str, action: &str, to: StepStatus, state: action::Status) -> Run {
    let failed = to == StepStatus::FailedRetryable;
    Run::StepMoved {
        step: step(name),
        iteration: 1,
        action: ActionId::new(action).unwrap(),
        to,
        state,
        cost: MicroUsd(if to == StepStatus::Succeeded { 250 } else { 0 }),
        failure: failed.then(failure),
        wait_until: (to == StepStatus::Ready).then(|| time(90)),
        approved: name == "left" && to == StepStatus::Succeeded,
        // Somebody said that it had been done; nobody knows what it gave.
        output_unknown: action == "act_36",
    }
}

fn failure() -> FailureCode {
    FailureCode { code: "upstream_unavailable".to_owned(), category: Category::Upstream }
}

/// Every change of a run.
pub(super) fn commits() -> Vec<Vec<Told>> {
    use StepStatus::{Ready, Succeeded, WaitingApproval};
    use action::Status as Action;
    let by = || principal("u_1");
    let run = |id: &'static str, changes: Vec<Run>| {
        changes.into_iter().map(|c| vec![(Kind::Run, id, Change::Run(c))]).collect::<Vec<_>>()
    };
    let well = vec![
        Run::Requested(request(None)),
        Run::Paused { by: by() },
        Run::Resumed { by: by() },
        Run::Admitted {},
        Run::StepWaits { step: step("read"), until: time(60), timer: true },
        started("read", "act_31"),
        moved("read", "act_31", Ready, Action::Failed),
        started("read", "act_32"),
        moved("read", "act_32", Succeeded, Action::Executed),
        started("left", "act_33"),
        Run::Wrote { action: ActionId::new("act_35").unwrap() },
        Run::Spent { action: ActionId::new("act_35").unwrap(), cost: MicroUsd(40) },
        moved("left", "act_33", WaitingApproval, Action::AwaitingApproval),
        Run::StepSkipped { step: step("right") },
        moved("left", "act_33", Succeeded, Action::Executed),
        Run::Ended { status: Status::Succeeded, failure: None },
        Run::Settled {},
        Run::ContentDropped {},
    ];
    let badly = vec![
        Run::Requested(request(Some("run_1"))),
        Run::Admitted {},
        started("read", "act_34"),
        moved("read", "act_34", StepStatus::FailedRetryable, Action::Failed),
        Run::Ended { status: Status::FailedRetryable, failure: Some(failure()) },
        Run::Replayed { by: by(), from: step("read") },
        Run::Admitted {},
        Run::StepRefused { step: step("read"), failure: failure(), output: false },
        Run::Ended { status: Status::FailedRetryable, failure: Some(failure()) },
        Run::Discarded { by: by() },
    ];
    let reconciled = vec![
        Run::Requested(request(Some("run_1"))),
        Run::Admitted {},
        started("left", "act_36"),
        moved("left", "act_36", Succeeded, Action::Executed),
        Run::Ended { status: Status::Succeeded, failure: None },
    ];
    let withdrawn = vec![
        Run::Requested(request(Some("run_2"))),
        Run::Ending { status: Status::Canceled, failure: None, by: Some(by()) },
        Run::Ended { status: Status::Canceled, failure: None },
    ];
    let commits = [
        run("run_1", well),
        run("run_2", badly),
        run("run_3", withdrawn),
        run("run_4", reconciled),
    ]
    .concat();
    let told = |name: &str| {
        let types = commits.iter().flatten().map(|(_, _, change)| serde_json::to_value(change));
        types.into_iter().any(|change| change.unwrap()["type"] == name)
    };
    assert!(TYPES.into_iter().all(told));
    commits
}
