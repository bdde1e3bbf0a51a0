//! The schemas that answers are held against, compiled once: a call is checked before it is
//! decided and answered much later, and the calls of a workflow all bring the same one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::failure::Failure;
use kernel::values::Digest;
use serde_json::Value;

use super::ask::invalid;
use crate::limits;
use crate::schema::Validator;

/// Those that were used of late, the latest last.
#[derive(Default)]
pub(super) struct Schemas(Mutex<VecDeque<(Digest, Arc<Validator>)>>);

impl Schemas {
    /// `schema`, compiled.
    pub(super) fn compiled(&self, schema: &Value) -> Result<Arc<Validator>, Failure> {
        let digest = Digest::of(schema.to_string().as_bytes());
        if let Some(kept) = self.take(digest) {
            return Ok(self.keep(digest, kept));
        }
        let reason = |e| invalid("output_schema_invalid", format!("output_schema: {e}"));
        let compiled = Validator::foreign(schema).map_err(reason)?;
        Ok(self.keep(digest, Arc::new(compiled)))
    }

    fn take(&self, digest: Digest) -> Option<Arc<Validator>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(other, _)| *other == digest)?;
        kept.remove(at).map(|(_, validator)| validator)
    }

    fn keep(&self, digest: Digest, validator: Arc<Validator>) -> Arc<Validator> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Another call may have brought the same one meanwhile.
        kept.retain(|(other, _)| *other != digest);
        while kept.len() >= limits::LLM_SCHEMAS_KEPT {
            kept.pop_front();
        }
        kept.push_back((digest, validator.clone()));
        validator
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_schema_is_compiled_once_and_the_oldest_is_forgotten() {
        let schemas = Schemas::default();
        let nth = |n: usize| json!({"type": "object", "maxProperties": n});
        let first = schemas.compiled(&nth(0)).unwrap();
        for n in 1..limits::LLM_SCHEMAS_KEPT {
            schemas.compiled(&nth(n)).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &schemas.compiled(&nth(0)).unwrap()));
        // It was used last, so the one after it goes.
        schemas.compiled(&nth(limits::LLM_SCHEMAS_KEPT)).unwrap();
        assert!(Arc::ptr_eq(&first, &schemas.compiled(&nth(0)).unwrap()));
        assert_eq!(schemas.0.lock().unwrap().len(), limits::LLM_SCHEMAS_KEPT);
        let refused = schemas.compiled(&json!({"type": "objekt"})).unwrap_err();
        assert_eq!(refused.code, "output_schema_invalid");
        assert!(refused.message.starts_with("output_schema: "), "{refused:?}");
    }
}
