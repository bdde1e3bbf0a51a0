//! Units that a tool alone can tell: the tokens of models, and the processor time of code.

use client::Client;
use kernel::units::Unit;
use proto::accounts::{FundAccountRequest, ThawAccountRequest, UnitBalance};
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::sandboxes::{ExecuteRequest, Limits};
use proto::types::Units;
use proto::types::error::Category;
use serde_json::{Value, json};

use crate::common::desk::approve;
use crate::common::{Server, action, allow_all, reaches};
use crate::models::simulator::Simulator;
use crate::models::{KEY, keep_key, providers};
use crate::sandbox::agents::{caller, echo, endless};
use crate::sandbox::place::{Place, component, soon};

/// What a provider reports that bills far more than was asked for.
const REPORTED: u64 = 20_100;

async fn fund(server: &Server, id: &str, units: Units) {
    let (account_id, units) = (id.to_owned(), Some(units));
    let request = FundAccountRequest { account_id, amount_micro_usd: 0, units };
    server.owner.fund_account(&request, None).await.unwrap();
}

/// What an account has of the one unit that it bounds.
async fn books(server: &Server, id: &str, unit: Unit) -> UnitBalance {
    let account = server.account(id).await;
    let [books] = &account.units[..] else { panic!("{account:?}") };
    assert_eq!(books.unit, unit.as_str());
    let gone = books.used + books.held + books.allotted;
    assert_eq!(books.available, books.funded.saturating_sub(gone), "{books:?}");
    books.clone()
}

/// How much was needed of what the account had too little of: that is told, and no other account.
#[track_caller]
fn needed(denied: (State, Option<&proto::types::Error>), account: &str, left: &str) -> u64 {
    let (state, error) = denied;
    let error = error.unwrap();
    assert_eq!((state, error.code.as_str()), (State::Denied, "budget_exceeded"), "{error:?}");
    assert_eq!(error.category(), Category::Budget);
    let told = error.message.strip_prefix(&format!("account `{account}` has {left} left, "));
    let needed = told.and_then(|told| told.strip_suffix(" are needed"));
    needed.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{}", error.message))
}

fn ask(prompt: &str, stream: bool) -> SubmitActionRequest {
    let params = json!({"provider": "openai", "model": "sim-small", "prompt": prompt,
        "stream": stream});
    SubmitActionRequest { wait_ms: Some(60_000), ..action("llm.invoke", &params) }
}

async fn asked(agent: &Client, prompt: &str, stream: bool) -> Action {
    agent.submit_action(&ask(prompt, stream), None).await.unwrap()
}

fn denied(action: &Action) -> (State, Option<&proto::types::Error>) {
    (action.state(), action.error.as_ref())
}

fn tokens(action: &Action) -> u64 {
    action.units.as_ref().unwrap().tokens
}

