//! Submitting: reserve, decide, and run at once what is allowed.

use std::sync::Arc;
use std::time::Instant;

use kernel::action::{Action, FailureCode};
use kernel::decision::{Decision, DecisionPoint, Effect, NoAnswer, Phase};
use kernel::failure::{Category, Failure};
use kernel::ids::ActionId;
use kernel::machine::{Command, Kind, Refusal, State, Stream};
use kernel::plan::{self, Revisions, Submission};
use kernel::reservation;
use kernel::values::{Digest, MicroUsd};
use ledger::Batch;
use ledger::store::{Class, SideRow};
use tokio::task::JoinHandle;

use super::prepare::{Asked, Prepared, decide, prepare};
use super::view::{Answer, DOCUMENT};
use super::{gateway, run};
use crate::caps::{self, Place};
use crate::error::{Refused, Result};
use crate::limits;
use crate::metrics::Stage;
use crate::shared::{Caller, Shared, new_action_id, new_approval_id, revision};

/// The permission to see actions.
pub(crate) const READ: &str = "actions:read";

/// What idempotency keys of actions are for.
pub(crate) const ENDPOINT: &str = "actions";

/// What a submit came to.
pub(crate) enum Submitted {
    /// A new action as its first commit left it, and its first attempt where it runs at once.
    New(Box<Answer>, Option<JoinHandle<Result<Answer>>>),
    /// The same request made this action before.
    Repeat(ActionId),
}

/// What tells a request from another under the same idempotency key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keyed {
    /// What keys are for: the same key at another endpoint is another key.
    pub(crate) endpoint: &'static str,
    /// The digest of the request.
    pub(crate) body: Digest,
}

impl Keyed {
    /// A request for an action.
    pub(crate) fn action(body: Digest) -> Self {
        Self { endpoint: ENDPOINT, body }
    }
}

/// Carries out a submit.
pub(crate) async fn submit(
    shared: &Arc<Shared>,
    caller: &Caller,
    asked: Asked,
    keyed: Keyed,
) -> Result<Submitted> {
    let id = new_action_id()?;
    for _ in 0..limits::DECIDE_AGAIN_MAX {
        let (prepared, decision) = plan_and_decide(shared, caller, &asked)?;
        // Kept until the commit is over.
        let (decision, _place) = within_caps(shared, caller, &id, (&prepared, keyed), decision)?;
        match commit(shared, caller, &id, prepared, decision, keyed).await {
            // Policy or principal changed between decision and commit: decide anew.
            Err(Refused(failure)) if failure.code == "decision_stale" => {}
            ended => return ended,
        }
    }
    Err(Refused::new(Category::Conflict, "decision_stale", "policy keeps changing: try again"))
}

/// Makes the plan and decides it. A ROUTE is followed once: the other tool is decided anew.
fn plan_and_decide(
    shared: &Shared,
    caller: &Caller,
    asked: &Asked,
) -> Result<(Prepared, Decision)> {
    let started = Instant::now();
    let prepared = prepare(shared, caller, asked, None)?;
    shared.metrics.stage(Stage::Prepare, started.elapsed());
    let started = Instant::now();
    let decision = decide(shared, caller, prepared.plan(), Phase::Submit, None);
    shared.metrics.stage(Stage::Decide, started.elapsed());
    match (decision.effect, &decision.obligations.route) {
        (Effect::Route, Some(tool)) => {
            let routed = Asked { tool: tool.clone(), ..asked.clone() };
            match prepare(shared, caller, &routed, Some(asked.tool.clone())) {
                Ok(prepared) => {
                    let decision = decide(shared, caller, prepared.plan(), Phase::Submit, None);
                    Ok((prepared, decision))
                }
                // There is no such tool, or it does not take these parameters. Policy is at
                // fault, not the caller, and what policy cannot answer is a DENY on record.
                Err(Refused(failure)) if failure.category != Category::Internal => {
                    let Decision { policy, input_digest, .. } = decision;
                    Ok((prepared, Decision::deny(NoAnswer::PolicyError, policy, input_digest)))
                }
                Err(refused) => Err(refused),
            }
        }
        _ => Ok((prepared, decision)),
    }
}

/// Takes a place for a write that starts at once; without one it is put off.
fn within_caps(
    shared: &Shared,
    caller: &Caller,
    id: &ActionId,
    (prepared, keyed): (&Prepared, Keyed),
    decision: Decision,
) -> Result<(Decision, Option<Place>)> {
    if decision.effect != Effect::Allow {
        return Ok((decision, None));
    }
    Ok(match caps::enter(shared, caller, &prepared.plan().held(), (id, false))? {
        Ok(place) => (decision, place),
        // A repeat has no effect: it is answered by what its key stands for.
        Err(_) if stands(shared, caller, id, keyed)? => (decision, None),
        Err(wait) => {
            let ms = wait.retry_after_ms.unwrap_or_default();
            (decision.put_off(&wait.code, ms), None)
        }
    })
}

