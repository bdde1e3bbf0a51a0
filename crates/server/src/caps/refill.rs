//! What the logs say of the last minute, read back before anything starts.

use kernel::action::Change;
use kernel::dsse::Envelope;
use kernel::ids::ActionId;
use kernel::machine::{self, Kind, State};
use kernel::receipt::{LogId, Statement};
use kernel::units::Unit;
use kernel::values::Timestamp;
use ledger::store::ReceiptRow;

use super::{MINUTE_MICROS, Write, counts};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// What the payload of a receipt has where an attempt began.
const STARTED: &[u8] = b"action.started";

/// Counts the writes of the last minute.
pub(crate) fn refill(shared: &Shared) -> Result<()> {
    let since = shared.now().plus_micros(-MINUTE_MICROS);
    for log in shared.ledger.store().logs()? {
        if matches!(log, LogId::Workspace(..)) {
            read(shared, &log, since)?;
        }
    }
    Ok(())
}

fn read(shared: &Shared, log: &LogId, since: Timestamp) -> Result<()> {
    let store = shared.ledger.store();
    let Some(head) = store.head(log)? else { return Ok(()) };
    let size = head.frontier.size();
    let mut next = first_since(shared, log, since, size)?;
    while next < size {
        let rows = store.receipts(log, next, limits::CAP_REFILL_PAGE)?;
        let Some(last) = rows.last() else { return Ok(()) };
        next = last.index.saturating_add(1);
        for row in &rows {
            count(shared, log, row)?;
        }
    }
    Ok(())
}

/// The first receipt after `since`: times of a log never go back.
fn first_since(shared: &Shared, log: &LogId, since: Timestamp, size: u64) -> Result<u64> {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low.midpoint(high);
        let rows = shared.ledger.store().receipts(log, middle, 1)?;
        let row = rows.first().ok_or_else(|| Refused::internal("a receipt is missing"))?;
        match statement(&payload(row)?)?.predicate.time_us > since {
            true => high = middle,
            false => low = middle.saturating_add(1),
        }
    }
    Ok(low)
}

fn payload(row: &ReceiptRow) -> Result<Vec<u8>> {
    Envelope::parse(&row.envelope).map(|envelope| envelope.payload).map_err(Refused::internal)
}

fn statement(payload: &[u8]) -> Result<Statement> {
    serde_json::from_slice(payload).map_err(Refused::internal)
}

fn count(shared: &Shared, log: &LogId, row: &ReceiptRow) -> Result<()> {
    let payload = payload(row)?;
    // Most receipts start nothing: those are not read.
    if !payload.windows(STARTED.len()).any(|window| window == STARTED) {
        return Ok(());
    }
    let statement = statement(&payload)?;
    for transition in &statement.predicate.transitions {
        let machine::Change::Action(Change::Started(_)) = &transition.change else { continue };
        let Ok(id) = ActionId::new(&*transition.stream.id) else { continue };
        started(shared, log, &id, statement.predicate.time_us)?;
    }
    Ok(())
}

fn started(shared: &Shared, log: &LogId, id: &ActionId, at: Timestamp) -> Result<()> {
    let (Some(State::Action(action)), LogId::Workspace(tenant, _)) =
        (shared.ledger.read(log, Kind::Action, id.as_str())?, log)
    else {
        return Err(Refused::internal(format!("the log has an attempt of {id}, and no action")));
    };
    let request = &action.request;
    if request.units.get(Unit::Writes) == 0 || !counts(shared, tenant, &request.tool) {
        return Ok(());
    }
    let name = |step: &kernel::run::StepRef| crate::runs::workflow_of(shared, log, &step.run);
    let workflow = request.step.as_ref().map(name).transpose()?;
    shared.caps.restore(&Write { log: log.clone(), workflow }, at);
    Ok(())
}
