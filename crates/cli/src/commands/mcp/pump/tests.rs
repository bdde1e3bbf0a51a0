//! The pump before a server that is none of ours.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use client::Client;
use mcpkit::everything::Everything;
use mcpkit::{Revisions, Running};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::stdio::Line;
use super::{Link, Place, Pump};

const PATIENCE: Duration = Duration::from_secs(60);
const META: &str = "io.modelcontextprotocol/protocolVersion";

/// A server that may go and come back elsewhere.
#[derive(Clone)]
struct Somewhere {
    server: Everything,
    running: Arc<Mutex<Option<Running>>>,
    settled: Arc<AtomicUsize>,
}

impl Place for Somewhere {
    async fn settle(&self) -> anyhow::Result<Link> {
        let lives = self.running.lock().unwrap().is_some();
        if !lives {
            let running = self.server.http().await;
            *self.running.lock().unwrap() = Some(running);
        }
        self.settled.fetch_add(1, Ordering::SeqCst);
        let url = self.running.lock().unwrap().as_ref().unwrap().url.clone();
        let client = Client::new(url.strip_suffix("/mcp").unwrap(), "")?;
        Ok(Link { client, path: "/mcp".into() })
    }
}

/// A client on both ends of a pump.
struct Desk {
    place: Somewhere,
    send: mpsc::Sender<Line>,
    heard: mpsc::Receiver<Vec<u8>>,
    pumping: JoinHandle<()>,
}

impl Desk {
    fn new(revisions: Revisions) -> Self {
        let (running, settled) = (Arc::default(), Arc::default());
        let place = Somewhere { server: Everything::new(revisions), running, settled };
        let (send, lines) = mpsc::channel(8);
        let (out, heard) = mpsc::channel(8);
        let pump = Pump::new(place.clone(), out);
        let pumping = tokio::spawn(async move {
            pump.run(lines).await;
            pump.close().await;
        });
        Self { place, send, heard, pumping }
    }

    async fn say(&self, message: Value) {
        self.send.send(Line::Text(message.to_string().into_bytes())).await.unwrap();
    }

    /// The next message that `wanted` is true of.
    async fn hear(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = timeout(PATIENCE, self.heard.recv()).await.unwrap().unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            let message: Value = serde_json::from_slice(&line).unwrap();
            if wanted(&message) {
                return message;
            }
        }
    }

    async fn answer(&mut self, id: impl Into<Value>) -> Value {
        let id = id.into();
        self.hear(|message| message["id"] == id && message.get("method").is_none()).await
    }

    async fn open(&mut self) {
        let params = json!({
            "protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "a test", "version": "1"},
        });
        self.say(json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}))
            .await;
        assert_eq!(self.answer(0).await["result"]["protocolVersion"], "2025-11-25");
        self.say(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    }

    async fn call(&self, id: u32, tool: &str, arguments: Value, meta: Value) {
        let params = json!({"name": tool, "arguments": arguments, "_meta": meta});
        self.say(json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}))
            .await;
    }

    /// The client has no more to ask.
    async fn end(self) {
        drop(self.send);
        timeout(PATIENCE, self.pumping).await.unwrap().unwrap();
    }
}

fn modern() -> Value {
    json!({META: "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
           "io.modelcontextprotocol/clientInfo": {"name": "a test", "version": "1"}})
}

#[tokio::test]
async fn a_session_with_progress_and_questions() {
    let mut desk = Desk::new(Revisions::Both);
    desk.open().await;
    desk.call(1, "test_tool_with_progress", json!({}), json!({"progressToken": "mine"})).await;
    let progress = desk.hear(|message| message["method"] == "notifications/progress").await;
    assert_eq!(progress["params"]["progressToken"], "mine");
    assert!(desk.answer(1).await["result"]["content"].is_array());

    desk.call(2, "test_elicitation", json!({"message": "who?"}), json!({})).await;
    let asked = desk.hear(|message| message["method"] == "elicitation/create").await;
    let result = json!({"action": "accept", "content": {"username": "ada", "email": "a@b.c"}});
    desk.say(json!({"jsonrpc": "2.0", "id": asked["id"], "result": result})).await;
    assert!(desk.answer(2).await["result"].to_string().contains("accept"));
    desk.end().await;
}

