//! Models behind a real server: `llm.invoke` against `tally dev model`, and the official SDKs of
//! OpenAI and Anthropic against the same simulator.

mod drift;
mod prices;
mod sdks;
pub(crate) mod simulator;

use client::Client;
use proto::accounts::GetAccountRequest;
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::identity::principal::Kind;
use proto::receipts::GetReceiptRequest;
use serde_json::{Value, json};

use self::simulator::{Simulator, holds};
use crate::common::{Server, action, allow_all, assert_code, reaches, refusal};

/// A key that is nowhere by chance.
pub(crate) const KEY: &str = "sk-Wv4Hd8-the-key-of-the-simulator";
const FORMS: [&str; 4] = ["openai", "openai_responses", "anthropic", "azure_openai"];
/// Micro-USD of a token: what is read, and what is written.
pub(crate) const PRICES: (i64, i64) = (2, 8);

/// A provider for each form, with these settings besides; and time for policy.
fn section(simulator: &Simulator, more: &Value) -> String {
    format!("policy: {{decision_limit_ms: 5000}}\n{}", providers(simulator, more))
}

/// A provider for each form, with these settings besides.
pub(crate) fn providers(simulator: &Simulator, more: &Value) -> String {
    let provider = |form: &str| {
        let base = if ["anthropic", "azure_openai"].contains(&form) { "" } else { "/v1" };
        let model = json!({"input": PRICES.0 * 1_000_000, "output": PRICES.1 * 1_000_000,
            "context": 50_000, "max_tokens": 200});
        let mut provider = json!({
            "name": form, "form": form, "base_url": format!("{}{base}", simulator.url),
            "key": "simulator", "private": true, "models": {"sim-small": model},
        });
        if form == "azure_openai" {
            provider["api_version"] = json!("2024-10-21");
            provider["deployments"] = json!({"sim-small": "our-deployment"});
        }
        for (name, value) in more.as_object().unwrap() {
            provider[name] = value.clone();
        }
        provider
    };
    // YAML takes JSON.
    let providers = json!({"providers": FORMS.map(provider)});
    format!("models: {providers}")
}

/// Puts the simulator's key into the vault of the server.
pub(crate) fn keep_key(server: &Server) {
    keep_key_of(server, &server.owner_key());
}

/// The same into that of the tenant whose owner has the key `owner`.
fn keep_key_of(server: &Server, owner: &str) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, KEY).unwrap();
    let args = ["secret", "put", "simulator", "--from-file", file.to_str().unwrap()];
    assert_code(&server.tally(owner, &args), 0);
}

struct Scene {
    server: Server,
    agent: Client,
    simulator: Simulator,
}

impl Scene {
    /// A server whose policy allows everything, with the key in its vault, and an agent that pays
    /// from `purse`.
    async fn new(rules: &Value, more: &Value) -> Self {
        let simulator = Simulator::start(&json!({"key": KEY, "rules": rules}));
        let server = Server::start(&section(&simulator, more));
        server.publish(&allow_all()).await;
        let agent = server.paying_agent("purse", 10_000_000).await;
        keep_key(&server);
        Self { server, agent, simulator }
    }

    async fn ask(&self, provider: &str, params: &Value) -> Action {
        self.agent.submit_action(&ask(provider, params), None).await.unwrap()
    }

    async fn account(&self) -> proto::accounts::Account {
        let request = GetAccountRequest { account_id: "purse".to_owned() };
        self.server.owner.get_account(&request).await.unwrap()
    }

    /// What the receipts of an action say, as text.
    async fn told(&self, action: &Action) -> String {
        let mut told = String::new();
        for receipt_id in &action.receipts {
            let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
            let receipt = self.server.owner.get_receipt(&request).await.unwrap();
            told.push_str(&receipt.statement.unwrap().text);
        }
        told
    }
}

fn ask(provider: &str, params: &Value) -> SubmitActionRequest {
    let mut whole = json!({"provider": provider, "model": "sim-small", "prompt": "say something"});
    for (name, value) in params.as_object().unwrap() {
        whole[name] = value.clone();
    }
    let mut request = action("llm.invoke", &whole);
    request.wait_ms = Some(60_000);
    request
}

fn result(action: &Action) -> Value {
    assert_eq!(action.state(), State::Executed, "{action:?}");
    action.result.as_ref().unwrap().decode().unwrap()
}

#[track_caller]
fn failed(action: &Action) -> String {
    assert_eq!(action.state(), State::Failed, "{action:?}");
    action.error.as_ref().unwrap().code.clone()
}

