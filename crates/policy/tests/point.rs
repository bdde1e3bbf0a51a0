//! The decision point: whatever goes wrong is a DENY that says what.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

mod support;

use kernel::decision::{
    BreakGlass, Decision, DecisionPoint, Effect, Mode, NoAnswer, SeparationOfDuties,
};
use kernel::values::Digest;
use policy::Config;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use support::{ALLOW, Desk, Facts, bundle, source, tenant};

fn decide(desk: &Desk) -> Decision {
    desk.point.decide(&Facts::new("dev", &["read"]).input())
}

fn denied(decision: &Decision, code: &str) {
    assert_eq!(
        (decision.effect, decision.reasons.as_slice()),
        (Effect::Deny, [code.to_owned()].as_slice()),
        "{decision:?}"
    );
}

/// What a policy of these rules decides of an agent's read.
fn outcome(rules: &str) -> Decision {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(rules));
    decide(&desk)
}

#[test]
fn absent_and_unconfirmed() {
    let desk = Desk::new(&Config::default());
    denied(&decide(&desk), "policy_absent");
    desk.point.install(&tenant(), 1, bundle(&source(ALLOW)), None).unwrap();
    denied(&decide(&desk), "policy_stale");
}

#[test]
fn stale_until_confirmed_again() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(ALLOW));
    assert_eq!(decide(&desk).effect, Effect::Allow);
    desk.now.fetch_add(600_000_000, Ordering::SeqCst);
    assert_eq!(decide(&desk).effect, Effect::Allow, "exactly the time to live is still fresh");
    desk.now.fetch_add(1, Ordering::SeqCst);
    denied(&decide(&desk), "policy_stale");
    let digest = desk.point.current(&tenant()).digest;
    desk.point.confirm(&tenant(), &desk.confirmation(1, digest)).unwrap();
    assert_eq!(decide(&desk).effect, Effect::Allow);
}

#[test]
fn only_control_confirms() {
    let desk = Desk::new(&Config::default());
    let bundle = bundle(&source(ALLOW));
    desk.point.install(&tenant(), 2, Arc::clone(&bundle), None).unwrap();
    let refused = |confirmation: &_, code| {
        let error = desk.point.confirm(&tenant(), confirmation).unwrap_err();
        assert_eq!(error.code(), code);
    };
    let mut forged = desk.confirmation(2, bundle.digest);
    forged.confirmed_at.0 += 1;
    refused(&forged, "confirmation_bad_signature");
    let stranger = Desk::new(&Config::default());
    refused(&stranger.confirmation(2, bundle.digest), "confirmation_bad_signature");
    refused(&desk.confirmation(1, bundle.digest), "confirmation_other_revision");
    refused(&desk.confirmation(2, Digest::of(b"")), "confirmation_other_revision");
    desk.now.fetch_add(60_000_000, Ordering::SeqCst);
    let future = desk.confirmation(2, bundle.digest);
    desk.now.fetch_add(-60_000_000, Ordering::SeqCst);
    refused(&future, "confirmation_in_future");
    denied(&decide(&desk), "policy_stale");
}

#[test]
fn a_refused_bundle_denies_with_its_reason() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(ALLOW));
    for why in [NoAnswer::PolicyUnsigned, NoAnswer::PolicyTampered] {
        desk.point.refuse(&tenant(), 2, Digest::of(b"bad"), why).unwrap();
        let decision = decide(&desk);
        denied(&decision, why.code());
        assert_eq!(decision.policy.revision, 2);
    }
}

#[test]
fn failures_beside_a_broad_allow_deny() {
    let deny = r#"decisions contains {"effect": "DENY", "rule": "R-D", "reason": "d"} if "#;
    for condition in [
        r#"to_number(input.environment) > 1"#,
        r#"not to_number(input.environment) == 1"#,
        r#"1 / (input.risk.score - input.risk.score) == 1"#,
        r#"1 % (input.risk.score - input.risk.score) == 1"#,
        r#"input.environment + 1 > 2"#,
        r#"input.environment > 5"#,
        r#"input.tool.labels - {"read"} == set()"#,
        r#"net.cidr_contains(input.environment, "10.0.0.1")"#,
        r#"some x in [y | some z in input.tool.labels; y := to_number(z)]; x > 1"#,
        r#"every x in input.tool.labels { to_number(x) > 1 }"#,
        r#"helper"#,
        r#"asked("x")"#,
        r#"regex.match("(", input.environment)"#,
        r#"json.unmarshal(input.environment) == 1"#,
    ] {
        let helper = "helper if to_number(input.environment) == 1\n\
                      asked(x) if to_number(x) == 1";
        let decision = outcome(&format!("{ALLOW}\n{helper}\n{deny}{{ {condition} }}"));
        denied(&decision, "policy_error");
        assert_eq!(decision.policy.revision, 1);
    }
}

