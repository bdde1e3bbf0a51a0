//! Many runs on one budget: nothing is overspent, and what is left goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use client::Client;
use kernel::account::Change as AccountChange;
use kernel::action::Change as ActionChange;
use kernel::dsse::Envelope;
use kernel::machine::Change;
use kernel::receipt::{LogId, Statement, Transition};
use ledger::rebuild;
use proto::accounts::Account;
use proto::runs::{Run, RunState, StartRunRequest};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Place, reaches, workflow};
use crate::common::target::Target;
use crate::common::{Server, allow_all, refusal};
use crate::models::simulator::Simulator;
use crate::models::{KEY, keep_key, providers};

/// What one call costs, in micro-USD.
const PRICE: i64 = 3;
const RUNS: usize = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_runs_on_one_budget_overspend_nothing() {
    let place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    // Enough for a third of the calls.
    let funded = PRICE * 100 + 1;
    let agent = place.server.paying_agent("shared", funded).await;
    let mut started = JoinSet::new();
    for n in 0..RUNS {
        let steps = [1, 2, 3]
            .map(|step| place.call(&format!("step_{step}"), "PUT", &format!("/{n}/{step}")));
        // Every other run has an account of its own, filled from the shared one.
        let budget = n.is_multiple_of(2).then_some(PRICE * 3);
        let request = StartRunRequest { budget_micro_usd: budget, ..workflow(&steps) };
        let agent = agent.clone();
        started.spawn(async move { agent.start_run(&request, None).await });
    }
    let (mut spent, mut refused, mut failed) = (0, 0, 0);
    for started in started.join_all().await {
        match started {
            Ok(run) => {
                spent += run.cost_micro_usd;
                if run.state() != RunState::Succeeded {
                    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
                    assert_eq!(run.error.unwrap().code, "budget_exceeded");
                    failed += 1;
                }
            }
            Err(error) => {
                let error = crate::common::refusal::<()>(Err(error));
                assert_eq!(error, (402, "budget_exceeded".to_owned()));
                refused += 1;
            }
        }
    }
    assert!(failed + refused > 0, "the budget was too large for this test");
    let calls = i64::try_from(place.target.seen().len()).unwrap();
    assert_eq!(spent, calls * PRICE, "what was spent is what was called");
    assert!(spent <= funded);
    settled(&place.server, funded - spent).await;
}

