//! A request, whatever form it came in.

use serde_json::Value;

use super::reply::count;

/// Which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Responses,
    Messages,
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) form: Form,
    pub(super) model: String,
    /// The last message of the user.
    pub(super) said: String,
    pub(super) input_tokens: u64,
    /// Tokens of the answer; as many as it has where absent.
    pub(super) max_tokens: Option<u64>,
    pub(super) schema: Option<Value>,
    pub(super) stream: bool,
    /// Whether a stream of chat completions ends with what was used.
    pub(super) include_usage: bool,
}

/// Tokens that mark a message.
const MARK: u64 = 3;

impl Asked {
    /// Reads a request; the error is a sentence.
    pub(super) fn read(form: Form, body: &[u8]) -> Result<Self, String> {
        let body: Value = serde_json::from_slice(body).map_err(|e| format!("no JSON: {e}"))?;
        for refused in ["tools", "functions"] {
            if body.get(refused).and_then(Value::as_array).is_some_and(|all| !all.is_empty()) {
                return Err(format!("`{refused}`: this simulator calls no tools"));
            }
        }
        if body.get("n").and_then(Value::as_u64).is_some_and(|n| n != 1) {
            return Err("`n`: this simulator gives one answer".to_owned());
        }
        let model = body.get("model").and_then(Value::as_str).unwrap_or_default().to_owned();
        if model.is_empty() {
            return Err("`model` is missing".to_owned());
        }
        let (list, system, schema) = match form {
            Form::Chat => ("messages", "", "/response_format/json_schema/schema"),
            Form::Responses => ("input", "instructions", "/text/format/schema"),
            Form::Messages => ("messages", "system", "/output_config/format/schema"),
        };
        let mut texts: Vec<(String, String)> = match body.get(list) {
            Some(Value::String(text)) => vec![("user".to_owned(), text.clone())],
            Some(Value::Array(messages)) if !messages.is_empty() => {
                messages.iter().map(message).collect()
            }
            _ => return Err(format!("`{list}` is missing")),
        };
        let last = texts.iter().rev().find(|(role, _)| role == "user");
        let said = last.map(|(_, text)| text.clone()).unwrap_or_default();
        if let Some(system) = body.get(system) {
            texts.push(("system".to_owned(), content(system)));
        }
        let schema = body.pointer(schema).cloned();
        let told = schema.as_ref().map_or(0, |schema| count(&schema.to_string()));
        let input: u64 = texts.iter().map(|(_, text)| count(text) + MARK).sum();
        let limits = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
        let max_tokens = limits.iter().find_map(|name| body.get(name)?.as_u64());
        if form == Form::Messages && max_tokens.is_none() {
            return Err("`max_tokens` is missing".to_owned());
        }
        if max_tokens == Some(0) {
            return Err("an answer has at least one token".to_owned());
        }
        Ok(Self {
            form,
            model,
            said,
            input_tokens: input + told,
            max_tokens,
            schema,
            stream: body.get("stream").and_then(Value::as_bool).unwrap_or(false),
            include_usage: body.pointer("/stream_options/include_usage") == Some(&true.into()),
        })
    }
}

fn message(message: &Value) -> (String, String) {
    let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
    (role.to_owned(), message.get("content").map(content).unwrap_or_default())
}

/// The text of a content: a text, or a list of parts.
fn content(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.get("text")?.as_str()).collect::<Vec<_>>().join("")
        }
        _ => String::new(),
    }
}
