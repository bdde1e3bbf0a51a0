//! Deleting what a run leaves behind that keeps metadata alone.
//!
//! Everything in words or data goes: what it was given, what its steps were called with and gave,
//! what code was fed and recorded, and the reasons that people wrote. What stays is what the log
//! has: digests, codes, ids, times and costs; and, of a write that can be reversed, what was there
//! before, for as long as it can.

use kernel::failure::{Category, Failure};
use kernel::machine::Command;
use kernel::receipt::LogId;
use kernel::run::{Input, Run};
use ledger::Batch;
use ledger::store::SideRow;

use super::ahead::command;
use super::document::DOCUMENT;
use super::members::Members;
use crate::actions::{drop_document, drop_result};
use crate::approvals;
use crate::cards;
use crate::error::Result;
use crate::limits;
use crate::sandbox;
use crate::shared::Shared;

/// What deletes the content of a run that has ended, where it is to be deleted: rows, and the
/// command that says so. More rows than one commit takes are deleted before.
pub(super) async fn drop_content(
    shared: &Shared,
    log: &LogId,
    run: &Run,
) -> Result<(Vec<SideRow>, Option<Command>)> {
    if !run.leaves_content() {
        return Ok((Vec::new(), None));
    }
    let mut rows = rows(shared, log, run)?;
    while rows.len() > limits::CONTENT_DROPPED_AT_ONCE {
        let rest = rows.split_off(rows.len() - limits::CONTENT_DROPPED_AT_ONCE);
        shared.ledger.commit(Batch::side(log.clone(), rest)).await?;
    }
    Ok((rows, Some(command(run, Input::DropContent {}))))
}

fn rows(shared: &Shared, log: &LogId, run: &Run) -> Result<Vec<SideRow>> {
    let members = Members::of(shared, log, run, u64::MAX)?;
    let (tenant, id) = (log.tenant().to_owned(), run.id.to_string());
    let mut rows = vec![SideRow::DropContent { tenant, id, part: DOCUMENT }];
    for action in &members.actions {
        rows.push(drop_document(log, &action.id));
        rows.push(drop_result(log, &action.id));
        rows.extend(sandbox::drop_recording(log, action));
    }
    for approval in &members.approvals {
        rows.extend(approvals::drop_reasons(log, approval));
        rows.push(cards::drop_kept(log, &approval.id));
    }
    Ok(rows)
}

/// Why there is no content of a run.
pub(super) fn gone(run: &Run) -> Failure {
    if run.content_dropped { dropped() } else { super::replay::expired() }
}

/// It was deleted with the end of its run.
pub(crate) fn dropped() -> Failure {
    let message = "its run kept metadata alone: the content was deleted when the run had ended";
    Failure::new(Category::NotFound, "content_dropped", message)
}
