//! The sandboxes service: a typed front of the actions that run code, and what is attested of them.

use std::sync::Arc;

use kernel::action::{Action, Status};
use kernel::ids::ToolId;
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::values::Digest;
use prost::Message;
use proto::HttpBody;
use proto::rest::HttpStatus;
use proto::sandboxes::sandboxes_service_server::SandboxesService;
use proto::sandboxes::{
    CancelExecutionRequest, ExecuteRequest, Execution, GetAttestationRequest, GetExecutionRequest,
    ListExecutionsRequest, ListExecutionsResponse, Replay, ReplayExecutionRequest,
};
use tonic::{Request, Response, Status as RpcStatus};

use super::attest::{document, nothing_attested};
use super::tool::{EXECUTE, REPLAY};
use super::{serves, wire};
use crate::actions::{
    ActionsApi, Answer, Asked, Claims, Keyed, Patience, READ, STATUSES, check_place, find,
    own_or_operated, payer, wire_state,
};
use crate::error::{Refused, Result};
use crate::paging;
use crate::shared::{Caller, Shared};

/// Serves sandboxes.
pub(crate) struct SandboxesApi(pub(crate) Arc<Shared>);

/// What idempotency keys are for.
const EXECUTIONS: &str = "executions";
const REPLAYS: &str = "replays";

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

/// 200 for what has ended, 202 for what is pending.
fn reply<T>(message: T, settled: bool) -> Response<T> {
    let mut response = Response::new(message);
    if !settled {
        response.extensions_mut().insert(HttpStatus(202));
    }
    response
}

impl SandboxesApi {
    fn actions(&self) -> ActionsApi {
        ActionsApi(self.0.clone())
    }

    async fn submit(
        &self,
        caller: &Caller,
        asked: (&str, RawJson, Claims),
        account_id: &str,
        (keyed, patience): (Keyed, Patience),
    ) -> Result<Answer> {
        let (tool, params, claims) = asked;
        let tool = ToolId::new(tool).map_err(Refused::internal)?;
        let account = payer(caller, account_id)?;
        let asked = Asked {
            tool,
            params,
            claims,
            account,
            through: None,
            under: None,
            step: None,
            reverses: None,
        };
        self.actions().carry_out(caller, asked, keyed, patience).await
    }

    async fn run(&self, caller: &Caller, mut wire: ExecuteRequest) -> Result<Answer> {
        let patience = Patience::new(wire.wait_ms.take())?;
        // How long to wait is not part of what is asked.
        let body = Digest::of(&wire.encode_to_vec());
        check_place(caller, &wire.workspace, &wire.environment)?;
        let params = wire::params(&wire)?;
        let claims = Claims::new(wire.claims.take())?;
        let asked = (EXECUTE, params, claims);
        let keyed = Keyed { endpoint: EXECUTIONS, body };
        self.submit(caller, asked, &wire.account_id, (keyed, patience)).await
    }

    /// An execution that the caller may see, by its id. An action that runs no code is none.
    fn find(&self, caller: &Caller, id: &str) -> Result<Action> {
        let action = find(&self.0, caller, id).map_err(|_| Refused::not_found("execution"))?;
        if self.is_execution(caller, &action) {
            return Ok(action);
        }
        Err(Refused::not_found("execution"))
    }

    fn is_execution(&self, caller: &Caller, action: &Action) -> bool {
        let tool = &action.request.tool;
        let attested = action.outcome.as_ref().is_some_and(|outcome| outcome.attestation.is_some());
        attested || (tool.as_str() != REPLAY && serves(&self.0, &caller.tenant, tool))
    }