/// Whether the caller's key stands for an earlier request.
fn stands(shared: &Shared, caller: &Caller, id: &ActionId, keyed: Keyed) -> Result<bool> {
    let now = shared.now();
    let Some((key, input)) = caller.reserve(keyed.endpoint, keyed.body, id.as_str(), now) else {
        return Ok(false);
    };
    Ok(match shared.ledger.read(&caller.log(), Kind::Idempotency, &key)? {
        Some(State::Reservation(held)) => reservation::step(Some(&held), input, now).is_err(),
        _ => false,
    })
}

/// Why an action that policy lets through still does not run: the operator or its money.
fn refused(prepared: &Prepared, decision: &Decision) -> Option<FailureCode> {
    let estimate = prepared.request.estimate;
    if matches!(decision.effect, Effect::Deny | Effect::Throttle | Effect::Quarantine) {
        return None;
    }
    if let Some(Failure { code, category, .. }) = &prepared.beyond {
        return Some(FailureCode { code: code.clone(), category: *category });
    }
    if decision.obligations.max_cost_micro_usd.is_some_and(|max| estimate > max) {
        return Some(budget("cost_above_policy"));
    }
    let unpaid = estimate > MicroUsd::ZERO && prepared.request.account.is_none();
    unpaid.then(|| budget("budget_account_missing"))
}

/// An action that is about to be made durable, with whatever else belongs to its commit.
pub(crate) struct Made {
    pub(crate) id: ActionId,
    pub(crate) commands: Vec<Command>,
    pub(crate) side: Vec<SideRow>,
    pub(crate) prepared: Prepared,
    /// Whether it waits for people.
    gated: bool,
    /// What it is made of again, refused, where its budget turns out not to cover it.
    priced: Option<Submission>,
    /// The place of its write, until its commit is over.
    _place: Option<Place>,
}

impl Made {
    /// The stream that it begins.
    pub(crate) fn stream(&self) -> Stream {
        Stream::new(Kind::Action, self.id.as_str())
    }

    /// The commands that make it and refuse it for `refusal`, where that is about money.
    pub(crate) fn refused(&mut self, refusal: &Refusal) -> Option<Vec<Command>> {
        if refusal.code().1 != Category::Budget {
            return None;
        }
        let submission = self.priced.take()?;
        Some(plan::submit_refused(submission, budget(refusal.code().0)))
    }
}

/// Prepares and decides what a step of a run asks for. It is committed by who asks. What has to
/// wait for its turn, or for a system that fails, is not asked for yet.
pub(crate) async fn make(shared: &Shared, caller: &Caller, asked: &Asked) -> Result<Made> {
    let (prepared, decision) = plan_and_decide(shared, caller, asked)?;
    let id = new_action_id()?;
    let place = match decision.effect {
        Effect::Allow => run::cleared(shared, caller, prepared.plan(), &id)?,
        _ => None,
    };
    let made =
        made(shared, caller, id, prepared, &decision, Keyed::action(Digest::of(b""))).await?;
    Ok(Made { _place: place, ..made })
}

async fn made(
    shared: &Shared,
    caller: &Caller,
    id: ActionId,
    prepared: Prepared,
    decision: &Decision,
    keyed: Keyed,
) -> Result<Made> {
    let submission = submission(shared, caller, &id, &prepared, decision, keyed)?;
    // What ends here needs no document any more, nor does what runs now and is never repeated.
    let gated = plan::gated(decision.effect);
    let waits = gated || decision.effect == Effect::Quarantine;
    let repeats = decision.effect == Effect::Allow && prepared.request.idempotent;
    let refused = refused(&prepared, decision);
    let side = match (&refused, &prepared.beyond) {
        (Some(_), Some(beyond)) => {
            let tenant = caller.tenant.as_str();
            vec![run::reason_row(shared, tenant, &id, beyond.clone()).await?.1]
        }
        (None, _) if waits || repeats => document_row(shared, caller, &id, &prepared).await?,
        _ => Vec::new(),
    };
    // What costs or uses something may find its budget empty: then it is refused with a receipt.
    let request = &prepared.request;
    let bounded = request.account.is_some() || request.step.is_some();
    let priced = (bounded && request.is_counted()).then(|| submission.clone());
    let commands = match refused {
        None => plan::submit(submission, shared.now()),
        Some(failure) => plan::submit_refused(submission, failure),
    };
    Ok(Made { id, commands, side, prepared, gated, priced, _place: None })
}

