//! Of which workflow a run is, for what bounds workflows.

use kernel::ids::RunId;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;

use super::document;
use crate::error::Result;
use crate::shared::Shared;

/// The workflow of a run: the one that was released, whatever its plan is called; of a plan that
/// nobody published, the name that it bears. Where what it is made of is no longer kept, the run
/// stands for itself.
pub(crate) fn workflow_of(shared: &Shared, log: &LogId, run: &RunId) -> Result<String> {
    if let Some(State::Run(state)) = shared.ledger.read(log, Kind::Run, run.as_str())?
        && let Some(pinned) = &state.request.release
    {
        return Ok(pinned.workflow.to_string());
    }
    let known = shared.runs.live.lock().get(run).cloned();
    if let Some(live) = known {
        return Ok(live.document.plan.name.clone());
    }
    let document = document::open(shared, log, run)?;
    Ok(document.map_or_else(|| run.to_string(), |document| document.plan.name.clone()))
}
