//! Whose key signed an entry of a full log.

use super::Error;
use crate::receipt::Statement;
use crate::signing_key::{Handover, KeyRanges};
use crate::verify::Verified;

/// Checks that an entry is signed by the log's key, and hands over only where the log does.
pub(super) fn signed_by(
    verified: &Verified,
    index: u64,
    statement: &Statement,
    ranges: &KeyRanges,
) -> Result<(), Error> {
    ranges.check(index, &verified.key_id).map_err(Error::Key)?;
    let next = Handover::read(index, &statement.predicate.transitions).map_err(Error::Key)?;
    let next = next.map(|handover| handover.key_id);
    let due = index.checked_add(1).and_then(|after| ranges.at(after));
    if next.is_some_and(|next| due != Some(next)) {
        return Err(Error::HiddenHandover(index));
    }
    Ok(())
}
