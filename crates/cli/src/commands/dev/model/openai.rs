//! Chat completions, and what OpenAI's API says besides.

use serde_json::{Value, json};

use super::reply::{Finish, Reply, Usage};
use super::{MADE_AT, MODELS};

fn finish(reply: &Reply) -> &'static str {
    match reply.finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::Refused => "content_filter",
    }
}

fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input.saturating_add(usage.output),
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    })
}

/// A whole answer.
pub(super) fn whole(id: u64, reply: &Reply) -> Value {
    let message = json!({
        "role": "assistant",
        "content": reply.text(),
        "refusal": null,
        "annotations": [],
    });
    let mut whole = json!({
        "id": format!("chatcmpl-sim-{id}"),
        "object": "chat.completion",
        "created": MADE_AT,
        "model": reply.model,
        "choices": [{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish(reply),
        }],
        "system_fingerprint": "simulator",
    });
    if let (Some(said), Some(whole)) = (&reply.usage, whole.as_object_mut()) {
        whole.insert("usage".to_owned(), usage(said));
    }
    whole
}

fn chunk(id: u64, reply: &Reply, choices: &Value, said: &Value) -> String {
    let chunk = json!({
        "id": format!("chatcmpl-sim-{id}"),
        "object": "chat.completion.chunk",
        "created": MADE_AT,
        "model": reply.model,
        "choices": choices,
        "system_fingerprint": "simulator",
        "usage": said,
    });
    format!("data: {chunk}\n\n")
}

/// The events of a stream: before the tokens, one for each, and after them.
pub(super) fn events(id: u64, reply: &Reply, include: bool) -> (String, Vec<String>, String) {
    let choice = |delta: &Value, finish: &Value| {
        let one = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        json!([one])
    };
    let (null, first) = (Value::Null, json!({"role": "assistant", "content": ""}));
    let before = chunk(id, reply, &choice(&first, &null), &null);
    let one = |token: &String| chunk(id, reply, &choice(&json!({"content": token}), &null), &null);
    let mut after = chunk(id, reply, &choice(&json!({}), &json!(finish(reply))), &null);
    if let Some(said) = reply.usage.as_ref().filter(|_| include) {
        after.push_str(&chunk(id, reply, &json!([]), &usage(said)));
    }
    after.push_str("data: [DONE]\n\n");
    (before, reply.tokens.iter().map(one).collect(), after)
}

/// An error.
pub(super) fn error(status: u16, code: &str, message: &str) -> Value {
    let kind = match status {
        401 => "authentication_error",
        429 => "rate_limit_error",
        status if status >= 500 => "server_error",
        _ => "invalid_request_error",
    };
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
}

/// One model.
pub(super) fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": MADE_AT, "owned_by": "simulator"})
}

/// The models.
pub(super) fn models() -> Value {
    json!({"object": "list", "data": MODELS.map(model)})
}
