//! Anthropic's messages, and what its API says besides.

use serde_json::{Value, json};

use super::MODELS;
use super::reply::{Finish, Reply, Usage};

fn stop(reply: &Reply) -> &'static str {
    match reply.finish {
        Finish::Stop => "end_turn",
        Finish::Length => "max_tokens",
        Finish::Refused => "refusal",
    }
}

fn usage(usage: &Usage, output: u64) -> Value {
    json!({
        "input_tokens": usage.input.saturating_sub(usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": output,
        "service_tier": "standard",
    })
}

fn message(id: u64, reply: &Reply, content: &Value, stop: &Value) -> Value {
    json!({
        "id": format!("msg_sim_{id}"),
        "type": "message",
        "role": "assistant",
        "model": reply.model,
        "content": content,
        "stop_reason": stop,
        "stop_sequence": null,
    })
}

fn with_usage(mut value: Value, said: Option<Value>) -> Value {
    if let (Some(members), Some(said)) = (value.as_object_mut(), said) {
        members.insert("usage".to_owned(), said);
    }
    value
}

/// A whole answer.
pub(super) fn whole(id: u64, reply: &Reply) -> Value {
    let content = json!([{"type": "text", "text": reply.text(), "citations": null}]);
    let said = reply.usage.as_ref().map(|said| usage(said, said.output));
    with_usage(message(id, reply, &content, &json!(stop(reply))), said)
}

fn event(kind: &str, mut event: Value) -> String {
    if let Some(members) = event.as_object_mut() {
        members.insert("type".to_owned(), json!(kind));
    }
    format!("event: {kind}\ndata: {event}\n\n")
}

/// The events of a stream: before the tokens, one for each, and after them.
pub(super) fn events(id: u64, reply: &Reply) -> (String, Vec<String>, String) {
    let begun = reply.usage.as_ref().map(|said| usage(said, 0));
    let begun = with_usage(message(id, reply, &json!([]), &Value::Null), begun);
    let block = json!({"type": "text", "text": ""});
    let before = [
        event("message_start", json!({"message": begun})),
        event("content_block_start", json!({"index": 0, "content_block": block})),
        event("ping", json!({})),
    ]
    .concat();
    let one = |token: &String| {
        let delta = json!({"type": "text_delta", "text": token});
        event("content_block_delta", json!({"index": 0, "delta": delta}))
    };
    let delta = json!({"delta": {"stop_reason": stop(reply), "stop_sequence": null}});
    let said = reply.usage.as_ref().map(|said| usage(said, said.output));
    let after = [
        event("content_block_stop", json!({"index": 0})),
        event("message_delta", with_usage(delta, said)),
        event("message_stop", json!({})),
    ]
    .concat();
    (before, reply.tokens.iter().map(one).collect(), after)
}

/// An error.
pub(super) fn error(status: u16, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        status if status >= 500 => "api_error",
        _ => "invalid_request_error",
    };
    let error = json!({"type": kind, "message": message});
    json!({"type": "error", "error": error, "request_id": "req_sim"})
}

/// One model.
pub(super) fn model(name: &str) -> Value {
    json!({"type": "model", "id": name, "display_name": format!("Simulator: {name}"),
        "created_at": "2026-01-01T00:00:00Z"})
}

/// The models.
pub(super) fn models() -> Value {
    json!({"data": MODELS.map(model), "has_more": false,
        "first_id": MODELS.first(), "last_id": MODELS.last()})
}
