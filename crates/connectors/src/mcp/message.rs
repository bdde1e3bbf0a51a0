//! JSON-RPC messages: read without touching what they carry, written around raw JSON.

use std::borrow::Cow;

use kernel::failure::{Category, Failure};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::call::RpcError;

/// Keys of `_meta` that the protocol keeps to itself start so.
const RESERVED: &str = "io.modelcontextprotocol/";

/// A message of an upstream.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// The answer to one of our requests; `None` is an error that names no request.
    Response { id: Option<u64>, outcome: Result<&'a RawValue, RpcError> },
    /// A question of the upstream.
    Request { id: &'a RawValue, method: Cow<'a, str>, params: Option<&'a RawValue> },
    /// Something that it tells.
    Notification { method: Cow<'a, str>, params: Option<&'a RawValue> },
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Cow<'a, str>,
    #[serde(borrow, default)]
    id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    params: Option<&'a RawValue>,
    #[serde(borrow, default)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

impl<'a> Message<'a> {
    /// Reads one message. The error says what is wrong with it, without its content.
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, &'static str> {
        let text = std::str::from_utf8(text).map_err(|_| "is not UTF-8")?;
        let envelope: Envelope<'a> =
            serde_json::from_str(text).map_err(|_| "is no JSON-RPC message")?;
        if envelope.jsonrpc != "2.0" {
            return Err("is not JSON-RPC 2.0");
        }
        match envelope {
            Envelope { method: Some(method), id: Some(id), params, .. } => {
                Ok(Self::Request { id, method, params })
            }
            Envelope { method: Some(method), params, .. } => {
                Ok(Self::Notification { method, params })
            }
            Envelope { id: Some(id), result: Some(result), error: None, .. } => {
                // Ours are numbers: an id that is none belongs to no request.
                let id = id.get().parse().map_err(|_| "answers a request that was not sent")?;
                Ok(Self::Response { id: Some(id), outcome: Ok(result) })
            }
            Envelope { id, result: None, error: Some(error), .. } => {
                let id = id.map(|id| id.get().parse()).transpose();
                let id = id.map_err(|_| "answers a request that was not sent")?;
                Ok(Self::Response { id, outcome: Err(error) })
            }
            _ => Err("is neither request nor answer"),
        }
    }
}

/// An object of the given members, the empty ones left out.
pub(super) fn object(members: &[&str]) -> String {
    let length: usize = members.iter().map(|part| part.len() + 1).sum();
    let mut text = String::with_capacity(length + 2);
    text.push('{');
    for part in members.iter().filter(|part| !part.is_empty()) {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(part);
    }
    text.push('}');
    text
}

/// The members of an object's text, without its braces.
pub(super) fn members(object: &str) -> &str {
    let inner = object.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    inner.unwrap_or_default().trim()
}

/// `"name":value`, the name being plain.
pub(super) fn member(name: &str, value: &str) -> String {
    format!("\"{name}\":{value}")
}

/// `text` as a JSON string.
pub(super) fn string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A request, without a line break at its end.
pub(super) fn request(id: u64, method: &str, params: &str) -> Vec<u8> {
    let mut text = String::with_capacity(params.len() + method.len() + 64);
    text.push_str("{\"jsonrpc\":\"2.0\",\"id\":");
    text.push_str(&id.to_string());
    text.push_str(",\"method\":\"");
    text.push_str(method);
    text.push_str("\",\"params\":");
    text.push_str(params);
    text.push('}');
    text.into_bytes()
}

/// A notification.
pub(super) fn notification(method: &str, params: Option<&str>) -> Vec<u8> {
    let params = params.map(|params| format!(",\"params\":{params}")).unwrap_or_default();
    format!("{{\"jsonrpc\":\"2.0\",\"method\":\"{method}\"{params}}}").into_bytes()
}

/// The answer to a question of the upstream.
pub(super) fn answer(id: &RawValue, outcome: &Result<Box<RawValue>, RpcError>) -> Vec<u8> {
    let body = match outcome {
        Ok(result) => member("result", result.get()),
        Err(error) => {
            let error = serde_json::to_string(error).unwrap_or_else(|_| {
                String::from("{\"code\":-32603,\"message\":\"the answer cannot be written\"}")
            });
            member("error", &error)
        }
    };
    object(&["\"jsonrpc\":\"2.0\"", &member("id", id.get()), &body]).into_bytes()
}

/// The cancellation of request `id`.
pub(super) fn cancelled(id: u64) -> Vec<u8> {
    let params = format!("{{\"requestId\":{id},\"reason\":\"the caller ended the call\"}}");
    notification("notifications/cancelled", Some(&params))
}

/// The entries of an object, in their order.
pub(super) fn entries(object: &RawValue) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    struct Entries;
    impl<'de> serde::de::Visitor<'de> for Entries {
        type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(
            self,
            mut map: A,
        ) -> Result<Self::Value, A::Error> {
            let mut entries = Vec::new();
            while let Some(Key(key)) = map.next_key()? {
                entries.push((key, map.next_value()?));
            }
            Ok(entries)
        }
    }
    let mut source = serde_json::Deserializer::from_str(object.get());
    serde::Deserializer::deserialize_map(&mut source, Entries).ok()
}

