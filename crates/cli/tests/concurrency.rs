//! Many at once, and again: duplicates, budgets, retries, unknown outcomes and rate limits.

use std::collections::BTreeMap;

use client::{Client, Error};
use proto::accounts::{Account, CreateAccountRequest, ListAccountsRequest};
use proto::actions::action::State;
use proto::actions::reconcile_action_request::Outcome;
use proto::actions::{Action, ReconcileActionRequest, SubmitActionRequest};
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::{
    Approval, Choice, DecideApprovalRequest, GetApprovalRequest, ListApprovalsRequest,
};
use proto::identity::CreateKeyRequest;
use proto::identity::principal::Kind;
use proto::ledger::VerifyLedgerRequest;
use proto::receipts::ListReceiptsRequest;
use proto::types::error::Category;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::common::target::Target;
use crate::common::wire::Wire;
use crate::common::{Server, WORKSPACE, allow_all, credentials, rego};

/// What one call costs, in micro-USD.
const PRICE: i64 = 7;

async fn start(target: &Target, more: &str) -> Server {
    let server = Server::start(&format!("grants: {{http: [{}]}}\n{more}", target.grant()));
    server.publish(&allow_all()).await;
    server
}

fn price() -> String {
    format!("prices: {{core.http_call: {PRICE}}}")
}

/// Submits the same request `count` times at once.
async fn at_once(
    client: &Client,
    count: usize,
    request: &SubmitActionRequest,
    key: Option<&str>,
) -> Vec<Action> {
    let mut running = JoinSet::new();
    for _ in 0..count {
        let (client, request) = (client.clone(), request.clone());
        let key = key.map(str::to_owned);
        running.spawn(async move { client.submit_action(&request, key.as_deref()).await.unwrap() });
    }
    running.join_all().await
}

/// Checks that all answers are the same action with the same result, and returns it.
#[track_caller]
fn the_one(answers: &[Action], state: State) -> Action {
    let first = answers[0].clone();
    for answer in answers {
        assert_eq!((answer.state(), &answer.action_id), (state, &first.action_id));
        assert_eq!((&answer.result, &answer.receipts), (&first.result, &first.receipts));
    }
    first
}

