//! What the steps of a run did, told from its state and the contents that are kept.

use std::collections::BTreeMap;

use kernel::action::FailureCode;
use kernel::ids::{ActionId, StepId, ToolId};
use kernel::json::{self, RawJson};
use kernel::receipt::LogId;
use kernel::run::{self, Run, Step, StepStatus};
use kernel::values::{Digest, MicroUsd};
use kernel::workflow::claims::Claims;
use kernel::workflow::template::{self, Context};
use serde_json::{Value, json};

use super::document::Document;
use super::live;
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// What one step did.
pub(super) struct Traced {
    pub(super) step: StepId,
    pub(super) tool: ToolId,
    pub(super) group: Option<StepId>,
    pub(super) state: Step,
    pub(super) action: Option<ActionId>,
    /// What its tool was called with, rendered again: nothing where it was not called.
    pub(super) params: Option<RawJson>,
    /// What it said of its action, rendered again.
    pub(super) claims: Option<Claims>,
    pub(super) output: Option<RawJson>,
    pub(super) failure: Option<FailureCode>,
    /// The step whose output it reads and nobody knows, where it failed for that.
    pub(super) lacks: Option<StepId>,
    pub(super) cost: MicroUsd,
}

/// What a run did.
pub(super) struct Trace {
    pub(super) steps: Vec<Traced>,
    /// Whether some of it is no longer kept.
    pub(super) gone: bool,
}

/// Tells what `run` did, from what was kept of it.
pub(super) fn trace(shared: &Shared, log: &LogId, run: &Run, document: &Document) -> Result<Trace> {
    let kept = live::outputs(shared, log, run)?;
    told(run, document, kept)
}

/// Tells what `run` did, where what its steps gave is at hand.
pub(super) fn told(
    run: &Run,
    document: &Document,
    outputs: Option<BTreeMap<StepId, Value>>,
) -> Result<Trace> {
    let gone = outputs.is_none();
    let outputs = outputs.unwrap_or_default();
    let input = document.input.to_value();
    let mut steps = Vec::with_capacity(run.steps.len());
    for (index, planned) in document.plan.steps.iter().enumerate() {
        let Some(state) = run.steps.get(index) else { break };
        let context =
            Context { input: &input, outputs: &outputs, previous: document.plan.previous(index) };
        let called = state.action.is_some() && !state.skipped && !gone;
        let params = called.then(|| template::render(&planned.params, &context).ok()).flatten();
        let claims = planned.claims.as_ref().filter(|_| called);
        let claims = claims.and_then(|claims| claims.render(&context).ok());
        let gave = state.status == StepStatus::Succeeded && !state.skipped && !state.output_unknown;
        let output = outputs.get(&planned.id).filter(|_| gave);
        let output = output.map(|output| RawJson::parse(&output.to_string()));
        steps.push(Traced {
            step: planned.id.clone(),
            tool: planned.tool.clone(),
            group: planned.group.clone(),
            state: state.clone(),
            action: state.action.clone(),
            params,
            claims,
            output: output.transpose().map_err(Refused::internal)?,
            failure: state.failure.clone(),
            lacks: lacks(run, document, index),
            cost: state.cost,
        });
    }
    Ok(Trace { steps, gone })
}

/// Which step's output the step at `index` failed for.
fn lacks(run: &Run, document: &Document, index: usize) -> Option<StepId> {
    let failure = run.steps.get(index)?.failure.as_ref()?;
    let unknown = failure.code == run::OUTPUT_UNKNOWN;
    unknown.then(|| run::reads_unknown(run, &document.plan, index)).flatten()
}

/// The digest of the canonical form of a value.
pub(super) fn digest_of(value: &RawJson) -> Result<Digest> {
    json::canonical(value).map(|form| Digest::of(&form)).map_err(Refused::internal)
}

impl Trace {
    /// The digest over what each step was, was given, gave and came to: the same for two runs that
    /// did the same. None where some of it is no longer kept.
    pub(super) fn root_hash(&self) -> Result<Option<Digest>> {
        if self.gone {
            return Ok(None);
        }
        let hash = |value: &Option<RawJson>| -> Result<Value> {
            let digest = value.as_ref().map(digest_of).transpose()?;
            Ok(digest.map_or(Value::Null, |digest| Value::String(digest.hex())))
        };
        let mut steps = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            steps.push(json!({
                "step": step.step.as_str(),
                "tool": step.tool.as_str(),
                "params": hash(&step.params)?,
                "output": hash(&step.output)?,
                "status": step.state.status.as_str(),
                "failure": step.failure.as_ref().map(|failure| failure.code.as_str()),
            }));
        }
        let form = json::canonical(&steps).map_err(Refused::internal)?;
        Ok(Some(Digest::of(&form)))
    }
}
