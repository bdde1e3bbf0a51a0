//! What a trigger is told to do: which events it takes, what of them a run is given, and where
//! people are asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Source;
use crate::cron::Cron;
use crate::ids::{self, EnvironmentId, PrincipalId, WorkspaceId};
use crate::json::{self, RawJson};
use crate::limits;
use crate::secret;
use crate::values::Digest;

/// How much of an action people are shown on Slack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Shown {
    /// What it would change and why, each value cut short.
    #[default]
    Full,
    /// Which tool, how risky and how dear: nothing that anybody wrote.
    Metadata,
}

impl Shown {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Metadata => "metadata",
        }
    }
}

/// Where people of a workspace are asked on Slack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slack {
    /// Slack's id of the workspace there, `T…`: whose people may answer.
    pub team: String,
    /// Slack's id of the channel, `C…`.
    pub channel: String,
    /// The connector that posts: its tools are `<instance>.post_approval_request` and so on.
    pub instance: String,
    /// How much is shown.
    #[serde(default)]
    pub cards: Shown,
}

/// What a trigger is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// From where it is delivered.
    pub source: Source,
    /// The workspace in which its runs are.
    pub workspace: WorkspaceId,
    /// Their environment.
    pub environment: EnvironmentId,
    /// The service that starts them, and that posts on Slack.
    pub principal: PrincipalId,
    /// The name of the secret that signs what is delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// The workflow that it starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workflow: Option<String>,
    /// The events that it takes, `pull_request.opened`, or `pull_request` for all of these. Every
    /// event where it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// What an event must have, by JSON pointers.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub equals: BTreeMap<String, Value>,
    /// What a run is given, by the names in its input: JSON pointers into the event.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub input: BTreeMap<String, String>,
    /// When it is due, in UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// Where people are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<Slack>,
}

/// Why a definition cannot be, or an event does not fit it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A field of the definition is wrong.
    #[error("{field}: {need}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it should be.
        need: String,
    },
    /// An event lacks what the run is to be given.
    #[error("the event has nothing at {0:?}")]
    Lacking(String),
    /// What the run is to be given is no input.
    #[error("the input of the run: {0}")]
    Input(json::Error),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Field { .. } => "trigger_invalid",
            Self::Lacking(_) => "event_lacks_field",
            Self::Input(error) => error.code(),
        }
    }
}

fn field(field: &'static str, need: impl Into<String>) -> Error {
    Error::Field { field, need: need.into() }
}

/// Whether `text` is a JSON pointer (RFC 6901).
fn is_pointer(text: &str) -> bool {
    let mut escapes = text.split('~').skip(1);
    text.len() <= limits::POINTER_BYTES_MAX
        && (text.is_empty() || text.starts_with('/'))
        && escapes.all(|rest| rest.starts_with(['0', '1']))
}

