//! The session of a client that speaks a revision up to 2025-11-25. When the server has lost it,
//! it is opened again with what the client said in the first place, and the client need not know.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::message::{Message, Request};
use crate::commands::mcp::limits;

pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
pub(crate) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");

/// What a request of a session carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Handle {
    pub(crate) id: Option<HeaderValue>,
    pub(crate) version: Option<HeaderValue>,
    /// Which opening of the session it is from.
    pub(crate) epoch: u64,
}

impl Handle {
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in [(SESSION, &self.id), (VERSION, &self.version)] {
            if let Some(value) = value {
                headers.insert(name, value.clone());
            }
        }
    }
}

/// The session, and what opens it again.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) handle: Handle,
    /// The client's `initialize`.
    pub(crate) initialize: Message,
    /// Its `notifications/initialized`, once it came.
    pub(crate) initialized: Option<Bytes>,
    /// Its last `logging/setLevel`.
    level: Option<Bytes>,
    /// Its `resources/subscribe` that are in force, by URI.
    subscriptions: BTreeMap<String, Bytes>,
    /// Ends the stream of what the server says by itself.
    pub(crate) listening: CancellationToken,
}

#[derive(Deserialize)]
struct Initialized {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
}

#[derive(Deserialize)]
struct Subscribe {
    params: SubscribeParams,
}

#[derive(Deserialize)]
struct SubscribeParams {
    uri: String,
}

impl Session {
    /// A session that the server has just opened.
    pub(crate) fn new(initialize: Message, handle: Handle) -> Self {
        Self {
            handle,
            initialize,
            initialized: None,
            level: None,
            subscriptions: BTreeMap::new(),
            listening: CancellationToken::new(),
        }
    }

    /// Keeps in mind what of a request would have to be said again.
    pub(crate) fn remember(&mut self, request: &Request, message: &Message) {
        let uri = || serde_json::from_slice(&message.body).map(|s: Subscribe| s.params.uri).ok();
        match request.method.as_str() {
            "logging/setLevel" => self.level = Some(message.body.clone()),
            "resources/subscribe" if self.subscriptions.len() < limits::SUBSCRIPTIONS_MAX => {
                self.subscriptions.extend(uri().map(|uri| (uri, message.body.clone())));
            }
            "resources/unsubscribe" => {
                self.subscriptions.retain(|known, _| Some(known.as_str()) != uri().as_deref());
            }
            _ => {}
        }
    }

    /// What is said again after `notifications/initialized`.
    pub(crate) fn repeated(&self) -> Vec<Bytes> {
        self.level.iter().chain(self.subscriptions.values()).cloned().collect()
    }
}

/// The revision that the answer to `initialize` settles on.
pub(crate) fn version(response: &Message) -> Option<HeaderValue> {
    let result: Initialized = serde_json::from_str(response.result()?.get()).ok()?;
    HeaderValue::from_str(&result.protocol_version).ok()
}
