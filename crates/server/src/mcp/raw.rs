//! Edits of JSON text that leave the rest of it as it came.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The members of an object, in order. None where `text` is no object.
pub(super) fn members(text: &str) -> Option<Vec<(Cow<'_, str>, &RawValue)>> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = reader.deserialize_map(Members).ok()?;
    reader.end().ok().map(|()| members)
}

/// The member `name` of an object.
pub(super) fn member<'a>(text: &'a str, name: &str) -> Option<&'a RawValue> {
    members(text)?.into_iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

struct Members;

#[derive(serde::Deserialize)]
#[serde(transparent)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Visitor<'de> for Members {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((Key(key), value)) = map.next_entry()? {
            members.push((key, value));
        }
        Ok(members)
    }
}

/// `object` with `members` (without a comma at either end) in front of its own.
pub(super) fn insert(object: &str, members: &str) -> String {
    let inner = object.strip_prefix('{').unwrap_or(object);
    let empty = inner.trim_start().starts_with('}');
    let comma = if empty { "" } else { "," };
    format!("{{{members}{comma}{inner}")
}

/// `text` with `part`, which lies in it, replaced.
pub(super) fn replace(text: &str, part: &str, new: &str) -> String {
    let start = (part.as_ptr() as usize).checked_sub(text.as_ptr() as usize);
    let cut = start.and_then(|start| Some((text.get(..start)?, text.get(start + part.len()..)?)));
    match cut {
        Some((before, after)) => format!("{before}{new}{after}"),
        None => text.to_owned(),
    }
}

/// `text` as a JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// An object of `members`, each name with the JSON text of its value.
pub(super) fn object<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = String::from("{");
    for (name, value) in members {
        if text.len() > 1 {
            text.push(',');
        }
        text.push_str(&quoted(name));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_leave_the_rest() {
        let text = r#"{ "b" : 1e2,"a":{"x":"\u0041"} }"#;
        assert_eq!(insert(text, r#""n":0"#), r#"{"n":0, "b" : 1e2,"a":{"x":"\u0041"} }"#);
        assert_eq!(insert("{ }", r#""n":0"#), r#"{"n":0 }"#);
        let part = member(text, "a").unwrap();
        assert_eq!(replace(text, part.get(), "7"), r#"{ "b" : 1e2,"a":7 }"#);
        assert_eq!(members("[]").map(|members| members.len()), None);
        assert_eq!(members(r#"{"\u0061":1}"#).unwrap()[0].0, "a");
        assert_eq!(object([("a", "1"), ("b\"", "{}")]), r#"{"a":1,"b\"":{}}"#);
    }
}
