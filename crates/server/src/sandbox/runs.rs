//! The executions that are under way: found to be ended from outside.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::failure::Failure;
use kernel::ids::{ActionId, TenantId};
use kernel::values::Digest;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use ::sandbox::Code;

/// The executions of this server.
#[derive(Default)]
pub(crate) struct Runs {
    live: Mutex<HashMap<ActionId, CancellationToken>>,
    /// The server stops: what is under way is interrupted, to be repeated by the next one.
    stopping: CancellationToken,
    /// Components that came with requests, by how many executions have them now.
    inline: Mutex<HashMap<(TenantId, Digest), usize>>,
}

/// Code that is ready to run for as long as this is kept.
pub(super) struct Ready {
    pub(super) code: Code,
    _inline: Option<Inline>,
}

impl From<Code> for Ready {
    fn from(code: Code) -> Self {
        Self { code, _inline: None }
    }
}

/// A component that came with a request. The last execution of it has it forgotten.
struct Inline {
    shared: Arc<Shared>,
    of: (TenantId, Digest),
}

/// Binds a component that came with a request.
pub(super) async fn bind(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    bytes: &[u8],
) -> Result<Ready, Failure> {
    let of = (tenant.clone(), Digest::of(bytes));
    // Counted before it is bound, so that nobody else has it forgotten in between.
    *shared.sandbox.runs.inline.lock().entry(of.clone()).or_default() += 1;
    let inline = Inline { shared: shared.clone(), of };
    let bound = shared.sandbox.boxes.bind(tenant, bytes).await?;
    Ok(Ready { code: Code::Component { digest: bound.digest }, _inline: Some(inline) })
}

impl Drop for Inline {
    fn drop(&mut self) {
        let (tenant, digest) = &self.of;
        let mut inline = self.shared.sandbox.runs.inline.lock();
        let left = inline.get_mut(&self.of).map_or(0, |count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == 0 {
            inline.remove(&self.of);
            // A registered tool may be of the same code.
            if !self.shared.registry.has_bound(tenant, *digest) {
                self.shared.sandbox.boxes.unbind(tenant, *digest);
            }
        }
    }
}

/// The place of one execution. It is given up when dropped.
pub(crate) struct Live<'a> {
    runs: &'a Runs,
    id: ActionId,
    pub(crate) cancel: CancellationToken,
}

impl Runs {
    /// Takes a place for an attempt at `id`.
    pub(crate) fn enter(&self, id: &ActionId) -> Live<'_> {
        // Ended by a stop as well as by its own name.
        let cancel = self.stopping.child_token();
        self.live.lock().insert(id.clone(), cancel.clone());
        Live { runs: self, id: id.clone(), cancel }
    }

    /// Ends the execution `id`. Whether it was under way here.
    pub(crate) fn cancel(&self, id: &ActionId) -> bool {
        let live = self.live.lock().get(id).cloned();
        live.inspect(CancellationToken::cancel).is_some()
    }

    /// Interrupts every execution.
    pub(crate) fn stop(&self) {
        self.stopping.cancel();
    }

    /// Whether every execution is being interrupted.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        self.runs.live.lock().remove(&self.id);
    }
}
