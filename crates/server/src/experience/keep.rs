//! The copy that is kept beside the log.

use std::sync::Arc;
use std::time::Instant;

use kernel::experience::Experience;
use kernel::receipt::LogId;
use ledger::Batch;
use ledger::store::Class;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::catch_up;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// The part of a workspace's content that is the copy.
const PART: &str = "experience";
/// The form of the copy. One of another form is made anew from the log.
const FORM: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Copy<E> {
    form: u32,
    experience: E,
}

/// What the copy of a workspace is kept under. No other content has a name with a colon.
fn content_id(log: &LogId) -> String {
    format!("experience:{}", log.name())
}

/// Reads what is known of every workspace, before the first commit of this server.
pub(crate) fn load(shared: &Shared) -> Result<()> {
    for log in shared.ledger.store().logs()? {
        if !matches!(log, LogId::Workspace(..)) {
            continue;
        }
        let started = Instant::now();
        let mut experience = copy(shared, &log)?.unwrap_or_default();
        let kept = experience.next;
        catch_up(&shared.ledger, &log, &mut experience)?;
        let (read, took) = (experience.next.saturating_sub(kept), started.elapsed());
        tracing::info!(log = log.name(), kept, read, ?took, "read what earlier attempts came to");
        let book = shared.experiences.book(&log);
        let mut book = book.lock();
        book.experience = experience;
        (book.kept, book.behind) = (kept, false);
    }
    Ok(())
}

/// The copy of a workspace, where it is one.
fn copy(shared: &Shared, log: &LogId) -> Result<Option<Experience>> {
    let Some(bytes) = shared.vault.open(log.tenant(), &content_id(log), PART)? else {
        return Ok(None);
    };
    let size = shared.ledger.store().head(log)?.map_or(0, |head| head.frontier.size());
    match serde_json::from_slice::<Copy<Experience>>(&bytes) {
        Ok(copy) if copy.form == FORM && copy.experience.next <= size => Ok(Some(copy.experience)),
        Ok(copy) => {
            let (form, next) = (copy.form, copy.experience.next);
            tracing::warn!(form, next, size, "a copy of experience does not fit: read anew");
            Ok(None)
        }
        Err(error) => {
            tracing::warn!(%error, "a copy of experience cannot be read: read anew");
            Ok(None)
        }
    }
}

/// Keeps copies: as often as the limits say, and once more when the server stops.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = shared.experiences.wake.notified() => false,
            () = tokio::time::sleep(limits::EXPERIENCE_KEEP_EVERY) => false,
        };
        if let Err(refused) = keep(&shared).await {
            tracing::warn!(error = %refused.0, "a copy of experience could not be kept");
        }
        if stopped {
            return;
        }
    }
}

async fn keep(shared: &Shared) -> Result<()> {
    for (log, book) in shared.experiences.books() {
        let experience = {
            let book = book.lock();
            let current = book.kept == book.experience.next || book.behind;
            if current {
                continue;
            }
            book.experience.clone()
        };
        let next = experience.next;
        let copy = Copy { form: FORM, experience };
        let bytes = serde_json::to_vec(&copy).map_err(Refused::internal)?;
        let (tenant, id, now) = (log.tenant(), content_id(&log), shared.now());
        let row = shared.vault.seal(tenant, &id, PART, Class::Record, &bytes, now).await?;
        shared.ledger.commit(Batch::side(log.clone(), vec![row])).await?;
        book.lock().kept = next;
    }
    Ok(())
}
