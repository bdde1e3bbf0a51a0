//! The actions service: the wire's face of everything above.

use std::sync::Arc;
use std::time::Duration;

use kernel::action::{Action, Status};
use kernel::failure::Category;
use kernel::ids::{AccountId, ToolId};
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::values::{Digest, MicroUsd};
use prost::Message;
use proto::actions::actions_service_server::ActionsService;
use proto::actions::{
    Action as WireAction, CancelActionRequest, GetActionRequest, ListActionsRequest,
    ListActionsResponse, ReconcileActionRequest, ReleaseActionRequest, ReverseActionRequest,
    SubmitActionRequest, reconcile_action_request::Outcome as WireOutcome,
};
use proto::rest::HttpStatus;
use tokio::time::Instant;
use tonic::{Request, Response, Status as RpcStatus};

use super::prepare::{Asked, Claims, check_place, parse};
use super::reverse::reverse;
use super::run;
use super::submit::{Keyed, READ, Submitted, find, submit};
use super::view::{Answer, wire_state};
use crate::error::{Refused, Result};
use crate::limits;
use crate::paging;
use crate::shared::{Caller, Shared};

/// Serves actions.
pub(crate) struct ActionsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

/// 200 for what has ended, 202 for what is pending.
fn reply(answer: Answer, caller: &Caller) -> Response<WireAction> {
    let settled = answer.action.status.is_settled();
    let mut response = Response::new(answer.wire(&caller.log()));
    if !settled {
        response.extensions_mut().insert(HttpStatus(202));
    }
    response
}

/// How long a caller waits.
#[derive(Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
    /// Whether also for people: only who says how long waits for them.
    for_people: bool,
}

impl Patience {
    pub(crate) fn new(wait_ms: Option<u32>) -> Result<Self> {
        let ms = wait_ms.unwrap_or(limits::WAIT_MS_DEFAULT);
        if ms > limits::WAIT_MS_MAX {
            return Err(Refused::invalid("wait_ms is at most 60000"));
        }
        let until = Instant::now() + Duration::from_millis(ms.into());
        Ok(Self { until, for_people: wait_ms.is_some() })
    }

    /// Whether the caller is to be answered now.
    fn ends_with(&self, action: &Action) -> bool {
        let held = matches!(action.status, Status::AwaitingApproval | Status::Quarantined);
        action.status.is_settled() || (held && !self.for_people) || Instant::now() >= self.until
    }
}

impl ActionsApi {
    async fn submit(&self, caller: &Caller, mut wire: SubmitActionRequest) -> Result<Answer> {
        let patience = Patience::new(wire.wait_ms.take())?;
        // How long to wait is not part of what is asked.
        let body = Digest::of(&wire.encode_to_vec());
        check_place(caller, &wire.workspace, &wire.environment)?;
        let asked = asked(caller, wire)?;
        self.carry_out(caller, asked, Keyed::action(body), patience).await
    }

    /// Submits an action and waits for its end.
    pub(crate) async fn carry_out(
        &self,
        caller: &Caller,
        asked: Asked,
        keyed: Keyed,
        patience: Patience,
    ) -> Result<Answer> {
        let submitting = {
            let (shared, caller) = (self.0.clone(), caller.clone());
            // A task of its own: a caller who goes away does not take the action along.
            tokio::spawn(async move { submit(&shared, &caller, asked, keyed).await })
        };
        match submitting.await.map_err(Refused::not_ended)?? {
            Submitted::New(answer, None) => self.wait(caller, *answer, patience).await,
            Submitted::New(answer, Some(running)) => {
                match tokio::time::timeout_at(patience.until, running).await {
                    Err(_) => Ok(*answer),
                    // Where another attempt follows, the wait goes on.
                    Ok(ended) => {
                        let ended = ended.map_err(Refused::not_ended)??;
                        self.wait(caller, ended, patience).await
                    }
                }
            }
            Submitted::Repeat(id) => {
                let action = find(&self.0, caller, id.as_str())?;
                self.wait(caller, Answer::new(action, Arc::default()), patience).await
            }
        }
    }

    /// The action once there is nothing more to wait for.
    pub(crate) async fn wait(
        &self,
        caller: &Caller,
        answer: Answer,
        patience: Patience,
    ) -> Result<Answer> {
        let log = caller.log();
        if patience.ends_with(&answer.action) {
            return answer.complete(&self.0, &log);
        }
        let id = answer.action.id;
        let place = self.0.waiters.enter(&id);
        loop {
            let changed = place.changed();
            tokio::pin!(changed);
            // From here on a change is noticed.
            changed.as_mut().enable();
            let action = find(&self.0, caller, id.as_str())?;
            if patience.ends_with(&action) {
                return Answer::new(action, Arc::default()).complete(&self.0, &log);
            }
            // Whoever wakes may be another server: look again now and then.
            let next = patience.until.min(Instant::now() + limits::QUEUE_IDLE);
            let _woken = tokio::time::timeout_at(next, changed).await;
        }
    }

    /// Ends an action: code in a sandbox where it runs, everything else before it does.
    pub(crate) async fn end(&self, caller: &Caller, action: &Action) -> Result<Answer> {
        let runs = action.status == Status::Executing && self.0.sandbox.runs.cancel(&action.id);
        if !runs {
            return run::cancel(&self.0, caller, action).await;
        }
        let answer = Answer::new(action.clone(), Arc::default());
        let until = Instant::now() + crate::sandbox::CANCEL_WAIT;
        self.wait(caller, answer, Patience { until, for_people: true }).await
    }

