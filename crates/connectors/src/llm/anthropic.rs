//! The messages of Anthropic.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Finish, count, items, text};
use super::ask::{Ask, Message};
use super::meter::Usage;

/// The version of the form, which each request names.
pub(super) const VERSION: &str = "2023-06-01";

/// The body of a request.
pub(super) fn body(ask: &Ask<'_>, messages: &[Message]) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", json!(ask.model));
    set("max_tokens", json!(ask.max_tokens));
    set("messages", json!(messages));
    if let Some(system) = &ask.system {
        set("system", json!(system));
    }
    if let Some(temperature) = ask.temperature {
        set("temperature", json!(temperature));
    }
    if let Some(schema) = &ask.output {
        let format = json!({"type": "json_schema", "schema": schema});
        set("output_config", json!({"format": format}));
    }
    if ask.stream {
        set("stream", json!(true));
    }
    Value::Object(body)
}

/// Reads a whole answer.
pub(super) fn read(value: &Value) -> Answer {
    let mut answer = Answer {
        model: Some(text(value, "/model").to_owned()),
        finish: finish(text(value, "/stop_reason")),
        usage: usage(value.get("usage")),
        ended: true,
        ..Answer::default()
    };
    for block in items(value, "/content").filter(|block| text(block, "/type") == "text") {
        answer.push(text(block, "/text"));
    }
    answer
}

/// Takes one event of a stream.
pub(super) fn event(answer: &mut Answer, value: &Value) {
    match text(value, "/type") {
        "message_start" => {
            answer.model = Some(text(value, "/message/model").to_owned());
            answer.usage = usage(value.pointer("/message/usage"));
        }
        "content_block_delta" => {
            answer.push(text(value, "/delta/text"));
            answer.pass(text(value, "/delta/thinking"));
            answer.pass(text(value, "/delta/partial_json"));
        }
        "message_delta" => {
            answer.finish = finish(text(value, "/delta/stop_reason")).or(answer.finish);
            // Its counts are of the whole message, and replace those of its start.
            if let (Some(known), Some(said)) = (&mut answer.usage, value.get("usage")) {
                known.output_tokens = known.output_tokens.max(count(said, "/output_tokens"));
                if let Some(more) = usage(Some(said)) {
                    *known = more;
                }
            }
        }
        "message_stop" => answer.ended = true,
        _ => {}
    }
}

fn finish(reason: &str) -> Option<Finish> {
    Some(match reason {
        "" => return None,
        "end_turn" | "stop_sequence" => Finish::Stop,
        "max_tokens" | "model_context_window_exceeded" => Finish::Length,
        "refusal" => Finish::Refused,
        _ => Finish::Other,
    })
}

/// What comes out of the cache and what goes into it is not part of `input_tokens` here.
fn usage(usage: Option<&Value>) -> Option<Usage> {
    let usage = usage.filter(|usage| usage.is_object())?;
    usage.get("input_tokens")?.as_u64()?;
    usage.get("output_tokens")?.as_u64()?;
    let cached_tokens = count(usage, "/cache_read_input_tokens");
    let cache_write_tokens = count(usage, "/cache_creation_input_tokens");
    let fresh = count(usage, "/input_tokens");
    Some(Usage {
        input_tokens: fresh.saturating_add(cached_tokens).saturating_add(cache_write_tokens),
        cached_tokens,
        cache_write_tokens,
        output_tokens: count(usage, "/output_tokens"),
        reasoning_tokens: count(usage, "/output_tokens_details/thinking_tokens"),
    })
}