#[derive(Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// The members of a client's `_meta` that may go on: the protocol's own keys are ours to set.
pub(super) fn own_meta(meta: &RawValue) -> Cow<'_, str> {
    let text = meta.get();
    if !text.contains(RESERVED) && !text.contains("progressToken") && !text.contains('\\') {
        return Cow::Borrowed(members(text));
    }
    let mut kept = Vec::new();
    for (key, value) in entries(meta).unwrap_or_default() {
        if !key.starts_with(RESERVED) && key != "progressToken" {
            kept.push(format!("{}:{}", string(&key), value.get()));
        }
    }
    Cow::Owned(kept.join(","))
}

/// The parameters of a progress notification with the client's own token in place of ours.
pub(super) fn with_token(params: &RawValue, token: &RawValue) -> Option<Box<RawValue>> {
    let parts = entries(params)?;
    let part = |(key, value): (Cow<'_, str>, &RawValue)| {
        let value = if key == "progressToken" { token.get() } else { value.get() };
        format!("{}:{value}", string(&key))
    };
    let parts: Vec<String> = parts.into_iter().map(part).collect();
    RawValue::from_string(format!("{{{}}}", parts.join(","))).ok()
}

/// What an upstream said breaks the protocol.
pub(super) fn invalid(what: &str) -> Failure {
    let message = format!("the MCP server's message {what}");
    Failure::new(Category::Upstream, "answer_invalid", message).retryable(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(text: &str) -> Box<RawValue> {
        RawValue::from_string(text.to_owned()).unwrap()
    }

    #[test]
    fn messages_are_told_apart() {
        let kind = |text: &str| match Message::parse(text.as_bytes()) {
            Ok(Message::Response { id, outcome: Ok(_) }) => format!("result {id:?}"),
            Ok(Message::Response { id, outcome: Err(e) }) => format!("error {id:?} {}", e.code),
            Ok(Message::Request { method, .. }) => format!("request {method}"),
            Ok(Message::Notification { method, .. }) => format!("notification {method}"),
            Err(why) => why.to_owned(),
        };
        for (text, expect) in [
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, "result Some(1)"),
            (r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":""}}"#, "error Some(1) -1"),
            (r#"{"jsonrpc":"2.0","id":null,"error":{"code":2,"message":""}}"#, "error None 2"),
            (r#"{"jsonrpc":"2.0","id":"1","method":"ping"}"#, "request ping"),
            (r#"{"jsonrpc":"2.0","method":"a\u002fb"}"#, "notification a/b"),
            (r#"{"jsonrpc":"2.0","id":"1","result":{}}"#, "answers a request that was not sent"),
            (r#"{"jsonrpc":"2.0","id":1,"id":1,"result":{}}"#, "is no JSON-RPC message"),
            (r#"{"jsonrpc":"1.0","id":1,"result":{}}"#, "is not JSON-RPC 2.0"),
            (r#"{"jsonrpc":"2.0","id":1}"#, "is neither request nor answer"),
            ("[]", "is no JSON-RPC message"),
        ] {
            assert_eq!(kind(text), expect, "{text}");
        }
    }

    #[test]
    fn the_protocols_own_keys_are_ours() {
        let meta =
            raw(r#"{"a":1,"io.modelcontextprotocol/x":2,"progressToken":3,"traceparent":"t"}"#);
        assert_eq!(own_meta(&meta), r#""a":1,"traceparent":"t""#);
        let hidden = raw(r#"{"progress\u0054oken":3}"#);
        assert_eq!(own_meta(&hidden), "");
        assert_eq!(own_meta(&raw(r#"{ "a" : 1 }"#)), r#""a" : 1"#);
    }

    #[test]
    fn a_progress_token_is_put_back() {
        let params = raw(r#"{"progress":0.5,"progressToken":7,"message":"a\"b"}"#);
        let back = with_token(&params, &raw("\"mine\"")).unwrap();
        assert_eq!(back.get(), r#"{"progress":0.5,"progressToken":"mine","message":"a\"b"}"#);
    }
}
