//! Requests beside those of `proto/` whose answers are read as they come: the MCP endpoint.

use ::http::header::USER_AGENT;
use ::http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};

use crate::error::TransportError;
use crate::http::{AGENT, API_KEY, Http};
use crate::{Client, Error};

/// One request whose answer is read as it comes.
#[derive(Clone, Debug)]
pub struct Exchange<'a> {
    /// The verb.
    pub method: Method,
    /// The path with its query string, beginning with `/`.
    pub path_and_query: &'a str,
    /// All headers but the credential.
    pub headers: HeaderMap,
    /// The body, empty where there is none.
    pub body: Bytes,
}

impl Client {
    /// Sends a request once and returns when the head of its answer is there, which may be long:
    /// how long to wait is the caller's to say.
    ///
    /// # Errors
    /// No connection, in which case the server has seen nothing, or a broken one.
    pub async fn exchange(&self, exchange: Exchange<'_>) -> Result<Response<Incoming>, Error> {
        self.0.transport().exchange(exchange).await.map_err(Error::Transport)
    }
}

impl Http {
    async fn exchange(&self, exchange: Exchange<'_>) -> Result<Response<Incoming>, TransportError> {
        let Exchange { method, path_and_query, mut headers, body } = exchange;
        headers.insert(USER_AGENT, ::http::HeaderValue::from_static(AGENT));
        if let Some(key) = &self.key {
            headers.insert(API_KEY, key.clone());
        }
        let uri = format!("{}{path_and_query}", self.url);
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(|error| TransportError::Request(error.to_string()))?;
        *request.headers_mut() = headers;
        self.pool.request(request).await.map_err(|error| self.failed(&error))
    }
}
