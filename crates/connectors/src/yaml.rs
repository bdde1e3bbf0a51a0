//! Documents that people write in YAML: read strictly, with the line of what is wrong in them.

use std::fmt;

use kernel::limits::JSON_DEPTH_MAX;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_yaml_ng::Value;

/// Why a text is no such document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Error {
    /// Where, as far as that is known. Lines count from 1.
    pub line: Option<usize>,
    /// What is wrong there.
    pub reason: String,
}

/// Reads a text of at most `max` bytes. What occurs twice in one object is refused, and what has no
/// form in JSON: documents are compared and signed by their canonical JSON.
///
/// # Errors
///
/// What is wrong, with its line.
pub fn read<T: DeserializeOwned>(text: &str, max: usize) -> Result<T, Error> {
    if text.len() > max {
        let reason = format!("such a document has at most {max} bytes");
        return Err(Error { line: None, reason });
    }
    let unread = |error: serde_yaml_ng::Error| Error {
        line: error.location().map(|at| at.line()),
        reason: error.to_string(),
    };
    // As a plain value first: that refuses what occurs twice at any depth.
    let value: Value = serde_yaml_ng::from_str(text).map_err(unread)?;
    plain(&value, 0).map_err(|what| Error { line: None, reason: what.to_owned() })?;
    serde_yaml_ng::from_str(text).map_err(unread)
}

/// Whether every value is one of JSON, and none lies too deep.
fn plain(value: &Value, depth: usize) -> Result<(), &'static str> {
    if depth > JSON_DEPTH_MAX {
        return Err("something is nested too deep");
    }
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|n| !n.is_finite()) => {
            Err("a number that is none has no form in JSON: write it as text")
        }
        Value::Tagged(_) => Err("a tag has no form in JSON: write the value as text"),
        Value::Sequence(items) => items.iter().try_for_each(|item| plain(item, depth + 1)),
        Value::Mapping(members) => members.iter().try_for_each(|(name, member)| match name {
            Value::String(_) => plain(member, depth + 1),
            _ => Err("a name that is no text has no form in JSON: put it in quotes"),
        }),
        _ => Ok(()),
    }
}

/// The line on which `path` stands, of names and of indices into arrays; or on which stands what it
/// would stand in.
#[must_use]
pub fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let mut path = path;
    loop {
        match Find(path).deserialize(serde_yaml_ng::Deserializer::from_str(text)) {
            Err(error) => return Some(error.location()?.line()),
            Ok(()) => (_, path) = path.split_last()?,
        }
    }
}

/// Goes down a path, and fails where it ends: the error knows the line.
struct Find<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.0 {
            [] => deserializer.deserialize_any(Stop),
            [..] => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let (first, rest) = self.0.split_first().unwrap_or((&"", &[]));
        while let Some(name) = map.next_key::<String>()? {
            match name == *first {
                true => map.next_value_seed(Find(rest))?,
                false => map.next_value::<IgnoredAny>().map(drop)?,
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (first, rest) = self.0.split_first().unwrap_or((&"", &[]));
        let wanted = first.parse().unwrap_or(usize::MAX);
        for index in 0_usize.. {
            let more = match index == wanted {
                true => seq.next_element_seed(Find(rest))?.is_some(),
                false => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Accepts nothing.
struct Stop;

impl Visitor<'_> for Stop {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("to stop here")
    }
}
