//! Budgets under budgets: whatever happens in whatever order, no money and no unit comes from or
//! goes to nowhere, nobody spends beyond what they have, and what is not spent comes back.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use kernel::account::{self, Account, Change, Input, Measure, Opening, Purpose};
use kernel::ids::{AccountId, ActionId};
use kernel::machine::{Applied, Command, Input as Any, Refusal};
use kernel::plan;
use kernel::units::{Unit, Units};
use kernel::values::{MicroUsd, Timestamp};
use proptest::prelude::*;
use proptest::sample::select;

fn id(name: &str) -> AccountId {
    AccountId::new(name).unwrap()
}

fn units(tokens: u64, calls: u64) -> Units {
    Units::of(Unit::Tokens, tokens).with(Unit::Calls, calls)
}

/// The accounts of one log.
#[derive(Clone, Default)]
struct Books {
    accounts: BTreeMap<AccountId, Account>,
    changes: Vec<(AccountId, Change)>,
    commits: u64,
}

impl Books {
    /// All of it or nothing.
    fn commit(&mut self, batch: Vec<Command>) -> Result<Vec<Change>, Refusal> {
        let (mut accounts, mut made) = (self.accounts.clone(), Vec::new());
        for Command { stream, input } in batch {
            let Any::Account(input) = input else { panic!("{input:?}") };
            let id = id(&stream.id);
            let mut state = accounts.remove(&id);
            for change in account::step(state.as_ref(), input)? {
                let (index, time) = (self.commits, Timestamp(1));
                account::apply(&mut state, &change, &Applied { id: &stream.id, index, time });
                made.push((id.clone(), change));
            }
            accounts.extend(state.map(|state| (id, state)));
        }
        self.accounts = accounts;
        self.commits += 1;
        self.changes.extend(made.iter().cloned());
        Ok(made.into_iter().map(|(_, change)| change).collect())
    }

    fn ask(&mut self, of: &str, input: Input) -> Result<Vec<Change>, Refusal> {
        let kind = kernel::machine::Kind::Account;
        self.commit(vec![Command::new(kind, of, Any::Account(input))])
    }

    fn hold(&mut self, of: &str, action: &str, amount: i64, units: Units) -> Result<(), Refusal> {
        let (action, amount) = (ActionId::new(action).unwrap(), MicroUsd(amount));
        self.ask(of, Input::Hold { action, amount, units }).map(drop)
    }

    fn post(&mut self, of: &str, action: &str, amount: i64, units: Units) -> Vec<Change> {
        let (action, to, from) = (ActionId::new(action).unwrap(), id(plan::SPEND_ACCOUNT), id(of));
        let kind = kernel::machine::Kind::Account;
        let amount = MicroUsd(amount);
        let post = Input::Post { action, amount, units, to };
        let mut batch = vec![Command::new(kind, of, Any::Account(post))];
        if amount > MicroUsd::ZERO {
            let ensure = Input::Ensure { purpose: Purpose::Spend };
            let credit = Input::Credit { amount, units: Units::NONE, from };
            for input in [ensure, credit] {
                batch.push(Command::new(kind, plan::SPEND_ACCOUNT, Any::Account(input)));
            }
        }
        self.commit(batch).unwrap()
    }

    fn account(&self, name: &str) -> &Account {
        &self.accounts[&id(name)]
    }

    /// What the queue does: as long as an account is due, it is settled with the one above it.
    fn sweep(&mut self) {
        while let Some(due) = self.accounts.values().find(|account| account.due().is_some()) {
            let batch = plan::give_back(due);
            self.commit(batch).unwrap();
        }
    }

    /// All money and every unit that was ever posted.
    fn posted(&self) -> (i64, Units) {
        let mut sum = (0, Units::NONE);
        for (_, change) in &self.changes {
            if let Change::Posted { amount, units, .. } = change {
                sum = (sum.0 + amount.0, sum.1.checked_add(units).unwrap());
            }
        }
        sum
    }

