//! `core.json_transform` with real workers. This program is its own worker.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "without a harness clippy does not see that this is a test"
)]

use connectors::transform::{Worker, worker_main};
use connectors::{Call, EffectChange, EffectCheck, Outcome, Tools, ToolsConfig};
use kernel::failure::Failure;
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde_json::{Value, json};

struct Never;

impl EffectCheck for Never {
    fn allow(&self, effect: &EffectChange) -> Result<(), Failure> {
        panic!("a filter has no effect that could differ: {effect:?}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    if std::env::args().nth(1).as_deref() == Some("worker") {
        return Ok(worker_main()?);
    }
    let worker =
        Worker { program: std::env::current_exe()?, args: vec!["worker".into()], env: vec![] };
    let tools = Tools::new(ToolsConfig { jq_worker: Some(worker), ..ToolsConfig::default() })?;
    tokio::runtime::Runtime::new()?.block_on(async {
        puts_out(&tools).await;
        refuses(&tools).await;
        stops_bombs(&tools).await;
    });
    Ok(())
}

async fn run(tools: &Tools, input: &Value, filter: &str) -> Outcome {
    let plan_digest = Digest::of(b"plan");
    let params = json!({"input": input, "filter": filter});
    let call = Call {
        tenant: &TenantId::new("acme").unwrap(),
        permit: &testkit::permit(plan_digest),
        tool: &ToolId::new("core.json_transform").unwrap(),
        plan_digest,
        params: &RawJson::parse(&params.to_string()).unwrap(),
        now: Timestamp(0),
        redirect: &Never,
        secrets: &connectors::mcp::NoSecrets,
        store: &connectors::kv::NoKeyValues,
        in_doubt: false,
    };
    tools.execute(call).await
}

async fn puts_out(tools: &Tools) {
    for (input, filter, expect) in [
        (json!({"a": [1, 2]}), ".a[]", json!([1, 2])),
        (json!({"a": {"b": "c"}}), ".a.b | ascii_upcase", json!(["C"])),
        (json!([3, 1, 2]), "sort, (map(. + 1) | add)", json!([[1, 2, 3], 9])),
        (json!(null), "empty", json!([])),
        (json!([{"k": 1, "v": 2}]), "map({(.k | tostring): .v}) | add", json!([{"1": 2}])),
        (
            json!("a-b"),
            r#"test("^a"), sub("-"; "+"), split("-")"#,
            json!([true, "a+b", ["a", "b"]]),
        ),
        (json!({"a": null}), ".a // \"none\"", json!(["none"])),
        (json!([1, [2, [3]]]), "flatten", json!([[1, 2, 3]])),
        (json!(1.5), "[limit(3; repeat(.))] | length", json!([3])),
        (json!({"a": 1}), "to_entries | from_entries", json!([{"a": 1}])),
    ] {
        match run(tools, &input, filter).await {
            Outcome::Executed(done) => {
                assert_eq!(done.result.to_value()["output"], expect, "{filter}");
            }
            other => panic!("{filter}: {other:?}"),
        }
    }
}

async fn check_failed(tools: &Tools, filter: &str, codes: &[&str]) {
    match run(tools, &json!({"a": 1}), filter).await {
        Outcome::Failed(failure) => {
            assert!(codes.contains(&failure.code.as_str()), "{filter}: {failure}");
        }
        other => panic!("{filter}: {other:?}"),
    }
}

async fn refuses(tools: &Tools) {
    let outside = "env $ENV now input inputs debug stderr halt halt_error localtime $__prog_args";
    for filter in outside.split(' ').chain([".[", "nothing_like_this", "import \"a\" as a; .", "@"])
    {
        check_failed(tools, filter, &["filter_invalid"]).await;
    }
    for filter in [".a.b", "error(\"no\")", "nan | tojson | fromjson | error"] {
        check_failed(tools, filter, &["filter_failed"]).await;
    }
    check_failed(tools, &"[".repeat(8_000), &["filter_invalid"]).await;
}

/// Each would hang, or take the daemon down with it, if it ran inside.
async fn stops_bombs(tools: &Tools) {
    let stopped = ["timeout", "filter_limit"];
    for filter in [
        "repeat(1)",
        "range(1e18)",
        "def f: f; f",
        "def f: 1 + f; f",
        "[repeat(1)]",
        "[range(1e12)] | length",
        "last(repeat(1))",
        "reduce repeat(1) as $x (0; . + $x)",
        "\"a\" * 10000000000 | length",
        "def f: . + .; \"aaaaaaaaaa\" | [limit(60; repeat(.))] | until(false; . + .)",
        "[limit(1e5; repeat(\"a\" * 100))]",
    ] {
        check_failed(tools, filter, &stopped).await;
    }
    // And the next one runs as if nothing had happened.
    assert!(matches!(run(tools, &json!(1), ".").await, Outcome::Executed(_)));
}
