//! The outcome of a step and the beginning of the next, in one commit.

use std::sync::Arc;

use kernel::action::{Action, FailureCode};
use kernel::failure::Category;
use kernel::machine::{self, Command, Kind, State};
use kernel::receipt::LogId;
use kernel::run::{self, Input, Run, Status, StepStatus};
use kernel::values::Timestamp;
use ledger::store::SideRow;
use ledger::{Batch, Committed, Error};

use super::ahead::{Ahead, ahead, command};
use super::live::{self, Live};
use crate::actions::{self, Body, Made};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};

/// Makes the outcome of a step's action durable, and what follows from it where that can be had in
/// the same commit. What follows is taken up later where it cannot: an outcome is never lost to it.
pub(crate) async fn keep(
    shared: &Arc<Shared>,
    log: &LogId,
    action: &Action,
    body: &Body,
    (commands, side): (Vec<Command>, Vec<SideRow>),
) -> std::result::Result<Option<Committed>, Error> {
    let joining = match Joining::of(shared, log, action, body, &commands).await {
        Ok(joining) => joining,
        Err(Refused(error)) => {
            tracing::warn!(action = %action.id, %error, "what follows is left for later");
            None
        }
    };
    let Some(Joining { before, ahead, caller }) = joining else {
        return actions::keep(shared, log, commands, side, false).await;
    };
    let outcome = [before, commands].concat();
    let Ahead { commands: after, made } = ahead;
    let mut batch = Batch::new(log.clone(), [outcome.clone(), after].concat());
    batch.side = side.clone();
    let mut begun = None;
    if let Some(mut made) = made {
        batch.fresh.push(made.stream());
        batch.commands.append(&mut made.commands);
        batch.side.append(&mut made.side);
        begun = Some(made);
    }
    match shared.ledger.commit(batch).await {
        Ok(committed) => {
            if let (Some(made), Some(caller)) = (begun, caller) {
                carry_out(shared, &caller, made, &committed);
            }
            Ok(Some(committed))
        }
        // The next step may not begin like this: its outcome stands all the same.
        Err(Error::Refused(_)) => actions::keep(shared, log, outcome, side, false).await,
        Err(Error::Full(_)) => actions::keep(shared, log, outcome, side, false).await,
        // It may have been kept.
        Err(Error::Store(_)) => actions::keep(shared, log, outcome, side, true).await,
        Err(error) => Err(error),
    }
}

/// Carries out an action that a commit has left with a permit.
pub(super) fn carry_out(shared: &Arc<Shared>, caller: &Caller, made: Made, committed: &Committed) {
    let Some(State::Action(action)) = committed.state(Kind::Action, made.id.as_str()) else {
        return;
    };
    shared.metrics.action(action.status.as_str());
    if action.permit().is_none() {
        // An approval expires one day.
        shared.queue.notify_one();
        return;
    }
    attempt(shared.clone(), caller.clone(), action.clone(), made);
}

/// Not awaited: the step after it is carried out from within.
fn attempt(shared: Arc<Shared>, caller: Caller, action: Action, made: Made) {
    let tasks = shared.running.clone();
    let attempt: std::pin::Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
        if let Err(Refused(error)) =
            actions::attempt(&shared, &caller, &action, &made.prepared).await
        {
            tracing::error!(action = %action.id, %error, "an outcome was not kept");
        }
    });
    tasks.spawn(attempt);
}

/// What goes along with an outcome.
struct Joining {
    /// Comes before the outcome: its output is not accepted.
    before: Vec<Command>,
    ahead: Ahead,
    caller: Option<Caller>,
}

