//! The workspace over HTTP.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::{Arc, Mutex};

use hyper::Method;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::check::{self, Refused};
use super::people::{BOT, BOT_USER, Ephemeral, Message, People, Written};
use super::press::{Press, button};
use super::script::{Interactivity, Presses, Script};
use crate::commands::dev::fault::{Fault, Faults};
use crate::commands::dev::locked;
use crate::commands::dev::post::now_s;
use crate::commands::dev::site::{Answer, Asked, Site, pause};

/// Where the simulator itself is asked and told.
const CONTROL: &str = "/simulator/";
/// Messages of a page where a call does not say.
const PAGE: usize = 100;
/// Calls that are remembered.
const KEPT: usize = 100_000;
/// How often one press is sent at most.
const PRESSES_MAX: u32 = 10;
/// What the token may do.
const SCOPES: &str = "chat:write,channels:history,users:read";

/// A call that came.
#[derive(Clone, Debug, Serialize)]
struct Call {
    method: String,
    ok: bool,
    error: Option<String>,
}

/// The workspace.
#[derive(Debug)]
pub(super) struct Workspace {
    base: String,
    token: String,
    people: Mutex<People>,
    interactivity: Mutex<Option<Interactivity>>,
    presses: Mutex<Option<Presses>>,
    faults: Faults,
    calls: Mutex<Vec<Call>>,
    latency_ms: u64,
    logs: bool,
}

/// The arguments of a call, whether they came as JSON or as a form.
struct Arguments(Map<String, Value>);

impl Arguments {
    fn read(asked: &Asked) -> Result<Self, Refused> {
        let kind = asked.header("content-type").unwrap_or_default();
        if kind.starts_with("application/json") {
            return asked.json().map(Self).map_err(|_| "invalid_json".into());
        }
        let pairs = asked.query.iter().cloned().chain(asked.form());
        let read = |(name, text): (String, String)| {
            // What is not a text comes as JSON in a form.
            let value = match name.as_str() {
                "blocks" | "metadata" => serde_json::from_str(&text).unwrap_or(Value::String(text)),
                _ => Value::String(text),
            };
            (name, value)
        };
        Ok(Self(pairs.map(read).collect()))
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    /// A number, as such or as a text.
    fn number<T: FromStr>(&self, name: &str) -> Result<Option<T>, Refused> {
        let text = self.0.get(name).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        text.map(|text| text.parse().map_err(|_| "invalid_arguments".into())).transpose()
    }

    fn flag(&self, name: &str) -> bool {
        match self.0.get(name) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => text == "true" || text == "1",
            _ => false,
        }
    }

    fn written(&self) -> Result<Written, Refused> {
        let (text, blocks) = (self.text("text"), self.0.get("blocks"));
        check::message(text, blocks)?;
        let metadata = self.0.get("metadata").cloned().unwrap_or_default();
        let named = metadata.get("event_type").is_some_and(Value::is_string)
            && metadata.get("event_payload").is_some_and(Value::is_object);
        if !metadata.is_null() && !named {
            return Err("invalid_metadata_format".into());
        }
        Ok(Written {
            text: text.unwrap_or_default().to_owned(),
            blocks: blocks.cloned().unwrap_or_default(),
            metadata,
            thread_ts: self.text("thread_ts").map(str::to_owned),
        })
    }
}

impl Workspace {
    pub(super) fn new(script: Script, address: &str, logs: bool) -> Arc<Self> {
        let people = Mutex::new(People::new(&script));
        let faults = Faults::default();
        faults.replace(script.faults);
        Arc::new(Self {
            base: format!("http://{address}"),
            token: script.token,
            people,
            interactivity: Mutex::new(script.interactivity),
            presses: Mutex::new(script.presses),
            faults,
            calls: Mutex::default(),
            latency_ms: script.latency_ms,
            logs,
        })
    }

    /// A method of the Web API.
    fn method(self: &Arc<Self>, asked: &Asked, name: &str) -> Result<Value, Refused> {
        let arguments = Arguments::read(asked)?;
        let token = asked.authorization("Bearer").or_else(|| arguments.text("token"));
        match token {
            None | Some("") => return Err("not_authed".into()),
            Some(token) if token != self.token => return Err("invalid_auth".into()),
            Some(_) => {}
        }
        match name {
            "api.test" => Ok(json!({})),
            "auth.test" => Ok(self.auth()),
            "chat.postMessage" => self.post(&arguments),
            "chat.postEphemeral" => self.whisper(&arguments),
            "chat.update" => self.update(&arguments),
            "conversations.history" => self.history(&arguments),
            "users.info" => self.user(&arguments),
            _ => Err("unknown_method".into()),
        }
    }

    fn auth(&self) -> Value {
        let team = locked(&self.people).team.clone();
        json!({"url": format!("{}/", self.base), "team": "Simulator", "user": "tally",
            "team_id": team, "user_id": BOT_USER, "bot_id": BOT, "is_enterprise_install": false})
    }

