//! Circuits open, rest, try once, and close again.

use proptest::prelude::*;

use super::*;

const SETTINGS: Settings = Settings {
    failures: 3,
    ratio_percent: 50,
    ratio_calls: 10,
    window_ms: 6_000,
    open_ms: 1_000,
    open_max_ms: 5_000,
};

fn at(ms: i64) -> Timestamp {
    Timestamp(ms * 1_000)
}

/// A circuit and its clock.
struct Rig {
    circuit: Circuit,
    ms: i64,
}

impl Rig {
    fn new() -> Self {
        Self { circuit: Circuit::new(at(0)), ms: 0 }
    }

    fn enter(&mut self) -> Result<Ticket, u64> {
        self.circuit.enter(&SETTINGS, at(self.ms))
    }

    fn end(&mut self, ticket: Ticket, how: Ended) {
        self.circuit.ended(&SETTINGS, ticket, how, at(self.ms));
    }

    fn call(&mut self, how: Ended) {
        let ticket = self.enter().expect("passes");
        self.end(ticket, how);
    }

    fn position(&self) -> Position {
        self.circuit.position(at(self.ms))
    }
}

fn opened() -> Rig {
    let mut rig = Rig::new();
    for _ in 0..3 {
        rig.call(Ended::Broken);
    }
    assert_eq!(rig.position(), Position::Open);
    rig
}

#[test]
fn so_many_broken_calls_in_a_row_open_it() {
    let mut rig = Rig::new();
    rig.call(Ended::Broken);
    rig.call(Ended::Broken);
    rig.call(Ended::Healthy);
    rig.call(Ended::Broken);
    rig.call(Ended::Broken);
    assert_eq!(rig.position(), Position::Closed, "one answer ends the row");
    rig.call(Ended::Broken);
    assert_eq!(rig.position(), Position::Open);
    assert_eq!(rig.enter(), Err(1_000));
    rig.ms += 400;
    assert_eq!(rig.enter(), Err(600), "the wait is what is left");
    assert_eq!((rig.circuit.opened, rig.circuit.refused), (1, 2));
}

#[test]
fn a_share_of_broken_calls_in_the_window_opens_it() {
    let ends = [Ended::Broken, Ended::Healthy];
    let mut rig = Rig::new();
    for how in ends.iter().cycle().take(9) {
        rig.call(*how);
    }
    assert_eq!(rig.position(), Position::Closed, "too few calls to say");
    rig.call(Ended::Healthy);
    assert_eq!(rig.position(), Position::Closed, "an answer never opens it");
    rig.call(Ended::Broken);
    assert_eq!(rig.position(), Position::Open);

    let mut rig = Rig::new();
    for how in ends.iter().cycle().take(8) {
        rig.call(*how);
    }
    rig.ms += 6_000;
    for how in ends.iter().cycle().take(9) {
        rig.call(*how);
    }
    assert_eq!(rig.position(), Position::Closed, "what is past the window is not counted");
}

#[test]
fn one_probe_decides() {
    let mut rig = opened();
    rig.ms += 1_000;
    assert_eq!(rig.position(), Position::HalfOpen);
    let probe = rig.enter().expect("the probe");
    assert_eq!(rig.enter(), Err(1_000), "one probe, not two");
    assert_eq!(rig.position(), Position::HalfOpen);
    rig.end(probe, Ended::Healthy);
    assert_eq!(rig.position(), Position::Closed);
    rig.call(Ended::Broken);
    rig.call(Ended::Broken);
    assert_eq!(rig.position(), Position::Closed, "it counts from nothing");
}

#[test]
fn a_failed_probe_doubles_the_time_up_to_a_most() {
    let mut rig = opened();
    rig.ms += 1_000;
    for expect in [2_000, 4_000, 5_000, 5_000] {
        rig.call(Ended::Broken);
        assert_eq!(rig.enter(), Err(expect));
        rig.ms += i64::try_from(expect).unwrap();
    }
    rig.call(Ended::Healthy);
    for _ in 0..3 {
        rig.call(Ended::Broken);
    }
    assert_eq!(rig.enter(), Err(1_000), "after it closed, it starts with the first time");
}

#[test]
fn a_probe_that_is_given_up_leaves_its_place() {
    let mut rig = opened();
    rig.ms += 1_000;
    let probe = rig.enter().expect("the probe");
    rig.circuit.dropped(probe, at(rig.ms));
    let next = rig.enter().expect("another probe");
    rig.end(probe, Ended::Broken);
    assert_eq!(rig.position(), Position::HalfOpen, "the first one says nothing any more");
    rig.end(next, Ended::Healthy);
    assert_eq!(rig.position(), Position::Closed);
}

#[test]
fn a_late_end_says_nothing() {
    let mut rig = Rig::new();
    let late = rig.enter().expect("passes");
    for _ in 0..3 {
        rig.call(Ended::Broken);
    }
    rig.end(late, Ended::Healthy);
    assert_eq!(rig.position(), Position::Open);
    rig.ms += 1_000;
    let probe = rig.enter().expect("the probe");
    rig.end(late, Ended::Broken);
    assert_eq!(rig.enter(), Err(1_000), "the probe is still on its way");
    rig.end(probe, Ended::Healthy);
    assert_eq!(rig.position(), Position::Closed);
}

