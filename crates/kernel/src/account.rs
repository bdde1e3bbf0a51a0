//! Accounts of money in double entry, with two-phase postings: hold, then post or void.
//!
//! Every movement debits one account and credits another by the same amount, in one commit, so
//! that the sum over all accounts is zero. A budget never posts or holds more than it has.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::ids::{AccountId, ActionId};
use crate::limits;
use crate::machine::{Applied, Refusal};
use crate::values::{MicroUsd, Timestamp};

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

/// What changes an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// It was opened.
    #[serde(rename = "account.opened")]
    Opened {
        /// What for.
        purpose: Purpose,
    },
    /// Money came in.
    #[serde(rename = "account.credited")]
    Credited {
        /// How much.
        amount: MicroUsd,
        /// The account debited in the same commit.
        from: AccountId,
    },
    /// Money went out.
    #[serde(rename = "account.debited")]
    Debited {
        /// How much.
        amount: MicroUsd,
        /// The account credited in the same commit.
        to: AccountId,
    },
    /// Money was set aside for an action.
    #[serde(rename = "account.held")]
    Held {
        /// For which.
        action: ActionId,
        /// How much.
        amount: MicroUsd,
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
        /// The account credited in the same commit.
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
    /// It pays for nothing until it is thawed: a provider charged more than was held.
    #[serde(rename = "account.frozen")]
    Frozen {
        /// How much more than was held.
        overrun: MicroUsd,
    },
    /// It pays again.
    #[serde(rename = "account.thawed")]
    Thawed {},
}

/// What is asked of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Open it.
    Open {
        /// What for.
        purpose: Purpose,
    },
    /// Open it unless it is open. For the funding and spend accounts of a log.
    Ensure {
        /// What for.
        purpose: Purpose,
    },
    /// Let money in.
    Credit {
        /// How much.
        amount: MicroUsd,
        /// From where.
        from: AccountId,
    },
    /// Let money out.
    Debit {
        /// How much.
        amount: MicroUsd,
        /// To where.
        to: AccountId,
    },
    /// Set money aside.
    Hold {
        /// For which action.
        action: ActionId,
        /// How much.
        amount: MicroUsd,
    },
    /// Pay from what was set aside.
    Post {
        /// For which action.
        action: ActionId,
        /// What it came to.
        amount: MicroUsd,
        /// To where.
        to: AccountId,
    },
    /// Give back what was set aside.
    Void {
        /// For which action.
        action: ActionId,
    },
    /// Let it pay again.
    Thaw {},
}

/// The state of one account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Which.
    pub id: AccountId,
    /// What for.
    pub purpose: Purpose,
    /// All that ever came in.
    pub credits: MicroUsd,
    /// All that ever went out.
    pub debits: MicroUsd,
    /// All that is set aside.
    pub held: MicroUsd,
    /// For which actions.
    pub holds: BTreeMap<ActionId, MicroUsd>,
    /// Whether it pays for nothing.
    pub frozen: bool,
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
}

fn positive(amount: MicroUsd) -> Result<MicroUsd, Refusal> {
    if (1..=limits::AMOUNT_MICRO_USD_MAX).contains(&amount.0) {
        Ok(amount)
    } else {
        Err(Refusal::InvalidInput("an amount is 1 to 10^15 micro-USD"))
    }
}

