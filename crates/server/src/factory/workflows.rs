//! The workflows service.

use std::sync::Arc;

use kernel::failure::Failure;
use kernel::ids::WorkflowId;
use kernel::machine::{self, Command, Kind, Stream};
use kernel::values::Digest;
use kernel::version::Version;
use kernel::workflow::{Plan, Refused as Misfit};
use kernel::workflow_registry::{Input, Kept, Publication, Workflow};
use ledger::Batch;
use ledger::store::SideRow;
use prost::Message as _;
use proto::workflows::workflows_service_server::WorkflowsService;
use proto::workflows::{
    GetWorkflowRequest, GetWorkflowVersionRequest, ListWorkflowsRequest, ListWorkflowsResponse,
    PublishWorkflowRequest, ValidateWorkflowRequest, ValidateWorkflowResponse,
    Workflow as WireWorkflow, WorkflowVersion as WireVersion,
};
use tonic::{Request, Response, Status};

use super::check::check;
use super::{paged, wire, workflow_id};
use crate::error::{Refused, Result};
use crate::limits;
use crate::runtime::yaml;
use crate::shared::{Caller, Shared};

/// What idempotency keys are for.
const PUBLISH: &str = "workflow_publish";

/// Serves workflows.
#[derive(Clone)]
pub(crate) struct WorkflowsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

impl WorkflowsApi {
    async fn publish(&self, caller: &Caller, wire: PublishWorkflowRequest) -> Result<WireWorkflow> {
        let body = Digest::of(&wire.encode_to_vec());
        let (id, plan) = check(&self.0, caller, &wire.yaml)?;
        if self.0.repeats(caller, PUBLISH, body)? {
            return self.show(caller, &id);
        }
        let document = Digest::of(wire.yaml.as_bytes());
        let publication = publication(caller, &plan, document)?;
        let known = self.0.factory.workflow(&caller.tenant, &id);
        let kept = known.as_ref().and_then(|known| known.version(&publication.version));
        if kept.is_some_and(|kept| kept.publication.document == document) {
            // Its key is taken all the same: it stands for this request and no other.
            let nothing = Batch::new(caller.control_log(), Vec::new());
            self.0.mutate(caller, PUBLISH, body, id.as_str(), nothing).await?;
            return self.show(caller, &id);
        }
        match &known {
            Some(known) => self.may_follow(caller, known, kept, &wire.yaml, &plan)?,
            None if self.0.factory.workflows(&caller.tenant).len() >= limits::WORKFLOWS_MAX => {
                let message = format!("at most {} workflows are kept", limits::WORKFLOWS_MAX);
                return Err(Refused::invalid(message));
            }
            None => {}
        }
        let input = machine::Input::Workflow(Input::Publish(publication));
        let command = Command::new(Kind::Workflow, id.as_str(), input);
        let (tenant, bytes) = (caller.tenant.to_string(), wire.yaml.into_bytes());
        let side = vec![SideRow::Blob { tenant, digest: document, bytes }];
        // Not over a version that came in meanwhile.
        let revision = known.map_or(0, |known| known.revision);
        let expect = vec![(Stream::new(Kind::Workflow, id.as_str()), revision)];
        let batch = Batch { side, expect, ..Batch::new(caller.control_log(), vec![command]) };
        self.0.mutate(caller, PUBLISH, body, id.as_str(), batch).await?;
        self.show(caller, &id)
    }

    /// Says, with its line, why the document is no further version of a workflow.
    fn may_follow(
        &self,
        caller: &Caller,
        known: &Workflow,
        same: Option<&Kept>,
        text: &str,
        plan: &Plan,
    ) -> Result<()> {
        let Some(last) = same.or_else(|| known.latest()) else { return Ok(()) };
        let before = self.0.factory.plan(&caller.tenant, last.publication.document)?;
        let misfit = |why| yaml::located(text, Misfit::at("metadata.version", why));
        plan.may_follow(&before).map_err(misfit)?;
        if same.is_some() {
            let mut failure = Failure::from(kernel::machine::Refusal::InvalidInput(
                "this version is published with another text: give it a higher one",
            ));
            if let Some(line) = yaml::line_of(text, "metadata.version") {
                failure.message = format!("line {line}: {}", failure.message);
            }
            return Err(failure.into());
        }
        Ok(())
    }

