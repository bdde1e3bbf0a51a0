//! A typed client of the REST routes, over any transport. Its methods are generated.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    HttpBody,
    error::ErrorBody,
    query::{self, Field},
    types,
};

include!(concat!(env!("OUT_DIR"), "/client.rs"));

/// What is escaped in a path: all but the unreserved characters of RFC 3986.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Sends one call to a server.
pub trait Transport {
    /// What can go wrong before there is an answer.
    type Error;

    /// Sends the call and reads the whole answer.
    fn send(&self, call: HttpCall) -> impl Future<Output = Result<HttpReply, Self::Error>> + Send;
}

/// One HTTP request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    /// The verb.
    pub method: &'static str,
    /// The path with its query string, beginning with `/`.
    pub path_and_query: String,
    /// The body, empty when there is none.
    pub body: Vec<u8>,
    /// The Content-Type of the body, none without one.
    pub content_type: Option<String>,
    /// The Idempotency-Key header.
    pub idempotency_key: Option<String>,
}

/// One HTTP answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpReply {
    /// The status.
    pub status: u16,
    /// The Content-Type, empty when there is none.
    pub content_type: String,
    /// The body.
    pub body: Vec<u8>,
}

/// What can go wrong with a call.
#[derive(Debug, thiserror::Error)]
pub enum ClientError<E> {
    /// There was no answer.
    #[error("the server did not answer: {0}")]
    Transport(E),
    /// The server refused the request.
    #[error("{} ({}, HTTP {status})", error.message, error.code)]
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why.
        error: Box<types::Error>,
    },
    /// The request cannot be written.
    #[error("the request cannot be written: {0}")]
    Request(String),
    /// The answer is not what the protocol says.
    #[error("HTTP {status} with an answer that is not of this protocol: {reason}")]
    Answer {
        /// The HTTP status.
        status: u16,
        /// What is wrong with it.
        reason: String,
    },
}

/// A typed client. Every rpc is a method that takes its request and, where the rpc changes
/// something, an idempotency key.
#[derive(Debug, Clone)]
pub struct Client<T> {
    transport: T,
}

impl<T: Transport> Client<T> {
    /// A client over a transport.
    pub fn new(transport: T) -> Self {
        Self { transport }
    }

    /// The transport.
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// Sends a call and decodes the JSON that answers it.
    async fn json<M: DeserializeOwned>(
        &self,
        call: Result<HttpCall, String>,
    ) -> Result<M, ClientError<T::Error>> {
        let reply = self.send(call).await?;
        serde_json::from_slice(&reply.body).map_err(|error| ClientError::Answer {
            status: reply.status,
            reason: query::readable(&error),
        })
    }

    /// Sends a call and takes the bytes that answer it.
    async fn raw(&self, call: Result<HttpCall, String>) -> Result<HttpBody, ClientError<T::Error>> {
        let HttpReply { content_type, body, .. } = self.send(call).await?;
        Ok(HttpBody { content_type, data: body, extensions: Vec::new() })
    }

    /// Sends a call; an answer of 4xx or 5xx becomes the error that it holds.
    async fn send(
        &self,
        call: Result<HttpCall, String>,
    ) -> Result<HttpReply, ClientError<T::Error>> {
        let call = call.map_err(ClientError::Request)?;
        let reply = self.transport.send(call).await.map_err(ClientError::Transport)?;
        let status = reply.status;
        if (200..300).contains(&status) {
            return Ok(reply);
        }
        match serde_json::from_slice::<ErrorBody>(&reply.body) {
            Ok(body) => Err(ClientError::Refused { status, error: Box::new(body.error) }),
            Err(error) => Err(ClientError::Answer { status, reason: error.to_string() }),
        }
    }
}

/// A call whose message is its JSON body.
fn with_json<M: Serialize>(
    method: &'static str,
    path: Result<String, String>,
    message: &M,
    key: Option<&str>,
) -> Result<HttpCall, String> {
    Ok(HttpCall {
        method,
        path_and_query: path?,
        body: serde_json::to_vec(message).map_err(|error| error.to_string())?,
        content_type: Some("application/json".to_owned()),
        idempotency_key: key.map(str::to_owned),
    })
}

/// A call whose message is its raw body.
fn with_raw(
    method: &'static str,
    path: Result<String, String>,
    message: &HttpBody,
    key: Option<&str>,
) -> Result<HttpCall, String> {
    Ok(HttpCall {
        method,
        path_and_query: path?,
        body: message.data.clone(),
        content_type: Some(message.content_type.clone()),
        idempotency_key: key.map(str::to_owned),
    })
}

/// A call whose message is its query string.
fn with_query<M: Serialize>(
    method: &'static str,
    path: Result<String, String>,
    message: &M,
    fields: &[Field],
) -> Result<HttpCall, String> {
    let mut path_and_query = path?;
    let query = query::encode(message, fields).map_err(|error| error.to_string())?;
    if !query.is_empty() {
        path_and_query.push('?');
        path_and_query.push_str(&query);
    }
    let (body, content_type, idempotency_key) = (Vec::new(), None, None);
    Ok(HttpCall { method, path_and_query, body, content_type, idempotency_key })
}

/// One part of a path template.
enum Part<'a> {
    /// Text as it is.
    Text(&'a str),
    /// One segment from a field, which has a name.
    One(&'a str, &'a str),
    /// Any number of segments from a field, which has a name.
    Many(&'a str, &'a str),
}

/// Fills a path template; an empty field is refused, since another route would answer.
fn path(parts: &[Part<'_>]) -> Result<String, String> {
    let mut path = String::new();
    for part in parts {
        match part {
            Part::Text(text) => path.push_str(text),
            Part::One(name, "") | Part::Many(name, "") => return Err(format!("give `{name}`")),
            Part::One(name, "." | "..") => return Err(format!("`{name}` cannot be dots")),
            Part::One(_, value) => path.extend(utf8_percent_encode(value, ESCAPED)),
            Part::Many(_, value) => {
                let segments =
                    value.split('/').map(|s| utf8_percent_encode(s, ESCAPED).to_string());
                path.push_str(&segments.collect::<Vec<_>>().join("/"));
            }
        }
    }
    Ok(path)
}
