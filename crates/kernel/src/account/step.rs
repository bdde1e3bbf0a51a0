//! Which changes an input makes to an account, or why it makes none.

use std::collections::BTreeSet;

use super::{Account, Alert, Change, Hold, Input, Measure, Opening, Purpose};
use crate::ids::{AccountId, ActionId};
use crate::limits;
use crate::machine::Refusal;
use crate::plan::FUNDING_ACCOUNT;
use crate::units::{Unit, Units};
use crate::values::MicroUsd;

/// The changes that `input` makes, or why it makes none.
pub fn step(state: Option<&Account>, input: Input) -> Result<Vec<Change>, Refusal> {
    let Some(account) = state else { return begin(input) };
    match input {
        Input::Open(_) => Err(Refusal::Exists),
        Input::Ensure { purpose } if purpose == account.purpose => Ok(Vec::new()),
        Input::Ensure { .. } => Err(Refusal::Exists),
        Input::Credit { amount, units, from } => account.credit(amount, units, from),
        Input::Debit { .. } if account.purpose == Purpose::Budget => {
            Err(Refusal::InvalidInput("a budget pays for actions, or allots"))
        }
        Input::Debit { amount, units, to } => {
            sums(amount, &units)?;
            account.fits(amount, &units)?;
            Ok(vec![Change::Debited { amount, units, to }])
        }
        Input::Allot { amount, units, to, level, bounds } => {
            account.allot((amount, units), to, level, &bounds)
        }
        Input::Cover { amount, units, to } => account.cover(amount, units, to),
        Input::GiveBack { amount, units, to } => account.give_back(amount, units, to),
        Input::TakeBack { amount, units, from } => account.take_back(amount, units, from),
        // Only a budget is bounded by what it was funded with.
        Input::Hold { .. } if account.purpose != Purpose::Budget => {
            Err(Refusal::InvalidInput("only a budget account pays for actions"))
        }
        Input::Hold { action, amount, units } => account.hold(action, amount, &units),
        Input::Post { action, amount, units, to } => account.post(action, amount, &units, to),
        Input::Watch { alert_at } => {
            shares(&alert_at)?;
            let (debits, units) = (account.debits, account.units.debits);
            let mut changes = vec![Change::Watched { alert_at: alert_at.clone() }];
            changes.extend(account.passed(&alert_at, debits, &units));
            Ok(changes)
        }
        Input::Thaw {} if account.frozen => Ok(vec![Change::Thawed {}]),
        Input::Thaw {} => Err(Refusal::State("not frozen")),
        Input::Close {} if account.closed => Ok(Vec::new()),
        Input::Close {} if account.purpose != Purpose::Budget => {
            Err(Refusal::InvalidInput("only a budget account is closed"))
        }
        Input::Close {} => Ok(vec![Change::Closed {}]),
    }
}

/// The first change of an account.
fn begin(input: Input) -> Result<Vec<Change>, Refusal> {
    match input {
        Input::Open(opening) => {
            shares(&opening.alert_at)?;
            if usize::from(opening.level) >= limits::ACCOUNT_LEVELS_MAX {
                return Err(Refusal::AccountsTooDeep);
            }
            Ok(vec![Change::Opened(opening)])
        }
        Input::Ensure { purpose } => Ok(vec![Change::Opened(Opening::of(purpose))]),
        // What costs nothing needs nobody who pays.
        Input::Hold { amount: MicroUsd::ZERO, .. } | Input::Post { amount: MicroUsd::ZERO, .. } => {
            Ok(Vec::new())
        }
        _ => Err(Refusal::Absent),
    }
}

fn shares(alert_at: &BTreeSet<u8>) -> Result<(), Refusal> {
    let fits = alert_at.iter().all(|percent| (1..=100).contains(percent));
    if fits && alert_at.len() <= limits::ALERTS_PER_ACCOUNT_MAX {
        Ok(())
    } else {
        Err(Refusal::InvalidInput("alerts are at most 4 shares of 1 to 100 percent"))
    }
}

/// Whether each of them is nothing or a sum that one movement may have.
fn movable(amount: MicroUsd, units: &Units) -> Result<(), Refusal> {
    let money = (0..=limits::AMOUNT_MICRO_USD_MAX).contains(&amount.0);
    if money && units.iter().all(|(_, n)| n <= limits::AMOUNT_UNITS_MAX) {
        Ok(())
    } else {
        Err(Refusal::InvalidInput("an amount is 1 to 10^15 micro-USD or units"))
    }
}

/// The same, and not nothing at all.
fn sums(amount: MicroUsd, units: &Units) -> Result<(), Refusal> {
    movable(amount, units)?;
    if amount == MicroUsd::ZERO && units.is_empty() {
        return Err(Refusal::InvalidInput("an amount is 1 to 10^15 micro-USD or units"));
    }
    Ok(())
}

