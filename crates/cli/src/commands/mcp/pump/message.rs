//! JSON-RPC messages as the pump sees them: whose they are and where they go. Their text passes
//! through untouched.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The key of `_meta` by which a request names its revision, from 2026-07-28 on.
const VERSION_KEY: &str = "io.modelcontextprotocol/protocolVersion";

/// A JSON-RPC error of our own: what JSON-RPC calls an internal error.
pub(crate) const INTERNAL: i64 = -32_603;
/// A message that is none.
pub(crate) const INVALID_REQUEST: i64 = -32_600;
/// Text that is not JSON.
pub(crate) const PARSE: i64 = -32_700;
/// Headers that do not say what the body says.
pub(crate) const HEADER_MISMATCH: i64 = -32_020;

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Its text, without the line's end.
    pub(crate) body: Bytes,
}

/// What a message is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It wants an answer.
    Request(Request),
    /// It wants none.
    Notification {
        method: String,
        /// Which request is canceled, as JSON.
        cancels: Option<String>,
        /// The revision that it names.
        version: Option<String>,
    },
    /// It answers a request of the other side, by this id as JSON.
    Response { id: Option<String>, error: Option<i64> },
}

/// What the pump needs of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// The id, as JSON.
    pub(crate) id: String,
    pub(crate) method: String,
    /// The revision that it names: such a request belongs to no session.
    pub(crate) version: Option<String>,
    /// What is asked for: a tool, a prompt, a resource, a task.
    pub(crate) name: Option<String>,
}

/// Why a line is no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoMessage {
    pub(crate) code: i64,
    pub(crate) reason: &'static str,
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    method: Option<String>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// The members of `params` that matter here. One of another type counts as absent: the server
/// refuses it with reason.
#[derive(Default, Deserialize)]
struct Params<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "taskId")]
    task_id: Option<&'a RawValue>,
    #[serde(borrow, rename = "requestId")]
    request_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Code {
    code: i64,
}

impl Message {
    /// Reads one line.
    pub(crate) fn read(body: Bytes) -> Result<Self, NoMessage> {
        let no = |code, reason| Err(NoMessage { code, reason });
        if body.first() == Some(&b'[') {
            return no(INVALID_REQUEST, "send one message a line: batches are not taken");
        }
        let Ok(head) = serde_json::from_slice::<Head<'_>>(&body) else {
            return no(PARSE, "this line is no JSON-RPC message");
        };
        let params = head.params.map(RawValue::get).unwrap_or_default();
        let params: Params<'_> = serde_json::from_str(params).unwrap_or_default();
        let version = params.meta.and_then(version);
        let id = head.id.map(|id| id.get().to_owned());
        let kind = match (head.method, id) {
            (Some(method), Some(id)) => {
                let name = named(&method, &params).and_then(text);
                Kind::Request(Request { id, method, version, name })
            }
            (Some(method), None) => {
                let cancels = (method == "notifications/cancelled")
                    .then(|| params.request_id.map(|id| id.get().to_owned()));
                Kind::Notification { method, cancels: cancels.flatten(), version }
            }
            (None, id) if head.result.is_some() || head.error.is_some() => {
                let error = head.error.map(|error| {
                    serde_json::from_str(error.get()).map_or(INTERNAL, |Code { code }| code)
                });
                Kind::Response { id, error }
            }
            (None, _) => {
                return no(INVALID_REQUEST, "a message has a method, a result or an error");
            }
        };
        Ok(Self { kind, body })
    }

    /// The `result` of a response.
    pub(crate) fn result(&self) -> Option<&RawValue> {
        serde_json::from_slice::<Head<'_>>(&self.body).ok()?.result
    }
}

/// What the header `Mcp-Name` repeats of a request.
fn named<'a>(method: &str, params: &Params<'a>) -> Option<&'a RawValue> {
    match method {
        "tools/call" | "prompts/get" => params.name,
        "resources/read" => params.uri,
        "tasks/get" | "tasks/update" | "tasks/cancel" | "tasks/result" => params.task_id,
        _ => None,
    }
}

fn version(meta: &RawValue) -> Option<String> {
    let meta: std::collections::HashMap<String, &RawValue> =
        serde_json::from_str(meta.get()).ok()?;
    meta.get(VERSION_KEY).copied().and_then(text)
}

fn text(json: &RawValue) -> Option<String> {
    serde_json::from_str(json.get()).ok()
}

