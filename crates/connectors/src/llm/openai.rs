//! The chat completions of OpenAI, which many other servers speak.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Finish, count, items, text};
use super::ask::{Ask, Message};
use super::meter::Usage;

/// The body of a request.
pub(super) fn body(ask: &Ask<'_>, messages: &[Message]) -> Value {
    let system = ask.system.as_ref().map(|text| json!({"role": "system", "content": text}));
    let said = messages.iter().map(|message| json!(message));
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", json!(ask.model));
    set("messages", system.into_iter().chain(said).collect());
    set(ask.provider.config.max_tokens_as.as_str(), json!(ask.max_tokens));
    if let Some(temperature) = ask.temperature {
        set("temperature", json!(temperature));
    }
    if let Some(schema) = &ask.output {
        let (name, strict) = ("output", super::output::is_strict(schema));
        let named = json!({"name": name, "strict": strict, "schema": schema});
        set("response_format", json!({"type": "json_schema", "json_schema": named}));
    }
    if ask.stream {
        set("stream", json!(true));
        set("stream_options", json!({"include_usage": true}));
    }
    Value::Object(body)
}

/// Reads a whole answer.
pub(super) fn read(value: &Value) -> Answer {
    let mut answer = Answer {
        model: Some(text(value, "/model").to_owned()),
        usage: usage(value),
        ended: true,
        ..Answer::default()
    };
    answer.push(text(value, "/choices/0/message/content"));
    answer.finish = finish(text(value, "/choices/0/finish_reason"));
    if !text(value, "/choices/0/message/refusal").is_empty() {
        answer.finish = Some(Finish::Refused);
    }
    answer
}

/// Takes one event of a stream.
pub(super) fn event(answer: &mut Answer, value: &Value) {
    let model = text(value, "/model");
    if !model.is_empty() {
        answer.model = Some(model.to_owned());
    }
    // Other choices were not asked for.
    for choice in items(value, "/choices").filter(|choice| count(choice, "/index") == 0) {
        answer.push(text(choice, "/delta/content"));
        answer.pass(text(choice, "/delta/reasoning_content"));
        answer.pass(text(choice, "/delta/refusal"));
        let refused = !text(choice, "/delta/refusal").is_empty();
        answer.finish = match finish(text(choice, "/finish_reason")) {
            _ if refused || answer.finish == Some(Finish::Refused) => Some(Finish::Refused),
            Some(finish) => Some(finish),
            None => answer.finish,
        };
    }
    answer.usage = usage(value).or(answer.usage);
}

fn finish(reason: &str) -> Option<Finish> {
    Some(match reason {
        "" => return None,
        "stop" => Finish::Stop,
        "length" => Finish::Length,
        "content_filter" => Finish::Refused,
        _ => Finish::Other,
    })
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = value.get("usage").filter(|usage| usage.is_object())?;
    usage.get("prompt_tokens")?.as_u64()?;
    usage.get("completion_tokens")?.as_u64()?;
    Some(Usage {
        input_tokens: count(usage, "/prompt_tokens"),
        cached_tokens: count(usage, "/prompt_tokens_details/cached_tokens"),
        cache_write_tokens: 0,
        output_tokens: count(usage, "/completion_tokens"),
        reasoning_tokens: count(usage, "/completion_tokens_details/reasoning_tokens"),
    })
}
