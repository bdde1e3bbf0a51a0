//! JSON Schema, with failures that name the place and never the content.

use jsonschema::PatternOptions;
use kernel::failure::{Category, Failure};
use serde_json::Value;

use crate::limits;

/// Violations named in one failure; the rest is counted.
const NAMED_MAX: usize = 4;

/// A compiled schema.
#[derive(Debug)]
pub struct Validator(jsonschema::Validator);

impl Validator {
    /// Compiles `schema`.
    pub fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::options().build(schema).map(Self).map_err(|e| e.to_string())
    }

    /// Compiles a schema that a stranger wrote: nothing is fetched for it, and no pattern of it
    /// takes for ever.
    pub fn foreign(schema: &Value) -> Result<Self, String> {
        let patterns = PatternOptions::fancy_regex()
            .backtrack_limit(limits::PATTERN_BACKTRACKS_MAX)
            .size_limit(limits::PATTERN_BYTES_MAX);
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        options.build(schema).map(Self).map_err(|e| e.to_string())
    }

    /// Checks `value`; the failure names the JSON pointer of each violation.
    pub fn check(&self, value: &Value) -> Result<(), Failure> {
        let mut causes = Vec::new();
        let mut more = 0;
        for error in self.0.iter_errors(value) {
            if causes.len() < NAMED_MAX {
                causes.push(format!("`/params{}`: {}", error.instance_path(), error.masked()));
            } else {
                more += 1;
            }
        }
        let Some(first) = causes.first().cloned() else { return Ok(()) };
        let message = match causes.len() - 1 + more {
            0 => first,
            others => format!("{first} (and {others} more)"),
        };
        let mut failure = Failure::new(Category::Validation, "params_invalid", message);
        failure.cause = causes;
        Err(failure)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn probe() {
        let twice = json!({"anyOf": [
            {"properties": {"a": {"$ref": "#"}}, "required": ["b"]},
            {"properties": {"a": {"$ref": "#"}}, "required": ["c"]},
        ]});
        let v = Validator::foreign(&twice).unwrap();
        for depth in [4, 8, 12, 16, 18, 20] {
            let mut value = json!({"b": 1, "c": 1, "a": 7});
            for _ in 0..depth {
                value = json!({"a": value, "b": 1});
            }
            let t = std::time::Instant::now();
            println!("{depth} {:?} {:?}", v.check(&value).is_ok(), t.elapsed());
        }
        let both = json!({"allOf": [
            {"properties": {"a": {"$ref": "#"}}},
            {"properties": {"a": {"$ref": "#"}}},
        ]});
        let v = Validator::foreign(&both).unwrap();
        for depth in [4, 8, 12, 16, 18, 20] {
            let mut value = json!({"b": 1, "c": 1, "a": 7});
            for _ in 0..depth {
                value = json!({"a": value, "b": 1});
            }
            let t = std::time::Instant::now();
            println!("{depth} {:?} {:?}", v.check(&value).is_ok(), t.elapsed());
        }
    }
}
