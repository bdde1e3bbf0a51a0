//! What moves money and units: an action that is paid for, and the account of a run.

use super::*;

/// An action that is approved, fails, is repeated, and costs more than was held.
pub(super) fn approved_and_repeated() -> Vec<Vec<Told>> {
    let id = ActionId::new("act_1").unwrap();
    let (held, cost) = (MicroUsd(5_000), MicroUsd(5_500));
    let hold =
        || account("acc_1", Account::Held { action: id.clone(), amount: held, units: worst() });
    let reserved = reservation::Change::Reserved {
        body: Digest::of(b"body"),
        target: "act_1".to_owned(),
        until: time(86_400),
    };
    let network = failure("connection_refused", Category::Network);
    let outcome = Outcome {
        status: Status::Executed,
        output: Some(Digest::of(b"output")),
        output_bytes: 6,
        cost,
        units: used(),
        failure: None,
        is_error: false,
        isolation: None,
        attestation: Some(sandbox::attestation().into()),
        prior: None,
        model: None,
    };
    let redecided = Action::Decided {
        phase: Phase::Execute,
        status: Status::Approved,
        decision: decision(Effect::RequireApproval),
        principal_revision: 2,
        approval: Some(ApprovalId::new("apr_1").unwrap()),
    };
    vec![
        vec![
            (Kind::Idempotency, "key_1", Change::Reservation(reserved)),
            approval("apr_1", asks()),
            action("act_1", Action::Requested(request())),
            action(
                "act_1",
                decided(Status::AwaitingApproval, Effect::RequireApproval, Some("apr_1")),
            ),
        ],
        vec![
            approval("apr_1", says(approval::Status::Approved, Verdict::Approve)),
            action("act_1", granted("apr_1", Narrow::default(), false)),
        ],
        vec![
            action("act_1", redecided),
            approval("apr_1", Approval::Used {}),
            hold(),
            action("act_1", started(1, 4, Some(held))),
        ],
        vec![
            action(
                "act_1",
                Action::Retried {
                    attempt: 1,
                    at: time(7),
                    failure: network,
                    cost: MicroUsd::ZERO,
                    units: Units::of(Unit::Calls, 1),
                },
            ),
            account("acc_1", Account::Voided { action: id.clone(), held }),
        ],
        vec![hold(), action("act_1", started(2, 7, Some(held)))],
        vec![
            action("act_1", Action::Finished { attempt: 2, outcome }),
            account(
                "acc_1",
                Account::Posted {
                    action: id.clone(),
                    held,
                    amount: cost,
                    units: used(),
                    to: named("spend"),
                },
            ),
            account("acc_1", Account::Frozen { overrun: MicroUsd(500), units: Units::NONE }),
            account("spend", Account::Opened(Opening::of(Purpose::Spend))),
            account(
                "spend",
                Account::Credited { amount: cost, units: Units::NONE, from: budget() },
            ),
        ],
        vec![account("acc_1", Account::Thawed {})],
    ]
}

/// The account of a run: what it is allotted, and what goes back.
pub(super) fn allotted_and_given_back() -> Vec<Vec<Told>> {
    let (amount, units) = (MicroUsd(700_000), Units::of(Unit::Tokens, 100));
    let opening = Opening {
        parent: Some(budget()),
        level: 7,
        bounds: [Unit::Tokens].into(),
        alert_at: [80].into(),
        ..Opening::of(Purpose::Budget)
    };
    let (measure, percent, used, funded) = (Measure::Money, 50, 704_500, 1_000_000);
    let (to, from) = (budget(), named("run_1"));
    vec![
        vec![account("acc_1", Account::Watched { alert_at: [50].into() })],
        vec![
            account("run_1", Account::Opened(opening)),
            account("acc_1", Account::Allotted { amount, units, to: from.clone() }),
            account("acc_1", Account::Alerted { measure, percent, used, funded }),
            account("run_1", Account::Credited { amount, units, from: to.clone() }),
        ],
        vec![
            account("run_1", Account::Closed {}),
            account("run_1", Account::GaveBack { amount, units, to }),
            account("acc_1", Account::Returned { amount, units, from }),
        ],
    ]
}
