//! Deliveries that start no run.
//!
//! What may go at another time is for its source to deliver again. What will not go as things are
//! is kept, sealed, as `kernel::delivery` says, until somebody has it tried again, its source
//! delivers it again, or its time is over. Whoever tries it: it is the same event, and starts one
//! run.

use std::sync::Arc;

use kernel::action::FailureCode;
use kernel::delivery::{self, Delivery, Input, Status};
use kernel::failure::{Category, Failure};
use kernel::ids::{PrincipalId, RunId, TenantId};
use kernel::machine::{self, Command, Kind, Refusal, State};
use kernel::receipt::LogId;
use kernel::run;
use kernel::values::Digest;
use ledger::store::{Class, SideRow};
use ledger::{Batch, Error};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::clock::passes;
use super::door::{Event, unfit};
use super::{Known, launch};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// The part of a delivery's content that is its event.
const EVENT: &str = "event";
/// The event has started a run before, and says something else now.
const OTHERWISE: &str = "idempotency_conflict";

/// What is kept of an event.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: String,
    name: String,
    body: Value,
}

/// The run of an event, as its source delivers it.
pub(super) async fn take(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    known: &Known,
    event: Event,
) -> Result<RunId> {
    let (log, id) = (log_of(tenant, known), delivery::id_of(&digest(known, &event)));
    let failure = match start(shared, tenant, known, &event).await {
        Ok(run) => {
            started(shared, &log, &id, &run, None).await?;
            return Ok(run);
        }
        Err(Refused(failure)) => failure,
    };
    if failure.code == OTHERWISE || shared.control.directory.suspended(tenant) {
        return Err(failure.into());
    }
    if passes(&failure) {
        return Err(later(failure).into());
    }
    let trigger = &known.state.name;
    tracing::warn!(%tenant, trigger, delivery = id, error = %failure, "an event started no run");
    keep(shared, known, (&log, &id), event, &failure).await?;
    let message =
        format!("{}; it is kept: `tally trigger replay {id}` tries it again", failure.message);
    Err(Failure { message, ..failure }.into())
}

/// Starts the run of an event. The same event has one, whoever asks.
async fn start(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    known: &Known,
    event: &Event,
) -> Result<RunId> {
    let definition = known.definition()?;
    known.reviewed()?;
    let input = definition.input_of(&event.body).map_err(unfit)?;
    let trigger =
        run::Trigger::Event { trigger: known.state.name.clone(), event: digest(known, event) };
    launch::start(shared, tenant, definition, (key(known, event), trigger), input).await
}

fn key(known: &Known, event: &Event) -> String {
    format!("event:{}:{}", known.state.name, event.id)
}

fn digest(known: &Known, event: &Event) -> Digest {
    Digest::of(key(known, event).as_bytes())
}

/// The log of the workspace in which the runs of a trigger are.
fn log_of(tenant: &TenantId, known: &Known) -> LogId {
    LogId::Workspace(tenant.clone(), known.state.binding.workspace.clone())
}

/// What its source is to try again: whatever is in the way, it is not the event.
fn later(failure: Failure) -> Failure {
    let wait_ms = failure.retry_after_ms.unwrap_or(limits::HOOK_RETRY_MS);
    let later = Failure::new(Category::Internal, &failure.code, failure.message);
    later.retryable(true).retry_after_ms(wait_ms)
}

/// Keeps an event that started no run.
async fn keep(
    shared: &Shared,
    known: &Known,
    (log, id): (&LogId, &str),
    event: Event,
    failure: &Failure,
) -> Result<()> {
    let digest = digest(known, &event);
    let Event { id: own, name, body } = event;
    let kept = serde_json::to_vec(&Kept { id: own, name, body }).map_err(Refused::internal)?;
    let sealed = shared.vault.seal(log.tenant(), id, EVENT, Class::Request, &kept, shared.now());
    let input = Input::Die {
        trigger: known.state.name.clone(),
        event: digest,
        failure: FailureCode { code: failure.code.clone(), category: failure.category },
    };
    change(shared, log, id, input, sealed.await?).await
}

