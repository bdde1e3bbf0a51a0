//! What the agent tries, and what becomes of it.

use std::time::Duration;

use client::Client;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, SubmitActionRequest};
use proto::approvals::{Approval, Choice, DecideApprovalRequest, GetApprovalRequest};
use proto::types::{Json, decision::Effect};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::say::{expect, say, step, then};
use super::world::World;
use crate::commands::{actions, approvals};
use crate::setup;

/// How long the server may take to end an action.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks at an action.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The agent's own key for its order, so that a repetition is one and the same.
const ORDER_KEY: &str = "demo-order-1";

/// A fresh server denies everything.
pub(super) async fn nothing_without_policy(world: &World) -> anyhow::Result<()> {
    step("Without a policy, nothing runs")?;
    let action = submit(&world.agent.client, read(world), None).await?;
    say(&actions::describe(&action))?;
    expect(action.state() == State::Denied, "the read is denied", || found(&action))
}

/// One principal drafts the baseline, another publishes it.
pub(super) async fn policy(world: &World) -> anyhow::Result<()> {
    step("The baseline policy: drafted by one, tested by the server, published by another")?;
    let policy = setup::publish_baseline(&world.author.client, &world.place.owner.client).await?;
    let tests = policy.test_report.clone().unwrap_or_default();
    say(&format!("policy   {} revision {}", policy.policy_id, policy.revision))?;
    say(&format!("digest   {}", policy.digest))?;
    say(&format!("tests    {} passed, {} failed", tests.passed, tests.failed))?;
    let apart = policy.author == world.author.id && policy.publisher == world.place.owner.id;
    expect(apart, "author and publisher are two principals", || format!("{policy:?}"))
}

/// A read in dev is allowed, and runs.
pub(super) async fn allowed_read(world: &World) -> anyhow::Result<Action> {
    step("1. The agent reads a file")?;
    let action = submit(&world.agent.client, read(world), None).await?;
    say(&actions::describe(&action))?;
    let executed = action.state() == State::Executed && effect(&action) == Some(Effect::Allow);
    expect(executed, "the read is allowed and executed", || found(&action))?;
    let content = action.result.as_ref().and_then(|json| json.decode::<Value>().ok());
    let content = content.as_ref().and_then(|result| result.get("content"));
    let expected = std::fs::read_to_string(world.report())?;
    let same = content.and_then(Value::as_str) == Some(expected.as_str());
    expect(same, "the agent got what is in the file", || format!("{content:?}"))?;
    Ok(action)
}

/// A destructive call is denied, and never sent.
pub(super) async fn denied_call(world: &World) -> anyhow::Result<Action> {
    step("2. The agent tries to delete all orders")?;
    let params = json!({"method": "DELETE", "url": url(world, "/orders")});
    let action = submit(&world.agent.client, request("core.http_call", &params), None).await?;
    say(&actions::describe(&action))?;
    let denied = action.state() == State::Denied && effect(&action) == Some(Effect::Deny);
    expect(denied, "the call is denied", || found(&action))?;
    let rules = action.decision.as_ref().map(|decision| decision.rules.clone());
    let named = rules.as_ref().is_some_and(|rules| !rules.is_empty());
    expect(named, "the denial names its rule", || format!("{rules:?}"))?;
    let received = world.target.received();
    expect(received.is_empty(), "the target was sent nothing", || format!("{received:?}"))?;
    Ok(action)
}

/// A write is held for a person.
pub(super) async fn held_write(world: &World) -> anyhow::Result<Action> {
    step("3. The agent asks to place an order")?;
    let action = submit(&world.agent.client, order(world), Some(ORDER_KEY)).await?;
    say(&actions::describe(&action))?;
    let held = action.state() == State::AwaitingApproval && !action.approval_id.is_empty();
    expect(held, "the order is held for a person", || found(&action))?;
    let received = world.target.received();
    expect(received.is_empty(), "the target was sent nothing", || format!("{received:?}"))?;
    Ok(action)
}

/// Whoever asks may not approve.
pub(super) async fn no_self_approval(world: &World, held: &Action) -> anyhow::Result<()> {
    then("The agent tries to approve its own order")?;
    match decide(&world.agent.client, &held.approval_id, &held.plan_digest).await {
        Err(client::Error::Refused { status, error }) => {
            say(&format!("HTTP {status} {}: {}", error.code, error.message))?;
            expect(status == 403, "the agent may not approve", || format!("HTTP {status}"))
        }
        other => anyhow::bail!("expected: the agent may not approve; found: {other:?}"),
    }
}

