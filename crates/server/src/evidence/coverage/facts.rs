//! What changes are about. Most of it was said when the thing was asked for: by an earlier receipt
//! of the period, or, where that was before it, by the state.

use std::collections::HashMap;

use kernel::action::Action;
use kernel::controls::Seen;
use kernel::decision::Effect;
use kernel::machine::{Kind, State, Stream};
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use ledger::Ledger;
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Refused, Result};

/// A receipt, as far as it is read here.
#[derive(Deserialize)]
pub(super) struct Told {
    predicate: Predicate,
}

#[derive(Deserialize)]
struct Predicate {
    id: String,
    time_us: Timestamp,
    transitions: Vec<Transition>,
}

#[derive(Deserialize)]
struct Transition {
    stream: Stream,
    change: Value,
}

/// What is known of an action.
#[derive(Clone, Default)]
struct About {
    tool: Option<String>,
    labels: Vec<String>,
    environment: Option<String>,
    effect: Option<Effect>,
    rules: Vec<String>,
}

/// What is known of the things of one log.
pub(super) struct Facts<'a> {
    ledger: &'a Ledger,
    log: &'a LogId,
    known: HashMap<Stream, About>,
    /// The actions of approvals.
    actions: HashMap<String, String>,
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(text).collect()
}

impl About {
    fn of(action: &Action) -> Self {
        let decision = action.decision.as_ref();
        Self {
            tool: Some(action.request.tool.to_string()),
            labels: action.request.risk.signals.clone(),
            environment: Some(action.request.environment.to_string()),
            effect: decision.map(|decision| decision.effect),
            rules: decision.map(|decision| decision.rules.clone()).unwrap_or_default(),
        }
    }

    /// Learns what a change says.
    fn learn(&mut self, kind: &str, change: &Value) {
        match kind {
            "action.requested" => {
                self.tool = text(&change["tool"]);
                self.labels = change.pointer("/risk/signals").map(texts).unwrap_or_default();
                self.environment = text(&change["environment"]);
            }
            "action.decided" => {
                let decision = &change["decision"];
                self.effect = serde_json::from_value(decision["effect"].clone()).ok();
                self.rules = texts(&decision["rules"]);
            }
            "run.requested" => self.environment = text(&change["environment"]),
            _ => {}
        }
    }
}

/// The state that a change says: its own, that of the outcome in it, or the one that it is named
/// after.
fn status<'a>(kind: &'a str, change: &'a Value) -> Option<&'a str> {
    let said =
        change.get("status").or_else(|| change.pointer("/outcome/status")).and_then(Value::as_str);
    said.or(match kind {
        "action.retried" => Some("failed"),
        _ => kind.split_once('.').map(|(_, verb)| verb),
    })
}

impl<'a> Facts<'a> {
    pub(super) fn new(ledger: &'a Ledger, log: &'a LogId) -> Self {
        Self { ledger, log, known: HashMap::new(), actions: HashMap::new() }
    }

    /// Calls `see` for each change of a receipt.
    pub(super) fn each(&mut self, told: &Told, mut see: impl FnMut(Seen<'_>)) -> Result<()> {
        let Predicate { id, time_us, transitions } = &told.predicate;
        for Transition { stream, change } in transitions {
            let kind = change["type"].as_str();
            let kind = kind.ok_or_else(|| Refused::internal("a change without a type"))?;
            let about = self.about(stream, kind, change)?;
            see(Seen {
                change: kind,
                receipt: id,
                time: *time_us,
                tool: about.tool.as_deref(),
                labels: &about.labels,
                environment: about.environment.as_deref(),
                effect: about.effect,
                rules: &about.rules,
                status: status(kind, change),
            });
        }
        Ok(())
    }

    fn about(&mut self, stream: &Stream, kind: &str, change: &Value) -> Result<About> {
        let of = match stream.kind {
            Kind::Action | Kind::Run => stream.clone(),
            Kind::Approval => match self.action_of(stream, kind, change)? {
                Some(action) => Stream::new(Kind::Action, action),
                None => return Ok(About::default()),
            },
            _ => return Ok(About::default()),
        };
        let first = matches!(kind, "action.requested" | "run.requested");
        if !first && !self.known.contains_key(&of) {
            let about = match self.ledger.read(self.log, of.kind, &of.id)? {
                Some(State::Action(action)) => About::of(&action),
                Some(State::Run(run)) => {
                    let environment = Some(run.request.environment.to_string());
                    About { environment, ..About::default() }
                }
                _ => About::default(),
            };
            self.known.insert(of.clone(), about);
        }
        let about = self.known.entry(of).or_default();
        about.learn(kind, change);
        Ok(about.clone())
    }

    fn action_of(&mut self, stream: &Stream, kind: &str, change: &Value) -> Result<Option<String>> {
        let id = stream.id.to_string();
        if kind == "approval.requested"
            && let Some(action) = text(&change["action"])
        {
            self.actions.insert(id, action.clone());
            return Ok(Some(action));
        }
        if let Some(action) = self.actions.get(&id) {
            return Ok(Some(action.clone()));
        }
        Ok(match self.ledger.read(self.log, Kind::Approval, &id)? {
            Some(State::Approval(approval)) => Some(approval.request.action.to_string()),
            _ => None,
        })
    }
}
