//! The watch over canaries: one whose runs fail too often goes out of force by itself.
//!
//! Runs end in the logs of workspaces, releases are in control logs, and no commit moves both. So
//! the count is taken of each commit that ends a run, and the rollback follows as a commit of its
//! own. What is counted follows from the states of runs alone: after a crash it is counted again
//! before the server serves, so that no run is started between the failing one and the rollback.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kernel::ids::{ReleaseId, TenantId};
use kernel::machine::{Kind, State, Stream};
use kernel::receipt::LogId;
use kernel::release::{Cause, Release, Window, moves};
use kernel::run::Run;
use ledger::Batch;
use ledger::store::Page;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::releases::fence;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// Runs are listed by their ids, whose times are read before those of receipts.
const CLOCKS_APART_MICROS: i64 = 60 * 1_000_000;

type Key = (TenantId, ReleaseId);

/// How the runs of canaries ended.
#[derive(Default)]
pub(crate) struct Watch {
    windows: Mutex<BTreeMap<Key, Window>>,
    /// Those to be counted from what is stored.
    stale: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

impl Watch {
    /// Takes notice of where a release stands.
    pub(super) fn follow(&self, tenant: &TenantId, release: &Release) {
        let key = (tenant.clone(), release.id.clone());
        let mut windows = self.windows.lock();
        match release.is_canary() {
            true => {
                let budget = release.request.error_budget;
                windows.entry(key).or_insert_with(|| Window::new(budget));
            }
            false => drop(windows.remove(&key)),
        }
    }

    /// Takes notice of what a commit left behind. Called by the writer: it only makes notes.
    pub(crate) fn seen(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Workspace(tenant, _) = log else { return };
        for (_, state) in states {
            let State::Run(run) = state.as_ref() else { continue };
            // A run says something once it has ended, and where that is taken back.
            if !run.status.has_ended() && run.replays == 0 {
                continue;
            }
            let Some(release) = release_of(run) else { continue };
            let key = (tenant.clone(), release.clone());
            let mut windows = self.windows.lock();
            let Some(window) = windows.get_mut(&key) else { continue };
            if window.take(run) {
                self.stale.lock().insert(key);
                self.wake.notify_one();
            } else if window.spent().is_some() {
                self.wake.notify_one();
            }
        }
    }

    /// The canaries whose budget is spent.
    fn spent(&self) -> Vec<(Key, Cause)> {
        let windows = self.windows.lock();
        let spent = |(key, window): (&Key, &Window)| Some((key.clone(), window.spent()?));
        windows.iter().filter_map(spent).collect()
    }

    fn watched(&self) -> Vec<Key> {
        self.windows.lock().keys().cloned().collect()
    }
}

fn release_of(run: &Run) -> Option<&ReleaseId> {
    run.request.release.as_ref()?.release.as_ref()
}

/// Counts every canary from what is stored, and takes those out of force whose budget is spent.
/// Before anything is served.
pub(crate) async fn recover(shared: &Arc<Shared>) -> Result<()> {
    for key in shared.factory.watch.watched() {
        count(shared, &key)?;
    }
    for (key, cause) in shared.factory.watch.spent() {
        roll_back(shared, &key, cause).await?;
    }
    Ok(())
}

/// Takes canaries out of force as their budgets are spent, until `stop`.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    let watch = shared.factory.watch.clone();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = watch.wake.notified() => {}
            // What could not be done before is tried again.
            () = tokio::time::sleep(limits::QUEUE_IDLE) => {}
        }
        let stale = std::mem::take(&mut *watch.stale.lock());
        for key in stale {
            if let Err(Refused(error)) = count(&shared, &key) {
                tracing::warn!(release = %key.1, %error, "a canary is counted again later");
                watch.stale.lock().insert(key);
            }
        }
        for (key, cause) in watch.spent() {
            if let Err(Refused(error)) = roll_back(&shared, &key, cause).await {
                tracing::warn!(release = %key.1, %error, "a rollback is tried again");
            }
        }
    }
}

/// Counts the runs of a canary that ended last: of those that began since it came into force.
fn count(shared: &Shared, (tenant, id): &Key) -> Result<()> {
    let Some(release) = shared.factory.release(tenant, id).filter(|release| release.is_canary())
    else {
        return Ok(());
    };
    let watch = &shared.factory.watch;
    let key = (tenant.clone(), id.clone());
    let since = release.active_since.map(|since| since.plus_micros(-CLOCKS_APART_MICROS));
    watch.windows.lock().insert(key.clone(), Window::new(release.request.error_budget));
    for log in shared.ledger.store().logs()? {
        if !matches!(&log, LogId::Workspace(owner, _) if owner == tenant) {
            continue;
        }
        let mut page = Page { before: None, status: None, limit: limits::PAGE_SIZE_MAX };
        'pages: loop {
            let states = shared.ledger.list(&log, Kind::Run, &page)?;
            let Some(State::Run(last)) = states.last() else { break };
            page.before = Some(last.id.to_string());
            for state in &states {
                let State::Run(run) = state else { continue };
                if since.is_some_and(|since| run.requested_at < since) {
                    break 'pages;
                }
                if release_of(run) == Some(id)
                    && let Some(window) = watch.windows.lock().get_mut(&key)
                {
                    window.count(run);
                }
            }
        }
    }
    Ok(())
}

/// Takes a canary out of force: the system does it, and the log says why.
async fn roll_back(shared: &Arc<Shared>, (tenant, id): &Key, cause: Cause) -> Result<()> {
    let release = shared.factory.release(tenant, id).filter(|release| release.is_canary());
    let Some(release) = release else { return Ok(()) };
    let workflow = shared.factory.workflow(tenant, &release.request.workflow);
    let workflow = workflow.ok_or_else(|| Refused::internal("a release without its workflow"))?;
    let commands = moves::roll_back(&workflow, &release, None, cause.clone())?;
    let log = LogId::Control(tenant.clone());
    let batch = Batch { expect: vec![fence(&workflow)], ..Batch::new(log, commands) };
    shared.commit_control(batch).await?;
    tracing::warn!(%tenant, release = %id, ?cause, "a canary was rolled back");
    Ok(())
}
