//! The batches of commands that move money and units between accounts.

use std::collections::BTreeSet;

use super::{FUNDING_ACCOUNT, SPEND_ACCOUNT, account_command};
use crate::account::{self, Account, Opening, Purpose};
use crate::action::Action;
use crate::ids::AccountId;
use crate::limits;
use crate::machine::Command;
use crate::units::{Unit, Units};
use crate::values::MicroUsd;

/// Opens a budget account.
pub fn open_account(id: &AccountId) -> Vec<Command> {
    open_with(id, Opening::of(Purpose::Budget))
}

/// Opens a budget account with all that can be said of it.
pub fn open_with(id: &AccountId, opening: Opening) -> Vec<Command> {
    vec![account_command(id.as_str(), account::Input::Open(opening))]
}

/// How a budget under `parent` begins: it bounds what the parent bounds.
pub fn under(parent: &Account) -> Opening {
    Opening {
        parent: Some(parent.id.clone()),
        level: parent.level.saturating_add(1),
        bounds: parent.units.bounds.clone(),
        ..Opening::of(Purpose::Budget)
    }
}

/// Moves money from the funding account into a budget.
pub fn fund(id: &AccountId, amount: MicroUsd) -> Vec<Command> {
    fund_units(id, amount, &Units::NONE)
}

/// Moves money and units from the funding account into a budget, which bounds these units from
/// then on.
pub fn fund_units(id: &AccountId, amount: MicroUsd, units: &Units) -> Vec<Command> {
    let Ok(from) = AccountId::new(FUNDING_ACCOUNT) else { return Vec::new() };
    let (purpose, units, to) = (Purpose::Funding, *units, id.clone());
    vec![
        account_command(FUNDING_ACCOUNT, account::Input::Ensure { purpose }),
        account_command(FUNDING_ACCOUNT, account::Input::Debit { amount, units, to }),
        account_command(id.as_str(), account::Input::Credit { amount, units, from }),
    ]
}

/// Opens `to` as a budget under `from` and moves money and units into it. It bounds the units
/// that it is given, which must be among them all that `from` bounds, and allots no further.
pub fn allot(from: &AccountId, to: &AccountId, money: MicroUsd, units: &Units) -> Vec<Command> {
    let bounds: BTreeSet<Unit> = units.iter().map(|(unit, _)| unit).collect();
    let level = u8::try_from(limits::ACCOUNT_LEVELS_MAX).unwrap_or(u8::MAX).saturating_sub(1);
    let opening = Opening {
        parent: Some(from.clone()),
        level,
        bounds: bounds.clone(),
        ..Opening::of(Purpose::Budget)
    };
    let mut batch = open_with(to, opening);
    batch.extend(transfer(from, to, (money, units), level, bounds));
    batch
}

/// Moves money and units from the account above into `to`, which is open.
pub fn allot_more(to: &Account, money: MicroUsd, units: &Units) -> Vec<Command> {
    let Some(from) = &to.parent else { return Vec::new() };
    let mut bounds = to.units.bounds.clone();
    bounds.extend(units.iter().map(|(unit, _)| unit));
    transfer(from, &to.id, (money, units), to.level, bounds)
}

fn transfer(
    from: &AccountId,
    to: &AccountId,
    (amount, units): (MicroUsd, &Units),
    level: u8,
    bounds: BTreeSet<Unit>,
) -> Vec<Command> {
    let allot = account::Input::Allot { amount, units: *units, to: to.clone(), level, bounds };
    let mut batch = vec![account_command(from.as_str(), allot)];
    if amount != MicroUsd::ZERO || !units.is_empty() {
        let credit = account::Input::Credit { amount, units: *units, from: from.clone() };
        batch.push(account_command(to.as_str(), credit));
    }
    batch
}

/// Closes an account and returns what it has left to the one above it; what it was charged beyond
/// what it had, the one above it makes good. What is still held follows when it is settled: until
/// then the account is due again.
pub fn give_back(account: &Account) -> Vec<Command> {
    let id = account.id.as_str();
    let mut batch = vec![account_command(id, account::Input::Close {})];
    let Some(parent) = &account.parent else { return batch };
    let something =
        |(money, units): &(MicroUsd, Units)| *money > MicroUsd::ZERO || !units.is_empty();
    let (surplus, deficit) = (account.surplus(), account.deficit());
    if something(&deficit) {
        let (amount, units) = deficit;
        let (to, from) = (account.id.clone(), parent.clone());
        let cover = account::Input::Cover { amount, units, to };
        batch.push(account_command(parent.as_str(), cover));
        batch.push(account_command(id, account::Input::Credit { amount, units, from }));
    }
    if something(&surplus) {
        let (amount, units) = surplus;
        let (to, from) = (parent.clone(), account.id.clone());
        batch.push(account_command(id, account::Input::GiveBack { amount, units, to }));
        let take = account::Input::TakeBack { amount, units, from };
        batch.push(account_command(parent.as_str(), take));
    }
    batch
}

/// Lets a frozen account pay again.
pub fn thaw(id: &AccountId) -> Vec<Command> {
    vec![account_command(id.as_str(), account::Input::Thaw {})]
}

/// Says at which shares of what it was funded with an account tells that they are used up.
pub fn watch(id: &AccountId, alert_at: BTreeSet<u8>) -> Vec<Command> {
    vec![account_command(id.as_str(), account::Input::Watch { alert_at })]
}

/// Pays what an attempt came to from what was held for it.
pub(super) fn settle(action: &Action, cost: MicroUsd, units: Units) -> Vec<Command> {
    let Some(payer) = action.request.account.as_ref().filter(|_| action.request.is_counted())
    else {
        return Vec::new();
    };
    let Ok(to) = AccountId::new(SPEND_ACCOUNT) else { return Vec::new() };
    let post = account::Input::Post { action: action.id.clone(), amount: cost, units, to };
    let mut batch = vec![account_command(payer.as_str(), post)];
    if cost > MicroUsd::ZERO {
        let (purpose, from) = (Purpose::Spend, payer.clone());
        let credit = account::Input::Credit { amount: cost, units: Units::NONE, from };
        batch.push(account_command(SPEND_ACCOUNT, account::Input::Ensure { purpose }));
        batch.push(account_command(SPEND_ACCOUNT, credit));
    }
    batch
}
