//! Budgets under budgets, in money and units, through the real program: what is spent, what is
//! told, what is metered, and that none of it depends on who is first or who is killed.

mod units;

use client::{Client, Error};
use ledger::rebuild;
use proto::accounts::{
    Account, AllotAccountRequest, CreateAccountRequest, FundAccountRequest, GetAccountRequest,
    GiveBackAccountRequest, ThawAccountRequest,
};
use proto::actions::action::State;
use proto::actions::reconcile_action_request::Outcome;
use proto::actions::{Action, ListActionsRequest, ReconcileActionRequest, SubmitActionRequest};
use proto::metering::{GetUsageRequest, Usage};
use proto::types::Units;
use proto::types::error::Category;
use std::collections::{BTreeMap, BTreeSet};
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep};

use crate::common::target::Target;
use crate::common::wire::Wire;
use crate::common::{Server, allow_all, assert_code, refusal, text};

/// What one call costs, in micro-USD.
const PRICE: i64 = 7;
/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

async fn start(target: &Target) -> Server {
    let grant = target.grant();
    let yaml = format!("grants: {{http: [{grant}]}}\nprices: {{core.http_call: {PRICE}}}");
    let server = Server::start(&yaml);
    server.publish(&allow_all()).await;
    server
}

async fn account(server: &Server, id: &str) -> Account {
    let request = GetAccountRequest { account_id: id.to_owned() };
    server.owner.get_account(&request).await.unwrap()
}

fn calls(calls: u64) -> Option<Units> {
    Some(Units { calls, ..Units::default() })
}

async fn open(server: &Server, id: &str, parent: &str, alert_at: &[u32]) {
    let request = CreateAccountRequest {
        account_id: id.to_owned(),
        name: String::new(),
        parent_account_id: parent.to_owned(),
        alert_at_percent: alert_at.to_vec(),
    };
    server.owner.create_account(&request, None).await.unwrap();
}

async fn allot(server: &Server, to: &str, amount: i64, units: Option<Units>) -> Result<(), Error> {
    let (account_id, amount_micro_usd) = (to.to_owned(), amount);
    let request = AllotAccountRequest { account_id, amount_micro_usd, units };
    server.owner.allot_account(&request, None).await.map(drop)
}

async fn usage(who: &Client, group_by: &str) -> (BTreeMap<String, Usage>, Usage) {
    let request = GetUsageRequest { group_by: group_by.to_owned(), ..Default::default() };
    let usage = who.get_usage(&request).await.unwrap();
    let rows = usage.rows.into_iter().map(|row| (row.key.clone(), row));
    (rows.collect(), usage.total.unwrap())
}

/// Every action of the workspace.
async fn actions(who: &Client) -> Vec<Action> {
    let mut all = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = ListActionsRequest { page_size: 200, page_token, ..Default::default() };
        let page = who.list_actions(&request).await.unwrap();
        all.extend(page.actions);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return all;
        }
    }
}

/// What was metered is what the actions came to and what the accounts were debited.
async fn assert_sums(server: &Server) -> Usage {
    let actions = actions(&server.owner).await;
    let cost: i64 = actions.iter().map(|action| action.cost_micro_usd).sum();
    let used = |of: fn(&Units) -> u64| -> u64 {
        actions.iter().filter_map(|action| action.units.as_ref()).map(of).sum()
    };
    let in_state = |state| actions.iter().filter(|action| action.state() == state).count() as u64;
    let mut totals = Vec::new();
    for group_by in ["run", "agent", "tool", "account", "day", "environment"] {
        let (rows, total) = usage(&server.owner, group_by).await;
        let sum: i64 = rows.values().map(|row| row.cost_micro_usd).sum();
        assert_eq!(sum, total.cost_micro_usd, "{group_by}");
        totals.push(total);
    }
    let total = totals.pop().unwrap();
    assert!(totals.iter().all(|other| *other == total), "{totals:?}");
    assert_eq!((total.actions, total.cost_micro_usd), (actions.len() as u64, cost));
    let ended = (total.executed, total.failed, total.denied);
    let states = [State::Executed, State::Failed, State::Denied].map(in_state);
    assert_eq!(ended, (states[0], states[1], states[2]));
    assert_eq!((total.calls, total.writes), (used(|u| u.calls), used(|u| u.writes)));
    let spent = server.owner.list_accounts(&Default::default()).await.unwrap().accounts;
    let budgets = spent.iter().filter(|a| !["spend", "funding"].contains(&a.account_id.as_str()));
    assert_eq!(budgets.map(|a| a.spent_micro_usd).sum::<i64>(), cost, "{spent:?}");
    total
}

