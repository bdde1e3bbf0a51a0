//! The batches of commands that move an action together with its approval and its account.
//!
//! Each is carried out whole or not at all, in one commit, so that no effect can start without
//! its approval used and its cost held.

use crate::action::{self, Action};
use crate::decision::{Decision, Effect, Obligations};
use crate::ids::{ActionId, ApprovalId};
use crate::machine::{Command, Input, Kind};
use crate::units::Units;
use crate::values::{MicroUsd, Shared, Timestamp};
use crate::{account, approval, reservation};

mod budget;
pub mod transfer;

pub use budget::{
    allot, allot_more, fund, fund_units, give_back, open_account, open_with, thaw, under, watch,
};

/// The account that every post of a log credits.
pub const SPEND_ACCOUNT: &str = "spend";
/// The account that every funding of a log debits.
pub const FUNDING_ACCOUNT: &str = "funding";

/// What is needed to draw a permit.
#[derive(Clone, Copy, Debug)]
pub struct Revisions {
    /// The policy revision now.
    pub policy: u64,
    /// The revision of the acting principal now.
    pub principal: u64,
    /// The epoch of the server.
    pub epoch: u64,
}

/// A new action with what policy said of it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// Its id.
    pub id: ActionId,
    /// What is asked for.
    pub request: Shared<action::Request>,
    /// What policy says.
    pub decision: Shared<Decision>,
    /// The id of the approval, should one be opened.
    pub approval: ApprovalId,
    /// The idempotency key to reserve: the stream's id and what it holds.
    pub reserve: Option<(String, reservation::Input)>,
    /// The revisions decided under.
    pub revisions: Revisions,
}

fn action_command(id: &ActionId, input: action::Input) -> Command {
    Command::new(Kind::Action, id.as_str(), Input::Action(input))
}

fn approval_command(id: &ApprovalId, input: approval::Input) -> Command {
    Command::new(Kind::Approval, id.as_str(), Input::Approval(input))
}

fn account_command(id: &str, input: account::Input) -> Command {
    Command::new(Kind::Account, id, Input::Account(input))
}

/// Whether a decision waits for people.
pub fn gated(effect: Effect) -> bool {
    matches!(effect, Effect::RequireApproval | Effect::RequireStepUp)
}

/// Requests the action; opens its approval or, where it is allowed, draws its permit at once.
pub fn submit(new: Submission, now: Timestamp) -> Vec<Command> {
    let mut batch = Vec::with_capacity(4);
    // What may be decided otherwise soon is not remembered: the same request may come again.
    if let Some((id, input)) = new.reserve.filter(|_| !new.decision.retryable()) {
        batch.push(Command::new(Kind::Idempotency, id, Input::Reserve(input)));
    }
    let gate = gated(new.decision.effect).then(|| new.approval.clone());
    if let Some(approval) = &gate {
        batch.push(open_approval(approval, &new.id, &new.request, &new.decision, now));
    }
    let allowed = new.decision.effect == Effect::Allow;
    let request = new.request.clone();
    batch.push(action_command(
        &new.id,
        action::Input::Request {
            request: new.request,
            decision: new.decision,
            principal_revision: new.revisions.principal,
            approval: gate,
        },
    ));
    if allowed {
        batch.extend(draw(&new.id, &request, None, false, new.revisions));
    }
    batch
}

/// Requests the action and refuses it in the same commit, because its budget does not cover it.
pub fn submit_refused(new: Submission, failure: action::FailureCode) -> Vec<Command> {
    let reserve = new.reserve.into_iter();
    let mut batch: Vec<Command> = reserve
        .map(|(id, input)| Command::new(Kind::Idempotency, id, Input::Reserve(input)))
        .collect();
    batch.push(action_command(
        &new.id,
        action::Input::Refuse {
            request: new.request,
            decision: new.decision,
            principal_revision: new.revisions.principal,
            failure,
        },
    ));
    batch
}

fn open_approval(
    id: &ApprovalId,
    action: &ActionId,
    request: &action::Request,
    decision: &Decision,
    now: Timestamp,
) -> Command {
    let demand = decision.obligations.approval.clone().unwrap_or_default();
    let expires_at = now.plus_micros(i64::from(demand.expires_s).saturating_mul(1_000_000));
    approval_command(
        id,
        approval::Input::Request(Box::new(approval::Request {
            action: action.clone(),
            plan_digest: request.plan_digest,
            actors: request.actors.clone(),
            demand,
            step_up: decision.effect == Effect::RequireStepUp,
            sod: decision.obligations.sod,
            break_glass: decision.obligations.break_glass,
            expires_at,
        })),
    )
}

