//! A run that is carried out here: its contents opened, so that the next step is near at hand.
//! All of it can be had again from the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kernel::ids::{RunId, StepId};
use kernel::machine::State;
use kernel::receipt::LogId;
use kernel::run::{self, Next, Run, StepStatus};
use kernel::values::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use super::document::{self, Document};
use crate::actions::open_result;
use crate::error::Result;
use crate::shared::Shared;

pub(super) struct Live {
    pub(super) document: Document,
    input: Value,
    outputs: Mutex<BTreeMap<StepId, Value>>,
    /// Where the run stands, as the last commit left it, and the checkpoint of that.
    state: Mutex<Option<(Arc<State>, Arc<str>)>>,
    /// Whether the run goes on elsewhere, or was opened again.
    left: AtomicBool,
}

impl Live {
    pub(super) fn new(document: Document) -> Self {
        let input = document.input.to_value();
        let (outputs, state, left) = (Mutex::default(), Mutex::default(), AtomicBool::default());
        Self { document, input, outputs, state, left }
    }

    /// Takes notice of where the run stands.
    pub(super) fn moved(&self, state: &Arc<State>, checkpoint: &Arc<str>) {
        *self.state.lock() = Some((state.clone(), checkpoint.clone()));
    }

    /// What is here is not all there is any more.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Release);
    }

    /// Whether all that the run gave is here.
    pub(super) fn is_whole(&self) -> bool {
        !self.left.load(Ordering::Acquire)
    }

    /// Where the run stands, if that was noticed, and a checkpoint that covers it.
    pub(super) fn state(&self) -> Option<(Run, Arc<str>)> {
        let (state, checkpoint) = self.state.lock().clone()?;
        match state.as_ref() {
            State::Run(run) => Some((run.clone(), checkpoint)),
            _ => None,
        }
    }

    /// Keeps what a step gave.
    pub(super) fn gave(&self, step: &StepId, output: Value) {
        self.outputs.lock().insert(step.clone(), output);
    }

    /// What the steps gave so far.
    pub(super) fn outputs(&self) -> BTreeMap<StepId, Value> {
        self.outputs.lock().clone()
    }

    /// What the steps that may start now do.
    pub(super) fn next(&self, run: &Run, now: Timestamp) -> Vec<Next> {
        run::next(run, &self.document.plan, &self.input, &self.outputs.lock(), now)
    }
}

/// Opens a run. None where its content, or what one of its steps gave, is no longer kept.
pub(super) fn open(shared: &Shared, log: &LogId, run: &Run) -> Result<Option<Arc<Live>>> {
    if let Some(live) = shared.runs.live.lock().get(&run.id) {
        return Ok(Some(live.clone()));
    }
    let Some(document) = document::open(shared, log, &run.id)? else { return Ok(None) };
    let live = Live::new(document);
    let Some(outputs) = outputs(shared, log, run)? else { return Ok(None) };
    *live.outputs.lock() = outputs;
    let live = Arc::new(live);
    keep(shared, &run.id, &live);
    Ok(Some(live))
}

/// Keeps a run at hand.
pub(super) fn keep(shared: &Shared, id: &RunId, live: &Arc<Live>) {
    shared.runs.live.lock().insert(id.clone(), live.clone());
}

/// What the steps of a run gave, as far as anybody knows; none where some of it is no longer kept.
pub(super) fn outputs(
    shared: &Shared,
    log: &LogId,
    run: &Run,
) -> Result<Option<BTreeMap<StepId, Value>>> {
    let mut outputs = BTreeMap::new();
    for (spec, step) in run.each() {
        if step.status != StepStatus::Succeeded || step.output_unknown {
            continue;
        }
        let action = step.action.as_ref().filter(|_| !step.skipped);
        let output = match action {
            None => Value::Null,
            Some(action) => {
                let body = open_result(shared, log, action)?;
                match body.as_ref().and_then(|body| body.answered()) {
                    Some(result) => result.to_value(),
                    None => return Ok(None),
                }
            }
        };
        outputs.insert(spec.id.clone(), output);
    }
    Ok(Some(outputs))
}