    fn list(
        &self,
        caller: &Caller,
        asked: &ListExecutionsRequest,
    ) -> Result<ListExecutionsResponse> {
        let wanted = asked.state();
        let status = STATUSES.into_iter().find(|status| wire_state(*status) == wanted);
        let page = paging::page(asked.page_size, &asked.page_token, status.map(Status::as_str));
        let log = caller.log();
        let sees = |state: &State| match state {
            State::Action(action) => {
                self.is_execution(caller, action) && caller.sees(READ, &action.request.actors)
            }
            _ => false,
        };
        let (states, next_page_token) =
            paging::visible(&self.0.ledger, &log, Kind::Action, page, sees)?;
        let executions = states.into_iter().filter_map(|state| match state {
            State::Action(action) => {
                Some(wire::execution(Answer::new(action, Arc::default()), &log))
            }
            _ => None,
        });
        Ok(ListExecutionsResponse { executions: executions.collect(), next_page_token })
    }

    fn attestation(&self, caller: &Caller, id: &str) -> Result<HttpBody> {
        let action = self.find(caller, id)?;
        let document = document(&self.0, &caller.log(), &action)?;
        let document = document.ok_or_else(|| nothing_attested(&action))?;
        let data = serde_json::to_vec_pretty(&document).map_err(Refused::internal)?;
        let content_type = "application/json".to_owned();
        Ok(HttpBody { content_type, data, extensions: Vec::new() })
    }

    async fn repeat(&self, caller: &Caller, mut wire: ReplayExecutionRequest) -> Result<Replay> {
        let patience = Patience::new(wire.wait_ms.take())?;
        let body = Digest::of(&wire.encode_to_vec());
        let action = self.find(caller, &wire.execution_id)?;
        let asked = (REPLAY, wire::replay_params(&wire)?, Claims::new(None)?);
        let keyed = Keyed { endpoint: REPLAYS, body };
        let answer = self.submit(caller, asked, "", (keyed, patience)).await?;
        let log = caller.log();
        Ok(wire::replay(action.id.as_str(), answer.complete(&self.0, &log)?, &log))
    }

    fn shown(&self, caller: &Caller, answer: Answer) -> Result<Execution> {
        let log = caller.log();
        Ok(wire::execution(answer.complete(&self.0, &log)?, &log))
    }
}

#[tonic::async_trait]
impl SandboxesService for SandboxesApi {
    async fn execute(&self, request: Request<ExecuteRequest>) -> Reply<Execution> {
        let caller = crate::caller(&request)?;
        let answer = self.run(&caller, request.into_inner()).await?;
        let settled = answer.action.status.is_settled();
        Ok(reply(self.shown(&caller, answer)?, settled))
    }

    async fn get_execution(&self, request: Request<GetExecutionRequest>) -> Reply<Execution> {
        let caller = crate::caller(&request)?;
        let action = self.find(&caller, &request.get_ref().execution_id)?;
        Ok(Response::new(self.shown(&caller, Answer::new(action, Arc::default()))?))
    }

    async fn list_executions(
        &self,
        request: Request<ListExecutionsRequest>,
    ) -> Reply<ListExecutionsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }

    async fn cancel_execution(&self, request: Request<CancelExecutionRequest>) -> Reply<Execution> {
        let caller = crate::caller(&request)?;
        let action = self.find(&caller, &request.get_ref().execution_id)?;
        own_or_operated(&caller, &action)?;
        let answer = self.actions().end(&caller, &action).await?;
        Ok(Response::new(self.shown(&caller, answer)?))
    }

    async fn get_attestation(&self, request: Request<GetAttestationRequest>) -> Reply<HttpBody> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.attestation(&caller, &request.get_ref().execution_id)?))
    }

    async fn replay_execution(&self, request: Request<ReplayExecutionRequest>) -> Reply<Replay> {
        let caller = crate::caller(&request)?;
        let replay = self.repeat(&caller, request.into_inner()).await?;
        use proto::actions::action::State as Wire;
        let ended = [Wire::Denied, Wire::Executed, Wire::Failed, Wire::Canceled, Wire::Expired];
        let settled = ended.contains(&replay.state());
        Ok(reply(replay, settled))
    }
}