/// The changes that `input` makes, or why it makes none.
pub fn step(state: Option<&Account>, input: Input) -> Result<Vec<Change>, Refusal> {
    let Some(account) = state else {
        return match input {
            Input::Open { purpose } | Input::Ensure { purpose } => {
                Ok(vec![Change::Opened { purpose }])
            }
            _ => Err(Refusal::Absent),
        };
    };
    match input {
        Input::Open { .. } => Err(Refusal::Exists),
        Input::Ensure { purpose } if purpose == account.purpose => Ok(Vec::new()),
        Input::Ensure { .. } => Err(Refusal::Exists),
        Input::Credit { amount, from } => {
            let fits = account.credits.0.checked_add(amount.0).is_some();
            let amount = positive(amount).ok().filter(|_| fits).ok_or(Refusal::Overflow)?;
            Ok(vec![Change::Credited { amount, from }])
        }
        Input::Debit { amount, to } => {
            account.covers(positive(amount)?)?;
            Ok(vec![Change::Debited { amount, to }])
        }
        // Only a budget is bounded by what it was funded with.
        Input::Hold { .. } if account.purpose != Purpose::Budget => {
            Err(Refusal::InvalidInput("only a budget account pays for actions"))
        }
        Input::Hold { action, amount } => {
            account.covers(positive(amount)?)?;
            if account.holds.contains_key(&action) {
                return Err(Refusal::Exists);
            }
            if account.holds.len() >= limits::HOLDS_PER_ACCOUNT_MAX {
                return Err(Refusal::TooManyHolds);
            }
            Ok(vec![Change::Held { action, amount }])
        }
        Input::Post { action, amount, to } => account.post(action, amount, to),
        Input::Void { action } => {
            let held = *account.holds.get(&action).ok_or(Refusal::Absent)?;
            Ok(vec![Change::Voided { action, held }])
        }
        Input::Thaw {} if account.frozen => Ok(vec![Change::Thawed {}]),
        Input::Thaw {} => Err(Refusal::State("not frozen")),
    }
}

impl Account {
    fn covers(&self, amount: MicroUsd) -> Result<(), Refusal> {
        if self.frozen {
            return Err(Refusal::AccountFrozen);
        }
        let fits = self.debits.0.checked_add(amount.0).is_some();
        let funded = self.purpose != Purpose::Budget || amount <= self.available();
        if fits && funded {
            Ok(())
        } else {
            Err(Refusal::BudgetExceeded {
                account: self.id.clone(),
                available: self.available(),
                needed: amount,
            })
        }
    }

    /// Pays from a hold. What a provider charged beyond it is a fact: it is recorded in full and
    /// the account is frozen.
    fn post(
        &self,
        action: ActionId,
        amount: MicroUsd,
        to: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        let held = *self.holds.get(&action).ok_or(Refusal::Absent)?;
        if amount == MicroUsd::ZERO {
            return Ok(vec![Change::Voided { action, held }]);
        }
        let amount = positive(amount)?;
        self.debits.0.checked_add(amount.0).ok_or(Refusal::Overflow)?;
        let mut changes = vec![Change::Posted { action, held, amount, to }];
        if amount > held {
            changes.push(Change::Frozen { overrun: MicroUsd(amount.0.saturating_sub(held.0)) });
        }
        Ok(changes)
    }
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Account>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Opened { purpose }) = (&state, change) {
        let Ok(id) = AccountId::new(applied.id) else { return };
        *state = Some(Account {
            id,
            purpose: *purpose,
            credits: MicroUsd::ZERO,
            debits: MicroUsd::ZERO,
            held: MicroUsd::ZERO,
            holds: BTreeMap::new(),
            frozen: false,
            updated_at: applied.time,
            last_receipt: applied.index,
        });
    }
    let Some(account) = state else { return };
    account.updated_at = applied.time;
    account.last_receipt = applied.index;
    let add = |to: &mut MicroUsd, amount: MicroUsd| to.0 = to.0.saturating_add(amount.0);
    match change {
        Change::Opened { .. } => {}
        Change::Credited { amount, .. } => add(&mut account.credits, *amount),
        Change::Debited { amount, .. } => add(&mut account.debits, *amount),
        Change::Held { action, amount } => {
            account.holds.insert(action.clone(), *amount);
            add(&mut account.held, *amount);
        }
        Change::Posted { action, amount, .. } => {
            account.release(action);
            add(&mut account.debits, *amount);
        }
        Change::Voided { action, .. } => account.release(action),
        Change::Frozen { .. } => account.frozen = true,
        Change::Thawed {} => account.frozen = false,
    }
}

impl Account {
    fn release(&mut self, action: &ActionId) {
        if let Some(held) = self.holds.remove(action) {
            self.held.0 = self.held.0.saturating_sub(held.0);
        }
    }
}
