//! Bounds on how much happens in any span: they hold whatever comes, in whatever order, and
//! nobody waits for ever.
#![expect(clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use std::collections::BTreeMap;

use kernel::cap::Window;
use kernel::values::Timestamp;
use proptest::prelude::*;

const SPAN: i64 = 60_000_000;

fn at(ms: i64) -> Timestamp {
    Timestamp(ms * 1_000)
}

/// Who is not known asks, and comes back when told to; what is let in happens a little later.
struct Story {
    window: Window,
    happened: Vec<Timestamp>,
}

impl Story {
    fn new(limit: u32) -> Self {
        Self { window: Window::new(limit, SPAN), happened: Vec::new() }
    }

    /// Asks for a place, as the server does.
    fn ask(&mut self, who: &str, now: Timestamp) -> Result<(), Timestamp> {
        let wait = match self.window.given(who) {
            Some(given) if given > now => return Err(given),
            Some(_) if self.window.has_room(now) => None,
            Some(_) => Some(self.window.again(who, now)),
            None => Some(self.window.earliest(now)).filter(|at| *at > now),
        };
        match wait {
            None => {
                self.window.take_back(who);
                self.window.enter();
                Ok(())
            }
            Some(at) => {
                assert!(at > now);
                self.window.give(who, at);
                Err(at)
            }
        }
    }

    fn happens(&mut self, now: Timestamp) {
        self.window.took(now);
        self.happened.push(now);
    }

    #[track_caller]
    fn holds(&self, limit: usize) {
        for pair in self.happened.windows(limit + 1) {
            let (first, last) = (pair[0].0, pair[limit].0);
            assert!(last - first >= SPAN, "{} in less than a minute: {pair:?}", limit + 1);
        }
    }
}

#[test]
fn so_many_and_no_more_in_a_minute() {
    let mut story = Story::new(3);
    for ms in [0, 10, 20] {
        story.ask(&format!("w{ms}"), at(ms)).unwrap();
        story.happens(at(ms));
    }
    assert_eq!(story.ask("a", at(30)), Err(at(60_000)));
    assert_eq!(story.ask("b", at(30)), Err(at(60_010)), "behind the first");
    assert_eq!(story.ask("a", at(40)), Err(at(60_000)), "who comes early is told the same");
    assert_eq!(story.ask("new", at(60_005)), Err(at(60_020)), "nobody overtakes");
    assert_eq!(story.ask("a", at(60_005)), Ok(()));
    story.happens(at(60_006));
    assert_eq!(story.ask("b", at(60_010)), Ok(()));
    story.happens(at(60_010));
    story.holds(3);
}

#[test]
fn what_comes_to_nothing_leaves_its_place_and_what_is_about_to_happen_counts() {
    let mut story = Story::new(1);
    story.ask("a", at(0)).unwrap();
    assert!(!story.window.has_room(at(0)));
    assert!(!story.window.has_room(at(120_000)), "it may still happen");
    story.window.leave();
    assert!(story.window.has_room(at(120_000)));
    assert!(story.window.is_idle(at(120_000)));
}

#[test]
fn what_the_log_says_counts_and_a_clock_that_runs_back_gives_nothing() {
    let mut window = Window::new(2, SPAN);
    window.happened(at(50_000));
    window.happened(at(10_000));
    assert!(!window.has_room(at(69_999)));
    assert_eq!(window.earliest(at(60_000)), at(70_000));
    assert!(window.has_room(at(70_000)));
    window.happened(at(71_000));
    assert!(!window.has_room(at(0)), "what is yet to come by this clock counts");
}

#[test]
fn another_bound_holds_of_what_happened_before_it() {
    let mut window = Window::new(3, SPAN);
    for ms in [0, 10, 20] {
        window.happened(at(ms));
    }
    window.bound_by(4);
    assert!(window.has_room(at(30)));
    window.bound_by(1);
    assert!(!window.has_room(at(60_019)) && window.has_room(at(60_020)));
    window.bound_by(0);
    assert!(window.has_room(at(60_020)), "it stops nothing for ever");
}

#[test]
fn a_time_that_nobody_comes_for_is_given_to_others() {
    let mut story = Story::new(1);
    story.ask("a", at(0)).unwrap();
    story.happens(at(0));
    assert_eq!(story.ask("gone", at(1)), Err(at(60_000)));
    assert_eq!(story.ask("next", at(2)), Err(at(120_000)));
    assert_eq!(story.ask("late", at(71_000)), Err(at(180_000)));
    assert_eq!(story.window.given("gone"), None);
    assert_eq!(story.ask("next", at(120_000)), Ok(()));
}

#[test]
fn a_crowd_gets_through_at_the_rate_of_the_bound_and_asks_little() {
    let (limit, crowd) = (30_u32, 300_usize);
    let mut story = Story::new(limit);
    let mut due: BTreeMap<(Timestamp, usize), String> =
        (0..crowd).map(|n| ((at(0), n), format!("w{n}"))).collect();
    let mut asked = 0;
    while let Some(((now, n), who)) = due.pop_first() {
        asked += 1;
        match story.ask(&who, now) {
            // The commit takes a moment.
            Ok(()) => story.happens(now.plus_millis(i64::try_from(n % 7).unwrap())),
            Err(then) => {
                due.insert((then, n), who);
            }
        }
        story.happened.sort_unstable();
    }
    assert_eq!(story.happened.len(), crowd);
    story.holds(30);
    let last = story.happened.last().unwrap().0;
    assert!(last < 10 * SPAN, "{crowd} took {last} µs");
    assert!(asked < crowd * 4, "{crowd} asked {asked} times");
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Ask(u8),
    Happens,
    Nothing,
    Wait(i64),
    Restart,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0_u8..20).prop_map(Op::Ask),
        4 => Just(Op::Happens),
        1 => Just(Op::Nothing),
        4 => (0_i64..30_000).prop_map(Op::Wait),
        1 => Just(Op::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Whatever asks, happens, comes to nothing, and however often the server starts anew: never
    /// more than the bound in any minute of the log.
    #[test]
    fn the_bound_holds_whatever_happens(
        limit in 1_u32..6,
        ops in prop::collection::vec(op(), 1..250),
    ) {
        let mut story = Story::new(limit);
        let (mut now, mut pending) = (at(0), 0_usize);
        for op in ops {
            match op {
                Op::Wait(ms) => now = now.plus_millis(ms),
                Op::Ask(who) => pending += usize::from(story.ask(&format!("w{who}"), now).is_ok()),
                Op::Happens if pending > 0 => {
                    pending -= 1;
                    story.happens(now);
                }
                Op::Nothing if pending > 0 => {
                    pending -= 1;
                    story.window.leave();
                }
                Op::Restart => {
                    // What was about to happen does not: another epoch refuses it.
                    pending = 0;
                    story.window = Window::new(limit, SPAN);
                    for at in story.happened.iter().filter(|at| at.0 > now.0 - SPAN) {
                        story.window.happened(*at);
                    }
                }
                Op::Happens | Op::Nothing => {}
            }
        }
        story.holds(usize::try_from(limit).unwrap());
    }
}