/// A colleague sees the plan, approves exactly that, and the server carries it out.
pub(super) async fn approved_write(world: &World, held: &Action) -> anyhow::Result<Action> {
    then("A colleague looks at the plan and approves it")?;
    let client = &world.approver.client;
    let request = GetApprovalRequest { approval_id: held.approval_id.clone() };
    let seen = client.get_approval(&request).await?;
    say(&approvals::describe(&seen))?;
    expect(
        seen.plan_digest == held.plan_digest,
        "it is the plan that the agent asked for",
        || format!("{} and {}", seen.plan_digest, held.plan_digest),
    )?;
    decide(client, &seen.approval_id, &seen.plan_digest).await?;
    let passing = [State::AwaitingApproval, State::Approved, State::Executing];
    let action = settled(&world.agent.client, &held.action_id, &passing).await?;
    say(&actions::describe(&action))?;
    expect(action.state() == State::Executed, "the order is placed", || found(&action))?;
    let received = world.target.received();
    for line in &received {
        say(&format!("target   {line}"))?;
    }
    let once = received.len() == 1;
    expect(once, "the target received exactly one request", || format!("{received:?}"))?;
    Ok(action)
}

/// The same request again has no second effect.
pub(super) async fn repeated_write(world: &World, executed: &Action) -> anyhow::Result<()> {
    then("The agent, not sure that it was heard, sends the same order again")?;
    let again = submit(&world.agent.client, order(world), Some(ORDER_KEY)).await?;
    let same = again.action_id == executed.action_id;
    expect(same, "it gets the answer of the first", || found(&again))?;
    let received = world.target.received();
    let once = received.len() == 1;
    expect(once, "the target still has exactly one request", || format!("{received:?}"))
}

fn read(world: &World) -> SubmitActionRequest {
    request("core.fs_read", &json!({"path": world.report()}))
}

fn order(world: &World) -> SubmitActionRequest {
    let order = json!({"item": "tally stick", "quantity": 2});
    let params = json!({"method": "POST", "url": url(world, "/orders"), "json": order});
    request("core.http_call", &params)
}

fn url(world: &World, path: &str) -> String {
    format!("http://{}{path}", world.target.address)
}

fn request(tool: &str, params: &Value) -> SubmitActionRequest {
    let params = Some(Json { text: params.to_string() });
    // What is held may wait for long: ask at once how far it got, and look again.
    SubmitActionRequest { tool: tool.to_owned(), params, wait_ms: Some(0), ..Default::default() }
}

/// Submits an action and waits until it has ended or waits for a person.
async fn submit(
    agent: &Client,
    request: SubmitActionRequest,
    key: Option<&str>,
) -> anyhow::Result<Action> {
    let action = agent.submit_action(&request, key).await?;
    settled(agent, &action.action_id, &[State::Requested, State::Executing]).await
}

/// Waits until an action is in none of the states `passing`.
async fn settled(agent: &Client, action_id: &str, passing: &[State]) -> anyhow::Result<Action> {
    let deadline = Instant::now() + PATIENCE;
    let request = GetActionRequest { action_id: action_id.to_owned() };
    loop {
        let action = agent.get_action(&request).await?;
        if !passing.contains(&action.state()) {
            return Ok(action);
        }
        let late = Instant::now() > deadline;
        anyhow::ensure!(!late, "the action did not end in time: {}", found(&action));
        sleep(LOOK_EVERY).await;
    }
}

async fn decide(
    client: &Client,
    approval_id: &str,
    plan_digest: &str,
) -> Result<Approval, client::Error> {
    let request = DecideApprovalRequest {
        approval_id: approval_id.to_owned(),
        decision: Choice::Approve.into(),
        plan_digest: plan_digest.to_owned(),
        reason: "the order is wanted".to_owned(),
        ..Default::default()
    };
    client.decide_approval(&request, None).await
}

fn effect(action: &Action) -> Option<Effect> {
    action.decision.as_ref().map(|decision| decision.effect())
}

fn found(action: &Action) -> String {
    let effect = effect(action).map_or("no decision", |effect| effect.as_str_name());
    format!("{} is {} ({effect})", action.action_id, action.state().as_str_name())
}
