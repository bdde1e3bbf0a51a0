//! Calls that wait for their client to answer a question, without a request that waits for them.
//! They are under way: one whose client never comes back ends as its upstream has it end.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::act::Running;
use super::back::InRequest;
use super::limits;
use super::sessions::Owner;
use crate::error::{Refused, Result};

/// A call that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) running: Running,
    pub(super) back: Arc<InRequest>,
    pub(super) cancel: CancellationToken,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Parked(Mutex<HashMap<String, (Owner, Waiting, Instant)>>);

impl Parked {
    /// Has a call wait; its id. One too many is canceled.
    pub(super) fn park(&self, owner: Owner, waiting: Waiting) -> Result<String> {
        let id = hex::encode(ledger::keys::random::<16>()?.as_ref());
        let mut parked = self.0.lock();
        let own = parked.values().filter(|(other, ..)| *other == owner).count();
        if own >= limits::PARKED_PER_PRINCIPAL {
            waiting.cancel.cancel();
            let message = "too many of your calls wait for answers: answer or leave those first";
            let category = kernel::failure::Category::RateLimited;
            return Err(Refused::new(category, "too_many_parked", message));
        }
        parked.insert(id.clone(), (owner, waiting, Instant::now()));
        Ok(id)
    }

    /// Takes the owner's call up again.
    pub(super) fn take(&self, owner: &Owner, id: &str) -> Option<Waiting> {
        let mut parked = self.0.lock();
        if parked.get(id).is_none_or(|(whose, ..)| whose != owner) {
            return None;
        }
        parked.remove(id).map(|(_, waiting, _)| waiting)
    }

    /// Cancels those that waited too long.
    pub(super) fn sweep(&self) {
        self.0.lock().retain(|_, (_, waiting, since)| {
            let stays = since.elapsed() < limits::ASK;
            if !stays {
                waiting.cancel.cancel();
            }
            stays
        });
    }
}
