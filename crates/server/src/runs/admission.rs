//! Whose turn it is: tenants one after the other, each within its limits.
//!
//! What waits is the runs in the state `queued`, so the queue survives whatever the log survives;
//! here is only their order.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::Bound;
use std::time::{Duration, Instant};

use kernel::ids::{RunId, TenantId};
use kernel::receipt::LogId;
use kernel::run::{Run, Status};

use super::RunsConfig;

const MINUTE: Duration = Duration::from_secs(60);

/// What becomes of a new run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// It begins at once.
    Admitted,
    /// It waits.
    Queued,
    /// As many wait as may.
    Full,
}

#[derive(Debug, Default)]
struct Tenant {
    /// Ids are in the order of their time.
    queued: BTreeMap<RunId, LogId>,
    active: HashSet<RunId>,
    minute: Option<(Instant, u32)>,
}

/// The turns of all tenants.
#[derive(Debug)]
pub(super) struct Admission {
    config: RunsConfig,
    tenants: BTreeMap<TenantId, Tenant>,
    /// Those that have somebody waiting.
    waiting: BTreeSet<TenantId>,
    active: usize,
    last: Option<TenantId>,
}

impl Tenant {
    fn begun(&self, now: Instant) -> u32 {
        let current = self.minute.filter(|(since, _)| now.duration_since(*since) < MINUTE);
        current.map_or(0, |(_, begun)| begun)
    }

    fn has_room(&self, config: &RunsConfig, now: Instant) -> bool {
        self.active.len() < config.concurrency_per_tenant
            && self.begun(now) < config.per_minute_per_tenant
    }

    fn begin(&mut self, id: &RunId, now: Instant) {
        let begun = self.begun(now);
        let since = self.minute.filter(|_| begun > 0).map_or(now, |(since, _)| since);
        self.minute = Some((since, begun.saturating_add(1)));
        self.active.insert(id.clone());
    }
}

impl Admission {
    pub(super) fn new(config: RunsConfig) -> Self {
        let (tenants, waiting) = (BTreeMap::new(), BTreeSet::new());
        Self { config, tenants, waiting, active: 0, last: None }
    }

    /// So many runs of a tenant began at that time, under a server before this one.
    pub(super) fn restore(&mut self, tenant: &TenantId, at: Instant, began: usize) {
        let own = self.tenants.entry(tenant.clone()).or_default();
        let (since, before) = own.minute.unwrap_or((at, 0));
        let began = u32::try_from(began).unwrap_or(u32::MAX);
        own.minute = Some((since.min(at), before.saturating_add(began)));
    }

    /// A new run wants to begin. Nobody overtakes those of its tenant that wait.
    pub(super) fn enter(&mut self, tenant: &TenantId, id: &RunId, now: Instant) -> Entry {
        let free = self.active < self.config.concurrency;
        let own = self.tenants.entry(tenant.clone()).or_default();
        if own.queued.len() >= self.config.queued_per_tenant {
            return Entry::Full;
        }
        if !free || !own.queued.is_empty() || !own.has_room(&self.config, now) {
            return Entry::Queued;
        }
        own.begin(id, now);
        self.active += 1;
        Entry::Admitted
    }

    /// A run that was let in came to nothing.
    pub(super) fn leave(&mut self, tenant: &TenantId, id: &RunId) {
        let own = self.tenants.get_mut(tenant);
        if own.is_some_and(|own| own.active.remove(id)) {
            self.active = self.active.saturating_sub(1);
        }
    }

    /// Takes notice of where a run stands; whether somebody else may begin.
    pub(super) fn track(&mut self, log: &LogId, run: &Run, due: bool) -> bool {
        let LogId::Workspace(tenant, _) = log else { return false };
        let own = self.tenants.entry(tenant.clone()).or_default();
        if run.status == Status::Queued {
            own.queued.insert(run.id.clone(), log.clone());
            self.waiting.insert(tenant.clone());
            return true;
        }
        let waited = own.queued.remove(&run.id).is_some();
        if own.queued.is_empty() {
            self.waiting.remove(tenant);
        }
        // What waits for people or a timer takes no place.
        if run.status == Status::Running && (due || run.is_active()) {
            if own.active.insert(run.id.clone()) {
                self.active += 1;
            }
            return waited;
        }
        if own.active.remove(&run.id) {
            self.active = self.active.saturating_sub(1);
        }
        !self.waiting.is_empty()
    }

    /// How many runs of a tenant may go on at once, and how many do.
    pub(super) fn places(&self, tenant: &TenantId) -> (usize, usize) {
        let most = self.config.concurrency.min(self.config.concurrency_per_tenant);
        (most, self.tenants.get(tenant).map_or(0, |own| own.active.len()))
    }

