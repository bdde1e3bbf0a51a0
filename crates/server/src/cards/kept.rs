//! What a card says an action is about, kept sealed as long as the card may change: the action's
//! own document is gone when the action has ended, and the card that then shows how it ended must
//! not lose what was decided.

use kernel::ids::ApprovalId;
use kernel::receipt::LogId;
use ledger::store::{Class, SideRow};
use serde_json::Value;

use super::{Subject, blocks};
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// The part of an approval's content that its card shows.
const CARD: &str = "card";

/// Seals what the card of an approval says, where it may say it.
pub(super) async fn keep(shared: &Shared, subject: &Subject<'_>) -> Result<Option<SideRow>> {
    let Some(about) = blocks::about(shared, subject)? else { return Ok(None) };
    let bytes = serde_json::to_vec(&about).map_err(Refused::internal)?;
    let (tenant, id) = (subject.log.tenant(), subject.approval.id.as_str());
    let sealed = shared.vault.seal(tenant, id, CARD, Class::Request, &bytes, shared.now());
    Ok(Some(sealed.await?))
}

/// What was kept; none where it was deleted with its run, or its time is over.
pub(super) fn kept(shared: &Shared, subject: &Subject<'_>) -> Result<Option<Vec<Value>>> {
    let (tenant, id) = (subject.log.tenant(), subject.approval.id.as_str());
    let Some(bytes) = shared.vault.open(tenant, id, CARD)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(Refused::internal)
}

/// Deletes it.
pub(crate) fn drop_kept(log: &LogId, id: &ApprovalId) -> SideRow {
    SideRow::DropContent { tenant: log.tenant().to_owned(), id: id.to_string(), part: CARD }
}
