//! Plans and what they would come to: a table of exact answers, and rules that hold for all plans.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use kernel::decision::Effect;
use kernel::failure::Failure;
use kernel::ids::{StepId, ToolId};
use kernel::json::RawJson;
use kernel::simulate::{
    Alternative, Answer, Calibration, Confidence, History, Models, Simulation, Spread, Status,
    Verdict, Verdicts, invalid, simulate,
};
use kernel::values::{Digest, MicroUsd, Timestamp};
use kernel::workflow::skills::{SkillStep, compile};
use kernel::workflow::{Draft, Plan};
use proptest::prelude::*;
use proptest::test_runner::Config;
use serde_json::{Value, json};

const CENT: i64 = 10_000;
const SEED: u32 = 42;

fn list(plan: &Value) -> Vec<SkillStep> {
    serde_json::from_str(&plan.to_string()).unwrap()
}

/// What is allowed, step by step.
fn allowed(plan: &Plan) -> Verdicts {
    let verdict = Verdict { available: true, effect: Some(Effect::Allow), ..Verdict::default() };
    plan.steps.iter().map(|step| (step.id.clone(), verdict.clone())).collect()
}

fn ask(plan: &Plan, cents: i64, history: &Calibration) -> Simulation {
    let budget = MicroUsd(cents * CENT);
    simulate(plan, &Models::priors(), budget, &allowed(plan), history, SEED).unwrap()
}

/// The answer about a list of skills.
fn about(plan: &Value, cents: i64) -> Answer {
    let budget = MicroUsd(cents * CENT);
    match compile(&list(plan)) {
        Ok(plan) => ask(&plan, cents, &Calibration::new()).answer,
        Err(refused) => {
            let source = Digest::of(plan.to_string().as_bytes());
            invalid(Failure::from(refused), source, budget, SEED).unwrap().answer
        }
    }
}

fn step(skill: &str) -> Value {
    json!({"skill": skill, "params": {}})
}

fn times(skill: &str, iterations: u32) -> Value {
    json!({"skill": skill, "params": {}, "iterations": iterations})
}

fn prompt(chars: usize) -> Value {
    json!({"skill": "llm_invoke", "params": {"prompt": "x".repeat(chars)}})
}

fn many(one: &Value, count: usize) -> Value {
    Value::Array(vec![one.clone(); count])
}

