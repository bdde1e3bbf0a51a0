//! A client of `/mcp` that writes its messages by hand, and reads streams piece by piece.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::common::PATIENCE;
use crate::common::wire::{Ask, Reply, Wire};

pub(super) const MODERN: &str = "2026-07-28";
pub(super) const LEGACY: &str = "2025-11-25";

/// What a modern client says in each request.
pub(super) fn meta(capabilities: &Value) -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": capabilities,
    })
}

/// A client, with or without a session.
#[derive(Clone, Debug)]
pub(super) struct Mcp {
    url: String,
    pub(super) key: String,
    session: Option<String>,
    pub(super) capabilities: Value,
}

impl Mcp {
    /// A modern client.
    pub(super) fn modern(url: &str, key: &str, capabilities: Value) -> Self {
        Self { url: url.to_owned(), key: key.to_owned(), session: None, capabilities }
    }

    /// A client with a session.
    pub(super) async fn legacy(url: &str, key: &str, capabilities: Value) -> Self {
        let mut client = Self::modern(url, key, capabilities);
        let reply = client.initialize().send().await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert_eq!(reply.json()["result"]["protocolVersion"], LEGACY);
        client.session = Some(reply.header("mcp-session-id").to_owned());
        let done = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        assert_eq!(client.post().json(&done).send().await.status, 202);
        client
    }

    pub(super) fn initialize(&self) -> Ask {
        let params = json!({
            "protocolVersion": LEGACY,
            "capabilities": self.capabilities,
            "clientInfo": {"name": "test", "version": "1"},
        });
        self.post().json(&message(0, "initialize", &params))
    }

    /// The same session with another's key.
    pub(super) fn with_key(&self, key: &str) -> Self {
        Self { key: key.to_owned(), ..self.clone() }
    }

    fn headers(&self) -> Vec<(String, String)> {
        let mut headers = vec![("authorization".to_owned(), format!("Bearer {}", self.key))];
        if let Some(session) = &self.session {
            headers.push(("mcp-session-id".to_owned(), session.clone()));
            headers.push(("mcp-protocol-version".to_owned(), LEGACY.to_owned()));
        }
        headers
    }

    pub(super) fn ask(&self, method: &str) -> Ask {
        let ask = Wire::new(&self.url).ask(method, "/mcp");
        self.headers().iter().fold(ask, |ask, (name, value)| ask.header(name, value))
    }

    pub(super) fn post(&self) -> Ask {
        self.ask("POST").header("accept", "application/json, text/event-stream")
    }

    /// The message and headers of a request.
    fn request(&self, id: u64, method: &str, mut params: Value) -> (Value, Vec<(String, String)>) {
        let mut headers = self.headers();
        if self.session.is_none() {
            let mut whole = meta(&self.capabilities);
            if let Some(own) = params["_meta"].as_object() {
                whole.as_object_mut().unwrap().extend(own.clone());
            }
            params["_meta"] = whole;
            headers.push(("mcp-protocol-version".to_owned(), MODERN.to_owned()));
            headers.push(("mcp-method".to_owned(), method.to_owned()));
            let named = ["name", "uri"].iter().find_map(|name| params[name].as_str());
            headers.extend(named.map(|name| ("mcp-name".to_owned(), name.to_owned())));
        }
        (message(id, method, &params), headers)
    }

    /// The whole answer to a request.
    pub(super) async fn send(&self, id: u64, method: &str, params: Value) -> Reply {
        let (body, headers) = self.request(id, method, params);
        let ask = Wire::new(&self.url).ask("POST", "/mcp");
        let ask = headers.iter().fold(ask, |ask, (name, value)| ask.header(name, value));
        ask.header("accept", "application/json, text/event-stream").json(&body).send().await
    }

    /// The one message that answers a request.
    pub(super) async fn answer(&self, method: &str, params: Value) -> Value {
        let reply = self.send(1, method, params).await;
        if reply.header("content-type").starts_with("text/event-stream") {
            return messages(&reply.text()).pop().unwrap();
        }
        reply.json()
    }

    /// Calls a tool: the result.
    pub(super) async fn call(&self, tool: &str, arguments: Value) -> Value {
        let params = json!({"name": tool, "arguments": arguments});
        let answer = self.answer("tools/call", params).await;
        assert!(answer["result"].is_object(), "{answer}");
        answer["result"].clone()
    }

    /// The names of the tools that are listed.
    pub(super) async fn tools(&self) -> Vec<String> {
        let answer = self.answer("tools/list", json!({})).await;
        let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}"));
        tools.iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    }

    /// Sends a request and reads its answer as a stream.
    pub(super) async fn open(&self, id: u64, method: &str, params: Value) -> Stream {
        let (body, headers) = self.request(id, method, params);
        self.stream("POST", headers, body.to_string()).await
    }

    /// Opens the stream of the session, or one that broke.
    pub(super) async fn listen(&self, last: Option<&str>) -> Stream {
        let mut headers = self.headers();
        headers.extend(last.map(|last| ("last-event-id".to_owned(), last.to_owned())));
        self.stream("GET", headers, String::new()).await
    }

    async fn stream(&self, method: &str, headers: Vec<(String, String)>, body: String) -> Stream {
        let pool: Pool<HttpConnector, Full<Bytes>> =
            Pool::builder(TokioExecutor::new()).build(HttpConnector::new());
        let mut request = Request::builder().method(method).uri(format!("{}/mcp", self.url));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request = request
            .header("accept", "application/json, text/event-stream")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        let response = timeout(PATIENCE, pool.request(request)).await.unwrap().unwrap();
        Stream::new(response)
    }
}

/// A message that is a request.
pub(super) fn message(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// The messages of a stream's text.
pub(super) fn messages(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| !data.is_empty()).map(|data| serde_json::from_str(data).unwrap()).collect()
}

/// An answer that is read piece by piece. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    body: Incoming,
    text: String,
}

/// One event.
#[derive(Debug)]
pub(super) struct Event {
    pub(super) id: Option<String>,
    pub(super) data: Option<Value>,
}

impl Stream {
    fn new(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        Self { status: head.status.as_u16(), headers: head.headers, body, text: String::new() }
    }

    /// The next event, or None at the end.
    pub(super) async fn event(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let mut lines = block.lines();
                    lines.find_map(|line| line.strip_prefix(name)).map(str::to_owned)
                };
                let data = field("data: ").filter(|data| !data.is_empty());
                let data = data.map(|data| serde_json::from_str(&data).unwrap());
                let event = Event { id: field("id: "), data };
                let comment = block.starts_with(':');
                self.text = rest.to_owned();
                if comment {
                    continue;
                }
                return Some(event);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.unwrap();
            let data = frame?.ok()?.into_data().unwrap_or_default();
            self.text.push_str(std::str::from_utf8(&data).unwrap());
        }
    }

    /// The next message.
    pub(super) async fn message(&mut self) -> Value {
        loop {
            let event = self.event().await.unwrap();
            if let Some(data) = event.data {
                return data;
            }
        }
    }

    /// Whether it ends without another message, in time.
    pub(super) async fn ends(&mut self) {
        while let Some(event) = self.event().await {
            assert!(event.data.is_none(), "{event:?}");
        }
    }
}

/// Waits until `is` holds.
pub(super) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !is().await {
        assert!(tokio::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