fn number() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer", "minimum": 5}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_answers_and_is_paid_for() {
    let scene = Scene::new(&json!([]), &json!({})).await;
    let mut spent = 0;
    for form in FORMS {
        for stream in [false, true] {
            let done = scene.ask(form, &json!({"stream": stream, "system": "be brief"})).await;
            let said = result(&done);
            assert!(said["text"].as_str().unwrap().starts_with("Simulated answer"), "{said}");
            assert_eq!((&said["model"], &said["provider"]), (&json!("sim-small"), &json!(form)));
            let count = |name: &str| said["usage"][name].as_i64().unwrap();
            let cost = count("input_tokens") * PRICES.0 + count("output_tokens") * PRICES.1;
            assert_eq!(
                (done.cost_micro_usd, said["usage"]["estimated"].as_bool()),
                (cost, Some(false))
            );
            spent += cost;
            assert!(scene.told(&done).await.contains(r#""tokens":"#), "units are on record");
        }
        let done = scene.ask(form, &json!({"output_schema": number()})).await;
        assert_eq!(result(&done)["json"], json!({"n": 5}));
        spent += done.cost_micro_usd;
    }
    let account = scene.account().await;
    assert_eq!((account.spent_micro_usd, account.held_micro_usd), (spent, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_three_times_fails_for_good() {
    let rules = json!([{"times": 3, "junk": true}]);
    let scene = Scene::new(&rules, &json!({})).await;
    let done = scene.ask("openai", &json!({"output_schema": number()})).await;
    assert_eq!(failed(&done), "model_output_invalid");
    assert!(!done.error.as_ref().unwrap().retryable && done.attempt == 1, "{done:?}");
    assert!(done.cost_micro_usd > 0, "what it cost is paid");
    let account = scene.account().await;
    assert_eq!((account.spent_micro_usd, account.held_micro_usd), (done.cost_micro_usd, 0));
    let once = scene.ask("anthropic", &json!({"output_schema": number(), "repairs": 0})).await;
    assert_eq!(result(&once)["json"], json!({"n": 5}), "the script has no more junk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limited_and_a_silent_provider_are_asked_again() {
    let rules = json!([
        {"match": "limited", "times": 1, "status": 429, "retry_after_s": 2},
        {"match": "silent", "times": 1, "hang": true},
    ]);
    let scene = Scene::new(&rules, &json!({"first_byte_ms": 3_000})).await;
    let done = scene.ask("anthropic", &json!({"prompt": "limited"})).await;
    let said = result(&done);
    assert_eq!(done.attempt, 2);
    let micros = |at: &Option<proto::types::Timestamp>| at.as_ref().unwrap().micros();
    assert!(micros(&done.updated_at) - micros(&done.created_at) >= 2_000_000, "{done:?}");
    let spent = scene.account().await.spent_micro_usd;
    assert_eq!(spent, said["usage"]["cost_micro_usd"].as_i64().unwrap(), "429 costs nothing");

    let done = scene.ask("openai", &json!({"prompt": "silent"})).await;
    let cost = result(&done)["usage"]["cost_micro_usd"].as_i64().unwrap();
    // What may have been charged for the silence counts too.
    assert!(done.attempt == 2 && done.cost_micro_usd > cost + 200 * PRICES.1, "{done:?}");
    let account = scene.account().await;
    assert_eq!(account.spent_micro_usd, spent + done.cost_micro_usd, "{account:?}");
    assert_eq!(account.held_micro_usd, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_a_crash_cut_short_is_repeated_and_paid_with_what_was_held() {
    let rules = json!([{"match": "say", "times": 1, "hang": true}]);
    let mut scene = Scene::new(&rules, &json!({})).await;
    let request = SubmitActionRequest { wait_ms: Some(0), ..ask("anthropic", &json!({})) };
    let begun = scene.agent.submit_action(&request, None).await.unwrap();
    reaches(&scene.agent, &begun.action_id, State::Executing).await;
    let held = scene.account().await.held_micro_usd;
    assert!(held > 200 * PRICES.1);
    // That one hangs, and the next is answered.
    scene.simulator.asked().await;
    scene.server.kill();
    scene.server.restart();
    let done = reaches(&scene.agent, &begun.action_id, State::Executed).await;
    assert_eq!((done.attempt, done.cost_micro_usd), (2, held));
    let account = scene.account().await;
    assert_eq!((account.spent_micro_usd, account.held_micro_usd), (held, 0), "{account:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overrun_is_recorded_in_full_and_freezes_the_account() {
    let rules = json!([{"match": "say", "usage": {"input": 100, "output": 500_000}}]);
    let scene = Scene::new(&rules, &json!({})).await;
    let done = scene.ask("openai", &json!({})).await;
    result(&done);
    assert_eq!(done.cost_micro_usd, 100 * PRICES.0 + 500_000 * PRICES.1);
    let account = scene.account().await;
    assert!(account.frozen && account.spent_micro_usd == done.cost_micro_usd, "{account:?}");
    let next = scene.agent.submit_action(&ask("openai", &json!({})), None).await;
    let code = match next {
        Ok(action) => {
            assert_eq!(action.state(), State::Denied, "{action:?}");
            action.error.unwrap().code
        }
        refused => refusal(refused).1,
    };
    assert_eq!(code, "account_frozen");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_go_wrong_fail_by_name_and_are_paid_for() {
    let rules = json!([
        {"match": "endless", "overlong": 100_000, "delay_ms": 1},
        {"match": "broken", "cut_after": 3, "times": 5},
        {"match": "other", "answer_as": "sim-other"},
        {"match": "never", "refuse": true},
        {"match": "untold", "no_usage": true},
    ]);
    let scene = Scene::new(&rules, &json!({})).await;
    let said = |prompt: &str| json!({"prompt": prompt, "stream": true, "max_tokens": 4});
    for form in FORMS {
        for (prompt, code) in [("other", "model_changed"), ("never", "model_refused")] {
            let done = scene.ask(form, &said(prompt)).await;
            assert_eq!(failed(&done), code, "{form}");
            assert!(done.cost_micro_usd > 0, "{form} {prompt}");
        }
        let done = scene.ask(form, &said("untold")).await;
        assert_eq!(result(&done)["usage"]["estimated"], true, "{form}");
        // What is written beyond what was asked for is more than was held.
        let purse = format!("endless-{form}");
        let agent = scene.server.paying_agent(&purse, 1_000_000).await;
        let done = agent.submit_action(&ask(form, &said("endless")), None).await.unwrap();
        assert_eq!(failed(&done), "model_overran", "{form}");
        let account = scene.server.account(&purse).await;
        assert_eq!((account.spent_micro_usd, account.held_micro_usd), (done.cost_micro_usd, 0));
        assert!(account.frozen, "{form}: {account:?}");
    }
    let done = scene.ask("anthropic", &said("broken")).await;
    let rule = kernel::retry::rule(kernel::failure::Category::Network);
    assert_eq!((failed(&done).as_str(), done.attempt), ("connection_lost", rule.attempts));
    let account = scene.account().await;
    assert_eq!((account.held_micro_usd, account.frozen), (0, false), "{account:?}");
}

/// Which models the receipts of an action name.
async fn named(scene: &Scene, action: &Action) -> Vec<Value> {
    let mut found = Vec::new();
    for receipt_id in &action.receipts {
        let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
        let receipt = scene.server.owner.get_receipt(&request).await.unwrap();
        let statement: Value = receipt.statement.unwrap().decode().unwrap();
        for transition in statement["predicate"]["transitions"].as_array().unwrap() {
            let model = &transition["change"]["outcome"]["model"];
            found.extend((!model.is_null()).then(|| model.clone()));
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_name_the_model_that_was_asked_and_the_one_that_answered() {
    let rules = json!([
        {"match": "dated", "answer_as": "sim-small-2026-11-01"},
        {"match": "other", "answer_as": "sim-other"},
        {"match": "limited", "status": 429},
    ]);
    let scene = Scene::new(&rules, &json!({})).await;
    let asked = |form: &str| json!({"provider": form, "model": "sim-small"});
    for form in FORMS {
        let done = scene.ask(form, &json!({"stream": true})).await;
        let mut model = asked(form);
        model["answered"] = json!("sim-small");
        assert_eq!(named(&scene, &done).await, [model.clone()], "{form}");
        // The name that it has of that day is the same model, and is on record as it is.
        let dated = scene.ask(form, &json!({"prompt": "dated"})).await;
        let said = result(&dated);
        model["answered"] = json!("sim-small-2026-11-01");
        assert_eq!(named(&scene, &dated).await, [model], "{form} {said}");
        // What was paid for names whom it was asked of, also where the answer is not taken.
        let other = scene.ask(form, &json!({"prompt": "other"})).await;
        assert_eq!(failed(&other), "model_changed");
        let on_record = named(&scene, &other).await;
        assert_eq!((on_record.len(), &on_record[0]["model"]), (1, &json!("sim-small")), "{form}");
    }
}

/// What a call may cost at most is held before it is asked: a token of answer more is a token's
/// price more, the last micro-dollar of it has to be there, and a repair is paid for beforehand.
#[tokio::test(flavor = "multi_thread")]
async fn the_worst_case_is_held_while_a_model_is_asked() {
    let scene = Scene::new(&json!([{"hang": true}]), &json!({"first_byte_ms": 600_000})).await;
    let mut purses = 0;
    let mut held = async |funded: i64, params: Value| {
        purses += 1;
        let purse = format!("purse-{purses}");
        let agent = scene.server.paying_agent(&purse, funded).await;
        let request = SubmitActionRequest { wait_ms: Some(0), ..ask("anthropic", &params) };
        let begun = agent.submit_action(&request, None).await.unwrap();
        if begun.state() == State::Denied {
            return Err(begun.error.unwrap().code);
        }
        reaches(&agent, &begun.action_id, State::Executing).await;
        let account = scene.server.account(&purse).await;
        assert_eq!(account.spent_micro_usd, 0);
        Ok(account.held_micro_usd)
    };
    let most = 10_000_000;
    let few = held(most, json!({"max_tokens": 101})).await.unwrap();
    let more = held(most, json!({"max_tokens": 199})).await.unwrap();
    assert_eq!(more - few, 98 * PRICES.1);
    assert!(few >= 101 * PRICES.1 + PRICES.0, "what is sent is held too: {few}");
    assert_eq!(held(few, json!({"max_tokens": 101})).await, Ok(few));
    let short = held(few - 1, json!({"max_tokens": 101})).await;
    assert_eq!(short, Err("budget_exceeded".to_owned()));
    let schema =
        |repairs: u32| json!({"max_tokens": 101, "output_schema": number(), "repairs": repairs});
    let never = held(most, schema(0)).await.unwrap();
    let twice = held(most, schema(2)).await.unwrap();
    assert!(twice > 3 * never, "each repair reads the answer before it: {never} {twice}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_price_or_is_no_purse_does_not_run() {
    let scene = Scene::new(&json!([]), &json!({})).await;
    let unpriced = ask("openai", &json!({"model": "sim-large"}));
    let refused = refusal(scene.agent.submit_action(&unpriced, None).await);
    assert_eq!(refused, (400, "model_price_missing".to_owned()));
    let dear = ask("openai", &json!({"max_tokens": 49_000, "output_schema": number()}));
    let poor = scene.server.paying_agent("poor", 1_000_000).await;
    let done = poor.submit_action(&dear, None).await;
    let code = done.map_or_else(|e| refusal(Err::<(), _>(e)).1, |a| a.error.unwrap().code);
    assert_eq!(code, "budget_exceeded");
    assert_eq!(scene.server.account("poor").await.spent_micro_usd, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_has_the_key_is_not_passed_on() {
    let told = format!("As you wish: {KEY}");
    // Once more in JSON, which may write it in its own way.
    let rest = KEY.strip_prefix('s').unwrap();
    let escaped = format!("{{\"n\": 7, \"note\": \"\\u0073{rest}\"}}");
    let rules = json!([{"match": "form", "reply": escaped}, {"match": "key", "reply": told}]);
    let mut scene = Scene::new(&rules, &json!({})).await;
    let mut seen = String::new();
    for form in FORMS {
        for params in [
            json!({"prompt": "the key"}),
            json!({"prompt": "the key", "stream": true}),
            json!({"prompt": "in form", "output_schema": {"type": "object"}}),
        ] {
            let done = scene.ask(form, &params).await;
            assert_eq!((failed(&done).as_str(), done.attempt), ("model_told_key", 1), "{form}");
            assert!(done.cost_micro_usd > 0, "what it cost is paid");
            seen.push_str(&format!("{done:?} {}", scene.told(&done).await));
        }
    }
    scene.server.terminate();
    seen.push_str(&scene.server.log());
    assert!(!seen.contains(KEY), "the key is told");
    assert!(!holds(&scene.server.data, KEY), "the key is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_is_in_no_file_log_receipt_or_answer() {
    let rules = json!([{"match": "broken", "status": 500, "times": 1}]);
    let mut scene = Scene::new(&rules, &json!({})).await;
    let agent = scene.server.key(Kind::Agent, &["agent"], "dev").await;
    let mut told = String::new();
    for form in FORMS {
        for prompt in ["fine", "broken"] {
            let done = scene.ask(form, &json!({"prompt": prompt, "stream": true})).await;
            told.push_str(&format!("{done:?} {}", scene.told(&done).await));
        }
    }
    let owner = scene.server.owner_key();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    std::fs::write(&file, format!("{KEY}x")).unwrap();
    let args = ["secret", "rotate", "simulator", "--from-file", file.to_str().unwrap()];
    assert_code(&scene.server.tally(&owner, &args), 0);
    let refused = scene.ask("anthropic", &json!({})).await;
    assert_eq!(failed(&refused), "provider_auth_failed");
    told.push_str(&format!("{refused:?} {}", scene.told(&refused).await));
    let tool = scene.server.tally(&agent, &["tool", "show", "llm.invoke", "--json"]);
    assert_code(&tool, 0);
    told.push_str(&String::from_utf8_lossy(&tool.stdout));
    scene.server.terminate();
    told.push_str(&scene.server.log());
    assert!(!told.contains(KEY), "the key is told");
    assert!(!holds(&scene.server.data, KEY), "the key is kept");
}
