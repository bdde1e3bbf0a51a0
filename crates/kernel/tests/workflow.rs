//! Plans, what their templates stand for, and when their steps run.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use kernel::ids::StepId;
use kernel::json::RawJson;
use kernel::version::Version;
use kernel::workflow::condition::Condition;
use kernel::workflow::template::{Context, render};
use kernel::workflow::{Draft, Plan};
use proptest::prelude::*;
use serde_json::{Value, json};

fn draft(steps: Value) -> Draft {
    let draft = json!({
        "name": "triage",
        "version": "1.0.0",
        "model_pin": {"provider": "anthropic", "model": "m-1"},
        "steps": steps,
    });
    serde_json::from_str(&draft.to_string()).unwrap()
}

fn step(id: &str, more: Value) -> Value {
    let mut step = json!({"id": id, "tool": "core.kv_get", "params": {}, "iterations": 1});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    step
}

#[rustfmt::skip]
#[test]
fn the_rules_of_a_plan() {
    let a = || step("a", json!({}));
    let reads = |text: &str| json!({"params": {"x": text}});
    let good = [
        json!([a()]),
        json!([a(), step("b", json!({"group": "g"})), step("c", json!({"group": "g"}))]),
        // Before the group there is one step; after it there are two.
        json!([a(), step("b", json!({"group": "g", "params": {"x": "{{previous_output}}"}})),
            step("c", json!({"group": "g", "params": {"x": "{{previous_output}}"}})),
            step("d", reads("{{steps.b.output}} {{steps.c.output.x}}"))]),
        json!([step("b", json!({"group": "g"})), step("c", reads("{{previous_output}}"))]),
        json!([a(), step("b", json!({"when": "{{steps.a.output.ok}} == true && !{{input.dry}}"}))]),
        json!([step("a", json!({"retry": {"attempts": 5, "backoff_ms": 3_600_000},
            "timeout_ms": 86_400_000, "output_schema": {}, "approval": {"quorum": 2}}))]),
    ];
    for steps in good {
        let plan = Plan::new(draft(steps.clone()));
        assert!(plan.is_ok(), "{steps}: {plan:?}");
    }
    for (steps, place, code) in [
        (json!([a(), a()]), "steps[1].id", "plan_step_twice"),
        (json!([step("b", json!({"group": "g"})), a(), step("c", json!({"group": "g"}))]),
            "steps[2].group", "plan_group_apart"),
        (json!([step("b", json!({"group": "g"})),
            step("c", json!({"group": "g", "params": {"x": "{{steps.b.output}}"}}))]),
            "steps[1].params.x", "plan_reference_invalid"),
        (json!([step("b", json!({"group": "g"})),
            step("c", json!({"group": "g", "params": {"x": "{{previous_output}}"}}))]),
            "steps[1].params.x", "plan_reference_invalid"),
        (json!([step("b", json!({"group": "g"})), step("c", json!({"group": "g"})),
            step("d", reads("{{previous_output}}"))]),
            "steps[2].params.x", "plan_reference_invalid"),
        (json!([a(), step("b", json!({"when": "{{steps.b.output}}"}))]),
            "steps[1].when", "plan_reference_invalid"),
        (json!([step("a", json!({"when": "{{previous_output}}"}))]),
            "steps[0].when", "plan_reference_invalid"),
        (json!([step("a", json!({"retry": {"attempts": 0}}))]),
            "steps[0].retry.attempts", "plan_out_of_range"),
        (json!([step("a", json!({"retry": {"attempts": 6}}))]),
            "steps[0].retry.attempts", "plan_out_of_range"),
        (json!([step("a", json!({"retry": {"attempts": 1, "backoff_ms": 3_600_001}}))]),
            "steps[0].retry.backoff_ms", "plan_out_of_range"),
        (json!([step("a", json!({"timeout_ms": 0}))]), "steps[0].timeout_ms", "plan_out_of_range"),
        (json!([step("a", json!({"output_schema": true}))]),
            "steps[0].output_schema", "plan_schema_invalid"),
        (json!([step("a", json!({"approval": {"quorum": 0}}))]),
            "steps[0].approval", "plan_approval_invalid"),
        (json!([step("a", json!({"iterations": 0}))]), "steps[0].iterations", "plan_out_of_range"),
        (json!((0..17).map(|n| step(&format!("s{n}"), json!({"group": "g"}))).collect::<Vec<_>>()),
            "steps[16].group", "plan_too_large"),
        (json!((0..2).map(|n| step(&format!("s{n}"), reads(&"x".repeat(600_000))))
            .collect::<Vec<_>>()), "steps", "plan_too_large"),
    ] {
        let refused = Plan::new(draft(steps)).unwrap_err();
        assert_eq!((refused.place.as_str(), refused.why.code()), (place, code), "{refused}");
    }
}