/// Notes that a delivery that was dead has its run now, where there is such a one.
async fn started(
    shared: &Shared,
    log: &LogId,
    id: &str,
    run: &RunId,
    by: Option<PrincipalId>,
) -> Result<()> {
    match shared.ledger.read(log, Kind::Delivery, id)? {
        Some(State::Delivery(delivery)) if delivery.status != Status::Started => {
            change(shared, log, id, Input::Start { run: run.clone(), by }, drop_event(log, id))
                .await
        }
        _ => Ok(()),
    }
}

fn drop_event(log: &LogId, id: &str) -> SideRow {
    SideRow::DropContent { tenant: log.tenant().to_owned(), id: id.to_owned(), part: EVENT }
}

/// Where somebody was faster, or nothing is new, there is nothing to be done.
async fn change(shared: &Shared, log: &LogId, id: &str, input: Input, side: SideRow) -> Result<()> {
    let command = Command::new(Kind::Delivery, id, machine::Input::Delivery(input));
    let batch = Batch { side: vec![side], ..Batch::new(log.clone(), vec![command]) };
    match shared.ledger.commit(batch).await {
        Ok(_) | Err(Error::Refused(Refusal::State(_))) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A delivery of the caller's workspace.
fn find(shared: &Shared, caller: &Caller, id: &str) -> Result<Delivery> {
    match shared.ledger.read(&caller.log(), Kind::Delivery, id)? {
        Some(State::Delivery(delivery)) => Ok(delivery),
        _ => Err(Refused::not_found("delivery")),
    }
}

fn over(delivery: &Delivery) -> Refused {
    let message = format!("the delivery is {}: only a dead one can be", delivery.status.as_str());
    Refused::new(Category::Conflict, "delivery_over", message)
}

/// Tries a dead delivery again, by its trigger as that is now. One that has its run is as it is.
pub(super) async fn replay(shared: &Arc<Shared>, caller: &Caller, id: &str) -> Result<Delivery> {
    let delivery = find(shared, caller, id)?;
    match delivery.status {
        Status::Started => return Ok(delivery),
        Status::Discarded => return Err(over(&delivery)),
        Status::Dead => {}
    }
    let (tenant, log) = (&caller.tenant, caller.log());
    let known = shared.triggers.find(tenant, &delivery.trigger);
    let known = known.filter(|known| known.state.enabled && log_of(tenant, known) == log);
    let known = known.ok_or_else(|| {
        let message = format!("there is no trigger `{}` here, or it is disabled", delivery.trigger);
        Refused::new(Category::Conflict, "trigger_gone", message)
    })?;
    let Some(kept) = shared.vault.open(tenant.as_str(), id, EVENT)? else {
        let message = "what was delivered is no longer kept: have its source deliver it again";
        return Err(Refused::new(Category::NotFound, "delivery_expired", message));
    };
    let Kept { id: own, name, body } = serde_json::from_slice(&kept).map_err(Refused::internal)?;
    let event = Event { id: own, name, body };
    if !known.definition()?.takes(&event.name, &event.body) {
        let message = "the trigger no longer takes such events: discard it";
        return Err(Refused::new(Category::Conflict, "event_not_taken", message));
    }
    match start(shared, tenant, &known, &event).await {
        Ok(run) => started(shared, &log, id, &run, Some(caller.id.clone())).await?,
        Err(Refused(failure)) => {
            if !passes(&failure) {
                keep(shared, &known, (&log, id), event, &failure).await?;
            }
            return Err(failure.into());
        }
    }
    find(shared, caller, id)
}

/// Gives a dead delivery up.
pub(super) async fn discard(shared: &Shared, caller: &Caller, id: &str) -> Result<Delivery> {
    let delivery = find(shared, caller, id)?;
    if delivery.status == Status::Started {
        return Err(over(&delivery));
    }
    let log = caller.log();
    let input = Input::Discard { by: caller.id.clone() };
    change(shared, &log, id, input, drop_event(&log, id)).await?;
    find(shared, caller, id)
}
