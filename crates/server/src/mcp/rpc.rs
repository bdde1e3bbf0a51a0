//! JSON-RPC 2.0 as MCP uses it: one message in a body, read once, its parts kept as they came.

use std::borrow::Cow;
use std::fmt;

use kernel::json;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::limits;
use super::raw;

/// Not JSON.
pub(super) const PARSE_ERROR: i64 = -32700;
/// No message of JSON-RPC.
pub(super) const INVALID_REQUEST: i64 = -32600;
/// There is no such method.
pub(super) const METHOD_NOT_FOUND: i64 = -32601;
/// The parameters are not what the method takes.
pub(super) const INVALID_PARAMS: i64 = -32602;
/// A fault of the server.
pub(super) const INTERNAL_ERROR: i64 = -32603;
/// Headers and body contradict each other.
pub(super) const HEADER_MISMATCH: i64 = -32020;
/// The revision is not served.
pub(super) const UNSUPPORTED_VERSION: i64 = -32022;

/// The id of a request, as JSON text: a string or an integer.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Id(Box<str>);

impl Id {
    fn parse(raw: &RawValue) -> Option<Self> {
        let text = raw.get();
        let integer = |text: &str| {
            let digits = text.strip_prefix('-').unwrap_or(text);
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
        };
        let fits = text.len() <= limits::ID_BYTES_MAX;
        (fits && (text.starts_with('"') || integer(text))).then(|| Self(text.into()))
    }

    /// An id of ours.
    pub(super) fn number(number: u64) -> Self {
        Self(number.to_string().into())
    }

    /// The id as JSON.
    pub(super) fn as_json(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a client sent.
#[derive(Debug)]
pub(super) enum Message<'a> {
    /// It is to be answered.
    Request(Id, Asked<'a>),
    /// It is not.
    Notification(Asked<'a>),
    /// It answers a request of ours: a result or an error.
    Response(Id, Result<&'a RawValue, &'a RawValue>),
}

/// A method and its parameters.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: Cow<'a, str>,
    /// The parameters as they came; `{}` where there are none.
    pub(super) text: &'a str,
    pub(super) params: Params<'a>,
}

/// The parameters of all methods. Each reads its own.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Params<'a> {
    #[serde(rename = "_meta", borrow)]
    pub(super) meta: Option<&'a RawValue>,
    pub(super) name: Option<String>,
    pub(super) uri: Option<String>,
    #[serde(borrow)]
    pub(super) arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) input_responses: Option<&'a RawValue>,
    pub(super) request_state: Option<String>,
    pub(super) cursor: Option<String>,
    pub(super) level: Option<String>,
    #[serde(borrow)]
    pub(super) request_id: Option<&'a RawValue>,
    pub(super) protocol_version: Option<String>,
    #[serde(borrow)]
    pub(super) capabilities: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) client_info: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) notifications: Option<&'a RawValue>,
    #[serde(rename = "ref", borrow)]
    pub(super) reference: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) argument: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) context: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) task: Option<&'a RawValue>,
    pub(super) task_id: Option<String>,
}