/// A value as a header holds it: as it is where it can be, in Base64 otherwise.
pub(crate) fn header(value: &str) -> Option<HeaderValue> {
    let trimmed = value.trim_matches([' ', '\t']) == value;
    let plain = value.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'));
    let marked = value.starts_with("=?base64?") && value.ends_with("?=");
    if plain && trimmed && !marked {
        return HeaderValue::from_str(value).ok();
    }
    HeaderValue::from_str(&format!("=?base64?{}?=", STANDARD.encode(value))).ok()
}

/// A response that refuses the request `id`, which is JSON.
pub(crate) fn refusal(id: &str, code: i64, message: &str, data: Option<&RawValue>) -> Bytes {
    let message = serde_json::Value::from(message);
    let data = data.map(|data| format!(r#","data":{}"#, data.get())).unwrap_or_default();
    let error = format!(r#"{{"code":{code},"message":{message}{data}}}"#);
    Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#))
}

/// The `error` of an answer that names no request, as a response to `id`.
pub(crate) fn readdress(body: &[u8], id: &str) -> Option<Bytes> {
    let error = serde_json::from_slice::<Head<'_>>(body).ok()?.error?;
    serde_json::from_str::<Code>(error.get()).ok()?;
    Some(Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{}}}"#, error.get())))
}

/// The message as one line. Line ends inside of JSON are between its tokens.
pub(crate) fn line(body: &[u8]) -> Vec<u8> {
    let blank = |byte: &u8| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte };
    let mut line: Vec<u8> = body.trim_ascii().iter().map(blank).collect();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Kind, NoMessage> {
        Message::read(Bytes::copy_from_slice(text.as_bytes())).map(|message| message.kind)
    }

    fn request(id: &str, method: &str, version: Option<&str>, name: Option<&str>) -> Kind {
        let own = |text: &str| text.to_owned();
        let (version, name) = (version.map(own), name.map(own));
        Kind::Request(Request { id: own(id), method: own(method), version, name })
    }

    #[test]
    fn messages() {
        let modern = r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"t",
            "_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}"#;
        for (text, kind) in [
            (r#"{"id":1,"method":"ping"}"#, request("1", "ping", None, None)),
            (modern, request("\"a\"", "tools/call", Some("2026-07-28"), Some("t"))),
            (
                r#"{"id":2,"method":"resources/read","params":{"uri":"x:y","name":"t"}}"#,
                request("2", "resources/read", None, Some("x:y")),
            ),
            (
                r#"{"id":3,"method":"tools/call","params":{"name":7}}"#,
                request("3", "tools/call", None, None),
            ),
            (
                r#"{"method":"notifications/cancelled","params":{"requestId":"q"}}"#,
                Kind::Notification {
                    method: "notifications/cancelled".to_owned(),
                    cancels: Some("\"q\"".to_owned()),
                    version: None,
                },
            ),
            (
                r#"{"id":4,"error":{"code":-32020,"message":"m"}}"#,
                Kind::Response { id: Some("4".to_owned()), error: Some(HEADER_MISMATCH) },
            ),
            (r#"{"id":5,"result":{}}"#, Kind::Response { id: Some("5".to_owned()), error: None }),
        ] {
            assert_eq!(read(text), Ok(kind), "{text}");
        }
    }

    #[test]
    fn what_is_none() {
        for (text, code) in [
            ("[]", INVALID_REQUEST),
            ("{}", INVALID_REQUEST),
            (r#"{"id":1}"#, INVALID_REQUEST),
            ("nonsense", PARSE),
            (r#"{"id":1,"method":7}"#, PARSE),
        ] {
            assert_eq!(read(text).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn headers_hold_any_name() {
        for (value, expected) in [
            ("read_file", "read_file"),
            ("a b", "a b"),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ] {
            assert_eq!(header(value).unwrap(), expected, "{value}");
        }
    }

    #[test]
    fn an_error_finds_its_request() {
        let error = br#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"no"}}"#;
        let found = readdress(error, "7").unwrap();
        assert_eq!(found, r#"{"jsonrpc":"2.0","id":7,"error":{"code":-32000,"message":"no"}}"#);
        assert_eq!(readdress(br#"{"error":{"code":"rate_limited"}}"#, "7"), None);
        assert_eq!(line(b"{\n  \"id\": 1\r\n}\n"), b"{   \"id\": 1  }\n");
    }
}