impl Joining {
    async fn of(
        shared: &Arc<Shared>,
        log: &LogId,
        action: &Action,
        body: &Body,
        outcome: &[Command],
    ) -> Result<Option<Self>> {
        let Some(step) = &action.request.step else { return Ok(None) };
        let known = shared.runs.live.lock().get(&step.run).cloned();
        let known = known.and_then(|live| Some((live.state()?.0, live)));
        let (run, live) = match known {
            Some((run, live)) => (run, Some(live)),
            None => match shared.ledger.read(log, Kind::Run, step.run.as_str())? {
                // Nothing of a run that has ended is opened again.
                Some(State::Run(run)) if !run.status.has_ended() => {
                    let live = live::open(shared, log, &run)?;
                    (run, live)
                }
                _ => return Ok(None),
            },
        };
        let Some(live) = live else { return Ok(None) };
        let now = shared.now();
        let mut before = Vec::new();
        let mut run = run;
        if let Some(failure) = refused_output(&live, step, body) {
            let output_of = Some(action.id.clone());
            let input = Input::Refuse { step: step.step.clone(), failure, output_of };
            before.push(command(&run, input.clone()));
            run = run.foresee(input, now)?;
        }
        let Some(run) = foresee(action, outcome, run, now)? else { return Ok(None) };
        if let Some(result) = body.answered() {
            live.gave(&step.step, result.to_value());
        }
        let (mut run, mut ahead, mut caller) = (run, Ahead::default(), None);
        if let Some(input) = wanted_later(&run, step, body, now) {
            ahead.commands.push(command(&run, input.clone()));
            run = run.foresee(input, now)?;
        }
        if run.status == Status::Running {
            caller = live.document.caller(shared);
            if let Some(caller) = &caller {
                let more = go_on(shared, &live, caller, run, now).await;
                ahead.commands.extend(more.commands);
                ahead.made = more.made;
            }
        }
        Ok(Some(Self { before, ahead, caller }))
    }
}

/// Has a step that is tried again wait for as long as the other side wants.
fn wanted_later(run: &Run, step: &run::StepRef, body: &Body, now: Timestamp) -> Option<Input> {
    let wanted_ms = body.failure()?.retry_after_ms?;
    let until = now.plus_millis(i64::try_from(wanted_ms).ok()?);
    let state = run.position(&step.step).and_then(|index| run.steps.get(index))?;
    let sooner = state.wait_until.is_some_and(|own| own < until);
    let waits = run.status == Status::Running && state.status == StepStatus::Ready && sooner;
    waits.then(|| Input::Wait { step: step.step.clone(), until, timer: false })
}

/// What follows; nothing where that cannot be told now: the run is due then.
async fn go_on(shared: &Shared, live: &Live, caller: &Caller, run: Run, now: Timestamp) -> Ahead {
    match ahead(shared, live, caller, run, now).await {
        Ok(ahead) => ahead,
        Err(Refused(error)) => {
            tracing::debug!(%error, "the next step is left for later");
            Ahead::default()
        }
    }
}

/// The run as it will be once `outcome` has moved `action`.
fn foresee(action: &Action, outcome: &[Command], run: Run, now: Timestamp) -> Result<Option<Run>> {
    let of_action = |command: &&Command| {
        command.stream.kind == Kind::Action && *command.stream.id == *action.id.as_str()
    };
    let mut state = Some(State::Action(action.clone()));
    for Command { stream, input } in outcome.iter().filter(of_action) {
        let index = action.receipts.last().map_or(0, |index| index.saturating_add(1));
        for change in machine::step(state.as_ref(), input.clone(), now)? {
            let applied = machine::Applied { id: &stream.id, index, time: now };
            machine::apply(&mut state, &change, &applied);
        }
    }
    let Some(Command { input: machine::Input::Run(input), .. }) =
        run::follow(Some(action.status), state.as_ref())
    else {
        return Ok(None);
    };
    Ok(Some(run.foresee(input, now)?))
}

/// Why the output of a step is not accepted, where the plan says what it must be like.
fn refused_output(live: &Live, step: &run::StepRef, body: &Body) -> Option<FailureCode> {
    let planned = live.document.plan.steps.iter().find(|planned| planned.id == step.step)?;
    let (schema, result) = (planned.output_schema.as_ref()?, body.answered()?);
    let code = |code: &str| FailureCode { code: code.to_owned(), category: Category::Validation };
    match connectors::schema::Validator::foreign(schema) {
        Ok(schema) => match schema.check(&result.to_value()) {
            Ok(()) => None,
            Err(_) => Some(code("output_schema_mismatch")),
        },
        Err(_) => Some(code("output_schema_invalid")),
    }
}
