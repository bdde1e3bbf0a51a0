//! What people see: blocks of Slack's Block Kit.
//!
//! Whatever an agent or a system wrote is plain text, in which nothing is a mention, a link or a
//! heading, and of which nothing hides; values are cut short.

use kernel::action::Action;
use kernel::approval::{Approval, Status, Verdict};
use kernel::ids::ApprovalId;
use kernel::machine::{Kind, State};
use kernel::principal::PrincipalKind;
use kernel::trigger::definition::Shown as Extent;
use kernel::values::MicroUsd;
use proto::wire::Timestamp;
use serde_json::{Map, Value, json};

use super::{Subject, kept};
use crate::actions::{Document, check_stored, open_document, risk};
use crate::error::Result;
use crate::limits;
use crate::pages::visible;
use crate::shared::Shared;

/// The names of our buttons.
pub(super) const APPROVE: &str = "tally_approve";
pub(super) const REJECT: &str = "tally_reject";
const OPEN: &str = "tally_open";

/// A card.
pub(super) struct Shown {
    /// Where blocks are not shown: in notifications.
    pub(super) text: String,
    pub(super) blocks: Value,
}

/// The page on which an approval is shown whole.
pub(super) fn page(shared: &Shared, id: &ApprovalId) -> String {
    format!("{}/approvals/{id}", shared.tokens.issuer())
}

/// The card of an approval as it stands. `again`: another one may be there, of which nobody knows.
pub(super) fn compose(shared: &Shared, subject: &Subject<'_>, again: bool) -> Result<Shown> {
    let Subject { approval, action, .. } = *subject;
    let tool = visible(action.request.tool.as_str());
    let heading = match approval.status {
        Status::Requested => format!("Approval needed: {tool}"),
        status => format!("{}: {tool}", capital(status.as_str())),
    };
    let until = Timestamp::from_micros(approval.request.expires_at.0).to_string();
    let tier = risk(&action.request.risk);
    let mut blocks = vec![
        json!({"type": "header", "text": plain(cut(&heading, 150))}),
        json!({"type": "section", "fields": [
            plain(format!("Environment: {}", action.request.environment)),
            plain(format!("Risk: {} ({})", tier.tier, tier.score)),
            plain(format!("Cost: {}", cost(shared, subject)?)),
            plain(format!("Asked for by: {}", chain(action))),
            plain(format!("Until: {until}")),
            plain(format!("Needed: {}", needed(approval))),
        ]}),
    ];
    if subject.slack.cards == Extent::Full {
        match kept::kept(shared, subject)? {
            Some(about) => blocks.extend(about),
            None => blocks.push(context("What it was about is no longer kept.")),
        }
    }
    if again {
        blocks.push(context("This card takes the place of an earlier one, if there is one."));
    }
    blocks.extend(votes(approval).map(|said| context(&said)));
    if approval.status == Status::Requested {
        blocks.push(buttons(shared, approval));
    }
    blocks.push(context(&format!("{} · plan {}", approval.id, approval.request.plan_digest)));
    Ok(Shown {
        text: format!("{heading}, risk {}, until {until}", tier.tier),
        blocks: blocks.into(),
    })
}

/// What an action is about, as its card shows it; none where that is gone, or for nobody to see.
pub(super) fn about(shared: &Shared, subject: &Subject<'_>) -> Result<Option<Vec<Value>>> {
    if subject.slack.cards == Extent::Metadata {
        return Ok(None);
    }
    let Some(document) = open_document(shared, subject.log, &subject.action.id)? else {
        return Ok(None);
    };
    // What is shown is what was decided, to the letter.
    check_stored(&document, subject.action)?;
    Ok(Some(content(&document)))
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_ascii_uppercase());
    first.into_iter().chain(letters).collect()
}

fn plain(text: impl Into<String>) -> Value {
    json!({"type": "plain_text", "text": text.into(), "emoji": false})
}

