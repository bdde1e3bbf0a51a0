//! The executions that are under way: found to be ended from outside.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use kernel::failure::Failure;
use kernel::ids::{ActionId, TenantId};
use kernel::values::Digest;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::limits;
use crate::shared::Shared;
use ::sandbox::Code;

/// The executions of this server.
#[derive(Default)]
pub(crate) struct Runs {
    live: Mutex<HashMap<ActionId, CancellationToken>>,
    /// The server stops: what is under way is interrupted, to be repeated by the next one.
    stopping: CancellationToken,
    /// The components that came with requests.
    inline: Mutex<Inlines>,
}

/// A component of a tenant.
type Of = (TenantId, Digest);

/// Components that came with requests and are bound: those that executions have now, and the last
/// ones that none has, for they often come again.
#[derive(Default)]
struct Inlines {
    /// By how many executions have them.
    held: HashMap<Of, usize>,
    /// The oldest first, with their bytes.
    idle: VecDeque<(Of, usize)>,
}

impl Inlines {
    fn take(&mut self, of: &Of) {
        self.idle.retain(|(idle, _)| idle != of);
        *self.held.entry(of.clone()).or_default() += 1;
    }

    /// Gives one up, and says which are to be forgotten.
    fn give_up(&mut self, of: &Of, bytes: usize) -> Vec<Of> {
        match self.held.get_mut(of) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.held.remove(of);
                self.idle.push_back((of.clone(), bytes));
            }
        }
        let mut all: usize = self.idle.iter().map(|(_, bytes)| bytes).sum();
        let mut forgotten = Vec::new();
        while self.idle.len() > limits::INLINE_IDLE_MAX || all > limits::INLINE_IDLE_BYTES_MAX {
            let Some((of, bytes)) = self.idle.pop_front() else { break };
            all -= bytes;
            forgotten.push(of);
        }
        forgotten
    }
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

/// A component that came with a request, while an execution has it.
struct Inline {
    shared: Arc<Shared>,
    of: Of,
    bytes: usize,
}

/// Binds a component that came with a request.
pub(super) async fn bind(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    bytes: &[u8],
) -> Result<Ready, Failure> {
    let of = (tenant.clone(), Digest::of(bytes));
    // Counted before it is bound, so that nobody else has it forgotten in between.
    shared.sandbox.runs.inline.lock().take(&of);
    let inline = Inline { shared: shared.clone(), of, bytes: bytes.len() };
    let bound = shared.sandbox.boxes.bind(tenant, bytes).await?;
    Ok(Ready { code: Code::Component { digest: bound.digest }, _inline: Some(inline) })
}

impl Drop for Inline {
    fn drop(&mut self) {
        let mut inline = self.shared.sandbox.runs.inline.lock();
        for (tenant, digest) in inline.give_up(&self.of, self.bytes) {
            // A registered tool may be of the same code.
            if !self.shared.registry.has_bound(&tenant, digest) {
                self.shared.sandbox.boxes.unbind(&tenant, digest);
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

#[cfg(test)]
mod tests {
    use kernel::ids::TenantId;
    use kernel::values::Digest;

    use super::{Inlines, Of, limits};

    fn of(name: &str) -> Of {
        (TenantId::new("acme").unwrap(), Digest::of(name.as_bytes()))
    }

    #[test]
    fn what_an_execution_has_is_never_forgotten() {
        let mut inlines = Inlines::default();
        inlines.take(&of("held"));
        inlines.take(&of("held"));
        assert!(inlines.give_up(&of("held"), limits::INLINE_IDLE_BYTES_MAX + 1).is_empty());
        for n in 0..limits::INLINE_IDLE_MAX * 2 {
            let other = of(&n.to_string());
            inlines.take(&other);
            assert!(!inlines.give_up(&other, 1).contains(&of("held")));
        }
        assert!(inlines.held.contains_key(&of("held")));
    }

    #[test]
    fn the_oldest_idle_ones_are_forgotten_first() {
        let mut inlines = Inlines::default();
        let mut forgotten = Vec::new();
        for n in 0..limits::INLINE_IDLE_MAX + 2 {
            inlines.take(&of(&n.to_string()));
            forgotten.extend(inlines.give_up(&of(&n.to_string()), 1));
        }
        assert_eq!(forgotten, [of("0"), of("1")]);
        // Taken again, it is idle no more.
        inlines.take(&of("2"));
        let all = inlines.give_up(&of("big"), limits::INLINE_IDLE_BYTES_MAX);
        assert!(!all.contains(&of("2")) && all.contains(&of("3")));
    }
}