    fn check(&self) {
        let overrun: BTreeSet<&AccountId> = self
            .changes
            .iter()
            .filter(|(_, change)| matches!(change, Change::Frozen { .. }))
            .map(|(id, _)| id)
            .collect();
        let (mut money, mut counted) = (0, BTreeMap::<Unit, i128>::new());
        for account in self.accounts.values() {
            money += account.credits.0 - account.debits.0;
            for unit in Unit::ALL {
                let books = &account.units;
                *counted.entry(unit).or_default() +=
                    i128::from(books.credits.get(unit)) - i128::from(books.debits.get(unit));
            }
            let held: i64 = account.holds.values().map(|hold| hold.amount.0).sum();
            assert_eq!(held, account.held.0);
            let budget = account.purpose == Purpose::Budget && !overrun.contains(&account.id);
            if budget {
                let used = account.debits.0 + account.held.0;
                assert!(used <= account.credits.0, "overspent: {account:?}");
                for unit in &account.units.bounds {
                    let books = &account.units;
                    let used = books.debits.get(*unit) + books.held.get(*unit);
                    assert!(used <= books.credits.get(*unit), "overspent: {account:?}");
                }
            }
            self.check_children(account);
        }
        assert_eq!(money, 0, "money came from or went to nowhere");
        let (_, posted) = self.posted();
        for unit in Unit::ALL {
            assert_eq!(counted[&unit], -i128::from(posted.get(unit)), "{unit}");
        }
    }

    /// What an account allots is what those under it have.
    fn check_children(&self, account: &Account) {
        let under = self.accounts.values().filter(|a| a.parent.as_ref() == Some(&account.id));
        let (mut money, mut counted) = (0, Units::NONE);
        for child in under {
            money += child.credits.0;
            counted = counted.checked_add(&child.units.credits).unwrap();
            assert!(account.units.bounds.is_subset(&child.units.bounds), "{child:?} escapes");
            assert!(child.level > account.level);
        }
        assert_eq!((money, counted), (account.allotted.0, account.units.allotted));
    }
}

/// A budget of 1,000 micro-USD, 100 tokens and 10 calls.
fn books() -> Books {
    let mut books = Books::default();
    books.commit(plan::open_account(&id("top"))).unwrap();
    books.commit(plan::fund_units(&id("top"), MicroUsd(1_000), &units(100, 10))).unwrap();
    books
}

#[test]
fn a_refusal_says_which_budget_and_what_remains() {
    let mut books = books();
    let too_much = |measure, available, needed| Refusal::BudgetExceeded {
        account: id("top"),
        measure,
        available,
        needed,
    };
    let money = books.hold("top", "a", 1_001, Units::NONE).unwrap_err();
    assert_eq!(money, too_much(Measure::Money, 1_000, 1_001));
    assert_eq!(money.to_string(), "account `top` has 1000 micro-USD left, 1001 are needed");
    books.hold("top", "a", 1, units(60, 1)).unwrap();
    let tokens = books.hold("top", "b", 1, units(41, 1)).unwrap_err();
    assert_eq!(tokens, too_much(Measure::Unit(Unit::Tokens), 40, 41));
    assert_eq!(tokens.to_string(), "account `top` has 40 tokens left, 41 are needed");
    // Writes were never funded: they are not bounded here, and not counted either.
    books.hold("top", "b", 0, Units::of(Unit::Writes, 1_000_000)).unwrap();
    assert!(!books.account("top").holds.contains_key(&ActionId::new("b").unwrap()));
    books.hold("top", "c", 0, Units::of(Unit::Calls, 9)).unwrap();
    let calls = books.hold("top", "d", 0, Units::of(Unit::Calls, 1)).unwrap_err();
    assert_eq!(calls, too_much(Measure::Unit(Unit::Calls), 0, 1));
    books.check();
}

#[test]
fn what_was_held_before_a_unit_was_bounded_does_not_freeze_it() {
    let mut books = Books::default();
    books.commit(plan::open_account(&id("top"))).unwrap();
    books.commit(plan::fund(&id("top"), MicroUsd(10))).unwrap();
    books.hold("top", "a", 5, units(50, 1)).unwrap();
    books.commit(plan::fund_units(&id("top"), MicroUsd::ZERO, &units(20, 0))).unwrap();
    books.post("top", "a", 5, units(50, 1));
    let top = books.account("top");
    assert!(!top.frozen);
    assert_eq!((top.spent(), top.units.available()), (MicroUsd(5), units(20, 0)));
    books.check();
}

