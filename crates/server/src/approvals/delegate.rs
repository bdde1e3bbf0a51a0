//! Handing one's say to somebody else.

use kernel::approval;
use kernel::ids::PrincipalId;
use kernel::plan;
use proto::approvals::{Approval as WireApproval, DelegateApprovalRequest};

use super::ApprovalsApi;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Caller;

impl ApprovalsApi {
    pub(super) async fn delegate(
        &self,
        caller: &Caller,
        wire: DelegateApprovalRequest,
    ) -> Result<WireApproval> {
        let approval = self.find(caller, &wire.approval_id)?;
        if wire.reason.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("reason: at most 2000 characters"));
        }
        let to = PrincipalId::new(&wire.to)
            .ok()
            .and_then(|id| self.0.control.directory.principal(&caller.tenant, &id));
        let to = to.filter(|principal| !principal.disabled);
        let to = to.ok_or_else(|| Refused::not_found("principal"))?;
        let mut side = Vec::new();
        if !wire.reason.is_empty() {
            let id = format!("{}/{}/delegation", approval.id, caller.id);
            side.push(self.seal_reason(caller, &id, wire.reason.as_bytes()).await?);
        }
        self.change(caller, &wire.approval_id, &side, |approval, _| {
            let input = approval::Input::Delegate {
                from: (caller.id.clone(), caller.roles.clone()),
                to: (to.id.clone(), to.kind, to.roles.clone()),
            };
            Ok(plan::delegate(approval, input))
        })
        .await
    }
}
