//! What stands between a decision and a permit besides policy: the bounds on writes, and circuits
//! that are open.

use kernel::decision::WRITE_CAP;
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, TenantId, ToolId};
use kernel::receipt::LogId;
use kernel::run::StepRef;
use kernel::tool::{CallFacts, Executor};
use kernel::units::Unit;
use kernel::values::Timestamp;

use super::{Counted, Place, Wait, Write};
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

    fn write(&self, shared: &Shared, log: LogId) -> Result<Write> {
        let name = |step: &StepRef| crate::runs::workflow_of(shared, &log, &step.run);
        let workflow = self.step.map(name).transpose()?;
        Ok(Write { log, workflow })
    }
}

/// Whether calls of a tool count as writes, where they write.
pub(crate) fn counts(shared: &Shared, tenant: &TenantId, tool: &ToolId) -> bool {
    match shared.config.caps.counted {
        Counted::All => true,
        // Of a tool that is gone nobody can tell any more: then it counts.
        Counted::Connectors => toolbox::find(shared, tenant, tool)
            .is_none_or(|found| found.manifest().executor == Executor::Http),
    }
}

fn is_counted(shared: &Shared, tenant: &TenantId, held: &Held<'_>) -> bool {
    held.facts.units.get(Unit::Writes) > 0 && counts(shared, tenant, held.tool)
}

/// Whether there is room for a call now, as policy is told: of what does not count there always is.
pub(crate) fn within(shared: &Shared, caller: &Caller, held: &Held<'_>) -> bool {
    if !is_counted(shared, &caller.tenant, held) {
        return true;
    }
    match held.write(shared, caller.log()) {
        Ok(write) => shared.caps.within(&write, shared.now()),
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
    if !is_counted(shared, &caller.tenant, held) {
        return Ok(Ok(None));
    }
    let write = held.write(shared, caller.log())?;
    let ticket = returns.then(|| held.ticket(id));
    Ok(match shared.caps.enter(&write, id, ticket.as_deref(), shared.now()) {
        Ok(place) => Ok(Some(place)),
        Err(wait) => {
            shared.metrics.put_off(wait.bound);
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
    let message = format!("as many writes of this {} as a minute may have: wait", wait.bound);
    Failure::new(Category::RateLimited, WRITE_CAP, message).retry_after_ms(wait.ms)
}

/// Whether something is only put off: it comes again by itself, and nothing is wrong.
pub(crate) fn is_put_off(failure: &Failure) -> bool {
    let put_off = failure.code == WRITE_CAP || failure.code == connectors::breaker::CIRCUIT_OPEN;
    put_off && failure.retryable
}