/// A simulator, and a server on which its model costs nothing: tokens alone are bounded.
async fn free_of_charge(rules: &Value) -> (Simulator, Server) {
    let simulator = Simulator::start(&json!({"key": KEY, "rules": rules}));
    let model = json!({"input": 0, "output": 0, "context": 50_000, "max_tokens": 200});
    let models = providers(&simulator, &json!({"models": {"sim-small": model}}));
    let server = Server::start(&format!("policy: {{decision_limit_ms: 5000}}\n{models}"));
    server.publish(&allow_all()).await;
    keep_key(&server);
    (simulator, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_bound_what_models_are_asked() {
    // More written than was asked for would be cut off where it is streamed.
    let usage = json!({"input": REPORTED - 10, "output": 10});
    let rules = json!([{"match": "dear", "usage": usage}]);
    let (simulator, server) = free_of_charge(&rules).await;
    let mut answered = 0;
    for (stream, purse) in [(false, "whole"), (true, "streamed")] {
        let agent = server.paying_agent(purse, 1).await;
        fund(&server, purse, Units { tokens: 100, ..Units::default() }).await;
        let poor = asked(&agent, "say something", stream).await;
        let worst = needed(denied(&poor), purse, "100 tokens");
        assert!(worst > 200, "an answer alone may have 200 tokens: {worst}");
        let untouched = books(&server, purse, Unit::Tokens).await;
        assert_eq!((untouched.used, untouched.held), (0, 0));

        // Exactly the worst case is enough. The rest comes back.
        fund(&server, purse, Units { tokens: worst - 100, ..Units::default() }).await;
        let done = asked(&agent, "say something", stream).await;
        assert_eq!(done.state(), State::Executed, "{done:?}");
        let said: Value = done.result.as_ref().unwrap().decode().unwrap();
        let count = |name: &str| said["usage"][name].as_u64().unwrap();
        let used = count("input_tokens") + count("output_tokens");
        assert!(tokens(&done) == used && (1..worst).contains(&used), "{done:?}");
        let paid = books(&server, purse, Unit::Tokens).await;
        assert_eq!((paid.used, paid.held, paid.available), (used, 0, worst - used));
        let left = format!("{} tokens", worst - used);
        let again = asked(&agent, "say something", stream).await;
        assert_eq!(needed(denied(&again), purse, &left), worst, "stream: {stream}");

        // What a provider reports is a fact, though more than was held and than there was.
        fund(&server, purse, Units { tokens: worst, ..Units::default() }).await;
        let dear = asked(&agent, "dear", stream).await;
        assert_eq!((dear.state(), tokens(&dear)), (State::Executed, REPORTED), "{dear:?}");
        let over = books(&server, purse, Unit::Tokens).await;
        assert_eq!((over.used, over.held, over.available), (used + REPORTED, 0, 0));
        let frozen = asked(&agent, "say something", stream).await.error.unwrap();
        assert_eq!((frozen.code.as_str(), frozen.category()), ("account_frozen", Category::Budget));
        assert!(frozen.message.contains(&format!("`{purse}`")), "{}", frozen.message);
        let thaw = ThawAccountRequest { account_id: purse.to_owned() };
        server.owner.thaw_account(&thaw, None).await.unwrap();
        let empty = asked(&agent, "say something", stream).await;
        assert_eq!(needed(denied(&empty), purse, "0 tokens"), worst, "stream: {stream}");
        answered += 2;
        assert_eq!(simulator.record().len(), answered, "what was refused reached no model");
    }
}

/// Code that may compute for so long.
fn for_ms(cpu_ms: u64, request: ExecuteRequest) -> ExecuteRequest {
    let limits = Limits { cpu_ms: Some(cpu_ms), ..request.limits.unwrap_or_default() };
    ExecuteRequest { limits: Some(limits), ..request }
}

#[tokio::test(flavor = "multi_thread")]
async fn processor_time_bounds_code() {
    const ALL: u64 = 1_000;
    const ONE: u64 = 600;
    let place = Place::new("").await;
    let agent = place.server.paying_agent("computes", 1).await;
    fund(&place.server, "computes", Units { cpu_ms: ALL, ..Units::default() }).await;
    let execute = async |request| agent.execute(&for_ms(ONE, request), None).await.unwrap();

    // While code waits for people, all that it may use is held.
    let waits = execute(soon(caller(&[place.writes()]))).await;
    let held = place.held(&waits).await;
    let now = books(&place.server, "computes", Unit::CpuMs).await;
    assert_eq!((now.used, now.held, now.available), (0, ONE, ALL - ONE));
    let second = execute(component(echo())).await;
    let left = format!("{} cpu_ms", ALL - ONE);
    assert_eq!(needed((second.state(), second.error.as_ref()), "computes", &left), ONE);

    // What it did not use comes back.
    approve(&place.approver().await, &held).await.unwrap();
    let done = reaches(&agent, &waits.execution_id, State::Executed).await;
    let first = books(&place.server, "computes", Unit::CpuMs).await;
    assert_eq!((first.used, first.held), (done.units.unwrap().cpu_ms, 0));
    assert!(first.used <= ONE, "{first:?}");

    // What fails has used it too.
    let more = Units { cpu_ms: first.used.max(1), ..Units::default() };
    fund(&place.server, "computes", more).await;
    let first = books(&place.server, "computes", Unit::CpuMs).await;
    let ended = execute(component(endless())).await;
    let error = ended.error.as_ref().unwrap();
    assert_eq!((ended.state(), error.code.as_str()), (State::Failed, "cpu_time_exceeded"));
    let spent = books(&place.server, "computes", Unit::CpuMs).await;
    assert_eq!((spent.used, spent.held), (first.used + ONE, 0));
    let none = execute(component(echo())).await;
    let left = format!("{} cpu_ms", first.available - ONE);
    assert_eq!(needed((none.state(), none.error.as_ref()), "computes", &left), ONE);
    assert_eq!(books(&place.server, "computes", Unit::CpuMs).await, spent);
}
