//! What policy demands of people, as callers see it.

use kernel::decision::{ApprovalDemand, BreakGlass, Mode, Obligations, SeparationOfDuties, Stage};
use proto::types;

use crate::approvals::named;

/// The demand of a decision; none where people have no say.
pub(super) fn wire(obligations: &Obligations) -> Option<types::ApprovalDemand> {
    let demand = obligations.approval.as_ref()?;
    let ApprovalDemand { stages, mode, expires_s, valid_s, signed } = demand;
    let first = stages.first().map(Stage::electorate).unwrap_or_default();
    let (roles, approvers) = named(&first);
    let mode = match mode {
        Mode::Serial => "serial",
        Mode::Parallel => "parallel",
    };
    let sod = match obligations.sod {
        SeparationOfDuties::Normal => "normal",
        SeparationOfDuties::Strict => "strict",
    };
    let break_glass = match obligations.break_glass {
        BreakGlass::Allowed => "allowed",
        BreakGlass::Forbidden => "forbidden",
    };
    Some(types::ApprovalDemand {
        stages: stages.iter().map(stage).collect(),
        mode: mode.to_owned(),
        quorum: demand.people(),
        roles,
        approvers,
        expires_s: *expires_s,
        valid_s: *valid_s,
        signed: *signed,
        sod: sod.to_owned(),
        break_glass: break_glass.to_owned(),
    })
}

fn stage(stage: &Stage) -> types::DemandedStage {
    let (roles, approvers) = named(&stage.electorate());
    let (escalation_roles, escalation_approvers) =
        stage.escalate_to.as_ref().map(named).unwrap_or_default();
    types::DemandedStage {
        name: stage.name.clone(),
        quorum: stage.quorum,
        roles,
        approvers,
        sla_s: stage.sla_s,
        escalation_roles,
        escalation_approvers,
    }
}
