//! kill -9 at every step of a ten-step plan: it ends once, with each effect once, and its evidence
//! is whole.

use std::collections::{BTreeMap, BTreeSet};

use ledger::rebuild;
use proto::actions::GetActionRequest;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::ledger::VerifyLedgerRequest;
use proto::runs::{Run, RunState, StartRunRequest};
use rustix::process::Signal;
use serde_json::{Value, json};
use testkit::Cluster;

use super::clock::Clock;
use super::{Place, approve_step, reaches, read, states, until, with, workflow};
use crate::common::postgres::migrated;
use crate::common::{Server, WORKSPACE};
use crate::proof::bundle;

const HOUR: i64 = 3_600;

/// Calls that the other side answers when it is told to, writes, a timer, a group, an approval.
fn ten_steps(place: &Place) -> Vec<Value> {
    let call = |id: &str| place.call(id, "PUT", &path(id));
    let grouped = |id: &str| with(call(id), json!({"group": "g"}));
    let params = json!({"path": place.file("written"), "content": "once", "mode": "append"});
    vec![
        call("s1"),
        call("s2"),
        json!({"id": "s3", "action": "core.fs_write", "input": params}),
        json!({"id": "s4", "action": "time.wait", "input": {"seconds": HOUR}}),
        grouped("s5"),
        grouped("s6"),
        grouped("s7"),
        with(call("s8"), json!({"approval": {"quorum": 1}})),
        call("s9"),
        call("s10"),
    ]
}

fn path(step: &str) -> String {
    format!("/waits/{step}")
}

/// A run, and the server that is killed again and again while it goes on.
struct Story {
    place: Place,
    id: String,
    /// How often each step was called so far.
    calls: BTreeMap<&'static str, usize>,
}

impl Story {
    /// Waits until so many steps have succeeded and those after them are in these states.
    async fn stands(&self, done: usize, then: &[&str]) -> Run {
        let stands = |run: &Run| {
            let states = states(run);
            let (before, after) = states.split_at(done);
            before.iter().all(|state| *state == "succeeded") && after.starts_with(then)
        };
        let run = until(&self.place.agent, &self.id, &format!("{done}, {then:?}"), stands).await;
        let rest = &states(&run)[done + then.len()..];
        assert!(rest.iter().all(|state| *state == "ready"), "{run:?}");
        run
    }

