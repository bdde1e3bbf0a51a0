//! Approvals: what waits for people, what they say, and what takes the place of it.

mod decide;
mod delegate;
mod glass;
mod signature;
mod view;

use std::sync::Arc;

use kernel::approval::{self, Approval};
use kernel::failure::Category;
use kernel::machine::{Command, Kind, Refusal, State, Stream};
use kernel::receipt::LogId;
use kernel::values::{Digest, Timestamp};
use ledger::Batch;
use ledger::store::SideRow;
use proto::approvals::approvals_service_server::ApprovalsService;
use proto::approvals::{
    Approval as WireApproval, BreakGlassRequest, DecideApprovalRequest, DelegateApprovalRequest,
    GetApprovalRequest, ListApprovalsRequest, ListApprovalsResponse,
};
use tonic::{Request, Response, Status as RpcStatus};

use crate::error::{Refused, Result};
use crate::paging;
use crate::shared::{Caller, Shared};

pub(crate) use view::{named, role_name};

/// The part of an approval's content that is somebody's reason.
const REASON: &str = "reason";

/// Deletes what people said in words about an approval.
pub(crate) fn drop_reasons(log: &LogId, approval: &Approval) -> Vec<SideRow> {
    let row =
        |id: String| SideRow::DropContent { tenant: log.tenant().to_owned(), id, part: REASON };
    let votes = approval.votes.iter().map(|(vote, _)| format!("{}/{}", approval.id, vote.by));
    let glass = approval.broken.iter().map(|broken| format!("{}/{}/glass", approval.id, broken.by));
    votes.chain(glass).map(row).collect()
}

/// Serves approvals.
pub(crate) struct ApprovalsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, RpcStatus>;

impl ApprovalsApi {
    fn find(&self, caller: &Caller, id: &str) -> Result<Approval> {
        match self.0.ledger.read(&caller.log(), Kind::Approval, id)? {
            Some(State::Approval(approval)) if view::sees(caller, &approval) => Ok(approval),
            _ => Err(Refused::not_found("approval")),
        }
    }

    /// The approval that the caller may see, in both forms.
    pub(crate) fn seen(
        &self,
        caller: &Caller,
        id: &str,
    ) -> Result<Option<(Approval, WireApproval)>> {
        match self.find(caller, id) {
            Ok(approval) => {
                let wire = self.wire(caller, approval.clone(), true)?;
                Ok(Some((approval, wire)))
            }
            Err(Refused(failure)) if failure.category == Category::NotFound => Ok(None),
            Err(refused) => Err(refused),
        }
    }

    /// The approval with the version that a commit about it expects.
    fn find_version(&self, caller: &Caller, id: &str) -> Result<(Approval, u64)> {
        let stream = Stream::new(Kind::Approval, id);
        let row = self.0.ledger.store().entity(&caller.log(), &stream)?;
        let row = row.ok_or_else(|| Refused::not_found("approval"))?;
        // Read after the version: what came in between refuses the commit.
        Ok((self.find(caller, id)?, row.version))
    }

    /// Carries out what `commands` makes of the approval as it stands, again where somebody else
    /// was faster.
    async fn change(
        &self,
        caller: &Caller,
        id: &str,
        side: &[SideRow],
        commands: impl Fn(&Approval, Timestamp) -> std::result::Result<Vec<Command>, Refusal>,
    ) -> Result<WireApproval> {
        loop {
            let (approval, version) = self.find_version(caller, id)?;
            let commands = commands(&approval, self.0.now())?;
            match self.commit(caller, &approval, version, commands, side.to_vec()).await {
                Err(Refused(failure)) if failure.code == Refusal::Moved.code().0 => {}
                ended => return ended,
            }
        }
    }

    async fn commit(
        &self,
        caller: &Caller,
        approval: &Approval,
        version: u64,
        commands: Vec<Command>,
        side: Vec<SideRow>,
    ) -> Result<WireApproval> {
        let batch = Batch {
            expect: vec![(Stream::new(Kind::Approval, approval.id.as_str()), version)],
            side,
            trace_id: caller.trace_id.clone(),
            ..Batch::new(caller.log(), commands)
        };
        let committed = self.0.ledger.commit(batch).await?;
        self.0.queue.notify_one();
        self.0.waiters.wake(&approval.request.action);
        match committed.state(Kind::Approval, approval.id.as_str()) {
            Some(State::Approval(approval)) => self.wire(caller, approval.clone(), true),
            _ => Err(Refused::internal("a change of an approval left none behind")),
        }
    }

    fn list(&self, caller: &Caller, wire: ListApprovalsRequest) -> Result<ListApprovalsResponse> {
        let status = view::status(wire.state()).map(approval::Status::as_str);
        let page = paging::page(wire.page_size, &wire.page_token, status);
        let visible = |state: &State| match state {
            State::Approval(approval) => view::sees(caller, approval),
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

/// The plan that the caller saw.
fn seen_plan(text: &str) -> Result<Digest> {
    Digest::parse(text).ok_or_else(|| {
        Refused::invalid("plan_digest: send the one that the approval shows, `sha256:…`")
    })
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

    async fn delegate_approval(
        &self,
        request: Request<DelegateApprovalRequest>,
    ) -> Reply<WireApproval> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.delegate(&caller, request.into_inner()).await?))
    }

    async fn break_glass(&self, request: Request<BreakGlassRequest>) -> Reply<WireApproval> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.break_glass(&caller, request.into_inner()).await?))
    }
}
