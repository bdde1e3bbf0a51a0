//! Approvals: what waits for people, and what they say.

use std::sync::Arc;

use kernel::approval::{self, Approval, Status, Verdict, Vote};
use kernel::decision::SeparationOfDuties;
use kernel::machine::{Kind, Refusal, State, Stream};
use kernel::plan;
use kernel::principal::Role;
use kernel::values::Digest;
use ledger::Batch;
use ledger::store::Class;
use proto::approvals::approvals_service_server::ApprovalsService;
use proto::approvals::{
    Approval as WireApproval, Choice, DecideApprovalRequest, GetApprovalRequest,
    ListApprovalsRequest, ListApprovalsResponse, approval::State as WireState,
};
use proto::wire::{Json, Timestamp};
use tonic::{Request, Response, Status as RpcStatus};

use crate::actions::{check_stored, drop_document, open_document};
use crate::error::{Refused, Result};
use crate::shared::{Caller, Shared};
use crate::{limits, paging};

/// The part of an approval's content that is its approvers' reasons.
const REASON: &str = "reason";

/// Serves approvals.
pub(crate) struct ApprovalsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

const STATES: [(Status, WireState); 5] = [
    (Status::Requested, WireState::Requested),
    (Status::Approved, WireState::Approved),
    (Status::Rejected, WireState::Rejected),
    (Status::Expired, WireState::Expired),
    (Status::Canceled, WireState::Canceled),
];

fn wire_state(status: Status) -> WireState {
    let found = STATES.into_iter().find(|(known, _)| *known == status);
    found.map_or(WireState::Unspecified, |(_, wire)| wire)
}

