//! How two runs differ: by step, and by the place in what a step was given or gave.

use proto::runs::{DiffRunsResponse, Difference};
use proto::wire::Json;
use serde_json::Value;

use super::trace::{Trace, Traced};
use crate::error::Result;
use crate::limits;

struct Found(Vec<Difference>);

impl Found {
    fn note(&mut self, step: &str, field: &str, left: Option<&Value>, right: Option<&Value>) {
        if self.0.len() >= limits::DIFFERENCES_MAX {
            return;
        }
        let json = |value: Option<&Value>| value.map(|value| Json { text: value.to_string() });
        self.0.push(Difference {
            step_id: step.to_owned(),
            field: field.to_owned(),
            left: json(left),
            right: json(right),
        });
    }

    /// Goes down both values, and tells where they part.
    fn values(&mut self, step: &str, place: &str, left: Option<&Value>, right: Option<&Value>) {
        if left == right {
            return;
        }
        match (left, right) {
            (Some(Value::Object(a)), Some(Value::Object(b))) => {
                let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
                names.sort();
                names.dedup();
                for name in names {
                    let place = format!("{place}.{name}");
                    self.values(step, &place, a.get(name), b.get(name));
                }
            }
            (Some(Value::Array(a)), Some(Value::Array(b))) => {
                for index in 0..a.len().max(b.len()) {
                    let place = format!("{place}.{index}");
                    self.values(step, &place, a.get(index), b.get(index));
                }
            }
            _ => self.note(step, place, left, right),
        }
    }

    fn texts(&mut self, step: &str, field: &str, left: Option<&str>, right: Option<&str>) {
        let value = |text: Option<&str>| text.map(|text| Value::String(text.to_owned()));
        self.values(step, field, value(left).as_ref(), value(right).as_ref());
    }

    fn step(&mut self, left: &Traced, right: &Traced) {
        let step = left.step.as_str();
        self.texts(step, "step", Some(step), Some(right.step.as_str()));
        self.texts(step, "tool", Some(left.tool.as_str()), Some(right.tool.as_str()));
        let params = |traced: &Traced| traced.params.as_ref().map(|params| params.to_value());
        self.values(step, "params", params(left).as_ref(), params(right).as_ref());
        let status = |traced: &Traced| traced.state.status.as_str();
        self.texts(step, "state", Some(status(left)), Some(status(right)));
        let code = |traced: &Traced| traced.failure.as_ref().map(|failure| failure.code.clone());
        self.texts(step, "error", code(left).as_deref(), code(right).as_deref());
        let output = |traced: &Traced| traced.output.as_ref().map(|output| output.to_value());
        self.values(step, "output", output(left).as_ref(), output(right).as_ref());
        let number = |number: i64| Some(Value::from(number));
        let tries = |traced: &Traced| number(traced.state.tries.into());
        self.values(step, "tries", tries(left).as_ref(), tries(right).as_ref());
        let cost = |traced: &Traced| number(traced.cost.0);
        self.values(step, "cost_micro_usd", cost(left).as_ref(), cost(right).as_ref());
    }
}

/// Compares what two runs did, in the order of their steps.
pub(super) fn compare(left: &Trace, right: &Trace) -> Result<DiffRunsResponse> {
    let mut found = Found(Vec::new());
    for index in 0..left.steps.len().max(right.steps.len()) {
        match (left.steps.get(index), right.steps.get(index)) {
            (Some(a), Some(b)) => found.step(a, b),
            (Some(only), None) => {
                found.texts(only.step.as_str(), "step", Some(only.step.as_str()), None);
            }
            (None, Some(only)) => {
                found.texts(only.step.as_str(), "step", None, Some(only.step.as_str()));
            }
            (None, None) => {}
        }
    }
    let hash = |trace: &Trace| -> Result<String> {
        Ok(trace.root_hash()?.map(|digest| digest.to_string()).unwrap_or_default())
    };
    Ok(DiffRunsResponse {
        equal: found.0.is_empty(),
        root_hash: hash(left)?,
        other_root_hash: hash(right)?,
        differences: found.0,
    })
}
