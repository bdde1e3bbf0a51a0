//! Parameters of a tool that a stateless upstream wants to see in headers (`x-mcp-header`).

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use kernel::json::RawJson;
use serde_json::{Map, Value};

use crate::limits;

const MARK: &str = "x-mcp-header";
/// Keywords of JSON Schema whose values are data and no schemas.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "examples"];

/// A parameter that is mirrored in a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mirror {
    name: HeaderName,
    /// The keys that lead to it.
    path: Vec<String>,
}

/// The mirrored parameters of a tool, or why its definition is invalid.
pub(super) fn mirrors(definition: &RawJson) -> Result<Vec<Mirror>, &'static str> {
    // Most definitions have none: they need no reading.
    if !definition.as_str().contains(MARK) && !definition.as_str().contains('\\') {
        return Ok(Vec::new());
    }
    let definition = definition.to_value();
    let Some(Value::Object(schema)) = definition.get("inputSchema") else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    walk(schema, Some(&mut Vec::new()), &mut found)?;
    let names: BTreeSet<&str> = found.iter().map(|mirror| mirror.name.as_str()).collect();
    if names.len() < found.len() {
        return Err("has two parameters with the same x-mcp-header");
    }
    if found.len() > limits::MCP_MIRRORS_MAX {
        return Err("has more parameters with x-mcp-header than are accepted");
    }
    Ok(found)
}

/// `path` leads to `schema`, if properties alone do.
fn walk(
    schema: &Map<String, Value>,
    mut path: Option<&mut Vec<String>>,
    found: &mut Vec<Mirror>,
) -> Result<(), &'static str> {
    if let Some(mark) = schema.get(MARK) {
        let path = path.as_deref().filter(|path| !path.is_empty());
        let path = path.ok_or("has an x-mcp-header where no property leads")?;
        found.push(Mirror { name: header(mark, schema.get("type"))?, path: path.clone() });
    }
    for (keyword, value) in schema {
        match (keyword.as_str(), value, path.as_deref_mut()) {
            ("properties", Value::Object(properties), Some(path)) => {
                for (name, property) in properties {
                    if let Value::Object(property) = property {
                        path.push(name.clone());
                        walk(property, Some(path), found)?;
                        path.pop();
                    }
                }
            }
            (keyword, value, _) if !DATA.contains(&keyword) => elsewhere(value, found)?,
            _ => {}
        }
    }
    Ok(())
}

/// A schema that properties alone do not lead to, or a list of such.
fn elsewhere(value: &Value, found: &mut Vec<Mirror>) -> Result<(), &'static str> {
    match value {
        Value::Object(schema) => walk(schema, None, found),
        Value::Array(schemas) => schemas.iter().try_for_each(|schema| elsewhere(schema, found)),
        _ => Ok(()),
    }
}

fn header(mark: &Value, kind: Option<&Value>) -> Result<HeaderName, &'static str> {
    let name = mark.as_str().filter(|name| !name.is_empty());
    let name = name.ok_or("has an x-mcp-header that is empty or no string")?;
    if !matches!(kind.and_then(Value::as_str), Some("string" | "integer" | "boolean")) {
        return Err("has an x-mcp-header at a parameter that is no string, integer or boolean");
    }
    // http lowers the name; headers are the same in either case.
    HeaderName::from_bytes(format!("mcp-param-{name}").as_bytes())
        .map_err(|_| "has an x-mcp-header that no header can be named")
}

/// The headers of a call with `arguments`.
pub(super) fn values(mirrors: &[Mirror], arguments: &RawJson) -> Vec<(HeaderName, HeaderValue)> {
    if mirrors.is_empty() {
        return Vec::new();
    }
    let arguments = arguments.to_value();
    let value = |mirror: &Mirror| {
        let mut at = &arguments;
        for key in &mirror.path {
            at = at.get(key)?;
        }
        let text = match at {
            Value::String(text) => text.clone(),
            Value::Bool(truth) => truth.to_string(),
            Value::Number(number) => match number.as_f64() {
                // 42.0 is the integer 42.
                Some(float) if number.is_f64() && float.fract() == 0.0 => format!("{float:.0}"),
                _ => number.to_string(),
            },
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        Some((mirror.name.clone(), encoded(&text)))
    };
    mirrors.iter().filter_map(value).collect()
}

/// `text` as the value of a header: as it is where that is safe, else in base64 with a mark.
pub(super) fn encoded(text: &str) -> HeaderValue {
    let marked = text.starts_with("=?base64?") && text.ends_with("?=");
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && text.trim_matches([' ', '\t']).len() == text.len()
        && !marked;
    let coded = || format!("=?base64?{}?=", STANDARD.encode(text));
    let value = if plain { HeaderValue::from_str(text) } else { HeaderValue::try_from(coded()) };
    // Both are printable ASCII.
    value.unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tool(schema: Value) -> RawJson {
        RawJson::parse(&json!({"name": "t", "inputSchema": schema}).to_string()).unwrap()
    }

    #[test]
    fn values_of_the_specification() {
        for (text, value) in [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
            ("", ""),
        ] {
            assert_eq!(encoded(text), value);
        }
    }

    #[test]
    fn only_what_properties_lead_to() {
        let marked = |kind: &str| json!({"type": kind, "x-mcp-header": "Region"});
        let good = tool(json!({"type": "object", "properties": {
            "region": marked("string"),
            "inner": {"type": "object", "properties": {
                "n": {"type": "integer", "x-mcp-header": "N"},
            }},
        }}));
        let mirrors = mirrors(&good).unwrap();
        let arguments = r#"{"region":"é","inner":{"n":42.0}}"#;
        let found = values(&mirrors, &RawJson::parse(arguments).unwrap());
        let text = |(name, value): &(HeaderName, HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut found: Vec<_> = found.iter().map(text).collect();
        found.sort();
        assert_eq!(found, ["mcp-param-n: 42", "mcp-param-region: =?base64?w6k=?="]);
        assert!(values(&mirrors, &RawJson::parse(r#"{"region":null}"#).unwrap()).is_empty());
    }

    #[test]
    fn invalid_definitions() {
        let property = |property: Value| json!({"properties": {"a": property}});
        let marked = json!({"type": "string", "x-mcp-header": "A"});
        for schema in [
            property(json!({"type": "number", "x-mcp-header": "A"})),
            property(json!({"type": "string", "x-mcp-header": ""})),
            property(json!({"type": "string", "x-mcp-header": "a b"})),
            property(json!({"type": "string", "x-mcp-header": "a\r\n"})),
            property(json!({"type": "string", "x-mcp-header": 1})),
            property(json!({"type": "array", "items": marked})),
            property(json!({"anyOf": [marked]})),
            json!({"$defs": {"a": marked}}),
            json!({"properties": {"a": marked, "b": {"type": "string", "x-mcp-header": "a"}}}),
        ] {
            assert!(mirrors(&tool(schema.clone())).is_err(), "{schema}");
        }
        let data = property(json!({"type": "object", "default": {"x-mcp-header": "A"}}));
        assert_eq!(mirrors(&tool(data)), Ok(Vec::new()));
    }
}
