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
    let story = run::tell(&RunId::new("run_1").unwrap(), LOG, &told(receipts))?;
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
    // What is said again is the same, and nothing else is accepted.
    let receipts = receipts();
    let told = told(&receipts);
    let bytes = run::tell(&RunId::new("run_1").unwrap(), LOG, &told).unwrap().bytes().unwrap();
    assert!(run::check(&bytes, LOG, &told).is_ok());
    let text = String::from_utf8(bytes).unwrap();
    for (from, to, place) in [
        ("\"cost_micro_usd\":2", "\"cost_micro_usd\":1", "/actions/0/attempts/0/cost_micro_usd"),
        ("\"R-1\"", "\"R-2\"", "/actions/0/decisions/0/rules/0"),
        ("\"receipts\":[3,5,6,9]", "\"receipts\":[3,5,9]", "/receipts"),
        ("{\"actions\"", "{ \"actions\"", "its form"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let found = run::check(changed.as_bytes(), LOG, &told).unwrap_err();
        assert_eq!(found, Error::Differs(place.to_owned()), "{from}");
    }
    let other = run::check(text.as_bytes(), "tally.test/acme/other", &told).unwrap_err();
    assert_eq!(other, Error::Differs("/log".to_owned()));
    assert_eq!(run::check(b"{}", LOG, &told).unwrap_err().code(), "bundle_run");
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
