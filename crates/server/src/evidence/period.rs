//! Which receipts of a log a time has. Times of receipts never go back, so a few looks find where
//! one begins.

use kernel::dsse::Envelope;
use kernel::receipt::{LogId, Statement};
use kernel::values::Timestamp;
use ledger::Ledger;

use crate::error::{Refused, Result};

/// The index of the first of the first `size` receipts that is not before `time`; `size` where all
/// are.
pub(super) fn index_at(ledger: &Ledger, log: &LogId, size: u64, time: Timestamp) -> Result<u64> {
    let (mut low, mut high) = (0, size);
    while low < high {
        let middle = low + (high - low) / 2;
        if time_of(ledger, log, middle)? < time {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

fn time_of(ledger: &Ledger, log: &LogId, index: u64) -> Result<Timestamp> {
    let row = ledger.store().receipts(log, index, 1)?.pop().filter(|row| row.index == index);
    let row = row.ok_or_else(|| Refused::internal("a receipt is missing from the log"))?;
    let payload = Envelope::parse(&row.envelope).map_err(Refused::internal)?.payload;
    Ok(Statement::parse(&payload).map_err(Refused::internal)?.predicate.time_us)
}
