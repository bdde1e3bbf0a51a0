//! What is in memory when a commit of the control plane fails in the middle: nobody knows whether
//! a key was revoked. Until the stored states have been read again, nobody is let in.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::shared::Shared;
use crate::{limits, policies};

/// Whether the directory may lack what is stored.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    raised: AtomicU64,
    settled: AtomicU64,
    wake: Notify,
}

impl Doubt {
    /// A commit failed, and may have happened.
    pub(crate) fn raise(&self) {
        self.raised.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// Whether something was raised and is not settled.
    pub(crate) fn is_open(&self) -> bool {
        self.settled.load(Ordering::Acquire) != self.raised.load(Ordering::Acquire)
    }
}

/// Settles doubts until `stop`.
pub(crate) async fn settle(shared: Arc<Shared>, stop: CancellationToken) {
    let doubt = &shared.control.doubt;
    loop {
        let rest = if doubt.is_open() { limits::DOUBT_REST } else { limits::DOUBT_IDLE };
        tokio::select! {
            () = stop.cancelled() => return,
            () = doubt.wake.notified() => {}
            () = tokio::time::sleep(rest) => {}
        }
        let raised = doubt.raised.load(Ordering::Acquire);
        if doubt.is_open() {
            match read_again(&shared) {
                Ok(()) => doubt.settled.store(raised, Ordering::Release),
                Err(refused) => tracing::warn!(error = %refused.0, "still in doubt"),
            }
        }
    }
}

fn read_again(shared: &Shared) -> Result<()> {
    shared.followers.refill(&shared.control.ledger)?;
    for tenant in shared.control.directory.tenants() {
        policies::install(shared, &tenant.id)?;
    }
    Ok(())
}
