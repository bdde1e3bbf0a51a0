//! What Slack refuses in a message: texts and blocks beyond its bounds, and blocks of no kind.

use serde_json::Value;

/// Characters of the text of a message.
const TEXT_MAX: usize = 40_000;
/// Blocks of a message.
const BLOCKS_MAX: usize = 50;
/// Characters of the text of a section, and of one of its fields.
const SECTION_MAX: usize = 3_000;
const FIELD_MAX: usize = 2_000;
/// Fields of a section.
const FIELDS_MAX: usize = 10;
/// Characters of a header.
const HEADER_MAX: usize = 150;
/// Elements of a row of buttons, and of a line of context.
const ACTIONS_MAX: usize = 25;
const CONTEXT_MAX: usize = 10;
/// Characters of what is written on a button, of its value, and of an id.
const BUTTON_MAX: usize = 75;
const VALUE_MAX: usize = 2_000;
const ID_MAX: usize = 255;

/// A refusal: Slack's code, and where something is wrong.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) code: &'static str,
    pub(super) messages: Vec<String>,
}

impl From<&'static str> for Refused {
    fn from(code: &'static str) -> Self {
        Self { code, messages: Vec::new() }
    }
}

/// Checks what a message is made of.
pub(super) fn message(text: Option<&str>, blocks: Option<&Value>) -> Result<(), Refused> {
    let text = text.unwrap_or_default();
    let blocks = match blocks {
        None | Some(Value::Null) => &[],
        Some(Value::Array(blocks)) => blocks.as_slice(),
        Some(_) => return Err("invalid_blocks_format".into()),
    };
    if text.is_empty() && blocks.is_empty() {
        return Err("no_text".into());
    }
    if text.chars().count() > TEXT_MAX {
        return Err("msg_too_long".into());
    }
    let mut check = Check(Vec::new());
    check.most("/blocks", blocks.len(), BLOCKS_MAX, "items");
    for (at, block) in blocks.iter().enumerate() {
        check.block(&format!("/blocks/{at}"), block);
    }
    match check.0.is_empty() {
        true => Ok(()),
        false => Err(Refused { code: "invalid_blocks", messages: check.0 }),
    }
}

/// What is wrong so far.
struct Check(Vec<String>);

impl Check {
    fn wrong(&mut self, what: &str, place: &str) {
        self.0.push(format!("[ERROR] {what} [json-pointer:{place}]"));
    }

    fn most(&mut self, place: &str, count: usize, most: usize, unit: &str) {
        if count > most {
            self.wrong(&format!("no more than {most} {unit} allowed"), place);
        }
    }

    /// A member that must be a text of at most so many characters.
    fn text(&mut self, place: &str, value: Option<&Value>, most: usize, needed: bool) {
        match value.and_then(Value::as_str) {
            Some(text) if text.chars().count() > most => {
                self.wrong(&format!("must be less than {} characters", most + 1), place);
            }
            Some("") | None if needed => self.wrong("missing required field: text", place),
            _ => {}
        }
    }

    /// A text object.
    fn words(&mut self, place: &str, object: Option<&Value>, most: usize, plain: bool) {
        let Some(object) = object else {
            return self.wrong("missing required field: text", place);
        };
        match object.get("type").and_then(Value::as_str) {
            Some("plain_text") => {}
            Some("mrkdwn") if !plain => {}
            _ => self.wrong("unsupported type", &format!("{place}/type")),
        }
        self.text(&format!("{place}/text"), object.get("text"), most, true);
    }

    fn block(&mut self, place: &str, block: &Value) {
        self.text(&format!("{place}/block_id"), block.get("block_id"), ID_MAX, false);
        match block.get("type").and_then(Value::as_str) {
            Some("section") => self.section(place, block),
            Some("header") => {
                self.words(&format!("{place}/text"), block.get("text"), HEADER_MAX, true);
            }
            Some("divider") => {}
            Some("context") => {
                let elements = self.elements(place, block, CONTEXT_MAX);
                for (at, element) in elements.iter().enumerate() {
                    let place = format!("{place}/elements/{at}");
                    self.words(&place, Some(element), SECTION_MAX, false);
                }
            }
            Some("actions") => {
                let elements = self.elements(place, block, ACTIONS_MAX);
                for (at, element) in elements.iter().enumerate() {
                    self.button(&format!("{place}/elements/{at}"), element);
                }
            }
            _ => self.wrong("unsupported block", &format!("{place}/type")),
        }
    }

