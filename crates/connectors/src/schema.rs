//! JSON Schema, with failures that name the place and never the content.

use kernel::failure::{Category, Failure};
use serde_json::Value;

/// Violations named in one failure; the rest is counted.
const NAMED_MAX: usize = 4;

/// A compiled schema.
#[derive(Debug)]
pub(crate) struct Validator(jsonschema::Validator);

impl Validator {
    /// Compiles `schema`.
    pub(crate) fn new(schema: &Value) -> Result<Self, String> {
        jsonschema::options().build(schema).map(Self).map_err(|e| e.to_string())
    }

    /// Checks `value`; the failure names the JSON pointer of each violation.
    pub(crate) fn check(&self, value: &Value) -> Result<(), Failure> {
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
