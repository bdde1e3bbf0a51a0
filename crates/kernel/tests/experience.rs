//! What is learnt from a log: live and read back it is the same, and it is bounded.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::action::{self, Action, Attempt, Change, FailureCode, Outcome, Request, Status};
use kernel::experience::{Estimator, Experience};
use kernel::failure::Category;
use kernel::ids::{ActionId, EnvironmentId, PrincipalId, ToolId};
use kernel::limits;
use kernel::machine::{self, Applied, Kind, Stream};
use kernel::principal::{ActorChain, PrincipalKind};
use kernel::receipt::{Body, LogId, Position, Statement, Transition};
use kernel::recovery::Strategy;
use kernel::risk::Risk;
use kernel::simulate::{Divergence, Spread};
use kernel::units::Units;
use kernel::values::{Digest, MicroUsd, Shared, Timestamp};
use proptest::prelude::*;

const MS: i64 = 1_000;
const DAY: i64 = 24 * 3_600 * 1_000_000;

fn tool(id: &str) -> ToolId {
    ToolId::new(id).unwrap()
}

fn dev() -> EnvironmentId {
    EnvironmentId::new("dev").unwrap()
}

fn request(tool_id: &str, agent: &str) -> Shared<Request> {
    let json = serde_json::json!({
        "tool": tool_id, "tool_digest": Digest::of(b""), "environment": "dev",
        "actors": ActorChain::direct(PrincipalId::new(agent).unwrap(), PrincipalKind::Agent),
        "action_digest": Digest::of(b""), "plan_digest": Digest::of(b""),
        "risk": Risk::assess(&[].into(), "dev", &[].into()), "estimate": 100, "idempotent": true,
        "timeout_ms": 1_000,
    });
    serde_json::from_value(json).unwrap()
}

fn outcome(status: Status, cost: i64, failure: Option<(&str, Category)>) -> Outcome {
    let failure = failure.map(|(code, category)| FailureCode { code: code.to_owned(), category });
    let json = serde_json::json!({
        "status": status, "output_bytes": 0, "cost": cost, "failure": failure,
    });
    serde_json::from_value(json).unwrap()
}

/// A log of actions, with what is learnt of it as it grows.
struct World {
    statements: Vec<Statement>,
    actions: Vec<Action>,
    live: Experience,
    now: Timestamp,
}

impl World {
    fn new() -> Self {
        let live = Experience::default();
        Self { statements: Vec::new(), actions: Vec::new(), live, now: Timestamp(1_000_000) }
    }

    /// Commits changes of one action, `later` microseconds after the commit before.
    fn commit(&mut self, id: usize, changes: Vec<Change>, later: i64) {
        self.now = self.now.plus_micros(later);
        let index = u64::try_from(self.statements.len()).unwrap();
        let name = format!("act_{id}");
        let mut state = self.actions.get(id).cloned();
        for change in &changes {
            action::apply(&mut state, change, &Applied { id: &name, index, time: self.now });
        }
        let state = state.unwrap();
        match self.actions.get_mut(id) {
            Some(known) => *known = state.clone(),
            None => self.actions.push(state.clone()),
        }
        let stream = Stream::new(Kind::Action, &name);
        let transitions = changes.into_iter().map(|change| Transition {
            stream: stream.clone(),
            version: 1,
            change: machine::Change::Action(change),
        });
        let log = LogId::from_parts("acme", "ops").unwrap();
        let position = Position { origin: log.origin("h"), index, prev: Digest::of(b"") };
        let body = Body { trace_id: None, transitions: transitions.collect() };
        self.statements.push(Statement::new(&log, position, self.now, body));
        self.live.take(index, self.now, [&state]);
    }

    fn ask(&mut self, tool: &str, agent: &str) -> usize {
        let id = self.actions.len();
        let changes = vec![Change::Requested(request(tool, agent)), started(1)];
        self.commit(id, changes, 0);
        id
    }

    /// One action of one attempt.
    fn call(&mut self, tool: &str, ms: i64, cost: i64, failure: Option<(&str, Category)>) -> usize {
        let id = self.ask(tool, "agt_1");
        let status = if failure.is_some() { Status::Failed } else { Status::Executed };
        let outcome = outcome(status, cost, failure);
        self.commit(id, vec![Change::Finished { attempt: 1, outcome }], ms * MS);
        id
    }

    /// What is learnt by reading the log back, from a copy that was kept after `kept` receipts.
    fn replayed(&self, kept: usize) -> Experience {
        let fold = |mut experience: Experience, statements: &[Statement]| {
            for statement in statements {
                let find = |id: &ActionId| {
                    let found = self.actions.iter().find(|action| action.id == *id);
                    found.map(|action| action.request.clone()).ok_or("no such action")
                };
                experience.replay(statement, find).unwrap();
            }
            experience
        };
        let (before, after) = self.statements.split_at(kept);
        let copy = serde_json::to_string(&fold(Experience::default(), before)).unwrap();
        fold(serde_json::from_str(&copy).unwrap(), after)
    }
}

