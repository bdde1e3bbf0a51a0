//! Money between two logs: whoever carries it dies at any point, comes back, or is two at once, and
//! it is never twice and never nowhere.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use kernel::account::{self, Account};
use kernel::action::FailureCode;
use kernel::failure::Category;
use kernel::ids::{AccountId, PrincipalId, TransferId, WorkspaceId};
use kernel::machine::{self, Applied, Command, Input, Kind, Refusal, State, Stream};
use kernel::plan;
use kernel::transfer::{Status, Terms, Transfer};
use kernel::units::{Unit, Units};
use kernel::values::{MicroUsd, Shared, Timestamp};
use proptest::prelude::*;

/// One log.
#[derive(Clone, Default)]
struct Log {
    states: BTreeMap<Stream, State>,
    commits: u64,
}

impl Log {
    /// All of it or nothing.
    fn commit(&mut self, batch: Vec<Command>) -> Result<(), Refusal> {
        let mut states = self.states.clone();
        let time = Timestamp(i64::try_from(self.commits).unwrap());
        for Command { stream, input } in batch {
            let mut state = states.remove(&stream);
            for change in machine::step(state.as_ref(), input, time)? {
                let applied = Applied { id: &stream.id, index: self.commits, time };
                machine::apply(&mut state, &change, &applied);
            }
            states.extend(state.map(|state| (stream, state)));
        }
        self.states = states;
        self.commits += 1;
        Ok(())
    }

    fn account(&self, id: &str) -> Option<&Account> {
        match self.states.get(&Stream::new(Kind::Account, id)) {
            Some(State::Account(account)) => Some(account),
            _ => None,
        }
    }

    fn transfer(&self, id: &TransferId) -> Option<&Transfer> {
        match self.states.get(&Stream::new(Kind::Transfer, id.as_str())) {
            Some(State::Transfer(transfer)) => Some(transfer),
            _ => None,
        }
    }

    fn close(&mut self, id: &str) {
        let input = Input::Account(account::Input::Close {});
        // It may be closed, or not be there.
        let _refused = self.commit(vec![Command::new(Kind::Account, id, input)]);
    }

    /// What an account can spend, and its units.
    fn has(&self, id: &str) -> (i64, u64) {
        let account = self.account(id);
        account.map_or((0, 0), |account| {
            (account.available().0, account.units.available().get(Unit::Calls))
        })
    }

    /// Double entry: all accounts together have nothing.
    fn is_even(&self) -> bool {
        let accounts = self.states.values().filter_map(|state| match state {
            State::Account(account) => Some(account.balance().0),
            _ => None,
        });
        accounts.sum::<i64>() == 0
    }
}

/// Both logs.
#[derive(Clone, Default)]
struct World {
    here: Log,
    there: Log,
}

fn account(id: &str) -> AccountId {
    AccountId::new(id).unwrap()
}

fn terms(amount: i64, calls: u64) -> Shared<Terms> {
    let workspace = |id: &str| WorkspaceId::new(id).unwrap();
    let terms = Terms {
        from: workspace("main"),
        payer: account("company"),
        to: workspace("desk"),
        receiver: account("team"),
        amount: MicroUsd(amount),
        units: Units::of(Unit::Calls, calls),
        by: PrincipalId::new("u_1").unwrap(),
    };
    terms.into()
}

fn failure() -> FailureCode {
    FailureCode { code: "account_closed".to_owned(), category: Category::Budget }
}

/// A step of whoever carries transfers, as the server takes it: by what it read a while ago.
#[derive(Clone, Copy, Debug)]
enum Step {
    Receive,
    Refuse,
    Follow,
}

impl World {
    fn new(open: bool) -> Self {
        let mut world = Self::default();
        world.here.commit(plan::open_account(&account("company"))).unwrap();
        let calls = Units::of(Unit::Calls, 100);
        world.here.commit(plan::fund_units(&account("company"), MicroUsd(1_000), &calls)).unwrap();
        if open {
            world.there.commit(plan::open_account(&account("team"))).unwrap();
        }
        world
    }

    /// Takes a step. What is refused changes nothing.
    fn step(&mut self, id: &TransferId, step: Step) {
        let Some(transfer) = self.here.transfer(id).cloned() else { return };
        let terms = &transfer.terms;
        let _refused = match step {
            Step::Receive => self.there.commit(plan::transfer::receive(id, terms).unwrap()),
            // Only after it was not taken.
            Step::Refuse => {
                let tried = self.there.clone().commit(plan::transfer::receive(id, terms).unwrap());
                match tried {
                    Ok(()) => Ok(()),
                    Err(_) => self.there.commit(plan::transfer::refuse(id, terms, failure())),
                }
            }
            Step::Follow => match self.there.transfer(id) {
                Some(Transfer { status: Status::Received, .. }) => {
                    self.here.commit(plan::transfer::arrive(id))
                }
                Some(Transfer { status: Status::Refused, failure, .. }) => {
                    let why = failure.clone().unwrap();
                    self.here.commit(plan::transfer::take_back(id, terms, why).unwrap())
                }
                _ => Ok(()),
            },
        };
    }

