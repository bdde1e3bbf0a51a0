//! What teams make and let loose: workflows in versions, their releases, and what they are for.
//!
//! The control logs say it (`kernel::workflow_registry`, `kernel::release`, `kernel::use_case`), by
//! digests; the documents are kept beside them under those digests. This is the fold in memory, the
//! wire's face of it, and the watch over canaries.

mod check;
mod releases;
mod use_cases;
mod watch;
mod wire;
mod workflows;

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::ids::{EnvironmentId, ReleaseId, RunId, TenantId, UseCaseId, WorkflowId};
use kernel::machine::{State, Stream};
use kernel::receipt::LogId;
use kernel::release::{Release, Ring};
use kernel::risk::Tier;
use kernel::use_case::UseCase;
use kernel::values::Digest;
use kernel::workflow::Plan;
use kernel::workflow_registry::Workflow;
use ledger::Ledger;
use parking_lot::{Mutex, RwLock};

use crate::error::{Refused, Result};
use crate::follow::Follower;
use crate::limits;
use crate::runtime::yaml;

pub(crate) use releases::ReleasesApi;
pub(crate) use use_cases::UseCasesApi;
pub(crate) use watch::{Watch, recover, serve};
pub(crate) use workflows::WorkflowsApi;

/// The environment in which a release takes the word of two.
pub(crate) const PROD: &str = "prod";

#[derive(Default)]
struct Tables {
    workflows: BTreeMap<(TenantId, WorkflowId), Arc<Workflow>>,
    releases: BTreeMap<(TenantId, ReleaseId), Arc<Release>>,
    cases: BTreeMap<(TenantId, UseCaseId), Arc<UseCase>>,
}

type Plans = BTreeMap<(TenantId, Digest), Arc<Plan>>;

/// The workflows, releases and use cases of all tenants.
pub(crate) struct Factory {
    control: Ledger,
    tables: RwLock<Tables>,
    /// Plans whose documents were read before.
    plans: Mutex<Plans>,
    watch: Arc<Watch>,
}

/// Puts `new` in its place, unless a newer one is there. Whether it did.
fn newest<K: Ord, T: Clone>(
    table: &mut BTreeMap<K, Arc<T>>,
    key: K,
    new: &T,
    revision: impl Fn(&T) -> u64,
) -> bool {
    let passed = table.get(&key).is_some_and(|known| revision(known) > revision(new));
    if !passed {
        table.insert(key, Arc::new(new.clone()));
    }
    !passed
}

impl Follower for Factory {
    /// All at once: nobody sees a release in force that its workflow does not name.
    fn take(&self, log: &LogId, states: &[(Stream, Arc<State>)]) {
        let LogId::Control(tenant) = log else { return };
        let mut tables = self.tables.write();
        for (_, state) in states {
            match state.as_ref() {
                State::Workflow(new) => {
                    let key = (tenant.clone(), new.id.clone());
                    newest(&mut tables.workflows, key, new, |known| known.revision);
                }
                State::Release(new) => {
                    let key = (tenant.clone(), new.id.clone());
                    if newest(&mut tables.releases, key, new, |known| known.revision) {
                        self.watch.follow(tenant, new);
                    }
                }
                State::UseCase(new) => {
                    let key = (tenant.clone(), new.id.clone());
                    newest(&mut tables.cases, key, new, |known| known.revision);
                }
                _ => {}
            }
        }
    }
}

impl Factory {
    /// `watch` is told of each commit of a workspace.
    pub(crate) fn new(control: &Ledger, watch: Arc<Watch>) -> Self {
        let (tables, plans) = (RwLock::default(), Mutex::default());
        Self { control: control.clone(), tables, plans, watch }
    }

    /// The workflow of that name.
    pub(crate) fn workflow(&self, tenant: &TenantId, id: &WorkflowId) -> Option<Arc<Workflow>> {
        self.tables.read().workflows.get(&(tenant.clone(), id.clone())).cloned()
    }

    /// The release of that id.
    pub(crate) fn release(&self, tenant: &TenantId, id: &ReleaseId) -> Option<Arc<Release>> {
        self.tables.read().releases.get(&(tenant.clone(), id.clone())).cloned()
    }

    /// The use case of that id.
    fn case(&self, tenant: &TenantId, id: &UseCaseId) -> Option<Arc<UseCase>> {
        self.tables.read().cases.get(&(tenant.clone(), id.clone())).cloned()
    }

    fn workflows(&self, tenant: &TenantId) -> Vec<Arc<Workflow>> {
        let tables = self.tables.read();
        let own = tables.workflows.iter().filter(|((owner, _), _)| owner == tenant);
        own.map(|(_, workflow)| workflow.clone()).collect()
    }