/// Uses the approval, holds the worst case, draws the permit.
///
/// `held`: the worst case is still held for an attempt that was lost.
fn draw(
    id: &ActionId,
    request: &action::Request,
    consumed: Option<&ApprovalId>,
    held: bool,
    revisions: Revisions,
) -> Vec<Command> {
    let mut batch = Vec::with_capacity(3);
    if let Some(approval) = consumed {
        let plan_digest = request.plan_digest;
        batch.push(approval_command(approval, approval::Input::Use { plan_digest }));
    }
    let hold = (request.estimate > MicroUsd::ZERO).then_some(request.estimate);
    if let (Some(account), true, false) = (&request.account, request.is_counted(), held) {
        let (action, amount, units) = (id.clone(), request.estimate, request.units);
        let input = account::Input::Hold { action, amount, units };
        batch.push(account_command(account.as_str(), input));
    }
    batch.push(action_command(
        id,
        action::Input::Start {
            policy_revision: revisions.policy,
            principal_revision: revisions.principal,
            consumed: consumed.cloned(),
            hold: hold.filter(|_| request.account.is_some()),
            held,
            epoch: revisions.epoch,
        },
    ));
    batch
}

/// Whether the approval at hand meets what `decision` demands.
fn satisfied(granted: Option<&approval::Approval>, decision: &Decision, now: Timestamp) -> bool {
    gated(decision.effect)
        && granted.is_some_and(|granted| {
            let demand = decision.obligations.approval.clone().unwrap_or_default();
            let step_up = decision.effect == Effect::RequireStepUp;
            let Obligations { sod, break_glass, .. } = decision.obligations;
            granted.satisfies(&demand, step_up, sod, break_glass, now)
        })
}

/// Whether [`execute`] draws a permit for such a decision.
pub fn runs(granted: Option<&approval::Approval>, decision: &Decision, now: Timestamp) -> bool {
    decision.effect == Effect::Allow || satisfied(granted, decision, now)
}

/// Decides an approved action anew under what is in force now and, where that still lets it run,
/// draws its permit in the same commit.
///
/// `granted` is the approval that the action has. `reopen` is the id of the approval to be opened
/// where the one at hand no longer satisfies what is demanded.
pub fn execute(
    action: &Action,
    granted: Option<&approval::Approval>,
    decision: Shared<Decision>,
    reopen: ApprovalId,
    revisions: Revisions,
    now: Timestamp,
) -> Vec<Command> {
    let satisfied = satisfied(granted, &decision, now);
    let mut batch = Vec::with_capacity(6);
    let runs = decision.effect == Effect::Allow || satisfied;
    let reopens = gated(decision.effect) && !satisfied;
    let unused = granted.filter(|granted| granted.used_at.is_none());
    let keeps = satisfied || decision.effect == Effect::Throttle;
    // An approval that no longer serves ends here, so that it can never be used.
    if let Some(granted) = unused.filter(|granted| granted.due().is_some() && !keeps) {
        batch.push(approval_command(&granted.id, approval::Input::Cancel {}));
    }
    if reopens {
        batch.push(open_approval(&reopen, &action.id, &action.request, &decision, now));
    }
    batch.push(action_command(
        &action.id,
        action::Input::Redecide {
            open: unused.map(|granted| granted.id.clone()),
            phase: crate::decision::Phase::Execute,
            decision,
            principal_revision: revisions.principal,
            satisfied,
            approval: reopens.then_some(reopen),
        },
    ));
    if runs {
        let consumed = unused.filter(|_| satisfied).map(|granted| &granted.id);
        batch.extend(draw(&action.id, &action.request, consumed, action.held(), revisions));
    }
    batch
}

/// Decides an action in quarantine anew. Where it is allowed it runs from the queue; where people
/// must approve, their approval is opened.
pub fn release(
    action: &Action,
    decision: Shared<Decision>,
    approval: ApprovalId,
    revisions: Revisions,
    now: Timestamp,
) -> Vec<Command> {
    let gate = gated(decision.effect).then_some(approval);
    let mut batch = Vec::with_capacity(2);
    if let Some(approval) = &gate {
        batch.push(open_approval(approval, &action.id, &action.request, &decision, now));
    }
    batch.push(action_command(
        &action.id,
        action::Input::Redecide {
            open: None,
            phase: crate::decision::Phase::Submit,
            decision,
            principal_revision: revisions.principal,
            satisfied: false,
            approval: gate,
        },
    ));
    batch
}

/// Ends an attempt: records the outcome and settles what was held.
pub fn finish(
    action: &Action,
    attempt: u32,
    outcome: action::Outcome,
    retry_at: Option<Timestamp>,
) -> Vec<Command> {
    // What is held for an outcome that is not known stays held until it is reconciled.
    let open = match outcome.status {
        action::Status::Executed => false,
        action::Status::Unknown => true,
        _ => action.in_doubt,
    };
    // What attempts came to meanwhile is paid together with the one that ends it.
    let action::Open { cost, units } = action.open.and(outcome.cost, &outcome.units);
    let spent = (!open).then_some((cost, units));
    end_attempt(action, action::Input::Finish { attempt, outcome, retry_at }, spent)
}

