//! How many writes there may be in a minute: of one workflow in a workspace, and of one tenant.
//!
//! A place is taken before the commit that draws the permit, and becomes a write by that commit:
//! the sequencer tells of it, so what counts is what the log says, at the time that it says. A
//! start reads the last minute back from the logs, so that a restart gives nobody a second
//! allowance.

mod guard;
mod refill;
mod settings;

use std::collections::HashMap;

use kernel::action::Status;
use kernel::cap::Window;
use kernel::ids::{ActionId, TenantId};
use kernel::machine::State;
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use ledger::Committed;
use parking_lot::Mutex;
use std::sync::Arc;

use crate::limits;

pub(crate) use guard::{Held, circuit_of, counts, enter, is_put_off, within};
pub(crate) use refill::count;
pub use settings::{CapsConfig, Counted};

const MINUTE_MICROS: i64 = 60_000_000;

/// What one bound is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Tenant(TenantId),
    /// A workflow in the workspace of that log.
    Workflow(LogId, String),
}

impl Scope {
    fn name(&self) -> &'static str {
        match self {
            Self::Tenant(_) => "tenant",
            Self::Workflow(..) => "workflow",
        }
    }
}

/// Whose write it would be.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) log: LogId,
    /// The workflow, where it is a step of a run.
    pub(crate) workflow: Option<String>,
}

impl Write {
    fn scopes(&self) -> Vec<Scope> {
        let LogId::Workspace(tenant, _) = &self.log else { return Vec::new() };
        let workflow = self.workflow.iter();
        let workflow = workflow.map(|name| Scope::Workflow(self.log.clone(), name.clone()));
        std::iter::once(Scope::Tenant(tenant.clone())).chain(workflow).collect()
    }
}

type Key = (LogId, ActionId);

#[derive(Default)]
struct Inner {
    windows: HashMap<Scope, Window>,
    /// The writes that are about to happen.
    pending: HashMap<Key, Vec<Scope>>,
}

/// The bounds of all tenants.
pub(crate) struct Caps {
    config: CapsConfig,
    inner: Mutex<Inner>,
}

/// The place of one write that is about to happen. Dropped before its commit, it is free again.
pub(crate) struct Place {
    caps: Arc<Caps>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Inner { windows, pending } = &mut *self.caps.inner.lock();
        // The sequencer took it where the write has happened.
        for scope in pending.remove(&self.key).into_iter().flatten() {
            windows.get_mut(&scope).map(Window::leave);
        }
    }
}

/// When to come back, and because of which bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) ms: u64,
    pub(crate) bound: &'static str,
}

impl Wait {
    fn until(at: Timestamp, now: Timestamp, bound: &'static str) -> Self {
        let micros = u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0);
        Self { ms: micros.div_ceil(1_000).max(1), bound }
    }
}

impl Caps {
    pub(crate) fn new(config: CapsConfig) -> Self {
        Self { config, inner: Mutex::default() }
    }

    /// Takes a place for the write of `id`. Who comes back does so under the name of `ticket`.
    pub(crate) fn enter(
        self: &Arc<Self>,
        write: &Write,
        id: &ActionId,
        ticket: Option<&str>,
        now: Timestamp,
    ) -> Result<Place, Wait> {
        let scopes = write.scopes();
        let inner = &mut *self.inner.lock();
        inner.forget(now);
        inner.admit(&self.config, &scopes, ticket, now)?;
        let key = (write.log.clone(), id.clone());
        inner.pending.insert(key.clone(), scopes);
        Ok(Place { caps: self.clone(), key })
    }

    /// Whether there is room for one more write now.
    pub(crate) fn within(&self, write: &Write, now: Timestamp) -> bool {
        let inner = &mut *self.inner.lock();
        write
            .scopes()
            .iter()
            .all(|scope| inner.windows.get_mut(scope).is_none_or(|window| window.has_room(now)))
    }

    /// Takes notice of a commit. The sequencer calls this, before anybody is answered.
    pub(crate) fn observe(&self, log: &LogId, committed: &Committed) {
        let Inner { windows, pending } = &mut *self.inner.lock();
        if pending.is_empty() {
            return;
        }
        for (_, state) in &committed.states {
            let State::Action(action) = state.as_ref() else { continue };
            if action.status != Status::Executing {
                continue;
            }
            let key = (log.clone(), action.id.clone());
            for scope in pending.remove(&key).into_iter().flatten() {
                if let Some(window) = windows.get_mut(&scope) {
                    window.took(committed.time);
                }
            }
        }
    }

    /// A write of the last minute, as a log has it.
    fn restore(&self, write: &Write, at: Timestamp) {
        let inner = &mut *self.inner.lock();
        for scope in write.scopes() {
            inner.window(&self.config, &scope).happened(at);
        }
    }
}

impl Inner {
    fn window(&mut self, config: &CapsConfig, scope: &Scope) -> &mut Window {
        let limit = match scope {
            Scope::Tenant(_) => config.writes_per_min_tenant,
            Scope::Workflow(..) => config.writes_per_min_workflow,
        };
        let window = || Window::new(limit, MINUTE_MICROS);
        self.windows.entry(scope.clone()).or_insert_with(window)
    }

    fn forget(&mut self, now: Timestamp) {
        if self.windows.len() >= limits::CAP_WINDOWS_KEPT {
            self.windows.retain(|_, window| !window.is_idle(now));
        }
    }

    fn admit(
        &mut self,
        config: &CapsConfig,
        scopes: &[Scope],
        ticket: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Wait> {
        let given = ticket.and_then(|who| {
            let given = |scope: &Scope| self.window(config, scope).given(who);
            scopes.iter().filter_map(given).max()
        });
        let at = match given {
            // Who comes early is told the same again.
            Some(at) if at > now => {
                let bound = scopes.last().map_or("tenant", Scope::name);
                return Err(Wait::until(at, now, bound));
            }
            Some(_) => self.latest(config, scopes, |window| match window.has_room(now) {
                true => now,
                false => window.again(ticket.unwrap_or_default(), now),
            }),
            None => self.earliest(config, scopes, now),
        };
        let (at, bound) = at;
        if at <= now {
            for scope in scopes {
                let window = self.window(config, scope);
                ticket.into_iter().for_each(|who| window.take_back(who));
                window.enter();
            }
            return Ok(());
        }
        for (scope, who) in scopes.iter().zip(ticket.into_iter().cycle()) {
            // Where no more times are given, it competes with whoever comes then.
            let _given = self.window(config, scope).give(who, at);
        }
        Err(Wait::until(at, now, bound))
    }

    /// The latest of what the windows say, and of which that is.
    fn latest(
        &mut self,
        config: &CapsConfig,
        scopes: &[Scope],
        when: impl Fn(&mut Window) -> Timestamp,
    ) -> (Timestamp, &'static str) {
        let mut latest = (Timestamp(i64::MIN), "tenant");
        for scope in scopes {
            let at = when(self.window(config, scope));
            if at > latest.0 {
                latest = (at, scope.name());
            }
        }
        latest
    }

    /// When all windows have room for somebody who has not asked before.
    fn earliest(
        &mut self,
        config: &CapsConfig,
        scopes: &[Scope],
        now: Timestamp,
    ) -> (Timestamp, &'static str) {
        self.latest(config, scopes, |window| window.earliest(now))
    }
}

#[cfg(test)]
mod tests;
