//! Bounds on writes: never more than so many in any minute of the log, whatever asks and whatever
//! crashes; and what has to wait loses nothing.

use std::time::Duration;

use client::Client;
use kernel::action::Change as ActionChange;
use kernel::dsse::Envelope;
use kernel::machine::Change;
use kernel::receipt::{LogId, Statement};
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, SubmitActionRequest};
use proto::identity::principal::Kind;
use proto::runs::{RunState, StartRunRequest};
use proto::types::decision::Effect;
use tokio::time::{Instant, sleep};

use super::{Place, named, workflow};
use crate::common::desk::approve;
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, reaches, rego};

const MINUTE_MICROS: i64 = 60_000_000;
/// For what has to wait for a minute to be over.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the logs of the workspaces say: how many actions were asked for, and when attempts began.
fn logged(place: &Place) -> (usize, Vec<i64>) {
    let (mut asked, mut began) = (0, Vec::new());
    for store in place.server.stores() {
        for log in store.logs().unwrap() {
            if !matches!(log, LogId::Workspace(..)) {
                continue;
            }
            for row in store.receipts(&log, 0, 10_000).unwrap() {
                let payload = Envelope::parse(&row.envelope).unwrap().payload;
                let statement: Statement = serde_json::from_slice(&payload).unwrap();
                for transition in &statement.predicate.transitions {
                    match &transition.change {
                        Change::Action(ActionChange::Requested(_)) => asked += 1,
                        Change::Action(ActionChange::Started(_)) => {
                            began.push(statement.predicate.time_us.0);
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    began.sort_unstable();
    (asked, began)
}

#[track_caller]
fn assert_bound(began: &[i64], most: usize) {
    for (first, last) in began.iter().zip(began.iter().skip(most)) {
        assert!(last - first >= MINUTE_MICROS, "more than {most} in a minute: {began:?}");
    }
}

async fn at_once(place: &Place, count: usize) -> Vec<Action> {
    let calls = (0..count).map(|n| {
        let (agent, call) = (place.agent.clone(), place.target.call("PUT", &format!("/w{n}")));
        tokio::spawn(async move { agent.submit_action(&call, Some(&format!("key-{n}"))).await })
    });
    let mut done = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        done.push(call.await.unwrap().unwrap());
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn single_writes_beyond_the_bound_are_put_off_and_may_come_again() {
    let mut place = Place::new("caps: {writes_per_min_tenant: 5, counted: all}").await;
    let first = at_once(&place, 16).await;
    place.server.kill();
    place.server.restart();
    // What was put off is not remembered: the same keys ask anew.
    let second = at_once(&place, 16).await;
    let read = place.agent.submit_action(&place.target.call("GET", "/r"), None).await.unwrap();
    assert_eq!(read.state(), State::Executed, "what reads is not bounded: {read:?}");
    let executed = first.iter().filter(|action| action.state() == State::Executed).count();
    assert!(executed >= 5, "{executed}");
    let mut denied = 0;
    for action in first.iter().chain(&second).filter(|a| a.state() == State::Denied) {
        denied += 1;
        let error = action.error.clone().unwrap();
        assert_eq!((error.code.as_str(), error.retryable), ("write_cap", true), "{error:?}");
        assert_eq!(error.category().as_str_name(), "RATE_LIMITED");
        assert!((1..=60_000).contains(&error.retry_after_ms.unwrap()), "{error:?}");
        assert_eq!(action.decision.as_ref().unwrap().effect(), Effect::Throttle);
    }
    assert!(denied > 0, "nothing was put off");
    // A repeat of what was carried out is answered by that.
    for (n, before) in first.iter().enumerate().filter(|(_, a)| a.state() == State::Executed) {
        assert_eq!(second[n].action_id, before.action_id);
    }
    assert!(place.server.terminate().success());
    let effects = place.calls().iter().filter(|(path, _)| *path != "/r").count();
    let (_, began) = logged(&place);
    // One of them read.
    assert_eq!(began.len() - 1, effects);
    let mut writes = began;
    writes.pop();
    assert_bound(&writes, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_reads_whether_there_is_room() {
    let place = Place::new("caps: {writes_per_min_tenant: 3, counted: all}").await;
    let rules = r#"
        decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true
        decisions contains {"effect": "DENY", "rule": "R-FULL", "reason": "full"} if {
            not input.operational.within_write_caps
        }"#;
    place.server.publish(&rego(rules)).await;
    let mut full = 0;
    for n in 0..12 {
        let call = place.target.call("PUT", &format!("/p{n}"));
        let action = place.agent.submit_action(&call, None).await.unwrap();
        let rules = action.decision.as_ref().unwrap().rules.clone();
        match action.state() {
            State::Executed => assert_eq!(rules, ["R-ALL"]),
            state => {
                assert_eq!((state, action.error.unwrap().code.as_str()), (State::Denied, "full"));
                assert_eq!(rules, ["R-ALL", "R-FULL"]);
                full += 1;
            }
        }
    }
    assert!(full > 0, "there was room for all");
}

/// Waits until so many of these runs have succeeded.
async fn succeed(agent: &Client, runs: &[String], count: usize) {
    let end = Instant::now() + PATIENCE;
    loop {
        let mut succeeded = 0;
        for id in runs {
            let state = super::read(agent, id).await.state();
            succeeded += usize::from(state == RunState::Succeeded);
        }
        if succeeded >= count {
            return;
        }
        assert!(Instant::now() < end, "{succeeded} of {count} runs had their turn");
        sleep(LOOK_EVERY).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_wait_for_their_turn_and_a_crash_gives_no_second_allowance() {
    let mut place = Place::new("caps: {writes_per_min_workflow: 2, counted: all}").await;
    let mut ids = Vec::new();
    for n in 0..3 {
        let steps = [place.call("write", "PUT", &format!("/s{n}"))];
        let request = StartRunRequest { wait_ms: Some(0), ..workflow(&steps) };
        ids.push(place.agent.start_run(&request, None).await.unwrap().run_id);
    }
    // What came of the first two is durable, so that nothing of them is asked for again.
    succeed(&place.agent, &ids, 2).await;
    place.server.kill();
    place.server.restart();
    succeed(&place.agent, &ids, 3).await;
    assert_eq!(place.calls(), [("/s0", 1), ("/s1", 1), ("/s2", 1)].map(named).into());
    assert!(place.server.terminate().success());
    let (asked, began) = logged(&place);
    assert_eq!((asked, began.len()), (3, 3), "waiting wrote something down");
    assert_bound(&began, 2);
}

const HELD: &str = r#"
    decisions contains {
        "effect": "REQUIRE_APPROVAL", "rule": "R-HELD", "reason": "held",
        "obligations": {"approval": {"quorum": 1}},
    } if true"#;

/// The kill comes when one effect is durable, one attempt is held by the other side, and one action
/// is approved and finds no room.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_approved_waits_for_its_turn_too() {
    let mut place = Place::new("caps: {writes_per_min_tenant: 2, counted: all}").await;
    place.server.publish(&rego(HELD)).await;
    let approver = place.server.principal(Kind::User, &["approver"]).await;
    let mut held = Vec::new();
    for path in ["/done", "/waits/held", "/put-off"] {
        let call = SubmitActionRequest { wait_ms: Some(0), ..place.target.call("PUT", path) };
        held.push(place.agent.submit_action(&call, Some(path)).await.unwrap());
    }
    approve(&approver, &held[0]).await.unwrap();
    reaches(&place.agent, &held[0].action_id, State::Executed).await;
    approve(&approver, &held[1]).await.unwrap();
    place.target.asked("/waits/held").await;
    approve(&approver, &held[2]).await.unwrap();
    until_put_off(&place).await;
    reaches(&place.agent, &held[2].action_id, State::Approved).await;
    place.server.kill();
    place.server.restart();
    place.target.let_go();
    for action in &held {
        let end = Instant::now() + PATIENCE;
        loop {
            let request = GetActionRequest { action_id: action.action_id.clone() };
            let action = place.agent.get_action(&request).await.unwrap();
            if action.state() == State::Executed {
                break;
            }
            assert!(Instant::now() < end, "it never gets its turn: {action:?}");
            sleep(LOOK_EVERY).await;
        }
    }
    let calls = [("/done", 1), ("/waits/held", 2), ("/put-off", 1)];
    assert_eq!(place.calls(), calls.map(named).into());
    let keys = place.target.seen().into_iter().filter(|delivery| delivery.path == "/waits/held");
    let keys: Vec<_> = keys.map(|delivery| delivery.key).collect();
    assert!(keys[0].is_some() && keys[0] == keys[1], "one action, one key: {keys:?}");
    assert!(place.server.terminate().success());
    let (asked, began) = logged(&place);
    assert_eq!((asked, began.len()), (3, 4), "waiting wrote something down");
    assert_bound(&began, 2);
}

/// Waits until a write found no room.
async fn until_put_off(place: &Place) {
    let end = Instant::now() + PATIENCE;
    loop {
        let metrics = Wire::new(&place.server.url).ask("GET", "/metrics").send().await.text();
        let some = |line: &str| line.starts_with("tally_writes_put_off") && !line.ends_with(" 0");
        if metrics.lines().any(some) {
            return;
        }
        assert!(Instant::now() < end, "there is room for all");
        sleep(LOOK_EVERY).await;
    }
}
