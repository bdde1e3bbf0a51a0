//! Triggers, and the card of an approval.

use kernel::action::FailureCode;
use kernel::approval::Status;
use kernel::card::{self, Face, Message};
use kernel::delivery;
use kernel::failure::Category;
use kernel::ids::{ActionId, EnvironmentId, RunId, WorkspaceId};
use kernel::machine::{Change, Kind};
use kernel::trigger::{self, Binding, Fired, Source};
use kernel::values::Digest;

use super::{Told, principal, time};

/// The type of every transition of triggers and cards.
pub(crate) const TYPES: [&str; 14] = [
    "trigger.created",
    "trigger.enabled",
    "trigger.disabled",
    "trigger.fired",
    "trigger.removed",
    "card.opened",
    "card.posted",
    "card.shown",
    "card.missed",
    "card.asked",
    "card.withdrawn",
    "delivery.died",
    "delivery.started",
    "delivery.discarded",
];

fn failure() -> FailureCode {
    FailureCode { code: "upstream_unavailable".to_owned(), category: Category::Upstream }
}

/// A trigger that is made, fires twice, is disabled, enabled and removed.
pub(super) fn triggers() -> Vec<Vec<Told>> {
    let trigger = |change| vec![(Kind::Trigger, "nightly", Change::Trigger(change))];
    let created = trigger::Change::Created(Box::new(Binding {
        source: Source::Schedule,
        definition: Digest::of(b"definition"),
        workspace: WorkspaceId::new("ops").unwrap(),
        environment: EnvironmentId::new("prod").unwrap(),
        principal: principal("svc_1"),
        by: principal("u_1"),
        next_at: Some(time(3_600)),
    }));
    let fired = |hour: i64, run: Option<&str>| {
        trigger::Change::Fired(Box::new(Fired {
            due_at: time(hour * 3_600),
            run: run.map(|id| RunId::new(id).unwrap()),
            failure: run.is_none().then(failure),
            next_at: Some(time((hour + 1) * 3_600)),
        }))
    };
    let enabled = trigger::Change::Enabled { by: principal("u_1"), next_at: Some(time(5 * 3_600)) };
    vec![
        trigger(created),
        trigger(fired(1, Some("run_9"))),
        trigger(fired(2, None)),
        trigger(trigger::Change::Disabled { by: principal("u_1") }),
        trigger(enabled),
        trigger(trigger::Change::Removed { by: principal("u_1") }),
    ]
}

/// Two deliveries that started no run: one that did later, and one that was given up.
fn deliveries() -> Vec<Vec<Told>> {
    let delivery = |id, change| vec![(Kind::Delivery, id, Change::Delivery(change))];
    let died = |event: &[u8]| delivery::Change::Died {
        trigger: "incidents".to_owned(),
        event: Digest::of(event),
        failure: failure(),
    };
    let started = delivery::Change::Started {
        run: RunId::new("run_10").unwrap(),
        by: Some(principal("u_1")),
    };
    let discarded = delivery::Change::Discarded { by: principal("u_1") };
    vec![
        delivery("dlv_1", died(b"1")),
        delivery("dlv_2", died(b"2")),
        delivery("dlv_1", started),
        delivery("dlv_2", discarded),
    ]
}

/// A card that is posted at the second try, which waits, and changed, and one that never is.
pub(super) fn cards() -> Vec<Vec<Told>> {
    let card = |id, change| vec![(Kind::Card, id, Change::Card(change))];
    let opened = || card::Change::Opened { trigger: "slack-ops".to_owned() };
    let action = |id: &str| ActionId::new(id).unwrap();
    let face = |status, votes| Face { status, votes };
    let missed = card::Change::Missed {
        action: Some(action("act_41")),
        failure: failure(),
        in_doubt: true,
        retry_at: Some(time(700)),
    };
    let posted = card::Change::Posted {
        action: action("act_42"),
        message: Message { channel: "C0OPS".to_owned(), ts: "1700000000.000100".to_owned() },
        face: face(Status::Requested, 0),
    };
    let shown = card::Change::Shown { action: action("act_43"), face: face(Status::Approved, 1) };
    let commits = vec![
        card("apr_31", opened()),
        card("apr_31", missed),
        card("apr_31", card::Change::Asked { action: action("act_42") }),
        card("apr_31", posted),
        card("apr_31", shown),
        card("apr_32", opened()),
        card("apr_32", card::Change::Withdrawn {}),
    ];
    let commits = [commits, deliveries()].concat();
    let others = triggers();
    let mut all = commits.iter().chain(&others).flatten().map(|(_, _, change)| {
        serde_json::to_value(change).unwrap()["type"].as_str().unwrap().to_owned()
    });
    assert!(all.all(|name| TYPES.contains(&name.as_str())));
    commits
}
