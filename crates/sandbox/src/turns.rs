//! Whose component is compiled next.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use kernel::ids::TenantId;
use tokio::sync::{Mutex as Queue, MutexGuard, OwnedMutexGuard};

/// One component is compiled at a time, so that strangers' components do not take all processors.
/// A tenant has at most one place in the queue for that, and its others wait behind it: before its
/// next one, each other tenant compiles one at most, however many it has sent.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// None are the interpreters, which are nobody's.
    each: Mutex<HashMap<Option<TenantId>, Arc<Queue<()>>>>,
    all: Queue<()>,
}

/// A turn, until it is dropped.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    _all: MutexGuard<'a, ()>,
    _own: OwnedMutexGuard<()>,
}

impl Turns {
    /// Waits for a turn.
    pub(crate) async fn take(&self, whose: Option<&TenantId>) -> Turn<'_> {
        let own = {
            let mut each = self.each.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(each.entry(whose.cloned()).or_default())
        };
        let own = own.lock_owned().await;
        Turn { _all: self.all.lock().await, _own: own }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_flood_of_one_tenant_holds_up_no_other() {
        let turns = Arc::new(Turns::default());
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = turns.take(Some(&TenantId::new("flood").unwrap())).await;
        let tenants = ["flood", "flood", "flood", "one", "one", "two"];
        let mut waiting = Vec::new();
        for name in tenants {
            let (turns, order) = (Arc::clone(&turns), Arc::clone(&order));
            waiting.push(tokio::spawn(async move {
                let tenant = TenantId::new(name).unwrap();
                let _turn = turns.take(Some(&tenant)).await;
                order.lock().unwrap().push(name);
                tokio::task::yield_now().await;
            }));
            // It takes its place before the next one comes.
            tokio::task::yield_now().await;
        }
        drop(first);
        for one in waiting {
            one.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        assert_eq!(order, ["one", "two", "flood", "one", "flood", "flood"]);
    }
}