/// A plan, the budget in cents; the status, the cost in cents, milliseconds, what remains, and
/// `cost/latency` of each step.
type Row = (Value, i64, Status, i64, u64, i64, &'static [(i64, u64)]);

#[rustfmt::skip]
fn priced() -> Vec<Row> {
    use Status::{BudgetInsufficient as Short, Feasible as Good};
    let seed = json!([
        {"skill": "http_call", "params": {"url": "..."}},
        {"skill": "llm_invoke", "params": {"prompt": "..."}},
    ]);
    vec![
        (seed.clone(), 100, Good, 5, 2_500, 95, &[(0, 500), (5, 2_000)]),
        (seed.clone(), 5, Good, 5, 2_500, 0, &[(0, 500), (5, 2_000)]),
        (seed, 4, Short, 5, 2_500, -1, &[(0, 500), (5, 2_000)]),
        (json!([step("http_call")]), 1_000, Good, 0, 500, 1_000, &[(0, 500)]),
        (json!([step("llm_invoke")]), 1_000, Good, 5, 2_000, 995, &[(5, 2_000)]),
        (json!([step("json_transform")]), 1_000, Good, 0, 10, 1_000, &[(0, 10)]),
        (json!([step("fs_read")]), 1_000, Good, 0, 50, 1_000, &[(0, 50)]),
        (json!([step("fs_write")]), 1_000, Good, 0, 100, 1_000, &[(0, 100)]),
        (json!([step("webhook_send")]), 1_000, Good, 0, 300, 1_000, &[(0, 300)]),
        (json!([step("email_send")]), 1_000, Good, 1, 500, 999, &[(1, 500)]),
        (json!([step("kv_get")]), 1_000, Good, 0, 5, 1_000, &[(0, 5)]),
        (json!([step("kv_set")]), 1_000, Good, 0, 10, 1_000, &[(0, 10)]),
        // A free plan needs no budget.
        (json!([step("http_call")]), 0, Good, 0, 500, 0, &[(0, 500)]),
        (json!([step("email_send")]), 0, Short, 1, 500, -1, &[(1, 500)]),
        // Ten calls of a model on ten cents, and on a hundred.
        (many(&step("llm_invoke"), 10), 10, Short, 50, 20_000, -40, &[(5, 2_000); 10]),
        (many(&step("llm_invoke"), 10), 100, Good, 50, 20_000, 50, &[(5, 2_000); 10]),
        (many(&step("llm_invoke"), 10), 50, Good, 50, 20_000, 0, &[(5, 2_000); 10]),
        (many(&step("llm_invoke"), 10), 49, Short, 50, 20_000, -1, &[(5, 2_000); 10]),
        (json!([times("llm_invoke", 10)]), 10, Short, 50, 20_000, -40, &[(50, 20_000)]),
        (json!([times("llm_invoke", 10)]), 100, Good, 50, 20_000, 50, &[(50, 20_000)]),
        // A hundred of them.
        (json!([times("llm_invoke", 100)]), 10, Short, 500, 200_000, -490, &[(500, 200_000)]),
        (json!([times("llm_invoke", 100)]), 500, Good, 500, 200_000, 0, &[(500, 200_000)]),
        (many(&step("llm_invoke"), 100), 10, Short, 500, 200_000, -490, &[(5, 2_000); 100]),
        (json!([times("http_call", 100)]), 0, Good, 0, 50_000, 0, &[(0, 50_000)]),
        (json!([times("email_send", 3)]), 2, Short, 3, 1_500, -1, &[(3, 1_500)]),
        // A cent for a thousand characters, but five at least; rounded up once.
        (json!([prompt(4_999)]), 100, Good, 5, 2_000, 95, &[(5, 2_000)]),
        (json!([prompt(5_000)]), 100, Good, 5, 2_000, 95, &[(5, 2_000)]),
        (json!([prompt(5_001)]), 100, Good, 6, 2_000, 94, &[(6, 2_000)]),
        (json!([prompt(100_000)]), 100, Good, 100, 2_000, 0, &[(100, 2_000)]),
        (json!([prompt(100_000)]), 99, Short, 100, 2_000, -1, &[(100, 2_000)]),
        (json!([prompt(5_500), prompt(5_500)]), 11, Good, 11, 4_000, 0, &[(6, 2_000), (6, 2_000)]),
        (json!([prompt(5_500), prompt(5_500)]),
            10, Short, 11, 4_000, -1, &[(6, 2_000), (6, 2_000)]),
        (json!([{"skill": "llm_invoke", "params": {"messages": [
            {"role": "user", "content": "ä".repeat(9_996)}], "model": "y".repeat(90_000)}}]),
            100, Good, 10, 2_000, 90, &[(10, 2_000)]),
        (json!([{"skill": "llm_invoke", "params": {"prompt": "p".repeat(4_000),
            "system": "s".repeat(4_000)}, "iterations": 2}]),
            100, Good, 16, 4_000, 84, &[(16, 4_000)]),
        // The long name is the same skill.
        (json!([step("core.llm_invoke")]), 5, Good, 5, 2_000, 0, &[(5, 2_000)]),
        (json!([{"skill": "llm_invoke"}]), 5, Good, 5, 2_000, 0, &[(5, 2_000)]),
        // What a step reads from the one before.
        (json!([step("http_call"), {"skill": "json_transform", "params": {
            "data": "{{previous_output}}", "filter": "{name: .name}"}}]),
            1, Good, 0, 510, 1, &[(0, 500), (0, 10)]),
        (json!([step("kv_get"), {"skill": "llm_invoke", "params": {
            "prompt": "Say {{previous_output.a.0}} and {{steps.step_1.output.b-c}}"}},
            {"skill": "email_send", "params": {"to": "{{input.to}}",
            "text": "{{steps.step_2.output.text}}"}}]),
            6, Good, 6, 2_505, 0, &[(0, 5), (5, 2_000), (1, 500)]),
        (json!([step("fs_read"), step("llm_invoke"), step("fs_write"), step("webhook_send")]),
            7, Good, 5, 2_450, 2, &[(0, 50), (5, 2_000), (0, 100), (0, 300)]),
        (many(&times("kv_get", 100), 100), 0, Good, 0, 50_000, 0, &[(0, 500); 100]),
    ]
}

#[test]
fn prices_and_times() {
    for (plan, budget, status, cost, ms, left, steps) in priced() {
        let what = plan.to_string().chars().take(200).collect::<String>();
        let answer = about(&plan, budget);
        let found: Vec<(i64, u64)> = answer
            .step_estimates
            .iter()
            .map(|step| (step.estimated_cost_cents, step.estimated_latency_ms))
            .collect();
        let enough = status == Status::Feasible;
        assert_eq!(answer.status, status, "{what}");
        assert_eq!((answer.feasible, answer.budget_sufficient), (enough, enough), "{what}");
        assert_eq!(answer.estimated_cost_cents, cost, "{what}");
        assert_eq!(answer.estimated_duration_ms, ms, "{what}");
        assert_eq!(answer.budget_remaining_cents, left, "{what}");
        assert_eq!(found, steps, "{what}");
        assert_eq!((answer.risks, answer.confidence), (vec![], Confidence::Low), "{what}");
        assert_eq!(answer.refusal.map(|r| r.code), (!enough).then(|| status.as_str().to_owned()));
        let raise = Alternative::RaiseBudget { budget_cents: cost };
        assert_eq!(answer.alternatives, if enough { vec![] } else { vec![raise] }, "{what}");
        assert!(answer.permitted, "{what}");
    }
}

/// Plans with an unknown skill, each with what is proposed in its place.
#[test]
fn unknown_skills() {
    for (plan, cost, proposed) in [
        (json!([step("quantum_compute")]), 0, &[][..]),
        (json!([step("http_cal")]), 0, &["http_call"][..]),
        (json!([step("llm_invoke"), step("kv_ge")]), 5, &["kv_get", "kv_set"][..]),
        (json!([step("json-transform")]), 0, &["json_transform"][..]),
        (json!([step("mcp.files.read")]), 0, &[][..]),
        (json!([step("shell_lite")]), 0, &[][..]),
    ] {
        let answer = about(&plan, 1_000);
        assert_eq!((answer.feasible, answer.status), (false, Status::SkillUnavailable), "{plan}");
        assert_eq!(answer.estimated_cost_cents, cost, "{plan}");
        let names: Vec<&str> = answer
            .alternatives
            .iter()
            .filter_map(|alternative| match alternative {
                Alternative::UseSkill { skill_id, .. } => Some(skill_id.as_str()),
                Alternative::RaiseBudget { .. } => None,
            })
            .collect();
        assert_eq!(names, proposed, "{plan}");
    }
}

/// Plans that are none, each with the place and the code.
#[rustfmt::skip]
#[test]
fn no_plans() {
    let with = |params: Value| json!([step("kv_get"), {"skill": "kv_set", "params": params}]);
    let reads = |template: &str| with(json!({"value": template}));
    for (plan, place, code) in [
        (json!([]), "plan", "plan_empty"),
        (many(&step("kv_get"), 101), "plan", "plan_too_large"),
        (json!([times("kv_get", 0)]), "plan[0].iterations", "plan_out_of_range"),
        (json!([times("kv_get", 101)]), "plan[0].iterations", "plan_out_of_range"),
        (json!([step("HTTP")]), "plan[0].skill", "plan_name_invalid"),
        (json!([step("kv_get"), step("")]), "plan[1].skill", "plan_name_invalid"),
        (json!([step("a b")]), "plan[0].skill", "plan_name_invalid"),
        (json!([{"skill": "kv_get", "params": []}]), "plan[0].params", "plan_params_invalid"),
        (json!([{"skill": "kv_get", "params": {"key": "{{previous_output}}"}}]),
            "plan[0].params.key", "plan_reference_invalid"),
        (reads("{{steps.step_2.output}}"), "plan[1].params.value", "plan_reference_invalid"),
        (reads("{{steps.step_3.output}}"), "plan[1].params.value", "plan_reference_invalid"),
        (reads("{{previous}}"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{steps.step_1}}"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{previous_output"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{previous_output.a b}}"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{previous_output..a}}"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{ \"x }}"), "plan[1].params.value", "plan_template_invalid"),
        (reads("{{1 + 1}}"), "plan[1].params.value", "plan_template_invalid"),
        (reads(&"{{input}}".repeat(65)), "plan[1].params.value", "plan_too_large"),
        (with(json!({"a": [0, {"b": "{{x}}"}]})), "plan[1].params.a[1].b", "plan_template_invalid"),
        (with(json!({"{{input}}": 1})), "plan[1].params", "plan_template_invalid"),
    ] {
        let answer = about(&plan, 1_000);
        let what = plan.to_string().chars().take(200).collect::<String>();
        assert_eq!((answer.feasible, answer.status), (false, Status::InvalidPlan), "{what}");
        assert!(!answer.permitted && answer.step_estimates.is_empty(), "{what}");
        let refusal = answer.refusal.unwrap();
        let kind = refusal.category.as_str();
        assert_eq!((refusal.code.as_str(), kind), (code, "VALIDATION"), "{what}");
        assert!(refusal.message.starts_with(&format!("{place}: ")), "{what}: {refusal}");
    }
}

