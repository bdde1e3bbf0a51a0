//! Accounts of money and units in double entry, with two-phase postings: hold, then post or void.
//!
//! Every movement of money debits one account and credits another by the same amount, in one
//! commit, so that the sum over all accounts is zero. Units are used up: what is posted of them
//! leaves the books. A budget never posts or holds more than it has.
//!
//! A budget bounds money, and each unit that it was ever funded with. It may allot to budgets
//! under it: what it allots is theirs until they give it back, so that no spending ever has to
//! look further than at one account.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::ids::{AccountId, ActionId};
use crate::units::{Unit, Units};
use crate::values::{MicroUsd, Timestamp};

mod fold;
mod step;

pub use fold::apply;
pub use step::step;

/// What an account is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// Pays for actions; never below zero.
    Budget,
    /// Where money comes from; its balance is minus all that was ever funded.
    Funding,
    /// Where money goes; its balance is all that was ever spent.
    Spend,
}

/// What an account can run out of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Millionths of a US dollar.
    Money,
    /// A unit.
    #[serde(untagged)]
    Unit(Unit),
}

impl Measure {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Money => "money",
            Self::Unit(unit) => unit.as_str(),
        }
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Money => "micro-USD",
            Self::Unit(unit) => unit.as_str(),
        })
    }
}

/// A share of what an account was funded with that was used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Alert {
    /// Of what.
    pub measure: Measure,
    /// In hundredths.
    pub percent: u8,
}

/// A share that an account has passed, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Passed {
    /// Which.
    pub alert: Alert,
    /// Since when.
    pub at: Timestamp,
    /// The log index of the receipt that says so.
    pub receipt: u64,
}

/// How an account begins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// What for.
    pub purpose: Purpose,
    /// Which account allots to it. Only that one ever does, and what it has left goes back there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AccountId>,
    /// How many accounts there are above it, at least.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u8,
    /// Which units it bounds from the start.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bounds: BTreeSet<Unit>,
    /// At which shares of what it was funded with somebody wants to know.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alert_at: BTreeSet<u8>,
}

impl Opening {
    /// Of an account that stands alone.
    pub fn of(purpose: Purpose) -> Self {
        let (bounds, alert_at) = (BTreeSet::new(), BTreeSet::new());
        Self { purpose, parent: None, level: 0, bounds, alert_at }
    }
}

fn is_zero(level: &u8) -> bool {
    *level == 0
}

/// What changes an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was opened.
    #[serde(rename = "account.opened")]
    Opened(Opening),
    /// Money or units came in.
    #[serde(rename = "account.credited")]
    Credited {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account debited in the same commit.
        from: AccountId,
    },
    /// Money or units went out.
    #[serde(rename = "account.debited")]
    Debited {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account credited in the same commit.
        to: AccountId,
    },
    /// Money or units went to an account under it.
    #[serde(rename = "account.allotted")]
    Allotted {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account credited in the same commit.
        to: AccountId,
    },
    /// An account under it gave back what it had not used.
    #[serde(rename = "account.returned")]
    Returned {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account that gave it back in the same commit.
        from: AccountId,
    },
    /// It gave back what it had not used.
    #[serde(rename = "account.gave_back")]
    GaveBack {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account above it, which got it back in the same commit.
        to: AccountId,
    },
    /// Money and units were set aside for an action.
    #[serde(rename = "account.held")]
    Held {
        /// For which.
        action: ActionId,
        /// How much.
        amount: MicroUsd,
        /// How many units, of those that the account bounds.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
    },
    /// A hold became a payment.
    #[serde(rename = "account.posted")]
    Posted {
        /// For which action.
        action: ActionId,
        /// What was held.
        held: MicroUsd,
        /// What it came to.
        amount: MicroUsd,
        /// How many units it used, of those that the account bounded when they were held.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
        /// The account credited with the amount in the same commit.
        to: AccountId,
    },
    /// A hold was given back.
    #[serde(rename = "account.voided")]
    Voided {
        /// For which action.
        action: ActionId,
        /// What was held.
        held: MicroUsd,
    },
    /// So much was used up that somebody wants to know.
    #[serde(rename = "account.alerted")]
    Alerted {
        /// Of what.
        measure: Measure,
        /// Which share, in hundredths.
        percent: u8,
        /// How much was used up or allotted.
        used: u64,
        /// Of how much.
        funded: u64,
    },
    /// Somebody wants to know at other shares.
    #[serde(rename = "account.watched")]
    Watched {
        /// At which, in hundredths.
        alert_at: BTreeSet<u8>,
    },
    /// It pays for nothing until it is thawed: a provider charged more than was held.
    #[serde(rename = "account.frozen")]
    Frozen {
        /// How much more than was held.
        overrun: MicroUsd,
        /// How many units more.
        #[serde(default, skip_serializing_if = "Units::is_empty")]
        units: Units,
    },
    /// It pays again.
    #[serde(rename = "account.thawed")]
    Thawed {},
    /// It pays for nothing any more; what is still held for it goes back when it is settled.
    #[serde(rename = "account.closed")]
    Closed {},
}

