//! The responses of OpenAI.

use serde_json::{Map, Value, json};

use super::answer::{Answer, Finish, count, items, text};
use super::ask::{Ask, Message};
use super::meter::Usage;

/// The body of a request.
pub(super) fn body(ask: &Ask<'_>, messages: &[Message]) -> Value {
    let mut body = Map::new();
    let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
    set("model", json!(ask.model));
    set("input", json!(messages));
    set("max_output_tokens", json!(ask.max_tokens));
    // What is said stays with whoever keeps the action.
    set("store", json!(false));
    if let Some(system) = &ask.system {
        set("instructions", json!(system));
    }
    if let Some(temperature) = ask.temperature {
        set("temperature", json!(temperature));
    }
    if let Some(schema) = &ask.output {
        let strict = super::output::is_strict(schema);
        let format =
            json!({"type": "json_schema", "name": "output", "strict": strict, "schema": schema});
        set("text", json!({"format": format}));
    }
    if ask.stream {
        set("stream", json!(true));
    }
    Value::Object(body)
}

/// Reads a whole answer.
pub(super) fn read(value: &Value) -> Answer {
    let mut answer = Answer { ended: true, ..Answer::default() };
    for part in items(value, "/output").flat_map(|item| items(item, "/content")) {
        match text(part, "/type") {
            "output_text" => answer.push(text(part, "/text")),
            "refusal" => answer.finish = Some(Finish::Refused),
            _ => {}
        }
    }
    close(&mut answer, value);
    answer
}

/// Takes one event of a stream.
pub(super) fn event(answer: &mut Answer, value: &Value) {
    match text(value, "/type") {
        "response.output_text.delta" => answer.push(text(value, "/delta")),
        "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
            answer.pass(text(value, "/delta"));
        }
        "response.refusal.delta" => answer.finish = Some(Finish::Refused),
        "response.created" => {
            answer.model = Some(text(value, "/response/model").to_owned());
        }
        "response.completed" | "response.incomplete" => {
            if let Some(response) = value.get("response") {
                close(answer, response);
            }
            answer.ended = true;
        }
        _ => {}
    }
}

/// What a whole response says of how it ended.
fn close(answer: &mut Answer, response: &Value) {
    answer.model = Some(text(response, "/model").to_owned());
    answer.usage = usage(response);
    let reason = (text(response, "/status"), text(response, "/incomplete_details/reason"));
    answer.finish = answer.finish.or(Some(match reason {
        ("completed", _) => Finish::Stop,
        (_, "max_output_tokens") => Finish::Length,
        (_, "content_filter") => Finish::Refused,
        _ => Finish::Other,
    }));
}

fn usage(value: &Value) -> Option<Usage> {
    let usage = value.get("usage").filter(|usage| usage.is_object())?;
    usage.get("input_tokens")?.as_u64()?;
    usage.get("output_tokens")?.as_u64()?;
    Some(Usage {
        input_tokens: count(usage, "/input_tokens"),
        cached_tokens: count(usage, "/input_tokens_details/cached_tokens"),
        cache_write_tokens: 0,
        output_tokens: count(usage, "/output_tokens"),
        reasoning_tokens: count(usage, "/output_tokens_details/reasoning_tokens"),
    })
}