fn started(number: u32) -> Change {
    let (not_after, lease_until) = (Timestamp(0), Timestamp(0));
    Change::Started(Attempt { number, epoch: 1, not_after, lease_until, hold: None })
}

/// An attempt that failed, cost something all the same, and is followed by another.
fn retried(attempt: u32, at: Timestamp, failure: &FailureCode) -> Change {
    let failure = failure.clone();
    Change::Retried { attempt, at, failure, cost: MicroUsd(3), units: Units::NONE }
}

#[test]
fn estimates_follow_ten_at_a_time() {
    let mut world = World::new();
    let history = |world: &World| world.live.history(&dev(), &tool("a.b"), world.now);
    assert_eq!(history(&world), None);
    for ms in 1..=9 {
        world.call("a.b", ms * 100, ms, None);
    }
    world.call("a.b", 50_000, 0, Some(("slow", Category::Timeout)));
    let few = history(&world).unwrap();
    assert_eq!((few.attempts, few.failures, few.latency), (10, 1, None));
    world.call("a.b", 1_000, 10, None);
    let known = history(&world).unwrap();
    // Those that executed took 100, 200 … 1000 ms; what failed says nothing of that.
    assert_eq!(known.latency, Some(Spread { p50: 500, p90: 900 }));
    assert_eq!(known.cost, Some(Spread { p50: 5, p90: 9 }));
    assert_eq!(known.categories, [(Category::Timeout, 1)].into());
    let report = |what| {
        let (_, track) = world.live.tracks(&dev()).next().unwrap();
        track.report(what, world.now)
    };
    // Nothing was known of this tool: a second was assumed, and the worst case of its cost.
    let latency = report(Estimator::Latency);
    assert_eq!((latency.samples, latency.matches, latency.outliers), (10, 1, 6));
    assert_eq!((latency.delta_p50_ppm, latency.delta_p90_ppm), (400_000, 800_000));
    assert_eq!(latency.verdict, Some(Divergence::Mismatch));
    assert_eq!(report(Estimator::Cost).outliers, 10);
    let last = world.actions.last().unwrap();
    let compared = world.live.compare(last);
    assert_eq!(compared.len(), 1);
    assert_eq!((compared[0].latency, compared[0].cost), (Divergence::Match, Divergence::Mismatch));
}

#[test]
fn only_the_latest_count() {
    let mut world = World::new();
    for _ in 0..limits::EXPERIENCE_WINDOW {
        world.call("a.b", 100, 0, Some(("down", Category::Network)));
    }
    for _ in 0..limits::EXPERIENCE_WINDOW {
        world.call("a.b", 100, 0, None);
    }
    let history = world.live.history(&dev(), &tool("a.b"), world.now).unwrap();
    assert_eq!((history.attempts, history.failures), (256, 0));
    let (_, track) = world.live.tracks(&dev()).next().unwrap();
    assert_eq!(track.totals(), (512, 0));
    assert!(serde_json::to_vec(&world.live).unwrap().len() < 20_000);
}

#[test]
fn what_drifts_is_not_believed_for_a_day() {
    let mut world = World::new();
    let until = |world: &World, now| {
        world.live.history(&dev(), &tool("a.b"), now).unwrap().latency_disabled_until
    };
    for _ in 0..100 {
        world.call("a.b", 200, 7, None);
    }
    assert_eq!(until(&world, world.now), None);
    // Ten times as slow: the third sample of ten in a row disables it.
    for _ in 0..29 {
        world.call("a.b", 2_000, 7, None);
    }
    assert_eq!(until(&world, world.now), None);
    world.call("a.b", 2_000, 7, None);
    let disabled = world.now;
    let expected = disabled.plus_micros(DAY);
    assert_eq!(until(&world, disabled), Some(expected));
    assert_eq!(until(&world, disabled.plus_micros(DAY - 1)), Some(expected));
    assert_eq!(until(&world, expected), None, "it recovers by itself");
    let history = world.live.history(&dev(), &tool("a.b"), disabled).unwrap();
    assert_eq!(history.cost_disabled_until, None, "what it costs did not change");
    // Meanwhile the prior is the estimate: a second.
    let id = world.call("a.b", 2_000, 7, None);
    let compared = world.live.compare(&world.actions[id]);
    assert_eq!(compared[0].attempt.estimated_ms, 1_000);
    assert_eq!(world.live, world.replayed(7));
}