#[test]
fn an_overrun_is_recorded_freezes_and_is_made_good_from_above() {
    let mut books = books();
    let run = id("run_1");
    books.commit(plan::allot(&id("top"), &run, MicroUsd(100), &units(50, 5))).unwrap();
    books.hold("run_1", "a", 100, units(50, 1)).unwrap();
    let changes = books.post("run_1", "a", 130, units(70, 1));
    let frozen = Change::Frozen { overrun: MicroUsd(30), units: units(20, 0) };
    assert_eq!(changes.iter().filter(|change| **change == frozen).count(), 1, "{changes:?}");
    let after = books.hold("run_1", "b", 1, Units::NONE);
    assert_eq!(after, Err(Refusal::AccountFrozen { account: run.clone() }));
    let batch = plan::give_back(books.account("run_1"));
    books.commit(batch).unwrap();
    let (run, top) = (books.account("run_1"), books.account("top"));
    assert_eq!((run.available(), run.due()), (MicroUsd::ZERO, None));
    assert_eq!((top.available(), top.units.available()), (MicroUsd(870), units(30, 9)));
    assert!(!top.frozen, "there was enough");
    books.check();
}

#[test]
fn what_a_closed_account_still_holds_comes_back_once_it_is_settled() {
    let mut books = books();
    let run = id("run_1");
    books.commit(plan::allot(&id("top"), &run, MicroUsd(100), &units(50, 5))).unwrap();
    books.hold("run_1", "a", 60, units(50, 1)).unwrap();
    let batch = plan::give_back(books.account("run_1"));
    books.commit(batch).unwrap();
    assert_eq!(books.account("top").available(), MicroUsd(940));
    assert_eq!(books.account("run_1").due(), None, "nothing to give back yet");
    let late = books.hold("run_1", "b", 1, Units::NONE);
    assert_eq!(late, Err(Refusal::AccountClosed { account: run }));
    books.post("run_1", "a", 20, units(10, 1));
    assert!(books.account("run_1").due().is_some());
    books.sweep();
    let top = books.account("top");
    assert_eq!((top.available(), top.units.available()), (MicroUsd(980), units(90, 9)));
    books.check();
}

#[test]
fn nobody_below_escapes_what_is_bounded_above() {
    let mut books = books();
    let money = plan::allot(&id("top"), &id("run_1"), MicroUsd(10), &Units::NONE);
    let refused = books.commit(money).unwrap_err();
    assert_eq!(refused, Refusal::UnitNotAllotted { account: id("top"), unit: Unit::Tokens });
    let unit =
        plan::allot(&id("top"), &id("run_1"), MicroUsd(10), &units(1, 1).with(Unit::CpuMs, 1));
    assert!(matches!(books.commit(unit), Err(Refusal::BudgetExceeded { .. })));
    // One that is opened first bounds what the one above it bounds, with nothing in it.
    let opening = plan::under(books.account("top"));
    books.commit(plan::open_with(&id("team"), opening)).unwrap();
    assert!(books.hold("team", "a", 0, units(1, 0)).is_err());
    let batch = plan::allot_more(books.account("team"), MicroUsd(10), &units(5, 0));
    books.commit(batch).unwrap();
    books.hold("team", "a", 10, units(5, 0)).unwrap();
    // Nobody else puts money into it: it could not go back there.
    assert!(books.commit(plan::fund(&id("team"), MicroUsd(1))).is_err());
    books.check();
}

#[test]
fn accounts_lie_so_deep_and_no_deeper() {
    let mut books = books();
    let mut above = "top".to_owned();
    for level in 1..kernel::limits::ACCOUNT_LEVELS_MAX {
        let name = format!("level-{level}");
        let opening = plan::under(books.account(&above));
        books.commit(plan::open_with(&id(&name), opening)).unwrap();
        above = name;
    }
    let opening = plan::under(books.account(&above));
    let deeper = books.commit(plan::open_with(&id("deeper"), opening));
    assert_eq!(deeper, Err(Refusal::AccountsTooDeep));
    let run = plan::allot(&id(&above), &id("run_1"), MicroUsd::ZERO, &units(1, 1));
    assert_eq!(books.commit(run), Err(Refusal::AccountsTooDeep));
}