impl Account {
    fn credit(
        &self,
        amount: MicroUsd,
        units: Units,
        from: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        sums(amount, &units).map_err(|_| Refusal::Overflow)?;
        // Whatever came from elsewhere could not go back to where it belongs.
        if self.parent.as_ref().is_some_and(|parent| *parent != from) {
            return Err(Refusal::InvalidInput("an account gets what the one above it allots"));
        }
        // What comes from outside would stay there for ever.
        if self.closed && from.as_str() == FUNDING_ACCOUNT {
            return Err(Refusal::AccountClosed { account: self.id.clone() });
        }
        let credits = self.credits.0.checked_add(amount.0).ok_or(Refusal::Overflow)?;
        let counted = self.units.credits.checked_add(&units).ok_or(Refusal::Overflow)?;
        in_range(MicroUsd(credits), &counted)?;
        Ok(vec![Change::Credited { amount, units, from }])
    }

    /// Whether so much more can go out, as far as numbers go.
    fn fits(&self, amount: MicroUsd, units: &Units) -> Result<(), Refusal> {
        let debits = self.debits.0.checked_add(amount.0).ok_or(Refusal::Overflow)?;
        let counted = self.units.debits.checked_add(units).ok_or(Refusal::Overflow)?;
        in_range(MicroUsd(debits), &counted)
    }

    /// Whether so much is there, for an account that may pay.
    fn covers(&self, amount: MicroUsd, units: &Units) -> Result<(), Refusal> {
        let account = || self.id.clone();
        if self.closed {
            return Err(Refusal::AccountClosed { account: account() });
        }
        if self.frozen {
            return Err(Refusal::AccountFrozen { account: account() });
        }
        self.fits(amount, units)?;
        let short = |measure, available: i128, needed: i128| {
            let (available, needed) = (clamp(available), clamp(needed));
            Err(Refusal::BudgetExceeded { account: account(), measure, available, needed })
        };
        let available = self.available();
        if amount > available {
            return short(Measure::Money, available.0.into(), amount.0.into());
        }
        let there = self.units.available();
        let lacking = self.units.bounds.iter().find(|unit| units.get(**unit) > there.get(**unit));
        match lacking {
            Some(unit) => {
                let (available, needed) = (there.get(*unit), units.get(*unit));
                short(Measure::Unit(*unit), available.into(), needed.into())
            }
            None => Ok(()),
        }
    }

    fn hold(
        &self,
        action: ActionId,
        amount: MicroUsd,
        units: &Units,
    ) -> Result<Vec<Change>, Refusal> {
        movable(amount, units)?;
        let units = self.units.bounded(units);
        if amount == MicroUsd::ZERO && units.is_empty() {
            return Ok(Vec::new());
        }
        self.covers(amount, &units)?;
        if self.holds.contains_key(&action) {
            return Err(Refusal::Exists);
        }
        if self.holds.len() >= limits::HOLDS_PER_ACCOUNT_MAX {
            return Err(Refusal::TooManyHolds);
        }
        Ok(vec![Change::Held { action, amount, units }])
    }

    /// Pays from a hold. What a provider charged beyond it is a fact: it is recorded in full and
    /// the account is frozen.
    fn post(
        &self,
        action: ActionId,
        amount: MicroUsd,
        units: &Units,
        to: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        movable(amount, units)?;
        let Some(Hold { amount: held, units: set_aside, bounds }) = self.holds.get(&action) else {
            return self.post_unheld(action, amount, to);
        };
        let (held, units) = (*held, units.only(bounds));
        if amount == MicroUsd::ZERO && units.is_empty() {
            return Ok(vec![Change::Voided { action, held }]);
        }
        self.fits(amount, &units)?;
        let debits = MicroUsd(self.debits.0.saturating_add(amount.0));
        let counted = self.units.debits.saturating_add(&units);
        let mut changes = vec![Change::Posted { action, held, amount, units, to }];
        changes.extend(self.passed(&self.alert_at, debits, &counted));
        let overrun = MicroUsd(amount.0.saturating_sub(held.0).max(0));
        let more = units.saturating_sub(set_aside);
        if overrun > MicroUsd::ZERO || !more.is_empty() {
            changes.push(Change::Frozen { overrun, units: more });
        }
        Ok(changes)
    }

    /// Nothing is held for what costs nothing. What it cost all the same is an overrun.
    fn post_unheld(
        &self,
        action: ActionId,
        amount: MicroUsd,
        to: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        if amount == MicroUsd::ZERO {
            return Ok(Vec::new());
        }
        self.fits(amount, &Units::NONE)?;
        let (held, units) = (MicroUsd::ZERO, Units::NONE);
        let posted = Change::Posted { action, held, amount, units, to };
        Ok(vec![posted, Change::Frozen { overrun: amount, units }])
    }