    /// The newest first.
    fn releases(&self, tenant: &TenantId) -> Vec<Arc<Release>> {
        let tables = self.tables.read();
        let own = tables.releases.iter().rev().filter(|((owner, _), _)| owner == tenant);
        own.map(|(_, release)| release.clone()).collect()
    }

    /// The newest first.
    fn cases(&self, tenant: &TenantId) -> Vec<Arc<UseCase>> {
        let tables = self.tables.read();
        let own = tables.cases.iter().rev().filter(|((owner, _), _)| owner == tenant);
        own.map(|(_, case)| case.clone()).collect()
    }

    /// The use cases that a workflow is for.
    fn cases_of(&self, tenant: &TenantId, id: &WorkflowId) -> Vec<Arc<UseCase>> {
        let mut cases = self.cases(tenant);
        cases.retain(|case| case.workflows.contains(id));
        cases
    }

    /// The least tier that a release of a workflow may claim, and the use case that says so.
    fn floor(&self, tenant: &TenantId, id: &WorkflowId) -> Option<(Tier, UseCaseId)> {
        let cases = self.cases_of(tenant, id);
        cases.iter().map(|case| (case.floor(), case.id.clone())).max()
    }

    /// Whether runs of a workflow take a release there.
    pub(crate) fn is_released(
        &self,
        tenant: &TenantId,
        workflow: &WorkflowId,
        environment: &EnvironmentId,
    ) -> bool {
        let tables = self.tables.read();
        let workflow = tables.workflows.get(&(tenant.clone(), workflow.clone()));
        let in_force = workflow.and_then(|workflow| workflow.in_force.get(environment));
        in_force.is_some_and(|in_force| in_force.stable.is_some())
    }

    /// The release of a workflow that the run `run` takes in `environment`, and its ring.
    pub(crate) fn taken(
        &self,
        tenant: &TenantId,
        workflow: &WorkflowId,
        environment: &EnvironmentId,
        run: &RunId,
    ) -> Option<(Arc<Release>, Ring)> {
        let tables = self.tables.read();
        let workflow = tables.workflows.get(&(tenant.clone(), workflow.clone()))?;
        let in_force = workflow.in_force.get(environment)?;
        let (release, ring) = in_force.of(run)?;
        let release = tables.releases.get(&(tenant.clone(), release.clone()))?;
        Some((release.clone(), ring))
    }

    /// A document as it was published.
    fn document(&self, tenant: &TenantId, digest: Digest) -> Result<String> {
        let kept = self.control.store().blob(tenant.as_str(), digest)?;
        let kept = kept.filter(|bytes| Digest::of(bytes) == digest);
        let text = kept.and_then(|bytes| String::from_utf8(bytes).ok());
        text.ok_or_else(|| {
            let message = "the document of a workflow is not kept, or not the one that was";
            Failure::new(Category::Internal, "workflow_lost", message).into()
        })
    }

    /// The plan of a document, which is that of its digest or none.
    pub(crate) fn plan(&self, tenant: &TenantId, digest: Digest) -> Result<Arc<Plan>> {
        let key = (tenant.clone(), digest);
        if let Some(plan) = self.plans.lock().get(&key) {
            return Ok(plan.clone());
        }
        let plan = Arc::new(yaml::plan(&self.document(tenant, digest)?)?);
        let mut plans = self.plans.lock();
        if plans.len() >= limits::PLANS_KNOWN_MAX {
            plans.clear();
        }
        plans.insert(key, plan.clone());
        Ok(plan)
    }
}

fn workflow_id(text: &str) -> Result<WorkflowId> {
    WorkflowId::new(text).map_err(|error| Refused::invalid(error.to_string()))
}

/// A page of what is wanted of what is in memory, in the order that it has there. A token is the
/// id of the last item seen, which may be wanted no longer.
fn paged<T>(
    items: Vec<Arc<T>>,
    (size, token): (u32, &str),
    id: impl Fn(&T) -> &str,
    wanted: impl Fn(&T) -> bool,
) -> Result<(Vec<Arc<T>>, String)> {
    let limit = crate::paging::page(size, token, None).limit;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut rest = items.into_iter();
    if !token.is_empty() && !rest.by_ref().any(|item| id(&item) == token) {
        let message = "page_token: give the next_page_token of the page before, as it is";
        return Err(Refused::new(Category::Validation, "invalid_page_token", message));
    }
    let mut rest = rest.filter(|item| wanted(item));
    let found: Vec<Arc<T>> = rest.by_ref().take(limit).collect();
    let more = rest.next().is_some();
    let next = found.last().filter(|_| more).map(|item| id(item).to_owned());
    Ok((found, next.unwrap_or_default()))
}
