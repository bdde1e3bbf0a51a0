//! Components run end to end: results, tools, clocks, randomness, variables, and the cache.

use std::sync::Arc;

use crate::support::{Host, Job, Tools, config, tenant, wat};
use kernel::attestation::Ending;
use sandbox::{Code, Sandboxes};

#[tokio::test]
async fn a_component_gives_its_result() {
    let host = Host::new();
    let report = host.run(&wat::echo(), Job::of("{\"a\":[1,2]}")).await.expect("a report");
    assert_eq!(report.ending, Ending::Success, "{report:?}");
    assert_eq!(report.output.as_deref(), Ok("{\"a\":[1,2]}"));
    assert_eq!(report.code, None);
    assert!(report.fuel_used > 0 && report.memory_peak_bytes >= 2 << 16, "{report:?}");
    assert!(report.runtime.compiled.is_some());
    assert_eq!(host.boxes.live(), 0);
}

#[tokio::test]
async fn a_component_calls_a_tool() {
    let host = Host::new();
    let tools = Arc::new(Tools::default());
    let job = Job { door: tools.clone(), ..Job::of("{\"x\":1}") };
    let report = host.run(&wat::calls(1040, 4), job).await.expect("a report");
    assert_eq!(report.output.as_deref(), Ok("{\"x\":1}"));
    let calls = tools.calls.lock().expect("calls").clone();
    assert_eq!(calls, [(1, "echo".to_owned(), "{\"x\":1}".to_owned())]);
}

#[tokio::test]
async fn the_same_run_uses_the_same_fuel() {
    let host = Host::new();
    let one = host.run(&wat::echo(), Job::of("[1]")).await.expect("a report");
    let other = host.run(&wat::echo(), Job::of("[1]")).await.expect("a report");
    assert_eq!(one.fuel_used, other.fuel_used);
}

#[tokio::test]
async fn compiled_code_is_kept_for_the_next_server() {
    let folder = tempfile::tempdir().expect("a folder");
    let boxes = Sandboxes::new(config(folder.path())).expect("sandboxes");
    let wasm = wat::component(&wat::echo());
    let bound = boxes.bind(&tenant("acme"), &wasm).await.expect("it binds");
    drop(boxes);
    // Nothing compiles here: what is there is found.
    let mut config = config(folder.path());
    config.compiler.program = "/nonexistent".into();
    let boxes = Sandboxes::new(config).expect("sandboxes");
    let again = boxes.bind_pinned(&tenant("acme"), &wasm, bound.compiled).await;
    assert_eq!(again.expect("it binds"), bound);
    let code = Code::Component { digest: bound.digest };
    let report = Job::default().run(&boxes, code).await.expect("a report");
    assert_eq!(report.ending, Ending::Success);
}
