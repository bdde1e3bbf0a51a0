//! What the evidence of a run needs to have of the release that the run took.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

use kernel::bundle::run::{self, Control, Told};
use kernel::ids::RunId;
use kernel::limits::{RELEASE_LEFT_MICROS, RELEASE_TAKEN_MICROS};
use kernel::machine::Refusal;
use kernel::receipt::Transition;
use kernel::release::takes_canary;
use kernel::run::{Input, Request};
use kernel::values::{Shared, Timestamp};
use serde_json::{Value, json};

/// When the run began.
const BEGAN: i64 = 100_000_000;

const SAME: &str = "the release is of something else than what ran";
const TAKEN: &str = "no run took the release when this one began";
const APPROVED: &str = "too few people approved the release";

fn digest(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn change(stream: &str, version: u64, change: &Value) -> Transition {
    let text = json!({"stream": stream, "version": version, "change": change}).to_string();
    serde_json::from_str(&text).unwrap()
}

fn pin(ring: &Value) -> Value {
    json!({
        "workflow": "triage", "version": "1.0.0", "digest": digest('a'), "release": "rel_1",
        "ring": ring, "policy_revision": 4,
    })
}

fn requested(ring: &Value) -> Value {
    json!({
        "document": digest('0'), "environment": "dev",
        "actors": [{"id": "agent", "kind": "agent"}], "trigger": "manual",
        "steps": [{"id": "write", "iterations": 1, "attempts": 1, "backoff_ms": 0}],
        "release": pin(ring),
    })
}

fn created() -> Value {
    json!({
        "type": "release.created", "workflow": "triage", "version": "1.0.0",
        "document": digest('a'), "policy_revision": 4, "risk_tier": "medium", "environment": "dev",
        "error_budget": {"window_runs": 20, "failures_max": 3}, "approvers": 2, "separated": true,
        "author": "u_author", "publisher": "u_publisher",
    })
}

fn approved(by: &str) -> Value {
    json!({"type": "release.approved", "by": by})
}

fn promoted(ring: &Value) -> Value {
    json!({"type": "release.promoted", "by": "u_admin", "ring": ring})
}

fn rolled_back() -> Value {
    json!({"type": "release.rolled_back", "cause": {"type": "person", "by": "u_admin"}})
}

/// A run and what was said of its release, each with its time.
struct Case {
    run: Value,
    moves: Vec<(i64, Value)>,
}

impl Case {
    fn new(ring: &Value) -> Self {
        let moves = [created(), approved("u_1"), approved("u_2"), promoted(ring)];
        let moves = (1..).zip(moves).map(|(at, said)| (at * 1_000_000, said)).collect();
        Self { run: requested(ring), moves }
    }

    fn then(mut self, at: i64, said: Value) -> Self {
        self.moves.push((at, said));
        self
    }

    fn with(mut self, place: usize, said: Value) -> Self {
        self.moves[place].1 = said;
        self
    }

    fn of_run(mut self, name: &str, value: Value) -> Self {
        self.run[name] = value;
        self
    }

    /// What is wrong with the evidence.
    fn fault(&self) -> Option<String> {
        let mut request = self.run.clone();
        request["type"] = json!("run.requested");
        let run = vec![change("run/run_1", 1, &request)];
        let publication = json!({
            "type": "workflow.published", "version": "1.0.0", "document": digest('a'),
            "plan": digest('b'), "risk_tier": "medium", "by": "u_publisher",
        });
        let mut control = vec![(500_000, vec![change("workflow/triage", 1, &publication)])];
        for (version, (at, said)) in (1..).zip(&self.moves) {
            control.push((*at, vec![change("release/rel_1", version, said)]));
        }
        let told = |(index, (at, transitions)): (u64, &'_ (i64, Vec<Transition>))| {
            (index, Timestamp(*at), transitions.clone())
        };
        let control: Vec<_> = (0..).zip(&control).map(told).collect();
        let told = control.iter().map(|(index, time, transitions)| Told {
            index: *index,
            time: *time,
            transitions,
        });
        let control = Control { origin: "tally.test/acme/control", told: told.collect() };
        let run = [Told { index: 0, time: Timestamp(BEGAN), transitions: &run }];
        let id = RunId::new("run_1").unwrap();
        let told = run::tell(&id, "tally.test/acme/ops", &run, Some(&control));
        told.err().map(|error| error.to_string())
    }

    fn check(&self, expect: Option<&str>) {
        let fault = self.fault();
        let matches = match (&fault, expect) {
            (Some(fault), Some(expect)) => fault.contains(expect),
            (fault, expect) => fault.is_none() && expect.is_none(),
        };
        assert!(matches, "{fault:?}, not {expect:?}: {} {:?}", self.run, self.moves);
    }
}

fn all() -> Value {
    json!({"type": "all"})
}

fn canary(percent: u8) -> Value {
    json!({"type": "canary", "percent": percent})
}

#[test]
fn the_release_is_of_what_ran() {
    Case::new(&all()).check(None);
    for (name, value) in [
        ("workflow", json!("other")),
        ("version", json!("1.0.1")),
        ("document", json!(digest('c'))),
        ("policy_revision", json!(5)),
        ("environment", json!("test")),
        ("model_pin", json!({"provider": "p", "model": "m"})),
        ("publisher", json!("u_other")),
    ] {
        let mut other = created();
        other[name] = value;
        Case::new(&all()).with(0, other).check(Some(SAME));
    }
}

#[test]
fn as_many_people_approved_it_as_it_takes() {
    // One of them spoke twice, or wrote it, or published it.
    for by in ["u_1", "u_author", "u_publisher"] {
        Case::new(&all()).with(2, approved(by)).check(Some(APPROVED));
    }
    // Where who wrote it may approve it, they count.
    let mut together = created();
    together["separated"] = json!(false);
    Case::new(&all()).with(0, together).with(2, approved("u_author")).check(None);
    let mut short = Case::new(&all());
    short.moves.remove(2);
    short.check(Some(APPROVED));
    // What was said after it had begun does not mend it.
    short.then(BEGAN, approved("u_2")).check(Some(APPROVED));
}

#[test]
fn it_was_in_force_when_the_run_began() {
    let never = Case { run: requested(&all()), moves: Case::new(&all()).moves[..3].to_vec() };
    never.check(Some(TAKEN));
    never.then(BEGAN + 1, promoted(&all())).check(Some(TAKEN));
    // A run that began while it went out of force may have taken it; one that began later, not.
    let superseded = json!({"type": "release.superseded", "with": "rel_2"});
    for gone in [rolled_back(), superseded.clone()] {
        let last = BEGAN - RELEASE_LEFT_MICROS;
        for (at, expect) in
            [(last - 1, Some(TAKEN)), (last, None), (BEGAN, None), (BEGAN + 1, None)]
        {
            Case::new(&all()).then(at, gone.clone()).check(expect);
        }
    }
    // It came back.
    let reinstated = json!({"type": "release.reinstated", "after": "rel_2"});
    Case::new(&all()).then(5_000_000, superseded).then(6_000_000, reinstated).check(None);
}

#[test]
fn it_was_in_force_for_that_run() {
    let id = RunId::new("run_1").unwrap();
    let least = (1..=99).find(|percent| takes_canary(&id, *percent)).unwrap();
    assert!(least > 1 && least < 99, "take another id: {least}");
    Case::new(&canary(least)).check(None);
    Case::new(&canary(least - 1)).check(Some(TAKEN));
    // The run says another ring than the one that it was in, or none.
    for (ring, said) in [(all(), canary(99)), (canary(99), all()), (canary(99), canary(98))] {
        Case::new(&ring).of_run("release", pin(&said)).check(Some(TAKEN));
    }
    Case::new(&all()).of_run("release", pin(&Value::Null)).check(Some(TAKEN));
    // For a share first, then for all.
    let grown = Case::new(&canary(99)).then(5_000_000, promoted(&all()));
    grown.check(Some(TAKEN));
    grown.of_run("release", pin(&all())).check(None);
}

#[test]
fn a_run_that_repeats_another_takes_what_that_one_did() {
    let gone = |environment: &str| {
        let mut release = created();
        release["environment"] = json!(environment);
        let case = Case::new(&all()).with(0, release).of_run("environment", json!(environment));
        case.then(5_000_000, rolled_back()).of_run("of", json!("run_0"))
    };
    gone("dev").check(None);
    gone("prod").check(Some(TAKEN));
    // Which ring it falls into follows from the id of the first.
    Case::new(&canary(1)).of_run("of", json!("run_0")).check(None);
}

#[test]
fn a_run_begins_soon_after_its_release_was_looked_up() {
    let request: Shared<Request> = serde_json::from_str(&requested(&all()).to_string()).unwrap();
    let at = Timestamp(BEGAN);
    let begin = |now| {
        let input = Input::Take { request: request.clone(), at };
        kernel::run::step(None, input, now).err()
    };
    assert_eq!(begin(at.plus_micros(RELEASE_TAKEN_MICROS)), None);
    let late = begin(at.plus_micros(RELEASE_TAKEN_MICROS + 1));
    assert_eq!(late, Some(Refusal::ReleaseStale));
}