fn tool(id: &str) -> ToolId {
    ToolId::new(id).unwrap()
}

#[test]
fn prices_follow_from_history() {
    let plan = compile(&list(&json!([times("email_send", 2), step("llm_invoke")]))).unwrap();
    let paid = |cost_disabled_until| History {
        attempts: 50,
        latency: Some(Spread { p50: 40, p90: 60 }),
        cost: Some(Spread { p50: 2_000, p90: 9_000 }),
        cost_disabled_until,
        ..History::default()
    };
    let with = |cents, until| {
        let calibration: Calibration =
            ["email.send", "llm.invoke"].map(|id| (tool(id), paid(until))).into();
        ask(&plan, cents, &calibration).answer
    };
    let answer = with(100, None);
    // What follows from the text stays with that.
    let costs: Vec<i64> =
        answer.step_estimates.iter().map(|step| step.estimated_cost_micro_usd.0).collect();
    assert_eq!((costs, answer.estimated_cost_cents), (vec![4_000, 50_000], 6));
    let most: Vec<_> = answer.step_estimates.iter().map(|step| step.p90_cost_micro_usd).collect();
    assert_eq!(most, [Some(MicroUsd(18_000)), None]);
    assert_eq!((answer.estimated_duration_ms, answer.confidence), (120, Confidence::Medium));
    assert_eq!(answer.warnings, []);
    // What is usual fits, but not what is held for the second step.
    let plan = compile(&list(&json!([times("email_send", 2)]))).unwrap();
    let tight = |cents| {
        let calibration = [(tool("email.send"), paid(None))].into();
        ask(&plan, cents, &calibration).answer
    };
    assert_eq!((tight(2).feasible, tight(2).warnings), (true, vec![]));
    let answer = tight(1);
    assert_eq!((answer.feasible, answer.warnings.len()), (true, 1));
    assert_eq!(answer.warnings[0].code, "budget_below_worst_case");
    // A disabled estimator is not believed, and that is said.
    let doubted = with(100, Some(Timestamp(7)));
    assert_eq!((doubted.estimated_cost_cents, doubted.confidence), (7, Confidence::Low));
    let codes: Vec<_> = doubted.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(codes, ["estimator_disabled"; 2]);
}