    /// The next to begin, where there is room: the longest waiting of the tenant whose turn it is.
    pub(super) fn next(&mut self, now: Instant) -> Option<(LogId, RunId)> {
        if self.active >= self.config.concurrency {
            return None;
        }
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let turns = self.waiting.range((after, Bound::Unbounded)).chain(&self.waiting);
        let config = &self.config;
        let room = |tenant: &&TenantId| {
            let own = self.tenants.get(*tenant);
            own.is_some_and(|own| !own.queued.is_empty() && own.has_room(config, now))
        };
        let tenant = { turns }.find(room)?.clone();
        let own = self.tenants.get_mut(&tenant)?;
        let (id, log) = own.queued.pop_first()?;
        own.begin(&id, now);
        if own.queued.is_empty() {
            self.waiting.remove(&tenant);
        }
        self.active += 1;
        self.last = Some(tenant);
        Some((log, id))
    }
}

#[cfg(test)]
mod tests {
    use kernel::ids::WorkspaceId;

    use super::*;

    fn id(name: &str) -> RunId {
        RunId::new(name).unwrap()
    }

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).unwrap()
    }

    fn wait(admission: &mut Admission, of: &str, name: &str) {
        let log = LogId::Workspace(tenant(of), WorkspaceId::new("main").unwrap());
        let own = admission.tenants.entry(tenant(of)).or_default();
        own.queued.insert(id(name), log);
        admission.waiting.insert(tenant(of));
    }

    fn config(concurrency: usize, per_tenant: usize) -> RunsConfig {
        RunsConfig {
            concurrency,
            concurrency_per_tenant: per_tenant,
            per_minute_per_tenant: 100,
            queued_per_tenant: 3,
            ..RunsConfig::default()
        }
    }

    #[test]
    fn tenants_take_turns_however_many_of_one_wait() {
        let mut admission = Admission::new(config(6, 6));
        for name in ["run_a1", "run_a2", "run_a3", "run_a4"] {
            wait(&mut admission, "a", name);
        }
        wait(&mut admission, "b", "run_b1");
        wait(&mut admission, "c", "run_c1");
        let now = Instant::now();
        let order: Vec<String> =
            std::iter::from_fn(|| admission.next(now)).map(|(_, id)| id.to_string()).collect();
        assert_eq!(order, ["run_a1", "run_b1", "run_c1", "run_a2", "run_a3", "run_a4"]);
        admission.leave(&tenant("b"), &id("run_b1"));
        wait(&mut admission, "a", "run_a5");
        assert!(admission.next(now).is_some() && admission.next(now).is_none());
    }

    #[test]
    fn each_tenant_keeps_within_its_limits() {
        let mut admission = Admission::new(config(10, 2));
        let now = Instant::now();
        let mut enter = |name: &str| admission.enter(&tenant("a"), &id(name), now);
        assert_eq!((enter("run_1"), enter("run_2")), (Entry::Admitted, Entry::Admitted));
        assert_eq!(enter("run_3"), Entry::Queued);
        for name in ["run_3", "run_4", "run_5"] {
            wait(&mut admission, "a", name);
        }
        assert_eq!(admission.enter(&tenant("a"), &id("run_6"), now), Entry::Full);
        assert_eq!(admission.enter(&tenant("b"), &id("run_7"), now), Entry::Admitted);
        assert_eq!(admission.next(now), None);
        admission.leave(&tenant("a"), &id("run_1"));
        assert_eq!(admission.next(now).unwrap().1, id("run_3"));
    }

    #[test]
    fn only_so_many_begin_in_a_minute() {
        let per_minute = RunsConfig { per_minute_per_tenant: 2, ..config(10, 10) };
        let mut admission = Admission::new(per_minute);
        let now = Instant::now();
        for (name, expect) in [("run_1", Entry::Admitted), ("run_2", Entry::Admitted)] {
            assert_eq!(admission.enter(&tenant("a"), &id(name), now), expect);
        }
        assert_eq!(admission.enter(&tenant("a"), &id("run_3"), now), Entry::Queued);
        wait(&mut admission, "a", "run_3");
        assert_eq!(admission.next(now), None);
        assert_eq!(admission.next(now + MINUTE).unwrap().1, id("run_3"));
    }

    #[test]
    fn what_began_before_a_restart_counts_until_its_minute_is_over() {
        let per_minute = RunsConfig { per_minute_per_tenant: 3, ..config(10, 10) };
        let mut admission = Admission::new(per_minute);
        let now = Instant::now();
        let second = Duration::from_secs(1);
        admission.restore(&tenant("a"), now + second, 1);
        admission.restore(&tenant("a"), now, 1);
        let mut enter = |name: &str, at| admission.enter(&tenant("a"), &id(name), at);
        assert_eq!(enter("run_1", now + second), Entry::Admitted);
        assert_eq!(enter("run_2", now + second), Entry::Queued);
        assert_eq!(enter("run_3", now + MINUTE), Entry::Admitted);
    }
}