    /// What there is of money and calls, on the way or not.
    fn all(&self, ids: &[TransferId]) -> (i64, u64) {
        let (mut money, mut calls) = self.here.has("company");
        let there = self.there.has("team");
        (money, calls) = (money + there.0, calls + there.1);
        for id in ids {
            let Some(left) = self.here.transfer(id) else { continue };
            let arrived = self.there.transfer(id).map(|transfer| transfer.status);
            let on_the_way = left.status == Status::Sent && arrived != Some(Status::Received);
            if on_the_way {
                money += left.terms.amount.0;
                calls += left.terms.units.get(Unit::Calls);
            }
        }
        (money, calls)
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Send(i64, u64),
    /// Of the transfer of that number.
    Step(usize, Step),
    CloseTeam,
}

fn op() -> impl Strategy<Value = Op> {
    let step = prop_oneof![Just(Step::Receive), Just(Step::Refuse), Just(Step::Follow)];
    prop_oneof![
        3 => (0_i64..400, 0_u64..40).prop_map(|(amount, calls)| Op::Send(amount, calls)),
        12 => (0_usize..4, step).prop_map(|(of, step)| Op::Step(of, step)),
        1 => Just(Op::CloseTeam),
    ]
}

proptest! {
    /// Any order of steps, each any number of times: a crash is a step that is taken again later,
    /// and two carriers are steps that come twice.
    #[test]
    fn money_between_logs_is_never_twice_and_never_nowhere(
        open in any::<bool>(),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut world = World::new(open);
        let mut ids = Vec::new();
        for op in ops {
            match op {
                Op::Send(amount, calls) => {
                    let id = TransferId::new(format!("trf_{}", ids.len())).unwrap();
                    let batch = plan::transfer::send(&id, &terms(amount, calls)).unwrap();
                    if world.here.commit(batch).is_ok() {
                        ids.push(id);
                    }
                }
                Op::Step(of, step) => {
                    if let Some(id) = ids.get(of).cloned() {
                        world.step(&id, step);
                    }
                }
                Op::CloseTeam => world.there.close("team"),
            }
            prop_assert_eq!(world.all(&ids), (1_000, 100));
            prop_assert!(world.here.is_even() && world.there.is_even());
        }
        // Whoever comes by at last brings each to its end.
        for id in &ids {
            for step in [Step::Receive, Step::Refuse, Step::Follow] {
                world.step(id, step);
            }
            let left = world.here.transfer(id).unwrap();
            let reached = world.there.transfer(id).unwrap();
            let ends = [(Status::Arrived, Status::Received), (Status::Returned, Status::Refused)];
            prop_assert!(ends.contains(&(left.status, reached.status)));
            prop_assert_eq!(left.due(), None);
        }
        let (company, team) = (world.here.has("company"), world.there.has("team"));
        prop_assert_eq!((company.0 + team.0, company.1 + team.1), (1_000, 100));
    }
}

#[test]
fn a_transfer_is_refused_by_name() {
    let id = TransferId::new("trf_1").unwrap();
    let mut world = World::new(true);
    // Whoever is bounded in a unit cannot send money away from that bound.
    let free = plan::transfer::send(&id, &terms(10, 0)).unwrap();
    assert!(matches!(world.here.commit(free), Err(Refusal::UnitNotAllotted { .. })));
    let much = plan::transfer::send(&id, &terms(1_001, 1)).unwrap();
    assert!(matches!(world.here.commit(much), Err(Refusal::BudgetExceeded { .. })));
    let mut own = Terms::clone(&terms(10, 1));
    own.to = own.from.clone();
    let own = plan::transfer::send(&id, &own.into()).unwrap();
    assert!(matches!(world.here.commit(own), Err(Refusal::InvalidInput(_))));
    let sent = terms(10, 1);
    world.here.commit(plan::transfer::send(&id, &sent).unwrap()).unwrap();
    assert!(matches!(
        world.here.commit(plan::transfer::send(&id, &sent).unwrap()),
        Err(Refusal::Exists)
    ));
    // The receiver is bounded as the payer is.
    world.there.commit(plan::transfer::receive(&id, &sent).unwrap()).unwrap();
    assert_eq!(world.there.has("team"), (10, 1));
    let refuse = plan::transfer::refuse(&id, &sent, failure());
    assert!(matches!(world.there.commit(refuse), Err(Refusal::Exists)));
    world.there.close("team");
    let other = TransferId::new("trf_2").unwrap();
    let late = plan::transfer::receive(&other, &sent).unwrap();
    assert!(matches!(world.there.commit(late), Err(Refusal::AccountClosed { .. })));
}