#[tokio::test(flavor = "multi_thread")]
async fn a_team_spends_what_it_is_allotted_and_gives_back_the_rest() {
    let target = Target::start().await;
    let mut server = start(&target).await;
    open(&server, "company", "", &[50, 100]).await;
    let request = FundAccountRequest {
        account_id: "company".to_owned(),
        amount_micro_usd: 20 * PRICE,
        units: calls(10),
    };
    server.owner.fund_account(&request, None).await.unwrap();
    open(&server, "team", "company", &[]).await;
    let elsewhere = FundAccountRequest { account_id: "team".to_owned(), ..request };
    assert_eq!(refusal(server.owner.fund_account(&elsewhere, None).await).0, 400);
    let too_much = refusal(allot(&server, "team", 21 * PRICE, None).await);
    assert_eq!(too_much.1, "budget_exceeded");
    allot(&server, "team", 10 * PRICE, calls(5)).await.unwrap();

    let agent = server.agent_paying_from("team").await;
    let call = target.call("POST", "/orders");
    for _ in 0..5 {
        let action = agent.submit_action(&call, None).await.unwrap();
        assert_eq!(action.state(), State::Executed, "{action:?}");
        assert_eq!(action.units, Some(Units { calls: 1, writes: 1, ..Units::default() }));
    }
    // There is money left, but no call. Who asks again is told the same.
    for key in ["sixth", "sixth"] {
        let action = agent.submit_action(&call, Some(key)).await.unwrap();
        let error = action.error.clone().unwrap();
        assert_eq!((error.code.as_str(), error.category()), ("budget_exceeded", Category::Budget));
        assert_eq!(error.message, "account `team` has 0 calls left, 1 are needed");
    }
    let team = account(&server, "team").await;
    assert_eq!((team.available_micro_usd, team.spent_micro_usd), (5 * PRICE, 5 * PRICE));
    let company = account(&server, "company").await;
    assert_eq!(company.allotted_micro_usd, 10 * PRICE);
    let told: Vec<_> = company.alerts.iter().map(|a| (a.measure.as_str(), a.percent)).collect();
    assert_eq!(told, [("money", 50), ("calls", 50)]);
    let metrics = Wire::new(&server.url).ask("GET", "/metrics").send().await.text();
    for measure in ["money", "calls"] {
        let line = format!("tally_budget_alerts_total{{measure=\"{measure}\"}} 1");
        assert!(metrics.contains(&line), "{metrics}");
    }

    gives_back(&server, &agent, &call).await;
    reports(&server).await;
    // Meters and alerts follow from the receipts alone.
    assert!(server.terminate().success());
    assert_same_rebuilt(&server);
}

/// The team is closed: what it has not spent is the company's again.
async fn gives_back(server: &Server, agent: &Client, call: &SubmitActionRequest) {
    let back = GiveBackAccountRequest { account_id: "team".to_owned() };
    let team = server.owner.give_back_account(&back, None).await.unwrap();
    assert!(team.closed && team.available_micro_usd == 0, "{team:?}");
    let company = account(server, "company").await;
    assert_eq!((company.available_micro_usd, company.allotted_micro_usd), (15 * PRICE, 5 * PRICE));
    let units = &company.units[0];
    assert_eq!((units.unit.as_str(), units.funded, units.available), ("calls", 10, 5));
    let closed = agent.submit_action(call, None).await.unwrap().error.unwrap();
    assert_eq!(
        (closed.code.as_str(), closed.message.as_str()),
        ("account_closed", "account `team` is closed")
    );
}

/// What it came to, summed up and printed.
async fn reports(server: &Server) {
    let total = assert_sums(server).await;
    assert_eq!((total.executed, total.denied, total.writes), (5, 2, 5));
    let (by_account, _) = usage(&server.owner, "account").await;
    assert_eq!(by_account["team"].cost_micro_usd, 5 * PRICE);
    let owner = server.owner_key();
    let csv = text(&server.tally(&owner, &["cost", "report", "--by", "account", "--csv"]));
    let lines: Vec<_> = csv.lines().collect();
    assert!(lines[0].starts_with("account,actions,executed,failed,denied,retries,cost_micro_usd"));
    assert!(lines[1].starts_with("team,7,5,0,2,0,35,0,5,5,"), "{csv}");
    let table = text(&server.tally(&owner, &["cost", "report", "--by", "account"]));
    assert!(table.contains("$0.000035"), "{table}");
    let shown = text(&server.tally(&owner, &["account", "show", "company"]));
    assert!(shown.contains("5 of 10 calls left (0 used, 5 allotted, 0 held)"), "{shown}");
    assert_code(&server.tally(&owner, &["account", "alerts", "company", "--at", "99"]), 0);
}

