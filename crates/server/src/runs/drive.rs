//! Driving a run that can go on by itself: after its turn came, a timer, a retry, a person's yes,
//! or a crash. All of them are the same.

use std::sync::Arc;
use std::time::Instant;

use kernel::action::FailureCode;
use kernel::failure::Category;
use kernel::ids::RunId;
use kernel::machine::{Command, Kind, Refusal, State};
use kernel::plan;
use kernel::receipt::LogId;
use kernel::run::{Input, Run, Status};
use ledger::store::Page;
use ledger::{Batch, Error};
use tokio_util::sync::CancellationToken;

use super::ahead::{Ahead, ahead, command, failed};
use super::join::carry_out;
use super::live;
use super::retention::drop_content;
use crate::actions::withdraw;
use crate::caps;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// Reads which runs wait for their turn. What it returns serves them until `stop`.
pub(crate) fn begin(
    shared: &Arc<Shared>,
    stop: CancellationToken,
) -> std::result::Result<impl Future<Output = ()> + Send + use<>, Error> {
    for log in shared.ledger.store().logs()? {
        for status in [Status::Queued, Status::Running] {
            let status = Some(status.as_str().to_owned());
            let mut page = Page { before: None, status, limit: limits::PAGE_SIZE_MAX };
            loop {
                let states = shared.ledger.list(&log, Kind::Run, &page)?;
                let Some(State::Run(last)) = states.last() else { break };
                page.before = Some(last.id.to_string());
                for state in states {
                    if let State::Run(run) = &state {
                        shared.runs.admission.lock().track(&log, run, false);
                    }
                }
            }
        }
    }
    Ok(serve(shared.clone(), stop))
}

/// Drives what can go on, and lets in whose turn it is, until `stop`.
async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        loop {
            let due = shared.runs.due.lock().pop_first();
            let Some((log, id)) = due else { break };
            spawn(&shared, log, id);
        }
        loop {
            let turn = shared.runs.admission.lock().next(Instant::now());
            let Some((log, id)) = turn else { break };
            admit(&shared, log, id);
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.runs.wake.notified() => {}
            // A minute's count may be over.
            () = tokio::time::sleep(limits::QUEUE_IDLE) => {}
        }
    }
}

fn spawn(shared: &Arc<Shared>, log: LogId, id: RunId) {
    let shared = shared.clone();
    shared.running.clone().spawn(async move {
        if let Err(Refused(error)) = drive(&shared, &log, &id).await {
            // It is still due, and the queue comes by.
            match caps::is_put_off(&error) {
                true => tracing::debug!(run = %id, %error, "put off"),
                false => tracing::warn!(run = %id, %error, "left for later"),
            }
        }
    });
}

/// Lets a run in that has waited for its turn.
fn admit(shared: &Arc<Shared>, log: LogId, id: RunId) {
    let shared = shared.clone();
    shared.running.clone().spawn(async move {
        let input = kernel::machine::Input::Run(Input::Admit {});
        let admit = Command::new(Kind::Run, id.as_str(), input);
        if let Err(error) = shared.ledger.commit(Batch::new(log.clone(), vec![admit])).await {
            let LogId::Workspace(tenant, _) = &log else { return };
            shared.runs.admission.lock().leave(tenant, &id);
            tracing::warn!(run = %id, %error, "a run was not let in");
            // Unless somebody has ended or paused it, it goes on waiting.
            match shared.ledger.read(&log, Kind::Run, id.as_str()) {
                Ok(Some(State::Run(run))) if run.status == Status::Queued => {
                    tokio::time::sleep(limits::QUEUE_REST).await;
                    shared.runs.admission.lock().track(&log, &run, false);
                    shared.runs.wake.notify_one();
                }
                Ok(_) => {}
                Err(error) => tracing::error!(run = %id, %error, "a run cannot be read"),
            }
        }
    });
}

/// Carries a run as far as it goes without waiting.
pub(crate) async fn drive(shared: &Arc<Shared>, log: &LogId, id: &RunId) -> Result<()> {
    let lock = shared.runs.lock(id);
    let _one_at_a_time = lock.lock().await;
    for _ in 0..limits::RUN_MOVES_MAX {
        let Some(State::Run(run)) = shared.ledger.read(log, Kind::Run, id.as_str())? else {
            return Ok(());
        };
        if !advance(shared, log, run).await? {
            return Ok(());
        }
    }
    Ok(())
}