#[test]
fn a_clock_that_runs_back_makes_it_wait_no_longer_than_meant() {
    let mut rig = opened();
    rig.ms -= 3_600_000;
    assert_eq!(rig.enter(), Err(1_000));
    rig.ms += 1_000;
    assert!(rig.enter().is_ok());
}

#[test]
fn keys_are_apart_and_a_pass_counts_when_it_says_so() {
    let breakers = Breakers::new(SETTINGS);
    for _ in 0..5 {
        drop(breakers.enter("acme/servicenow", at(0)).expect("a dropped pass is not counted"));
    }
    for _ in 0..3 {
        breakers.enter("acme/servicenow", at(0)).expect("passes").ended(Ended::Broken);
    }
    let refused = breakers.enter("acme/servicenow", at(0)).expect_err("open");
    assert_eq!((refused.code.as_str(), refused.category), ("circuit_open", Category::Upstream));
    assert!(refused.retryable && refused.retry_after_ms.is_some_and(|ms| ms >= 1_000));
    assert!(!refused.message.contains("acme"), "{}", refused.message);
    breakers.enter("other/servicenow", at(0)).expect("another tenant's").ended(Ended::Healthy);
    let seen = breakers.seen(at(0));
    let seen: Vec<_> = seen.iter().map(|s| (s.key.as_str(), s.position, s.refused)).collect();
    let expect =
        [("acme/servicenow", Position::Open, 1), ("other/servicenow", Position::Closed, 0)];
    assert_eq!(seen, expect);
    breakers.forget("acme/servicenow");
    assert!(breakers.enter("acme/servicenow", at(0)).is_ok());
}

#[test]
fn what_is_kept_is_bounded() {
    let breakers = Breakers::new(SETTINGS);
    for n in 0..limits::CIRCUITS_MAX + 10 {
        let now = at(i64::try_from(n).unwrap());
        breakers.enter(&format!("t/{n}"), now).expect("passes").ended(Ended::Broken);
    }
    assert!(breakers.seen(at(0)).len() <= limits::CIRCUITS_MAX);
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let check = |change: fn(&mut Settings), expect: &str| {
        let mut settings = Settings::default();
        change(&mut settings);
        let error = settings.check().expect_err(expect);
        assert!(error.starts_with(expect), "{error}");
    };
    Settings::default().check().expect("the default is fine");
    SETTINGS.check().expect("those of the tests too");
    check(|s| s.failures = 0, "failures");
    check(|s| s.ratio_percent = 101, "ratio_percent");
    check(|s| s.ratio_calls = 0, "ratio_calls");
    check(|s| s.window_ms = 5, "window_ms");
    check(|s| s.open_ms = 0, "open_ms");
    check(|s| s.open_max_ms = 4_999, "open_max_ms");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Enter,
    End(usize, Ended),
    Drop(usize),
    Wait(i64),
}

fn op() -> impl Strategy<Value = Op> {
    let how = prop_oneof![Just(Ended::Healthy), Just(Ended::Broken)];
    prop_oneof![
        4 => Just(Op::Enter),
        4 => (any::<usize>(), how).prop_map(|(n, how)| Op::End(n, how)),
        1 => any::<usize>().prop_map(Op::Drop),
        2 => (0_i64..3_000).prop_map(Op::Wait),
    ]
}

proptest! {
    /// Whatever calls do: while it is open nothing passes, a probe is alone, the wait is never
    /// longer than the most, and after the wait that it named it lets a call pass.
    #[test]
    fn rules_hold_whatever_calls_do(ops in prop::collection::vec(op(), 1..200)) {
        let mut rig = Rig::new();
        let mut under_way: Vec<Ticket> = Vec::new();
        for op in ops {
            match op {
                Op::Wait(ms) => rig.ms += ms,
                Op::Enter => {
                    let before = rig.position();
                    match rig.enter() {
                        Ok(ticket) => {
                            prop_assert_ne!(before, Position::Open);
                            under_way.push(ticket);
                            if before == Position::HalfOpen {
                                prop_assert!(rig.enter().is_err(), "one probe alone");
                            }
                        }
                        Err(wait) => {
                            prop_assert_ne!(before, Position::Closed);
                            prop_assert!((1..=SETTINGS.open_max_ms).contains(&wait));
                            if before == Position::Open {
                                let mut later = rig.circuit.clone();
                                let then = rig.ms + i64::try_from(wait).unwrap();
                                prop_assert!(later.enter(&SETTINGS, at(then)).is_ok());
                            }
                        }
                    }
                }
                Op::End(n, how) if !under_way.is_empty() => {
                    let ticket = under_way.swap_remove(n % under_way.len());
                    rig.end(ticket, how);
                }
                Op::Drop(n) if !under_way.is_empty() => {
                    let ticket = under_way.swap_remove(n % under_way.len());
                    rig.circuit.dropped(ticket, at(rig.ms));
                }
                Op::End(..) | Op::Drop(_) => {}
            }
        }
        // However it got there, a system that is well again is called again.
        for ticket in under_way {
            rig.circuit.dropped(ticket, at(rig.ms));
        }
        rig.ms += i64::try_from(SETTINGS.open_max_ms).unwrap();
        rig.call(Ended::Healthy);
        prop_assert_eq!(rig.position(), Position::Closed);
    }
}