    fn elements<'a>(&mut self, place: &str, block: &'a Value, most: usize) -> &'a [Value] {
        let place = format!("{place}/elements");
        match block.get("elements").and_then(Value::as_array) {
            Some(elements) if !elements.is_empty() => {
                self.most(&place, elements.len(), most, "items");
                elements
            }
            _ => {
                self.wrong("missing required field: elements", &place);
                &[]
            }
        }
    }

    fn section(&mut self, place: &str, block: &Value) {
        let fields = block.get("fields").and_then(Value::as_array);
        if block.get("text").is_some() || fields.is_none() {
            self.words(&format!("{place}/text"), block.get("text"), SECTION_MAX, false);
        }
        let fields = fields.map_or(&[][..], Vec::as_slice);
        self.most(&format!("{place}/fields"), fields.len(), FIELDS_MAX, "items");
        for (at, field) in fields.iter().enumerate() {
            self.words(&format!("{place}/fields/{at}"), Some(field), FIELD_MAX, false);
        }
    }

    fn button(&mut self, place: &str, element: &Value) {
        if element.get("type").and_then(Value::as_str) != Some("button") {
            return self.wrong("this simulator knows only buttons", &format!("{place}/type"));
        }
        self.words(&format!("{place}/text"), element.get("text"), BUTTON_MAX, true);
        for (name, most) in [("action_id", ID_MAX), ("value", VALUE_MAX)] {
            self.text(&format!("{place}/{name}"), element.get(name), most, false);
        }
        let style = element.get("style").and_then(Value::as_str);
        if style.is_some_and(|style| !["primary", "danger"].contains(&style)) {
            self.wrong("must be a valid enum value", &format!("{place}/style"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn section(text: &str) -> Value {
        json!({"type": "section", "text": {"type": "mrkdwn", "text": text}})
    }

    #[track_caller]
    fn check(blocks: &Value, code: &str, place: &str) {
        let refused = message(None, Some(blocks)).unwrap_err();
        assert_eq!(refused.code, code, "{blocks}");
        assert!(refused.messages.concat().contains(place), "{refused:?}");
    }

    #[test]
    fn what_slack_takes_passes() {
        let button = json!({"type": "button", "action_id": "approve", "value": "apr_1",
            "style": "primary", "text": {"type": "plain_text", "text": "Approve"}});
        let blocks = json!([
            {"type": "header", "text": {"type": "plain_text", "text": "An approval"}},
            section("*text*"),
            {"type": "section", "fields": [{"type": "mrkdwn", "text": "a"}]},
            {"type": "divider"},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": "until then"}]},
            {"type": "actions", "block_id": "b", "elements": [button]},
        ]);
        assert_eq!(message(Some("x"), Some(&blocks)), Ok(()));
        assert_eq!(message(Some("x"), None), Ok(()));
        assert_eq!(message(None, Some(&json!([section(&"x".repeat(SECTION_MAX))]))), Ok(()));
    }

    #[test]
    fn what_slack_refuses_is_refused() {
        assert_eq!(message(None, None), Err("no_text".into()));
        assert_eq!(message(Some(&"x".repeat(40_001)), None), Err("msg_too_long".into()));
        assert_eq!(message(None, Some(&json!("x"))), Err("invalid_blocks_format".into()));
        check(&json!(vec![section("x"); 51]), "invalid_blocks", "json-pointer:/blocks]");
        check(&json!([section(&"ß".repeat(3_001))]), "invalid_blocks", "/blocks/0/text/text");
        check(&json!([section("")]), "invalid_blocks", "/blocks/0/text/text");
        check(&json!([{"type": "poem"}]), "invalid_blocks", "/blocks/0/type");
        check(&json!([{"type": "actions", "elements": []}]), "invalid_blocks", "/elements");
        let button = json!({"type": "button", "style": "loud",
            "text": {"type": "mrkdwn", "text": "x"}});
        check(&json!([{"type": "actions", "elements": [button]}]), "invalid_blocks", "/style");
    }
}
