//! Making an outcome durable: the effect has happened, so a store that fails is asked again.

use std::time::Instant;

use kernel::machine::Command;
use kernel::receipt::LogId;
use ledger::store::SideRow;
use ledger::{Batch, Committed, Error};

use crate::limits;
use crate::shared::Shared;

/// Commits, again and again where the store fails or is full. None where an earlier try turns out
/// to have been kept, or the attempt has been ended by somebody else meanwhile. `failed`: there was
/// such a try before.
pub(crate) async fn keep(
    shared: &Shared,
    log: &LogId,
    commands: Vec<Command>,
    side: Vec<SideRow>,
    mut failed: bool,
) -> Result<Option<Committed>, Error> {
    let until = Instant::now() + limits::OUTCOME_PATIENCE;
    loop {
        let batch = Batch { side: side.clone(), ..Batch::new(log.clone(), commands.clone()) };
        match shared.ledger.commit(batch).await {
            Ok(committed) => return Ok(Some(committed)),
            Err(Error::Refused(_)) if failed => return Ok(None),
            // It has not happened, and will once there is space again: for as long as that takes.
            Err(Error::Full(_)) if !shared.running.is_closed() => {
                tokio::time::sleep(limits::OUTCOME_REST).await;
            }
            Err(Error::Store(error)) if Instant::now() < until => {
                tracing::warn!(error, "an outcome could not be kept: trying again");
                failed = true;
                tokio::time::sleep(limits::OUTCOME_REST).await;
            }
            Err(error) => return Err(error),
        }
    }
}
