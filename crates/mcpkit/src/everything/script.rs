//! Tools that ask before they answer, as steps that keep nothing between them: each step sees what
//! was answered so far and the state that the last one gave.

use rmcp::ErrorData;
use rmcp::model::{
    CallToolResult, ClientCapabilities, ContentBlock, InputRequests, InputRequiredResult,
    InputResponses, RequestStateCodec,
};
use serde_json::{Value, json};

use super::catalog::catalog;

/// What one step comes to.
pub(super) enum Step {
    Done(CallToolResult),
    Ask(InputRequiredResult),
}

/// What a step sees.
pub(super) struct Seen<'a> {
    pub(super) arguments: &'a Value,
    pub(super) responses: Option<&'a InputResponses>,
    pub(super) state: Option<&'a str>,
    pub(super) capabilities: ClientCapabilities,
    pub(super) states: &'a RequestStateCodec,
}

impl Seen<'_> {
    /// The response under `key`, where it is one: an object.
    pub(super) fn response(&self, key: &str) -> Option<&Value> {
        self.responses?.get(key).filter(|response| response.is_object())
    }

    /// What the user filled into `field` of the form under `key`.
    pub(super) fn filled(&self, key: &str, field: &str) -> Option<&str> {
        self.response(key)?.get("content")?.get(field)?.as_str()
    }

    fn seal(&self, state: &Value) -> String {
        self.states.seal_json(state).unwrap()
    }

    /// The state that we gave; that of somebody else is refused.
    fn opened(&self) -> Result<Option<Value>, ErrorData> {
        let open = |sealed| {
            self.states
                .open_json::<Value>(sealed)
                .map_err(|_| ErrorData::invalid_params("this requestState is not ours", None))
        };
        self.state.map(open).transpose()
    }
}

pub(super) fn say(text: impl Into<String>) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text.into())])
}

/// A form for the user.
pub(super) fn form(message: &str, schema: &Value) -> Value {
    let params = json!({"mode": "form", "message": message, "requestedSchema": schema});
    json!({"method": "elicitation/create", "params": params})
}

/// A form with one field.
pub(super) fn field(message: &str, name: &str, kind: &str) -> Value {
    let properties = json!({name: {"type": kind}});
    form(message, &json!({"type": "object", "properties": properties, "required": [name]}))
}

/// A prompt for the client's model.
pub(super) fn sample(prompt: &str) -> Value {
    let message = json!({"role": "user", "content": {"type": "text", "text": prompt}});
    let params = json!({"messages": [message], "maxTokens": 100});
    json!({"method": "sampling/createMessage", "params": params})
}

fn roots() -> Value {
    json!({"method": "roots/list"})
}

pub(super) fn ask(requests: &[(&str, Value)], state: Option<String>) -> InputRequiredResult {
    let requests = requests.iter().map(|(key, request)| {
        ((*key).to_owned(), serde_json::from_value(request.clone()).unwrap())
    });
    let requests: InputRequests = requests.collect();
    InputRequiredResult::new((!requests.is_empty()).then_some(requests), state)
}

/// The step of `tool`, where it is one of these.
pub(super) fn step(tool: &str, seen: &Seen<'_>) -> Option<Result<Step, ErrorData>> {
    if let Some(schema) = catalog().forms.get(tool) {
        return Some(Ok(filling(tool, schema, seen)));
    }
    Some(match tool.strip_prefix("test_input_required_result_").unwrap_or(tool) {
        "elicitation" | "test_streaming_elicitation" => Ok(name(seen)),
        "sampling" | "test_sampling" => Ok(completion(seen)),
        "list_roots" => Ok(one(seen, "client_roots", roots(), "Client roots")),
        "request_state" | "tampered_state" => confirmed(seen),
        "multiple_inputs" => all_at_once(seen),
        "multi_round" => rounds(seen),
        "capabilities" => Ok(capable(seen)),
        _ => return None,
    })
}

fn filling(tool: &str, schema: &Value, seen: &Seen<'_>) -> Step {
    let default = format!("{tool}: please fill this in");
    let message = seen.arguments["message"].as_str().unwrap_or(&default);
    one(seen, "form", form(message, schema), "User response")
}

/// Asks one thing and repeats the response.
fn one(seen: &Seen<'_>, key: &str, request: Value, label: &str) -> Step {
    match seen.response(key) {
        Some(response) => Step::Done(say(format!("{label}: {response}"))),
        None => Step::Ask(ask(&[(key, request)], None)),
    }
}

fn name(seen: &Seen<'_>) -> Step {
    match seen.response("user_name") {
        Some(_) => {
            let name = seen.filled("user_name", "name").unwrap_or("nobody");
            Step::Done(say(format!("Hello, {name}!")))
        }
        None => {
            Step::Ask(ask(&[("user_name", field("What is your name?", "name", "string"))], None))
        }
    }
}

fn completion(seen: &Seen<'_>) -> Step {
    let prompt = seen.arguments["prompt"].as_str().unwrap_or("What is the capital of France?");
    match seen.response("completion") {
        Some(response) => {
            let text = response["content"]["text"].as_str().unwrap_or("nothing");
            Step::Done(say(format!("LLM response: {text}")))
        }
        None => Step::Ask(ask(&[("completion", sample(prompt))], None)),
    }
}

fn confirmed(seen: &Seen<'_>) -> Result<Step, ErrorData> {
    if seen.opened()?.is_some() && seen.response("confirm").is_some() {
        return Ok(Step::Done(say("state-ok")));
    }
    let state = seen.seal(&json!({"stage": "confirm"}));
    Ok(Step::Ask(ask(&[("confirm", field("Please confirm", "ok", "boolean"))], Some(state))))
}

fn all_at_once(seen: &Seen<'_>) -> Result<Step, ErrorData> {
    let keys = ["user_name", "greeting", "client_roots"];
    if seen.opened()?.is_some() && keys.iter().all(|key| seen.response(key).is_some()) {
        return Ok(Step::Done(say("All inputs received")));
    }
    let [user, greeting, client] = keys;
    let requests = [
        (user, field("What is your name?", "name", "string")),
        (greeting, sample("Generate a greeting")),
        (client, roots()),
    ];
    Ok(Step::Ask(ask(&requests, Some(seen.seal(&json!({"stage": "gather"}))))))
}

fn rounds(seen: &Seen<'_>) -> Result<Step, ErrorData> {
    let round = seen.opened()?.and_then(|state| state["round"].as_u64()).unwrap_or(0);
    let (key, message, name) = match round {
        0 => ("step1", "Step 1: what is your name?", "name"),
        1 => ("step2", "Step 2: what is your favourite colour?", "color"),
        _ => return Ok(Step::Done(say("Multi-round flow complete"))),
    };
    let state = seen.seal(&json!({"round": round + 1}));
    Ok(Step::Ask(ask(&[(key, field(message, name, "string"))], Some(state))))
}

/// Asks only for what the client can do.
fn capable(seen: &Seen<'_>) -> Step {
    if seen.responses.is_some() {
        return Step::Done(say("The client did what it can"));
    }
    let can = &seen.capabilities;
    let mut requests = Vec::new();
    if can.elicitation.is_some() {
        requests.push(("user_name", field("What is your name?", "name", "string")));
    }
    if can.sampling.is_some() {
        requests.push(("greeting", sample("Generate a greeting")));
    }
    if can.roots.is_some() {
        requests.push(("client_roots", roots()));
    }
    if requests.is_empty() {
        Step::Done(say("The client can do nothing"))
    } else {
        Step::Ask(ask(&requests, None))
    }
}
