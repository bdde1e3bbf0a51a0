//! Somebody presses a button: the signed call that Slack makes then. A test may have it forged,
//! out of date, or sent twice.

use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::people::{APP, BOT, Message, People};
use super::script::{Interactivity, Presses, User};
use crate::commands::dev::post::{Call, now_s, now_us, signature};

/// Who presses what.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Press {
    pub(super) user: String,
    pub(super) channel: String,
    pub(super) ts: String,
    pub(super) action_id: String,
    /// A value in place of the button's own, as one would send who forges.
    value: Option<String>,
    /// Another workspace than the one where the message is.
    team: Option<String>,
    /// How many seconds ago it says that it was made.
    #[serde(default)]
    age_s: u64,
    /// With another secret.
    #[serde(default)]
    forged: bool,
    /// How often it is sent, as the very same request.
    #[serde(default = "once")]
    pub(super) times: u32,
}

fn once() -> u32 {
    1
}

/// The button of that name in a message.
pub(super) fn button<'a>(message: &'a Message, action_id: &str) -> Option<(&'a Value, &'a Value)> {
    let blocks = message.blocks.as_array()?;
    blocks.iter().find_map(|block| {
        let mut elements = block.get("elements")?.as_array()?.iter();
        let named = |element: &&Value| element.get("action_id") == Some(&json!(action_id));
        Some((block, elements.find(named)?))
    })
}

impl Press {
    /// That somebody presses a button of a message at once.
    pub(super) fn at_once(by: &Presses, message: &Message) -> Self {
        Self {
            user: by.user.clone(),
            channel: message.channel.clone(),
            ts: message.ts.clone(),
            action_id: by.action_id.clone(),
            value: None,
            team: None,
            age_s: 0,
            forged: false,
            times: once(),
        }
    }

    /// The call of Slack; none where the message has no such button.
    pub(super) fn call(
        &self,
        people: &People,
        user: &User,
        message: &Message,
        to: &Interactivity,
        base: &str,
    ) -> Option<Call> {
        let (block, element) = button(message, &self.action_id)?;
        let at = now_s().saturating_sub(self.age_s);
        // Each press has its own.
        let occasion = format!("{at}.{:06}", now_us() % 1_000_000);
        let mut action = element.clone();
        if let Some(members) = action.as_object_mut() {
            let block_id = block.get("block_id").cloned().unwrap_or_else(|| json!("sim"));
            members.insert("block_id".to_owned(), block_id);
            members.insert("action_ts".to_owned(), json!(occasion));
            if let Some(value) = &self.value {
                members.insert("value".to_owned(), json!(value));
            }
        }
        let team = self.team.as_ref().unwrap_or(&people.team);
        let channel = people.channel(&message.channel);
        let name = channel.map_or("", |channel| channel.name.as_str());
        let payload = json!({
            "type": "block_actions",
            "user": {"id": user.id, "username": user.name, "name": user.name, "team_id": team},
            "api_app_id": APP,
            "token": "deprecated-and-simulated",
            "container": {"type": "message", "message_ts": message.ts,
                "channel_id": message.channel, "is_ephemeral": false},
            "trigger_id": format!("{occasion}.sim"),
            "team": {"id": team, "domain": "simulator"},
            "enterprise": null,
            "is_enterprise_install": false,
            "channel": {"id": message.channel, "name": name},
            "message": message.show(false),
            "bot_id": BOT,
            "state": {"values": {}},
            "response_url": format!("{base}/actions/{}/{}", message.channel, message.ts),
            "actions": [action],
        });
        let mut form = form_urlencoded::Serializer::new(String::new());
        let body = form.append_pair("payload", &payload.to_string()).finish();
        let forged = format!("not {}", to.signing_secret);
        let secret = if self.forged { &forged } else { &to.signing_secret };
        let signed = signature(secret, &format!("v0:{at}:{body}"));
        let headers = vec![
            ("x-slack-request-timestamp", at.to_string()),
            ("x-slack-signature", format!("v0={signed}")),
            ("user-agent", "Slackbot 1.0 (a simulator)".to_owned()),
        ];
        let kind = "application/x-www-form-urlencoded";
        Some(Call { method: Method::POST, url: to.url.clone(), kind, headers, body })
    }
}
