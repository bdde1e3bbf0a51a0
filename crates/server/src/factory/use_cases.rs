//! The use cases service.

use std::sync::Arc;

use kernel::ids::{PrincipalId, UseCaseId};
use kernel::machine::{self, Command, Kind};
use kernel::use_case::{Input, UseCase};
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::Class;
use prost::Message as _;
use proto::usecases::use_cases_service_server::UseCasesService;
use proto::usecases::{
    CreateUseCaseRequest, GetUseCaseRequest, LinkUseCaseRequest, ListUseCasesRequest,
    ListUseCasesResponse, ScoreUseCaseRequest, UseCase as WireCase,
};
use serde::{Deserialize, Serialize};
use tonic::{Request, Response, Status};

use super::{paged, wire, workflow_id};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Mutated, Shared, new_id};

/// The part of a use case's content that is its words.
const WORDS: &str = "use_case";
/// What idempotency keys are for.
const CREATE: &str = "use_case_create";
const SCORE: &str = "use_case_score";
const LINK: &str = "use_case_link";

/// What people call a use case, and what is wanted: kept sealed beside the log.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Words {
    name: String,
    description: String,
}

/// Serves use cases.
#[derive(Clone)]
pub(crate) struct UseCasesApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

fn command(id: &str, input: Input) -> Command {
    Command::new(Kind::UseCase, id, machine::Input::UseCase(input))
}

impl UseCasesApi {
    async fn create(&self, caller: &Caller, wire: CreateUseCaseRequest) -> Result<WireCase> {
        let body = Digest::of(&wire.encode_to_vec());
        let CreateUseCaseRequest { name, description, owner_principal_id, answers } = wire;
        let long = |text: &str| text.len() > limits::TEXT_BYTES_MAX;
        if name.trim().is_empty() || long(&name) || long(&description) {
            let message = "name: 1 to 2000 characters; description: at most 2000";
            return Err(Refused::invalid(message));
        }
        let owner = match owner_principal_id.as_str() {
            "" => caller.id.clone(),
            id => PrincipalId::new(id).map_err(|error| Refused::invalid(error.to_string()))?,
        };
        if self.0.control.directory.principal(&caller.tenant, &owner).is_none() {
            return Err(Refused::not_found("principal"));
        }
        let (id, by) = (new_id("uc"), caller.id.clone());
        let mut commands = vec![command(&id, Input::Create { owner, by: by.clone() })];
        if let Some(answers) = answers {
            let answers = wire::answers(answers)?;
            commands.push(command(&id, Input::Score { answers, by }));
        }
        let words = serde_json::to_vec(&Words { name, description }).map_err(Refused::internal)?;
        let (tenant, class, now) = (caller.tenant.as_str(), Class::Record, self.0.now());
        let sealed = self.0.control.vault.seal(tenant, &id, WORDS, class, &words, now).await?;
        let batch = Batch { side: vec![sealed], ..Batch::new(caller.control_log(), commands) };
        let id = match self.0.mutate(caller, CREATE, body, &id, batch).await? {
            Mutated::Fresh(_) => id,
            Mutated::Repeat(id) => id,
        };
        self.show(caller, &id)
    }

    fn find(&self, caller: &Caller, id: &str) -> Result<Arc<UseCase>> {
        let id = UseCaseId::new(id).ok();
        let found = id.and_then(|id| self.0.factory.case(&caller.tenant, &id));
        found.ok_or_else(|| Refused::not_found("use case"))
    }

    fn shown(&self, caller: &Caller, case: &UseCase) -> Result<WireCase> {
        let kept = self.0.control.vault.open(caller.tenant.as_str(), case.id.as_str(), WORDS)?;
        let words = kept.map(|kept| serde_json::from_slice(&kept)).transpose();
        let Words { name, description } = words.map_err(Refused::internal)?.unwrap_or_default();
        Ok(wire::case(case, (name, description)))
    }

    fn show(&self, caller: &Caller, id: &str) -> Result<WireCase> {
        self.shown(caller, self.find(caller, id)?.as_ref())
    }

    async fn score(&self, caller: &Caller, wire: ScoreUseCaseRequest) -> Result<WireCase> {
        let body = Digest::of(&wire.encode_to_vec());
        let case = self.find(caller, &wire.use_case_id)?;
        let answers = wire.answers.ok_or_else(|| Refused::invalid("answers: give all of them"))?;
        let input = Input::Score { answers: wire::answers(answers)?, by: caller.id.clone() };
        self.ask(caller, (SCORE, body), &case, input).await
    }

    async fn link(&self, caller: &Caller, wire: LinkUseCaseRequest) -> Result<WireCase> {
        let body = Digest::of(&wire.encode_to_vec());
        let case = self.find(caller, &wire.use_case_id)?;
        let workflow = workflow_id(&wire.workflow)?;
        if self.0.factory.workflow(&caller.tenant, &workflow).is_none() {
            return Err(Refused::not_found("workflow"));
        }
        let input = Input::Link { workflow, by: caller.id.clone() };
        self.ask(caller, (LINK, body), &case, input).await
    }

    async fn ask(
        &self,
        caller: &Caller,
        (endpoint, body): (&str, Digest),
        case: &UseCase,
        input: Input,
    ) -> Result<WireCase> {
        let id = case.id.as_str();
        let batch = Batch::new(caller.control_log(), vec![command(id, input)]);
        self.0.mutate(caller, endpoint, body, id, batch).await?;
        self.show(caller, id)
    }

    fn list(&self, caller: &Caller, wire: &ListUseCasesRequest) -> Result<ListUseCasesResponse> {
        let all = self.0.factory.cases(&caller.tenant);
        let page = (wire.page_size, wire.page_token.as_str());
        let (found, next_page_token) = paged(all, page, |case| case.id.as_str(), |_| true)?;
        let shown = found.iter().map(|case| self.shown(caller, case));
        Ok(ListUseCasesResponse { use_cases: shown.collect::<Result<_>>()?, next_page_token })
    }
}

#[tonic::async_trait]
impl UseCasesService for UseCasesApi {
    async fn create_use_case(&self, request: Request<CreateUseCaseRequest>) -> Reply<WireCase> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }

    async fn list_use_cases(
        &self,
        request: Request<ListUseCasesRequest>,
    ) -> Reply<ListUseCasesResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn get_use_case(&self, request: Request<GetUseCaseRequest>) -> Reply<WireCase> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.show(&caller, &request.get_ref().use_case_id)?))
    }

    async fn score_use_case(&self, request: Request<ScoreUseCaseRequest>) -> Reply<WireCase> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.score(&caller, request.into_inner()).await?))
    }

    async fn link_use_case(&self, request: Request<LinkUseCaseRequest>) -> Reply<WireCase> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.link(&caller, request.into_inner()).await?))
    }
}
