//! What was measured is proven: every step of every workflow was decided, permitted and receipted.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use kernel::action::{Change as ActionChange, Status};
use kernel::dsse::Envelope;
use kernel::ids::{TenantId, WorkspaceId};
use kernel::machine::Change;
use kernel::receipt::{LogId, Statement};
use kernel::run::Change as RunChange;
use ledger::keys::FileKeys;
use ledger::rebuild::verify_log;
use ledger::store::Store;

/// Receipts that are read at once.
const PAGE: u32 = 1_000;

/// What the receipts of a log tell, counted.
#[derive(Debug, Default)]
struct Told {
    started: u64,
    decided: u64,
    executed: u64,
    ended: u64,
}

impl Told {
    fn see(&mut self, change: &Change) {
        let count = match change {
            Change::Action(ActionChange::Decided { .. }) => &mut self.decided,
            Change::Action(ActionChange::Started(_)) => &mut self.started,
            Change::Action(ActionChange::Finished { outcome, .. })
                if outcome.status == Status::Executed =>
            {
                &mut self.executed
            }
            Change::Run(RunChange::Ended { .. }) => &mut self.ended,
            _ => return,
        };
        *count += 1;
    }
}

/// Verifies the log (every signature, the chain, the tree, the checkpoint), and checks that its
/// receipts tell of so many workflows, each of so many steps. Returns how many receipts there are.
pub(super) fn proven(
    store: &dyn Store,
    data: &Path,
    workflows: u64,
    steps: u64,
) -> anyhow::Result<u64> {
    let keys = FileKeys::open(&data.join("keys"))?;
    let log = LogId::Workspace(TenantId::new("main")?, WorkspaceId::new("main")?);
    let report = verify_log(store, "localhost", &keys, &log)?;
    ensure!(report.valid(), "the log does not verify: {:?}", report.errors);
    let size = store.head(&log)?.context("an empty log")?.frontier.size();
    let (mut told, mut next) = (Told::default(), 0);
    while next < size {
        let rows = store.receipts(&log, next, PAGE)?;
        next = rows.last().context("a receipt is missing")?.index + 1;
        for row in &rows {
            let envelope = Envelope::parse(&row.envelope)?;
            let statement: Statement = serde_json::from_slice(&envelope.payload)?;
            statement.predicate.transitions.iter().for_each(|one| told.see(&one.change));
        }
    }
    let counts = BTreeMap::from([
        ("decided", (told.decided, workflows * steps)),
        ("permitted", (told.started, workflows * steps)),
        ("executed", (told.executed, workflows * steps)),
        ("ended", (told.ended, workflows)),
    ]);
    for (what, (found, expected)) in counts {
        ensure!(found == expected, "{workflows} workflows: {found} {what}, and not {expected}");
    }
    Ok(size)
}