fn assert_same_rebuilt(server: &Server) {
    server.offline("rebuild");
    for store in server.stores() {
        for log in store.logs().unwrap() {
            assert_eq!(rebuild::diff(store.as_ref(), &log).unwrap(), [], "{log:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_when_an_account_closes_comes_back_when_it_is_settled() {
    let target = Target::start().await;
    let server = start(&target).await;
    open(&server, "company", "", &[]).await;
    server.fund("company", 10 * PRICE).await;
    open(&server, "team", "company", &[]).await;
    allot(&server, "team", 4 * PRICE, None).await.unwrap();
    let agent = server.agent_paying_from("team").await;
    let unknown = agent.submit_action(&target.call("POST", "/drop/1"), None).await.unwrap();
    assert_eq!(unknown.state(), State::Unknown);
    let back = GiveBackAccountRequest { account_id: "team".to_owned() };
    server.owner.give_back_account(&back, None).await.unwrap();
    assert_eq!(account(&server, "company").await.available_micro_usd, 9 * PRICE);
    let reconcile = ReconcileActionRequest {
        action_id: unknown.action_id,
        outcome: Outcome::Executed.into(),
        cost_micro_usd: 2,
        reason: String::new(),
    };
    server.owner.reconcile_action(&reconcile, None).await.unwrap();
    let until = Instant::now() + PATIENCE;
    while account(&server, "company").await.available_micro_usd != 10 * PRICE - 2 {
        assert!(Instant::now() < until, "what was left does not come back");
        sleep(Duration::from_millis(20)).await;
    }
    assert_sums(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_charge_beyond_its_hold_freezes_the_account_until_it_is_thawed() {
    let target = Target::start().await;
    let server = start(&target).await;
    let agent = server.paying_agent("ops", 10 * PRICE).await;
    let unknown = agent.submit_action(&target.call("POST", "/drop/1"), None).await.unwrap();
    let reconcile = ReconcileActionRequest {
        action_id: unknown.action_id,
        outcome: Outcome::Executed.into(),
        cost_micro_usd: PRICE + 5,
        reason: String::new(),
    };
    let action = server.owner.reconcile_action(&reconcile, None).await.unwrap();
    assert_eq!(action.cost_micro_usd, PRICE + 5, "a provider's overrun is recorded in full");
    let ops = account(&server, "ops").await;
    assert!(ops.frozen && ops.available_micro_usd == 9 * PRICE - 5, "{ops:?}");
    let call = target.call("POST", "/orders");
    let denied = agent.submit_action(&call, None).await.unwrap().error.unwrap();
    assert_eq!(denied.code, "account_frozen");
    assert!(denied.message.contains("`ops`"), "{}", denied.message);
    let thaw = ThawAccountRequest { account_id: "ops".to_owned() };
    assert!(!server.owner.thaw_account(&thaw, None).await.unwrap().frozen);
    assert_eq!(agent.submit_action(&call, None).await.unwrap().state(), State::Executed);
    assert_sums(&server).await;
}

/// Submits each of `count` calls at once under a key of its own, and passes over what a server
/// that is killed does not answer.
async fn burst(agent: &Client, target: &Target, count: usize) -> JoinSet<Option<Action>> {
    let mut running = JoinSet::new();
    for n in 0..count {
        let (agent, call) = (agent.clone(), target.call("POST", &format!("/orders/{n}")));
        let call = SubmitActionRequest { wait_ms: Some(30_000), ..call };
        running
            .spawn(async move { agent.submit_action(&call, Some(&format!("n-{n}"))).await.ok() });
    }
    running
}

#[tokio::test(flavor = "multi_thread")]
async fn one_hundred_at_once_never_overspend_though_the_server_is_killed() {
    const FUNDED: i64 = 60 * PRICE;
    let target = Target::slow(Duration::from_millis(50)).await;
    let mut server = start(&target).await;
    let agent = server.paying_agent("ops", FUNDED).await;
    let first = burst(&agent, &target, 100).await;
    let until = Instant::now() + PATIENCE;
    while target.seen().len() < 20 {
        assert!(Instant::now() < until, "nothing arrives");
        sleep(Duration::from_millis(1)).await;
    }
    server.kill();
    first.join_all().await;
    server.restart();
    let again = burst(&agent, &target, 100).await.join_all().await;
    let of = |state| again.iter().flatten().filter(|action| action.state() == state).count();
    assert_eq!(again.iter().flatten().count(), 100, "the same keys, answered now");
    let (executed, unknown, denied) = (of(State::Executed), of(State::Unknown), of(State::Denied));
    assert_eq!((executed + unknown, denied), (60, 40), "to the micro-dollar");
    let seen: BTreeSet<_> = target.seen().into_iter().map(|delivery| delivery.path).collect();
    assert_eq!(seen.len(), target.seen().len(), "none is sent twice");
    assert!((executed..=executed + unknown).contains(&seen.len()), "{}", seen.len());
    let ops = account(&server, "ops").await;
    let money = |count: usize| i64::try_from(count).unwrap() * PRICE;
    let expected = (money(executed), money(unknown), 0);
    assert_eq!((ops.spent_micro_usd, ops.held_micro_usd, ops.available_micro_usd), expected);
    let total = assert_sums(&server).await;
    assert_eq!(total.cost_micro_usd, ops.spent_micro_usd);
    assert!(server.terminate().success());
    assert_same_rebuilt(&server);
}
