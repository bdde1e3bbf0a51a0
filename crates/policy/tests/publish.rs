//! What may be published, and the baseline, which may.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail loudly")]

mod support;

use kernel::decision::PolicyRef;
use kernel::decision::{
    ApprovalDemand, Decision, DecisionPoint, Effect, MatchedRule, Obligations, Stage,
};
use kernel::values::Digest;
use policy::{Config, Source, baseline, check_publishable, itsm, run_tests, simulate};
use proptest::prelude::*;
use serde_json::json;
use support::{ALLOW, Desk, Facts, source};

fn code(rules: &str) -> (String, String) {
    let report = check_publishable(&source(rules));
    report.findings.first().map_or_else(
        || ("publishable".to_owned(), String::new()),
        |finding| (finding.code.to_owned(), finding.message.clone()),
    )
}

#[test]
fn the_baseline_is_publishable_and_is_what_lies_in_the_catalog() {
    let baseline = baseline().unwrap();
    let report = check_publishable(&baseline);
    assert_eq!(report.findings, []);
    assert!(report.tests.tests.len() >= 20, "{:?}", report.tests);
    assert_eq!(report.generated, policy::limits::GENERATED_INPUTS);
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../catalog/policies/baseline");
    assert_eq!(Source::read_dir(dir.as_ref()).unwrap(), baseline);
}

#[test]
fn the_policy_of_triage_is_publishable_and_is_what_lies_in_the_catalog() {
    let triage = itsm().unwrap();
    let report = check_publishable(&triage);
    assert_eq!(report.findings, []);
    assert!(report.tests.tests.len() >= 15, "{:?}", report.tests);
    assert_eq!(report.tests.failed().count(), 0, "{:?}", report.tests);
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../../catalog/policies/itsm");
    assert_eq!(Source::read_dir(dir.as_ref()).unwrap(), triage);
}

#[test]
fn the_baseline_decides_on_the_compiled_path() {
    let desk = Desk::new(&Config::default());
    desk.install(1, &baseline().unwrap());
    for (environment, labels, effect) in [
        ("dev", vec!["read"], Effect::Allow),
        ("prod", vec!["pure"], Effect::Allow),
        ("prod", vec!["write", "external"], Effect::RequireApproval),
        ("dev", vec!["destructive"], Effect::Deny),
        ("prod", vec![], Effect::Deny),
        ("prod", vec!["financial", "write"], Effect::RequireStepUp),
    ] {
        let facts = Facts::new(environment, &labels);
        for decision in [desk.point.decide(&facts.input()), desk.point.list(&facts.input())] {
            assert_eq!(decision.effect, effect, "{environment} {labels:?} {decision:?}");
        }
    }
}

#[test]
fn refused_with_file_and_line() {
    let deny = r#"decisions contains {"effect": "DENY", "rule": "r", "reason": "x"} if"#;
    for (rules, expected, names) in [
        ("decisions contains if {", "policy_syntax", "tally.rego:3"),
        (&format!("{ALLOW}\nx if time.now_ns() > 0"), "policy_builtin", "tally.rego:4"),
        (&format!("{ALLOW}\nx if rand.intn(\"a\", 5) > 0"), "policy_builtin", "rand.intn"),
        (&format!("{ALLOW}\nx if http.send({{}}).ok"), "policy_builtin", "tally.rego:4"),
        (&format!("{ALLOW}\nx if opa.runtime().env"), "policy_builtin", "opa.runtime"),
        (
            &format!("{ALLOW}\n{deny} {{ input.phase == 1 with input as {{}} }}"),
            "policy_not_compilable",
            "tally.rego:4",
        ),
        (
            &format!(
                "{ALLOW}\n{deny} t == \"a\"\n\
                 t := \"a\" if input.phase == \"submit\"\nt := \"b\" if true"
            ),
            "policy_may_disagree",
            "data.tally.t",
        ),
        (
            &format!("{ALLOW}\n{deny} t == \"a\"\nt := x if some x in input.tool.labels"),
            "policy_may_disagree",
            "tally.rego:5",
        ),
        (
            &format!("{ALLOW}\n{deny} f(0) == \"a\"\nf(n) := input.tool.labels[_] if n == 0"),
            "policy_may_disagree",
            "tally.rego:5",
        ),
    ] {
        let (code, message) = code(rules);
        assert_eq!(code, expected, "{rules}: {message}");
        assert!(message.contains(names), "{message}");
    }
}

