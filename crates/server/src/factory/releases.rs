//! The releases service.

use std::sync::Arc;

use kernel::decision::DecisionPoint as _;
use kernel::failure::Category;
use kernel::ids::ReleaseId;
use kernel::machine::{self, Command, Kind, Stream};
use kernel::release::{self, Cause, ErrorBudget, Input, Release, Ring, moves};
use kernel::risk::Tier;
use kernel::use_case;
use kernel::values::Digest;
use kernel::workflow_registry::Workflow;
use ledger::Batch;
use prost::Message as _;
use proto::releases::releases_service_server::ReleasesService;
use proto::releases::{
    ApproveReleaseRequest, CreateReleaseRequest, GetReleaseRequest, ListReleasesRequest,
    ListReleasesResponse, PromoteReleaseRequest, Release as WireRelease, ReleaseState,
    RollbackReleaseRequest,
};
use tonic::{Request, Response, Status};

use super::check::check;
use super::workflows::version;
use super::{PROD, paged, wire, workflow_id};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Mutated, Shared, new_id};

/// What idempotency keys are for.
const CREATE: &str = "release_create";
const APPROVE: &str = "release_approve";
const PROMOTE: &str = "release_promote";
const ROLL_BACK: &str = "release_rollback";

/// Serves releases.
#[derive(Clone)]
pub(crate) struct ReleasesApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// The version of a workflow that a batch was made from.
pub(super) fn fence(workflow: &Workflow) -> (Stream, u64) {
    (Stream::new(Kind::Workflow, workflow.id.as_str()), workflow.revision)
}

fn below(tier: Tier, floor: Tier, case: &str) -> Refused {
    let message = format!(
        "the workflow claims the risk tier `{}`, and the use case `{case}` was scored `{}`: \
         publish it with that tier or a higher one",
        wire::tier(tier),
        wire::tier(floor),
    );
    Refused::new(Category::Validation, "risk_tier_below_use_case", message)
}

impl ReleasesApi {
    async fn create(&self, caller: &Caller, wire: CreateReleaseRequest) -> Result<WireRelease> {
        let body = Digest::of(&wire.encode_to_vec());
        if let Some(id) = self.0.made_before(caller, CREATE, body)? {
            return self.show(caller, &id);
        }
        let factory = &self.0.factory;
        let name = workflow_id(&wire.workflow)?;
        let found = factory.workflow(&caller.tenant, &name);
        let workflow = found.ok_or_else(|| Refused::not_found("workflow"))?;
        let kept = match wire.version.as_str() {
            "" => workflow.latest(),
            text => workflow.version(&version(text)?),
        };
        let kept = &kept.ok_or_else(|| Refused::not_found("version"))?.publication;
        // What was good when it was published must be good now.
        check(&self.0, caller, &factory.document(&caller.tenant, kept.document)?)?;
        let floor = factory.floor(&caller.tenant, &name);
        if let Some((floor, case)) = floor.as_ref().filter(|(floor, _)| kept.risk_tier < *floor) {
            return Err(below(kept.risk_tier, *floor, case.as_str()));
        }
        let separated = caller.environment.as_str() == PROD;
        let given = wire.error_budget.unwrap_or_default();
        let usual = ErrorBudget::default();
        let or = |given: u32, usual: u32| if given == 0 { usual } else { given };
        let request = release::Request {
            workflow: name.clone(),
            version: kept.version.clone(),
            document: kept.document,
            policy_revision: self.0.policy.current(&caller.tenant).revision,
            model_pin: kept.model_pin.clone(),
            risk_tier: kept.risk_tier,
            environment: caller.environment.clone(),
            error_budget: ErrorBudget {
                window_runs: or(given.window_runs, usual.window_runs),
                failures_max: or(given.failures_max, usual.failures_max),
            },
            use_case: floor.as_ref().map(|(_, case)| case.clone()),
            tier_floor: floor.map(|(floor, _)| floor),
            approvers: if separated { use_case::approvers(kept.risk_tier) } else { 1 },
            separated,
            author: caller.id.clone(),
            publisher: kept.by.clone(),
        };
        let id = new_id("rel");
        let input = machine::Input::Release(Input::Create(request.into()));
        let commands = vec![Command::new(Kind::Release, &id, input)];
        let batch = Batch::new(caller.control_log(), commands);
        let id = match self.0.mutate(caller, CREATE, body, &id, batch).await? {
            Mutated::Fresh(_) => id,
            Mutated::Repeat(id) => id,
        };
        self.show(caller, &id)
    }

    fn find(&self, caller: &Caller, id: &str) -> Result<Arc<Release>> {
        let id = ReleaseId::new(id).ok();
        let found = id.and_then(|id| self.0.factory.release(&caller.tenant, &id));
        found.ok_or_else(|| Refused::not_found("release"))
    }

    /// A release of the environment that the credential is bound to.
    fn own(&self, caller: &Caller, id: &str) -> Result<Arc<Release>> {
        let release = self.find(caller, id)?;
        if release.request.environment != caller.environment {
            let message = format!(
                "the release is for `{}`, and the credential is bound to `{}`",
                release.request.environment, caller.environment
            );
            return Err(Refused::new(Category::Permission, "credential_binding", message));
        }
        Ok(release)
    }

