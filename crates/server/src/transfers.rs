//! Transfers: budgets of one workspace that go to another.
//!
//! Each end is a commit of its own log. The queue finds those that left and did not arrive, so a
//! crash in between holds one up and no more.

use std::sync::Arc;

use kernel::action::FailureCode;
use kernel::ids::{AccountId, TransferId, WorkspaceId};
use kernel::machine::{Kind, Refusal, State};
use kernel::plan::transfer as plan;
use kernel::receipt::LogId;
use kernel::transfer::{Status, Terms, Transfer};
use kernel::values::{Digest, Shared as Held};
use ledger::{Batch, Error};
use prost::Message as _;
use proto::accounts::{Transfer as WireTransfer, TransferAccountRequest};
use proto::types::Units as WireUnits;
use proto::wire::Timestamp;

use crate::accounts::amounts;
use crate::error::{Refused, Result, wire as wire_error};
use crate::shared::{Caller, Mutated, Shared, new_id};

/// Sends, and waits for the other end.
pub(crate) async fn send(
    shared: &Arc<Shared>,
    caller: &Caller,
    wire: TransferAccountRequest,
) -> Result<WireTransfer> {
    let body = Digest::of(&wire.encode_to_vec());
    let (amount, units) = amounts(wire.amount_micro_usd, wire.units)?;
    let account = |field: &str, id: &str| {
        AccountId::new(id).map_err(|error| Refused::invalid(format!("{field}: {error}")))
    };
    let payer = account("account_id", &wire.account_id)?;
    let receiver = match wire.to_account_id.as_str() {
        "" => payer.clone(),
        id => account("to_account_id", id)?,
    };
    let to = WorkspaceId::new(&wire.to_workspace)
        .map_err(|error| Refused::invalid(format!("to_workspace: {error}")))?;
    if shared.control.directory.workspace(&caller.tenant, &to).is_none() {
        return Err(Refused::not_found("workspace"));
    }
    let there = LogId::Workspace(caller.tenant.clone(), to.clone());
    if shared.ledger.read(&there, Kind::Account, receiver.as_str())?.is_none() {
        return Err(Refused::not_found("account in the other workspace"));
    }
    let (from, by) = (caller.workspace.clone(), caller.id.clone());
    let terms = Held::new(Terms { from, payer, to, receiver, amount, units, by });
    let id = TransferId::new(new_id("trf")).map_err(Refused::internal)?;
    let batch = Batch::new(caller.log(), plan::send(&id, &terms)?);
    let sent = shared.mutate(caller, "account_transfer", body, id.as_str(), batch).await?;
    let id = match sent {
        Mutated::Fresh(committed) => {
            crate::accounts::told(shared, &committed);
            id
        }
        Mutated::Repeat(id) => TransferId::new(id).map_err(Refused::internal)?,
    };
    let transfer =
        find(shared, &caller.log(), &id)?.ok_or_else(|| Refused::not_found("transfer"))?;
    if transfer.status == Status::Sent {
        let (shared, log) = (shared.clone(), caller.log());
        // A task of its own: a caller who goes away does not hold it up.
        let ended = tokio::spawn(async move { carry(&shared, &log, &transfer).await });
        if let Err(Refused(error)) = ended.await.map_err(Refused::internal)? {
            tracing::warn!(transfer = %id, %error, "left for later");
        }
    }
    show(shared, caller, id.as_str())
}

/// A transfer as the caller's workspace has it.
pub(crate) fn show(shared: &Shared, caller: &Caller, id: &str) -> Result<WireTransfer> {
    let absent = || Refused::not_found("transfer");
    let id = TransferId::new(id).map_err(|_| absent())?;
    find(shared, &caller.log(), &id)?.map(|found| wire(&caller.log(), &found)).ok_or_else(absent)
}

fn find(shared: &Shared, log: &LogId, id: &TransferId) -> Result<Option<Transfer>> {
    match shared.ledger.read(log, Kind::Transfer, id.as_str())? {
        Some(State::Transfer(transfer)) => Ok(Some(transfer)),
        _ => Ok(None),
    }
}

/// Brings a transfer that has left `log` to its end. Whoever else does so at the same time does
/// the same.
pub(crate) async fn carry(shared: &Shared, log: &LogId, transfer: &Transfer) -> Result<()> {
    let Transfer { id, terms, .. } = transfer;
    let LogId::Workspace(tenant, _) = log else { return Err(Refused::internal("no workspace")) };
    let there = LogId::Workspace(tenant.clone(), terms.to.clone());
    let reached = match find(shared, &there, id)? {
        Some(reached) => reached,
        None => reach(shared, &there, id, terms).await?,
    };
    let follow = match (reached.status, reached.failure) {
        (Status::Received, _) => plan::arrive(id),
        (Status::Refused, Some(failure)) => plan::take_back(id, terms, failure)?,
        _ => return Err(Refused::internal("a transfer that is neither here nor there")),
    };
    match shared.ledger.commit(Batch::new(log.clone(), follow)).await {
        // Somebody else was faster.
        Ok(_) | Err(Error::Refused(Refusal::State(_))) => {
            shared.queue.notify_one();
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Has the other log take a transfer, or refuse it: once, whoever asks.
async fn reach(
    shared: &Shared,
    there: &LogId,
    id: &TransferId,
    terms: &Held<Terms>,
) -> Result<Transfer> {
    let receive = Batch::new(there.clone(), plan::receive(id, terms)?);
    let refusal = match shared.ledger.commit(receive).await {
        Ok(_) | Err(Error::Refused(Refusal::Exists)) => None,
        Err(Error::Refused(refusal)) => Some(refusal),
        Err(error) => return Err(error.into()),
    };
    if let Some(refusal) = refusal {
        let (code, category) = refusal.code();
        let failure = FailureCode { code: code.to_owned(), category };
        let refuse = Batch::new(there.clone(), plan::refuse(id, terms, failure));
        match shared.ledger.commit(refuse).await {
            Ok(_) | Err(Error::Refused(Refusal::Exists)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    find(shared, there, id)?.ok_or_else(|| Refused::internal("a transfer that left no trace"))
}

fn wire(log: &LogId, transfer: &Transfer) -> WireTransfer {
    let Transfer { id, status, terms, failure, began_at, updated_at, last_receipt } = transfer;
    let [tokens, calls, writes, cpu_ms] =
        kernel::units::Unit::ALL.map(|unit| terms.units.get(unit));
    let units = WireUnits { tokens, calls, writes, cpu_ms };
    let time = |at: &kernel::values::Timestamp| Some(Timestamp::from_micros(at.0));
    WireTransfer {
        transfer_id: id.to_string(),
        state: status.as_str().to_owned(),
        from_workspace: terms.from.to_string(),
        from_account_id: terms.payer.to_string(),
        to_workspace: terms.to.to_string(),
        to_account_id: terms.receiver.to_string(),
        amount_micro_usd: terms.amount.0,
        units: (!terms.units.is_empty()).then_some(units),
        error: failure.as_ref().map(|code| {
            let message = crate::actions::sentence(&code.code);
            wire_error(kernel::failure::Failure::new(code.category, &code.code, message))
        }),
        created_at: time(began_at),
        updated_at: time(updated_at),
        receipt_id: log.receipt_id(*last_receipt),
    }
}
