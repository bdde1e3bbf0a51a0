//! JSON Schema, with failures that name the place and never the content.

mod growth;

use jsonschema::PatternOptions;
use kernel::failure::{Category, Failure};
use serde_json::Value;

use crate::limits;
use growth::Growth;

/// Violations named in one failure; the rest is counted.
const NAMED_MAX: usize = 4;

/// A compiled schema.
#[derive(Debug)]
pub struct Validator {
    compiled: jsonschema::Validator,
    /// What bounds the work, where a stranger wrote the schema.
    growth: Option<Growth>,
}

impl Validator {
    /// Compiles `schema`.
    pub fn new(schema: &Value) -> Result<Self, String> {
        let compiled = jsonschema::options().build(schema).map_err(|e| e.to_string())?;
        Ok(Self { compiled, growth: None })
    }

    /// Compiles a schema that a stranger wrote: nothing is fetched for it, and no pattern of it
    /// takes for ever.
    pub fn foreign(schema: &Value) -> Result<Self, String> {
        let growth = Some(Growth::of(schema)?);
        let patterns = PatternOptions::fancy_regex()
            .backtrack_limit(limits::PATTERN_BACKTRACKS_MAX)
            .size_limit(limits::PATTERN_BYTES_MAX);
        let options = jsonschema::options().offline().with_pattern_options(patterns);
        let compiled = options.build(schema).map_err(|e| e.to_string())?;
        Ok(Self { compiled, growth })
    }

    /// Checks `value`; the failure names the JSON pointer of each violation.
    pub fn check(&self, value: &Value) -> Result<(), Failure> {
        self.check_at("/params", value)
    }

    /// The same for a value that is found at `root`.
    pub fn check_at(&self, root: &str, value: &Value) -> Result<(), Failure> {
        if self.growth.as_ref().is_some_and(|growth| !growth.bears(value)) {
            let message = format!("`{root}` is too large or nested too deep for its schema");
            return Err(Failure::new(Category::Validation, "params_invalid", message));
        }
        let mut causes = Vec::new();
        let mut more = 0;
        for error in self.compiled.iter_errors(value) {
            if causes.len() < NAMED_MAX {
                causes.push(format!("`{root}{}`: {}", error.instance_path(), error.masked()));
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
    fn schemas_of_strangers() {
        for (schema, good) in [
            (json!({"type": "object"}), true),
            (json!({"$schema": "http://json-schema.org/draft-07/schema#"}), true),
            (json!({"type": "objekt"}), false),
            // Nothing is fetched.
            (json!({"$ref": "https://example.com/x.json"}), false),
            (json!({"properties": {"a": {"$ref": "file:///etc/passwd"}}}), false),
            (json!({"$schema": "https://example.com/x.json"}), false),
            (json!({"properties": {"a": {"pattern": "("}}}), false),
        ] {
            assert_eq!(Validator::foreign(&schema).is_ok(), good, "{schema}");
        }
    }

    #[test]
    fn no_value_takes_for_ever() {
        let nested = |depth: usize| (0..depth).fold(json!(7), |value, _| json!({"a": value}));
        let again = json!({"properties": {"a": {"$ref": "#"}}});
        let doubled = json!({"allOf": [again, again], "$comment": "work doubles with each level"});
        let doubled = Validator::foreign(&doubled).unwrap();
        assert_eq!(doubled.check(&nested(8)), Ok(()));
        assert_eq!(doubled.check(&nested(60)).unwrap_err().code, "params_invalid");
        let tree = Validator::foreign(&json!({
            "type": ["object", "integer"],
            "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}},
        }));
        assert_eq!(tree.unwrap().check(&nested(60)), Ok(()));
        let pattern = json!({"properties": {"a": {"pattern": "^(a|aa)+(?=b)$"}}});
        let pattern = Validator::foreign(&pattern).unwrap();
        let failure = pattern.check(&json!({"a": "a".repeat(60)})).unwrap_err();
        assert_eq!(failure.code, "params_invalid");
    }

    /// As deep as is let through: this compiles and validates on the stack of any thread.
    #[test]
    fn the_deepest_schema_is_borne() {
        let depth = limits::SCHEMA_DEPTH_MAX - 4;
        let next = |at: usize| json!({"properties": {"a": {"$ref": format!("#/$defs/{at}")}}});
        let defs: serde_json::Map<_, _> = (0..depth / 2)
            .map(|at| (at.to_string(), next(at + 1)))
            .chain([((depth / 2).to_string(), json!({}))])
            .collect();
        let schema = json!({"$defs": defs, "$ref": "#/$defs/0"});
        assert_eq!(Validator::foreign(&schema).unwrap().check(&json!({"a": {"a": 1}})), Ok(()));
    }
}