/// Ends the attempt of a server that is gone.
pub fn lost(action: &Action, epoch: u64) -> Vec<Command> {
    let attempt = action.attempts;
    // Its effect may have happened: what is held stays held.
    end_attempt(action, action::Input::Lost { attempt, epoch }, None)
}

/// Establishes an unknown outcome and settles what it held.
pub fn reconcile(
    action: &Action,
    status: action::Status,
    cost: MicroUsd,
    by: crate::ids::PrincipalId,
) -> Vec<Command> {
    let attempt = action.attempts;
    // What nobody told of a call that happened counts in full.
    let units = match status {
        action::Status::Executed => action.request.units,
        _ => action.request.used(status, &Units::NONE),
    };
    let input = action::Input::Reconcile { attempt, status, cost, units, by };
    end_attempt(action, input, Some((cost, units)))
}

/// The action comes first, so that an outcome that comes too late is refused as that.
fn end_attempt(
    action: &Action,
    input: action::Input,
    spent: Option<(MicroUsd, Units)>,
) -> Vec<Command> {
    let mut batch = Vec::with_capacity(4);
    batch.push(action_command(&action.id, input));
    batch.extend(spent.into_iter().flat_map(|(cost, units)| budget::settle(action, cost, units)));
    batch
}

/// Withdraws an action and the approval that it waits for.
pub fn cancel(action: &Action, by: crate::ids::PrincipalId) -> Vec<Command> {
    let open = action.open_approval().cloned();
    end(open.as_ref(), &action.id, action::Input::Cancel { open: open.clone(), by })
}

/// Refuses an action that can no longer run, and withdraws the approval that it waits for.
pub fn deny(action: &Action, failure: action::FailureCode) -> Vec<Command> {
    let open = action.open_approval().cloned();
    end(open.as_ref(), &action.id, action::Input::Deny { open: open.clone(), failure })
}

/// Ends an approval whose time is over and, where it is given, the action that waits for it.
pub fn expire(approval: &approval::Approval, action: Option<&Action>) -> Vec<Command> {
    let mut batch = vec![approval_command(&approval.id, approval::Input::Expire {})];
    let input = action::Input::Expire { approval: approval.id.clone() };
    batch.extend(action.map(|action| action_command(&action.id, input)));
    batch
}

/// Ends an action together with its open approval, so that none is left that nobody waits for.
fn end(open: Option<&ApprovalId>, id: &ActionId, input: action::Input) -> Vec<Command> {
    let mut batch = Vec::with_capacity(2);
    batch.extend(open.map(|open| approval_command(open, approval::Input::Cancel {})));
    batch.push(action_command(id, input));
    batch
}

/// Lets others speak too in the stages that took too long.
pub fn escalate(approval: &approval::Approval, now: Timestamp) -> Vec<Command> {
    let stages = approval.overdue(now);
    stages
        .map(|stage| {
            let stage = stage.to_owned();
            approval_command(&approval.id, approval::Input::Escalate { stage })
        })
        .collect()
}

/// Hands one's say to somebody else.
pub fn delegate(approval: &approval::Approval, input: approval::Input) -> Vec<Command> {
    vec![approval_command(&approval.id, input)]
}

/// Records what a person says, or that one broke glass. Where that completes the approval the
/// action may run; where it is a no the action is denied.
pub fn decide(
    approval: &approval::Approval,
    input: approval::Input,
    now: Timestamp,
) -> Result<Vec<Command>, crate::machine::Refusal> {
    let change = approval::step(Some(approval), input.clone(), now)?;
    let narrow = match &change {
        approval::Change::Decided { vote, .. } => approval.narrow().and(vote.narrow),
        approval::Change::GlassBroken(_) => approval.narrow(),
        _ => return Err(crate::machine::Refusal::InvalidInput("not a decision")),
    };
    let (broken_glass, status) = match change {
        approval::Change::Decided { status, .. } => (false, status),
        _ => (true, approval::Status::Approved),
    };
    let mut batch = vec![approval_command(&approval.id, input)];
    let action = &approval.request.action;
    match status {
        approval::Status::Approved => {
            let approval = approval.id.clone();
            let input = action::Input::Approve { approval, narrow, broken_glass };
            batch.push(action_command(action, input));
        }
        approval::Status::Rejected => {
            let failure = action::FailureCode {
                code: "approval_rejected".to_owned(),
                category: crate::failure::Category::PolicyDenied,
            };
            let open = Some(approval.id.clone());
            batch.push(action_command(action, action::Input::Deny { open, failure }));
        }
        _ => {}
    }
    Ok(batch)
}
