//! Every action that the steps of a run had, told from its receipts: its state names the last ones.

use kernel::dsse::Envelope;
use kernel::failure::{Category, Failure};
use kernel::ids::ActionId;
use kernel::machine::{Change as Changed, Kind};
use kernel::receipt::{LogId, Statement};
use kernel::run::{Change, Run, StepSpec};

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// The actions of one step since it was last begun anew: for which of its calls, and which.
pub(super) type Actions = Vec<(u32, ActionId)>;

/// The actions of each step of `run`.
pub(super) fn history(shared: &Shared, log: &LogId, run: &Run) -> Result<Vec<Actions>> {
    let once = |spec: &StepSpec| spec.iterations == 1 && spec.attempts == 1;
    if run.request.steps.iter().all(once) {
        let last = run.steps.iter().map(|step| step.action.iter().map(|id| (1, id.clone())));
        return Ok(last.map(Iterator::collect).collect());
    }
    let mut history = vec![Actions::new(); run.steps.len()];
    let receipts = run.last_receipt.saturating_sub(run.first_receipt);
    if receipts >= limits::RUN_HISTORY_RECEIPTS {
        return Err(too_long().into());
    }
    let mut from = run.first_receipt;
    while from <= run.last_receipt {
        let rows = shared.ledger.store().receipts(log, from, limits::RUN_HISTORY_PAGE)?;
        let Some(last) = rows.last() else { break };
        from = last.index.saturating_add(1);
        for row in rows.iter().filter(|row| row.index <= run.last_receipt) {
            let envelope = Envelope::parse(&row.envelope).map_err(Refused::internal)?;
            let statement: Statement =
                serde_json::from_slice(&envelope.payload).map_err(Refused::internal)?;
            for transition in &statement.predicate.transitions {
                let stream = &transition.stream;
                if stream.kind == Kind::Run
                    && *stream.id == *run.id.as_str()
                    && let Changed::Run(change) = &transition.change
                {
                    take(run, &mut history, change);
                }
            }
        }
    }
    Ok(history)
}

fn take(run: &Run, history: &mut [Actions], change: &Change) {
    match change {
        Change::StepStarted { step, iteration, action, .. } => {
            let actions = run.position(step).and_then(|index| history.get_mut(index));
            if let Some(actions) = actions {
                actions.push((*iteration, action.clone()));
            }
        }
        // From there on nothing has happened.
        Change::Replayed { from, .. } => {
            let first = run.position(from).unwrap_or_default();
            history.iter_mut().skip(first).for_each(Vec::clear);
        }
        _ => {}
    }
}

fn too_long() -> Failure {
    let message = "too much else happened in the workspace while the run went on: its receipts are \
                   too many to be read again";
    Failure::new(Category::Permanent, "history_too_long", message)
}
