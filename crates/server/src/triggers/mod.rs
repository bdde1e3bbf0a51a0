//! Triggers: what starts workflows without anybody asking for them.
//!
//! The log says which there are (`kernel::trigger`), by the digests of their definitions, which are
//! kept beside it; this is its fold in memory. What is delivered comes in by `door`, is believed
//! by `verify` alone, and starts a run by `launch`, once for each event; `clock` does the same
//! for times that come.

mod api;
mod clock;
mod dead;
mod door;
mod launch;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kernel::failure::Category;
use kernel::ids::TenantId;
use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use kernel::trigger::definition::{Definition, Slack};
use kernel::trigger::{Source, Trigger};
use ledger::Ledger;
use parking_lot::RwLock;

use crate::error::{Refused, Result};
use crate::factory::PROD;
use crate::follow::Follower;

pub(crate) use api::TriggersApi;
pub(crate) use clock::serve;
pub(crate) use door::router;
pub(crate) use launch::service;

/// A trigger with all that it was told.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) state: Trigger,
    /// None where what is kept is not what the log says: such a trigger starts nothing.
    definition: Option<Definition>,
}

impl Known {
    /// Whether it may do anything: in prod, only by the word of two.
    pub(crate) fn may_act(&self) -> bool {
        self.state.reviewed || self.state.binding.environment.as_str() != PROD
    }

    /// Refuses to do anything where it may not.
    fn reviewed(&self) -> Result<()> {
        if self.may_act() {
            return Ok(());
        }
        let message = format!(
            "in prod, a trigger starts nothing before another than who set it up has enabled it: \
             `tally trigger enable {}`",
            self.state.name
        );
        Err(Refused::new(Category::Permission, "trigger_unreviewed", message))
    }

    /// What it was told.
    pub(crate) fn definition(&self) -> Result<&Definition> {
        self.definition.as_ref().ok_or_else(|| Refused::internal("a trigger without definition"))
    }
}

/// The triggers of all tenants.
pub(crate) struct Triggers {
    control: Ledger,
    known: RwLock<HashMap<TenantId, BTreeMap<String, Arc<Known>>>>,
}

impl Follower for Triggers {
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Control(tenant) = log else { return };
        for (_, state) in states {
            self.put(tenant, state);
        }
    }
}

impl Triggers {
    pub(crate) fn new(control: &Ledger) -> Self {
        Self { control: control.clone(), known: RwLock::default() }
    }

    /// Takes a state, unless a newer one has passed it.
    fn put(&self, tenant: &TenantId, state: &State) {
        let State::Trigger(state) = state else { return };
        let definition = self.read(tenant, state);
        if definition.is_none() && !state.removed {
            tracing::error!(%tenant, trigger = state.name, "its definition is lost: it rests");
        }
        let known = Arc::new(Known { state: state.clone(), definition });
        let mut all = self.known.write();
        let all = all.entry(tenant.clone()).or_default();
        if all.get(&state.name).is_none_or(|before| before.state.revision <= state.revision) {
            all.insert(state.name.clone(), known);
        }
    }

    /// The definition that the log names.
    fn read(&self, tenant: &TenantId, state: &Trigger) -> Option<Definition> {
        let digest = state.binding.definition;
        let kept = self.control.store().blob(tenant.as_str(), digest).ok().flatten()?;
        let definition: Definition = serde_json::from_slice(&kept).ok()?;
        let same = definition.digest().is_ok_and(|own| own == digest);
        (same && definition.check().is_ok()).then_some(definition)
    }

    /// The trigger of that name, also where it was removed.
    fn known(&self, tenant: &TenantId, name: &str) -> Option<Arc<Known>> {
        self.known.read().get(tenant)?.get(name).cloned()
    }

    /// The trigger of that name.
    pub(crate) fn find(&self, tenant: &TenantId, name: &str) -> Option<Arc<Known>> {
        self.known(tenant, name).filter(|known| !known.state.removed)
    }

    /// The triggers of a tenant by name.
    fn all(&self, tenant: &TenantId) -> Vec<Arc<Known>> {
        let known = self.known.read();
        let of_tenant = known.get(tenant).into_iter().flat_map(BTreeMap::values);
        of_tenant.filter(|known| !known.state.removed).cloned().collect()
    }

    /// Where people of a workspace are asked on Slack: by the trigger that says so, if any.
    pub(crate) fn slack_of(&self, log: &LogId) -> Option<(Arc<Known>, Slack)> {
        let LogId::Workspace(tenant, workspace) = log else { return None };
        let known = self.known.read();
        let mut of_tenant = known.get(tenant).into_iter().flat_map(BTreeMap::values);
        of_tenant.find_map(|known| {
            let binding = &known.state.binding;
            let here = known.state.enabled && !known.state.removed;
            let asks = binding.source == Source::Slack && binding.workspace == *workspace;
            let slack = known.definition.as_ref()?.slack.clone()?;
            (here && asks && known.may_act()).then(|| (known.clone(), slack))
        })
    }
}
