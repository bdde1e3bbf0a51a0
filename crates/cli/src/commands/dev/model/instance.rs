//! The smallest value that a JSON Schema lets through, the same each time.

use serde_json::{Map, Value, json};

/// How deep a value is made.
const DEPTH_MAX: usize = 32;

/// A small value that matches `schema`, as far as its plain keywords say.
pub(super) fn instance(schema: &Value) -> Value {
    make(schema, schema, 0)
}

fn make(root: &Value, schema: &Value, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    let deeper = |schema: &Value| make(root, schema, depth + 1);
    if let Some(reference) = schema.get("$ref").and_then(Value::as_str) {
        let found = reference.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return found.map_or(Value::Null, deeper);
    }
    for given in ["const", "default"] {
        if let Some(value) = schema.get(given) {
            return value.clone();
        }
    }
    let first = |name: &str| schema.get(name).and_then(Value::as_array).and_then(|all| all.first());
    if let Some(value) = first("enum") {
        return value.clone();
    }
    if let Some(one) = first("anyOf").or_else(|| first("oneOf")) {
        return deeper(one);
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        return merged(parts.iter().map(deeper));
    }
    let kind = match schema.get("type") {
        Some(Value::Array(kinds)) => kinds.first().and_then(Value::as_str),
        Some(kind) => kind.as_str(),
        None if schema.get("properties").is_some() => Some("object"),
        None => None,
    };
    match kind {
        Some("object") => object(schema, deeper),
        Some("array") => {
            let count = number(schema, "minItems").unwrap_or(0.0);
            let item = schema.get("items").map_or(Value::Null, deeper);
            let mut items = Vec::new();
            while (items.len() as f64) < count.min(1_000.0) {
                items.push(item.clone());
            }
            Value::Array(items)
        }
        Some("string") => text(schema),
        Some("integer") => json!(least(schema).ceil() as i64),
        Some("number") => json!(least(schema)),
        Some("boolean") => json!(false),
        _ => Value::Null,
    }
}

fn object(schema: &Value, deeper: impl Fn(&Value) -> Value) -> Value {
    let required = schema.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    let member = |name: &str| {
        let own = schema.get("properties").and_then(|all| all.get(name));
        (name.to_owned(), own.map_or(Value::Null, &deeper))
    };
    Value::Object(names.map(member).collect())
}

fn merged(parts: impl Iterator<Item = Value>) -> Value {
    let mut whole = Map::new();
    for part in parts {
        match part {
            Value::Object(members) => whole.extend(members),
            other => return other,
        }
    }
    Value::Object(whole)
}

fn text(schema: &Value) -> Value {
    let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
    let fixed = match format {
        "date" => "2026-01-01",
        "date-time" => "2026-01-01T00:00:00Z",
        "email" => "sim@example.com",
        "uri" => "https://example.com/",
        "uuid" => "00000000-0000-4000-8000-000000000000",
        _ => "",
    };
    let least = number(schema, "minLength").unwrap_or(0.0).min(10_000.0);
    let mut text = fixed.to_owned();
    while (text.len() as f64) < least {
        text.push('x');
    }
    Value::String(text)
}

fn number(schema: &Value, name: &str) -> Option<f64> {
    schema.get(name).and_then(Value::as_f64)
}

fn least(schema: &Value) -> f64 {
    let above = number(schema, "exclusiveMinimum").map(|least| least + 1.0);
    let least = number(schema, "minimum").or(above).unwrap_or(0.0);
    match number(schema, "maximum") {
        Some(most) => least.min(most),
        None => least,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_match_their_schemas() {
        for (schema, expect) in [
            (
                json!({"type": "object", "required": ["a"], "properties":
                {"a": {"type": "integer", "minimum": 3}, "b": {"type": "string"}}}),
                json!({"a": 3}),
            ),
            (
                json!({"type": "array", "minItems": 2, "items": {"enum": ["x", "y"]}}),
                json!(["x", "x"]),
            ),
            (
                json!({"$defs": {"t": {"type": "string", "minLength": 2}}, "$ref": "#/$defs/t"}),
                json!("xx"),
            ),
            (json!({"anyOf": [{"type": "null"}, {"type": "number"}]}), json!(null)),
            (json!({"type": ["boolean", "null"]}), json!(false)),
            (json!({"const": 7}), json!(7)),
        ] {
            let made = instance(&schema);
            assert_eq!(made, expect, "{schema}");
            let schema = connectors::schema::Validator::foreign(&schema).unwrap();
            assert_eq!(schema.check(&made), Ok(()));
        }
    }

    #[test]
    fn a_schema_that_never_ends_does() {
        let schema =
            json!({"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}});
        assert!(instance(&schema).to_string().contains("null"));
    }
}