    fn find(&self, caller: &Caller, id: &WorkflowId) -> Result<Arc<Workflow>> {
        let found = self.0.factory.workflow(&caller.tenant, id);
        found.ok_or_else(|| Refused::not_found("workflow"))
    }

    fn show(&self, caller: &Caller, id: &WorkflowId) -> Result<WireWorkflow> {
        let workflow = self.find(caller, id)?;
        let mut shown = wire::workflow(&self.0.factory, caller, &workflow);
        shown.versions = workflow.versions.iter().rev().map(wire::version).collect();
        Ok(shown)
    }

    fn validate(&self, caller: &Caller, text: &str) -> Result<ValidateWorkflowResponse> {
        let (id, plan) = check(&self.0, caller, text)?;
        let document = Digest::of(text.as_bytes());
        let publication = publication(caller, &plan, document)?;
        let mut version = wire::version(&Kept { publication, at: self.0.now() });
        (version.published_at, version.author) = (None, String::new());
        let steps = u32::try_from(plan.steps.len()).unwrap_or(u32::MAX);
        Ok(ValidateWorkflowResponse { name: id.to_string(), version: Some(version), steps })
    }

    fn list(&self, caller: &Caller, wire: &ListWorkflowsRequest) -> Result<ListWorkflowsResponse> {
        let all = self.0.factory.workflows(&caller.tenant);
        let page = (wire.page_size, wire.page_token.as_str());
        let (found, next_page_token) = paged(all, page, |workflow| workflow.id.as_str(), |_| true)?;
        let shown = found.iter().map(|one| wire::workflow(&self.0.factory, caller, one));
        Ok(ListWorkflowsResponse { workflows: shown.collect(), next_page_token })
    }

    fn version(&self, caller: &Caller, wire: &GetWorkflowVersionRequest) -> Result<WireVersion> {
        let workflow = self.find(caller, &workflow_id(&wire.name)?)?;
        let version = version(&wire.version)?;
        let kept = workflow.version(&version).ok_or_else(|| Refused::not_found("version"))?;
        let mut shown = wire::version(kept);
        shown.yaml = self.0.factory.document(&caller.tenant, kept.publication.document)?;
        Ok(shown)
    }
}

/// A version as callers write it.
pub(super) fn version(text: &str) -> Result<Version> {
    Version::parse(text).map_err(|error| Refused::invalid(format!("version: {error}")))
}

fn publication(caller: &Caller, plan: &Plan, document: Digest) -> Result<Publication> {
    let lacks = |what: &str| Refused::internal(format!("a workflow document without its {what}"));
    Ok(Publication {
        version: plan.version.clone().ok_or_else(|| lacks("version"))?,
        document,
        plan: plan.digest(),
        model_pin: plan.model_pin.clone(),
        risk_tier: plan.risk_tier.ok_or_else(|| lacks("risk tier"))?,
        by: caller.id.clone(),
    })
}

#[tonic::async_trait]
impl WorkflowsService for WorkflowsApi {
    async fn publish_workflow(
        &self,
        request: Request<PublishWorkflowRequest>,
    ) -> Reply<WireWorkflow> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.publish(&caller, request.into_inner()).await?))
    }

    async fn validate_workflow(
        &self,
        request: Request<ValidateWorkflowRequest>,
    ) -> Reply<ValidateWorkflowResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.validate(&caller, &request.get_ref().yaml)?))
    }

    async fn list_workflows(
        &self,
        request: Request<ListWorkflowsRequest>,
    ) -> Reply<ListWorkflowsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_workflow(&self, request: Request<GetWorkflowRequest>) -> Reply<WireWorkflow> {
        let caller = crate::caller(&request)?;
        let id = workflow_id(&request.get_ref().name)?;
        Ok(Response::new(self.show(&caller, &id)?))
    }

    async fn get_workflow_version(
        &self,
        request: Request<GetWorkflowVersionRequest>,
    ) -> Reply<WireVersion> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.version(&caller, request.get_ref())?))
    }
}