/// The shared account once all that its runs had left is back: a run gives it back in a commit of
/// its own.
async fn settled(server: &Server, available: i64) -> Account {
    let end = tokio::time::Instant::now() + crate::common::PATIENCE;
    loop {
        let account = server.account("shared").await;
        if account.available_micro_usd == available && account.held_micro_usd == 0 {
            return account;
        }
        assert!(tokio::time::Instant::now() < end, "{available} are not left: {account:?}");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
}

/// Starts `requests` at once, each under a key of its own, and waits for what comes of them:
/// nothing where the server is gone.
async fn started(agent: &Client, requests: &[StartRunRequest]) -> Vec<Result<Run, client::Error>> {
    let starting = requests.iter().enumerate().map(|(n, request)| {
        let (agent, request) = (agent.clone(), request.clone());
        tokio::spawn(async move { agent.start_run(&request, Some(&format!("run-{n}"))).await })
    });
    let mut answers = Vec::new();
    for one in starting.collect::<Vec<_>>() {
        answers.push(one.await.unwrap());
    }
    answers
}

/// What the log says was begun and what the account came to, in its order.
fn told(server: &Server) -> Vec<Transition> {
    let mut told = Vec::new();
    for store in server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
            if !matches!(log, LogId::Workspace(..)) {
                continue;
            }
            for row in store.receipts(&log, 0, 10_000).unwrap() {
                let payload = Envelope::parse(&row.envelope).unwrap().payload;
                let statement: Statement = serde_json::from_slice(&payload).unwrap();
                told.extend(statement.predicate.transitions);
            }
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_runs_overspend_nothing_though_the_server_is_killed() {
    let prices = format!("prices: {{core.http_call: {PRICE}}}");
    let slow = Target::slow(Duration::from_millis(100)).await;
    let mut place = Place::calling(slow, Server::start, &prices).await;
    let funded = PRICE * 100 + 1;
    let agent = place.server.paying_agent("shared", funded).await;
    let request = |n: usize| {
        let steps = [1, 2, 3]
            .map(|step| place.call(&format!("step_{step}"), "PUT", &format!("/{n}/{step}")));
        let budget = n.is_multiple_of(2).then_some(PRICE * 3);
        StartRunRequest { budget_micro_usd: budget, ..workflow(&steps) }
    };
    let requests: Vec<StartRunRequest> = (0..RUNS).map(request).collect();
    // Twice, with calls on their way.
    for calls in [15, 40] {
        let cut = started(&agent, &requests);
        let kill = place.target.busy(calls);
        tokio::pin!(cut);
        tokio::select! {
            answers = &mut cut => panic!("all ended before {calls} calls: {answers:?}"),
            () = kill => place.server.kill(),
        }
        cut.await;
        place.server.restart();
    }
    let (mut spent, mut refused, mut runs) = (0, 0, BTreeSet::new());
    for answer in started(&agent, &requests).await {
        match answer {
            Ok(run) => {
                let ended = |run: &Run| run.ended_at.is_some();
                let run = super::until(&agent, &run.run_id, "the end of a run", ended).await;
                spent += run.cost_micro_usd;
                if run.state() != RunState::Succeeded {
                    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
                    assert_eq!(run.error.unwrap().code, "budget_exceeded");
                    refused += 1;
                }
                assert!(runs.insert(run.run_id), "two keys, one run");
            }
            Err(error) => {
                assert_eq!(refusal::<()>(Err(error)), (402, "budget_exceeded".to_owned()));
                refused += 1;
            }
        }
    }
    assert!(refused > 0, "the budget was too large for this test");
    // Each call is paid once, however often it was made.
    let mut keys = BTreeMap::new();
    for delivery in place.target.seen() {
        let first = keys.entry(delivery.key.unwrap()).or_insert(delivery.path.clone());
        assert_eq!(*first, delivery.path, "one key, two calls");
    }
    let paths: BTreeSet<&String> = keys.values().collect();
    assert_eq!(paths.len(), keys.len(), "a call was made under two keys");
    assert_eq!(spent, i64::try_from(keys.len()).unwrap() * PRICE, "what was called is spent");
    let account = settled(&place.server, funded - spent).await;
    assert_eq!(account.spent_micro_usd + account.allotted_micro_usd, spent, "{account:?}");
    assert!(place.server.terminate().success());
    place.server.offline("verify");
    let ended = told(&place.server)
        .into_iter()
        .filter(|told| matches!(&told.change, Change::Action(ActionChange::Finished { .. })));
    assert_eq!(ended.count(), keys.len());
}

/// What an answer costs that reports far more than was asked for, and held.
const OVERRUN: i64 = 100 * crate::models::PRICES.0 + 500_000 * crate::models::PRICES.1;

/// Runs that go on at once, and so calls that may be on their way when an account is frozen.
const AT_ONCE: i64 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_reports_too_much_ends_a_hundred_runs() {
    // The first answers are as they should be.
    let rules = json!([
        {"match": "say", "times": 5, "usage": {"input": 10, "output": 10}},
        {"match": "say", "usage": {"input": 100, "output": 500_000}, "delay_ms": 20},
    ]);
    let simulator = Simulator::start(&json!({"key": KEY, "rules": rules}));
    let yaml = format!(
        "policy: {{decision_limit_ms: 5000}}\nruns: {{concurrency: {AT_ONCE}}}\n{}",
        providers(&simulator, &json!({}))
    );
    let mut server = Server::start(&yaml);
    server.publish(&allow_all()).await;
    keep_key(&server);
    let agent = server.paying_agent("shared", 10_000_000).await;
    let step = |id: &str| {
        let input = json!({"provider": "openai", "model": "sim-small", "prompt": "say it",
            "max_tokens": 20});
        json!({"id": id, "action": "llm.invoke", "input": input})
    };
    let request = workflow(&[step("one"), step("two"), step("three")]);
    let requests: Vec<StartRunRequest> = (0..RUNS).map(|_| request.clone()).collect();
    let (mut spent, mut frozen) = (0, 0);
    for answer in started(&agent, &requests).await {
        let run = answer.unwrap();
        spent += run.cost_micro_usd;
        if run.state() != RunState::Succeeded {
            assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
            assert_eq!(run.error.unwrap().code, "account_frozen");
            frozen += 1;
        }
    }
    assert!(frozen > RUNS / 2, "{frozen} runs found the account frozen");
    let asked = i64::try_from(simulator.record().len()).unwrap();
    let usual = 10 * (crate::models::PRICES.0 + crate::models::PRICES.1);
    assert!((6..=5 + AT_ONCE).contains(&asked), "{asked} calls");
    assert_eq!(spent, 5 * usual + (asked - 5) * OVERRUN, "what was reported, in full");
    let request = proto::accounts::GetAccountRequest { account_id: "shared".to_owned() };
    let account = server.owner.get_account(&request).await.unwrap();
    assert_eq!((account.spent_micro_usd, account.held_micro_usd), (spent, 0), "{account:?}");
    assert!(account.frozen);
    assert!(server.terminate().success());
    // From the receipt of the first overrun on, no attempt begins.
    let told = told(&server);
    let began =
        |told: &&Transition| matches!(&told.change, Change::Action(ActionChange::Started(_)));
    let froze = told
        .iter()
        .position(|told| matches!(&told.change, Change::Account(AccountChange::Frozen { .. })));
    let (before, after) = told.split_at(froze.unwrap());
    assert_eq!(i64::try_from(before.iter().filter(began).count()).unwrap(), asked);
    assert_eq!(after.iter().filter(began).count(), 0, "an attempt began after the freeze");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_spends_no_more_than_its_budget() {
    let place = Place::new(&format!("prices: {{core.http_call: {PRICE}}}")).await;
    let agent = place.server.paying_agent("pays", 1_000).await;
    let steps = [place.call("one", "PUT", "/1"), place.call("two", "PUT", "/2")];
    let request = StartRunRequest { budget_micro_usd: Some(PRICE), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    assert_eq!(run.state(), RunState::FailedTerminal, "{run:?}");
    assert_eq!(run.error.as_ref().unwrap().code, "budget_exceeded");
    assert_eq!((run.cost_micro_usd, place.target.seen().len()), (PRICE, 1));
    let request = StartRunRequest { budget_micro_usd: Some(100), ..workflow(&steps) };
    let run = agent.start_run(&request, None).await.unwrap();
    reaches(&agent, &run.run_id, RunState::Succeeded).await;
    assert_eq!(run.cost_micro_usd, 2 * PRICE);
}