#[tokio::test]
async fn a_lost_session_is_opened_again() {
    let mut desk = Desk::new(Revisions::Old);
    desk.open().await;
    desk.call(1, "write_note", json!({"text": "one"}), json!({})).await;
    assert!(desk.answer(1).await["result"].is_object());

    // The server is gone. The next call finds it elsewhere, where nobody knows the session.
    let running = desk.place.running.lock().unwrap().take().unwrap();
    running.stop().await;
    desk.call(2, "write_note", json!({"text": "two"}), json!({})).await;
    assert!(desk.answer(2).await["result"].is_object());
    assert_eq!(desk.place.server.notes(), ["one", "two"]);
    assert!(desk.place.settled.load(Ordering::SeqCst) >= 2);
    desk.end().await;
}

#[tokio::test]
async fn a_call_that_was_cut_off_is_not_made_again() {
    for meta in [json!({}), modern()] {
        let mut desk = Desk::new(Revisions::Both);
        desk.open().await;
        let place = desk.place.clone();
        desk.call(1, "wait", json!({"ms": 60_000}), with_token(&meta)).await;
        desk.hear(|message| message["method"] == "notifications/progress").await;
        let running = place.running.lock().unwrap().take().unwrap();
        running.stop().await;
        let answer = desk.answer(1).await;
        assert_eq!(answer["error"]["data"]["code"], "outcome_unknown", "{answer}");
        desk.end().await;
    }
}

#[tokio::test]
async fn requests_without_a_session_are_canceled_by_letting_go() {
    let mut desk = Desk::new(Revisions::New);
    desk.say(json!({"jsonrpc": "2.0", "id": "d", "method": "server/discover",
                    "params": {"_meta": modern()}}))
        .await;
    assert!(desk.answer("d").await["result"]["supportedVersions"].is_array());
    desk.call(1, "wait", json!({"ms": 60_000}), with_token(&modern())).await;
    desk.hear(|message| message["method"] == "notifications/progress").await;
    desk.say(json!({"jsonrpc": "2.0", "method": "notifications/cancelled",
                    "params": {"requestId": 1, "_meta": modern()}}))
        .await;
    let server = desk.place.server.clone();
    timeout(PATIENCE, async {
        while server.cancelled() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    // A name that no header can hold, and an argument that belongs into one.
    desk.call(2, "no such tool: ünïcode", json!({}), modern()).await;
    assert_eq!(desk.answer(2).await["error"]["code"], -32602);
    desk.call(3, "test_custom_header", json!({"value": "Zürich"}), modern()).await;
    let answer = desk.answer(3).await;
    assert!(answer["result"].is_object(), "{answer}");
    desk.end().await;
}

#[tokio::test]
async fn what_is_no_message_is_refused_and_harms_nothing() {
    let mut desk = Desk::new(Revisions::Both);
    desk.send.send(Line::Text(b"[]".to_vec())).await.unwrap();
    desk.send.send(Line::Text(b"  ".to_vec())).await.unwrap();
    desk.send.send(Line::TooLong).await.unwrap();
    for _ in 0..2 {
        let refused = desk.hear(|message| message["error"]["code"] == -32600).await;
        assert_eq!(refused["id"], Value::Null);
    }
    desk.say(json!({"jsonrpc": "2.0", "id": 7, "method": "tools/list"})).await;
    assert!(desk.answer(7).await["error"]["code"].is_i64());
    desk.open().await;
    desk.end().await;
}

fn with_token(meta: &Value) -> Value {
    let mut meta = meta.clone();
    meta["progressToken"] = json!(1);
    meta
}
