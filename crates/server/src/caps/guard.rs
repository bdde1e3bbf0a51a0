//! What stands between a decision and a permit besides policy: the bounds on writes and calls, and
//! circuits that are open.

use kernel::decision::{CALL_CAP, WRITE_CAP, is_cap};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, TenantId, ToolId};
use kernel::receipt::LogId;
use kernel::run::StepRef;
use kernel::tool::{CallFacts, Caps, Executor};
use kernel::units::Unit;
use kernel::values::Timestamp;

use super::{Bound, Bounded, Counted, Place, Wait, Write};
use crate::error::Result;
use crate::shared::{Caller, Shared};
use crate::toolbox;

/// What a call is to the bounds and the circuits.
pub(crate) struct Held<'a> {
    pub(crate) tool: &'a ToolId,
    pub(crate) facts: &'a CallFacts,
    pub(crate) step: Option<&'a StepRef>,
}

impl Held<'_> {
    /// Under which name it comes back: the next action of a step is another one.
    fn ticket(&self, id: &ActionId) -> String {
        match self.step {
            Some(StepRef { run, step, iteration }) => format!("{run}/{step}/{iteration}"),
            None => id.to_string(),
        }
    }

    fn call(&self) -> Call<'_> {
        let writes = self.facts.units.get(Unit::Writes) > 0;
        Call { tool: self.tool, step: self.step, writes, caps: self.facts.caps }
    }
}

/// A call, as far as bounds are about it.
pub(super) struct Call<'a> {
    pub(super) tool: &'a ToolId,
    pub(super) step: Option<&'a StepRef>,
    /// Whether it has the label `write`.
    pub(super) writes: bool,
    /// How often its tool may be called.
    pub(super) caps: Option<Caps>,
}

impl Call<'_> {
    /// Whose write it is, where it counts as one.
    fn write(&self, shared: &Shared, log: &LogId) -> Result<Option<Write>> {
        let LogId::Workspace(tenant, _) = log else { return Ok(None) };
        if !self.writes || !counts(shared, tenant, self.tool) {
            return Ok(None);
        }
        let name = |step: &StepRef| crate::runs::workflow_of(shared, log, &step.run);
        Ok(Some(Write { workflow: self.step.map(name).transpose()? }))
    }

    /// What it is to the bounds; none where no bound is about it.
    pub(super) fn bounded(&self, shared: &Shared, log: &LogId) -> Result<Option<Bounded>> {
        let write = self.write(shared, log)?;
        let operation = self.caps.map(|caps| (self.tool.clone(), caps.per_minute));
        let any = write.is_some() || operation.is_some();
        Ok(any.then(|| Bounded { log: log.clone(), write, operation }))
    }
}

/// Whether calls of a tool count as writes, where they write.
fn counts(shared: &Shared, tenant: &TenantId, tool: &ToolId) -> bool {
    match shared.config.caps.counted {
        Counted::All => true,
        // Of a tool that is gone nobody can tell any more: then it counts.
        Counted::Connectors => toolbox::find(shared, tenant, tool)
            .is_none_or(|found| found.manifest().executor == Executor::Http),
    }
}

/// Whether there is room for a write now, as policy is told: for what is none there always is.
pub(crate) fn within(shared: &Shared, caller: &Caller, held: &Held<'_>) -> bool {
    let log = caller.log();
    match held.call().write(shared, &log) {
        Ok(None) => true,
        Ok(write) => {
            let operation = None;
            shared.caps.within(&Bounded { log, write, operation }, shared.now())
        }
        Err(error) => {
            tracing::warn!(error = %error.0, "the workflow of a write cannot be told");
            false
        }
    }
}

/// Takes a place for a call that is about to start, where it needs one. `returns`: whether it
/// comes back by itself when told to wait.
pub(crate) fn enter(
    shared: &Shared,
    caller: &Caller,
    held: &Held<'_>,
    (id, returns): (&ActionId, bool),
) -> Result<std::result::Result<Option<Place>, Failure>> {
    let Some(call) = held.call().bounded(shared, &caller.log())? else { return Ok(Ok(None)) };
    let ticket = returns.then(|| held.ticket(id));
    Ok(match shared.caps.enter(&call, id, ticket.as_deref(), shared.now()) {
        Ok(place) => Ok(Some(place)),
        Err(wait) => {
            shared.metrics.put_off(wait.bound.name());
            Err(too_many(wait))
        }
    })
}

/// The failure of a call that finds the circuit of its system open; none where it may be tried.
pub(crate) fn circuit_of(
    shared: &Shared,
    tenant: &TenantId,
    tool: &ToolId,
    now: Timestamp,
) -> Option<Failure> {
    let found = toolbox::find(shared, tenant, tool)?;
    if found.manifest().executor != Executor::Http {
        return None;
    }
    let (instance, _) = tool.as_str().split_once('.')?;
    shared.tools.declared().breakers().peek(&format!("{tenant}/{instance}"), now)
}

fn too_many(wait: Wait) -> Failure {
    let (code, what) = match wait.bound {
        Bound::Operation => (CALL_CAP, "calls"),
        Bound::Tenant | Bound::Workflow => (WRITE_CAP, "writes"),
    };
    let bound = wait.bound.name();
    let message = format!("as many {what} of this {bound} as a minute may have: wait");
    Failure::new(Category::RateLimited, code, message).retry_after_ms(wait.ms)
}

/// Whether something is only put off: it comes again by itself, and nothing is wrong.
pub(crate) fn is_put_off(failure: &Failure) -> bool {
    let put_off = is_cap(&failure.code) || failure.code == connectors::breaker::CIRCUIT_OPEN;
    put_off && failure.retryable
}
