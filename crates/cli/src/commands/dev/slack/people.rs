//! Who and what is there: people, channels, and the messages in them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::script::{Channel, Script, User};
use crate::commands::dev::post::now_s;

/// The bot that the token stands for.
pub(super) const BOT_USER: &str = "U0TALLY";
pub(super) const BOT: &str = "B0TALLY";
pub(super) const APP: &str = "A0TALLY";

/// A message.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Message {
    pub(super) channel: String,
    pub(super) ts: String,
    pub(super) text: String,
    pub(super) blocks: Value,
    /// What programs know it by; people do not see it.
    pub(super) metadata: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) thread_ts: Option<String>,
    /// How often it was changed.
    pub(super) edits: u32,
}

impl Message {
    /// As the Web API shows it.
    pub(super) fn show(&self, with_metadata: bool) -> Value {
        let mut shown = json!({
            "type": "message",
            "user": BOT_USER,
            "bot_id": BOT,
            "app_id": APP,
            "ts": self.ts,
            "text": self.text,
        });
        let more = [
            ("blocks", Some(&self.blocks).filter(|blocks| blocks.is_array()).cloned()),
            (
                "metadata",
                Some(&self.metadata).filter(|own| with_metadata && own.is_object()).cloned(),
            ),
            ("thread_ts", self.thread_ts.as_ref().map(|ts| json!(ts))),
            ("edited", (self.edits > 0).then(|| json!({"user": BOT_USER, "ts": self.ts}))),
        ];
        if let Some(members) = shown.as_object_mut() {
            let given = more.into_iter().filter_map(|(name, value)| Some((name, value?)));
            members.extend(given.map(|(name, value)| (name.to_owned(), value)));
        }
        shown
    }
}

/// What is written to a channel.
pub(super) struct Written {
    pub(super) text: String,
    pub(super) blocks: Value,
    pub(super) metadata: Value,
    pub(super) thread_ts: Option<String>,
}

/// What only one person sees.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Ephemeral {
    pub(super) channel: String,
    pub(super) user: String,
    pub(super) text: String,
}

/// The workspace.
#[derive(Debug)]
pub(super) struct People {
    pub(super) team: String,
    pub(super) users: Vec<User>,
    channels: Vec<Channel>,
    messages: BTreeMap<String, Vec<Message>>,
    pub(super) ephemeral: Vec<Ephemeral>,
    /// Every message has its own time.
    next: u64,
}

impl People {
    pub(super) fn new(script: &Script) -> Self {
        Self {
            team: script.team.clone(),
            users: script.users.clone(),
            channels: script.channels.clone(),
            messages: BTreeMap::new(),
            ephemeral: Vec::new(),
            next: 1,
        }
    }

    /// A channel by its id or by its name.
    pub(super) fn channel(&self, named: &str) -> Option<&Channel> {
        let name = named.strip_prefix('#').unwrap_or(named);
        self.channels.iter().find(|channel| channel.id == named || channel.name == name)
    }

    pub(super) fn user(&self, id: &str) -> Option<&User> {
        self.users.iter().find(|user| user.id == id)
    }

    /// Somebody as the Web API shows them.
    pub(super) fn show(&self, user: &User) -> Value {
        let profile = json!({"real_name": user.name, "display_name": user.name,
            "status_text": "nobody: a simulator"});
        json!({"id": user.id, "team_id": self.team, "name": user.name, "deleted": false,
            "real_name": user.name, "is_bot": false, "tz": "Etc/UTC", "profile": profile})
    }

    pub(super) fn post(&mut self, channel: &str, written: Written) -> Message {
        let ts = format!("{}.{:06}", now_s(), self.next);
        self.next += 1;
        let channel = channel.to_owned();
        let Written { text, blocks, metadata, thread_ts } = written;
        let message = Message { channel, ts, text, blocks, metadata, thread_ts, edits: 0 };
        self.messages.entry(message.channel.clone()).or_default().push(message.clone());
        message
    }

    pub(super) fn change(&mut self, channel: &str, ts: &str, written: Written) -> Option<Message> {
        let messages = self.messages.get_mut(channel)?;
        let message = messages.iter_mut().find(|message| message.ts == ts)?;
        message.text = written.text;
        message.blocks = written.blocks;
        message.edits += 1;
        Some(message.clone())
    }

    pub(super) fn message(&self, channel: &str, ts: &str) -> Option<&Message> {
        self.messages.get(channel)?.iter().find(|message| message.ts == ts)
    }

    /// The messages of a channel, the newest first.
    pub(super) fn history(&self, channel: &str) -> impl Iterator<Item = &Message> {
        self.messages.get(channel).into_iter().flatten().rev()
    }

    /// All messages, by channel and in order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Message> {
        self.messages.values().flatten()
    }
}
