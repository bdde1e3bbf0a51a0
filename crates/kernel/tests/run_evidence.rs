//! What the receipts of a bundle tell of a run, and what is seen where one of them is not there.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

use kernel::bundle::run::{self, Error, Told};
use kernel::ids::RunId;
use kernel::receipt::Transition;
use kernel::values::Timestamp;
use serde_json::{Value, json};

const LOG: &str = "tally.test/acme/ops";

fn digest(digit: char) -> String {
    digit.to_string().repeat(64)
}

fn change(stream: &str, version: u64, change: &Value) -> Transition {
    let text = json!({"stream": stream, "version": version, "change": change}).to_string();
    serde_json::from_str(&text).unwrap()
}

fn requested(action: &str) -> Transition {
    let request = json!({
        "type": "action.requested", "tool": "core.http_call", "tool_digest": digest('1'),
        "environment": "dev", "actors": [{"id": "agent", "kind": "agent"}],
        "action_digest": digest('2'), "plan_digest": digest('3'),
        "risk": {"score": 35, "tier": "low", "signals": ["write"]}, "estimate": 9,
        "units": {"calls": 1, "writes": 1}, "idempotent": false, "timeout_ms": 1000,
        "step": {"run": "run_1", "step": "write", "iteration": 1},
    });
    change(&format!("action/{action}"), 1, &request)
}

fn decided(action: &str) -> Transition {
    let decision = json!({
        "effect": "ALLOW", "rules": ["R-1"], "reasons": ["ok"], "obligations": {},
        "policy": {"revision": 4, "digest": digest('4')}, "input_digest": digest('5'),
    });
    let decided = json!({
        "type": "action.decided", "phase": "submit", "status": "approved", "decision": decision,
        "principal_revision": 1,
    });
    change(&format!("action/{action}"), 2, &decided)
}

/// What the control log says: revision 4 of the policy came into force.
fn control() -> Vec<(u64, Vec<Transition>)> {
    let published = json!({
        "type": "policy.published", "revision": 4, "policy": "pol_1", "digest": digest('4'),
        "publisher": "u_1", "author": "u_2", "rollback": false,
    });
    vec![(1, vec![change("policy_history/policy", 4, &published)])]
}

fn governing(receipts: &[(u64, Vec<Transition>)]) -> Option<run::Control<'_>> {
    Some(run::Control { origin: "tally.test/acme/control", told: told(receipts) })
}

/// The receipts of a run of one step that failed once and was tried again.
fn receipts() -> Vec<(u64, Vec<Transition>)> {
    let run = |version: u64, told: Value| change("run/run_1", version, &told);
    let action =
        |id: &str, version: u64, told: Value| change(&format!("action/{id}"), version, &told);
    let started = |id: &str| {
        json!({
            "type": "run.step_started", "step": "write", "iteration": 1, "action": id,
            "writes": true,
        })
    };
    let moved = |id: &str, to: &str, state: &str, cost: i64| {
        json!({
            "type": "run.step_moved", "step": "write", "iteration": 1, "action": id, "to": to,
            "state": state, "cost": cost,
        })
    };
    let permit = json!({
        "type": "action.started", "number": 1, "epoch": 1, "not_after": 5, "lease_until": 9,
    });
    let outcome = |status: &str, cost: i64| {
        let units = json!({"calls": 1});
        let outcome = json!({"status": status, "output_bytes": 0, "cost": cost, "units": units});
        json!({"type": "action.finished", "attempt": 1, "outcome": outcome})
    };
    vec![
        (
            3,
            vec![
                run(
                    1,
                    json!({
                        "type": "run.requested", "document": digest('0'), "environment": "dev",
                        "actors": [{"id": "agent", "kind": "agent"}], "trigger": "manual",
                        "steps": [{"id": "write", "iterations": 1, "attempts": 2, "backoff_ms": 0}],
                    }),
                ),
                run(2, json!({"type": "run.admitted"})),
                requested("act_1"),
                decided("act_1"),
                run(3, started("act_1")),
                action("act_1", 3, permit.clone()),
            ],
        ),
        (
            5,
            vec![
                action("act_1", 4, outcome("failed", 2)),
                run(4, moved("act_1", "ready", "failed", 2)),
            ],
        ),
        (
            6,
            vec![
                requested("act_2"),
                decided("act_2"),
                run(5, started("act_2")),
                action("act_2", 3, permit),
            ],
        ),
        (
            9,
            vec![
                action("act_2", 4, outcome("executed", 3)),
                run(6, moved("act_2", "succeeded", "executed", 3)),
                run(7, json!({"type": "run.ended", "status": "succeeded"})),
            ],
        ),
    ]
}