/// Moves a run once; whether it may move again.
async fn advance(shared: &Arc<Shared>, log: &LogId, run: Run) -> Result<bool> {
    let now = shared.now();
    if run.status.has_ended() {
        return close(shared, log, &run).await;
    }
    if run.ending.is_some() {
        return abandon(shared, log, &run).await;
    }
    if run.request.deadline.is_some_and(|deadline| deadline <= now) {
        return give(shared, log, &run, failed("run_timeout", Category::Timeout)).await;
    }
    if !matches!(run.status, Status::Running | Status::WaitingApproval)
        || run.due().is_none_or(|due| due > now)
    {
        return Ok(false);
    }
    let Some(live) = live::open(shared, log, &run)? else {
        return give(shared, log, &run, failed("result_expired", Category::NotFound)).await;
    };
    let Some(caller) = live.document.caller(shared) else {
        return give(shared, log, &run, failed("principal_disabled", Category::Permission)).await;
    };
    if shared.control.directory.suspended(&caller.tenant) {
        return Err(Refused(crate::credentials::suspended()));
    }
    let ahead = ahead(shared, &live, &caller, run.clone(), now).await?;
    if ahead.is_empty() {
        return Ok(false);
    }
    commit(shared, log, &run, &caller, ahead).await
}

/// Commits what a run does next. True also where something has changed meanwhile.
async fn commit(
    shared: &Arc<Shared>,
    log: &LogId,
    run: &Run,
    caller: &Caller,
    ahead: Ahead,
) -> Result<bool> {
    let Ahead { commands, made } = ahead;
    let mut batch = Batch::new(log.clone(), commands.clone());
    let Some(mut made) = made else {
        shared.ledger.commit(batch).await?;
        return Ok(true);
    };
    batch.fresh.push(made.stream());
    batch.commands.append(&mut made.commands);
    batch.side.append(&mut made.side);
    let refusal = match shared.ledger.commit(batch).await {
        Ok(committed) => {
            carry_out(shared, caller, made, &committed);
            return Ok(true);
        }
        Err(Error::Refused(refusal)) => refusal,
        Err(error) => return Err(error.into()),
    };
    let instead = match &refusal {
        Refusal::WritesExceeded => {
            let step = made.prepared.request.step.as_ref().map(|step| step.step.clone());
            let step = step.ok_or_else(|| Refused::internal("a step without its name"))?;
            let (code, category) = refusal.code();
            let failure = FailureCode { code: code.to_owned(), category };
            Some(vec![command(run, Input::Refuse { step, failure, output_of: None })])
        }
        // Policy changed, or somebody was faster: look again.
        Refusal::DecisionStale | Refusal::Moved | Refusal::State(_) | Refusal::Fenced => None,
        Refusal::NotDue => return Ok(false),
        refusal => match made.refused(refusal) {
            Some(commands) => Some(commands),
            None => return Err(refusal.clone().into()),
        },
    };
    if let Some(instead) = instead {
        let commands = [commands, instead].concat();
        shared.ledger.commit(Batch::new(log.clone(), commands)).await?;
    }
    Ok(true)
}

async fn give(shared: &Shared, log: &LogId, run: &Run, input: Input) -> Result<bool> {
    let batch = Batch::new(log.clone(), vec![command(run, input)]);
    shared.ledger.commit(batch).await?;
    Ok(true)
}

/// Withdraws what waits for people, for a run that ends.
async fn abandon(shared: &Shared, log: &LogId, run: &Run) -> Result<bool> {
    let acting = run.request.actors.acting().map(|actor| actor.id.clone());
    let Some(by) = acting else { return Err(Refused::internal("a run of nobody")) };
    for id in run.waiting() {
        if let Some(State::Action(action)) = shared.ledger.read(log, Kind::Action, id.as_str())? {
            withdraw(shared, log, &action, by.clone()).await?;
        }
    }
    Ok(false)
}

/// Returns what is left of the budget of a run that has ended, and deletes what it leaves behind.
async fn close(shared: &Shared, log: &LogId, run: &Run) -> Result<bool> {
    let mut commands = Vec::new();
    if let Some(own) = run.request.account.as_ref().filter(|_| run.owes()) {
        if let Some(State::Account(account)) =
            shared.ledger.read(log, Kind::Account, own.as_str())?
        {
            commands.extend(plan::give_back(&account));
        }
        commands.push(command(run, Input::Settle {}));
    }
    let (side, dropped) = drop_content(shared, log, run).await?;
    commands.extend(dropped);
    if !commands.is_empty() {
        shared.ledger.commit(Batch { side, ..Batch::new(log.clone(), commands) }).await?;
    }
    Ok(false)
}
