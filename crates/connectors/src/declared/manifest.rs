//! The tools of an instance.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::failure::Failure;
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::tool::{CostModel, Executor, FailureMode, Manifest, Source};
use kernel::values::Digest;

use super::definition::Operation;
use super::error::Error;
use super::instance::Instance;
use super::rules::{Rule, common_modes};

/// An operation of an instance, as a tool.
#[derive(Debug)]
pub struct Offered {
    /// What it says of itself. It names definition and configuration by their digests: another one
    /// of either is another tool.
    pub manifest: Manifest,
    /// The digest of that; part of every plan.
    pub digest: Digest,
    /// Of which instance.
    pub instance: Arc<Instance>,
    operation: String,
}

impl Offered {
    /// Every tool of `instance`.
    pub fn all(instance: &Arc<Instance>) -> Result<Vec<Self>, Error> {
        instance.definition.operations().map(|operation| Self::new(instance, operation)).collect()
    }

    fn new(instance: &Arc<Instance>, operation: &Operation) -> Result<Self, Error> {
        let definition = &instance.definition;
        let broken = |reason: String| Error::instance("manifest", reason);
        let id = ToolId::new(format!("{}.{}", instance.name, operation.name));
        let timeout = definition.timeout.as_millis();
        let manifest = Manifest {
            id: id.map_err(|error| broken(error.to_string()))?,
            version: definition.version.as_str().to_owned(),
            description: operation.description.clone(),
            executor: Executor::Http,
            input_schema: operation.input.clone(),
            output_schema: operation.output.clone(),
            labels: operation.labels.clone(),
            idempotent: operation.repeatable(),
            reversible: operation.reverse.is_some(),
            variants: Vec::new(),
            cost: CostModel { per_call_micro_usd: operation.cost },
            caps: operation.caps,
            failure_modes: modes(&operation.rules),
            capabilities: BTreeSet::from(["network".to_owned()]),
            timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
            source: Some(Source {
                upstream: instance.config_digest,
                definition: Some(definition.digest),
            }),
            code: None,
        };
        let digest = manifest.digest().map_err(|error| broken(error.to_string()))?;
        let operation = operation.name.clone();
        Ok(Self { manifest, digest, instance: instance.clone(), operation })
    }

    pub(super) fn operation(&self) -> Option<&Operation> {
        self.instance.definition.operations.get(&self.operation)
    }

    /// Checks parameters before anything is decided about them.
    pub fn validate(&self, params: &RawJson) -> Result<(), Failure> {
        match self.operation() {
            Some(operation) => operation.input_validator.check(&params.to_value()),
            None => Ok(()),
        }
    }

    /// The parameters of the call that puts back what a call with `params` overwrote: the same,
    /// with what was there `prior` to it written, where what was `written` is still there. None
    /// where the tool has no such call.
    pub fn reversal(&self, params: &RawJson, prior: &RawJson) -> Option<RawJson> {
        let operation = self.operation()?;
        let fields = operation.reverse.as_ref()?.strip_prefix('/')?;
        let mut params = params.to_value();
        let members = params.as_object_mut()?;
        let written = members.insert(fields.to_owned(), prior.to_value())?;
        if let Some(expect) = operation.expect.as_ref().and_then(|p| p.strip_prefix('/')) {
            members.insert(expect.to_owned(), written);
        }
        RawJson::parse(&params.to_string()).ok()
    }
}

/// The first of a code is the one that counts.
fn modes(rules: &[Rule]) -> Vec<FailureMode> {
    let mut seen = BTreeSet::new();
    let own = rules.iter().map(Rule::mode);
    own.chain(common_modes()).filter(|mode| seen.insert(mode.code.clone())).collect()
}