    fn allot(
        &self,
        (amount, units): (MicroUsd, Units),
        to: AccountId,
        level: u8,
        bounds: &BTreeSet<Unit>,
    ) -> Result<Vec<Change>, Refusal> {
        movable(amount, &units)?;
        if self.purpose != Purpose::Budget {
            return Err(Refusal::InvalidInput("only a budget account allots"));
        }
        if level <= self.level {
            return Err(Refusal::AccountsTooDeep);
        }
        // Else whoever is given money could use without bound what is bounded here.
        if let Some(unit) = self.units.bounds.iter().find(|unit| !bounds.contains(unit)) {
            return Err(Refusal::UnitNotAllotted { account: self.id.clone(), unit: *unit });
        }
        let free = units.only_not(&self.units.bounds);
        if let Some((unit, needed)) = free.iter().next() {
            // It has none of it: only what is bounded can be divided.
            let (measure, needed) = (Measure::Unit(unit), clamp(needed.into()));
            let account = self.id.clone();
            return Err(Refusal::BudgetExceeded { account, measure, available: 0, needed });
        }
        self.covers(amount, &units)?;
        if amount == MicroUsd::ZERO && units.is_empty() {
            return Ok(Vec::new());
        }
        Ok(self.allotted(amount, units, to))
    }

    fn allotted(&self, amount: MicroUsd, units: Units, to: AccountId) -> Vec<Change> {
        let debits = MicroUsd(self.debits.0.saturating_add(amount.0));
        let counted = self.units.debits.saturating_add(&units);
        let mut changes = vec![Change::Allotted { amount, units, to }];
        changes.extend(self.passed(&self.alert_at, debits, &counted));
        changes
    }

    /// What an account under it was charged is a fact: where there is not as much, this one lacks
    /// it and is frozen.
    fn cover(&self, amount: MicroUsd, units: Units, to: AccountId) -> Result<Vec<Change>, Refusal> {
        sums(amount, &units)?;
        if self.purpose != Purpose::Budget {
            return Err(Refusal::InvalidInput("only a budget account allots"));
        }
        self.fits(amount, &units)?;
        let mut changes = self.allotted(amount, units, to);
        let (there, counted) = self.surplus();
        let overrun = MicroUsd(amount.0.saturating_sub(there.0).max(0));
        let more = units.saturating_sub(&counted);
        if overrun > MicroUsd::ZERO || !more.is_empty() {
            changes.push(Change::Frozen { overrun, units: more });
        }
        Ok(changes)
    }

    fn give_back(
        &self,
        amount: MicroUsd,
        units: Units,
        to: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        sums(amount, &units)?;
        if self.parent.as_ref() != Some(&to) {
            return Err(Refusal::InvalidInput("an account gives back to the one above it"));
        }
        let (there, counted) = self.surplus();
        if amount > there || counted.checked_sub(&units).is_none() {
            // It was read before something else was held.
            return Err(Refusal::Moved);
        }
        Ok(vec![Change::GaveBack { amount, units, to }])
    }

    fn take_back(
        &self,
        amount: MicroUsd,
        units: Units,
        from: AccountId,
    ) -> Result<Vec<Change>, Refusal> {
        sums(amount, &units)?;
        if amount > self.allotted || self.units.allotted.checked_sub(&units).is_none() {
            return Err(Refusal::InvalidInput("more is given back than was allotted"));
        }
        Ok(vec![Change::Returned { amount, units, from }])
    }

    /// The shares that are passed once so much is used up, of those that were not before.
    fn passed(&self, alert_at: &BTreeSet<u8>, debits: MicroUsd, units: &Units) -> Vec<Change> {
        let money = (Measure::Money, self.credits.0.unsigned_abs(), debits.0.unsigned_abs());
        let counted =
            self.units.bounds.iter().map(|unit| {
                (Measure::Unit(*unit), self.units.credits.get(*unit), units.get(*unit))
            });
        let mut changes = Vec::new();
        for (measure, funded, used) in std::iter::once(money).chain(counted) {
            for percent in alert_at {
                let alert = Alert { measure, percent: *percent };
                let before = self.alerts.iter().any(|passed| passed.alert == alert);
                if !before && alert.passed(used, funded) {
                    let Alert { measure, percent } = alert;
                    changes.push(Change::Alerted { measure, percent, used, funded });
                }
            }
        }
        changes
    }
}

impl Alert {
    /// Whether this share of `funded` is used up.
    pub(super) fn passed(&self, used: u64, funded: u64) -> bool {
        let share = u128::from(funded) * u128::from(self.percent);
        funded > 0 && u128::from(used) * 100 >= share
    }
}

fn in_range(money: MicroUsd, units: &Units) -> Result<(), Refusal> {
    let fits = money.0 >= 0 && units.iter().all(|(_, n)| n <= limits::UNITS_SUM_MAX);
    if fits { Ok(()) } else { Err(Refusal::Overflow) }
}

fn clamp(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}
