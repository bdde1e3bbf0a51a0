//! What a tenant pays that has prices of its own: what is estimated, held and paid.

use client::Client;
use proto::accounts::GetAccountRequest;
use proto::actions::action::State;
use proto::actions::{Action, GetActionRequest, SubmitActionRequest};
use proto::runtime::{PlanStep, SimulateRequest};
use proto::tools::GetToolRequest;
use proto::types::Json;
use serde_json::{Value, json};

use super::simulator::Simulator;
use super::{KEY, PRICES, ask, keep_key_of, providers, result};
use crate::common::{Server, action, allow_all};
use crate::sandbox::agents::echo;
use crate::sandbox::place::component;

/// Micro-USD of a value that is set, and of an execution: for everybody, and for the tenant that
/// pays less.
const SET: (i64, i64) = (30_000, 10_000);
const EXECUTE: (i64, i64) = (500, 7);

/// What everybody pays, and the prices of the tenant `cheap`: half of it for what a model does.
fn prices(simulator: &Simulator, own: &Value) -> String {
    let models = providers(simulator, &json!({}));
    let usual = json!({"kv.set": SET.0, "sandbox.execute": EXECUTE.0});
    format!(
        "policy: {{decision_limit_ms: 5000}}\n{models}\nprices: {usual}\n\
         tenant_prices: {{cheap: {own}}}"
    )
}

fn half() -> Value {
    let model = json!({"input": PRICES.0 * 500_000, "output": PRICES.1 * 500_000});
    json!({
        "tools": {"kv.set": SET.1, "sandbox.execute": EXECUTE.1},
        "models": {"openai": {"sim-small": model}},
    })
}

/// A tenant, and an agent of it that pays from `purse`.
struct Side {
    owner: Client,
    agent: Client,
}

impl Side {
    async fn new(server: &Server, tenant: &str) -> Self {
        let key = server.tenant(tenant).await;
        keep_key_of(server, &key);
        let owner = Client::new(&server.url, &key).unwrap();
        let agent = server.paying_agent_of(&owner, "purse", 10_000_000).await;
        Self { owner, agent }
    }

    async fn pays(&self, request: &SubmitActionRequest) -> i64 {
        let done = self.agent.submit_action(request, None).await.unwrap();
        assert_eq!(done.state(), State::Executed, "{done:?}");
        done.cost_micro_usd
    }

    async fn spent(&self) -> i64 {
        let request = GetAccountRequest { account_id: "purse".to_owned() };
        self.owner.get_account(&request).await.unwrap().spent_micro_usd
    }

    /// What a simulation says that setting a value costs.
    async fn foresees(&self) -> i64 {
        let params = Some(Json::of(&json!({"key": "a", "value": 1})).unwrap());
        let step = PlanStep { skill: "kv_set".to_owned(), params, iterations: None };
        let request = SimulateRequest { plan: vec![step], ..SimulateRequest::default() };
        let simulated = self.agent.simulate(&request).await.unwrap();
        let [step] = &simulated.steps[..] else { panic!("{simulated:?}") };
        step.estimated_cost_micro_usd.unwrap()
    }

    /// What would be held for a question, which an agent without money is told.
    async fn holds(&self, server: &Server) -> i64 {
        let poor = server.paying_agent_of(&self.owner, "poor", 1).await;
        let denied: Action = poor.submit_action(&question(), None).await.unwrap();
        let error = denied.error.unwrap();
        let needed = error.message.strip_prefix("account `poor` has 1 micro-USD left, ");
        let needed = needed.and_then(|told| told.strip_suffix(" are needed"));
        needed.unwrap_or_else(|| panic!("{error:?}")).parse().unwrap()
    }

    async fn executes(&self) -> i64 {
        let done = self.agent.execute(&component(echo()), None).await.unwrap();
        let request = GetActionRequest { action_id: done.execution_id };
        self.agent.get_action(&request).await.unwrap().cost_micro_usd
    }

    async fn digest(&self, tool: &str) -> String {
        let request = GetToolRequest { tool_id: tool.to_owned() };
        self.agent.get_tool(&request).await.unwrap().digest
    }
}

fn question() -> SubmitActionRequest {
    ask("openai", &json!({}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_pays_its_own_prices() {
    let rules = json!([{"match": "say", "usage": {"input": 10, "output": 10}}]);
    let simulator = Simulator::start(&json!({"key": KEY, "rules": rules}));
    let server = Server::start(&prices(&simulator, &half()));
    server.publish(&allow_all()).await;
    let usual = Side::new(&server, "usual").await;
    let cheap = Side::new(&server, "cheap").await;
    assert_eq!((usual.foresees().await, cheap.foresees().await), SET);
    let set = action("kv.set", &json!({"key": "a", "value": 1}));
    assert_eq!((usual.pays(&set).await, cheap.pays(&set).await), SET);
    assert_eq!((usual.executes().await, cheap.executes().await), EXECUTE);
    // What is held for a model, and what it comes to, are of one price.
    let (held, halved) = (usual.holds(&server).await, cheap.holds(&server).await);
    assert_eq!(held, 2 * halved);
    let whole = 10 * (PRICES.0 + PRICES.1);
    assert_eq!((usual.pays(&question()).await, cheap.pays(&question()).await), (whole, whole / 2));
    for (side, sum) in
        [(&usual, SET.0 + EXECUTE.0 + whole), (&cheap, SET.1 + EXECUTE.1 + whole / 2)]
    {
        assert_eq!(side.spent().await, sum);
    }
    // A tool at another price is another tool; at the same price it is the same.
    for (tool, same) in
        [("kv.set", false), ("sandbox.execute", false), ("llm.invoke", false), ("kv.get", true)]
    {
        assert_eq!(usual.digest(tool).await == cheap.digest(tool).await, same, "{tool}");
    }
    // Where another provider has the model, its price is that of everybody.
    let other = ask("anthropic", &json!({}));
    assert_eq!((usual.pays(&other).await, cheap.pays(&other).await), (whole, whole));
    let said = cheap.agent.submit_action(&question(), None).await.unwrap();
    assert_eq!(result(&said)["usage"]["cost_micro_usd"], json!(whole / 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_of_nothing_refuse_the_start() {
    let simulator = Simulator::start(&json!({"key": KEY, "rules": []}));
    let mut server = Server::start(&prices(&simulator, &half()));
    assert!(server.terminate().success());
    let price = json!({"input": 1, "output": 1});
    for (own, says) in [
        (json!({"tools": {"core.nothing": 1}}), "tenant_prices.cheap.tools: `core.nothing`"),
        (json!({"tools": {"sandbox.execute": -1}}), "`sandbox.execute` costs less than nothing"),
        (json!({"models": {"other": {"sim-small": price}}}), "provider `other`"),
        (json!({"models": {"openai": {"sim-big": price}}}), "no model `sim-big`"),
        (json!({"models": {"openai": {"sim-small": {"input": 1}}}}), "output"),
    ] {
        server.configure(&prices(&simulator, &own));
        let refused = server.refuses_to_start();
        assert!(refused.contains(says), "{own}: {refused}");
    }
    server.configure(&prices(&simulator, &half()));
    server.restart();
}
