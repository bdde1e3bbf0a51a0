//! Running: the effect, its outcome, and what happens to actions that wait or got lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use connectors::{Call, Charged, EffectChange, EffectCheck, Executed, Outcome as ToolOutcome};
use kernel::action::{Action, FailureCode, Outcome, Status};
use kernel::approval::Approval;
use kernel::decision::{Decision, Effect, InputApproval, Phase};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, PrincipalId};
use kernel::machine::{self, Kind, State};
use kernel::permit::Permit;
use kernel::plan::{self, Revisions};
use kernel::receipt::LogId;
use kernel::retry;
use kernel::units::Units;
use kernel::values::{Digest, MicroUsd, Timestamp};
use ledger::store::{Class, SideRow};
use ledger::{Batch, Committed};

use super::gateway::{self, Ended};
use super::prepare::{Document, Plan, Prepared, decide, find_tool, present_caller};
use super::submit::revisions;
use super::view::{Answer, Body, DOCUMENT, RESULT, open_document};
use super::{outcome, reverse};
use crate::accounts;
use crate::caps::{self, Place};
use crate::error::{Refused, Result};
use crate::instances;
use crate::kv::Values;
use crate::metrics::Stage;
use crate::runs;
use crate::sandbox::{self, Ran};
use crate::shared::{Caller, Shared, new_approval_id};

/// Runs the attempt that a new action has a permit for.
pub(crate) async fn attempt(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    prepared: &Prepared,
) -> Result<Answer> {
    run(shared, caller, &caller.log(), action, prepared.plan(), prepared.digests.plan).await
}

/// What there is to be known of a step's action besides how it ended.
fn asked_with(action: &Action, plan: Plan<'_>) -> Result<Option<Digest>> {
    let step = action.request.step.as_ref();
    let form = step.map(|_| kernel::json::canonical(&plan.document.params));
    let form = form.transpose().map_err(Refused::internal)?;
    Ok(form.map(|form| Digest::of(&form)))
}

/// Asks policy again where a tool wants to do something else than the plan says.
struct Recheck<'a> {
    shared: &'a Shared,
    caller: &'a Caller,
    plan: Plan<'a>,
    /// Whether its approvers want no other effect than the planned one.
    exact: bool,
}

impl EffectCheck for Recheck<'_> {
    fn allow(&self, effect: &EffectChange) -> std::result::Result<(), Failure> {
        let EffectChange { from, to, .. } = effect;
        if self.exact {
            let message = format!("its approvers want exactly what was planned: not {to}");
            return Err(Failure::new(Category::PolicyDenied, "effect_not_exact", message));
        }
        let decision = decide(self.shared, self.caller, self.plan, Phase::Effect, None);
        if decision.effect == Effect::Allow {
            return Ok(());
        }
        let message = format!("policy does not let this action go on from {from} to {to}");
        Err(Failure::new(Category::PolicyDenied, "effect_changed", message))
    }
}

/// Whether a permit still holds where a revision changed since it was drawn: policy may not have
/// become stricter than the decision that it rests on.
fn still_allowed(
    shared: &Shared,
    caller: &Caller,
    action: &Action,
    permit: &Permit,
    plan: Plan<'_>,
) -> std::result::Result<(), Failure> {
    let now = revisions(shared, caller).ok();
    let same = |now: Revisions| {
        (now.policy, now.principal) == (permit.policy_revision(), permit.principal_revision())
    };
    if now.is_some_and(same) {
        return Ok(());
    }
    let decision = decide(shared, caller, plan, Phase::Effect, None);
    let before = action.decision.as_ref().map(|decision| decision.effect);
    if now.is_some() && before.is_some_and(|before| decision.effect <= before) {
        return Ok(());
    }
    let message = "policy or the principal changed before the effect began: submit again";
    Err(Failure::new(Category::PolicyDenied, "permit_overtaken", message))
}

