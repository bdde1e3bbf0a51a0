//! The agents in `examples/agents/` run as the guide says.
#![expect(clippy::expect_used, clippy::panic, reason = "helpers of tests fail loudly")]

#[expect(dead_code, reason = "the corpus uses more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kernel::attestation::{CodeKind, Ending, Limits};
use sandbox::{Door, DoorAnswer, DoorFailure, Sandboxes};
use serde_json::{Value, json};
use support::{Job, config, source};

/// Incidents that may be changed, but for one.
#[derive(Debug, Default)]
struct Desk(Mutex<Vec<(String, Value)>>);

#[async_trait]
impl Door for Desk {
    async fn call(&self, _seq: u32, tool: &str, args: &str) -> DoorAnswer {
        let args: Value = serde_json::from_str(args).expect("JSON");
        let refused = args.get("number").is_some_and(|number| number == "INC2");
        self.0.lock().expect("calls").push((tool.to_owned(), args));
        let failure = DoorFailure {
            code: "policy_denied".to_owned(),
            message: "not this one".to_owned(),
            fatal: false,
            denied: true,
        };
        let result = if refused { Err(failure) } else { Ok("{}".to_owned()) };
        DoorAnswer { result, held_ms: 0 }
    }
}

fn installed(variable: &str) -> PathBuf {
    std::env::var_os(variable).map(PathBuf::from).unwrap_or_else(|| {
        panic!(
            "{variable} is not set: run `cargo xtask test`, or what `cargo xtask foreign` prints"
        )
    })
}

#[tokio::test]
async fn both_agents_do_the_same() {
    let mut config = config(&Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples"));
    config.runtimes = Some(installed("TALLY_RUNTIMES"));
    config.cache = installed("TALLY_SANDBOX_CACHE");
    let boxes = Sandboxes::new(config).expect("sandboxes");
    let agents = [
        (CodeKind::Python, include_str!("../../../examples/agents/triage.py")),
        (CodeKind::Javascript, include_str!("../../../examples/agents/triage.js")),
    ];
    let incident = |number, age_h| json!({"number": number, "age_h": age_h});
    let incidents = [incident("INC1", 30), incident("INC2", 90), incident("INC3", 1)];
    let input = json!({"limit_h": 24, "incidents": incidents}).to_string();
    for (kind, text) in agents {
        let desk = Arc::new(Desk::default());
        let limits = Limits { cpu_ms: 60_000, ..sandbox::limits::DEFAULT };
        let job = Job { door: desk.clone(), limits, ..Job::of(&input) };
        let report = job.run(&boxes, source(kind, text)).await.expect("a report");
        assert_eq!(report.ending, Ending::Success, "{report:?}");
        let output: Value = serde_json::from_str(&report.output.expect("a result")).expect("JSON");
        assert_eq!(output, json!({"raised": ["INC1"], "refused": {"INC2": "policy_denied"}}));
        let call = |number| {
            let args = json!({"number": number, "priority": 1});
            ("servicenow.update_incident".to_owned(), args)
        };
        let calls = desk.0.lock().expect("calls").clone();
        assert_eq!(calls, [call("INC1"), call("INC2")]);
    }
}
