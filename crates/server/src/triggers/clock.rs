//! Triggers whose time comes. When they are due is in their states, so it survives whatever the
//! log survives; a time that was missed is made up for once.

use std::sync::Arc;
use std::time::Duration;

use kernel::action::FailureCode;
use kernel::cron::Cron;
use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;
use kernel::json::RawJson;
use kernel::machine::{self, Command, Kind, Refusal};
use kernel::receipt::LogId;
use kernel::run;
use kernel::trigger::{Fired, Input};
use kernel::values::Timestamp;
use ledger::Batch;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{Known, launch};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// Starts what is due until `stop`.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let rest = match take_due(&shared).await {
            Ok(rest) => rest,
            Err(error) => {
                tracing::error!(%error, "due triggers cannot be read");
                limits::QUEUE_REST
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Starts what is due and returns how long to wait.
async fn take_due(shared: &Arc<Shared>) -> std::result::Result<Duration, ledger::Error> {
    if shared.control.doubt.is_open() {
        return Ok(limits::QUEUE_REST);
    }
    let store = shared.control.ledger.store();
    let now = shared.now();
    for (log, stream) in store.due(now, limits::PAGE_SIZE_MAX)? {
        let LogId::Control(tenant) = &log else { continue };
        if stream.kind != Kind::Trigger || shared.control.directory.suspended(tenant) {
            continue;
        }
        let Some(known) = shared.triggers.find(tenant, &stream.id) else { continue };
        if let Err(Refused(failure)) = fire(shared, tenant, &known).await {
            tracing::warn!(%tenant, trigger = %stream.id, error = %failure, "left for later");
        }
    }
    let next = store.next_due()?;
    let micros = next.map_or(i64::MAX, |at| at.0.saturating_sub(shared.now().0));
    let until = Duration::from_micros(micros.max(0).unsigned_abs());
    // What could not be started is still due: it rests for a while.
    Ok(until.max(Duration::from_millis(50)).min(limits::QUEUE_IDLE))
}

/// Starts one run for the time that is due, and notes the next one. Between the two a crash leaves
/// the same time due, and its key makes the same run of it.
async fn fire(shared: &Arc<Shared>, tenant: &TenantId, known: &Known) -> Result<()> {
    let now = shared.now();
    let Some(due_at) = known.state.due().filter(|due| *due <= now) else { return Ok(()) };
    let started = start(shared, tenant, known, due_at).await;
    let (run, failure) = match started {
        Ok(run) => (Some(run), None),
        // Another time it may go: the time stays due.
        Err(Refused(failure)) if passes(&failure) => return Err(failure.into()),
        Err(Refused(failure)) => {
            let name = &known.state.name;
            tracing::warn!(%tenant, trigger = name, error = %failure, "a due time started no run");
            (None, Some(FailureCode { code: failure.code, category: failure.category }))
        }
    };
    let next_at = next(known, now.max(due_at));
    let fired = Fired { due_at, run, failure, next_at };
    let input = machine::Input::Trigger(Input::Fire(Box::new(fired)));
    let command = Command::new(Kind::Trigger, &known.state.name, input);
    let batch = Batch::new(LogId::Control(tenant.clone()), vec![command]);
    match shared.commit_control(batch).await {
        // It was changed meanwhile.
        Err(Refused(failure)) if failure.code == Refusal::Moved.code().0 => Ok(()),
        ended => ended.map(drop),
    }
}

/// Whether the same may go at another time.
pub(super) fn passes(failure: &Failure) -> bool {
    failure.retryable || matches!(failure.category, Category::Internal | Category::RateLimited)
}

async fn start(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    known: &Known,
    due_at: Timestamp,
) -> Result<kernel::ids::RunId> {
    let definition = known.definition()?;
    known.reviewed()?;
    let input = input(definition, due_at)?;
    let name = known.state.name.clone();
    let occasion = (
        format!("schedule:{name}:{}", due_at.0.div_euclid(1_000_000)),
        run::Trigger::Schedule { trigger: name },
    );
    launch::start(shared, tenant, definition, occasion, input).await
}

/// What a run is given of a due time.
pub(super) fn input(
    definition: &kernel::trigger::definition::Definition,
    due_at: Timestamp,
) -> Result<RawJson> {
    Ok(definition.input_of(&json!({"due_at_us": due_at.0})).map_err(super::door::unfit)?)
}

/// The first time after `after` that a schedule is due.
pub(super) fn next_of(cron: &str, after: Timestamp) -> Option<Timestamp> {
    Cron::parse(cron).ok()?.next_after(after)
}

fn next(known: &Known, after: Timestamp) -> Option<Timestamp> {
    let cron = known.definition().ok()?.cron.as_deref()?;
    next_of(cron, after)
}