/// Why a body is no message that is served.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// No JSON at all.
    #[error("parse error: {0}")]
    Parse(String),
    /// JSON that two readers may read differently, or that is too much.
    #[error("invalid request: {0}")]
    Json(#[from] json::Error),
    /// No message.
    #[error("invalid request: {0}")]
    Message(&'static str),
    /// Parameters of another type.
    #[error("invalid params: {reason}")]
    Params {
        /// Of which request, where it is one.
        id: Option<Id>,
        /// What is wrong.
        reason: String,
    },
}

impl Error {
    /// The code of JSON-RPC.
    pub(super) fn code(&self) -> i64 {
        match self {
            Self::Parse(_) | Self::Json(json::Error::Syntax { .. }) => PARSE_ERROR,
            Self::Json(_) | Self::Message(_) => INVALID_REQUEST,
            Self::Params { .. } => INVALID_PARAMS,
        }
    }
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    jsonrpc: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// A member that is there, even where it is null.
fn present<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(reader).map(Some)
}

impl<'a> Message<'a> {
    /// Reads the one message of a body.
    pub(super) fn parse(body: &'a [u8]) -> Result<Self, Error> {
        let text = std::str::from_utf8(body)
            .map_err(|error| Error::Parse(format!("not UTF-8 at byte {}", error.valid_up_to())))?;
        json::check(text, limits::MESSAGE_BYTES_MAX)?;
        if text.trim_start().starts_with('[') {
            return Err(Error::Message("send one message a request, not a batch"));
        }
        let envelope: Envelope<'a> = serde_json::from_str(text)
            .map_err(|_| Error::Message("a message is an object, its `method` a string"))?;
        let Envelope { jsonrpc, id, method, params, result, error } = envelope;
        if jsonrpc.is_none_or(|version| version.get() != "\"2.0\"") {
            return Err(Error::Message("`jsonrpc` is \"2.0\""));
        }
        let id =
            match id {
                None => None,
                Some(raw) => Some(Id::parse(raw).ok_or(Error::Message(
                    "`id` is a string or an integer, of at most 256 bytes",
                ))?),
            };
        match (method, id, result, error) {
            (Some(method), id, None, None) => {
                let asked = Asked::read(method, params)
                    .map_err(|reason| Error::Params { id: id.clone(), reason })?;
                Ok(match id {
                    Some(id) => Self::Request(id, asked),
                    None => Self::Notification(asked),
                })
            }
            (None, Some(id), Some(result), None) => Ok(Self::Response(id, Ok(result))),
            (None, Some(id), None, Some(error)) => Ok(Self::Response(id, Err(error))),
            _ => Err(Error::Message("neither a request, nor a notification, nor a response")),
        }
    }
}

impl<'a> Asked<'a> {
    fn read(method: Cow<'a, str>, params: Option<&'a RawValue>) -> Result<Self, String> {
        let Some(raw) = params else {
            return Ok(Self { method, text: "{}", params: Params::default() });
        };
        if !raw.get().starts_with('{') {
            return Err("`params` is an object".to_owned());
        }
        let params = serde_json::from_str(raw.get()).map_err(|error| error.to_string())?;
        Ok(Self { method, text: raw.get(), params })
    }

    /// What `_meta` says.
    pub(super) fn meta(&self) -> Result<Meta<'a>, String> {
        match self.params.meta {
            None => Ok(Meta::default()),
            Some(raw) => Meta::read(raw),
        }
    }
}

/// What `_meta` of a request says.
#[derive(Debug, Default)]
pub(super) struct Meta<'a> {
    pub(super) version: Option<Cow<'a, str>>,
    pub(super) client: Option<&'a RawValue>,
    pub(super) capabilities: Option<&'a RawValue>,
    pub(super) log_level: Option<Cow<'a, str>>,
    pub(super) progress_token: Option<&'a RawValue>,
    /// What is not the protocol's own, for the server behind.
    rest: Vec<(Cow<'a, str>, &'a RawValue)>,
}

/// The name of the key in which a request says what its client can do.
pub(super) const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";

impl<'a> Meta<'a> {
    fn read(raw: &'a RawValue) -> Result<Self, String> {
        let members = raw::members(raw.get()).ok_or("`_meta` is an object")?;
        let mut meta = Self::default();
        for (key, value) in members {
            match key.as_ref() {
                "io.modelcontextprotocol/protocolVersion" => {
                    meta.version = Some(string(value, "the protocol version")?);
                }
                "io.modelcontextprotocol/clientInfo" => {
                    meta.client = Some(shaped(value, '{', "clientInfo is an object")?);
                }
                CAPABILITIES => {
                    let message = "clientCapabilities is an object";
                    meta.capabilities = Some(shaped(value, '{', message)?);
                }
                "io.modelcontextprotocol/logLevel" => {
                    meta.log_level = Some(string(value, "the log level")?);
                }
                "progressToken" => {
                    let token = Id::parse(value).map(|_| value);
                    meta.progress_token =
                        Some(token.ok_or("`progressToken` is a string or an integer")?);
                }
                _ => meta.rest.push((key, value)),
            }
        }
        Ok(meta)
    }

