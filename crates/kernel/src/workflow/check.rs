//! The rules of a plan, in one pass over its steps.

use std::collections::BTreeMap;

use serde_json::Value;

use super::claims::Claims;
use super::template::{self, Reference, Source};
use super::{Draft, MODEL_TOOL, Refused, Step, StepId, Why, is_name};
use crate::{json, limits};

/// Checks a draft; gives its canonical JSON.
pub(super) fn check(draft: &Draft) -> Result<Vec<u8>, Refused> {
    head(draft)?;
    if draft.steps.is_empty() {
        return Err(Refused::at("steps", Why::Empty));
    }
    if draft.steps.len() > limits::PLAN_STEPS_MAX {
        return Err(Refused::at("steps", Why::too_many("steps", limits::PLAN_STEPS_MAX)));
    }
    let mut seen = BTreeMap::new();
    for (index, step) in draft.steps.iter().enumerate() {
        let at = |field: &str| format!("steps[{index}].{field}");
        if seen.contains_key(&step.id) {
            return Err(Refused::at(at("id"), Why::Twice(step.id.to_string())));
        }
        if let Some(group) = &step.group {
            check_group(&draft.steps, index, group).map_err(|why| Refused::at(at("group"), why))?;
        }
        check_step(step).map_err(|(field, why)| Refused::at(at(field), why))?;
        check_model(draft, step).map_err(|(field, why)| Refused::at(at(field), why))?;
        let scope = Scope { steps: &draft.steps, index, seen: &seen };
        scope.check(step).map_err(|(field, why)| Refused::at(at(&field), why))?;
        seen.insert(&step.id, index);
    }
    let bytes = json::canonical(draft).map_err(|e| Refused::at("steps", Why::Json(e)))?;
    if bytes.len() > limits::PLAN_BYTES_MAX {
        let why = Why::too_many("bytes as a whole", limits::PLAN_BYTES_MAX);
        return Err(Refused::at("steps", why));
    }
    Ok(bytes)
}

fn head(draft: &Draft) -> Result<(), Refused> {
    let named = |place: &str, text: &str| match is_name(text) {
        true => Ok(()),
        false => {
            let max = limits::PLAN_NAME_BYTES_MAX;
            let need = format!("1 to {max} printable characters without spaces around them");
            Err(Refused::at(place, Why::Name(need)))
        }
    };
    named("name", &draft.name)?;
    if let Some(pin) = &draft.model_pin {
        named("model_pin.provider", &pin.provider)?;
        named("model_pin.model", &pin.model)?;
    }
    if draft.triggers.len() > limits::TRIGGERS_MAX {
        return Err(Refused::at("triggers", Why::too_many("triggers", limits::TRIGGERS_MAX)));
    }
    for (index, trigger) in draft.triggers.iter().enumerate() {
        if let super::Trigger::Event { event } = trigger {
            named(&format!("triggers[{index}].event"), event)?;
        }
    }
    Ok(())
}

/// The steps of a group: from the first of them to the last, without a gap.
fn check_group(steps: &[Step], index: usize, group: &StepId) -> Result<(), Why> {
    let of_group = |step: &&Step| step.group.as_ref() == Some(group);
    let before = steps.iter().take(index);
    let neighbours = before.clone().rev().take_while(of_group).count();
    if before.filter(of_group).count() > neighbours {
        return Err(Why::GroupApart(group.to_string()));
    }
    if neighbours >= limits::GROUP_STEPS_MAX {
        return Err(Why::too_many("steps in one group", limits::GROUP_STEPS_MAX));
    }
    Ok(())
}

/// What can be said of a step alone.
fn check_step(step: &Step) -> Result<(), (&'static str, Why)> {
    let range = |value: u64, min: u64, max: u64| match (min..=max).contains(&value) {
        true => Ok(()),
        false => Err(Why::Range { min, max }),
    };
    let iterations = range(step.iterations.into(), 1, limits::ITERATIONS_MAX.into());
    iterations.map_err(|why| ("iterations", why))?;
    if let Some(ms) = step.timeout_ms {
        let in_time = range(ms, 1, limits::STEP_TIMEOUT_MS_MAX);
        in_time.map_err(|why| ("timeout_ms", why))?;
    }
    if let Some(retry) = &step.retry {
        let attempts = range(retry.attempts.into(), 1, limits::ATTEMPTS_MAX.into());
        attempts.map_err(|why| ("retry.attempts", why))?;
        let backoff = range(retry.backoff_ms, 0, limits::STEP_BACKOFF_MS_MAX);
        backoff.map_err(|why| ("retry.backoff_ms", why))?;
    }
    if step.output_schema.as_ref().is_some_and(|schema| !schema.is_object()) {
        return Err(("output_schema", Why::Schema));
    }
    if step.approval.as_ref().is_some_and(|demand| !demand.well_formed()) {
        return Err(("approval", Why::Approval));
    }
    if step.claims.as_ref().is_some_and(|claims| !claims.is_within_limits()) {
        return Err(("claims", Why::Claims));
    }
    Ok(())
}