async fn run(
    shared: &Arc<Shared>,
    caller: &Caller,
    log: &LogId,
    action: &Action,
    plan: Plan<'_>,
    plan_digest: Digest,
) -> Result<Answer> {
    let permit = action.permit().ok_or_else(|| Refused::internal("no permit"))?;
    let started = Instant::now();
    let going = shared.underway.begin(&action.id, permit.attempt());
    let params = asked_with(action, plan)?;
    let ended = match still_allowed(shared, caller, action, &permit, plan) {
        Err(failure) => ToolOutcome::Failed(failure).into(),
        Ok(()) => in_time(shared, caller, action, plan, &permit, plan_digest).await,
    };
    going.ended();
    shared.metrics.stage(Stage::Execute, started.elapsed());
    let started = Instant::now();
    let ended = finish(shared, log, (action, plan), &permit, (ended, params)).await;
    shared.metrics.stage(Stage::Outcome, started.elapsed());
    shared.waiters.wake(&action.id);
    ended
}

/// The effect, within the time that a step of a run has for it. A tool has a limit of its own.
async fn in_time(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    permit: &Permit,
    plan_digest: Digest,
) -> Ended {
    let effect = effect(shared, caller, action, plan, permit, plan_digest);
    if action.request.step.is_none() {
        return effect.await;
    }
    let within = Duration::from_millis(action.request.timeout_ms);
    let Ok(ended) = tokio::time::timeout(within, effect).await else {
        let message = "the step took longer than it may";
        let failure = Failure::new(Category::Timeout, "timeout", message);
        // Whether it has happened is not known; where that does not matter, it is repeated.
        let ended = match action.request.idempotent {
            true => ToolOutcome::Failed(failure),
            false => ToolOutcome::Unknown(failure),
        };
        return ended.into();
    };
    ended
}

/// The effect itself: of a built-in tool, of a server's, or of a connector's.
async fn effect(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    permit: &Permit,
    plan_digest: Digest,
) -> Ended {
    let tool = &action.request.tool;
    if gateway::serves(tool) {
        return gateway::call(shared, caller, action, plan, permit, plan_digest).await;
    }
    if sandbox::serves(shared, &caller.tenant, tool) {
        return sandbox::call(shared, caller, action, plan, permit, plan_digest).await;
    }
    if instances::serves(shared, &caller.tenant, tool) {
        return instances::call(shared, caller, action, plan, permit, plan_digest).await;
    }
    let secrets = shared.secrets.of_tenant(&caller.tenant);
    let values = Values::new(shared, caller);
    let call = Call {
        permit,
        tenant: &caller.tenant,
        tool,
        plan_digest,
        params: &plan.document.params,
        now: shared.now(),
        redirect: &Recheck { shared, caller, plan, exact: permit.exact() },
        secrets: &secrets,
        store: &values,
        in_doubt: action.in_doubt,
    };
    let outcome = shared.tools.execute(call).await;
    Ended { change: values.change(), ..outcome.into() }
}

