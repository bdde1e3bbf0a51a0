//! What Tally adds to a server's result: under which action and receipts it came about.
//!
//! The text around it stays as the server wrote it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use kernel::ids::{ActionId, ApprovalId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The member of `_meta` that is ours.
pub(crate) const KEY: &str = "dev.tally/action";

/// The traces that a call has left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Note {
    pub(crate) action_id: ActionId,
    pub(crate) receipts: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) approval_id: Option<ApprovalId>,
}

#[derive(Deserialize)]
struct Top<'a> {
    #[serde(borrow, rename = "_meta", default)]
    meta: Option<&'a RawValue>,
}

/// `result`, a JSON object, with the note in its `_meta`. A note that the server made up goes.
pub(crate) fn add(result: &str, note: &Note) -> String {
    match serde_json::to_string(note) {
        Ok(note) => with_meta(result, KEY, &note),
        Err(_) => result.to_owned(),
    }
}

/// `result`, a JSON object, with `key` in its `_meta` and the JSON `value` as what it says.
pub(crate) fn with_meta(result: &str, key: &str, value: &str) -> String {
    let member = format!("\"{key}\":{value}");
    let meta = match result.contains("_meta") || result.contains('\\') {
        true => serde_json::from_str::<Top<'_>>(result).ok().and_then(|top| top.meta),
        false => None,
    };
    let Some(meta) = meta else { return insert(result, &format!("\"_meta\":{{{member}}}")) };
    let members: BTreeMap<Cow<'_, str>, &RawValue> =
        serde_json::from_str(meta.get()).unwrap_or_default();
    let written = if members.contains_key(key) {
        let theirs: BTreeMap<_, _> = members.iter().filter(|(name, _)| *name != key).collect();
        insert(&serde_json::to_string(&theirs).unwrap_or_else(|_| "{}".to_owned()), &member)
    } else {
        insert(meta.get(), &member)
    };
    // The slice lies in the text that it was read from.
    let at = meta.get().as_ptr().addr().saturating_sub(result.as_ptr().addr());
    let (before, rest) = result.split_at_checked(at).unwrap_or((result, ""));
    let after = rest.get(meta.get().len()..).unwrap_or_default();
    [before, &written, after].concat()
}

/// `object` with `member` in front of its own; whatever is no object stays as it is.
pub(crate) fn insert(object: &str, member: &str) -> String {
    let Some(rest) = object.trim_start().strip_prefix('{') else { return object.to_owned() };
    let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
    ["{", member, comma, rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note() -> Note {
        Note {
            action_id: ActionId::new("act_1").unwrap(),
            receipts: vec!["r/1".to_owned()],
            approval_id: None,
        }
    }

    #[test]
    fn the_rest_stays_as_it_was() {
        const OURS: &str = r#""dev.tally/action":{"action_id":"act_1","receipts":["r/1"]}"#;
        for (before, after) in [
            ("{}", r#"{"_meta":{OURS}}"#),
            (r#"{ "a" : 1.0 }"#, r#"{"_meta":{OURS}, "a" : 1.0 }"#),
            (
                r#"{"a":1, "_meta" : { "b":2 } ,"c":3}"#,
                r#"{"a":1, "_meta" : {OURS, "b":2 } ,"c":3}"#,
            ),
            (r#"{"_meta":{}}"#, r#"{"_meta":{OURS}}"#),
            (
                r#"{"content":[{"_meta":{"x":1}}]}"#,
                r#"{"_meta":{OURS},"content":[{"_meta":{"x":1}}]}"#,
            ),
            (
                r#"{"_meta":{"dev.tally/action":{"action_id":"act_9"},"b":2}}"#,
                r#"{"_meta":{OURS,"b":2}}"#,
            ),
            (r#"{"_meta":{"dev.tally\/action":1}}"#, r#"{"_meta":{OURS}}"#),
            (r#"{"_m\u0065ta":{"dev.tally/action":1}}"#, r#"{"_m\u0065ta":{OURS}}"#),
            ("[1]", "[1]"),
        ] {
            assert_eq!(add(before, &note()), after.replace("OURS", OURS), "{before}");
        }
    }
}