#[test]
fn risks_follow_from_history_alone() {
    let plan = compile(&list(&json!([times("http_call", 3), step("kv_get")]))).unwrap();
    let with = |attempts, failures| {
        let latency = Some(Spread { p50: 700, p90: 900 });
        let history = History { attempts, failures, latency, ..History::default() };
        ask(&plan, 10, &[(tool("core.http_call"), history)].into()).answer
    };
    // Too little to conclude from.
    let little = with(9, 9);
    assert_eq!((little.estimated_duration_ms, little.status), (1_505, Status::Feasible));
    assert_eq!((little.risks.len(), little.confidence), (0, Confidence::Low));
    let some = with(99, 0);
    assert_eq!(some.estimated_duration_ms, 2_105);
    let first = &some.step_estimates[0];
    assert_eq!((first.p90_latency_ms, first.confidence), (Some(2_700), Confidence::Medium));
    assert_eq!(with(100, 0).step_estimates[0].confidence, Confidence::High);
    // One in twenty is told of from above that on; 1 - 0.8^3 = 48.8 % is not too much, 0.79^3 is.
    assert_eq!(with(100, 5).risks, []);
    let risky = with(100, 20);
    assert_eq!((risky.feasible, risky.status), (true, Status::Feasible));
    assert_eq!((risky.risks[0].probability_ppm, risky.risks[0].attempts), (200_000, 100));
    let bad = with(100, 21);
    assert_eq!((bad.feasible, bad.status), (true, Status::RiskTooHigh));
    assert_eq!(bad.refusal.unwrap().code, "risk_too_high");
    assert_eq!(with(100, u64::MAX).risks[0].probability_ppm, 1_000_000);
}

