//! A person's yes or no.

use kernel::approval::{self, Approval, Narrow, Verdict, Vote};
use kernel::plan;
use kernel::values::Digest;
use ledger::store::{Class, SideRow};
use proto::approvals::{Approval as WireApproval, Choice, DecideApprovalRequest};

use super::{ApprovalsApi, REASON, seen_plan, signature};
use crate::actions::drop_document;
use crate::error::{Refused, Result};
use crate::limits;
use crate::me;
use crate::shared::Caller;

/// A decision on its way into the log.
struct Said {
    plan_digest: Digest,
    stage: Option<String>,
    vote: Vote,
}

impl Said {
    fn input(&self, caller: &Caller) -> approval::Input {
        approval::Input::Decide {
            plan_digest: self.plan_digest,
            kind: caller.kind,
            stage: self.stage.clone(),
            vote: Box::new(self.vote.clone()),
        }
    }
}

impl ApprovalsApi {
    pub(crate) async fn decide(
        &self,
        caller: &Caller,
        wire: DecideApprovalRequest,
    ) -> Result<WireApproval> {
        let approval = self.find(caller, &wire.approval_id)?;
        let mut said = read(caller, &wire)?;
        // Whatever else is wrong is said before a code is used up.
        said.vote.step_up = !wire.totp_code.is_empty();
        let stage = self.rehearse(caller, &approval, &said)?;
        if let Some(signed) = &said.vote.signature {
            let (plan, verdict) = (said.plan_digest, said.vote.verdict);
            let statement =
                approval::signed_statement(&approval.id, plan, verdict, &stage, signed.not_after);
            let statement = statement.map_err(Refused::internal)?;
            said.vote.signature = Some(signature::verify(&self.0, caller, signed, &statement)?);
        }
        // What was signed, and what the rehearsal was about, is this stage.
        said.stage = Some(stage);
        if !wire.totp_code.is_empty() {
            me::prove(&self.0, caller, &wire.totp_code).await?;
        }
        let side = self.content(caller, &approval, &wire, said.vote.verdict).await?;
        let input = said.input(caller);
        self.change(caller, &wire.approval_id, &side, |approval, now| {
            plan::decide(approval, input.clone(), now)
        })
        .await
    }

    /// Why a yes of the caller's would be refused as things stand, whatever they prove.
    pub(crate) fn would_refuse(&self, caller: &Caller, approval: &Approval) -> Option<String> {
        let vote = Vote {
            step_up: true,
            ..Vote::new(caller.id.clone(), caller.roles.clone(), Verdict::Approve)
        };
        let said = Said { plan_digest: approval.request.plan_digest, stage: None, vote };
        self.rehearse(caller, approval, &said).err().map(|Refused(failure)| failure.message)
    }

    /// What the decision would lead to as things stand: the stage that it is for, or why it is
    /// refused.
    fn rehearse(&self, caller: &Caller, approval: &Approval, said: &Said) -> Result<String> {
        let change = approval::step(Some(approval), said.input(caller), self.0.now())?;
        match change {
            approval::Change::Decided { vote, .. } => Ok(vote.stage),
            _ => Err(Refused::internal("a vote that is none")),
        }
    }

    /// The reason, sealed; and what one no leaves to delete.
    async fn content(
        &self,
        caller: &Caller,
        approval: &Approval,
        wire: &DecideApprovalRequest,
        verdict: Verdict,
    ) -> Result<Vec<SideRow>> {
        let mut side = Vec::with_capacity(2);
        if verdict == Verdict::Reject {
            // One no ends the action.
            side.push(drop_document(&caller.log(), &approval.request.action));
        }
        if !wire.reason.is_empty() {
            let id = format!("{}/{}", approval.id, caller.id);
            side.push(self.seal_reason(caller, &id, wire.reason.as_bytes()).await?);
        }
        Ok(side)
    }

    pub(super) async fn seal_reason(
        &self,
        caller: &Caller,
        id: &str,
        text: &[u8],
    ) -> Result<SideRow> {
        let (tenant, now) = (caller.tenant.as_str(), self.0.now());
        Ok(self.0.vault.seal(tenant, id, REASON, Class::Record, text, now).await?)
    }
}

/// The decision that was sent, with nothing proven yet.
fn read(caller: &Caller, wire: &DecideApprovalRequest) -> Result<Said> {
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
    let narrow = wire.narrow.unwrap_or_default();
    let vote = Vote {
        reason_code: Some(wire.reason_code.clone()).filter(|code| !code.is_empty()),
        narrow: Narrow {
            valid_s: narrow.valid_s,
            max_attempts: narrow.max_attempts,
            exact: narrow.exact,
        },
        signature: wire.signature.as_ref().map(signature::read).transpose()?,
        ..Vote::new(caller.id.clone(), caller.roles.clone(), verdict)
    };
    let plan_digest = seen_plan(&wire.plan_digest)?;
    Ok(Said { plan_digest, stage: wire.stage.clone(), vote })
}
