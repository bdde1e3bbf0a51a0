//! How many writes there may be in a minute: of one workflow in a workspace, and of one tenant; and
//! how many calls of an operation, whether it writes or reads, where its definition says so.
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
use kernel::ids::{ActionId, TenantId, ToolId};
use kernel::machine::State;
use kernel::receipt::LogId;
use kernel::values::Timestamp;
use ledger::Committed;
use parking_lot::Mutex;
use std::sync::Arc;

use crate::limits;

pub(crate) use guard::{Held, circuit_of, enter, is_put_off, within};
pub(crate) use refill::count;
pub use settings::{CapsConfig, Counted};

const MINUTE_MICROS: i64 = 60_000_000;

/// What one bound is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Scope {
    Tenant(TenantId),
    /// A workflow in the workspace of that log.
    Workflow(LogId, String),
    /// An operation of an instance of a tenant.
    Operation(TenantId, ToolId),
}

/// Which kind of bound it was that a call met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound {
    Tenant,
    Workflow,
    Operation,
}

impl Bound {
    /// Its name in metrics and messages.
    fn name(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Workflow => "workflow",
            Self::Operation => "operation",
        }
    }
}

impl Scope {
    fn bound(&self) -> Bound {
        match self {
            Self::Tenant(_) => Bound::Tenant,
            Self::Workflow(..) => Bound::Workflow,
            Self::Operation(..) => Bound::Operation,
        }
    }
}

/// What a call is to the bounds.
#[derive(Clone, Debug)]
pub(crate) struct Bounded {
    pub(crate) log: LogId,
    /// Where it counts as a write, whose it is.
    pub(crate) write: Option<Write>,
    /// The operation, and how often that may be called, where this is bounded.
    pub(crate) operation: Option<(ToolId, u32)>,
}

/// Whose write it would be.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    /// The workflow, where it is a step of a run.
    pub(crate) workflow: Option<String>,
}

impl Bounded {
    /// What it is about, each with the number that is its bound.
    fn scopes(&self, config: &CapsConfig) -> Vec<(Scope, u32)> {
        let LogId::Workspace(tenant, _) = &self.log else { return Vec::new() };
        let mut scopes = Vec::new();
        if let Some(Write { workflow }) = &self.write {
            scopes.push((Scope::Tenant(tenant.clone()), config.writes_per_min_tenant));
            let named = |name: &String| Scope::Workflow(self.log.clone(), name.clone());
            let workflow = workflow.as_ref().map(named);
            scopes.extend(workflow.map(|scope| (scope, config.writes_per_min_workflow)));
        }
        if let Some((tool, limit)) = &self.operation {
            scopes.push((Scope::Operation(tenant.clone(), tool.clone()), *limit));
        }
        scopes
    }
}

type Key = (LogId, ActionId);

#[derive(Default)]
struct Inner {
    windows: HashMap<Scope, Window>,
    /// The calls that are about to happen.
    pending: HashMap<Key, Vec<Scope>>,
}

/// The bounds of all tenants.
pub(crate) struct Caps {
    config: CapsConfig,
    inner: Mutex<Inner>,
}

/// The place of one call that is about to happen. Dropped before its commit, it is free again.
pub(crate) struct Place {
    caps: Arc<Caps>,
    key: Key,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Inner { windows, pending } = &mut *self.caps.inner.lock();
        // The sequencer took it where the call has begun.
        for scope in pending.remove(&self.key).into_iter().flatten() {
            windows.get_mut(&scope).map(Window::leave);
        }
    }
}

/// When to come back, and because of which bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) ms: u64,
    pub(crate) bound: Bound,
}

impl Wait {
    fn until(at: Timestamp, now: Timestamp, bound: Bound) -> Self {
        let micros = u64::try_from(at.0.saturating_sub(now.0)).unwrap_or(0);
        Self { ms: micros.div_ceil(1_000).max(1), bound }
    }
}

impl Caps {
    pub(crate) fn new(config: CapsConfig) -> Self {
        Self { config, inner: Mutex::default() }
    }