#[track_caller]
fn assert_failed(action: &Action, state: State, code: &str) {
    assert_eq!(action.state(), state, "{action:?}");
    assert_eq!(action.error.as_ref().unwrap().code, code);
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_have_one_effect_and_one_answer() {
    let target = Target::start().await;
    let server = start(&target, "").await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let call = target.call("POST", "/orders");
    let action = the_one(&at_once(&agent, 50, &call, Some("k")).await, State::Executed);
    assert!(action.result.is_some());
    assert_eq!(target.seen().len(), 1);
    let impatient = SubmitActionRequest { wait_ms: Some(0), ..call.clone() };
    let again = agent.submit_action(&impatient, Some("k")).await.unwrap();
    assert_eq!((again.action_id, again.result), (action.action_id, action.result));
    assert_eq!(target.seen().len(), 1);
}

async fn approvals(client: &Client) -> Vec<Approval> {
    let open =
        ListApprovalsRequest { state: ApprovalState::Requested.into(), ..Default::default() };
    client.list_approvals(&open).await.unwrap().approvals
}

#[tokio::test(flavor = "multi_thread")]
async fn duplicates_of_what_is_held_wait_for_the_same_approval() {
    let target = Target::start().await;
    let server = start(&target, "").await;
    let rule = r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R-HOLD",
        "reason": "held"} if input.tool.id == "core.http_call""#;
    server.publish(&rego(rule)).await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let approver = server.principal(Kind::User, &["approver"]).await;
    let call = target.call("POST", "/orders");
    let impatient = SubmitActionRequest { wait_ms: Some(0), ..call.clone() };
    let held = at_once(&agent, 50, &impatient, Some("k")).await;
    let held = the_one(&held, State::AwaitingApproval);
    assert_eq!(approvals(&approver).await.len(), 1);

    let waiting = tokio::spawn(async move { at_once(&agent, 50, &call, Some("k")).await });
    let approval_id = held.approval_id.clone();
    let approval = GetApprovalRequest { approval_id: approval_id.clone() };
    let plan_digest = approver.get_approval(&approval).await.unwrap().plan_digest;
    assert_eq!(plan_digest, held.plan_digest);
    let decision = Choice::Approve.into();
    let reason = String::new();
    let approve =
        DecideApprovalRequest { approval_id, decision, plan_digest, reason, ..Default::default() };
    approver.decide_approval(&approve, None).await.unwrap();
    let action = the_one(&waiting.await.unwrap(), State::Executed);
    assert_eq!(action.action_id, held.action_id);
    assert_eq!(target.seen().len(), 1);
    assert!(approvals(&approver).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_is_one_principals_for_one_endpoint_and_one_body() {
    let target = Target::start().await;
    let server = start(&target, "").await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let other = server.principal(Kind::Agent, &["agent"]).await;
    let call = target.call("POST", "/orders");
    let first = agent.submit_action(&call, Some("k")).await.unwrap();

    let changed = target.call("POST", "/orders?n=2");
    let Err(Error::Refused { status, error }) = agent.submit_action(&changed, Some("k")).await
    else {
        panic!("another body under the same key")
    };
    assert_eq!((status, error.code.as_str()), (409, "idempotency_conflict"));
    assert_eq!(error.category(), Category::Conflict);
    assert_eq!(target.seen().len(), 1);

    let others = other.submit_action(&changed, Some("k")).await.unwrap();
    assert_ne!(others.action_id, first.action_id);
    let owned = server.owner.submit_action(&call, Some("k")).await.unwrap();
    assert_ne!(owned.action_id, first.action_id);
    let account = CreateAccountRequest {
        account_id: "ops".to_owned(),
        name: String::new(),
        ..Default::default()
    };
    let made = server.owner.create_account(&account, Some("k")).await.unwrap();
    assert_eq!(made.account_id, "ops", "a key of one endpoint is free for another");
    let again = server.owner.create_account(&account, Some("k")).await.unwrap();
    assert_eq!(again.account_id, "ops");
    assert_eq!(target.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_for_one_hundred_runs_exactly_one_hundred() {
    let target = Target::start().await;
    let server = start(&target, &price()).await;
    let funded = 100 * PRICE;
    let agent = server.paying_agent("ops", funded).await;
    let mut running = JoinSet::new();
    for n in 0..200 {
        let (agent, call) = (agent.clone(), target.call("POST", &format!("/orders/{n}")));
        running.spawn(async move { agent.submit_action(&call, None).await.unwrap() });
    }
    let (mut executed, mut denied) = (0, 0);
    while let Some(ended) = running.join_next().await {
        let action = ended.unwrap();
        server.account("ops").await;
        if action.state() == State::Executed {
            assert_eq!(action.cost_micro_usd, PRICE);
            executed += 1;
        } else {
            assert_failed(&action, State::Denied, "budget_exceeded");
            assert_eq!(action.error.unwrap().category(), Category::Budget);
            denied += 1;
        }
    }
    assert_eq!((executed, denied, target.seen().len()), (100, 100, 100));
    let account = server.account("ops").await;
    let Account { funded_micro_usd, spent_micro_usd, held_micro_usd, .. } = account;
    assert_eq!((funded_micro_usd, spent_micro_usd, held_micro_usd), (funded, funded, 0));
    let all = server.owner.list_accounts(&ListAccountsRequest::default()).await.unwrap().accounts;
    let balances: BTreeMap<_, _> =
        all.into_iter().map(|a| (a.account_id, a.funded_micro_usd - a.spent_micro_usd)).collect();
    let expected = [("funding", -funded), ("ops", 0), ("spend", funded)];
    assert_eq!(balances, expected.map(|(id, balance)| (id.to_owned(), balance)).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_release_their_hold_and_unknown_outcomes_keep_it() {
    let target = Target::start().await;
    let server = start(&target, &price()).await;
    let agent = server.paying_agent("ops", 2 * PRICE).await;
    let submit =
        async |path: &str| agent.submit_action(&target.call("POST", path), None).await.unwrap();
    let money = async || {
        let account = server.account("ops").await;
        (account.spent_micro_usd, account.held_micro_usd)
    };
    let failed = submit("/broken/1").await;
    assert_failed(&failed, State::Failed, "upstream_error");
    assert_eq!((failed.attempt, target.seen().len()), (1, 1), "a POST is not repeated");
    assert_eq!(money().await, (0, 0));

    let unknown = [submit("/drop/1").await, submit("/drop/2").await];
    for action in &unknown {
        assert_failed(action, State::Unknown, "connection_lost");
    }
    assert_eq!(money().await, (0, 2 * PRICE));
    assert_failed(&submit("/orders").await, State::Denied, "budget_exceeded");
    assert_eq!(target.seen().len(), 3);

    let reconcile = async |n: usize, outcome: Outcome, cost_micro_usd| {
        let action_id = unknown[n].action_id.clone();
        let (outcome, reason) = (outcome.into(), String::new());
        let request = ReconcileActionRequest { action_id, outcome, cost_micro_usd, reason };
        server.owner.reconcile_action(&request, None).await
    };
    let settled = reconcile(0, Outcome::Executed, PRICE - 2).await.unwrap();
    assert_eq!((settled.state(), settled.cost_micro_usd), (State::Executed, PRICE - 2));
    assert_eq!(money().await, (PRICE - 2, PRICE));
    let settled = reconcile(1, Outcome::Failed, 0).await.unwrap();
    assert_eq!((settled.state(), settled.cost_micro_usd), (State::Failed, 0));
    assert_eq!(money().await, (PRICE - 2, 0));
    let twice = reconcile(0, Outcome::Failed, 0).await;
    assert!(matches!(twice, Err(Error::Refused { status: 409, .. })), "{twice:?}");
    assert_eq!(submit("/orders").await.state(), State::Executed);
    assert_eq!((money().await, target.seen().len()), ((2 * PRICE - 2, 0), 4));
}

/// What happened to an action by its receipts, in order, each with the time of its receipt.
async fn history(server: &Server, action: &Action) -> Vec<(i64, Value)> {
    let request = ListReceiptsRequest { action_id: action.action_id.clone(), ..Default::default() };
    let receipts = server.owner.list_receipts(&request).await.unwrap().receipts;
    let ids: Vec<_> = receipts.iter().map(|receipt| receipt.receipt_id.clone()).collect();
    assert_eq!(ids, action.receipts);
    let stream = format!("action/{}", action.action_id);
    let mut history = Vec::new();
    for receipt in &receipts {
        let statement: Value = receipt.statement.as_ref().unwrap().decode().unwrap();
        let predicate = &statement["predicate"];
        for transition in predicate["transitions"].as_array().unwrap() {
            if transition["stream"] == stream.as_str() {
                let time = predicate["time_us"].as_i64().unwrap();
                history.push((time, transition["change"].clone()));
            }
        }
    }
    history
}

fn types(history: &[(i64, Value)]) -> Vec<&str> {
    history.iter().map(|(_, change)| change["type"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_repeated_is_repeated_until_it_succeeds() {
    let target = Target::start().await;
    let server = start(&target, "").await;
    let agent = server.principal(Kind::Agent, &["agent"]).await;
    let call = target.call("PUT", "/unavailable/1");
    let action = agent.submit_action(&call, None).await.unwrap();
    assert_eq!((action.state(), action.attempt), (State::Executed, 3), "{action:?}");
    let seen = target.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|d| d == &seen[0] && d.key.is_some()), "{seen:?}");
    let repeated = ["action.retried", "action.decided", "action.started"];
    let mut expected = vec!["action.requested", "action.decided", "action.started"];
    expected.extend([repeated, repeated].as_flattened());
    expected.push("action.finished");
    assert_eq!(types(&history(&server, &action).await), expected);

    // Not before the other side wants it.
    let action = agent.submit_action(&target.call("GET", "/limited/1"), None).await.unwrap();
    assert_eq!((action.state(), action.attempt), (State::Executed, 2), "{action:?}");
    let history = history(&server, &action).await;
    let (started, retried, again) = (&history[2], &history[3], &history[5]);
    assert_eq!(types(&history)[3..6], repeated);
    let at = retried.1["at"].as_i64().unwrap();
    assert!(at >= started.0 + 2_000_000 && again.0 >= at, "{history:?}");

    // What says that it will never succeed is not asked again.
    let action = agent.submit_action(&target.call("GET", "/lacking/1"), None).await.unwrap();
    assert_failed(&action, State::Failed, "upstream_error");
    assert_eq!(action.attempt, 1);
    let action = agent.submit_action(&target.call("GET", "/broken/1"), None).await.unwrap();
    assert_failed(&action, State::Failed, "upstream_error");
    let rule = kernel::retry::rule(kernel::failure::Category::Upstream);
    assert_eq!(action.attempt, rule.attempts);
    let verify = VerifyLedgerRequest { workspace: WORKSPACE.to_owned() };
    let verified = server.owner.verify_ledger(&verify).await.unwrap();
    assert!(verified.valid, "{verified:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_has_its_requests_a_minute() {
    let server = Server::start("");
    let request = CreateKeyRequest {
        principal_id: credentials(&server.data)["principal_id"].as_str().unwrap().to_owned(),
        workspace: WORKSPACE.to_owned(),
        environment: "dev".to_owned(),
        rate_limit_per_min: Some(5),
        ..Default::default()
    };
    let limited = server.owner.create_key(&request, None).await.unwrap().key;
    let wire = Wire::new(&server.url);
    let ask = || wire.ask_as(&limited, "GET", "/v1/tools").send();
    for _ in 0..5 {
        let reply = ask().await;
        assert_eq!((reply.status, reply.header("x-ratelimit-limit")), (200, "5"));
        assert!(reply.header("x-ratelimit-remaining").parse::<u32>().unwrap() < 5);
        assert!(reply.header("x-ratelimit-reset").parse::<u32>().unwrap() >= 1);
    }
    let mut reply = ask().await;
    // On a slow machine some come back meanwhile: each takes 12 seconds.
    for _ in 0..20 {
        if reply.status == 429 {
            break;
        }
        reply = ask().await;
    }
    assert_eq!((reply.status, reply.header("x-ratelimit-remaining")), (429, "0"));
    assert!((1..=12).contains(&reply.header("retry-after").parse::<u32>().unwrap()));
    let error = reply.error();
    assert_eq!((&error["code"], &error["retryable"]), (&"rate_limited".into(), &true.into()));
    assert_eq!(error["category"], "RATE_LIMITED");
    let other = wire.ask_as(&server.owner_key(), "GET", "/v1/tools").send().await;
    assert_eq!(other.status, 200, "keys do not share");
}