#[test]
fn the_head_of_a_plan() {
    let with = |field: &str, value: Value| {
        let mut head = json!({"name": "n", "steps": [step("a", json!({}))]});
        head[field] = value;
        Plan::new(serde_json::from_str(&head.to_string()).unwrap())
    };
    assert!(with("name", json!("n")).is_ok());
    for (field, value, place) in [
        ("name", json!(""), "name"),
        ("name", json!(" n"), "name"),
        ("name", json!("a\u{0}b"), "name"),
        ("name", json!("x".repeat(129)), "name"),
        ("model_pin", json!({"provider": "", "model": "m"}), "model_pin.provider"),
        ("model_pin", json!({"provider": "p", "model": "\n"}), "model_pin.model"),
        ("triggers", json!([{"type": "event", "event": ""}]), "triggers[0].event"),
        ("triggers", json!(vec![json!({"type": "manual"}); 17]), "triggers"),
    ] {
        assert_eq!(with(field, value).unwrap_err().place, place);
    }
}

#[test]
fn what_changed_has_a_higher_version() {
    let plan = |version: &str, change: &dyn Fn(&mut Draft)| {
        let mut draft = draft(json!([step("a", json!({}))]));
        draft.version = Some(Version::parse(version).unwrap());
        change(&mut draft);
        Plan::new(draft).unwrap()
    };
    let same = |_: &mut Draft| {};
    let model = |draft: &mut Draft| draft.model_pin.as_mut().unwrap().model = "m-2".to_owned();
    let fallback = |draft: &mut Draft| draft.model_pin.as_mut().unwrap().allow_fallback = true;
    let steps = |draft: &mut Draft| draft.steps[0].iterations = 2;
    let unnamed = |draft: &mut Draft| draft.version = None;
    let renamed = |draft: &mut Draft| draft.name = "other".to_owned();
    let first = plan("1.2.0", &same);
    let code = |next: Plan| next.may_follow(&first).map_err(|why| (why.code(), why.to_string()));
    assert_eq!(code(plan("1.2.0", &same)), Ok(()));
    for change in [&same as &dyn Fn(&mut Draft), &model, &fallback, &steps] {
        for higher in ["1.2.1", "1.3.0", "2.0.0-rc.1"] {
            assert_eq!(code(plan(higher, change)), Ok(()), "{higher}");
        }
        for lower in ["1.1.9", "1.2.0-rc.1", "0.9.0", "1.2.0+build"] {
            assert_eq!(code(plan(lower, change)).unwrap_err().0, "plan_version_invalid", "{lower}");
        }
    }
    for (change, says) in [
        (&model as &dyn Fn(&mut Draft), "the model pin"),
        (&fallback, "the model pin"),
        (&steps, "the plan"),
    ] {
        let (code, message) = code(plan("1.2.0", change)).unwrap_err();
        assert_eq!(code, "plan_version_invalid");
        assert!(message.contains(says) && message.contains("1.2.0"), "{message}");
    }
    assert_eq!(code(plan("2.0.0", &unnamed)).unwrap_err().0, "plan_version_invalid");
    assert_eq!(code(plan("2.0.0", &renamed)).unwrap_err().0, "plan_name_changed");
}

fn outputs() -> BTreeMap<StepId, Value> {
    let output = json!({
        "text": "hi", "n": 1.0, "zero": 0, "yes": true, "no": false, "none": null,
        "list": [{"id": 7}, "two"], "empty": [], "nothing": {}, "blank": "",
        "sly": "{{input.secret}}", "wide": 9_007_199_254_740_993_u64,
    });
    BTreeMap::from([(StepId::new("a").unwrap(), output), (StepId::new("b").unwrap(), Value::Null)])
}

