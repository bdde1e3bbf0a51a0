//! The skills against real counterparts, and what callers are told of them.

mod contracts;
mod effects;
pub(crate) mod mail;
mod values;

use client::Client;
use proto::actions::Action;
use proto::actions::action::State;
use serde_json::Value;

use crate::common::action;

/// The result of an action that must have been executed at once.
async fn result(client: &Client, tool: &str, params: &Value) -> Value {
    let done = submit(client, tool, params).await;
    assert_eq!(done.state(), State::Executed, "{done:?}");
    serde_json::from_str(&done.result.unwrap().text).unwrap()
}

/// The code with which an action must have failed.
async fn failure(client: &Client, tool: &str, params: &Value) -> String {
    let done = submit(client, tool, params).await;
    assert_eq!(done.state(), State::Failed, "{done:?}");
    done.error.unwrap().code
}

async fn submit(client: &Client, tool: &str, params: &Value) -> Action {
    let mut request = action(tool, params);
    request.wait_ms = Some(60_000);
    client.submit_action(&request, None).await.unwrap()
}
