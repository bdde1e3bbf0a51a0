//! An answer that has the key of its provider in it.
//!
//! A model is not shown the key; the provider, or whatever stands before it, is, and may hand it
//! on to the model or write it into the answer itself. From there it would go wherever the answer
//! goes.

use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde_json::Value;

use crate::limits;

/// Whether `text`, or a text in the JSON that it is, has the key. A short one may be there by
/// chance.
pub(super) fn tells(key: &str, text: &str) -> bool {
    if key.len() < limits::LLM_KEY_BYTES_MIN {
        return false;
    }
    // JSON has many ways to write one text.
    let within = || RawJson::parse(text.trim()).is_ok_and(|json| has(key, &json.to_value()));
    text.contains(key) || within()
}

fn has(key: &str, value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains(key),
        Value::Array(items) => items.iter().any(|item| has(key, item)),
        Value::Object(members) => {
            members.iter().any(|(name, member)| name.contains(key) || has(key, member))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

/// What becomes of such a call. It says nothing of the answer.
pub(super) fn failure() -> Failure {
    let message = "the answer has the key of its provider in it, and is not passed on";
    Failure::new(Category::Permanent, "model_told_key", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_seen_however_it_is_written() {
        let key = "sk-\"0123456789";
        for text in [
            "the key is sk-\"0123456789.",
            r#"{"a": ["the key: sk-\"0123456789"]}"#,
            r#" {"sk-\"0123456789": 1} "#,
            r#"{"a": "sk-\u00220123456789"}"#,
        ] {
            assert!(tells(key, text), "{text}");
        }
        for text in ["", "sk-", r#"{"a": "sk-0123456789"}"#, "{"] {
            assert!(!tells(key, text), "{text}");
        }
        // So short a key would be anywhere.
        assert!(!tells("is", "it is here"));
    }
}
