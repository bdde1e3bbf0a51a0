//! The writes of which a log tells.

use kernel::action::Change;
use kernel::ids::ActionId;
use kernel::machine::{self, Kind, State};
use kernel::receipt::{LogId, Statement};
use kernel::units::Unit;
use kernel::values::Timestamp;

use super::{Write, counts};
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// Counts the writes that began with a receipt of the last minute.
pub(crate) fn count(shared: &Shared, log: &LogId, statement: &Statement) -> Result<()> {
    for transition in &statement.predicate.transitions {
        let machine::Change::Action(Change::Started(_)) = &transition.change else { continue };
        let Ok(id) = ActionId::new(&*transition.stream.id) else { continue };
        started(shared, log, &id, statement.predicate.time_us)?;
    }
    Ok(())
}

fn started(shared: &Shared, log: &LogId, id: &ActionId, at: Timestamp) -> Result<()> {
    let (Some(State::Action(action)), LogId::Workspace(tenant, _)) =
        (shared.ledger.read(log, Kind::Action, id.as_str())?, log)
    else {
        return Err(Refused::internal(format!("the log has an attempt of {id}, and no action")));
    };
    let request = &action.request;
    if request.units.get(Unit::Writes) == 0 || !counts(shared, tenant, &request.tool) {
        return Ok(());
    }
    let name = |step: &kernel::run::StepRef| crate::runs::workflow_of(shared, log, &step.run);
    let workflow = request.step.as_ref().map(name).transpose()?;
    shared.caps.restore(&Write { log: log.clone(), workflow }, at);
    Ok(())
}