#[test]
fn what_templates_stand_for() {
    let (outputs, input) = (outputs(), json!({"to": "x@y", "secret": "s"}));
    let previous = StepId::new("a").unwrap();
    let context = Context { input: &input, outputs: &outputs, previous: Some(&previous) };
    let long = format!("\"{}\"", "{{steps.a.output}}".repeat(10_000));
    for (params, expected) in [
        (r#"{"b": 1,  "a":"as is"}"#, Ok(r#"{"b": 1,  "a":"as is"}"#)),
        // Alone it keeps its type, in a text it becomes text.
        (r#"["{{steps.a.output.list}}"]"#, Ok(r#"[[{"id":7},"two"]]"#)),
        (r#"["{{ steps.a.output.list.0.id }}"]"#, Ok("[7]")),
        (r#"["{{previous_output.yes}}"]"#, Ok("[true]")),
        (r#"["{{previous_output.none}}"]"#, Ok("[null]")),
        (r#"["{{steps.b.output}}"]"#, Ok("[null]")),
        (r#"["{{input}}"]"#, Ok(r#"[{"secret":"s","to":"x@y"}]"#)),
        (r#"["{{input.to}}!"]"#, Ok(r#"["x@y!"]"#)),
        (r#"[" {{input.to}}"]"#, Ok(r#"[" x@y"]"#)),
        (r#"["{{previous_output.n}}{{previous_output.none}}"]"#, Ok(r#"["1null"]"#)),
        (r#"["l={{previous_output.list}}"]"#, Ok(r#"["l=[{\"id\":7},\"two\"]"]"#)),
        // Braces that are meant as such; other braces are no templates.
        (r#"["{{\"{{\"}}x}}"]"#, Ok(r#"["{{x}}"]"#)),
        (r#"["{ {} }}"]"#, Ok(r#"["{ {} }}"]"#)),
        // The same written with escapes.
        ("[\"\\u007b\\u007binput.to}}\"]", Ok(r#"["x@y"]"#)),
        // What is put in is not read again.
        (
            r#"["{{previous_output.sly}}", "<{{previous_output.sly}}>"]"#,
            Ok(r#"["{{input.secret}}","<{{input.secret}}>"]"#),
        ),
        (r#"["{{previous_output.absent}}"]"#, Err("template_missing")),
        (r#"["{{previous_output.list.2}}"]"#, Err("template_missing")),
        (r#"["{{previous_output.list.id}}"]"#, Err("template_missing")),
        (r#"["{{previous_output.text.0}}"]"#, Err("template_missing")),
        (r#"["{{steps.c.output}}"]"#, Err("template_missing")),
        (r#"["{{steps.b.output.x}}"]"#, Err("template_missing")),
        (r#"["{{unknown}}"]"#, Err("template_invalid")),
        (r#"["{{input"]"#, Err("template_invalid")),
        (r#"["{{previous_output.wide}}"]"#, Err("json_number")),
        (&long, Err("params_too_large")),
    ] {
        let rendered = render(&RawJson::parse(params).unwrap(), &context);
        let rendered = rendered.as_ref().map(RawJson::as_str).map_err(|error| error.code());
        assert_eq!(rendered, expected, "{}", params.chars().take(80).collect::<String>());
    }
}

#[test]
fn when_steps_run() {
    let (outputs, input) = (outputs(), json!({"n": 3, "s": "a\"b"}));
    let previous = StepId::new("a").unwrap();
    let context = Context { input: &input, outputs: &outputs, previous: Some(&previous) };
    for (text, expected) in [
        ("{{previous_output.yes}}", true),
        ("{{previous_output.no}}", false),
        ("{{previous_output.none}}", false),
        ("{{previous_output.absent}}", false),
        ("{{steps.b.output.deep.down}}", false),
        ("{{previous_output.zero}}", false),
        ("{{previous_output.n}}", true),
        ("{{previous_output.blank}}", false),
        ("{{previous_output.text}}", true),
        ("{{previous_output.empty}}", false),
        ("{{previous_output.nothing}}", false),
        ("{{previous_output.list}}", true),
        ("!{{previous_output.no}}", true),
        ("!!{{ previous_output.yes }}", true),
        ("{{input.n}} == 3", true),
        ("{{input.n}} == 3.0", true),
        ("{{input.n}} == \"3\"", false),
        ("{{input.n}}!=4", true),
        ("{{input.s}} == \"a\\\"b\"", true),
        ("{{previous_output.text}} == \"hi\" && {{input.n}} == -3", false),
        ("{{previous_output.none}} == null", true),
        ("{{previous_output.absent}} == null", true),
        ("{{previous_output.no}} == false", true),
        ("true || false && false", true),
        ("(true || false) && false", false),
        ("!(true && false) || {{input.n}} == 4", true),
        ("!{{previous_output.no}} == true", true),
        ("{{steps.a.output.list}} != {{steps.a.output.empty}}", true),
        (" true ", true),
        ("1e0 == 1", true),
    ] {
        assert_eq!(Condition::parse(text).unwrap().holds(&context), expected, "{text}");
    }
    for text in [
        "",
        " ",
        "()",
        "{{x}}",
        "{{input",
        "a",
        "true true",
        "true &&",
        "== 1",
        "1 == 1 == 1",
        "'a'",
        "\"a",
        "(true",
        "true)",
        "true & true",
        "input.n",
        "{{input}} > 1",
        "[1] == [1]",
        "9007199254740993",
        "f(1)",
        "{{input.n}} + 1",
    ] {
        assert!(Condition::parse(text).is_err(), "{text}");
    }
    assert!(Condition::parse(&"!".repeat(16)).is_err());
    assert!(Condition::parse(&format!("{}true", "!".repeat(15))).is_ok());
    assert!(Condition::parse(&format!("true{}", " && true".repeat(124))).is_ok());
    assert!(Condition::parse(&format!("true{}", " && true".repeat(125))).is_err());
}

proptest! {
    #[test]
    fn conditions_end(text in r#"([!&|=() ]|\{\{|\}\}|input|true|"a"|1|\.){0,40}"#) {
        let (outputs, input) = (outputs(), json!({}));
        let context = Context { input: &input, outputs: &outputs, previous: None };
        if let Ok(condition) = Condition::parse(&text) {
            let again = Condition::parse(condition.as_str()).unwrap();
            prop_assert_eq!(again.holds(&context), condition.holds(&context));
        }
    }
}
