//! The queue of work: whatever is due is looked at, by the order in which it became due.
//!
//! What is due follows from the states themselves, so the queue survives anything that the log
//! survives. An attempt is leased by its permit; the sequencer refuses the outcome of any other.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use kernel::action::{Action, Status};
use kernel::failure::Category;
use kernel::machine::{Kind, State, Stream};
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use ledger::store::Page;
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::run;
use crate::caps;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;
use crate::{accounts, transfers};

type Item = (LogId, Stream);

/// Has the queue look before it would by itself.
#[derive(Default)]
pub(crate) struct Bell {
    rung: Notify,
    /// Until when the queue rests, in microseconds; without end while it looks.
    rests_until: AtomicI64,
}

impl Bell {
    /// Has it look now.
    pub(crate) fn notify_one(&self) {
        self.rung.notify_one();
    }

    /// Has it look in time for what becomes due at `at`. Called once that is durable.
    pub(crate) fn due(&self, at: Timestamp) {
        if at.0 < self.rests_until.load(Ordering::SeqCst) {
            self.rung.notify_one();
        }
    }
}

/// What is being handled, and until when it is left alone.
type Held = Arc<Mutex<HashMap<Item, Option<Instant>>>>;

/// Serves the queue until `stop`.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let held: Held = Held::default();
    let slots = Arc::new(Semaphore::new(limits::QUEUE_CONCURRENCY));
    loop {
        let rest = match take_due(&shared, &held, &slots).await {
            Ok(rest) => rest,
            Err(error) => {
                tracing::error!(%error, "the queue cannot be read");
                limits::QUEUE_REST
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.queue.rung.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
    }
}

/// Starts what is due and returns how long until the next is.
async fn take_due(
    shared: &Arc<Shared>,
    held: &Held,
    slots: &Arc<Semaphore>,
) -> std::result::Result<Duration, ledger::Error> {
    // What becomes durable from here on is heard of, whether or not it is seen below.
    shared.queue.rests_until.store(i64::MAX, Ordering::SeqCst);
    let now = shared.now();
    held.lock().retain(|_, until| until.is_none_or(|until| until > Instant::now()));
    // What is held stays due: ask for so many more.
    let busy = u32::try_from(held.lock().len()).unwrap_or(u32::MAX);
    let due = shared.ledger.store().due(now, busy.saturating_add(64))?;
    let mut started = 0;
    for item in due {
        if held.lock().contains_key(&item) {
            continue;
        }
        let Ok(slot) = slots.clone().acquire_owned().await else { break };
        held.lock().insert(item.clone(), None);
        started += 1;
        let (shared, held) = (shared.clone(), held.clone());
        shared.running.clone().spawn(async move {
            let until = match handle(&shared, &item).await {
                Ok(()) => None,
                Err(refused) if caps::is_put_off(&refused.0) => {
                    let ms = refused.0.retry_after_ms.unwrap_or_default();
                    Some(Instant::now() + Duration::from_millis(ms).min(limits::PUT_OFF_MAX))
                }
                // What a suspended tenant has waiting rests until the tenant is resumed, and what
                // goes on here until it has ended.
                Err(Refused(failure)) if failure.code == GOES_ON || suspended(&shared, &item.0) => {
                    Some(Instant::now() + limits::QUEUE_REST)
                }
                Err(refused) => {
                    tracing::warn!(stream = %item.1, error = %refused.0, "left for later");
                    Some(Instant::now() + limits::QUEUE_REST)
                }
            };
            match until {
                None => held.lock().remove(&item),
                some => held.lock().insert(item, some),
            };
            drop(slot);
            shared.queue.notify_one();
        });
    }
    if started > 0 {
        return Ok(Duration::ZERO);
    }
    let next = shared.ledger.store().next_due()?;
    if next.is_some_and(|at| at <= now) {
        // All that is due is held: somebody says when it is let go, or its time comes.
        return Ok(limits::QUEUE_HELD_REST);
    }
    let micros = next.map_or(i64::MAX, |at| at.0.saturating_sub(now.0).max(1_000));
    let rest = Duration::from_micros(micros.unsigned_abs()).min(limits::QUEUE_IDLE);
    let until = now.plus_micros(i64::try_from(rest.as_micros()).unwrap_or(i64::MAX));
    shared.queue.rests_until.store(until.0, Ordering::SeqCst);
    Ok(rest)
}

/// The code where an attempt whose lease is over by the clock goes on.
const GOES_ON: &str = "attempt_under_way";

fn goes_on() -> Refused {
    Refused::new(Category::Conflict, GOES_ON, "its attempt goes on here")
}

fn suspended(shared: &Shared, log: &LogId) -> bool {
    match log {
        LogId::Workspace(tenant, _) => shared.control.directory.suspended(tenant),
        _ => false,
    }
}

/// Does what one thing waits for.
async fn handle(shared: &Arc<Shared>, (log, stream): &Item) -> Result<()> {
    let now = shared.now();
    match shared.ledger.read(log, stream.kind, &stream.id)? {
        Some(State::Action(action)) if action.due().is_some_and(|at| at <= now) => {
            match action.status {
                Status::Approved if suspended(shared, log) => {
                    Err(Refused(crate::credentials::suspended()))
                }
                Status::Approved => run::resume(shared, log, &action).await,
                Status::Executing if shared.underway.holds(&action) => Err(goes_on()),
                Status::Executing => run::lost(shared, log, &action).await,
                _ => Ok(()),
            }
        }
        Some(State::Approval(approval)) if approval.due().is_some_and(|at| at <= now) => {
            if !approval.over(now) {
                return run::escalate(shared, log, &approval).await;
            }
            let id = approval.request.action.as_str();
            match shared.ledger.read(log, Kind::Action, id)? {
                Some(State::Action(action)) => run::expire(shared, log, &approval, &action).await,
                _ => Err(Refused::internal("an approval without its action")),
            }
        }
        Some(State::Account(account)) if account.due().is_some_and(|at| at <= now) => {
            accounts::settle(shared, log, &account).await
        }
        Some(State::Transfer(transfer)) if transfer.due().is_some_and(|at| at <= now) => {
            transfers::carry(shared, log, &transfer).await
        }
        Some(State::Run(run)) if run.due().is_some_and(|at| at <= now) => {
            if suspended(shared, log) {
                return Err(Refused(crate::credentials::suspended()));
            }
            crate::runs::drive(shared, log, &run.id).await
        }
        Some(State::Card(card)) if card.due().is_some_and(|at| at <= now) => {
            crate::cards::retry(shared, log, &card.approval).await
        }
        // Somebody else was faster.
        _ => Ok(()),
    }
}

/// Ends every attempt of servers that are gone, before anything new runs.
pub(crate) async fn recover(shared: &Shared) -> Result<()> {
    for log in shared.ledger.store().logs()? {
        let mut page = Page {
            before: None,
            status: Some(Status::Executing.as_str().to_owned()),
            limit: limits::PAGE_SIZE_MAX,
        };
        loop {
            let rows = shared.ledger.store().entities(&log, Kind::Action, &page)?;
            let Some(last) = rows.last() else { break };
            page.before = Some(last.stream.id.to_string());
            for row in &rows {
                let state = shared.ledger.read(&log, Kind::Action, &row.stream.id)?;
                if let Some(State::Action(action)) = state {
                    recover_one(shared, &log, &action).await?;
                }
            }
        }
    }
    Ok(())
}

async fn recover_one(shared: &Shared, log: &LogId, action: &Action) -> Result<()> {
    let foreign = |attempt: &kernel::action::Attempt| attempt.epoch != shared.ledger.epoch();
    if action.attempt.as_ref().is_some_and(foreign) {
        run::lost(shared, log, action).await?;
    }
    Ok(())
}