fn told(receipts: &[(u64, Vec<Transition>)]) -> Vec<Told<'_>> {
    let time = |index: u64| Timestamp(100 + i64::try_from(index).unwrap());
    receipts
        .iter()
        .map(|(index, transitions)| Told { index: *index, time: time(*index), transitions })
        .collect()
}

fn tell(receipts: &[(u64, Vec<Transition>)]) -> Result<Value, Error> {
    let story = run::tell(
        &RunId::new("run_1").unwrap(),
        LOG,
        &told(receipts),
        governing(&control()).as_ref(),
    )?;
    Ok(serde_json::from_slice(&story.bytes()?).unwrap())
}

#[test]
fn a_run_is_told_from_its_receipts() {
    let story = tell(&receipts()).unwrap();
    assert_eq!(story["run"]["status"], "succeeded");
    assert_eq!(story["total"], json!({"actions": 2, "cost_micro_usd": 5, "units": {"calls": 2}}));
    assert_eq!(story["steps"][0]["actions"], json!(["act_1", "act_2"]));
    assert_eq!(story["steps"][0]["cost_micro_usd"], 5);
    assert_eq!(story["pins"]["policies"], json!({"4": digest('4')}));
    assert_eq!(story["actions"][0]["attempts"][0]["ended_receipt"], 5);
    assert_eq!(story["receipts"], json!([3, 5, 6, 9]));
    let governance = &story["governance"];
    assert_eq!(governance["policies"][0]["said"]["publisher"], "u_1");
    assert_eq!(governance["receipts"], json!([1]));
    // What is said again is the same, and nothing else is accepted.
    let receipts = receipts();
    let told = told(&receipts);
    let control = control();
    let control = governing(&control);
    let control = control.as_ref();
    let story = run::tell(&RunId::new("run_1").unwrap(), LOG, &told, control).unwrap();
    let bytes = story.bytes().unwrap();
    assert!(run::check(&bytes, LOG, &told, control).is_ok());
    let text = String::from_utf8(bytes).unwrap();
    for (from, to, place) in [
        ("\"cost_micro_usd\":2", "\"cost_micro_usd\":1", "/actions/0/attempts/0/cost_micro_usd"),
        ("\"R-1\"", "\"R-2\"", "/actions/0/decisions/0/rules/0"),
        ("\"receipts\":[3,5,6,9]", "\"receipts\":[3,5,9]", "/receipts"),
        ("{\"actions\"", "{ \"actions\"", "its form"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let found = run::check(changed.as_bytes(), LOG, &told, control).unwrap_err();
        assert_eq!(found, Error::Differs(place.to_owned()), "{from}");
    }
    let other = run::check(text.as_bytes(), "tally.test/acme/other", &told, control).unwrap_err();
    assert_eq!(other, Error::Differs("/log".to_owned()));
    assert_eq!(run::check(b"{}", LOG, &told, control).unwrap_err().code(), "bundle_run");
}

#[test]
fn what_is_left_out_leaves_a_gap() {
    let whole = receipts();
    for left_out in 0..whole.len() - 1 {
        let mut receipts = whole.clone();
        receipts.remove(left_out);
        let error = tell(&receipts).unwrap_err();
        assert!(matches!(error, Error::Gap { .. }), "{left_out}: {error}");
    }
    // Without its end it has none.
    let story = tell(&whole[..3]).unwrap();
    assert_eq!(story["run"]["status"], "running");
    // An action that is named and not there.
    let without: Vec<_> = whole
        .iter()
        .map(|(index, told)| {
            let told = told.iter().filter(|t| t.stream.to_string() != "action/act_1");
            (*index, told.cloned().collect())
        })
        .collect();
    assert!(matches!(tell(&without), Err(Error::Contradiction(_) | Error::Absent(_))));
}

/// The log of a run whose write was undone by another action, which no step asked for.
#[test]
fn what_was_undone_is_told_with_what_undid_it() {
    let mut receipts = receipts();
    let undoing = |version: u64, told: Value| change("action/act_9", version, &told);
    let mut request = serde_json::to_value(requested("act_9")).unwrap();
    request["change"].as_object_mut().unwrap().remove("step");
    request["change"]["reverses"] = json!("act_2");
    let permit = json!({
        "type": "action.started", "number": 1, "epoch": 1, "not_after": 5, "lease_until": 9,
    });
    let moved = |version: u64, kind: &str| {
        change("action/act_2", version, &json!({"type": kind, "by": "act_9"}))
    };
    receipts.push((
        11,
        vec![
            serde_json::from_str(&request.to_string()).unwrap(),
            decided("act_9"),
            undoing(3, permit),
            moved(5, "action.reversal_begun"),
        ],
    ));
    let units = json!({"calls": 1});
    let outcome = json!({"status": "executed", "output_bytes": 0, "cost": 7, "units": units});
    let finished = json!({"type": "action.finished", "attempt": 1, "outcome": outcome});
    receipts.push((12, vec![undoing(4, finished), moved(6, "action.reversed")]));
    let story = tell(&receipts).unwrap();
    let undone = &story["actions"][1];
    assert_eq!(
        undone["reversals"],
        json!([
            {"receipt": 11, "at_us": 111, "by": "act_9", "state": "begun"},
            {"receipt": 12, "at_us": 112, "by": "act_9", "state": "reversed"},
        ])
    );
    assert_eq!(story["actions"][2]["reverses"], "act_2");
    // It is no step of the run: the run's own total stays what it was.
    assert_eq!(story["total"]["cost_micro_usd"], 5);
    assert_eq!(story["total_of_reversals"]["cost_micro_usd"], 7);
    assert_eq!(story["total_of_code"]["actions"], 0);
    // Nor can it be left out.
    receipts.remove(4);
    assert!(matches!(tell(&receipts), Err(Error::Gap { .. } | Error::Absent(_))));
}

#[test]
fn what_the_control_log_does_not_say_is_seen() {
    let receipts = receipts();
    let run = RunId::new("run_1").unwrap();
    let none = run::tell(&run, LOG, &told(&receipts), None).unwrap_err();
    assert!(matches!(none, Error::Governance(_)), "{none}");
    let mut other = control();
    other[0].1.clear();
    let without = run::tell(&run, LOG, &told(&receipts), governing(&other).as_ref()).unwrap_err();
    assert_eq!(without.code(), "bundle_run_governance");
    // Nor does what was put into force after it had decided.
    let mut late = control();
    late[0].0 = 4;
    let late = run::tell(&run, LOG, &told(&receipts), governing(&late).as_ref()).unwrap_err();
    assert_eq!(late, without);
}

#[test]
fn one_revision_is_one_policy() {
    let mut receipts = receipts();
    let mut other = serde_json::to_value(decided("act_2")).unwrap();
    other["change"]["decision"]["policy"]["digest"] = json!(digest('6'));
    receipts[2].1[1] = serde_json::from_str(&other.to_string()).unwrap();
    let error = tell(&receipts).unwrap_err();
    assert_eq!(error, Error::Governance("two policies decided under one revision"));
}