#[test]
fn policy_has_its_say_beside_feasible() {
    let plan = compile(&list(&json!([step("http_call"), step("llm_invoke")]))).unwrap();
    let say = |effect: Option<Effect>, available: bool, cents: i64| {
        let mut verdicts = allowed(&plan);
        let reasons = vec!["because".to_owned()];
        let verdict = Verdict { available, effect, reasons, ..Verdict::default() };
        verdicts.insert(StepId::new("step_2").unwrap(), verdict);
        let (models, budget) = (Models::priors(), MicroUsd(cents * CENT));
        simulate(&plan, &models, budget, &verdicts, &Calibration::new(), SEED).unwrap().answer
    };
    for effect in [
        Effect::Allow,
        Effect::Route,
        Effect::Throttle,
        Effect::RequireApproval,
        Effect::RequireStepUp,
    ] {
        let answer = say(Some(effect), true, 100);
        assert_eq!((answer.permitted, answer.status), (true, Status::Feasible), "{effect:?}");
        assert_eq!(answer.outlooks[1].verdict.effect, Some(effect));
    }
    for (effect, available, status, code) in [
        (Some(Effect::Deny), true, Status::PermissionDenied, "policy_denied"),
        (Some(Effect::Quarantine), true, Status::PermissionDenied, "policy_quarantine"),
        (None, true, Status::PermissionDenied, "policy_unknown"),
        (None, false, Status::Feasible, "tool_unavailable"),
    ] {
        let answer = say(effect, available, 100);
        assert_eq!((answer.feasible, answer.permitted), (true, false), "{code}");
        assert_eq!(answer.status, status, "{code}");
        assert_eq!(answer.permission_gaps.len(), 1);
        let gap = &answer.permission_gaps[0];
        assert_eq!((gap.code, gap.step_id.as_str(), gap.available), (code, "step_2", available));
        assert_eq!(answer.refusal.is_some(), status != Status::Feasible);
    }
    // What cannot be comes before what may not be.
    assert_eq!(say(Some(Effect::Deny), true, 1).status, Status::BudgetInsufficient);
    // A step that nobody asked about may not run.
    let (models, none) = (Models::priors(), Verdicts::new());
    let asked = simulate(&plan, &models, MicroUsd(CENT), &none, &Calibration::new(), SEED);
    assert_eq!((asked.unwrap().answer.permission_gaps.len()), 2);
}

#[test]
fn a_group_takes_as_long_as_its_slowest() {
    let one = |id: &str, tool: &str, group: Option<&str>| {
        let mut step = json!({"id": id, "tool": tool, "params": {}, "iterations": 1});
        if let Some(group) = group {
            step["group"] = group.into();
        }
        step
    };
    let steps = json!([
        one("a", "core.http_call", None),
        one("b", "llm.invoke", Some("x")),
        one("c", "core.http_call", Some("x")),
        one("d", "email.send", Some("y")),
        one("e", "kv.get", Some("y")),
        one("f", "kv.get", None),
        one("g", "kv.get", None),
    ]);
    let draft: Draft =
        serde_json::from_str(&json!({"name": "n", "steps": steps}).to_string()).unwrap();
    let answer = ask(&Plan::new(draft).unwrap(), 6, &Calibration::new()).answer;
    assert_eq!(answer.estimated_duration_ms, 500 + 2_000 + 500 + 5 + 5);
    assert_eq!((answer.estimated_cost_cents, answer.feasible), (6, true));
}

#[test]
fn the_root_hash_is_that_of_question_and_answer() {
    let plan = |text: &str| compile(&list(&json!([{"skill": "kv_get", "params": {"k": text}}])));
    let first = plan("a").unwrap();
    let history = Calibration::new();
    let again = ask(&first, 10, &history);
    assert_eq!(ask(&first, 10, &history), again);
    let hash = |simulation: Simulation| simulation.root_hash;
    assert_ne!(hash(ask(&plan("b").unwrap(), 10, &history)), again.root_hash);
    assert_ne!(hash(ask(&first, 11, &history)), again.root_hash);
    let models = Models::priors();
    let asked = |verdicts: &Verdicts, seed| {
        simulate(&first, &models, MicroUsd(10 * CENT), verdicts, &history, seed).unwrap().root_hash
    };
    assert_eq!(asked(&allowed(&first), SEED), again.root_hash);
    assert_ne!(asked(&allowed(&first), 43), again.root_hash);
    assert_ne!(asked(&Verdicts::new(), SEED), again.root_hash);
    let latency = Some(Spread { p50: 5, p90: 5 });
    let known = History { attempts: 10, latency, ..History::default() };
    let calibrated = [(tool("kv.get"), known.clone())].into();
    assert_ne!(hash(ask(&first, 10, &calibrated)), again.root_hash);
    // The history of a tool that the plan does not use is beside the question.
    let beside = [(tool("kv.set"), known)].into();
    assert_eq!(hash(ask(&first, 10, &beside)), again.root_hash);
}