fn context(text: &str) -> Value {
    json!({"type": "context", "elements": [plain(text)]})
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// Text of somebody else, cut short. What is not seen is written out first.
fn shown(text: &str, chars: usize) -> String {
    cut(&visible(&text.replace(['\n', '\r', '\t'], " ")), chars)
}

fn value(value: &Value) -> String {
    match value {
        Value::String(text) => shown(text, limits::CARD_VALUE_CHARS),
        other => shown(&other.to_string(), limits::CARD_VALUE_CHARS),
    }
}

fn dollars(amount: MicroUsd) -> String {
    let (whole, rest) = (amount.0 / 1_000_000, amount.0 % 1_000_000);
    format!("${whole}.{rest:06}")
}

/// What the action may cost, and what its run did so far.
fn cost(shared: &Shared, subject: &Subject<'_>) -> Result<String> {
    let request = &subject.action.request;
    let most = format!("at most {}", dollars(request.estimate));
    let Some(step) = &request.step else { return Ok(most) };
    match shared.ledger.read(subject.log, Kind::Run, step.run.as_str())? {
        Some(State::Run(run)) => Ok(format!("{most}, its run so far {}", dollars(run.cost))),
        _ => Ok(most),
    }
}

fn chain(action: &Action) -> String {
    let actors = action.request.actors.actors().iter().map(|actor| {
        let kind = match actor.kind {
            PrincipalKind::User => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
        };
        format!("{kind} {}", actor.id)
    });
    actors.collect::<Vec<_>>().join(" → ")
}

fn needed(approval: &Approval) -> String {
    let people = approval.request.demand.people();
    let mut needed = format!("{} of {people}", approval.approvals());
    if approval.request.step_up {
        needed.push_str(", with a second factor");
    }
    if approval.request.demand.signed {
        needed.push_str(", signed");
    }
    needed
}

/// What was to be done, and why.
fn content(document: &Document) -> Vec<Value> {
    let claims = document.claims.to_value();
    let claimed = |at: &str| claims.pointer(at).and_then(Value::as_str).filter(|t| !t.is_empty());
    let mut blocks = Vec::new();
    if let Some(target) = claimed("/target") {
        let target = shown(target, limits::CARD_VALUE_CHARS);
        blocks.push(json!({"type": "section", "text": plain(format!("About: {target}"))}));
    }
    let rows = changes(&document.params.to_value());
    if !rows.is_empty() {
        blocks.push(json!({"type": "section", "text": plain(rows.join("\n"))}));
    }
    if let Some(why) = claimed("/extra/rationale") {
        let why = shown(why, limits::CARD_TEXT_CHARS);
        let text = plain(format!("Why, in the requester's own words: {why}"));
        blocks.push(json!({"type": "section", "text": text}));
    }
    blocks
}

/// What would change: from what is believed to be there to what is written; of other actions,
/// their parameters.
fn changes(params: &Value) -> Vec<String> {
    let none = Map::new();
    let all = params.as_object().unwrap_or(&none);
    let object = |name: &str| all.get(name).and_then(Value::as_object);
    let mut rows: Vec<String> = Vec::new();
    if let Some(fields) = object("fields") {
        let before = object("expect").unwrap_or(&none);
        let others = all.iter().filter(|(name, _)| !["fields", "expect"].contains(&name.as_str()));
        rows.extend(others.map(|(name, own)| row(name, own)));
        rows.extend(fields.iter().map(|(name, after)| {
            let name = shown(name, limits::CARD_VALUE_CHARS);
            match before.get(name.as_str()) {
                Some(before) => format!("{name}: {} → {}", value(before), value(after)),
                None => format!("{name}: → {}", value(after)),
            }
        }));
    } else {
        rows.extend(all.iter().map(|(name, own)| row(name, own)));
    }
    let more = rows.len().saturating_sub(limits::CARD_ROWS_MAX);
    rows.truncate(limits::CARD_ROWS_MAX);
    if more > 0 {
        rows.push(format!("and {more} more: open the approval to see them"));
    }
    rows
}

fn row(name: &str, own: &Value) -> String {
    format!("{}: {}", shown(name, limits::CARD_VALUE_CHARS), value(own))
}

fn votes(approval: &Approval) -> impl Iterator<Item = String> {
    approval.votes.iter().map(|(vote, at)| {
        let said = match vote.verdict {
            Verdict::Approve => "approved",
            Verdict::Reject => "rejected",
        };
        format!("{} {said} at {}", vote.by, Timestamp::from_micros(at.0))
    })
}

fn buttons(shared: &Shared, approval: &Approval) -> Value {
    let id = &approval.id;
    let value = format!("{id}:{}", approval.request.plan_digest.hex());
    json!({"type": "actions", "block_id": format!("tally:{id}"), "elements": [
        {"type": "button", "action_id": APPROVE, "style": "primary", "value": value,
            "text": plain("Approve")},
        {"type": "button", "action_id": REJECT, "style": "danger", "value": value,
            "text": plain("Reject")},
        {"type": "button", "action_id": OPEN, "url": page(shared, id), "text": plain("Open")},
    ]})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diff_is_cut_short_and_hides_nothing() {
        let params = json!({
            "sys_id": "1",
            "fields": {"priority": "1", "category": "x".repeat(60), "new": {"a": 1}},
            "expect": {"priority": "3", "category": "<!channel> \u{202e}y"},
        });
        let long = format!("{}…", "x".repeat(49));
        assert_eq!(
            changes(&params),
            [
                "sys_id: 1".to_owned(),
                format!("category: <!channel> \\u{{202e}}y → {long}"),
                "new: → {\"a\":1}".to_owned(),
                "priority: 3 → 1".to_owned(),
            ]
        );
        assert_eq!(changes(&json!({"url": "u\nv", "n": 1})), ["n: 1", "url: u v"]);
        let many: Map<String, Value> =
            (0..25).map(|n| (format!("{n:02}"), Value::from(n))).collect();
        let rows = changes(&Value::Object(many));
        assert_eq!(
            (rows.len(), rows[20].as_str()),
            (21, "and 5 more: open the approval to see them")
        );
        assert!(changes(&json!([1])).is_empty());
    }

    #[test]
    fn money_and_length() {
        assert_eq!(dollars(MicroUsd(1_234_567)), "$1.234567");
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äö…".to_owned()));
    }
}