    fn workflow_of(&self, caller: &Caller, release: &Release) -> Result<Arc<Workflow>> {
        let found = self.0.factory.workflow(&caller.tenant, &release.request.workflow);
        found.ok_or_else(|| Refused::internal("a release without its workflow"))
    }

    fn show(&self, caller: &Caller, id: &str) -> Result<WireRelease> {
        Ok(wire::release(self.find(caller, id)?.as_ref()))
    }

    async fn approve(&self, caller: &Caller, wire: ApproveReleaseRequest) -> Result<WireRelease> {
        let body = Digest::of(&wire.encode_to_vec());
        let release = self.own(caller, &wire.release_id)?;
        let evaluation = match wire.evaluation.as_str() {
            "" => None,
            text => Some(Digest::parse(text).ok_or_else(|| {
                Refused::invalid("evaluation: `sha256:` and 64 lower-case hex digits")
            })?),
        };
        let input = Input::Approve { by: caller.id.clone(), evaluation };
        let input = machine::Input::Release(input);
        let command = Command::new(Kind::Release, release.id.as_str(), input);
        let batch = Batch::new(caller.control_log(), vec![command]);
        self.0.mutate(caller, APPROVE, body, release.id.as_str(), batch).await?;
        self.show(caller, release.id.as_str())
    }

    async fn promote(&self, caller: &Caller, wire: PromoteReleaseRequest) -> Result<WireRelease> {
        let body = Digest::of(&wire.encode_to_vec());
        let release = self.own(caller, &wire.release_id)?;
        if self.0.repeats(caller, PROMOTE, body)? {
            return self.show(caller, release.id.as_str());
        }
        let ring = match wire.canary_percent {
            None => Ring::All {},
            Some(percent) => Ring::Canary { percent: u8::try_from(percent).unwrap_or(u8::MAX) },
        };
        let request = &release.request;
        // It may have been linked, or scored anew, since it was made.
        let floor = self.0.factory.floor(&caller.tenant, &request.workflow);
        if let Some((floor, case)) = floor.filter(|(floor, _)| request.risk_tier < *floor) {
            return Err(below(request.risk_tier, floor, case.as_str()));
        }
        let workflow = self.workflow_of(caller, &release)?;
        let commands = moves::promote(&workflow, &release, ring, caller.id.clone())?;
        let batch =
            Batch { expect: vec![fence(&workflow)], ..Batch::new(caller.control_log(), commands) };
        self.0.mutate(caller, PROMOTE, body, release.id.as_str(), batch).await?;
        self.show(caller, release.id.as_str())
    }

    async fn roll_back(
        &self,
        caller: &Caller,
        wire: RollbackReleaseRequest,
    ) -> Result<WireRelease> {
        let body = Digest::of(&wire.encode_to_vec());
        let release = self.own(caller, &wire.release_id)?;
        if self.0.repeats(caller, ROLL_BACK, body)? {
            return self.show(caller, release.id.as_str());
        }
        let cause = Cause::Person { by: caller.id.clone() };
        let workflow = self.workflow_of(caller, &release)?;
        let before = self.0.factory.before(caller, &release);
        let commands = moves::roll_back(&workflow, &release, before.as_deref(), cause)?;
        let batch =
            Batch { expect: vec![fence(&workflow)], ..Batch::new(caller.control_log(), commands) };
        self.0.mutate(caller, ROLL_BACK, body, release.id.as_str(), batch).await?;
        self.show(caller, release.id.as_str())
    }

    fn list(&self, caller: &Caller, wire: &ListReleasesRequest) -> Result<ListReleasesResponse> {
        let all = self.0.factory.releases(&caller.tenant);
        let state = wire.state();
        let wanted = |release: &Release| {
            let named = release.request.workflow.as_str() == wire.workflow;
            let stands = wire::state(release.status) == state;
            (wire.workflow.is_empty() || named) && (state == ReleaseState::Unspecified || stands)
        };
        let page = (wire.page_size, wire.page_token.as_str());
        let (found, next_page_token) = paged(all, page, |release| release.id.as_str(), wanted)?;
        let releases = found.iter().map(|release| wire::release(release)).collect();
        Ok(ListReleasesResponse { releases, next_page_token })
    }
}

impl super::Factory {
    /// The release whose place another took.
    fn before(&self, caller: &Caller, release: &Release) -> Option<Arc<Release>> {
        self.release(&caller.tenant, release.replaces.as_ref()?)
    }
}

#[tonic::async_trait]
impl ReleasesService for ReleasesApi {
    async fn create_release(&self, request: Request<CreateReleaseRequest>) -> Reply<WireRelease> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }

    async fn list_releases(
        &self,
        request: Request<ListReleasesRequest>,
    ) -> Reply<ListReleasesResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_release(&self, request: Request<GetReleaseRequest>) -> Reply<WireRelease> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.show(&caller, &request.get_ref().release_id)?))
    }

    async fn approve_release(&self, request: Request<ApproveReleaseRequest>) -> Reply<WireRelease> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.approve(&caller, request.into_inner()).await?))
    }

    async fn promote_release(&self, request: Request<PromoteReleaseRequest>) -> Reply<WireRelease> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.promote(&caller, request.into_inner()).await?))
    }

    async fn rollback_release(
        &self,
        request: Request<RollbackReleaseRequest>,
    ) -> Reply<WireRelease> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.roll_back(&caller, request.into_inner()).await?))
    }
}
