//! What the control log says about a run, and the text of its workflow.

use std::collections::{BTreeMap, BTreeSet};

use kernel::bundle::run::{Control, Needs, Told};
use kernel::dsse::Envelope;
use kernel::ids::TenantId;
use kernel::receipt::{LogId, Statement, Transition};
use kernel::values::{Digest, Timestamp};
use ledger::evidence;

use super::PAGE;
use crate::error::{Refused, Result};
use crate::shared::Shared;

/// Receipts of the control log that tell of what a run rests on.
pub(super) struct Governing {
    log: LogId,
    origin: String,
    receipts: BTreeMap<u64, (Timestamp, Vec<Transition>)>,
}

impl Governing {
    /// Reads back from the newest until all that is needed was found.
    pub(super) fn of(shared: &Shared, tenant: &TenantId, needs: &Needs) -> Result<Option<Self>> {
        if needs.is_empty() {
            return Ok(None);
        }
        let log = LogId::Control(tenant.clone());
        let origin = log.origin(shared.ledger.host());
        let store = shared.control.ledger.store();
        let mut next = store.head(&log)?.map_or(0, |head| head.frontier.size());
        let mut receipts = BTreeMap::new();
        while next > 0 && !needs.are_met_by(changes(&receipts)) {
            let from = next.saturating_sub(PAGE.into());
            let count = u32::try_from(next - from).unwrap_or(PAGE);
            for row in store.receipts(&log, from, count)? {
                let payload = Envelope::parse(&row.envelope).map_err(Refused::internal)?.payload;
                let predicate = Statement::parse(&payload).map_err(Refused::internal)?.predicate;
                let time = predicate.time_us;
                if predicate.transitions.iter().any(|transition| needs.has(transition, time)) {
                    receipts.insert(row.index, (time, predicate.transitions));
                }
            }
            next = from;
        }
        Ok(Some(Self { log, origin, receipts }))
    }

    pub(super) fn control(&self) -> Control<'_> {
        let told = self.receipts.iter().map(|(index, (time, transitions))| Told {
            index: *index,
            time: *time,
            transitions,
        });
        Control { origin: &self.origin, told: told.collect() }
    }

    /// What a bundle has of them.
    pub(super) fn files(&self, shared: &Shared) -> Result<BTreeMap<String, Vec<u8>>> {
        let indices: BTreeSet<u64> = self.receipts.keys().copied().collect();
        Ok(evidence::of_control(&shared.control.ledger, &self.log, indices)?)
    }
}

fn changes(
    receipts: &BTreeMap<u64, (Timestamp, Vec<Transition>)>,
) -> impl Iterator<Item = (Timestamp, &Transition)> {
    receipts.values().flat_map(|(time, transitions)| transitions.iter().map(|t| (*time, t)))
}

/// The text that a run was bound to. Without it there is no evidence of what ran.
pub(super) fn text(
    shared: &Shared,
    tenant: &TenantId,
    document: Option<Digest>,
) -> Result<Option<(Digest, Vec<u8>)>> {
    let Some(digest) = document else { return Ok(None) };
    match shared.control.ledger.store().blob(tenant.as_str(), digest)? {
        Some(bytes) if Digest::of(&bytes) == digest => Ok(Some((digest, bytes))),
        _ => {
            Err(Refused::internal(format!("the text of workflow {digest} is gone or was changed")))
        }
    }
}
