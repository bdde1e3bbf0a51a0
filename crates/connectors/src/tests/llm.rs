//! Models: what is asked, what is made of every kind of answer, and what it costs.

mod peer;

use kernel::failure::{Category, Failure};
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::limits::AMOUNT_MICRO_USD_MAX;
use kernel::units::{Unit, Units};
use kernel::values::{MicroUsd, Timestamp};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use self::peer::{Act, Peer, answer, events, status};
use super::{Asked, Names, anybody};
use crate::llm::ModelsConfig;
use crate::mcp::Secrets;
use crate::tools::{Charged, Context};
use crate::{Executed, Outcome, Tools, ToolsConfig};

/// A key that is nowhere by chance.
const KEY: &str = "sk-Qz7Lm4-the-key-of-a-provider";
const FORMS: [&str; 4] = ["openai", "openai_responses", "anthropic", "azure_openai"];
/// Micro-USD of a token: what is read, and what is written.
const PRICES: (i64, i64) = (3, 15);

struct Keys;

impl Secrets for Keys {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        match name {
            "the-key" => Ok(Zeroizing::new(KEY.to_owned())),
            _ => Err(Failure::new(Category::Permanent, "secret_missing", "no")),
        }
    }
}

fn config(form: &str, url: &str, more: &Value) -> Value {
    let base = if form == "anthropic" { url.to_owned() } else { format!("{url}/v1") };
    let mut provider = json!({
        "name": "one", "form": form, "base_url": base, "key": "the-key", "private": true,
        "models": {"m-1": {"input": PRICES.0 * 1_000_000, "output": PRICES.1 * 1_000_000,
            "context": 100_000, "max_tokens": 64}},
    });
    if form == "azure_openai" {
        provider["base_url"] = json!(url);
        provider["api_version"] = json!("2024-10-21");
        provider["deployments"] = json!({"m-1": "our-model"});
    }
    for (name, value) in more.as_object().unwrap() {
        provider[name] = value.clone();
    }
    json!({"providers": [provider]})
}

fn tools(config: &Value) -> Tools {
    let models: ModelsConfig = serde_json::from_value(config.clone()).unwrap();
    Tools::new(ToolsConfig { models, resolver: Names::of(&[]), ..ToolsConfig::default() }).unwrap()
}

fn id() -> ToolId {
    ToolId::new("llm.invoke").unwrap()
}

fn raw(params: &Value) -> RawJson {
    RawJson::parse(&params.to_string()).unwrap()
}

async fn invoke(tools: &Tools, params: &Value) -> Outcome {
    invoke_again(tools, params, false).await
}

async fn invoke_again(tools: &Tools, params: &Value, in_doubt: bool) -> Outcome {
    let context = Context {
        idempotency_key: "act_1".to_owned(),
        now: Timestamp(0),
        redirect: &Asked::default(),
        secrets: &Keys,
        store: &crate::kv::NoKeyValues,
        in_doubt,
    };
    let tool = tools.get(&anybody(), &id()).unwrap();
    let outcome = tools.run(tool, &raw(params), context).await;
    let manifest = &tool.manifest;
    match &outcome {
        Outcome::Executed(done) => {
            jsonschema::validate(&manifest.output_schema, &done.result.to_value()).unwrap();
        }
        Outcome::Failed(failure) | Outcome::Charged(Charged { failure, .. }) => {
            let named = manifest.failure_modes.iter().any(|mode| mode.code == failure.code);
            assert!(named, "{failure:?}");
        }
        Outcome::Unknown(failure) => panic!("how it ends is always known: {failure:?}"),
    }
    assert!(!format!("{outcome:?} {tools:?}").contains(KEY));
    outcome
}

async fn ask(form: &str, more: &Value, params: &Value, acts: Vec<Act>) -> (Outcome, Peer) {
    let peer = Peer::start(acts).await;
    let outcome = invoke(&tools(&config(form, &peer.url, more)), params).await;
    (outcome, peer)
}

fn hello() -> Value {
    json!({"model": "m-1", "prompt": "hello"})
}

fn with(mut params: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        params[name] = value.clone();
    }
    params
}