/// The name of a role on the wire.
pub(crate) fn role_name(role: &Role) -> String {
    serde_json::to_value(role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn sees(caller: &Caller, approval: &Approval) -> bool {
    caller.sees("approvals:read", &approval.request.actors)
}

/// The document holds the parameters: it is for those who asked and those who may answer.
fn sees_document(caller: &Caller, approval: &Approval) -> bool {
    let asked = approval.request.actors.contains(&caller.id);
    asked || caller.may("approvals:decide")
}

impl ApprovalsApi {
    fn find(&self, caller: &Caller, id: &str) -> Result<Approval> {
        match self.0.ledger.read(&caller.log(), Kind::Approval, id)? {
            Some(State::Approval(approval)) if sees(caller, &approval) => Ok(approval),
            _ => Err(Refused::not_found("approval")),
        }
    }

    /// The wire form; with `document` also what the approver must see, for who may decide and who
    /// asked.
    fn wire(&self, caller: &Caller, approval: Approval, document: bool) -> Result<WireApproval> {
        let log = caller.log();
        let request = &approval.request;
        let Some(State::Action(action)) =
            self.0.ledger.read(&log, Kind::Action, request.action.as_str())?
        else {
            return Err(Refused::internal("an approval without its action"));
        };
        let action_document = match open_document(&self.0, &log, &action.id)? {
            Some(kept) if document && sees_document(caller, &approval) => {
                Some(check_stored(&kept, &action)?)
            }
            _ => None,
        };
        let text = action_document.map(String::from_utf8).transpose().map_err(Refused::internal)?;
        let decision = action.decision.as_deref();
        Ok(WireApproval {
            approval_id: approval.id.to_string(),
            action_id: request.action.to_string(),
            state: wire_state(approval.status).into(),
            plan_digest: request.plan_digest.to_string(),
            tool: action.request.tool.to_string(),
            environment: action.request.environment.to_string(),
            risk: Some(crate::actions::risk(&action.request.risk)),
            reasons: decision.map(|d| d.reasons.clone()).unwrap_or_default(),
            rules: decision.map(|d| d.rules.clone()).unwrap_or_default(),
            action_document: text.map(|text| Json { text }),
            quorum: request.demand.quorum,
            approvals: approval.votes.iter().map(wire_vote).collect(),
            roles: request.demand.roles.iter().map(role_name).collect(),
            approvers: request.demand.approvers.iter().map(ToString::to_string).collect(),
            step_up_required: request.step_up,
            sod: match request.sod {
                SeparationOfDuties::Normal => "normal".to_owned(),
                SeparationOfDuties::Strict => "strict".to_owned(),
            },
            requested_at: Some(Timestamp::from_micros(approval.requested_at.0)),
            expires_at: Some(Timestamp::from_micros(request.expires_at.0)),
            receipts: approval.receipts.iter().map(|index| log.receipt_id(*index)).collect(),
        })
    }

    async fn decide(&self, caller: &Caller, wire: DecideApprovalRequest) -> Result<WireApproval> {
        let verdict = match wire.decision() {
            Choice::Approve => Verdict::Approve,
            Choice::Reject | Choice::Deny => Verdict::Reject,
            Choice::Unspecified => {
                return Err(Refused::invalid("decision is `approve` or `reject`"));
            }
        };
        if wire.reason.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("reason: at most 2000 characters"));
        }
        let plan_digest = Digest::parse(&wire.plan_digest).ok_or_else(|| {
            Refused::invalid("plan_digest: send the one that the approval shows, `sha256:…`")
        })?;
        let vote = Vote {
            by: caller.id.clone(),
            roles: caller.roles.clone(),
            verdict,
            // No second factor can be proven here yet: what demands one stays closed.
            step_up: false,
            signature: None,
        };
        let input =
            approval::Input::Decide { plan_digest, kind: caller.kind, vote: Box::new(vote) };
        loop {
            match self.try_decide(caller, &wire, input.clone()).await {
                // Another vote came in between: look again.
                Err(Refused(failure)) if failure.code == Refusal::Moved.code().0 => {}
                ended => return ended,
            }
        }
    }

    async fn try_decide(
        &self,
        caller: &Caller,
        wire: &DecideApprovalRequest,
        input: approval::Input,
    ) -> Result<WireApproval> {
        let log = caller.log();
        let stream = Stream::new(Kind::Approval, &wire.approval_id);
        let row = self.0.ledger.store().entity(&log, &stream)?;
        let row = row.ok_or_else(|| Refused::not_found("approval"))?;
        let approval = self.find(caller, &wire.approval_id)?;
        let now = self.0.now();
        let commands = plan::decide(&approval, input, now)?;
        let mut side = Vec::new();
        if matches!(wire.decision(), Choice::Reject | Choice::Deny) {
            // One no ends the action.
            side.push(drop_document(&log, &approval.request.action));
        }
        if !wire.reason.is_empty() {
            let id = format!("{}/{}", approval.id, caller.id);
            let text = wire.reason.as_bytes();
            let tenant = caller.tenant.as_str();
            side.push(self.0.vault.seal(tenant, &id, REASON, Class::Record, text, now).await?);
        }
        let batch = Batch {
            expect: vec![(stream, row.version)],
            side,
            trace_id: caller.trace_id.clone(),
            ..Batch::new(log, commands)
        };
        let committed = self.0.ledger.commit(batch).await?;
        let action = approval.request.action.clone();
        self.0.queue.notify_one();
        self.0.waiters.wake(&action);
        match committed.state(Kind::Approval, approval.id.as_str()) {
            Some(State::Approval(approval)) => self.wire(caller, approval.clone(), true),
            _ => Err(Refused::internal("a decision left no approval behind")),
        }
    }

    fn list(&self, caller: &Caller, wire: ListApprovalsRequest) -> Result<ListApprovalsResponse> {
        let wanted = wire.state();
        let status = STATES.into_iter().find(|(_, state)| *state == wanted);
        let status = status.map(|(status, _)| status.as_str());
        let page = paging::page(wire.page_size, &wire.page_token, status);
        let visible = |state: &State| match state {
            State::Approval(approval) => sees(caller, approval),
            _ => false,
        };
        let (states, next_page_token) =
            paging::visible(&self.0.ledger, &caller.log(), Kind::Approval, page, visible)?;
        let mut approvals = Vec::with_capacity(states.len());
        for state in states {
            if let State::Approval(approval) = state {
                approvals.push(self.wire(caller, approval, false)?);
            }
        }
        Ok(ListApprovalsResponse { approvals, next_page_token })
    }
}

fn wire_vote((vote, at): &(Vote, kernel::values::Timestamp)) -> proto::approvals::Vote {
    let decision = match vote.verdict {
        Verdict::Approve => Choice::Approve,
        Verdict::Reject => Choice::Reject,
    };
    proto::approvals::Vote {
        principal_id: vote.by.to_string(),
        decision: decision.into(),
        decided_at: Some(Timestamp::from_micros(at.0)),
    }
}

#[tonic::async_trait]
impl ApprovalsService for ApprovalsApi {
    async fn list_approvals(
        &self,
        request: Request<ListApprovalsRequest>,
    ) -> Reply<ListApprovalsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.into_inner())?))
    }

    async fn get_approval(&self, request: Request<GetApprovalRequest>) -> Reply<WireApproval> {
        let caller = crate::caller(&request)?;
        let approval = self.find(&caller, &request.get_ref().approval_id)?;
        Ok(Response::new(self.wire(&caller, approval, true)?))
    }

    async fn decide_approval(
        &self,
        request: Request<DecideApprovalRequest>,
    ) -> Reply<WireApproval> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.decide(&caller, request.into_inner()).await?))
    }
}
