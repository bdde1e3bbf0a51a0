//! What `llm.invoke` says of itself. Its models and their prices are part of that, so that another
//! price is another tool.

use kernel::failure::Category::{
    Auth, Internal, Network, Permanent, Permission, RateLimited, Upstream, Validation,
};
use kernel::tool::FailureMode;
use kernel::values::Digest;
use serde_json::{Map, Value, json};

use super::config::ModelsConfig;
use crate::limits;
use crate::manifests::{CHANGE, failures, object};

/// The members that are the tool's own.
pub(crate) fn manifest(config: &ModelsConfig) -> Value {
    json!({
        "description": "Asks a model. Costs what its tokens cost; the most that they can cost is \
            set aside before.",
        "labels": ["external", "model", "read"],
        "idempotent": true,
        "capabilities": ["network"],
        "timeout_ms": config.longest_ms(),
        // The same models elsewhere, or with another key, are another tool too.
        "source": {"upstream": Digest::of(json!(config).to_string().as_bytes())},
        "input_schema": input(config),
        "output_schema": output(),
        "failure_modes": failures(ways_to_fail()),
    })
}

/// The ways of failing that are its own.
fn ways_to_fail() -> Vec<FailureMode> {
    let operator = "whoever runs Tally changes `models`";
    let secret = "put the provider's key: `tally secret put`";
    let again = "try again";
    let modes = [
        ("provider_unknown", Validation, "no such provider is configured", CHANGE),
        ("model_price_missing", Validation, "the model has no price here", operator),
        ("model_not_found", Validation, "the provider has no such model", CHANGE),
        ("model_context_exceeded", Validation, "more tokens than the model takes", "send less"),
        ("model_refused", Permanent, "the model or a filter refused", "ask something else"),
        ("model_changed", Permanent, "another model than was asked for answered", operator),
        ("model_overran", Permanent, "it wrote more than max_tokens and was cut off", CHANGE),
        ("model_output_invalid", Permanent, "no answer matched output_schema", CHANGE),
        ("model_told_key", Permanent, "the answer had the provider's key in it", operator),
        ("output_schema_invalid", Validation, "output_schema is no schema that is taken", CHANGE),
        ("request_refused", Validation, "the provider does not take the request", CHANGE),
        ("provider_auth_failed", Auth, "the provider does not accept the key", secret),
        ("provider_quota_exceeded", Permanent, "the key's own budget is used up", operator),
        ("secret_missing", Auth, "there is no secret with the provider's key", secret),
        ("secret_not_found", Auth, "there is no secret with the provider's key", secret),
        ("unavailable", Internal, "secrets cannot be read for the moment", again),
        ("rate_limited", RateLimited, "the provider answered 429", "wait as long as it says"),
        ("upstream_error", Upstream, "the provider answered with 500 or above", again),
        ("answer_invalid", Upstream, "the provider's answer is not of its form", again),
        ("answer_too_long", Upstream, "the answer is longer than Tally takes", CHANGE),
        ("address_not_granted", Permission, "the provider's address is private", operator),
        ("dns_failed", Network, "the provider's name has no address", again),
        ("connect_failed", Network, "no connection, so nothing was sent", again),
        ("tls_failed", Network, "no trusted connection, so nothing was sent", operator),
        ("connection_lost", Network, "the connection broke after the request was sent", again),
        ("url_invalid", Validation, "the provider's URL cannot be called", operator),
    ];
    let mode = |(code, category, meaning, hint)| FailureMode::new(code, category, meaning, hint);
    modes.into_iter().map(mode).collect()
}

fn input(config: &ModelsConfig) -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let message = object(
        &["role", "content"],
        &json!({"role": {"enum": ["user", "assistant"]}, "content": text}),
    );
    let mut schema = object(
        &["model"],
        &json!({
            "provider": {
                "type": "string",
                "minLength": 1,
                "description": "By its name; without it, the first that has a price for the model.",
            },
            "model": {
                "type": "string",
                "minLength": 1,
                "maxLength": limits::LLM_MODEL_NAME_BYTES_MAX,
                "description": "Pinned: only this model may answer, or the same with the date of \
                    its release after it.",
            },
            "prompt": {
                "type": "string",
                "minLength": 1,
                "description": "What the user says. Instead of messages.",
            },
            "messages": {
                "type": "array",
                "items": message,
                "minItems": 1,
                "maxItems": limits::LLM_MESSAGES_MAX,
                "description": "The conversation so far; the last message is the user's.",
            },
            "system": {"type": "string", "minLength": 1, "description": "What holds throughout."},
            "max_tokens": {
                "type": "integer",
                "minimum": 1,
                "maximum": limits::LLM_TOKENS_MAX,
                "description": "Tokens of the answer; the model's own default where absent.",
            },
            "temperature": {"type": "number", "minimum": 0, "maximum": 2},
            "output_schema": {
                "type": "object",
                "description": "JSON Schema that the answer must match. The result then has it as \
                    `json`.",
            },
            "repairs": {
                "type": "integer",
                "minimum": 0,
                "maximum": limits::LLM_REPAIRS_MAX,
                "default": limits::LLM_REPAIRS,
                "description": "How often the model is shown what is wrong with an answer that \
                    does not match. Each is part of the worst case.",
            },
            "stream": {
                "type": "boolean",
                "default": false,
                "description": "Whether the provider sends the answer as it is written. The result \
                    is the same; a model that writes too much is cut off.",
            },
        }),
    );
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("x-models".to_owned(), models(config));
    }
    schema
}

/// Every provider with what it speaks, and its models with their prices. Where it is, is the
/// operator's business.
fn models(config: &ModelsConfig) -> Value {
    let providers = config.providers.iter().map(|provider| {
        let about = json!({
            "form": provider.form,
            "models": provider.models,
        });
        (provider.name.clone(), about)
    });
    Value::Object(providers.collect::<Map<_, _>>())
}

fn output() -> Value {
    let count = json!({"type": "integer", "minimum": 0});
    let usage = object(
        &["input_tokens", "output_tokens", "requests", "cost_micro_usd", "estimated"],
        &json!({
            "input_tokens": count,
            "cached_tokens": count,
            "cache_write_tokens": count,
            "output_tokens": count,
            "reasoning_tokens": count,
            "requests": count,
            "cost_micro_usd": count,
            "estimated": {
                "type": "boolean",
                "description": "Whether the provider left something unsaid: it is counted with \
                    the most that it can be.",
            },
        }),
    );
    object(
        &["text", "finish_reason", "provider", "model", "usage", "repairs"],
        &json!({
            "text": {"type": "string"},
            "json": {"description": "The answer as JSON, where output_schema was given."},
            "finish_reason": {"enum": ["stop", "length", "other"]},
            "provider": {"type": "string"},
            "model": {"type": "string"},
            "usage": usage,
            "repairs": count,
        }),
    )
}