#[test]
fn each_share_is_told_once_until_there_is_more() {
    let mut books = books();
    books.commit(plan::watch(&id("top"), [50, 100].into())).unwrap();
    let told = |changes: Vec<Change>| -> Vec<(Measure, u8, u64, u64)> {
        let told = changes.into_iter().filter_map(|change| match change {
            Change::Alerted { measure, percent, used, funded } => {
                Some((measure, percent, used, funded))
            }
            _ => None,
        });
        told.collect()
    };
    let spend = |books: &mut Books, amount| {
        books.hold("top", "a", amount, Units::NONE).unwrap();
        told(books.post("top", "a", amount, Units::NONE))
    };
    assert_eq!(spend(&mut books, 499), []);
    assert_eq!(spend(&mut books, 1), [(Measure::Money, 50, 500, 1_000)]);
    assert_eq!(spend(&mut books, 100), []);
    assert_eq!(spend(&mut books, 400), [(Measure::Money, 100, 1_000, 1_000)]);
    assert_eq!(books.account("top").alerts.len(), 2);
    books.commit(plan::fund(&id("top"), MicroUsd(1_000))).unwrap();
    let left: Vec<u8> =
        books.account("top").alerts.iter().map(|passed| passed.alert.percent).collect();
    assert_eq!(left, [50], "half of it is used up still");
    assert_eq!(spend(&mut books, 1_000), [(Measure::Money, 100, 2_000, 2_000)]);
    // Units have their own, and whoever asks late is told at once.
    let late = books.commit(plan::watch(&id("top"), [1].into())).unwrap();
    assert_eq!(told(late), [(Measure::Money, 1, 2_000, 2_000)]);
    books.hold("top", "b", 0, units(1, 0)).unwrap();
    let tokens = told(books.post("top", "b", 0, units(1, 0)));
    assert_eq!(tokens, [(Measure::Unit(Unit::Tokens), 1, 1, 100)]);
    for wrong in [[0].into(), [101].into(), (1..=5).collect::<BTreeSet<u8>>()] {
        assert!(books.commit(plan::watch(&id("top"), wrong)).is_err());
    }
}

/// One thing that happens; numbers pick among the accounts or holds that there are.
#[derive(Clone, Debug)]
enum Op {
    Fund { amount: i64, tokens: u64 },
    Under { above: usize },
    Allot { which: usize, amount: i64, units: Units },
    Run { above: usize, amount: i64, units: Units },
    Hold { which: usize, amount: i64, units: Units },
    Post { which: usize, amount: i64, units: Units },
    Close { which: usize },
    Thaw { which: usize },
    Watch { which: usize, percent: u8 },
    Sweep,
}

fn op() -> impl Strategy<Value = Op> {
    let which = any::<usize>;
    let some = || (0..60u64, 0..4u64).prop_map(|(tokens, calls)| units(tokens, calls));
    prop_oneof![
        2 => (0..500i64, select(vec![0, 0, 100]))
            .prop_map(|(amount, tokens)| Op::Fund { amount, tokens }),
        2 => which().prop_map(|above| Op::Under { above }),
        5 => (which(), 0..300i64, some())
            .prop_map(|(which, amount, units)| Op::Allot { which, amount, units }),
        4 => (which(), 0..300i64, some())
            .prop_map(|(above, amount, units)| Op::Run { above, amount, units }),
        9 => (which(), 0..120i64, some())
            .prop_map(|(which, amount, units)| Op::Hold { which, amount, units }),
        8 => (which(), 0..140i64, some())
            .prop_map(|(which, amount, units)| Op::Post { which, amount, units }),
        2 => which().prop_map(|which| Op::Close { which }),
        1 => which().prop_map(|which| Op::Thaw { which }),
        1 => (which(), 1..=100u8).prop_map(|(which, percent)| Op::Watch { which, percent }),
        2 => Just(Op::Sweep),
    ]
}