/// A step that names a model outright names the one of the plan. What a template stands for is
/// compared when the step runs.
fn check_model(draft: &Draft, step: &Step) -> Result<(), (&'static str, Why)> {
    let Some(pin) = draft.model_pin.as_ref().filter(|_| step.tool.as_str() == MODEL_TOOL) else {
        return Ok(());
    };
    let params = step.params.to_value();
    for (field, name, own) in
        [("params.provider", "provider", &pin.provider), ("params.model", "model", &pin.model)]
    {
        let given = params.get(name).and_then(Value::as_str);
        if given.is_some_and(|given| given != own && !given.contains(template::OPEN)) {
            let pinned = format!("{}/{}", pin.provider, pin.model);
            return Err((field, Why::OtherModel { pinned }));
        }
    }
    Ok(())
}

/// What a step may refer to.
struct Scope<'a> {
    steps: &'a [Step],
    index: usize,
    seen: &'a BTreeMap<&'a StepId, usize>,
}

impl Scope<'_> {
    fn check(&self, step: &Step) -> Result<(), (String, Why)> {
        let params = step.params.to_value();
        if !params.is_object() {
            return Err(("params".to_owned(), Why::Params));
        }
        let mut left = limits::TEMPLATES_PER_STEP_MAX;
        self.value(&params, &mut "params".to_owned(), &mut left)?;
        for text in step.claims.iter().flat_map(Claims::texts) {
            self.text(text, &mut left).map_err(|why| ("claims".to_owned(), why))?;
        }
        let of_condition = step.when.iter().flat_map(|condition| condition.references());
        for reference in of_condition {
            self.reference(reference).map_err(|why| ("when".to_owned(), why))?;
        }
        Ok(())
    }

    /// Checks every template below `place`.
    fn value(
        &self,
        value: &Value,
        place: &mut String,
        left: &mut usize,
    ) -> Result<(), (String, Why)> {
        match value {
            Value::String(text) => {
                self.text(text, left).map_err(|why| (place.clone(), why))?;
            }
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    below(place, &format!("[{index}]"), |place| self.value(item, place, left))?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    if name.contains(template::OPEN) {
                        return Err((place.clone(), Why::TemplateInName));
                    }
                    let shown: String = name.chars().take(SHOWN_CHARS_MAX).collect();
                    below(place, &format!(".{shown}"), |place| self.value(member, place, left))?;
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
        Ok(())
    }

    fn text(&self, text: &str, left: &mut usize) -> Result<(), Why> {
        for piece in template::parse(text).map_err(Why::Template)? {
            if let template::Piece::Value(reference) = piece {
                let max = limits::TEMPLATES_PER_STEP_MAX;
                *left = left.checked_sub(1).ok_or(Why::too_many("templates in a step", max))?;
                self.reference(&reference)?;
            }
        }
        Ok(())
    }

    fn reference(&self, reference: &Reference) -> Result<(), Why> {
        match &reference.source {
            Source::Input => Ok(()),
            Source::Previous => match (self.index, previous(self.steps, self.index)) {
                (_, Some(_)) => Ok(()),
                (index, None) if first_of_group(self.steps, index) == 0 => Err(Why::NoPrevious),
                (_, None) => Err(Why::ManyPrevious),
            },
            Source::Step(id) => match self.seen.get(id) {
                None => Err(Why::NotEarlier(id.to_string())),
                Some(at) if *at >= first_of_group(self.steps, self.index) => {
                    Err(Why::SameTime(id.to_string()))
                }
                Some(_) => Ok(()),
            },
        }
    }
}

/// Characters of one name that a place shows.
const SHOWN_CHARS_MAX: usize = 64;

fn below<T>(place: &mut String, segment: &str, check: impl FnOnce(&mut String) -> T) -> T {
    let length = place.len();
    place.push_str(segment);
    let checked = check(place);
    place.truncate(length);
    checked
}

/// Where the group of the step at `index` begins: with itself where it is in none.
fn first_of_group(steps: &[Step], index: usize) -> usize {
    let Some(group) = steps.get(index).and_then(|step| step.group.as_ref()) else { return index };
    let of_group = |step: &&Step| step.group.as_ref() == Some(group);
    index - steps.iter().take(index).rev().take_while(of_group).count()
}

/// The one step that ends just before the step at `index` begins.
pub(super) fn previous(steps: &[Step], index: usize) -> Option<&Step> {
    let before = first_of_group(steps, index).checked_sub(1)?;
    (first_of_group(steps, before) == before).then(|| steps.get(before)).flatten()
}