/// Makes the outcome durable.
async fn finish(
    shared: &Arc<Shared>,
    log: &LogId,
    (action, plan): (&Action, Plan<'_>),
    permit: &Permit,
    (mut ended, params): (Ended, Option<Digest>),
) -> Result<Answer> {
    let now = shared.now();
    // Kept with the outcome, or not at all. The turn ends with this function.
    let change = ended.change.take();
    let prior = reverse::prior_of(&ended.outcome);
    let (outcome, mut body, ran) = describe(shared, action, ended)?;
    body.params = params;
    let more = permit.attempt() < action.attempts_max();
    let retry_at = body
        .failure()
        .filter(|failure| more && failure.retryable)
        .and_then(|failure| retry_at(action, permit.attempt(), failure, now));
    let mut side = Vec::with_capacity(2);
    let sealed = serde_json::to_vec(&body).map_err(Refused::internal)?;
    let (tenant, id) = (log.tenant(), action.id.as_str());
    // A run may wait for people for longer than results are kept.
    let class = if action.request.step.is_some() { Class::Request } else { Class::Result };
    side.push(shared.vault.seal(tenant, id, RESULT, class, &sealed, now).await?);
    let retries = retry_at.is_some()
        && action.request.idempotent
        && outcome.status == Status::Failed
        && outcome.failure.as_ref().is_some_and(FailureCode::retryable);
    if let Some(change) = change.as_ref().filter(|_| outcome.status == Status::Executed) {
        side.extend(change.side.iter().cloned());
    }
    if let Some(prior) = prior {
        let params = &plan.document.params;
        side.push(reverse::row(shared, log, &action.id, (params, prior), now).await?);
    }
    if let Some(ran) = &ran {
        side.extend(sandbox::keep(shared, log, action, ran, &body).await?);
    }
    // What was permitted as it was asked for and is never repeated has no document.
    let kept = action.request.idempotent || action.receipts.len() > 1;
    if kept && !retries {
        side.push(drop_document(log, &action.id));
    }
    let commands = plan::finish(action, permit.attempt(), outcome, retry_at);
    let kept = match action.request.step.is_some() {
        true => runs::keep(shared, log, action, &body, (commands, side)).await?,
        false => outcome::keep(shared, log, commands, side, false).await?,
    };
    let Some(committed) = kept else {
        let Some(State::Action(action)) = shared.ledger.read(log, Kind::Action, id)? else {
            return Err(Refused::internal("an attempt without its action"));
        };
        return Answer::new(action, Arc::default()).complete(shared, log);
    };
    let action = changed(accounts::told(shared, &committed), action)?;
    shared.metrics.action(action.status.as_str());
    if let Some(due) = committed.states.iter().filter_map(|(_, state)| state.due()).min() {
        shared.queue.due(due);
    }
    Ok(Answer { body: Some(body), ..Answer::new(action, committed.checkpoint.clone()) })
}

/// Why an action is refused, in words, and the row that keeps them.
pub(super) async fn reason_row(
    shared: &Shared,
    tenant: &str,
    id: &ActionId,
    why: Failure,
) -> Result<(Body, SideRow)> {
    let body = Body::failed(why)?;
    let text = serde_json::to_vec(&body).map_err(Refused::internal)?;
    let now = shared.now();
    let row = shared.vault.seal(tenant, id.as_str(), RESULT, Class::Result, &text, now).await?;
    Ok((body, row))
}

/// Deletes the document of an action that ends.
pub(crate) fn drop_document(log: &LogId, action: &ActionId) -> SideRow {
    let (tenant, id) = (log.tenant().to_owned(), action.to_string());
    SideRow::DropContent { tenant, id, part: DOCUMENT }
}

/// Deletes the result of an action whose run keeps nothing.
pub(crate) fn drop_result(log: &LogId, action: &ActionId) -> SideRow {
    let (tenant, id) = (log.tenant().to_owned(), action.to_string());
    SideRow::DropContent { tenant, id, part: RESULT }
}

/// What a new decision about an action leaves to delete: its document, where that ends it.
fn left_over(log: &LogId, action: &Action, decision: &Decision, phase: Phase) -> Vec<SideRow> {
    if decision.effect.ends(phase) { vec![drop_document(log, &action.id)] } else { Vec::new() }
}

fn changed(committed: &Committed, action: &Action) -> Result<Action> {
    match committed.state(Kind::Action, action.id.as_str()) {
        Some(State::Action(action)) => Ok(action.clone()),
        _ => Err(Refused::internal("a commit left no action behind")),
    }
}

/// An outcome for the receipt, and its content to be kept beside.
fn describe(
    shared: &Shared,
    action: &Action,
    ended: Ended,
) -> Result<(Outcome, Body, Option<Box<Ran>>)> {
    let Ended { outcome, is_error, isolation, rpc, mut ran, change: _ } = ended;
    let shown = ran.as_mut().and_then(|ran| ran.shown.take());
    let spent = ran.as_ref().map_or(MicroUsd::ZERO, |ran| ran.cost);
    let used = ran.as_ref().map_or(Units::NONE, |ran| ran.units());
    let prior = reverse::prior_of(&outcome);
    let model = match &outcome {
        ToolOutcome::Executed(Executed { model, .. })
        | ToolOutcome::Charged(Charged { model, .. }) => model.clone(),
        ToolOutcome::Failed(_) | ToolOutcome::Unknown(_) => None,
    };
    let (status, mut body, cost, used) = match outcome {
        ToolOutcome::Executed(done) => {
            let used = used.saturating_add(&done.meta.units);
            (Status::Executed, Body::result(done.result)?, done.cost, used)
        }
        ToolOutcome::Failed(failure) => {
            let body = match shown {
                Some(shown) => Body::failed_with(failure, shown)?,
                None => Body::failed(failure)?,
            };
            (Status::Failed, body, spent, used)
        }
        ToolOutcome::Unknown(failure) => {
            (Status::Unknown, Body::failed(failure)?, MicroUsd::ZERO, Units::NONE)
        }
        ToolOutcome::Charged(Charged { failure, cost, meta, .. }) => {
            (Status::Failed, Body::failed(failure)?, cost, used.saturating_add(&meta.units))
        }
    };
    let failure = body
        .failure()
        .map(|failure| FailureCode { code: failure.code.clone(), category: failure.category });
    body.rpc = rpc;
    let prior = prior.map(|prior| body.committed(&prior));
    let (output, output_bytes) = body.commitment();
    let attested = ran.as_ref().map(|ran| sandbox::attest(shared, ran, body.salt()));
    let attestation = attested.transpose()?.map(Into::into);
    let outcome = Outcome {
        status,
        output,
        output_bytes,
        cost,
        units: action.request.used(status, &used),
        failure,
        is_error,
        isolation,
        attestation,
        prior,
        model,
    };
    Ok((outcome, body, ran))
}

/// When to try again, by the rule for the failure's category, spread by the action's own id, and
/// never before the other side wants it. Attempts that stopping servers cut short do not count.
fn retry_at(action: &Action, attempt: u32, failure: &Failure, now: Timestamp) -> Option<Timestamp> {
    let rule = retry::rule(failure.category);
    let counted = attempt.saturating_sub(action.interrupted);
    // A category that is never repeated has failures that say themselves when to come back.
    if rule.attempts > 1 && counted >= rule.attempts {
        return None;
    }
    let own = rule.spread_wait_ms(counted, action.id.as_str());
    let wait = own.max(failure.retry_after_ms.unwrap_or(0));
    Some(now.plus_millis(i64::try_from(wait).unwrap_or(i64::MAX)))
}

/// Runs what is approved (or due for another attempt): decides it anew under what is in force
/// now, draws its permit in the same commit, and runs it.
pub(crate) async fn resume(shared: &Arc<Shared>, log: &LogId, action: &Action) -> Result<()> {
    let Some(document) = open_document(shared, log, &action.id)? else {
        return deny(shared, log, action, "document_expired").await;
    };
    let Some(caller) = present_caller(shared, &document) else {
        return deny(shared, log, action, "principal_disabled").await;
    };
    let tool = match find_tool(shared, &caller.tenant, &action.request.tool) {
        Ok(tool) if tool.digest() == action.request.tool_digest => tool,
        // Another tool than the one that was decided and approved.
        _ => return deny(shared, log, action, "tool_changed").await,
    };
    let digests = document.digests(tool.digest())?;
    if digests.plan != action.request.plan_digest {
        return deny(shared, log, action, "plan_changed").await;
    }
    let facts = tool.facts(&document.params);
    let plan = Plan::stored(&document, &facts, &action.request);
    let granted = match &action.approval {
        None => None,
        Some(id) => match shared.ledger.read(log, Kind::Approval, id.as_str())? {
            Some(State::Approval(approval)) => Some(approval),
            _ => None,
        },
    };
    let seen = granted
        .as_ref()
        .map(|g| InputApproval { approvals: g.approvals(), step_up: g.stepped_up() });
    let decision = decide(shared, &caller, plan, Phase::Execute, seen);
    let revisions = revisions(shared, &caller)?;
    let now = shared.now();
    // Kept until the commit is over.
    let _place = match plan::runs(granted.as_ref(), &decision, now) {
        true => cleared(shared, &caller, plan, &action.id)?,
        false => None,
    };
    let reopen = new_approval_id()?;
    let side = left_over(log, action, &decision, Phase::Execute);
    let commands = plan::execute(action, granted.as_ref(), decision.into(), reopen, revisions, now);
    let batch = Batch { side, ..Batch::new(log.clone(), commands) };
    let committed = match shared.ledger.commit(batch).await {
        Err(ledger::Error::Refused(refusal)) if refusal.code().1 == Category::Budget => {
            return deny_for(shared, log, action, refusal.into()).await;
        }
        ended => ended?,
    };
    let action = changed(&committed, action)?;
    shared.metrics.action(action.status.as_str());
    shared.waiters.wake(&action.id);
    if action.permit().is_none() {
        return Ok(());
    }
    if !sandbox::serves(shared, &caller.tenant, &action.request.tool) {
        return run(shared, &caller, log, &action, plan, digests.plan).await.map(drop);
    }
    // Code may wait for people for hours, and what they approve comes through the queue: it must
    // not take up a place there.
    let (shared, log) = (shared.clone(), log.clone());
    shared.running.clone().spawn(async move {
        let plan = Plan::stored(&document, &facts, &action.request);
        if let Err(refused) = run(&shared, &caller, &log, &action, plan, digests.plan).await {
            tracing::error!(action = %action.id, error = %refused.0, "an outcome was not kept");
        }
    });
    Ok(())
}

/// Takes a place for a call that is about to start and comes back by itself. Where there is none,
/// or where its system fails again and again, it waits: nothing is asked of anybody, and nothing
/// is written down.
pub(super) fn cleared(
    shared: &Shared,
    caller: &Caller,
    plan: Plan<'_>,
    id: &ActionId,
) -> Result<Option<Place>> {
    let held = plan.held();
    if let Some(failure) = caps::circuit_of(shared, &caller.tenant, held.tool, shared.now()) {
        return Err(Refused(failure));
    }
    caps::enter(shared, caller, &held, (id, true))?.map_err(Refused)
}

/// Ends an action that can no longer run, and the approval that it can no longer use.
async fn deny(shared: &Shared, log: &LogId, action: &Action, code: &str) -> Result<()> {
    let failure = FailureCode { code: code.to_owned(), category: Category::PolicyDenied };
    let commands = plan::deny(action, failure);
    let side = vec![drop_document(log, &action.id)];
    end(shared, action, Batch { side, ..Batch::new(log.clone(), commands) }).await.map(drop)
}

/// The same, and keeps the words of why: which budget lacks what.
async fn deny_for(shared: &Shared, log: &LogId, action: &Action, why: Failure) -> Result<()> {
    let failure = FailureCode { code: why.code.clone(), category: why.category };
    let commands = plan::deny(action, failure);
    let (_, reason) = reason_row(shared, log.tenant(), &action.id, why).await?;
    let side = vec![drop_document(log, &action.id), reason];
    end(shared, action, Batch { side, ..Batch::new(log.clone(), commands) }).await.map(drop)
}

async fn end(shared: &Shared, action: &Action, batch: Batch) -> Result<Answer> {
    let log = batch.log.clone();
    let committed = shared.ledger.commit(batch).await?;
    let changed = changed(accounts::told(shared, &committed), action);
    let action = changed.unwrap_or_else(|_| action.clone());
    shared.metrics.action(action.status.as_str());
    shared.waiters.wake(&action.id);
    shared.queue.notify_one();
    // Code that is never run again has nobody who waits for what it called.
    if action.status.is_settled() && action.attempts > 0 {
        Box::pin(sandbox::abandon(shared, &log, &action)).await;
    }
    Ok(Answer::new(action, committed.checkpoint))
}

/// Ends the attempt of a server that is gone: repeats it where that is safe, else it is unknown.
pub(crate) async fn lost(shared: &Shared, log: &LogId, action: &Action) -> Result<()> {
    let commands = plan::lost(action, shared.ledger.epoch());
    end(shared, action, Batch::new(log.clone(), commands)).await.map(drop)
}

/// Lets others speak too in the stages that took too long.
pub(crate) async fn escalate(shared: &Shared, log: &LogId, approval: &Approval) -> Result<()> {
    let commands = plan::escalate(approval, shared.now());
    let stages = commands.len();
    shared.ledger.commit(Batch::new(log.clone(), commands)).await?;
    shared.metrics.escalated(stages);
    tracing::warn!(approval = %approval.id, stages, "escalated: nobody decided in time");
    Ok(())
}

/// Ends an approval whose time is over, and the action that waits for it.
pub(crate) async fn expire(
    shared: &Shared,
    log: &LogId,
    approval: &Approval,
    action: &Action,
) -> Result<()> {
    let waits = matches!(action.status, Status::AwaitingApproval | Status::Approved)
        && action.approval.as_ref() == Some(&approval.id);
    let side = if waits { vec![drop_document(log, &action.id)] } else { Vec::new() };
    let commands = plan::expire(approval, waits.then_some(action));
    end(shared, action, Batch { side, ..Batch::new(log.clone(), commands) }).await.map(drop)
}

/// Withdraws an action of a run that ends.
pub(crate) async fn withdraw(
    shared: &Shared,
    log: &LogId,
    action: &Action,
    by: PrincipalId,
) -> Result<()> {
    let side = vec![drop_document(log, &action.id)];
    let batch = Batch { side, ..Batch::new(log.clone(), plan::cancel(action, by)) };
    end(shared, action, batch).await.map(drop)
}

/// Withdraws an action that has not run.
pub(crate) async fn cancel(shared: &Shared, caller: &Caller, action: &Action) -> Result<Answer> {
    let log = caller.log();
    let batch = Batch {
        side: vec![drop_document(&log, &action.id)],
        trace_id: caller.trace_id.clone(),
        ..Batch::new(log, plan::cancel(action, caller.id.clone()))
    };
    end(shared, action, batch).await
}

/// Establishes an unknown outcome.
pub(crate) async fn reconcile(
    shared: &Shared,
    caller: &Caller,
    action: &Action,
    status: Status,
    cost: MicroUsd,
) -> Result<Answer> {
    let commands = plan::reconcile(action, status, cost, caller.id.clone());
    let batch = Batch { trace_id: caller.trace_id.clone(), ..Batch::new(caller.log(), commands) };
    end(shared, action, batch).await
}

/// Releases an action from quarantine: it is decided anew under what is in force now, which may
/// put it back.
pub(crate) async fn release(shared: &Shared, caller: &Caller, action: &Action) -> Result<Answer> {
    if action.status != Status::Quarantined {
        return Err(machine::Refusal::State(action.status.as_str()).into());
    }
    let log = caller.log();
    let document =
        open_document(shared, &log, &action.id)?.ok_or_else(|| Refused::not_found("document"))?;
    let requester = present_caller(shared, &document)
        .ok_or_else(|| Refused::invalid("the principal that asked is disabled"))?;
    let tool = find_tool(shared, &requester.tenant, &action.request.tool)?;
    let facts = tool.facts(&document.params);
    let plan = Plan::stored(&document, &facts, &action.request);
    let decision = decide(shared, &requester, plan, Phase::Submit, None);
    let approval = new_approval_id()?;
    let revisions = revisions(shared, &requester)?;
    let side = left_over(&log, action, &decision, Phase::Submit);
    let commands = plan::release(action, decision.into(), approval, revisions, shared.now());
    let batch = Batch { side, trace_id: caller.trace_id.clone(), ..Batch::new(log, commands) };
    end(shared, action, batch).await
}

/// Whether the document kept for an action is the one that was decided. For whoever shows it.
pub(crate) fn check_stored(document: &Document, action: &Action) -> Result<Vec<u8>> {
    let digests = document.digests(action.request.tool_digest)?;
    if digests.plan == action.request.plan_digest && digests.action == action.request.action_digest
    {
        Ok(digests.canonical)
    } else {
        Err(Refused::internal("a stored document does not have its action's digest"))
    }
}