fn steps() -> impl Strategy<Value = Vec<SkillStep>> {
    let skill = prop_oneof![
        8 => prop::sample::select(vec![
            "http_call", "llm_invoke", "json_transform", "fs_read", "fs_write", "webhook_send",
            "email_send", "kv_get", "kv_set", "core.http_call", "mcp.a.b",
        ]).prop_map(str::to_owned),
        1 => "[a-z_]{0,12}",
        1 => ".{0,70}",
    ];
    let text = prop_oneof![
        Just("{{previous_output}}".to_owned()),
        Just("x {{ steps.step_1.output.a.0 }} {{\"{{\"}} {{input}}".to_owned()),
        "\\{\\{(previous_output|input|steps)[a-z_.0-9]{0,12}\\}\\}",
        "[{}\" a-z.]{0,24}",
        ".{0,24}",
    ];
    let leaf = prop_oneof![text.prop_map(Value::from), any::<i32>().prop_map(Value::from)];
    let params = leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z{}]{0,6}|prompt", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    });
    let params = prop_oneof![Just(json!({})), params];
    let iterations = prop_oneof![4 => 1..=100_u32, 1 => any::<u32>()];
    let one = (skill, params, iterations).prop_map(|(skill, params, iterations)| SkillStep {
        skill,
        params: RawJson::parse(&params.to_string()).unwrap(),
        iterations,
    });
    prop::collection::vec(one, 0..6)
}

proptest! {
    #![proptest_config(Config { cases: 10_000, ..Config::default() })]

    /// Whatever is asked, there is an answer; where it is no yes, it says why as data.
    #[test]
    fn every_plan_has_an_answer(
        list in steps(),
        cents in 0..2_000_i64,
        effects in prop::collection::vec(0..8_usize, 6),
        history in prop::option::of((any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>())),
    ) {
        let budget = MicroUsd(cents * CENT);
        let plan = match compile(&list) {
            Ok(plan) => plan,
            Err(refused) => {
                let refusal = Failure::from(refused);
                prop_assert!(!refusal.code.is_empty() && !refusal.message.is_empty());
                prop_assert!(!refusal.retryable);
                let none = invalid(refusal, Digest::of(b""), budget, SEED).unwrap().answer;
                prop_assert_eq!((none.feasible, none.status), (false, Status::InvalidPlan));
                return Ok(());
            }
        };
        let all = [
            Effect::Allow, Effect::Route, Effect::Throttle, Effect::RequireApproval,
            Effect::RequireStepUp, Effect::Quarantine, Effect::Deny,
        ];
        let verdicts: Verdicts = plan.steps.iter().zip(effects).map(|(step, effect)| {
            let effect = all.get(effect).copied();
            (step.id.clone(), Verdict { available: effect.is_some(), effect, ..Verdict::default() })
        }).collect();
        let calibration: Calibration = history.map(|(attempts, failures, p50_ms, p90_ms)| {
            let latency = Some(Spread { p50: p50_ms, p90: p90_ms });
            let known = History { attempts, failures, latency, ..History::default() };
            (tool("core.http_call"), known)
        }).into_iter().collect();
        let models = Models::priors();
        let run = || simulate(&plan, &models, budget, &verdicts, &calibration, SEED).unwrap();
        let (simulation, again) = (run(), run());
        prop_assert_eq!(&simulation, &again);
        let answer = simulation.answer;
        prop_assert_eq!(answer.refusal.is_none(), answer.status == Status::Feasible);
        let known = plan.steps.iter().all(|step| models.get(&step.tool).is_some());
        prop_assert_eq!(answer.feasible, known && answer.estimated_cost_micro_usd <= budget);
        let sum: i64 = answer.step_estimates.iter().map(|s| s.estimated_cost_micro_usd.0).sum();
        prop_assert_eq!(sum, answer.estimated_cost_micro_usd.0);
        prop_assert_eq!(answer.estimated_cost_cents, (sum + CENT - 1) / CENT);
        prop_assert_eq!(answer.permitted, answer.permission_gaps.is_empty());
        // A plan is kept as it was: its canonical form reads as itself.
        let text = String::from_utf8(plan.canonical().unwrap()).unwrap();
        let read: Plan = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(read.digest(), plan.digest());
    }
}