#[track_caller]
fn executed(outcome: Outcome) -> Executed {
    match outcome {
        Outcome::Executed(executed) => executed,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn charged(outcome: Outcome) -> Charged {
    match outcome {
        Outcome::Charged(charged) => charged,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn free(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn estimate(form: &str, params: &Value) -> (MicroUsd, Units) {
    let tools = tools(&config(form, "http://127.0.0.1:9", &json!({})));
    let facts = tools.get(&anybody(), &id()).unwrap().facts(&raw(params));
    (facts.estimate, facts.units)
}

#[tokio::test]
async fn every_form_is_spoken() {
    for form in FORMS {
        for stream in [false, true] {
            let params = with(hello(), &json!({"stream": stream, "system": "be brief"}));
            let act = match stream {
                true => events(form, "m-1", &["Hi", " there"], (10, 2)),
                false => answer(form, "m-1", "Hi there", (10, 2)),
            };
            let (outcome, peer) = ask(form, &json!({}), &params, vec![act]).await;
            let done = executed(outcome);
            assert_eq!(done.cost, MicroUsd(10 * PRICES.0 + 2 * PRICES.1), "{form} {stream}");
            assert_eq!(done.meta.units, Units::of(Unit::Tokens, 12));
            let result = done.result.to_value();
            assert_eq!((&result["text"], &result["model"]), (&json!("Hi there"), &json!("m-1")));
            assert_eq!(result["finish_reason"], "stop");
            assert_eq!(result["usage"]["estimated"], false);
            let (head, body) = peer.seen().remove(0);
            let (path, limit, list, key) = match form {
                "openai" => ("/v1/chat/completions", "max_completion_tokens", "messages", "Bearer"),
                "azure_openai" => {
                    let path = "/openai/deployments/our-model/chat/completions\
                                ?api-version=2024-10-21";
                    (path, "max_completion_tokens", "messages", "\r\napi-key: sk-")
                }
                "anthropic" => ("/v1/messages", "max_tokens", "messages", "x-api-key: sk-"),
                _ => ("/v1/responses", "max_output_tokens", "input", "Bearer"),
            };
            assert!(head.starts_with(&format!("POST {path} HTTP/1.1")), "{head}");
            assert!(head.contains(key) && head.contains(KEY), "{head}");
            assert_eq!((&body[limit], &body["model"]), (&json!(64), &json!("m-1")), "{body}");
            assert_eq!(body.get("stream").is_some(), stream);
            let said = &body[list].as_array().unwrap().last().unwrap();
            assert_eq!((&said["role"], &said["content"]), (&json!("user"), &json!("hello")));
            assert!(body.to_string().contains("be brief"));
        }
    }
}

#[tokio::test]
async fn the_worst_case_is_known_before_and_never_too_low() {
    for form in FORMS {
        let (cost, units) = estimate(form, &hello());
        let act = answer(form, "m-1", "Hi", (10, 64));
        let (outcome, _peer) = ask(form, &json!({}), &hello(), vec![act]).await;
        assert!(executed(outcome).cost < cost && cost < MicroUsd(10_000), "{form} {cost:?}");
        assert!(units.get(Unit::Tokens) > 64 && units.get(Unit::Calls) == 1);
        let long = with(hello(), &json!({"prompt": "ä".repeat(1_000)}));
        assert!(estimate(form, &long).0 >= MicroUsd(cost.0 + 1_990 * PRICES.0));
        let more = with(hello(), &json!({"max_tokens": 164}));
        let grown = estimate(form, &more).0.0 - cost.0;
        assert!((100 * PRICES.1..=110 * PRICES.1).contains(&grown), "{grown}");
        let schema = with(hello(), &json!({"output_schema": {"type": "object"}}));
        assert!(estimate(form, &schema).0.0 > 3 * cost.0, "two repairs are part of it");
        let once = with(schema, &json!({"repairs": 0}));
        assert!(estimate(form, &once).0.0 < 2 * cost.0);
    }
}

#[test]
fn what_cannot_be_priced_does_not_run() {
    let tools = tools(&config("openai", "http://127.0.0.1:9", &json!({})));
    for (params, code) in [
        (json!({"model": "m-2", "prompt": "x"}), "model_price_missing"),
        (json!({"model": "m-1", "prompt": "x", "provider": "two"}), "provider_unknown"),
        (json!({"model": "m-1"}), "params_invalid"),
        (
            json!({"model": "m-1", "prompt": "x", "messages": [
            {"role": "user", "content": "x"}]}),
            "params_invalid",
        ),
        (
            json!({"model": "m-1", "messages": [{"role": "assistant", "content": "x"}]}),
            "params_invalid",
        ),
        (json!({"model": "m-1", "prompt": "x", "max_tokens": 100_000}), "model_context_exceeded"),
        (json!({"model": "m-1", "prompt": "x", "key": "sk-1"}), "params_invalid"),
        (
            json!({"model": "m-1", "prompt": "x", "output_schema": {"type": "objekt"}}),
            "output_schema_invalid",
        ),
    ] {
        let failure = tools.validate(&id(), &raw(&params)).unwrap_err();
        assert_eq!(failure.code, code, "{params}");
        let facts = tools.get(&anybody(), &id()).unwrap().facts(&raw(&params));
        assert_eq!(facts.estimate, MicroUsd(AMOUNT_MICRO_USD_MAX), "nobody can hold as much");
    }
    let none = raw(&json!({"model": "m-1", "prompt": "x", "max_tokens": 0}));
    assert_eq!(tools.validate(&id(), &none).unwrap_err().code, "params_invalid");
    assert!(Tools::new(ToolsConfig::default()).unwrap().get(&anybody(), &id()).is_none());
    let cheaper = json!({"models": {"m-1": {"input": 1, "output": 1, "context": 100_000}}});
    let other = self::tools(&config("openai", "http://127.0.0.1:9", &cheaper));
    let elsewhere = self::tools(&config("openai", "http://127.0.0.1:10", &json!({})));
    let digest = |tools: &Tools| tools.get(&anybody(), &id()).unwrap().digest;
    assert_ne!(digest(&tools), digest(&other));
    assert_ne!(digest(&tools), digest(&elsewhere));
    let shown = json!(tools.get(&anybody(), &id()).unwrap().manifest).to_string();
    assert!(shown.contains("m-1") && !shown.contains("127.0.0.1"), "{shown}");
}

fn with_schema() -> Value {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer"}}});
    with(hello(), &json!({"output_schema": schema}))
}

#[tokio::test]
async fn junk_is_repaired_so_often_and_no_more() {
    for form in FORMS {
        let junk = || answer(form, "m-1", r#"{"n": "s3cret"}"#, (10, 2));
        let good = answer(form, "m-1", r#"{"n": 7}"#, (30, 3));
        let (outcome, peer) = ask(form, &json!({}), &with_schema(), vec![junk(), good]).await;
        let done = executed(outcome);
        let result = done.result.to_value();
        assert_eq!((&result["json"], &result["repairs"]), (&json!({"n": 7}), &json!(1)));
        assert_eq!(done.cost, MicroUsd(40 * PRICES.0 + 5 * PRICES.1));
        assert_eq!(result["usage"]["requests"], 2);
        let (_, first) = peer.seen().remove(0);
        assert!(first.to_string().contains("json_schema"), "{first}");
        let (_, again) = peer.seen().remove(1);
        let told = again.to_string();
        assert!(told.contains("/output/n") && told.contains("s3cret"), "{told}");

        let acts = (0..4).map(|_| junk()).collect();
        let (outcome, peer) = ask(form, &json!({}), &with_schema(), acts).await;
        let Charged { failure, cost, meta, .. } = charged(outcome);
        assert_eq!((failure.code.as_str(), failure.retryable), ("model_output_invalid", false));
        assert_eq!(failure.category, Category::Permanent);
        assert!(!failure.message.contains("s3cret"), "{failure}");
        assert_eq!(cost, MicroUsd(3 * (10 * PRICES.0 + 2 * PRICES.1)));
        assert_eq!((meta.units, peer.seen().len()), (Units::of(Unit::Tokens, 36), 3));
    }
}

#[tokio::test]
async fn no_repair_is_made_that_the_hold_does_not_cover() {
    let acts = vec![answer("openai", "m-1", "junk", (10, 9_000)), Act::Hang];
    let (outcome, peer) = ask("openai", &json!({}), &with_schema(), acts).await;
    let Charged { failure, cost, .. } = charged(outcome);
    assert_eq!((failure.code.as_str(), peer.seen().len()), ("model_output_invalid", 1));
    assert_eq!(cost, MicroUsd(10 * PRICES.0 + 9_000 * PRICES.1), "in full");
}

#[tokio::test]
async fn refusals_cost_nothing_and_say_when_to_come_back() {
    for (code, headers, name, category, retryable, wait) in [
        (429, "retry-after: 7\r\n", "rate_limited", Category::RateLimited, true, Some(7_000)),
        (429, "retry-after-ms: 250\r\n", "rate_limited", Category::RateLimited, true, Some(250)),
        (500, "", "upstream_error", Category::Upstream, true, None),
        (503, "retry-after: 1\r\n", "upstream_error", Category::Upstream, true, Some(1_000)),
        (529, "", "upstream_error", Category::Upstream, true, None),
        (401, "", "provider_auth_failed", Category::Auth, false, None),
        (403, "", "provider_auth_failed", Category::Auth, false, None),
        (404, "", "model_not_found", Category::Permanent, false, None),
        (400, "", "request_refused", Category::Permanent, false, None),
        (
            302,
            "location: http://127.0.0.1:1/\r\n",
            "answer_invalid",
            Category::Upstream,
            false,
            None,
        ),
    ] {
        let body = format!(r#"{{"error": {{"message": "the key {KEY} …", "type": "x"}}}}"#);
        let acts = vec![status(code, headers, &body)];
        let (outcome, peer) = ask("anthropic", &json!({}), &hello(), acts).await;
        let failure = free(outcome);
        assert_eq!((failure.code.as_str(), failure.category), (name, category), "{code}");
        assert_eq!((failure.retryable, failure.retry_after_ms), (retryable, wait), "{code}");
        assert_eq!(peer.seen().len(), 1);
    }
}

#[tokio::test]
async fn what_is_not_reported_is_charged_at_its_worst() {
    let worst = estimate("openai", &hello()).0;
    let silent = json!({"model": "m-1", "choices": [
        {"index": 0, "finish_reason": "stop", "message": {"content": "Hi"}}]});
    let acts = vec![status(200, "", &silent.to_string())];
    let (outcome, _peer) = ask("openai", &json!({}), &hello(), acts).await;
    let done = executed(outcome);
    assert_eq!(done.cost, worst);
    assert_eq!(done.result.to_value()["usage"]["estimated"], true);

    let quick = json!({"first_byte_ms": 200, "idle_ms": 200});
    let begun = events("openai", "m-1", &["Hi"], (1, 1)).begun();
    for (params, act, code) in [
        (hello(), Act::Hang, "timeout"),
        (hello(), Act::Close, "connection_lost"),
        (with(hello(), &json!({"stream": true})), begun.clone().then_hangs(), "timeout"),
        (with(hello(), &json!({"stream": true})), begun.clone().then_closes(), "connection_lost"),
        (with(hello(), &json!({"stream": true})), begun.then_ends(), "connection_lost"),
        (hello(), status(200, "", "<html>"), "answer_invalid"),
    ] {
        let worst = estimate("openai", &params).0;
        let (outcome, _peer) = ask("openai", &quick, &params, vec![act]).await;
        let Charged { failure, cost, .. } = charged(outcome);
        assert_eq!((failure.code.as_str(), cost), (code, worst));
    }
    let (outcome, _peer) =
        ask("openai", &json!({"total_ms": 200}), &hello(), vec![Act::Hang]).await;
    assert_eq!(charged(outcome).failure.code, "timeout");
}

#[tokio::test]
async fn a_lost_attempt_is_paid_for_with_what_was_held() {
    let peer = Peer::start(vec![answer("openai", "m-1", "Hi", (10, 2))]).await;
    let tools = tools(&config("openai", &peer.url, &json!({})));
    let done = executed(invoke_again(&tools, &hello(), true).await);
    assert_eq!(done.cost, estimate("openai", &hello()).0);
    assert_eq!(done.result.to_value()["usage"]["estimated"], true);
}

#[tokio::test]
async fn what_was_never_sent_costs_nothing() {
    let (nowhere, private) = ("http://127.0.0.1:9", json!({"private": false}));
    let unsent = |config: Value| async move { free(invoke(&tools(&config), &hello()).await).code };
    assert_eq!(unsent(config("openai", nowhere, &json!({}))).await, "connect_failed");
    assert_eq!(unsent(config("openai", nowhere, &private)).await, "address_not_granted");
    let absent = json!({"key": "another"});
    assert_eq!(unsent(config("openai", nowhere, &absent)).await, "secret_missing");
}

#[tokio::test]
async fn a_model_that_does_not_stop_is_cut_off() {
    for form in FORMS {
        let params = with(hello(), &json!({"stream": true, "max_tokens": 2}));
        let worst = estimate(form, &params).0;
        let piece = "x".repeat(100);
        let endless = events(form, "m-1", &vec![piece.as_str(); 20], (1, 1));
        let act = endless.begun().then_hangs();
        let (outcome, _peer) = ask(form, &json!({}), &params, vec![act]).await;
        let Charged { failure, cost, .. } = charged(outcome);
        assert_eq!((failure.code.as_str(), failure.retryable), ("model_overran", false), "{form}");
        assert!(cost > worst, "{form}: more than was held: {cost:?} {worst:?}");
    }
}

#[tokio::test]
async fn huge_events_and_answers_are_refused() {
    let huge = format!("data: {}\n\n", "x".repeat(crate::limits::LLM_EVENT_BYTES_MAX + 1));
    let act =
        Act::Send(format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{huge}"));
    let params = with(hello(), &json!({"stream": true}));
    let (outcome, _peer) = ask("anthropic", &json!({}), &params, vec![act]).await;
    assert_eq!(charged(outcome).failure.code, "answer_too_long");
    let huge = "x".repeat(crate::limits::LLM_ANSWER_BYTES_MAX + 1);
    let acts = vec![status(200, "", &huge)];
    let (outcome, _peer) = ask("anthropic", &json!({}), &hello(), acts).await;
    assert_eq!(charged(outcome).failure.code, "answer_too_long");
}

#[tokio::test]
async fn only_the_pinned_model_answers_and_refusals_are_told() {
    for form in FORMS {
        let act = answer(form, "m-1-20260114", "Hi", (1, 1));
        let (outcome, _peer) = ask(form, &json!({}), &hello(), vec![act]).await;
        assert_eq!(executed(outcome).result.to_value()["model"], "m-1-20260114");
        let act = answer(form, "m-1-mini", "Hi", (1, 1));
        let (outcome, _peer) = ask(form, &json!({}), &hello(), vec![act]).await;
        let Charged { failure, cost, .. } = charged(outcome);
        assert_eq!((failure.code.as_str(), cost), ("model_changed", MicroUsd(18)));
    }
    let refused = json!({"model": "m-1", "stop_reason": "refusal", "content": [],
        "usage": {"input_tokens": 1, "output_tokens": 1}});
    let acts = vec![status(200, "", &refused.to_string())];
    let (outcome, _peer) = ask("anthropic", &json!({}), &hello(), acts).await;
    assert_eq!(charged(outcome).failure.code, "model_refused");
}

#[tokio::test]
async fn caches_have_prices_of_their_own() {
    let priced = json!({"models": {"m-1": {"input": 10_000_000, "cached_input": 1_000_000,
        "cache_write": 12_000_000, "output": 0, "context": 100_000, "max_tokens": 64}}});
    let said = json!({"model": "m-1", "stop_reason": "end_turn",
        "content": [{"type": "text", "text": "Hi"}],
        "usage": {"input_tokens": 1, "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 1000, "output_tokens": 5}});
    let acts = vec![status(200, "", &said.to_string())];
    let (outcome, _peer) = ask("anthropic", &priced, &hello(), acts).await;
    let done = executed(outcome);
    assert_eq!(done.cost, MicroUsd(10 + 100 + 12_000));
    assert_eq!(done.result.to_value()["usage"]["input_tokens"], 1_101);
}