    fn list(&self, caller: &Caller, wire: ListActionsRequest) -> Result<ListActionsResponse> {
        let wanted = wire.state();
        let status = STATUSES.into_iter().find(|status| wire_state(*status) == wanted);
        let page = paging::page(wire.page_size, &wire.page_token, status.map(Status::as_str));
        let log = caller.log();
        let sees = |state: &State| match state {
            State::Action(action) => caller.sees(READ, &action.request.actors),
            _ => false,
        };
        let (states, next_page_token) =
            paging::visible(&self.0.ledger, &log, Kind::Action, page, sees)?;
        let actions = states.into_iter().filter_map(|state| match state {
            State::Action(action) => Some(Answer::new(action, Arc::default()).wire(&log)),
            _ => None,
        });
        Ok(ListActionsResponse { actions: actions.collect(), next_page_token })
    }

    fn complete(&self, caller: &Caller, answer: Answer) -> Result<Response<WireAction>> {
        Ok(reply(answer.complete(&self.0, &caller.log())?, caller))
    }
}

/// Where an action may stand.
pub(crate) const STATUSES: [Status; 11] = [
    Status::Requested,
    Status::Denied,
    Status::Quarantined,
    Status::AwaitingApproval,
    Status::Approved,
    Status::Executing,
    Status::Executed,
    Status::Failed,
    Status::Unknown,
    Status::Canceled,
    Status::Expired,
];

fn asked(caller: &Caller, wire: SubmitActionRequest) -> Result<Asked> {
    let tool = ToolId::new(&wire.tool).map_err(|error| Refused::invalid(error.to_string()))?;
    let params = match wire.params {
        Some(json) => parse("params", &json.text)?,
        None => RawJson::empty_object(),
    };
    let account = payer(caller, &wire.account_id)?;
    let claims = Claims::new(wire.claims)?;
    Ok(Asked {
        tool,
        params,
        claims,
        account,
        through: None,
        under: None,
        step: None,
        reverses: None,
    })
}

/// Who pays for what the caller asks.
pub(crate) fn payer(caller: &Caller, account_id: &str) -> Result<Option<AccountId>> {
    if account_id.is_empty() {
        return Ok(caller.account.clone());
    }
    let id = AccountId::new(account_id).map_err(|error| Refused::invalid(error.to_string()))?;
    if caller.account.as_ref() == Some(&id) {
        return Ok(Some(id));
    }
    let message = "this principal pays from its own account only: leave it out";
    Err(Refused::new(Category::Permission, "account_not_yours", message))
}

#[tonic::async_trait]
impl ActionsService for ActionsApi {
    async fn submit_action(&self, request: Request<SubmitActionRequest>) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let answer = self.submit(&caller, request.into_inner()).await?;
        Ok(reply(answer, &caller))
    }

    async fn get_action(&self, request: Request<GetActionRequest>) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let action = find(&self.0, &caller, &request.get_ref().action_id)?;
        let answer = Answer::new(action, Arc::default());
        let settled = answer.action.status.is_settled();
        let mut response = self.complete(&caller, answer)?;
        if !settled {
            // Reading something that is pending is no pending request.
            response.extensions_mut().insert(HttpStatus(200));
        }
        Ok(response)
    }

    async fn list_actions(
        &self,
        request: Request<ListActionsRequest>,
    ) -> Reply<ListActionsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner())?))
    }

    async fn cancel_action(&self, request: Request<CancelActionRequest>) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let action = find(&self.0, &caller, &request.get_ref().action_id)?;
        own_or_operated(&caller, &action)?;
        Ok(self.complete(&caller, self.end(&caller, &action).await?)?)
    }

    async fn reverse_action(&self, request: Request<ReverseActionRequest>) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let answer = reverse(self, &caller, request.into_inner()).await?;
        Ok(reply(answer, &caller))
    }

    async fn release_action(&self, request: Request<ReleaseActionRequest>) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let action = find(&self.0, &caller, &request.get_ref().action_id)?;
        let answer = run::release(&self.0, &caller, &action).await?;
        Ok(self.complete(&caller, answer)?)
    }

    async fn reconcile_action(
        &self,
        request: Request<ReconcileActionRequest>,
    ) -> Reply<WireAction> {
        let caller = crate::caller(&request)?;
        let wire = request.into_inner();
        let status = match wire.outcome() {
            WireOutcome::Executed => Status::Executed,
            WireOutcome::Failed => Status::Failed,
            WireOutcome::Unspecified => {
                return Err(Refused::invalid("outcome is `executed` or `failed`").into());
            }
        };
        let action = find(&self.0, &caller, &wire.action_id)?;
        let cost = MicroUsd(wire.cost_micro_usd);
        let answer = run::reconcile(&self.0, &caller, &action, status, cost).await?;
        Ok(self.complete(&caller, answer)?)
    }
}

/// An agent withdraws what it asked for itself; operators and admins what anybody asked for.
pub(crate) fn own_or_operated(caller: &Caller, action: &Action) -> Result<()> {
    let own = action.request.actors.contains(&caller.id);
    let operates = caller.may("actions:reconcile");
    if own || operates { Ok(()) } else { Err(Refused::not_found("action")) }
}
