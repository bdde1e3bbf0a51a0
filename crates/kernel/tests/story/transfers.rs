//! Every change of a transfer, as two logs have them: one that arrived, and one that came back.

use kernel::action::FailureCode;
use kernel::failure::Category;
use kernel::ids::{AccountId, WorkspaceId};
use kernel::machine::{Change, Kind};
use kernel::transfer::{Change as Transfer, Terms};
use kernel::units::{Unit, Units};
use kernel::values::{MicroUsd, Shared};

use super::{Told, principal};

/// The types of these changes.
pub(crate) const TYPES: [&str; 5] = [
    "transfer.sent",
    "transfer.received",
    "transfer.refused",
    "transfer.arrived",
    "transfer.returned",
];

fn terms(units: Units) -> Shared<Terms> {
    let workspace = |id: &str| WorkspaceId::new(id).unwrap();
    let account = |id: &str| AccountId::new(id).unwrap();
    let terms = Terms {
        from: workspace("ops"),
        payer: account("company"),
        to: workspace("desk"),
        receiver: account("team"),
        amount: MicroUsd(5_000),
        units,
        by: principal("u_1"),
    };
    terms.into()
}

/// Every change of a transfer.
pub(super) fn commits() -> Vec<Vec<Told>> {
    let failure = FailureCode { code: "account_closed".to_owned(), category: Category::Budget };
    let of =
        |id: &'static str, change: Transfer| vec![(Kind::Transfer, id, Change::Transfer(change))];
    let (money, both) = (terms(Units::NONE), terms(Units::of(Unit::Calls, 7)));
    vec![
        of("trf_1", Transfer::Sent(money.clone())),
        of("trf_1", Transfer::Arrived {}),
        of("trf_2", Transfer::Sent(both.clone())),
        of("trf_2", Transfer::Returned { failure: failure.clone() }),
        of("trf_3", Transfer::Received(money)),
        of("trf_4", Transfer::Refused { terms: both, failure }),
    ]
}
