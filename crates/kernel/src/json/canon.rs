//! Writing a value in canonical form (RFC 8785).

use serde_json::{Map, Value};

/// Appends the canonical form of `value`.
pub(super) fn write(value: &Value, out: &mut Vec<u8>) -> serde_json::Result<()> {
    match value {
        Value::Null => out.extend_from_slice(b"null"),
        Value::Bool(true) => out.extend_from_slice(b"true"),
        Value::Bool(false) => out.extend_from_slice(b"false"),
        // Every number is a double; only `arbitrary_precision`, which is off, has others.
        Value::Number(number) => match number.as_f64() {
            Some(double) => {
                out.extend_from_slice(ryu_js::Buffer::new().format_finite(double).as_bytes());
            }
            None => return Err(serde::ser::Error::custom("a number beyond a double")),
        },
        // serde_json escapes what RFC 8785 wants escaped, and so.
        Value::String(text) => serde_json::to_writer(out, text)?,
        Value::Array(items) => {
            out.push(b'[');
            for (nth, item) in items.iter().enumerate() {
                if nth > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => object(members, out)?,
    }
    Ok(())
}

/// The members in the order of their names' UTF-16 units.
fn object(members: &Map<String, Value>, out: &mut Vec<u8>) -> serde_json::Result<()> {
    // Those of ASCII are in order already, unless the map keeps another.
    let mut members: Vec<(&String, &Value)> = members.iter().collect();
    if !members.iter().all(|(name, _)| name.is_ascii())
        || !members.is_sorted_by_key(|(name, _)| *name)
    {
        members.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    out.push(b'{');
    for (nth, (name, value)) in members.into_iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        serde_json::to_writer(&mut *out, name)?;
        out.push(b':');
        write(value, out)?;
    }
    out.push(b'}');
    Ok(())
}