    fn post(self: &Arc<Self>, arguments: &Arguments) -> Result<Value, Refused> {
        let mut people = locked(&self.people);
        let channel = people.channel(arguments.text("channel").unwrap_or_default());
        let channel = channel.ok_or("channel_not_found")?.id.clone();
        let message = people.post(&channel, arguments.written()?);
        let presses = locked(&self.presses).clone();
        let presses = presses.filter(|by| button(&message, &by.action_id).is_some());
        if let Some(by) = presses {
            let (workspace, press) = (self.clone(), Press::at_once(&by, &message));
            tokio::spawn(async move {
                let _answers = workspace.press(&press).await;
            });
        }
        Ok(json!({"channel": channel, "ts": message.ts, "message": message.show(false)}))
    }

    fn whisper(&self, arguments: &Arguments) -> Result<Value, Refused> {
        let mut people = locked(&self.people);
        let channel = people.channel(arguments.text("channel").unwrap_or_default());
        let channel = channel.ok_or("channel_not_found")?.id.clone();
        let user = arguments.text("user").unwrap_or_default();
        let user = people.user(user).ok_or("user_not_in_channel")?.id.clone();
        let text = arguments.written()?.text;
        people.ephemeral.push(Ephemeral { channel, user, text });
        Ok(json!({"message_ts": format!("{}.000000", now_s())}))
    }

    fn update(&self, arguments: &Arguments) -> Result<Value, Refused> {
        let mut people = locked(&self.people);
        // Unlike the other one, this method takes no names.
        let channel = people.channel(arguments.text("channel").unwrap_or_default());
        let channel = channel.ok_or("channel_not_found")?.id.clone();
        let ts = arguments.text("ts").unwrap_or_default();
        let message = people.change(&channel, ts, arguments.written()?);
        let message = message.ok_or("message_not_found")?;
        Ok(json!({"channel": channel, "ts": message.ts, "text": message.text,
            "message": message.show(false)}))
    }

    fn history(&self, arguments: &Arguments) -> Result<Value, Refused> {
        let people = locked(&self.people);
        let channel = people.channel(arguments.text("channel").unwrap_or_default());
        let channel = channel.ok_or("channel_not_found")?;
        let limit = arguments.number("limit")?.unwrap_or(PAGE);
        let after = arguments.number::<f64>("oldest")?.unwrap_or(0.0);
        let late = |message: &&Message| message.ts.parse::<f64>().is_ok_and(|ts| ts > after);
        let messages: Vec<_> = people.history(&channel.id).filter(late).collect();
        let metadata = arguments.flag("include_all_metadata");
        let shown = messages.iter().take(limit).map(|message| message.show(metadata));
        Ok(json!({"messages": shown.collect::<Vec<_>>(), "has_more": messages.len() > limit,
            "pin_count": 0, "response_metadata": {"next_cursor": ""}}))
    }

    fn user(&self, arguments: &Arguments) -> Result<Value, Refused> {
        let people = locked(&self.people);
        let user = people.user(arguments.text("user").unwrap_or_default());
        let user = user.ok_or("user_not_found")?;
        Ok(json!({"user": people.show(user)}))
    }

    /// What the simulator itself is asked. There is no password: it is of this machine alone.
    async fn control(&self, asked: &Asked, name: &str) -> Answer {
        match (&asked.method, name) {
            (&Method::GET, "state") => Answer::json(&self.state()),
            (&Method::POST, "faults") => told(asked.json::<Vec<Fault>>(), |faults| {
                self.faults.replace(faults);
            }),
            (&Method::POST, "interactivity") => told(asked.json::<Option<Interactivity>>(), |to| {
                *locked(&self.interactivity) = to;
            }),
            (&Method::POST, "presses") => told(asked.json::<Option<Presses>>(), |presses| {
                *locked(&self.presses) = presses;
            }),
            (&Method::POST, "press") => match asked.json::<Press>() {
                Ok(press) => self.press(&press).await,
                Err(error) => wrong(&error),
            },
            _ => Answer::json(&json!({"error": "the simulator has nothing here"})).with(404),
        }
    }

    /// Has somebody press a button; the answer is what came back for each time.
    async fn press(&self, press: &Press) -> Answer {
        let Some(to) = locked(&self.interactivity).clone() else {
            return wrong("the script names no interactivity");
        };
        let call = {
            let people = locked(&self.people);
            let Some(user) = people.user(&press.user) else {
                return wrong("there is no such user");
            };
            let message = people.message(&press.channel, &press.ts);
            let Some(message) = message else { return wrong("there is no such message") };
            press.call(&people, user, message, &to, &self.base)
        };
        let Some(call) = call else { return wrong("the message has no such button") };
        let mut answers = Vec::new();
        for _ in 0..press.times.min(PRESSES_MAX) {
            answers.push(match call.send().await {
                Ok((status, body)) => json!({"status": status, "body": body}),
                Err(error) => json!({"status": 0, "error": error}),
            });
        }
        Answer::json(&json!({"answers": answers}))
    }