    /// Takes a place for the call of `id`. Who comes back does so under the name of `ticket`.
    pub(crate) fn enter(
        self: &Arc<Self>,
        call: &Bounded,
        id: &ActionId,
        ticket: Option<&str>,
        now: Timestamp,
    ) -> Result<Place, Wait> {
        let inner = &mut *self.inner.lock();
        inner.forget(now);
        let scopes = inner.bounded(call.scopes(&self.config));
        inner.admit(&scopes, ticket, now)?;
        let key = (call.log.clone(), id.clone());
        inner.pending.insert(key.clone(), scopes);
        Ok(Place { caps: self.clone(), key })
    }

    /// Whether there is room for one more of it now.
    pub(crate) fn within(&self, call: &Bounded, now: Timestamp) -> bool {
        let inner = &mut *self.inner.lock();
        inner.forget(now);
        let scopes = inner.bounded(call.scopes(&self.config));
        scopes.iter().all(|scope| inner.window(scope).is_none_or(|window| window.has_room(now)))
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

    /// A call of the last minute, as a log has it.
    fn restore(&self, call: &Bounded, at: Timestamp) {
        let inner = &mut *self.inner.lock();
        for scope in inner.bounded(call.scopes(&self.config)) {
            inner.window(&scope).into_iter().for_each(|window| window.happened(at));
        }
    }
}

impl Inner {
    /// Has a window for each scope, bounded as it is now: another definition of a connector may say
    /// another number, and what happened before counts all the same.
    fn bounded(&mut self, scopes: Vec<(Scope, u32)>) -> Vec<Scope> {
        let mut names = Vec::with_capacity(scopes.len());
        for (scope, limit) in scopes {
            let window = || Window::new(limit, MINUTE_MICROS);
            self.windows.entry(scope.clone()).or_insert_with(window).bound_by(limit);
            names.push(scope);
        }
        names
    }

    fn window(&mut self, scope: &Scope) -> Option<&mut Window> {
        self.windows.get_mut(scope)
    }

    fn forget(&mut self, now: Timestamp) {
        if self.windows.len() >= limits::CAP_WINDOWS_KEPT {
            self.windows.retain(|_, window| !window.is_idle(now));
        }
    }

    fn admit(
        &mut self,
        scopes: &[Scope],
        ticket: Option<&str>,
        now: Timestamp,
    ) -> Result<(), Wait> {
        let given = ticket.and_then(|who| {
            let given = |scope: &Scope| self.window(scope)?.given(who);
            scopes.iter().filter_map(given).max()
        });
        let at = match given {
            // Who comes early is told the same again.
            Some(at) if at > now => {
                let full = |scope: &&Scope| self.window(scope).is_some_and(|w| !w.has_room(now));
                let bound = scopes.iter().rev().find(full).or(scopes.last());
                let bound = bound.map_or(Bound::Tenant, Scope::bound);
                return Err(Wait::until(at, now, bound));
            }
            Some(_) => self.latest(scopes, |window| match window.has_room(now) {
                true => now,
                false => window.again(ticket.unwrap_or_default(), now),
            }),
            None => self.latest(scopes, |window| window.earliest(now)),
        };
        let (at, bound) = at;
        if at <= now {
            for scope in scopes {
                let Some(window) = self.window(scope) else { continue };
                ticket.into_iter().for_each(|who| window.take_back(who));
                window.enter();
            }
            return Ok(());
        }
        for (scope, who) in scopes.iter().zip(ticket.into_iter().cycle()) {
            // Where no more times are given, it competes with whoever comes then.
            let _given = self.window(scope).is_some_and(|window| window.give(who, at));
        }
        Err(Wait::until(at, now, bound))
    }

    /// The latest of what the windows say, and of which that is.
    fn latest(
        &mut self,
        scopes: &[Scope],
        when: impl Fn(&mut Window) -> Timestamp,
    ) -> (Timestamp, Bound) {
        let mut latest = (Timestamp(i64::MIN), Bound::Tenant);
        for scope in scopes {
            let Some(at) = self.window(scope).map(&when) else { continue };
            if at > latest.0 {
                latest = (at, scope.bound());
            }
        }
        latest
    }
}

#[cfg(test)]
mod tests;