impl Books {
    fn pick(&self, which: usize) -> Account {
        let budgets = self.accounts.values().filter(|a| a.purpose == Purpose::Budget);
        let budgets: Vec<_> = budgets.collect();
        budgets[which % budgets.len()].clone()
    }

    fn happen(&mut self, op: Op) -> Result<(), Refusal> {
        let commits = self.commits;
        match op {
            Op::Fund { amount, tokens } => {
                let batch = plan::fund_units(&id("top"), MicroUsd(amount), &units(tokens, 0));
                self.commit(batch)?;
            }
            Op::Under { above } => {
                let opening = plan::under(&self.pick(above));
                self.commit(plan::open_with(&id(&format!("acc-{commits}")), opening))?;
            }
            Op::Allot { which, amount, units } => {
                self.commit(plan::allot_more(&self.pick(which), MicroUsd(amount), &units))?;
            }
            Op::Run { above, amount, units } => {
                let (from, to) = (self.pick(above).id, id(&format!("run_{commits}")));
                self.commit(plan::allot(&from, &to, MicroUsd(amount), &units))?;
            }
            Op::Hold { which, amount, units } => {
                let account = self.pick(which);
                self.hold(account.id.as_str(), &format!("act-{commits}"), amount, units)?;
            }
            Op::Post { which, amount, units } => {
                let holds = self.accounts.values().flat_map(|account| {
                    account.holds.keys().map(|action| (account.id.clone(), action.clone()))
                });
                let holds: Vec<_> = holds.collect();
                if let Some((account, action)) = holds.get(which % holds.len().max(1)) {
                    self.post(account.as_str(), action.as_str(), amount, units);
                }
            }
            Op::Close { which } => {
                let account = self.pick(which);
                if account.parent.is_some() {
                    self.commit(plan::give_back(&account))?;
                }
            }
            Op::Thaw { which } => {
                self.commit(plan::thaw(&self.pick(which).id))?;
            }
            Op::Watch { which, percent } => {
                self.commit(plan::watch(&self.pick(which).id, [percent].into()))?;
            }
            Op::Sweep => self.sweep(),
        }
        Ok(())
    }

    /// Ends everything: whatever was not spent is at the top again.
    fn end(&mut self) {
        let holds: Vec<_> = self
            .accounts
            .values()
            .flat_map(|a| a.holds.keys().map(|action| (a.id.clone(), action.clone())))
            .collect();
        for (account, action) in holds {
            self.post(account.as_str(), action.as_str(), 0, Units::NONE);
        }
        let under: Vec<Account> =
            self.accounts.values().filter(|a| a.parent.is_some() && !a.closed).cloned().collect();
        for account in under {
            self.commit(plan::give_back(&account)).unwrap();
        }
        self.sweep();
        self.check();
        let (funded, top) = (self.account(plan::FUNDING_ACCOUNT).debits.0, self.account("top"));
        assert_eq!(top.available().0, funded - self.posted().0, "{top:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_lost_or_spent_twice(ops in prop::collection::vec(op(), 1..80)) {
        let mut books = books();
        for op in ops {
            let before = books.clone();
            if books.happen(op).is_err() {
                prop_assert_eq!(&before.accounts, &books.accounts, "refused, and yet changed");
            }
            books.check();
        }
        books.end();
    }
}

#[test]
fn an_opening_says_no_more_than_there_is() {
    let text = serde_json::to_string(&Change::Opened(Opening::of(Purpose::Budget))).unwrap();
    assert_eq!(text, r#"{"type":"account.opened","purpose":"budget"}"#);
    assert_eq!(
        serde_json::from_str::<Change>(&text).unwrap(),
        Change::Opened(Opening::of(Purpose::Budget))
    );
    for (measure, name) in
        [(Measure::Money, "\"money\""), (Measure::Unit(Unit::CpuMs), "\"cpu_ms\"")]
    {
        assert_eq!(serde_json::to_string(&measure).unwrap(), name);
        assert_eq!(serde_json::from_str::<Measure>(name).unwrap(), measure);
    }
}
