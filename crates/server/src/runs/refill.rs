//! The runs of which a log tells that they began.

use std::time::{Duration, Instant};

use kernel::machine::Change;
use kernel::receipt::{LogId, Statement};
use kernel::run;

use crate::shared::Shared;

/// Counts the runs whose turn came with a receipt of the last minute.
pub(crate) fn count(shared: &Shared, log: &LogId, statement: &Statement) {
    let LogId::Workspace(tenant, _) = log else { return };
    let admitted = |change: &Change| matches!(change, Change::Run(run::Change::Admitted {}));
    let transitions = statement.predicate.transitions.iter();
    let began = transitions.filter(|transition| admitted(&transition.change)).count();
    if began == 0 {
        return;
    }
    let micros = shared.now().0.saturating_sub(statement.predicate.time_us.0);
    let ago = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
    // A machine that has just started has no earlier moment: then it counts as of now.
    let now = Instant::now();
    let at = now.checked_sub(ago).unwrap_or(now);
    shared.runs.admission.lock().restore(tenant, at, began);
}
