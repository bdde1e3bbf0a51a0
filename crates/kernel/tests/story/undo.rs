//! An action that is undone at the second try.

use kernel::action::{Change, Outcome, Request, Status};
use kernel::decision::Effect;
use kernel::ids::ActionId;
use kernel::units::Units;
use kernel::values::{Digest, MicroUsd, Shared};

use super::{Told, action, decided, plain, started};

/// The types of its transitions.
pub(crate) const TYPES: [&str; 3] =
    ["action.reversal_begun", "action.reversed", "action.reversal_ended"];

fn id(name: &str) -> ActionId {
    ActionId::new(name).unwrap()
}

fn finished(status: Status) -> Change {
    let done = status == Status::Executed;
    let outcome = Outcome {
        status,
        output: done.then(|| Digest::of(b"result")),
        output_bytes: if done { 6 } else { 0 },
        cost: MicroUsd::ZERO,
        units: Units::NONE,
        failure: (!done)
            .then(|| super::failure("record_changed", kernel::failure::Category::Conflict)),
        is_error: false,
        isolation: None,
        attestation: None,
        prior: done.then(|| Digest::of(b"prior")),
        model: None,
    };
    Change::Finished { attempt: 1, outcome }
}

fn undoing() -> Shared<Request> {
    Shared::new(Request { reverses: Some(id("act_40")), ..Request::clone(&plain()) })
}

pub(super) fn commits() -> Vec<Vec<Told>> {
    let begins = |name: &'static str, request| {
        vec![
            action(name, Change::Requested(request)),
            action(name, decided(Status::Approved, Effect::Allow, None)),
            action(name, started(1, 9, None)),
        ]
    };
    let undoes = |name: &'static str| {
        let mut commit = begins(name, undoing());
        commit.insert(2, action("act_40", Change::ReversalBegun { by: id(name) }));
        commit
    };
    let commits = vec![
        begins("act_40", plain()),
        vec![action("act_40", finished(Status::Executed))],
        undoes("act_41"),
        vec![
            action("act_41", finished(Status::Failed)),
            action("act_40", Change::ReversalEnded { by: id("act_41") }),
        ],
        undoes("act_42"),
        vec![
            action("act_42", finished(Status::Executed)),
            action("act_40", Change::Reversed { by: id("act_42") }),
        ],
    ];
    let told = |name: &str| {
        let types = commits.iter().flatten().map(|(_, _, change)| serde_json::to_value(change));
        types.into_iter().any(|change| change.unwrap()["type"] == name)
    };
    assert!(TYPES.into_iter().all(told));
    commits
}
