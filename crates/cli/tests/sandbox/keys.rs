//! Idempotency keys of executions: they are for executions alone, and last.

use proto::sandboxes::ReplayExecutionRequest;
use serde_json::json;

use super::agents::{caller, echo};
use super::place::{Place, component};
use crate::common::{action, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_another_at_each_endpoint() {
    let mut place = Place::new("").await;
    let read = action("core.fs_read", &json!({"path": place.root.join("in")}));
    let code = component(echo());
    for key in ["first", "second"] {
        let action = place.agent.submit_action(&read, Some(key)).await.unwrap();
        let execution = place.agent.execute(&code, Some(key)).await.unwrap();
        assert_ne!(action.action_id, execution.execution_id);
        let replay = ReplayExecutionRequest {
            execution_id: execution.execution_id.clone(),
            wait_ms: Some(60_000),
            ..Default::default()
        };
        let replayed = place.agent.replay_execution(&replay, Some(key)).await.unwrap();
        for asked in ["at once", "after a restart"] {
            let repeat = place.agent.submit_action(&read, Some(key)).await.unwrap();
            assert_eq!(repeat.action_id, action.action_id, "{asked}");
            let repeat = place.agent.execute(&code, Some(key)).await.unwrap();
            assert_eq!(repeat.execution_id, execution.execution_id, "{asked}");
            let repeat = place.agent.replay_execution(&replay, Some(key)).await.unwrap();
            assert_eq!(repeat.action_id, replayed.action_id, "{asked}");
            place.server.kill();
            place.server.restart();
        }
        // Another request under a key that was used there is a conflict.
        let other = component(caller(&[place.reads()]));
        let refused = refusal(place.agent.execute(&other, Some(key)).await);
        assert_eq!(refused, (409, "idempotency_conflict".to_owned()));
    }
}