#[test]
fn an_allow_never_reads_claims() {
    let allow = r#"decisions contains {"effect": "ALLOW", "rule": "r", "reason": "x"} if"#;
    let deny = r#"decisions contains {"effect": "DENY", "rule": "r", "reason": "x"} if"#;
    let helper = "safe if input.claims.target == \"x\"\nis(x) if input.claims.target == x";
    for refused in [
        format!("{allow} input.claims.target == \"x\""),
        format!("{allow} input[\"claims\"].target == \"x\""),
        format!("{allow} {{ some key in [\"claims\"]; input[key].target == \"x\" }}"),
        format!("{allow} {{ whole := input; whole.claims.target == \"x\" }}"),
        format!("{allow} object.get(input, [\"claims\", \"target\"], \"\") == \"x\""),
        format!("{helper}\n{allow} safe"),
        format!("{helper}\n{allow} not safe"),
        format!("{helper}\n{allow} is(\"x\")"),
        format!("{helper}\n{allow} data.tally.safe"),
        format!("{helper}\n{allow} data.tally[\"safe\"]"),
        format!("{helper}\n{allow} {{ some name in [\"safe\"]; data.tally[name] }}"),
        "e := \"ALLOW\"\ndecisions contains {\"effect\": e, \"rule\": \"r\", \"reason\": \"x\"} \
         if input.claims.target == \"x\""
            .to_owned(),
        "mine contains {\"effect\": \"ALLOW\", \"rule\": \"r\", \"reason\": \"x\"} \
         if input.claims.target == \"x\"\ndecisions contains r if some r in mine"
            .to_owned(),
    ] {
        let (code, message) = code(&refused);
        assert_eq!(code, "policy_allow_reads_claims", "{refused}: {message}");
        assert!(message.contains("tally.rego:"), "{message}");
    }
    for fine in [
        format!("{deny} input.claims.target == \"x\""),
        format!("{helper}\n{deny} safe\n{ALLOW}"),
        format!(
            "{ALLOW}\n{deny} f(0) == \"x\"\nf(n) := input.tool.labels[n]\n\
             t := [x | some x in input.tool.labels]"
        ),
        format!("{allow} input.tool.id == \"x\"\n{deny} \"pii\" in input.claims.data_types"),
    ] {
        let (code, message) = code(&fine);
        assert_eq!(code, "publishable", "{fine}: {message}");
    }
}

#[test]
fn what_fails_on_a_valid_input_is_refused() {
    let deny = r#"decisions contains {"effect": "DENY", "rule": "r", "reason": "x"} if"#;
    let (code, message) = code(&format!("{ALLOW}\n{deny} input.budget.remaining_micro_usd < 5"));
    assert_eq!(code, "policy_fails_on_valid_input", "{message}");
    assert!(message.contains("different types"), "{message}");
}

#[test]
fn a_failing_test_is_named() {
    let with = |name: &str, text: &str| {
        let mut files = source(ALLOW).files().clone();
        files.insert(name.to_owned(), text.as_bytes().to_vec());
        Source::new(files).unwrap()
    };
    let rego = "package tally_test\n\ntest_good if count(data.tally.decisions) == 1\n\
                test_bad if count(data.tally.decisions) == 2\n\
                test_broken if to_number(\"x\") == 1\n";
    let report = run_tests(&with("tally_test.rego", rego)).unwrap();
    let failed: Vec<_> = report.failed().map(|test| test.name.as_str()).collect();
    assert_eq!(failed, ["data.tally_test.test_bad", "data.tally_test.test_broken"]);
    assert_eq!(report.tests.len(), 3);

    let cases = r#"[{"name": "good", "expect": {"effect": "ALLOW", "rules": ["R-ALL"]}},
                    {"name": "bad", "expect": {"effect": "DENY"}}]"#;
    let cases = with("cases.json", cases);
    let report = run_tests(&cases).unwrap();
    let failed: Vec<_> = report.failed().map(|test| test.name.as_str()).collect();
    assert_eq!(failed, ["bad"]);
    assert_eq!(check_publishable(&cases).findings[0].code, "policy_test_failed");
    let unknown = with("cases.json", r#"[{"name": "x", "expects": {}}]"#);
    assert_eq!(run_tests(&unknown).unwrap_err().code(), "bundle_malformed");
}

#[test]
fn simulation_says_what_went_wrong() {
    let deny = r#"decisions contains {"effect": "DENY", "rule": "r", "reason": "x"} if"#;
    let source = source(&format!("{ALLOW}\n{deny} to_number(input.params.n) > 5"));
    let inputs = [json!({}), json!({"params": {"n": "7"}}), json!({"params": {"n": "many"}})];
    let found = simulate(&source, &inputs).unwrap();
    let effects: Vec<_> = found.iter().map(|one| one.decision.effect).collect();
    assert_eq!(effects, [Effect::Allow, Effect::Deny, Effect::Deny]);
    assert!(found[2].detail.as_deref().unwrap().contains("to_number"), "{:?}", found[2]);
    assert!(found[1].detail.is_none());
}

const EFFECTS: [Effect; 7] = [
    Effect::Allow,
    Effect::Route,
    Effect::Throttle,
    Effect::RequireApproval,
    Effect::RequireStepUp,
    Effect::Quarantine,
    Effect::Deny,
];

fn demand(quorum: u32) -> ApprovalDemand {
    ApprovalDemand::one(Stage { quorum, ..Stage::default() })
}

proptest! {
    /// No order and no number of rules makes a decision less restrictive than any of them.
    #[test]
    fn the_most_restrictive_rule_wins(
        picks in proptest::collection::vec((0usize..7, 0u32..20), 0..70),
    ) {
        let matched: Vec<MatchedRule> = picks
            .iter()
            .enumerate()
            .map(|(nth, (effect, quorum))| MatchedRule {
                effect: EFFECTS[*effect],
                rule: format!("R-{nth}"),
                reason: "x".to_owned(),
                obligations: Obligations {
                    approval: Some(demand(*quorum)),
                    retry_after_ms: Some(5),
                    route: Some(kernel::ids::ToolId::new("core.other").unwrap()),
                    ..Obligations::default()
                },
            })
            .collect();
        let strictest = matched.iter().map(|rule| rule.effect).max().unwrap_or(Effect::Deny);
        let decision = Decision::combine(matched, PolicyRef::none(), Digest::of(b""));
        prop_assert!(decision.effect >= strictest);
    }
}
