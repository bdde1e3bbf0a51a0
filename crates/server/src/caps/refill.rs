//! The calls of which a log tells.

use kernel::action::Change;
use kernel::ids::ActionId;
use kernel::machine::{self, Kind, State};
use kernel::receipt::{LogId, Statement};
use kernel::tool::Caps;
use kernel::units::Unit;
use kernel::values::Timestamp;

use super::guard::Call;
use crate::error::{Refused, Result};
use crate::shared::Shared;
use crate::toolbox;

/// Of a tool that is not there now nobody can tell how often it may be called: its calls are
/// counted, and bounded by what is said once it is back.
const ABSENT: Caps = Caps { per_minute: u32::MAX };

/// Counts the writes, and the calls of operations that are bounded, that began with a receipt of
/// the last minute.
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
    let found = toolbox::find(shared, tenant, &request.tool);
    let call = Call {
        tool: &request.tool,
        step: request.step.as_ref(),
        writes: request.units.get(Unit::Writes) > 0,
        caps: found.map_or(Some(ABSENT), |found| found.manifest().caps),
    };
    if let Some(call) = call.bounded(shared, log)? {
        shared.caps.restore(&call, at);
    }
    Ok(())
}
