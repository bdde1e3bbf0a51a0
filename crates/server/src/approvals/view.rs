//! Approvals as callers see them.

use kernel::approval::{Approval, Progress, Status, Verdict, Vote};
use kernel::decision::{BreakGlass, Electorate, Mode, SeparationOfDuties, Stage};
use kernel::machine::{Kind, State};
use kernel::principal::Role;
use proto::approvals::stage::State as WireStageState;
use proto::approvals::{
    Approval as WireApproval, Choice, Delegation as WireDelegation, Narrow as WireNarrow,
    Signature as WireSignature, Stage as WireStage, approval::State as WireState,
};
use proto::wire::{Json, Timestamp};

use super::ApprovalsApi;
use crate::actions::{check_stored, open_document};
use crate::error::{Refused, Result};
use crate::shared::Caller;

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

/// The status that a caller asks for, if any.
pub(super) fn status(wire: WireState) -> Option<Status> {
    STATES.into_iter().find(|(_, state)| *state == wire).map(|(status, _)| status)
}

/// The name of a role on the wire.
pub(crate) fn role_name(role: &Role) -> String {
    serde_json::to_value(role).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(super) fn sees(caller: &Caller, approval: &Approval) -> bool {
    caller.sees("approvals:read", &approval.request.actors)
}

/// The document holds the parameters: it is for those who asked, those who may answer, and those
/// who may answer in an emergency.
fn sees_document(caller: &Caller, approval: &Approval) -> bool {
    let asked = approval.request.actors.contains(&caller.id);
    let answers = ["approvals:decide", "break_glass:use"];
    asked || answers.iter().any(|permission| caller.may(permission))
}

fn at(time: kernel::values::Timestamp) -> Timestamp {
    Timestamp::from_micros(time.0)
}

impl ApprovalsApi {
    /// The wire form; with `document` also what the approver must see, for who may decide and who
    /// asked.
    pub(super) fn wire(
        &self,
        caller: &Caller,
        approval: Approval,
        document: bool,
    ) -> Result<WireApproval> {
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
            approvals: approval.votes.iter().map(wire_vote).collect(),
            sod: match request.sod {
                SeparationOfDuties::Normal => "normal".to_owned(),
                SeparationOfDuties::Strict => "strict".to_owned(),
            },
            requested_at: Some(at(approval.requested_at)),
            expires_at: Some(at(request.expires_at)),
            receipts: approval.receipts.iter().map(|index| log.receipt_id(*index)).collect(),
            ..wire_demand(&approval)
        })
    }
}

/// What is demanded, and how far people are with it.
fn wire_demand(approval: &Approval) -> WireApproval {
    let demand = &approval.request.demand;
    let first = demand.stages.first().map(Stage::electorate).unwrap_or_default();
    let (roles, approvers) = named(&first);
    let narrow = approval.narrow();
    let mode = match demand.mode {
        Mode::Serial => "serial",
        Mode::Parallel => "parallel",
    };
    let delegations = approval.delegations.iter().map(|handed| WireDelegation {
        from: handed.from.to_string(),
        to: handed.to.to_string(),
        stages: handed.stages.iter().cloned().collect(),
    });
    WireApproval {
        quorum: demand.people(),
        roles,
        approvers,
        step_up_required: approval.request.step_up,
        stages: approval.stages().map(|stage| wire_stage(approval, stage)).collect(),
        mode: mode.to_owned(),
        valid_until: approval.valid_until().map(at),
        valid_s: demand.valid_s,
        signature_required: demand.signed,
        escalated: approval.progress.iter().any(|stage| stage.escalated_at.is_some()),
        delegations: delegations.collect(),
        narrow: (!narrow.is_none()).then_some(WireNarrow {
            valid_s: narrow.valid_s,
            max_attempts: narrow.max_attempts,
            exact: narrow.exact,
        }),
        broken_glass: approval.broken.is_some(),
        broken_glass_by: approval.broken.as_ref().map(|b| b.by.to_string()).unwrap_or_default(),
        break_glass_forbidden: approval.request.break_glass == BreakGlass::Forbidden,
        ..WireApproval::default()
    }
}

/// The roles and the principals of an electorate.
pub(crate) fn named(electorate: &Electorate) -> (Vec<String>, Vec<String>) {
    let roles = electorate.roles.iter().map(role_name).collect();
    (roles, electorate.approvers.iter().map(ToString::to_string).collect())
}

fn wire_stage(approval: &Approval, (stage, progress): (&Stage, &Progress)) -> WireStage {
    let (roles, approvers) = named(&stage.electorate());
    let (escalation_roles, escalation_approvers) =
        stage.escalate_to.as_ref().map(named).unwrap_or_default();
    let state = match (progress.opened_at, progress.completed_at) {
        (_, Some(_)) => WireStageState::Complete,
        (Some(_), None) => WireStageState::Open,
        (None, None) => WireStageState::Waiting,
    };
    WireStage {
        name: stage.name.clone(),
        quorum: stage.quorum,
        approvals: approval.approvals_in(&stage.name),
        roles,
        approvers,
        state: state.into(),
        escalates_at: approval.deadline(&stage.name).map(at),
        escalated: progress.escalated_at.is_some(),
        escalation_roles,
        escalation_approvers,
    }
}

fn wire_vote((vote, decided_at): &(Vote, kernel::values::Timestamp)) -> proto::approvals::Vote {
    let decision = match vote.verdict {
        Verdict::Approve => Choice::Approve,
        Verdict::Reject => Choice::Reject,
    };
    let signature = vote.signature.as_ref().map(|signature| WireSignature {
        key_id: signature.key_id.hex(),
        sig: signature.sig.clone(),
        not_after: signature.not_after.0,
        public_key: signature.public_key.clone(),
    });
    proto::approvals::Vote {
        principal_id: vote.by.to_string(),
        decision: decision.into(),
        decided_at: Some(at(*decided_at)),
        stage: vote.stage.clone(),
        delegated_by: vote.delegated_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        step_up: vote.step_up,
        reason_code: vote.reason_code.clone().unwrap_or_default(),
        signature,
    }
}