    /// `response_url`: what the app answers a press with, later.
    fn respond(&self, asked: &Asked, rest: &str) -> Answer {
        let Ok(arguments) = Arguments::read(asked) else { return wrong("no JSON") };
        let Some((channel, ts)) = rest.split_once('/') else { return wrong("no message") };
        let replaces = arguments.0.get("replace_original") == Some(&json!(true));
        let written = match arguments.written() {
            Ok(written) => written,
            Err(refused) => return wrong(refused.code),
        };
        let mut people = locked(&self.people);
        if !replaces {
            people.post(channel, written);
        } else if people.change(channel, ts, written).is_none() {
            return wrong("message_not_found");
        }
        Answer::json(&json!({"ok": true}))
    }

    fn state(&self) -> Value {
        let people = locked(&self.people);
        let users: BTreeMap<_, _> =
            people.users.iter().map(|user| (&user.id, &user.name)).collect();
        json!({
            "simulator": Self::NAME,
            "team": people.team,
            "users": users,
            "messages": people.all().collect::<Vec<_>>(),
            "ephemeral": people.ephemeral,
            "calls": *locked(&self.calls),
        })
    }

    fn page(&self) -> Answer {
        let people = locked(&self.people);
        let messages = people.all().count();
        Answer::page(format!(
            "<!doctype html><title>Slack simulator</title><h1>Slack simulator</h1><p>There is no \
             Slack here: <code>tally dev slack</code> answers in its place, on this machine \
             alone.</p><p>{messages} messages. <a href=\"/simulator/state\">Everything as \
             JSON</a>.</p>",
        ))
    }

    fn remember(&self, call: Call) {
        let mut calls = locked(&self.calls);
        if calls.len() < KEPT {
            calls.push(call);
        }
    }

    async fn api(self: &Arc<Self>, asked: &Asked, name: &str) -> Option<Answer> {
        pause(self.latency_ms).await;
        let fault = self.faults.rule(asked);
        let fault = fault.as_deref();
        pause(fault.map_or(0, |fault| fault.delay_ms)).await;
        // What a fault hides has happened.
        let performs = fault.is_none_or(|fault| fault.after || fault.only_slow());
        let performed = match performs {
            true => self.method(asked, name),
            false => Ok(json!({})),
        };
        let (performed, faulty) = match fault.filter(|fault| !fault.only_slow()) {
            Some(fault) => (Err(Refused::from("fatal_error")), Some(fault)),
            None => (performed, None),
        };
        let own = performed.as_ref().err().map(|refused| refused.code.to_owned());
        let scripted = faulty.and_then(|fault| fault.error.clone());
        let error = scripted.or(own);
        self.remember(Call { method: name.to_owned(), ok: error.is_none(), error: error.clone() });
        if faulty.is_some_and(|fault| fault.hang) {
            std::future::pending::<()>().await;
        }
        if faulty.is_some_and(|fault| fault.drop) {
            return None;
        }
        let status = faulty.and_then(|fault| fault.status).unwrap_or(200);
        let error = if status == 429 { Some("ratelimited".to_owned()) } else { error };
        let answer = answer(performed, error).with(status);
        Some(match faulty.and_then(|fault| fault.retry_after_s) {
            Some(seconds) => answer.retry_after(seconds),
            None => answer,
        })
    }
}

/// An answer of the Web API: 200, whether it is `ok` or not.
fn answer(performed: Result<Value, Refused>, error: Option<String>) -> Answer {
    let mut value = match performed {
        Ok(value) => value,
        Err(refused) if refused.messages.is_empty() => json!({}),
        Err(refused) => {
            json!({"errors": refused.messages, "response_metadata": {"messages": refused.messages}})
        }
    };
    if let Some(members) = value.as_object_mut() {
        members.insert("ok".to_owned(), json!(error.is_none()));
        if let Some(error) = error {
            members.insert("error".to_owned(), json!(error));
        }
    }
    Answer::json(&value).header("x-oauth-scopes", SCOPES.to_owned())
}

fn told<T>(read: Result<T, String>, take: impl FnOnce(T)) -> Answer {
    match read {
        Ok(value) => {
            take(value);
            Answer::json(&json!({"ok": true}))
        }
        Err(error) => wrong(&error),
    }
}

fn wrong(error: &str) -> Answer {
    Answer::json(&json!({"error": error})).with(400)
}

impl Site for Workspace {
    const NAME: &'static str = "Slack simulator (no Slack here)";
    const SERVER: &'static str = "tally-slack-simulator";

    async fn answer(self: Arc<Self>, asked: Asked) -> Option<Answer> {
        if let Some(name) = asked.path.strip_prefix(CONTROL) {
            return Some(self.control(&asked, name).await);
        }
        if let Some(rest) = asked.path.strip_prefix("/actions/") {
            return Some(self.respond(&asked, rest));
        }
        match asked.path.strip_prefix("/api/") {
            Some(name) => self.api(&asked, name).await,
            None if asked.path == "/" => Some(self.page()),
            None => Some(wrong("there is nothing here").with(404)),
        }
    }

    fn logs(&self) -> bool {
        self.logs
    }
}