/// Makes the action durable: with its permit where it is allowed, refused where money lacks or
/// where it asks for more than there may be.
async fn commit(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &ActionId,
    prepared: Prepared,
    decision: Decision,
    keyed: Keyed,
) -> Result<Submitted> {
    let mut made = made(shared, caller, id.clone(), prepared, &decision, keyed).await?;
    let started = Instant::now();
    let (commands, side) = (std::mem::take(&mut made.commands), std::mem::take(&mut made.side));
    let mut body = None;
    let batch = Batch { fresh: vec![made.stream()], side, ..batch_of(caller, commands) };
    let committed = match shared.ledger.commit(batch).await {
        Err(ledger::Error::Refused(Refusal::Duplicate { target })) => {
            let target = ActionId::new(target).map_err(Refused::internal)?;
            return Ok(Submitted::Repeat(target));
        }
        Err(ledger::Error::Refused(refusal)) => match made.refused(&refusal) {
            Some(commands) => {
                let tenant = caller.tenant.as_str();
                let (why, row) = run::reason_row(shared, tenant, id, refusal.into()).await?;
                body = Some(why);
                let batch = Batch { side: vec![row], ..batch_of(caller, commands) };
                shared.ledger.commit(batch).await?
            }
            None => return Err(refusal.into()),
        },
        ended => ended?,
    };
    shared.metrics.stage(Stage::Permit, started.elapsed());
    let Some(State::Action(action)) = committed.state(Kind::Action, id.as_str()) else {
        return Err(Refused::internal("a submit left no action behind"));
    };
    shared.metrics.action(action.status.as_str());
    let answer = Answer { body, ..Answer::new(action.clone(), committed.checkpoint.clone()) };
    let (gated, prepared) = (made.gated, made.prepared);
    let running = action.permit().is_some().then(|| {
        // A task of its own: a caller who goes away does not take the outcome along.
        let (shared, caller, action) = (shared.clone(), caller.clone(), action.clone());
        let tasks = shared.running.clone();
        tasks.spawn(async move { run::attempt(&shared, &caller, &action, &prepared).await })
    });
    if gated {
        // The approval expires one day.
        shared.queue.notify_one();
    }
    Ok(Submitted::New(Box::new(answer), running))
}

fn batch_of(caller: &Caller, commands: Vec<Command>) -> Batch {
    Batch { trace_id: caller.trace_id.clone(), ..Batch::new(caller.log(), commands) }
}

fn budget(code: &str) -> FailureCode {
    FailureCode { code: code.to_owned(), category: Category::Budget }
}

fn submission(
    shared: &Shared,
    caller: &Caller,
    id: &ActionId,
    prepared: &Prepared,
    decision: &Decision,
    keyed: Keyed,
) -> Result<Submission> {
    let held = match &prepared.under {
        Some(under) => {
            let request = &prepared.request;
            let tool = request.routed_from.as_ref().unwrap_or(&request.tool);
            Some(under.reserve((tool, &prepared.document.params), id, shared.now())?)
        }
        None => gateway::reserve(caller, id, prepared, decision, shared.now())?,
    };
    // A step is asked for once by what its run is, not by a key.
    let free = prepared.request.step.is_none();
    let (Keyed { endpoint, body }, now) = (keyed, shared.now());
    let reserve = || free.then(|| caller.reserve(endpoint, body, id.as_str(), now)).flatten();
    Ok(Submission {
        id: id.clone(),
        request: prepared.request.clone(),
        decision: decision.clone().into(),
        approval: new_approval_id()?,
        reserve: held.or_else(reserve),
        revisions: revisions(shared, caller)?,
    })
}

/// What is in force now. A caller whose roles, or those of whom it acts for, changed since their
/// request came in is told so; nothing begins in a suspended tenant.
pub(crate) fn revisions(shared: &Shared, caller: &Caller) -> Result<Revisions> {
    let directory = &shared.control.directory;
    if directory.suspended(&caller.tenant) {
        return Err(Refused(crate::credentials::suspended()));
    }
    let now = match &caller.authority {
        None => directory.principal(&caller.tenant, &caller.id).map(|p| p.revision),
        Some(authority) => {
            let principals = directory.chain(&caller.tenant, &authority.chain);
            principals.map(|principals| revision(&principals))
        }
    };
    if now != Some(caller.revision) {
        return Err(Refusal::DecisionStale.into());
    }
    Ok(Revisions {
        policy: shared.policy.current(&caller.tenant).revision,
        principal: caller.revision,
        epoch: shared.ledger.epoch(),
    })
}

/// The document, sealed, so that it can be shown to approvers and run later.
async fn document_row(
    shared: &Shared,
    caller: &Caller,
    id: &ActionId,
    prepared: &Prepared,
) -> Result<Vec<SideRow>> {
    let text = serde_json::to_vec(&prepared.document).map_err(Refused::internal)?;
    let now = shared.now();
    let tenant = caller.tenant.as_str();
    let row = shared.vault.seal(tenant, id.as_str(), DOCUMENT, Class::Request, &text, now).await?;
    Ok(vec![row])
}

/// An action that the caller may see, by its id.
pub(crate) fn find(shared: &Shared, caller: &Caller, id: &str) -> Result<Action> {
    match shared.ledger.read(&caller.log(), Kind::Action, id)? {
        Some(State::Action(action)) if caller.sees(READ, &action.request.actors) => Ok(action),
        _ => Err(Refused::not_found("action")),
    }
}
