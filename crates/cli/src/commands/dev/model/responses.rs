//! OpenAI's responses.

use serde_json::{Value, json};

use super::MADE_AT;
use super::reply::{Finish, Reply};

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

fn item(id: u64, status: &str, content: &Value) -> Value {
    json!({
        "id": format!("msg_sim_{id}"),
        "type": "message",
        "status": status,
        "role": "assistant",
        "content": content,
    })
}

fn response(id: u64, reply: &Reply, status: &str, output: &Value) -> Value {
    let reason = match (status, reply.finish) {
        ("incomplete", Finish::Refused) => json!({"reason": "content_filter"}),
        ("incomplete", _) => json!({"reason": "max_output_tokens"}),
        _ => Value::Null,
    };
    let usage = reply.usage.as_ref().filter(|_| status != "in_progress").map(|usage| {
        json!({
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.input.saturating_add(usage.output),
        })
    });
    json!({
        "id": format!("resp_sim_{id}"),
        "object": "response",
        "created_at": MADE_AT,
        "status": status,
        "error": null,
        "incomplete_details": reason,
        "instructions": null,
        "max_output_tokens": null,
        "metadata": {},
        "model": reply.model,
        "output": output,
        "parallel_tool_calls": false,
        "previous_response_id": null,
        "store": false,
        "temperature": null,
        "text": {"format": {"type": "text"}},
        "tool_choice": "none",
        "tools": [],
        "top_p": null,
        "truncation": "disabled",
        "usage": usage,
    })
}

fn status(reply: &Reply) -> &'static str {
    match reply.finish {
        Finish::Stop => "completed",
        Finish::Length | Finish::Refused => "incomplete",
    }
}

/// A whole answer.
pub(super) fn whole(id: u64, reply: &Reply) -> Value {
    let status = status(reply);
    let output = json!([item(id, status, &json!([part(&reply.text())]))]);
    response(id, reply, status, &output)
}

/// Numbers and writes down events.
struct Events(u64);

impl Events {
    fn put(&mut self, kind: &str, mut event: Value) -> String {
        if let Some(members) = event.as_object_mut() {
            members.insert("type".to_owned(), json!(kind));
            members.insert("sequence_number".to_owned(), json!(self.0));
        }
        self.0 += 1;
        format!("event: {kind}\ndata: {event}\n\n")
    }
}

/// The events of a stream: before the tokens, one for each, and after them.
pub(super) fn events(id: u64, reply: &Reply) -> (String, Vec<String>, String) {
    let mut events = Events(0);
    let place = format!("msg_sim_{id}");
    let begun = response(id, reply, "in_progress", &json!([]));
    let before = [
        events.put("response.created", json!({"response": begun})),
        events.put("response.in_progress", json!({"response": begun})),
        events.put(
            "response.output_item.added",
            json!({"output_index": 0, "item": item(id, "in_progress", &json!([]))}),
        ),
        events.put(
            "response.content_part.added",
            json!({"item_id": place, "output_index": 0, "content_index": 0, "part": part("")}),
        ),
    ]
    .concat();
    let tokens = reply.tokens.iter().map(|token| {
        let delta = json!({"item_id": place, "output_index": 0, "content_index": 0,
            "delta": token, "logprobs": []});
        events.put("response.output_text.delta", delta)
    });
    let tokens = tokens.collect();
    let (text, status) = (reply.text(), status(reply));
    let done = item(id, status, &json!([part(&text)]));
    let last = if status == "completed" { "response.completed" } else { "response.incomplete" };
    let after = [
        events.put(
            "response.output_text.done",
            json!({"item_id": place, "output_index": 0, "content_index": 0, "text": text,
                "logprobs": []}),
        ),
        events.put(
            "response.content_part.done",
            json!({"item_id": place, "output_index": 0, "content_index": 0, "part": part(&text)}),
        ),
        events.put("response.output_item.done", json!({"output_index": 0, "item": done})),
        events.put(last, json!({"response": whole(id, reply)})),
    ]
    .concat();
    (before, tokens, after)
}