#[test]
fn what_is_not_the_tools_fault_does_not_count() {
    let mut world = World::new();
    for (code, category) in [
        ("attempt_lost", Category::Internal),
        (action::INTERRUPTED, Category::Internal),
        ("permit_overtaken", Category::PolicyDenied),
    ] {
        world.call("a.b", 5, 0, Some((code, category)));
    }
    assert_eq!(world.live.tracks(&dev()).count(), 0);
    assert_eq!(world.live.lessons().all().count(), 0);
    let agent = PrincipalId::new("agt_1").unwrap();
    assert_eq!(world.live.activity(&agent).unwrap().failed, 3);
}

#[test]
fn what_helped_is_remembered() {
    let mut world = World::new();
    let failure = FailureCode { code: "busy".to_owned(), category: Category::Upstream };
    let id = world.ask("a.b", "agt_1");
    for attempt in 1..=2 {
        let retried = retried(attempt, world.now, &failure);
        world.commit(id, vec![retried], 10 * MS);
        world.commit(id, vec![started(attempt + 1)], 10 * MS);
    }
    let done = outcome(Status::Executed, 1, None);
    world.commit(id, vec![Change::Finished { attempt: 3, outcome: done }], 10 * MS);
    // The same again: at once, after a while, and something else in its place.
    let fails = |world: &mut World| world.call("a.b", 1, 0, Some(("gone", Category::NotFound)));
    fails(&mut world);
    world.call("a.b", 1, 0, None);
    fails(&mut world);
    world.now = world.now.plus_micros(limits::AT_ONCE_MICROS);
    fails(&mut world);
    world.call("c.d", 1, 0, None);
    fails(&mut world);
    world.now = world.now.plus_micros(limits::FOLLOWS_MICROS_MAX + 1);
    world.call("a.b", 1, 0, None);
    let told = |code: &str| -> Vec<(Strategy, Vec<bool>)> {
        let lesson = world.live.lessons().of(&tool("a.b"), code).unwrap();
        let helped = |trials: &std::collections::VecDeque<kernel::experience::Trial>| {
            trials.iter().map(|trial| trial.helped).collect()
        };
        lesson.tried.iter().map(|(strategy, trials)| (*strategy, helped(trials))).collect()
    };
    assert_eq!(told("busy"), [(Strategy::RetryWithJitter, vec![false, true])]);
    assert_eq!(
        told("gone"),
        [
            (Strategy::RetryImmediate, vec![true]),
            (Strategy::RetryExponential, vec![false]),
            (Strategy::Fallback, vec![true]),
        ]
    );
    assert_eq!(world.live.lessons().of(&tool("a.b"), "gone").unwrap().count, 4);
    assert_eq!(world.live, world.replayed(0));
}

proptest! {
    /// Whatever happens, and wherever a copy was kept, reading the log back teaches the same.
    #[test]
    fn live_and_read_back_are_the_same(
        steps in prop::collection::vec((0..6_usize, 0..8_usize, 0..30_000_000_i64), 1..80),
        kept in any::<prop::sample::Index>(),
    ) {
        let mut world = World::new();
        let failure = FailureCode { code: "busy".to_owned(), category: Category::Upstream };
        for (what, which, later) in steps {
            let tools = ["a.b", "c.d", "core.fs_read"];
            let agents = ["agt_1", "agt_2"];
            let count = world.actions.len();
            let id = if count == 0 { 0 } else { which % count };
            let number = world.actions.get(id).map_or(1, |action| action.attempts);
            let status = world.actions.get(id).map(|action| action.status);
            let runs = status == Some(Status::Executing);
            match what {
                _ if count == 0 => { world.ask("a.b", "agt_1"); }
                0 | 1 => { world.ask(tools[which % 3], agents[which % 2]); }
                // What has ended has ended; an attempt follows another, and ends once.
                _ if status.is_some_and(Status::is_settled) || runs != matches!(what, 3 | 4) => {}
                2 => world.commit(id, vec![started(number + 1)], later),
                3 => {
                    let change = retried(number, world.now, &failure);
                    world.commit(id, vec![change], later);
                }
                4 => {
                    let status = [Status::Executed, Status::Failed, Status::Unknown][which % 3];
                    let failed = (status != Status::Executed).then_some(("x", Category::Timeout));
                    let outcome = outcome(status, 5, failed);
                    world.commit(id, vec![Change::Finished { attempt: number, outcome }], later);
                }
                _ => {
                    let by = PrincipalId::new("usr_1").unwrap();
                    world.commit(id, vec![Change::Canceled { by }], later);
                }
            }
        }
        let kept = kept.index(world.statements.len() + 1);
        prop_assert_eq!(&world.live, &world.replayed(kept));
        prop_assert_eq!(world.live.next, u64::try_from(world.statements.len()).unwrap());
    }
}
