//! Query strings, both ways: the fields of a message that are neither in the path nor in a body.

use percent_encoding::percent_decode_str;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::types::Error;

/// What pbjson says when a number is expected and something else is found.
const NOT_A_NUMBER: &str = "data did not match any variant of untagged enum Content";

/// What a query parameter holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// A number, given in decimal.
    Number,
    /// `true` or `false`.
    Bool,
    /// The name of an enum value.
    Enum,
    /// Any number of texts.
    List,
}

/// A field that a query parameter can set.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its name in the .proto file.
    pub name: &'static str,
    /// Its camelCase name, accepted as well.
    pub camel: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// Whether unset differs from the default.
    pub optional: bool,
}

/// Reads a message from a query string.
///
/// # Errors
/// A parameter that is unknown, repeated though it is no list, not UTF-8, or of the wrong kind.
pub fn decode<T: DeserializeOwned>(query: &str, fields: &[Field]) -> Result<T, Box<Error>> {
    if percent_decode_str(query).decode_utf8().is_err() {
        return Err(invalid("percent-encode the query string as UTF-8"));
    }
    let mut object = Map::new();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let field = fields.iter().find(|field| key == field.name || key == field.camel);
        let field = field.ok_or_else(|| invalid(format!("remove `{key}`: no such parameter")))?;
        insert(&mut object, field, value.into_owned())?;
    }
    serde_json::from_value(Value::Object(object)).map_err(|error| invalid(readable(&error)))
}

/// Sets one field.
fn insert(object: &mut Map<String, Value>, field: &Field, text: String) -> Result<(), Box<Error>> {
    if field.kind == Kind::List {
        let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = list {
            values.push(Value::String(text));
        }
        return Ok(());
    }
    let value = match (field.kind, text.as_str()) {
        (Kind::Bool, "true") => Value::Bool(true),
        (Kind::Bool, "false") => Value::Bool(false),
        (Kind::Bool, _) => {
            return Err(invalid(format!("give `{}` as true or false", field.name)));
        }
        (Kind::Number, digits) if !digits.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(invalid(format!("give `{}` as a whole number", field.name)));
        }
        _ => Value::String(text),
    };
    match object.insert(field.name.to_owned(), value) {
        None => Ok(()),
        Some(_) => Err(invalid(format!("give `{}` once", field.name))),
    }
}

/// Writes the fields of a message that differ from unset as a query string, without `?`.
///
/// # Errors
/// What serde_json says when the message has no JSON form.
pub fn encode<T: Serialize>(message: &T, fields: &[Field]) -> Result<String, serde_json::Error> {
    let object = serde_json::to_value(message)?;
    let mut query = form_urlencoded::Serializer::new(String::new());
    for field in fields {
        match object.get(field.name) {
            Some(Value::Array(values)) => {
                let texts = values.iter().filter_map(Value::as_str);
                query.extend_pairs(texts.map(|text| (field.name, text)));
            }
            Some(value) if field.optional || !is_default(value, field.kind) => {
                let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                query.append_pair(field.name, &text);
            }
            _ => {}
        }
    }
    Ok(query.finish())
}

/// Whether a value is what the field has when nothing was set.
fn is_default(value: &Value, kind: Kind) -> bool {
    match value {
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_u64() == Some(0),
        Value::String(text) => match kind {
            Kind::Number => text == "0",
            Kind::Enum => text == "unspecified" || text == "UNSPECIFIED",
            _ => text.is_empty(),
        },
        _ => value.is_null(),
    }
}

/// What serde_json says, with pbjson's least readable sentence replaced.
pub(crate) fn readable(error: &serde_json::Error) -> String {
    error.to_string().replace(NOT_A_NUMBER, "a whole number is expected")
}

/// Refuses a query string.
fn invalid(message: impl Into<String>) -> Box<Error> {
    Box::new(Error::validation("invalid_query", message))
}
