//! Slack's Web API, as far as cards need it: messages that are posted, changed and read again.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// A message of the channel, as it stands, and how often it was changed.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) ts: String,
    pub(super) body: Value,
    pub(super) changes: usize,
}

/// How the next posts go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Well,
    /// It refuses so many posts, and has not posted them.
    Refuses(usize),
    /// It refuses the token of so many posts.
    Forbids(usize),
    /// It posts, and closes the connection without an answer, so many times.
    Drops(usize),
}

struct Channel {
    messages: Vec<Message>,
    mood: Mood,
    /// Whether the channel can be read.
    readable: bool,
    tokens: Vec<String>,
    /// What single people were told.
    whispers: Vec<Value>,
}

pub(super) struct Slack {
    pub(super) address: SocketAddr,
    channel: Arc<Mutex<Channel>>,
    serving: AbortHandle,
}

impl Slack {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let channel = Channel {
            messages: Vec::new(),
            mood: Mood::Well,
            readable: true,
            tokens: Vec::new(),
            whispers: Vec::new(),
        };
        let channel = Arc::new(Mutex::new(channel));
        let serving = tokio::spawn(serve(listener, channel.clone())).abort_handle();
        Self { address, channel, serving }
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        self.channel.lock().unwrap().messages.clone()
    }

    pub(super) fn whispers(&self) -> Vec<Value> {
        self.channel.lock().unwrap().whispers.clone()
    }

    pub(super) fn set(&self, mood: Mood, readable: bool) {
        let mut channel = self.channel.lock().unwrap();
        (channel.mood, channel.readable) = (mood, readable);
    }

    pub(super) fn tokens(&self) -> Vec<String> {
        self.channel.lock().unwrap().tokens.clone()
    }
}

impl Drop for Slack {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, channel: Arc<Mutex<Channel>>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let channel = channel.clone();
        let service = service_fn(move |request| answer(request, channel.clone()));
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        // Connections break here on purpose.
        tokio::spawn(async move { connection.await.is_ok() });
    }
}

async fn answer(
    request: Request<Incoming>,
    channel: Arc<Mutex<Channel>>,
) -> Result<Response<Full<Bytes>>, &'static str> {
    let path = request.uri().path().to_owned();
    let query: HashMap<String, String> =
        form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect();
    let token = request.headers().get("authorization").map(|v| v.to_str().unwrap().to_owned());
    let sent = request.into_body().collect().await.map_err(|_| "it broke off")?.to_bytes();
    let mut query = query;
    query.extend(form_urlencoded::parse(&sent).into_owned());
    let mut channel = channel.lock().unwrap();
    channel.tokens.push(token.unwrap_or_default());
    let body = match path.as_str() {
        "/api/chat.postMessage" => {
            let body: Value = serde_json::from_slice(&sent).unwrap();
            if let Mood::Refuses(times) = channel.mood {
                channel.mood = if times > 1 { Mood::Refuses(times - 1) } else { Mood::Well };
                let refused = json!({"ok": false, "error": "service_unavailable"});
                return Ok(Response::new(Full::new(Bytes::from(refused.to_string()))));
            }
            if let Mood::Forbids(times) = channel.mood {
                channel.mood = if times > 1 { Mood::Forbids(times - 1) } else { Mood::Well };
                let refused = json!({"ok": false, "error": "invalid_auth"});
                return Ok(Response::new(Full::new(Bytes::from(refused.to_string()))));
            }
            let ts = format!("1700000000.{:06}", channel.messages.len() + 1);
            channel.messages.push(Message { ts: ts.clone(), body: body.clone(), changes: 0 });
            if let Mood::Drops(times) = channel.mood {
                channel.mood = if times > 1 { Mood::Drops(times - 1) } else { Mood::Well };
                return Err("closed without an answer");
            }
            json!({"ok": true, "channel": body["channel"], "ts": ts, "message": {"text": ""}})
        }
        "/api/chat.postEphemeral" => {
            channel.whispers.push(serde_json::from_slice(&sent).unwrap());
            json!({"ok": true, "message_ts": "1700000001.000001"})
        }
        "/api/chat.update" => {
            let body: Value = serde_json::from_slice(&sent).unwrap();
            let known = channel.messages.iter_mut().find(|known| known.ts == body["ts"]);
            match known {
                None => json!({"ok": false, "error": "message_not_found"}),
                Some(known) => {
                    let metadata = known.body["metadata"].clone();
                    known.body = body.clone();
                    known.body["metadata"] = metadata;
                    known.changes += 1;
                    json!({"ok": true, "channel": body["channel"], "ts": body["ts"]})
                }
            }
        }
        "/api/conversations.history" if channel.readable => {
            let of = |message: &&Message| message.body["channel"] == query["channel"].as_str();
            let messages = channel
                .messages
                .iter()
                .filter(of)
                .map(|message| json!({"ts": message.ts, "metadata": message.body["metadata"]}));
            let messages: Vec<Value> = messages.collect();
            json!({"ok": true, "messages": messages, "has_more": false})
        }
        _ => json!({"ok": false, "error": "missing_scope"}),
    };
    Ok(Response::new(Full::new(Bytes::from(body.to_string()))))
}
