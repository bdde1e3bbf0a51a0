//! What a document must hold to before it is kept, and again before it is released.

use kernel::failure::{Category, Failure};
use kernel::ids::{ToolId, WorkflowId};
use kernel::workflow::{Plan, Refused, Step, Why, template};

use crate::error;
use crate::runtime::yaml;
use crate::shared::{Caller, Shared};
use crate::toolbox;

/// The plan of the document, where all that it needs is there.
pub(super) fn check(
    shared: &Shared,
    caller: &Caller,
    text: &str,
) -> error::Result<(WorkflowId, Plan)> {
    let plan = yaml::plan(text)?;
    let id = WorkflowId::new(&plan.name).map_err(|invalid| {
        let why = Why::Name(invalid.to_string());
        yaml::located(text, Refused::at("metadata.name", why))
    })?;
    if let Some(pin) = &plan.model_pin {
        let providers = &shared.config.models.providers;
        let provider = providers.iter().find(|provider| provider.name == pin.provider);
        if provider.is_none_or(|provider| !provider.models.contains_key(&pin.model)) {
            let message = format!("`{}/{}` is no configured model", pin.provider, pin.model);
            return Err(at(text, "spec.modelPin.model", "model_unknown", &message).into());
        }
    }
    for (index, step) in plan.steps.iter().enumerate() {
        check_step(shared, caller, text, index, step)?;
    }
    Ok((id, plan))
}

fn check_step(
    shared: &Shared,
    caller: &Caller,
    text: &str,
    index: usize,
    step: &Step,
) -> error::Result<()> {
    let Some(tool) = toolbox::find(shared, &caller.tenant, &step.tool) else {
        return Err(absent(text, index, &step.tool).into());
    };
    if !tool.may_run(caller) {
        return Err(absent(text, index, &step.tool).into());
    }
    if !template::is_constant(&step.params) {
        return Ok(());
    }
    match tool.validate(shared, caller, &step.params) {
        Err(failure) if failure.category == Category::Validation => {
            let place = format!("spec.steps[{index}].input");
            Err(at(text, &place, &failure.code, &failure.message).into())
        }
        _ => Ok(()),
    }
}

fn absent(text: &str, index: usize, tool: &ToolId) -> Failure {
    let place = format!("spec.steps[{index}].toolAction");
    at(text, &place, "unknown_tool", &format!("there is no tool `{tool}`"))
}

/// A refusal with the place and its line.
fn at(text: &str, place: &str, code: &str, message: &str) -> Failure {
    let message = format!("{place}: {message}");
    let message = match yaml::line_of(text, place) {
        Some(line) => format!("line {line}: {message}"),
        None => message,
    };
    Failure::new(Category::Validation, code, message)
}
