//! What a run does next, as commands for one commit: skips, timers, and the action of one step.

use std::sync::Arc;

use kernel::action::FailureCode;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::machine::{self, Command, Kind};
use kernel::run::{self, Input, Next, Run, StepRef};
use kernel::values::Timestamp;
use kernel::workflow::claims::Claims as StepClaims;
use proto::wire::Json;
use serde_json::{Value, json};

use super::live::Live;
use crate::actions::{AsStep, Asked, Claims, Made, make};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// What goes on in one commit.
#[derive(Default)]
pub(super) struct Ahead {
    pub(super) commands: Vec<Command>,
    /// The action that is asked for.
    pub(super) made: Option<Made>,
}

impl Ahead {
    pub(super) fn is_empty(&self) -> bool {
        self.commands.is_empty() && self.made.is_none()
    }
}

/// The command of `input` to `run`.
pub(super) fn command(run: &Run, input: Input) -> Command {
    Command::new(Kind::Run, run.id.as_str(), machine::Input::Run(input))
}

/// What `run` does next. Of several steps that may start, one starts here.
pub(super) async fn ahead(
    shared: &Shared,
    live: &Live,
    caller: &Caller,
    run: Run,
    now: Timestamp,
) -> Result<Ahead> {
    let mut ahead = Ahead::default();
    let mut run = run;
    for _ in 0..limits::RUN_MOVES_PER_COMMIT {
        let Some(next) = live.next(&run, now).into_iter().next() else { break };
        let input = match next {
            Next::Start { index, params, claims } => {
                let asked = asked(live, &run, index, (params, claims))?;
                match make(shared, caller, &asked).await {
                    Ok(made) => {
                        ahead.made = Some(made);
                        break;
                    }
                    // Nobody can be asked for this: the tool is gone, or takes other parameters.
                    Err(Refused(failure)) if !passes(shared, caller, &failure) => {
                        refuse(&run, index, &failure)
                    }
                    Err(refused) => return Err(refused),
                }
            }
            Next::Skip { index } => {
                let step = name(&run, index)?;
                live.gave(&step, Value::Null);
                Input::Skip { step }
            }
            Next::Wait { index, until } => {
                Input::Wait { step: name(&run, index)?, until, timer: true }
            }
            Next::Refuse { index, failure } => {
                Input::Refuse { step: name(&run, index)?, failure, output_of: None }
            }
        };
        ahead.commands.push(command(&run, input.clone()));
        run = run.foresee(input, now)?;
    }
    Ok(ahead)
}

/// Whether what a step asks for may be asked for again just so.
fn passes(shared: &Shared, caller: &Caller, failure: &Failure) -> bool {
    failure.retryable
        || matches!(failure.category, Category::Internal | Category::Conflict)
        || shared.control.directory.suspended(&caller.tenant)
}

fn refuse(run: &Run, index: usize, failure: &Failure) -> Input {
    let step = run.request.steps.get(index).map(|spec| spec.id.clone());
    let failure = FailureCode { code: failure.code.clone(), category: failure.category };
    match step {
        Some(step) => Input::Refuse { step, failure, output_of: None },
        None => Input::Fail { failure },
    }
}

fn name(run: &Run, index: usize) -> Result<kernel::ids::StepId> {
    let spec = run.request.steps.get(index);
    spec.map(|spec| spec.id.clone()).ok_or_else(|| Refused::internal("a step without its run"))
}

/// What the step at `index` asks for.
fn asked(
    live: &Live,
    run: &Run,
    index: usize,
    (params, claims): (RawJson, Option<StepClaims>),
) -> Result<Asked> {
    let absent = || Refused::internal("a step without its plan");
    let step = live.document.plan.steps.get(index).ok_or_else(absent)?;
    let state = run.steps.get(index).ok_or_else(absent)?;
    let step_ref =
        StepRef { run: run.id.clone(), step: step.id.clone(), iteration: state.iteration };
    Ok(Asked {
        tool: step.tool.clone(),
        params,
        claims: said(claims)?,
        account: run.request.account.clone(),
        through: None,
        under: None,
        step: Some(Arc::new(AsStep {
            step: step_ref,
            approval: step.approval.clone(),
            timeout_ms: step.timeout_ms,
            max_attempts: step.retry.map(|retry| retry.attempts),
            run: run.facts(),
            model_pin: live.document.plan.model_pin.clone(),
        })),
        reverses: None,
    })
}

/// What a step says of its action, as an agent would say it.
pub(super) fn said(claims: Option<StepClaims>) -> Result<Claims> {
    let Some(StepClaims { target, data_types, rationale }) = claims else {
        return Claims::new(None);
    };
    let extra = (!rationale.is_empty()).then(|| Json::of(&json!({"rationale": rationale})));
    let extra = extra.transpose().map_err(Refused::internal)?;
    Claims::new(Some(proto::actions::Claims { target, data_types, extra }))
}

/// The failure of a run that cannot go on.
pub(super) fn failed(code: &str, category: Category) -> run::Input {
    Input::Fail { failure: FailureCode { code: code.to_owned(), category } }
}