#[test]
fn what_does_not_fail_still_decides() {
    let deny = r#"decisions contains {"effect": "DENY", "rule": "R-D", "reason": "d"} if "#;
    for (condition, effect) in [
        ("input.risk.score * 2 - 5 >= 15", Effect::Deny),
        ("input.risk.score < 10", Effect::Allow),
        ("{1, 2} - {2} == {1}", Effect::Deny),
        ("{1, 2} & {3} == {3}", Effect::Allow),
        (r#"startswith(input.tool.id, "core.")"#, Effect::Deny),
        ("input.params.amount > 5", Effect::Allow),
        (r#"input.environment < "e""#, Effect::Deny),
    ] {
        let decision = outcome(&format!("{ALLOW}\n{deny}{{ {condition} }}"));
        assert_eq!(decision.effect, effect, "{condition}: {decision:?}");
    }
}

#[test]
fn other_forms_of_result_are_errors() {
    for rules in [
        r#"decisions := "ALLOW""#,
        r#"decisions contains "ALLOW" if true"#,
        r#"decisions contains {"effect": "MAYBE", "rule": "r", "reason": "x"} if true"#,
        r#"decisions contains {"effect": "ALLOW", "rule": "r"} if true"#,
        r#"decisions contains {"effect": "ALLOW", "rule": "r", "reason": "x", "y": 1} if true"#,
        r#"decisions contains {"effect": "THROTTLE", "rule": "r", "reason": "x"} if true"#,
        r#"decisions contains {"effect": "DENY", "rule": sprintf("%d", [x]), "reason": "x"} if {
            some x in [11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,
                36,37,38,39,40,41,42,43,44,45,46,47,48,49,50,51,52,53,54,55,56,57,58,59,60,61,62,
                63,64,65,66,67,68,69,70,71,72,73,74,75,76]
        }"#,
    ] {
        denied(&outcome(rules), "policy_error");
    }
    denied(&outcome(&format!("{} false", ALLOW.trim_end_matches("true"))), "policy_no_match");
}

#[test]
fn a_slow_policy_times_out() {
    let list = format!("[{}]", vec!["1"; 200].join(","));
    let slow = format!(
        "l := {list}\n{ALLOW}\ndecisions contains {{\"effect\": \"DENY\", \"rule\": \"r\", \
         \"reason\": \"x\"}} if {{ some a in l; some b in l; some c in l; some d in l; \
         a + b + c + d == 5 }}"
    );
    let desk = Desk::new(&Config { decision_limit_ms: 20, ..Config::default() });
    desk.install(1, &source(&slow));
    denied(&decide(&desk), "policy_timeout");
    desk.install(2, &source(ALLOW));
    assert_eq!(decide(&desk).effect, Effect::Allow, "the thread's next decision is unharmed");
}

#[test]
fn hot_reload_on_every_thread_and_never_back() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(ALLOW));
    let (ready, go) = (std::sync::Barrier::new(3), std::sync::Barrier::new(3));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                assert_eq!(decide(&desk).effect, Effect::Allow);
                ready.wait();
                go.wait();
                let decision = decide(&desk);
                assert_eq!((decision.effect, decision.policy.revision), (Effect::Deny, 2));
            });
        }
        ready.wait();
        desk.install(2, &source(&ALLOW.replace("ALLOW", "DENY")));
        go.wait();
    });
    let error = desk.point.install(&tenant(), 1, bundle(&source(ALLOW)), None).unwrap_err();
    assert_eq!(error.code(), "policy_not_newer");
}

#[test]
fn a_tenant_has_only_its_own_policy() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(ALLOW));
    let mut facts = Facts::new("dev", &["read"]);
    facts.tenant = kernel::ids::TenantId::new("other").unwrap();
    denied(&desk.point.decide(&facts.input()), "policy_absent");
}

#[test]
fn listing_is_its_own_entry_point() {
    let desk = Desk::new(&Config::default());
    let text = format!(
        "package tally\n{ALLOW}\nlisting contains {{\"effect\": \"DENY\", \"rule\": \"R-L\", \
         \"reason\": \"hidden\"}} if true\n"
    );
    let source = policy::Source::new([("p.rego".to_owned(), text.into_bytes())]).unwrap();
    desk.install(1, &source);
    let facts = Facts::new("dev", &["read"]);
    assert_eq!(desk.point.decide(&facts.input()).effect, Effect::Allow);
    denied(&desk.point.list(&facts.input()), "hidden");
}

#[test]
fn the_input_digest_is_of_the_bytes_decided_upon() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &source(ALLOW));
    let facts = Facts::new("dev", &["read"]);
    let decision = desk.point.decide(&facts.input());
    assert_eq!(decision.input_digest, Digest::of(&serde_json::to_vec(&facts.input()).unwrap()));
}

/// The example of `docs/recipes/ask-people.md`, for any tool.
fn staged() -> String {
    let recipe = include_str!("../../../docs/recipes/ask-people.md");
    let (_, rest) = recipe.split_once("   decisions contains {").unwrap();
    let (rule, _) = rest.split_once("```").unwrap();
    format!("decisions contains {{{}", rule.replace("input.tool.id == \"shop.payout\"", "true"))
}

#[test]
fn the_staged_example_of_the_recipe() {
    let decision = outcome(&staged());
    assert_eq!(decision.effect, Effect::RequireApproval, "{decision:?}");
    let demand = decision.obligations.approval.unwrap();
    let stages: Vec<_> = demand.stages.iter().map(|s| (s.name.as_str(), s.quorum)).collect();
    assert_eq!(stages, [("legal", 1), ("security", 2)]);
    assert_eq!((demand.mode, demand.valid_s, demand.signed), (Mode::Serial, Some(600), true));
    assert_eq!(decision.obligations.sod, SeparationOfDuties::Strict);
    assert_eq!(decision.obligations.break_glass, BreakGlass::Forbidden);
    let both = staged().replace("\"mode\": \"serial\",", "\"quorum\": 1,");
    denied(&outcome(&both), "policy_error");
    let misspelt = staged().replace("valid_s", "valid_for");
    denied(&outcome(&misspelt), "policy_error");
}