/// Whether `text` can be the name of an event.
fn is_event(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    (1..=limits::PLAN_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether `text` can be a name in an input.
fn is_input_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=limits::ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

/// Whether `text` can be an id of Slack's that begins with one of `heads`.
fn is_slack_id(text: &str, heads: &[u8]) -> bool {
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit();
    let head = text.bytes().next().is_some_and(|b| heads.contains(&b));
    head && (2..=limits::SLACK_ID_BYTES_MAX).contains(&text.len()) && text.bytes().all(plain)
}

impl Definition {
    /// Its digest.
    pub fn digest(&self) -> Result<Digest, json::Error> {
        json::canonical(self).map(|form| Digest::of(&form))
    }

    /// Checks all that can be told from it alone.
    pub fn check(&self) -> Result<(), Error> {
        self.check_source()?;
        self.check_filter()?;
        if self.input.len() > limits::TRIGGER_FIELDS_MAX {
            return Err(field("input", "at most 64 names"));
        }
        for (name, pointer) in &self.input {
            if !is_input_name(name) {
                return Err(field("input", "names have 1 to 64 of a-z, A-Z, 0-9 and `_`"));
            }
            if !is_pointer(pointer) {
                return Err(field("input", format!("`{name}` takes a JSON pointer, `/a/b`")));
            }
        }
        let name = |text: &String| (1..=limits::PLAN_NAME_BYTES_MAX).contains(&text.len());
        match &self.workflow {
            Some(workflow) if !name(workflow) => Err(field("workflow", "1 to 128 characters")),
            _ => Ok(()),
        }
    }

    /// What a source needs, and what is not for it.
    fn check_source(&self) -> Result<(), Error> {
        let clock = self.source == Source::Schedule;
        match (&self.cron, clock) {
            (Some(cron), true) => {
                Cron::parse(cron).map_err(|error| field("cron", error.to_string()))?;
            }
            (None, false) => {}
            (Some(_), false) => return Err(field("cron", "is for schedules")),
            (None, true) => return Err(field("cron", "say when it is due: `0 7 * * mon-fri`")),
        }
        match &self.secret {
            Some(_) if clock => return Err(field("secret", "nobody signs a schedule")),
            None if !clock => return Err(field("secret", "the name of the secret that signs")),
            Some(name) if !secret::is_name(name) => {
                return Err(field("secret", "the name of a secret: tally secret put NAME"));
            }
            _ => {}
        }
        match &self.slack {
            Some(slack) if self.source == Source::Slack => slack.check()?,
            Some(_) => return Err(field("slack", "is for the source `slack`")),
            None if self.source == Source::Slack => {
                return Err(field("slack", "say which team and channel"));
            }
            None => {}
        }
        match self.workflow.is_none() && self.source != Source::Slack {
            true => Err(field("workflow", "the name of the workflow that it starts")),
            false => Ok(()),
        }
    }

    fn check_filter(&self) -> Result<(), Error> {
        let filtered = !self.events.is_empty() || !self.equals.is_empty();
        if self.source == Source::Schedule && filtered {
            return Err(field("events", "a schedule has no events to choose from"));
        }
        if self.events.len() > limits::TRIGGER_EVENTS_MAX
            || !self.events.iter().all(|e| is_event(e))
        {
            return Err(field("events", "at most 32 names such as `pull_request.opened`"));
        }
        if self.equals.len() > limits::TRIGGER_FIELDS_MAX {
            return Err(field("equals", "at most 64 fields"));
        }
        for (pointer, value) in &self.equals {
            if !is_pointer(pointer) {
                return Err(field("equals", "names are JSON pointers, `/a/b`"));
            }
            if value.as_str().is_some_and(|text| text.len() > limits::PLAN_NAME_BYTES_MAX)
                || value.is_array()
                || value.is_object()
            {
                return Err(field("equals", "values are plain, texts of at most 128 bytes"));
            }
        }
        Ok(())
    }

    /// Whether it takes the event `name`.
    pub fn takes(&self, name: &str, event: &Value) -> bool {
        let covers = |known: &String| {
            let rest = name.strip_prefix(known.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        (self.events.is_empty() || self.events.iter().any(covers))
            && self.equals.iter().all(|(at, value)| event.pointer(at) == Some(value))
    }

    /// What a run is given of an event.
    pub fn input_of(&self, event: &Value) -> Result<RawJson, Error> {
        let members = self.input.iter().map(|(name, at)| match event.pointer(at) {
            Some(value) => Ok((name.as_str(), value)),
            None => Err(Error::Lacking(at.clone())),
        });
        let input = members.collect::<Result<BTreeMap<&str, &Value>, Error>>()?;
        // As it is, and not in canonical form: that rounds numbers, which are refused here.
        let text = serde_json::to_string(&input);
        let text = text.map_err(|error| Error::Input(json::Error::Canonical(error.to_string())))?;
        RawJson::parse(&text).map_err(Error::Input)
    }
}

impl Slack {
    fn check(&self) -> Result<(), Error> {
        if !is_slack_id(&self.team, b"TE") {
            return Err(field("slack.team", "Slack's id of the workspace, `T…`"));
        }
        if !is_slack_id(&self.channel, b"CGD") {
            return Err(field("slack.channel", "Slack's id of the channel, `C…`"));
        }
        match ids::is_server_name(&self.instance) {
            true => Ok(()),
            false => Err(field("slack.instance", "the name of the connector that posts")),
        }
    }
}

/// Who signs logins of a Slack workspace's people: what identities have as their issuer.
pub fn slack_issuer(team: &str) -> Option<String> {
    is_slack_id(team, b"TE").then(|| format!("slack:{team}"))
}

/// Whether `text` can be Slack's id of a person.
pub fn is_slack_user(text: &str) -> bool {
    is_slack_id(text, b"UW")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn github() -> Value {
        json!({
            "source": "github", "workspace": "main", "environment": "dev", "principal": "svc_1",
            "secret": "hook", "workflow": "review", "events": ["pull_request.opened", "push"],
            "equals": {"/repository/private": false},
            "input": {"number": "/number", "title": "/pull_request/title"},
        })
    }

    fn read(value: Value) -> Definition {
        serde_json::from_value(value).unwrap()
    }

    fn with(more: Value) -> Result<(), Error> {
        let mut value = github();
        let members = value.as_object_mut().unwrap();
        for (name, member) in more.as_object().unwrap() {
            match member {
                Value::Null => drop(members.remove(name)),
                member => drop(members.insert(name.clone(), member.clone())),
            }
        }
        read(value).check()
    }

    #[track_caller]
    fn refused(more: Value, place: &str) {
        match with(more) {
            Err(Error::Field { field, .. }) => assert_eq!(field, place),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_a_definition_must_have() {
        with(json!({})).unwrap();
        let clock = json!({
            "source": "schedule", "cron": "0 7 * * *", "secret": null, "events": null,
            "equals": null, "input": {"at": "/due_at_us"},
        });
        with(clock).unwrap();
        let slack = json!({"team": "T0001", "channel": "C0001", "instance": "slack"});
        with(json!({"source": "slack", "workflow": null, "slack": slack})).unwrap();
        refused(json!({"secret": null}), "secret");
        refused(json!({"secret": "no name"}), "secret");
        refused(json!({"workflow": null}), "workflow");
        refused(json!({"workflow": ""}), "workflow");
        refused(json!({"cron": "* * * * *"}), "cron");
        refused(json!({"source": "schedule"}), "cron");
        refused(json!({"source": "schedule", "cron": "daily"}), "cron");
        refused(json!({"source": "schedule", "cron": "* * * * *"}), "secret");
        refused(json!({"source": "slack"}), "slack");
        refused(json!({"slack": slack}), "slack");
        let team = json!({"team": "t0001", "channel": "C0001", "instance": "slack"});
        refused(json!({"source": "slack", "slack": team}), "slack.team");
        let channel = json!({"team": "T0001", "channel": "#ops", "instance": "slack"});
        refused(json!({"source": "slack", "slack": channel}), "slack.channel");
        refused(json!({"events": ["pull request"]}), "events");
        refused(json!({"equals": {"a": 1}}), "equals");
        refused(json!({"equals": {"/a": {}}}), "equals");
        refused(json!({"input": {"a b": "/a"}}), "input");
        refused(json!({"input": {"a": "a"}}), "input");
        refused(json!({"input": {"a": "/~2"}}), "input");
        refused(json!({"input": {"a": "/a~"}}), "input");
    }

    #[test]
    fn which_events_it_takes() {
        let trigger = read(github());
        let event = json!({"repository": {"private": false}, "number": 7});
        for (name, takes) in [
            ("pull_request.opened", true),
            ("pull_request.opened.again", true),
            ("pull_request.closed", false),
            ("pull_request", false),
            ("push", true),
            ("pushed", false),
        ] {
            assert_eq!(trigger.takes(name, &event), takes, "{name}");
        }
        assert!(!trigger.takes("push", &json!({"repository": {"private": true}})));
        assert!(!trigger.takes("push", &json!({})));
    }

    #[test]
    fn what_a_run_is_given() {
        let trigger = read(github());
        let event = json!({"number": 7, "pull_request": {"title": "x", "body": "y"}});
        assert_eq!(trigger.input_of(&event).unwrap().as_str(), r#"{"number":7,"title":"x"}"#);
        let lacking = trigger.input_of(&json!({"number": 7}));
        assert_eq!(lacking, Err(Error::Lacking("/pull_request/title".to_owned())));
        // Null is something.
        let event = json!({"number": null, "pull_request": {"title": null}});
        assert_eq!(trigger.input_of(&event).unwrap().as_str(), r#"{"number":null,"title":null}"#);
        let large = json!({"number": 9_007_199_254_740_993_u64, "pull_request": {"title": ""}});
        assert!(matches!(trigger.input_of(&large), Err(Error::Input(_))));
    }
}
