//! Requests that wait for an action or a run to end.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use kernel::ids::ActionId;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Who waits for what.
pub(crate) struct Waiters<K = ActionId>(Mutex<HashMap<K, Arc<Notify>>>);

impl<K> Default for Waiters<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A place in the queue for one of them. Gives up its place when dropped.
pub(crate) struct Waiting<'a, K: Eq + Hash> {
    waiters: &'a Waiters<K>,
    id: K,
    notify: Arc<Notify>,
}

impl<K: Eq + Hash + Clone> Waiters<K> {
    /// Takes a place. What changes from then on is noticed.
    pub(crate) fn enter(&self, id: &K) -> Waiting<'_, K> {
        let notify = self.0.lock().entry(id.clone()).or_default().clone();
        Waiting { waiters: self, id: id.clone(), notify }
    }

    /// Tells those who wait for `id` to look again.
    pub(crate) fn wake(&self, id: &K) {
        if let Some(notify) = self.0.lock().get(id) {
            notify.notify_waiters();
        }
    }
}

impl<K: Eq + Hash> Waiting<'_, K> {
    /// Becomes ready at the next change. Create it before looking at the state.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.notify.notified()
    }
}

impl<K: Eq + Hash> Drop for Waiting<'_, K> {
    fn drop(&mut self) {
        let mut waiters = self.waiters.0.lock();
        // The map's and this one: nobody else waits.
        if Arc::strong_count(&self.notify) <= 2 {
            waiters.remove(&self.id);
        }
    }
}
