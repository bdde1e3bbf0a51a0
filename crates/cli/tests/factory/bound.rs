//! What bounds a workflow bounds it under the name that it was released by.

use proto::runs::RunState;
use serde_json::json;

use super::{Plant, document, eventually, named, read, start};
use crate::common::wire::Wire;

/// The writes of runs whose content is deleted by then count, after a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn writes_count_for_the_workflow_that_was_released_whatever_is_left_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    let caps = "caps: {writes_per_min_workflow: 2, counted: all}";
    let mut plant = Plant::new(&format!("grants: {{fs_write: [{root:?}]}}\n{caps}")).await;
    let input = json!({"path": root.join("effects"), "content": "once\n", "mode": "append"});
    let write = json!({"id": "write", "action": "core.fs_write", "input": input});
    let mut triage = document("triage", "1.0.0", &[write]);
    triage["spec"]["contentRetention"] = json!("metadata_only");
    plant.in_force(&triage).await;
    for _ in 0..2 {
        let run = start(&plant.agent, "triage").await;
        assert_eq!(run.state(), RunState::Succeeded, "{run:?}");
        eventually("no content", async || {
            let run = read(&plant.agent, &run.run_id).await;
            run.steps.iter().all(|step| step.params.is_none()).then_some(())
        })
        .await;
    }
    plant.server.kill();
    plant.server.restart();
    let mut request = named("triage");
    request.wait_ms = Some(0);
    let third = plant.agent.start_run(&request, None).await.unwrap().run_id;
    let wire = Wire::new(&plant.server.url);
    let put_off = async || {
        let metrics = wire.ask("GET", "/metrics").send().await.text();
        let line = "tally_writes_put_off_total{bound=\"workflow\"}";
        metrics.lines().any(|one| one.starts_with(line)).then_some(())
    };
    eventually("a write that is put off", async || {
        let run = read(&plant.agent, &third).await;
        assert_ne!(run.state(), RunState::Succeeded, "there was room for a third");
        put_off().await
    })
    .await;
    let effects = std::fs::read_to_string(root.join("effects")).unwrap();
    assert_eq!(effects, "once\nonce\n");
}