/// What is asked of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Open it.
    Open(Opening),
    /// Open it unless it is open. For the funding and spend accounts of a log.
    Ensure {
        /// What for.
        purpose: Purpose,
    },
    /// Let money or units in.
    Credit {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// From where.
        from: AccountId,
    },
    /// Let money or units out of the funding account.
    Debit {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// To where.
        to: AccountId,
    },
    /// Let an account under it have money or units.
    Allot {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// Which account.
        to: AccountId,
        /// The level of that account.
        level: u8,
        /// The units that that account bounds: all that this one does.
        bounds: BTreeSet<Unit>,
    },
    /// Make good what an account under it was charged beyond what it had.
    Cover {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// Which account.
        to: AccountId,
    },
    /// Give back what is not used.
    GiveBack {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// The account above it.
        to: AccountId,
    },
    /// Take back what an account under it has not used.
    TakeBack {
        /// How much.
        amount: MicroUsd,
        /// How many units.
        units: Units,
        /// Which account.
        from: AccountId,
    },
    /// Set money and units aside.
    Hold {
        /// For which action.
        action: ActionId,
        /// How much.
        amount: MicroUsd,
        /// How many units; those that the account does not bound are not held.
        units: Units,
    },
    /// Pay from what was set aside, and give back the rest.
    Post {
        /// For which action.
        action: ActionId,
        /// What it came to; nothing gives everything back.
        amount: MicroUsd,
        /// What it used; those units that were not held are not counted.
        units: Units,
        /// To where.
        to: AccountId,
    },
    /// Tell when so much is used up.
    Watch {
        /// At which shares of what it was funded with, in hundredths.
        alert_at: BTreeSet<u8>,
    },
    /// Let it pay again.
    Thaw {},
    /// Let it pay no more. Once it is closed, this changes nothing.
    Close {},
}

/// What is set aside for an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// How much.
    pub amount: MicroUsd,
    /// How many units.
    #[serde(default, skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// The units that the account bounded then: what is used of others is not counted.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub bounds: BTreeSet<Unit>,
}

/// Units as an account has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitBooks {
    /// The units that it bounds: those that it was ever funded with.
    pub bounds: BTreeSet<Unit>,
    /// All that ever came in, less what was given back.
    pub credits: Units,
    /// All that was used or allotted.
    pub debits: Units,
    /// What of that is allotted.
    pub allotted: Units,
    /// All that is set aside.
    pub held: Units,
}

impl UnitBooks {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What can still be held, of the units that are bounded.
    pub fn available(&self) -> Units {
        self.credits.saturating_sub(&self.debits.saturating_add(&self.held))
    }

    /// What was used or is held beyond what there was.
    fn missing(&self) -> Units {
        self.debits.saturating_add(&self.held).saturating_sub(&self.credits)
    }

    /// Of `units`, those that are bounded.
    fn bounded(&self, units: &Units) -> Units {
        units.only(&self.bounds)
    }
}

/// The state of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which.
    pub id: AccountId,
    /// What for.
    pub purpose: Purpose,
    /// Which account allots to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<AccountId>,
    /// How many accounts there are above it, at least.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub level: u8,
    /// All that ever came in, less what was given back.
    pub credits: MicroUsd,
    /// All that ever went out, less what came back.
    pub debits: MicroUsd,
    /// What of that is allotted to accounts under it.
    #[serde(default, skip_serializing_if = "MicroUsd::is_zero")]
    pub allotted: MicroUsd,
    /// All that is set aside.
    pub held: MicroUsd,
    /// The same of units.
    #[serde(default, skip_serializing_if = "UnitBooks::is_empty")]
    pub units: UnitBooks,
    /// For which actions.
    pub holds: BTreeMap<ActionId, Hold>,
    /// At which shares of what it was funded with somebody wants to know.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub alert_at: BTreeSet<u8>,
    /// Which of them it has passed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<Passed>,
    /// Whether it pays for nothing.
    pub frozen: bool,
    /// Whether it never pays again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The log index of its last receipt.
    pub last_receipt: u64,
}

impl Account {
    /// What came in less what went out.
    pub fn balance(&self) -> MicroUsd {
        MicroUsd(self.credits.0.saturating_sub(self.debits.0))
    }

    /// What can still be held: the balance less what is set aside.
    pub fn available(&self) -> MicroUsd {
        MicroUsd(self.balance().0.saturating_sub(self.held.0))
    }

    /// What it spent itself.
    pub fn spent(&self) -> MicroUsd {
        MicroUsd(self.debits.0.saturating_sub(self.allotted.0))
    }

    /// The units that it used itself, of those that it bounds.
    pub fn used(&self) -> Units {
        self.units.debits.saturating_sub(&self.units.allotted)
    }

    /// What it can give back: nothing where it was charged beyond what it had.
    pub fn surplus(&self) -> (MicroUsd, Units) {
        (self.available().max(MicroUsd::ZERO), self.units.available())
    }

    /// What it was charged beyond what it had.
    pub fn deficit(&self) -> (MicroUsd, Units) {
        (MicroUsd(self.available().0.saturating_neg().max(0)), self.units.missing())
    }

    /// When somebody must look at it again, if ever: a closed account settles with the one above
    /// it whatever it still has or lacks.
    pub fn due(&self) -> Option<Timestamp> {
        let none = (MicroUsd::ZERO, Units::NONE);
        let even = self.surplus() == none && self.deficit() == none;
        (self.closed && self.parent.is_some() && !even).then_some(self.updated_at)
    }
}
