//! What the changes of an account fold to.

use std::collections::BTreeMap;

use super::{Account, Alert, Change, Hold, Measure, Opening, Passed, Purpose, UnitBooks};
use crate::ids::{AccountId, ActionId};
use crate::machine::Applied;
use crate::units::Units;
use crate::values::MicroUsd;

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<Account>, change: &Change, applied: &Applied<'_>) {
    if let (None, Change::Opened(opening)) = (&state, change) {
        let Ok(id) = AccountId::new(applied.id) else { return };
        *state = Some(Account::opened(id, opening, applied));
    }
    let Some(account) = state else { return };
    account.updated_at = applied.time;
    account.last_receipt = applied.index;
    account.fold(change);
}

fn add(to: &mut MicroUsd, amount: MicroUsd) {
    to.0 = to.0.saturating_add(amount.0);
}

fn take(from: &mut MicroUsd, amount: MicroUsd) {
    from.0 = from.0.saturating_sub(amount.0);
}

fn count(to: &mut Units, units: &Units) {
    *to = to.saturating_add(units);
}

fn uncount(from: &mut Units, units: &Units) {
    *from = from.saturating_sub(units);
}

impl Account {
    fn opened(id: AccountId, opening: &Opening, applied: &Applied<'_>) -> Self {
        Self {
            id,
            purpose: opening.purpose,
            parent: opening.parent.clone(),
            level: opening.level,
            credits: MicroUsd::ZERO,
            debits: MicroUsd::ZERO,
            allotted: MicroUsd::ZERO,
            held: MicroUsd::ZERO,
            units: UnitBooks { bounds: opening.bounds.clone(), ..UnitBooks::default() },
            holds: BTreeMap::new(),
            alert_at: opening.alert_at.clone(),
            alerts: Vec::new(),
            frozen: false,
            closed: false,
            updated_at: applied.time,
            last_receipt: applied.index,
        }
    }

    fn fold(&mut self, change: &Change) {
        match change {
            Change::Opened(_) => {}
            Change::Credited { amount, units, .. } => {
                add(&mut self.credits, *amount);
                count(&mut self.units.credits, units);
                if self.purpose == Purpose::Budget {
                    self.units.bounds.extend(units.iter().map(|(unit, _)| unit));
                }
                self.rearm();
            }
            Change::Debited { amount, units, .. } => {
                add(&mut self.debits, *amount);
                count(&mut self.units.debits, units);
            }
            Change::Allotted { amount, units, .. } => {
                add(&mut self.debits, *amount);
                add(&mut self.allotted, *amount);
                count(&mut self.units.debits, units);
                count(&mut self.units.allotted, units);
            }
            Change::Returned { amount, units, .. } => {
                take(&mut self.debits, *amount);
                take(&mut self.allotted, *amount);
                uncount(&mut self.units.debits, units);
                uncount(&mut self.units.allotted, units);
            }
            Change::GaveBack { amount, units, .. } => {
                take(&mut self.credits, *amount);
                uncount(&mut self.units.credits, units);
            }
            Change::Held { action, amount, units } => {
                let bounds = self.units.bounds.clone();
                self.holds.insert(action.clone(), Hold { amount: *amount, units: *units, bounds });
                add(&mut self.held, *amount);
                count(&mut self.units.held, units);
            }
            Change::Posted { action, amount, units, .. } => {
                self.release(action);
                add(&mut self.debits, *amount);
                count(&mut self.units.debits, units);
            }
            Change::Voided { action, .. } => self.release(action),
            Change::Alerted { measure, percent, .. } => {
                let alert = Alert { measure: *measure, percent: *percent };
                self.alerts.push(Passed { alert, at: self.updated_at, receipt: self.last_receipt });
            }
            Change::Watched { alert_at } => {
                self.alerts.retain(|passed| alert_at.contains(&passed.alert.percent));
                self.alert_at = alert_at.clone();
            }
            Change::Frozen { .. } => self.frozen = true,
            Change::Thawed {} => self.frozen = false,
            Change::Closed {} => self.closed = true,
        }
    }

    fn release(&mut self, action: &ActionId) {
        if let Some(hold) = self.holds.remove(action) {
            take(&mut self.held, hold.amount);
            uncount(&mut self.units.held, &hold.units);
        }
    }

    /// Forgets the shares that are not passed any more, now that there is more of it.
    fn rearm(&mut self) {
        let Self { credits, debits, units, .. } = &*self;
        let (credits, debits) = (credits.0.unsigned_abs(), debits.0.unsigned_abs());
        let (funded, used) = (units.credits, units.debits);
        self.alerts.retain(|Passed { alert, .. }| match alert.measure {
            Measure::Money => alert.passed(debits, credits),
            Measure::Unit(unit) => alert.passed(used.get(unit), funded.get(unit)),
        });
    }
}
