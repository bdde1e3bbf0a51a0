//! Answers that must be JSON by a schema.

use kernel::json::RawJson;
use serde_json::Value;

use crate::limits;
use crate::schema::Validator;

/// The value that `text` is, or what is wrong with it, in words without any of its content.
pub(super) fn check(text: &str, schema: &Validator) -> Result<RawJson, String> {
    let json = RawJson::parse(text.trim()).map_err(|error| format!("it is no JSON: {error}"))?;
    match schema.check_at("/output", &json.to_value()) {
        Ok(()) => Ok(json),
        Err(failure) => Err(failure.message),
    }
}

/// What the model is told of an answer that will not do.
pub(super) fn repair(wrong: &str) -> String {
    let end = wrong.char_indices().map(|(at, c)| at + c.len_utf8());
    let end = end.take_while(|end| *end <= limits::LLM_REPAIR_BYTES_MAX).last().unwrap_or(0);
    let wrong = wrong.get(..end).unwrap_or_default();
    format!(
        "That answer does not match the required JSON schema: {wrong}. Answer again with nothing \
         but one JSON value that matches it."
    )
}

/// Whether OpenAI's strict mode takes the schema: every object closed, every member required.
pub(super) fn is_strict(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let object = members.get("properties").and_then(Value::as_object);
            let closed = object.is_none_or(|properties| {
                let required = members.get("required").and_then(Value::as_array);
                let named = |name: &String| {
                    required.is_some_and(|all| all.iter().any(|one| one == name.as_str()))
                };
                members.get("additionalProperties") == Some(&Value::Bool(false))
                    && properties.keys().all(named)
            });
            let open = object.is_none() && members.get("type").is_some_and(|kind| kind == "object");
            closed && !open && members.values().all(is_strict)
        }
        Value::Array(items) => items.iter().all(is_strict),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_json_by_the_schema_will_do() {
        let schema = json!({"type": "object", "required": ["a"],
            "properties": {"a": {"type": "integer"}}});
        let schema = Validator::foreign(&schema).unwrap();
        assert_eq!(check(" {\"a\": 1}\n", &schema).unwrap().as_str(), "{\"a\": 1}");
        for (text, wrong) in [
            ("certainly! {\"a\": 1}", "no JSON"),
            ("{\"a\": 1, \"a\": 2}", "no JSON"),
            ("{\"a\": \"s3cret\"}", "/output/a"),
            ("{}", "/output"),
        ] {
            let said = check(text, &schema).unwrap_err();
            assert!(said.contains(wrong) && !said.contains("s3cret"), "{said}");
        }
    }

    #[test]
    fn what_is_said_of_a_wrong_answer_is_bounded() {
        assert!(repair(&"ä".repeat(10_000)).len() < limits::LLM_REPAIR_BYTES_MAX + 200);
    }

    #[test]
    fn strict_is_asked_for_where_it_is_taken() {
        let closed = |required: Value| {
            json!({"type": "object", "additionalProperties": false, "required": required,
                "properties": {"a": {"type": "integer"}}})
        };
        assert!(is_strict(&closed(json!(["a"]))) && is_strict(&json!({"type": "array"})));
        assert!(!is_strict(&closed(json!([]))) && !is_strict(&json!({"type": "object"})));
        assert!(!is_strict(&json!({"items": closed(json!([]))})));
    }
}
