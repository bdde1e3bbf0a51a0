//! Arguments that a tool wants repeated in headers (`x-mcp-header`). A client on standard input
//! does not know headers, so the pump adds them, once the server has asked for them.

use hyper::header::{HeaderMap, HeaderName};
use serde_json::Value;

use super::message::header;

/// What marks such a property.
const MARK: &str = "x-mcp-header";
/// What the headers begin with.
const PREFIX: &str = "mcp-param-";
/// How deep properties are looked for.
const DEPTH_MAX: usize = 16;

/// The headers of a call with `arguments` of the tool `name` of a `tools/list` result.
pub(crate) fn headers(list: &Value, name: &str, arguments: &Value) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let tools = list.get("tools").and_then(Value::as_array);
    let tool = tools.into_iter().flatten().find(|tool| tool.get("name") == Some(&name.into()));
    if let Some(schema) = tool.and_then(|tool| tool.get("inputSchema")) {
        gather(schema, arguments, DEPTH_MAX, &mut headers);
    }
    headers
}

fn gather(schema: &Value, value: &Value, depth: usize, headers: &mut HeaderMap) {
    let properties = schema.get("properties").and_then(Value::as_object);
    for (key, property) in properties.into_iter().flatten() {
        let Some(value) = value.get(key) else { continue };
        let marked = property.get(MARK).and_then(Value::as_str);
        let name = marked
            .and_then(|name| HeaderName::from_bytes(format!("{PREFIX}{name}").as_bytes()).ok());
        if let Some((name, value)) = name.zip(text(value).as_deref().and_then(header)) {
            headers.insert(name, value);
        }
        if depth > 0 {
            gather(property, value, depth - 1, headers);
        }
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn marked_arguments_are_repeated() {
        let list = json!({"tools": [{"name": "sql", "inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "query": {"type": "string"},
            "limits": {"properties": {"rows": {"type": "integer", "x-mcp-header": "Rows"}}},
            "dry": {"type": "boolean", "x-mcp-header": "Dry"},
        }}}]});
        let arguments = json!({"region": "日本", "query": "q", "limits": {"rows": 7}, "dry": null});
        let found = headers(&list, "sql", &arguments);
        assert_eq!(found.get("Mcp-Param-Region").unwrap(), "=?base64?5pel5pys?=");
        assert_eq!(found.get("Mcp-Param-Rows").unwrap(), "7");
        assert_eq!(found.len(), 2);
        assert!(headers(&list, "other", &arguments).is_empty());
    }
}
