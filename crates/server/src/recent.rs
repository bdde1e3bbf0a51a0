//! What the logs say of the last minute, read back before anything starts: a restart gives nobody
//! a second allowance.

use kernel::dsse::Envelope;
use kernel::receipt::{LogId, Statement};
use kernel::values::Timestamp;
use ledger::store::ReceiptRow;

use crate::error::{Refused, Result};
use crate::shared::Shared;
use crate::{caps, limits, runs};

const MINUTE_MICROS: i64 = 60_000_000;

/// What the payload of a receipt has that counts: an attempt or a run began.
const COUNTED: [&[u8]; 2] = [b"action.started", b"run.admitted"];

/// Counts the writes and the runs that began in the last minute.
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
        let rows = store.receipts(log, next, limits::REFILL_PAGE)?;
        let Some(last) = rows.last() else { return Ok(()) };
        next = last.index.saturating_add(1);
        for row in &rows {
            let payload = payload(row)?;
            // What begins nothing is not read.
            if COUNTED.iter().any(|mark| payload.windows(mark.len()).any(|part| part == *mark)) {
                let statement = statement(&payload)?;
                caps::count(shared, log, &statement)?;
                runs::count(shared, log, &statement);
            }
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
