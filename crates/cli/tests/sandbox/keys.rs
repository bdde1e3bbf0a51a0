//! Idempotency keys of executions: they are for executions alone, and last.

use std::sync::Arc;

use kernel::ids::{TenantId, WorkspaceId};
use kernel::machine::{Command, Input, Kind, State};
use kernel::receipt::LogId;
use kernel::reservation::{self, Reservation};
use kernel::values::Digest;
use ledger::keys::FileKeys;
use ledger::sqlite::Sqlite;
use ledger::{Batch, Ledger};
use proto::actions::GetActionRequest;
use proto::sandboxes::ReplayExecutionRequest;
use serde_json::json;

use super::agents::{caller, echo};
use super::now;
use super::place::{Place, component};
use crate::common::{WORKSPACE, action, refusal};

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

/// Has `key` stand for what `made` stands for, as it did in earlier versions, which took the keys
/// of executions for keys of actions.
async fn keep_as_before(place: &Place, actors: &str, made: &str, key: &str) {
    let store = Arc::new(Sqlite::open(&place.server.data.join("runtime.sqlite")).unwrap());
    let keys = Arc::new(FileKeys::open(&place.server.data.join("keys")).unwrap());
    let ledger = Ledger::start(store, keys, Arc::new(now), "tally.test").unwrap();
    let workspace = WorkspaceId::new(WORKSPACE).unwrap();
    let log = LogId::Workspace(TenantId::new("main").unwrap(), workspace);
    let id = |endpoint: &str, key: &str| {
        Digest::of(["main", actors, endpoint, key].join("\n").as_bytes()).hex()
    };
    let kept = ledger.read(&log, Kind::Idempotency, &id("executions", made)).unwrap();
    let Some(State::Reservation(Reservation { body, target, until })) = kept else {
        panic!("{kept:?}");
    };
    let input = Input::Reserve(reservation::Input { body, target, until, replaces: None });
    let commands = vec![Command::new(Kind::Idempotency, id("actions", key), input)];
    ledger.commit(Batch::new(log, commands)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_an_earlier_version_still_stands_for_its_execution() {
    let mut place = Place::new("").await;
    let request = component(caller(&[place.reads()]));
    let made = place.agent.execute(&request, Some("new")).await.unwrap();
    let found = GetActionRequest { action_id: made.execution_id.clone() };
    let found = place.agent.get_action(&found).await.unwrap();
    let actors: Vec<_> = found.actor_chain.iter().map(|actor| actor.id.as_str()).collect();
    assert!(place.server.terminate().success());
    keep_as_before(&place, &actors.join("/"), "new", "old").await;
    place.server.restart();
    let again = place.agent.execute(&request, Some("old")).await.unwrap();
    assert_eq!(again.execution_id, made.execution_id);
    // For another execution it is a key that was never used.
    let other = place.agent.execute(&component(echo()), Some("old")).await.unwrap();
    assert_ne!(other.execution_id, made.execution_id);
}