    /// Waits until the other side has been asked for these steps once more.
    async fn asked(&mut self, steps: &[&'static str]) {
        for step in steps {
            let times = self.calls.entry(step).or_default();
            *times += 1;
            let keys = self.place.target.keys(&path(step), *times).await;
            assert_eq!(keys.len(), *times, "{step} was called too often");
            let keys: BTreeSet<String> = keys.into_iter().collect();
            assert_eq!(keys.len(), 1, "{step} was called under more than one key");
        }
    }

    fn crash(&mut self) {
        self.place.server.kill();
        self.place.server.restart();
    }

    /// Kills the server while these steps wait for the other side, which is asked again; then the
    /// first of them is answered.
    async fn calls(&mut self, done: usize, steps: &[&'static str]) {
        self.stands(done, &vec!["running"; steps.len()]).await;
        self.crash();
        self.asked(steps).await;
        self.place.target.release(&path(steps[0]));
    }

    /// Kills the server after the write and while its timer runs, and lets the hour pass.
    async fn timer(&mut self, clock: &Clock) {
        let waits = |run: &Run| run.steps[3].wait_until.is_some();
        let run = until(&self.place.agent, &self.id, "the timer", waits).await;
        let until = run.steps[3].wait_until;
        for _ in 0..2 {
            let run = self.stands(3, &["ready"]).await;
            assert_eq!(run.steps[3].wait_until, until, "{run:?}");
            self.crash();
        }
        self.stands(3, &["ready"]).await;
        self.place.server.kill();
        clock.shift(HOUR);
        self.place.server.restart();
    }
}

async fn survives(place: Place, clock: &Clock) {
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&ten_steps(&place)) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    let mut story = Story { place, id, calls: BTreeMap::new() };
    for (done, step) in ["s1", "s2"].into_iter().enumerate() {
        story.asked(&[step]).await;
        story.calls(done, &[step]).await;
    }
    story.timer(clock).await;
    // One of the group ends after each kill.
    let group = ["s5", "s6", "s7"];
    story.asked(&group).await;
    for (ended, done) in (4..7).enumerate() {
        story.calls(done, &group[ended..]).await;
    }
    story.stands(7, &["waiting_approval"]).await;
    story.crash();
    let run = story.stands(7, &["waiting_approval"]).await;
    approve_step(&approver, &run, "s8").await;
    for (done, step) in (7..).zip(["s8", "s9", "s10"]) {
        story.asked(&[step]).await;
        story.calls(done, &[step]).await;
    }
    let Story { mut place, id, calls } = story;
    let run = reaches(&place.agent, &id, RunState::Succeeded).await;
    // And once it has ended.
    place.server.kill();
    place.server.restart();
    assert_eq!(read(&place.agent, &id).await.steps, run.steps);
    let called = calls.into_iter().map(|(step, times)| (path(step), times));
    assert_eq!(place.calls(), called.collect(), "what was called besides");
    check(&place, &run).await;
    assert!(place.server.terminate().success());
    place.server.offline("verify");
    for store in place.server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
}

/// Every step has one action, executed and receipted; each effect is there once; the evidence
/// tells of all of it.
async fn check(place: &Place, run: &Run) {
    let mut actions = BTreeSet::new();
    for step in &run.steps {
        assert_eq!((step.state.as_str(), step.tries), ("succeeded", 1), "{step:?}");
        let request = GetActionRequest { action_id: step.action_id.clone() };
        let action = place.agent.get_action(&request).await.unwrap();
        assert_eq!(action.state(), State::Executed, "{action:?}");
        assert!(action.receipts.len() >= 2, "{action:?}");
        assert!(actions.insert(step.action_id.clone()), "two steps, one action");
    }
    let delivered = place.target.seen().into_iter().map(|delivery| delivery.key.unwrap());
    let keys: BTreeSet<String> = delivered.collect();
    assert_eq!(keys.len(), 8, "each call has a key of its own: {keys:?}");
    assert_eq!(std::fs::read_to_string(place.file("written")).unwrap(), "once");
    let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
    let verified = place.server.owner.verify_ledger(&request).await.unwrap();
    assert!(verified.valid, "{:?}", verified.errors);
    evidence(place, run, &actions);
}

/// The bundle of the run verifies, has every receipt that it tells of, and tells of every step
/// with its action, and of as many attempts as the other side saw.
fn evidence(place: &Place, run: &Run, actions: &BTreeSet<String>) {
    let exported = bundle::exported(&place.server, &run.run_id, &[]);
    assert_eq!(bundle::codes(&exported), [""; 0]);
    let told = bundle::told(&exported);
    assert_eq!(
        (&told["run"]["id"], &told["run"]["status"]),
        (&json!(run.run_id), &json!("succeeded"))
    );
    let listed: Vec<u64> = serde_json::from_value(told["receipts"].clone()).unwrap();
    assert_eq!(exported.indices(), listed);
    let steps: BTreeMap<&str, &str> = told["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let [action] = step["actions"].as_array().unwrap().as_slice() else { panic!("{step}") };
            (step["step"].as_str().unwrap(), action.as_str().unwrap())
        })
        .collect();
    let ran = run.steps.iter().map(|step| (step.step_id.as_str(), step.action_id.as_str()));
    assert_eq!(steps, ran.collect());
    let calls = place.calls();
    let told = told["actions"].as_array().unwrap();
    let of: BTreeSet<String> =
        told.iter().map(|action| action["action"].as_str().unwrap().to_owned()).collect();
    assert_eq!((&of, told.len()), (actions, actions.len()));
    for action in told {
        let attempts = action["attempts"].as_array().unwrap();
        let seen = calls.get(&path(action["step"].as_str().unwrap())).copied().unwrap_or(1);
        assert_eq!((attempts.len(), &action["status"]), (seen, &json!("executed")), "{action}");
        assert!(!action["decisions"].as_array().unwrap().is_empty(), "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_kill_at_every_step() {
    let clock = Clock::new();
    survives(clock.place().await, &clock).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_survives_a_kill_at_every_step_on_postgresql() {
    let (database, clock) = (migrated(Cluster::shared()), Clock::new());
    let start = |yaml: &str| Server::start_on_with(&database, yaml, clock.env());
    survives(Place::by(start, "").await, &clock).await;
}

/// The server that stood by takes the run over while a call of it is under way. The one that wakes
/// up is refused by its epoch, with the answer in its hands.
#[tokio::test(flavor = "multi_thread")]
async fn another_server_takes_a_run_over() {
    let database = migrated(Cluster::shared());
    let mut place = Place::on(Some(&database), "").await;
    let steps = [
        place.call("s1", "PUT", "/waits/s1"),
        place.call("s2", "PUT", "/s2"),
        place.call("s3", "PUT", "/s3"),
    ];
    let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
    let id = place.agent.start_run(&request, None).await.unwrap().run_id;
    let other = place.server.start_beside(&place.base);
    place.target.asked("/waits/s1").await;
    let run = read(&place.agent, &id).await;
    assert_eq!(states(&run), ["running", "ready", "ready"]);
    place.server.signal(Signal::STOP);
    other.ready().await;
    let keys = place.target.keys("/waits/s1", 2).await;
    assert_eq!(keys[0], keys[1], "one action, one key");
    // Both are answered; who is stopped reads it later.
    place.target.release("/waits/s1");
    let run = reaches(&other.owner, &id, RunState::Succeeded).await;
    place.server.signal(Signal::CONT);
    assert_eq!(place.server.ends().code(), Some(1), "a server without its place ends");
    assert!(place.server.log().contains("another server has taken over"));
    let after = read(&other.owner, &id).await;
    assert_eq!((&after.steps, after.last_receipt), (&run.steps, run.last_receipt));
    for step in &after.steps {
        assert_eq!((step.state.as_str(), step.tries), ("succeeded", 1), "{step:?}");
    }
    let request = GetActionRequest { action_id: after.steps[0].action_id.clone() };
    assert_eq!(other.owner.get_action(&request).await.unwrap().attempt, 2);
    let calls = [("/waits/s1", 2), ("/s2", 1), ("/s3", 1)];
    assert_eq!(place.calls(), calls.map(super::named).into());
    let request = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
    let verified = other.owner.verify_ledger(&request).await.unwrap();
    assert!(verified.valid, "{:?}", verified.errors);
}
