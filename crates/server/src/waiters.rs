//! Requests that wait for an action to end.

use std::collections::HashMap;
use std::sync::Arc;

use kernel::ids::ActionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for which action.
#[derive(Default)]
pub(crate) struct Waiters(Mutex<HashMap<ActionId, Arc<Notify>>>);

/// A place in the queue for one action. Gives up its place when dropped.
pub(crate) struct Waiting<'a> {
    waiters: &'a Waiters,
    id: ActionId,
    notify: Arc<Notify>,
}

impl Waiters {
    /// Takes a place. What changes from then on is noticed.
    pub(crate) fn enter(&self, id: &ActionId) -> Waiting<'_> {
        let notify = self.0.lock().entry(id.clone()).or_default().clone();
        Waiting { waiters: self, id: id.clone(), notify }
    }

    /// Tells those who wait for `id` to look again.
    pub(crate) fn wake(&self, id: &ActionId) {
        if let Some(notify) = self.0.lock().get(id) {
            notify.notify_waiters();
        }
    }
}

impl Waiting<'_> {
    /// Becomes ready at the next change. Create it before looking at the state.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock();
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.notify) <= 2 {
            waiters.remove(&self.id);
        }
    }
}