    /// What goes on to the server behind.
    pub(super) fn passed_on(&self) -> Option<Box<RawValue>> {
        if self.rest.is_empty() {
            return None;
        }
        let members = self.rest.iter().map(|(key, value)| (key.as_ref(), value.get()));
        RawValue::from_string(raw::object(members)).ok()
    }
}

fn string<'a>(raw: &'a RawValue, what: &str) -> Result<Cow<'a, str>, String> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    let text: Result<Text<'a>, _> = serde_json::from_str(raw.get());
    text.map(|Text(text)| text).map_err(|_| format!("{what} is a string"))
}

fn shaped<'a>(raw: &'a RawValue, first: char, message: &str) -> Result<&'a RawValue, String> {
    if raw.get().starts_with(first) { Ok(raw) } else { Err(message.to_owned()) }
}

/// A response with a result.
pub(super) fn result(id: &Id, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{},"result":{result}}}"#, id.as_json())
}

/// A notification.
pub(super) fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":{},"params":{params}}}"#, raw::quoted(method))
}

/// A request of ours.
pub(super) fn request(id: &Id, method: &str, params: &str) -> String {
    let (id, method) = (id.as_json(), raw::quoted(method));
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{method},"params":{params}}}"#)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (i64, String) {
        let error = Message::parse(text.as_bytes()).unwrap_err();
        (error.code(), error.to_string())
    }

    #[test]
    fn messages() {
        let text = concat!(
            r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"x","#,
            r#""arguments":{"n":1e2},"_meta":{"progressToken":7,"traceparent":"t"}}}"#,
        );
        let Message::Request(id, asked) = Message::parse(text.as_bytes()).unwrap() else {
            panic!("no request")
        };
        assert_eq!((id.as_json(), asked.method.as_ref()), ("\"a\"", "tools/call"));
        assert_eq!(asked.params.arguments.unwrap().get(), r#"{"n":1e2}"#);
        let meta = asked.meta().unwrap();
        assert_eq!(meta.progress_token.unwrap().get(), "7");
        assert_eq!(meta.passed_on().unwrap().get(), r#"{"traceparent":"t"}"#);
        let note = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        assert!(matches!(Message::parse(note.as_bytes()), Ok(Message::Notification(_))));
        let answer = r#"{"jsonrpc":"2.0","id":-3,"error":{"code":1,"message":"m"}}"#;
        assert!(matches!(Message::parse(answer.as_bytes()), Ok(Message::Response(_, Err(_)))));
    }

    #[test]
    fn refusals_say_what_is_wrong() {
        for (text, code, named) in [
            ("", PARSE_ERROR, "byte 0"),
            ("{", PARSE_ERROR, "byte 1"),
            ("[]", INVALID_REQUEST, "batch"),
            ("7", INVALID_REQUEST, "an object"),
            (r#"{"jsonrpc":"1.0","id":1,"method":"x"}"#, INVALID_REQUEST, "2.0"),
            (r#"{"id":1,"method":"x"}"#, INVALID_REQUEST, "2.0"),
            (r#"{"jsonrpc":"2.0","id":null,"method":"x"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"x"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":{},"method":"x"}"#, INVALID_REQUEST, "`id`"),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, INVALID_REQUEST, "`method`"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":[]}"#, INVALID_PARAMS, "object"),
            (r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"name":1}}"#, INVALID_PARAMS, ""),
            (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"x"}"#, INVALID_REQUEST, "/id"),
            (
                r#"{"jsonrpc":"2.0","id":1,"method":"x","params":{"a":{"b":1,"\u0062":2}}}"#,
                INVALID_REQUEST,
                "/params/a/b",
            ),
            (r#"{"jsonrpc":"2.0","id":1}"#, INVALID_REQUEST, "neither"),
        ] {
            let (got, message) = refused(text);
            assert_eq!(got, code, "{text}: {message}");
            assert!(message.contains(named), "{text}: {message}");
        }
        let deep = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"x","params":{{"a":{}{}}}}}"#,
            "[".repeat(100),
            "]".repeat(100)
        );
        assert_eq!(refused(&deep).0, INVALID_REQUEST);
        assert_eq!(Message::parse(b"\xff").unwrap_err().code(), PARSE_ERROR);
    }
}
