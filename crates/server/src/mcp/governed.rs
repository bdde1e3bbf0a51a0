//! A call at the gateway as an action: decided, perhaps held, carried out, answered.

use std::sync::Arc;
use std::time::Duration;

use connectors::mcp::{Back, Detached, Lane, Revision, RpcError};
use kernel::action::{Action, Status};
use kernel::approval::Approval;
use kernel::failure::{Category, Failure};
use kernel::ids::ActionId;
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::values::Digest;
use serde_json::value::RawValue;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::adopt::{self, Adopt, Adoptions, Standing};
use super::keys::Keys;
use super::note::Note;
use crate::actions::{Answer, Asked, Claims, Keyed, Submitted, submit};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};
use crate::upstreams::McpTool;

/// What the gateway remembers.
#[derive(Default)]
pub(crate) struct Gateway {
    pub(crate) keys: Keys,
    pub(crate) held: Adoptions,
    pub(crate) answered: super::tasks::Told,
}

/// The caller's side of a call that is under way.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) back: Arc<dyn Back>,
    pub(crate) lane: Lane,
    /// The client's `_meta`, without what is the protocol's.
    pub(crate) meta: Option<Box<RawValue>>,
    pub(crate) progress_token: Option<Box<RawValue>>,
    pub(crate) cancel: CancellationToken,
}

impl Live {
    /// Nobody waits: the call goes on by itself.
    fn detached(self) -> Self {
        Self {
            back: Arc::new(Detached),
            lane: Lane::Shared,
            meta: self.meta,
            progress_token: None,
            cancel: CancellationToken::new(),
        }
    }
}

/// What comes with an action that was asked for at the gateway.
pub(crate) struct Through {
    pub(crate) continuation: Option<RawJson>,
    pub(crate) live: Arc<Live>,
    pub(crate) adopt: Adopt,
}

/// What the client can take in place of a result.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Declared {
    pub(crate) revision: Revision,
    /// It declares the extension for tasks (2026-07-28).
    pub(crate) tasks: bool,
    /// It wants this call to be a task (2025-11-25).
    pub(crate) task: bool,
    /// It can send a person to a URL.
    pub(crate) url: bool,
}

/// One call.
pub(crate) struct Ask {
    pub(crate) tool: Arc<McpTool>,
    pub(crate) params: RawJson,
    pub(crate) continuation: Option<RawJson>,
    pub(crate) live: Live,
    pub(crate) declared: Declared,
}

/// What a call came to.
pub(crate) enum Outcome {
    /// The server's result.
    Result(Answered),
    /// The server's error.
    Error(RpcError),
    /// Nothing happened, or its failure is known. Without a note there is no action either.
    Failed(Failure, Option<Note>),
    /// It waits, for people most likely.
    Held(Box<Held>),
    /// Nobody knows whether it happened.
    Unknown(Failure, Note),
}

/// A server's result.
pub(crate) struct Answered {
    /// Verbatim.
    pub(crate) json: RawJson,
    pub(crate) note: Note,
}

/// A call that is not over.
pub(crate) struct Held {
    pub(crate) action: Action,
    /// The approval that it waits for.
    pub(crate) approval: Option<Approval>,
}

/// Carries out a call.
pub(crate) async fn call(shared: &Arc<Shared>, caller: &Caller, ask: Ask) -> Outcome {
    let called = carry_out(shared, caller, ask).await;
    called.unwrap_or_else(|Refused(failure)| Outcome::Failed(failure, None))
}

/// Goes on with a call that was held: it is still, or this is what it came to.
pub(crate) async fn resume(
    shared: &Arc<Shared>,
    caller: &Caller,
    id: &ActionId,
    cancel: &CancellationToken,
) -> Outcome {
    let resumed = async {
        let action = adopt::own(shared, caller, id)?.ok_or_else(|| Refused::not_found("action"))?;
        answer(shared, caller, action, cancel).await
    };
    resumed.await.unwrap_or_else(|Refused(failure)| Outcome::Failed(failure, None))
}

async fn carry_out(shared: &Arc<Shared>, caller: &Caller, ask: Ask) -> Result<Outcome> {
    let Ask { tool, params, continuation, live, declared } = ask;
    let id = &tool.manifest.id;
    let sealer = shared.gateway.keys.of(shared, &caller.tenant).await?;
    let mut adopt = Adopt { sealer, replaces: None };
    let cancel = live.cancel.clone();
    let live = Arc::new(if declared.task { live.detached() } else { live });
    let held = &shared.gateway.held;
    if held.any(caller) {
        let name = adopt.name(caller, id, &params, continuation.as_ref())?;
        if let Some(action) = held.find(shared, caller, &name)? {
            return match declared.task {
                true => as_it_is(shared, caller, action),
                false => answer(shared, caller, action, &cancel).await,
            };
        }
    }
    for _ in 0..limits::ADOPT_AGAIN_MAX {
        let (continuation, live) = (continuation.clone(), live.clone());
        let through = Through { continuation, live, adopt: adopt.clone() };
        let asked = Asked {
            tool: id.clone(),
            params: params.clone(),
            claims: Claims::new(None)?,
            account: caller.account.clone(),
            through: Some(Arc::new(through)),
            under: None,
            step: None,
            reverses: None,
        };
        match begin(shared, caller, asked).await? {
            Submitted::New(begun, _) if declared.task => {
                return as_it_is(shared, caller, begun.action);
            }
            Submitted::New(_, Some(running)) => {
                // The attempt itself heeds `cancel`: what it came to is known by its end alone.
                let ended = running.await.map_err(Refused::not_ended)??;
                if ended.action.status.is_settled() {
                    return outcome(shared, caller, ended);
                }
                return answer(shared, caller, ended.action, &cancel).await;
            }
            Submitted::New(begun, None) => {
                return answer(shared, caller, begun.action, &cancel).await;
            }
            // Somebody else of the same name was faster, or one from before is remembered.
            Submitted::Repeat(target) => {
                let found = adopt::own(shared, caller, &target)?;
                let stands =
                    |action: &Action| adopt::standing(action, shared.now()) == Standing::Answers;
                if let Some(action) = found.filter(stands) {
                    return answer(shared, caller, action, &cancel).await;
                }
                adopt.replaces = Some(target);
            }
        }
    }
    let message = "this call is being asked for again and again: try later";
    Err(Refused(Failure::new(Category::Conflict, "held_conflict", message)))
}

/// Submits in a task of its own: a caller who goes away does not take the action along.
async fn begin(shared: &Arc<Shared>, caller: &Caller, asked: Asked) -> Result<Submitted> {
    let (shared, caller) = (shared.clone(), caller.clone());
    let begun = tokio::spawn(async move {
        let through = asked.through.clone();
        let (tool, params) = (asked.tool.clone(), asked.params.clone());
        let submitted = submit(&shared, &caller, asked, Keyed::action(Digest::of(&[]))).await?;
        if let (Submitted::New(begun, None), Some(through)) = (&submitted, through)
            && waits_for_people(&begun.action)
        {
            let continuation = through.continuation.as_ref();
            let name = through.adopt.name(&caller, &tool, &params, continuation)?;
            shared.gateway.held.insert(&name, begun.action.id.clone());
        }
        Ok(submitted)
    });
    begun.await.map_err(Refused::internal)?
}

/// Whether it is for people to say how it goes on.
pub(super) fn waits_for_people(action: &Action) -> bool {
    matches!(action.status, Status::AwaitingApproval | Status::Quarantined)
}

/// What an action comes to, once there is nothing more to wait for.
async fn answer(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: Action,
    cancel: &CancellationToken,
) -> Result<Outcome> {
    let now = Instant::now();
    let patience = Patience {
        people: now + Duration::from_millis(shared.config.mcp.wait_for_approval_ms.into()),
        work: now + limits::HELD_WORK_WAIT,
    };
    let action = wait(shared, caller, action, patience, cancel).await?;
    as_it_is(shared, caller, action)
}

/// What an action has come to by now.
pub(super) fn as_it_is(shared: &Shared, caller: &Caller, action: Action) -> Result<Outcome> {
    if action.status.is_settled() {
        return outcome(shared, caller, Answer::new(action, Arc::default()));
    }
    let approval = approval(shared, caller, &action)?;
    Ok(Outcome::Held(Box::new(Held { action, approval })))
}

/// The approval of an action.
pub(super) fn approval(
    shared: &Shared,
    caller: &Caller,
    action: &Action,
) -> Result<Option<Approval>> {
    let Some(id) = &action.approval else { return Ok(None) };
    match shared.ledger.read(&caller.log(), Kind::Approval, id.as_str())? {
        Some(State::Approval(approval)) => Ok(Some(approval)),
        _ => Ok(None),
    }
}

/// Until when a caller waits.
#[derive(Clone, Copy)]
pub(super) struct Patience {
    /// For people.
    pub(super) people: Instant,
    /// For what runs, or is about to.
    pub(super) work: Instant,
}

/// The action once it is settled, or its caller is to be answered all the same.
pub(super) async fn wait(
    shared: &Shared,
    caller: &Caller,
    mut action: Action,
    patience: Patience,
    cancel: &CancellationToken,
) -> Result<Action> {
    let place = shared.waiters.enter(&action.id);
    loop {
        let changed = place.changed();
        tokio::pin!(changed);
        // From here on a change is noticed.
        changed.as_mut().enable();
        if let Some(State::Action(now)) =
            shared.ledger.read(&caller.log(), Kind::Action, action.id.as_str())?
        {
            action = now;
        }
        let people = waits_for_people(&action);
        let until = if people { patience.people } else { patience.work };
        if action.status.is_settled() || Instant::now() >= until {
            return Ok(action);
        }
        // Whoever wakes may be another server: look again now and then.
        let next = until.min(Instant::now() + limits::QUEUE_IDLE);
        tokio::select! {
            () = cancel.cancelled() => return Ok(action),
            () = changed => {}
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// The traces of an action.
pub(super) fn note(caller: &Caller, action: &Action) -> Note {
    let log = caller.log();
    Note {
        action_id: action.id.clone(),
        receipts: action.receipts.iter().map(|index| log.receipt_id(*index)).collect(),
        approval_id: action.approval.clone(),
    }
}

/// What a settled action came to.
fn outcome(shared: &Shared, caller: &Caller, answer: Answer) -> Result<Outcome> {
    let mut answer = answer.opened(shared, &caller.log())?;
    let note = note(caller, &answer.action);
    let failure = answer.failure();
    let (result, rpc) = answer.served();
    let failed =
        |failure: Option<Failure>| failure.unwrap_or_else(|| ended_without(answer.action.status));
    Ok(match (answer.action.status, result, rpc) {
        (Status::Executed, Some(json), _) => Outcome::Result(Answered { json, note }),
        (Status::Failed, _, Some(rpc)) => Outcome::Error(rpc),
        (Status::Unknown, ..) => Outcome::Unknown(failed(failure), note),
        _ => Outcome::Failed(failed(failure), Some(note)),
    })
}

/// The failure of an action that ended without one of its own.
fn ended_without(status: Status) -> Failure {
    let (code, message) = match status {
        Status::Expired => {
            ("approval_expired", "nobody approved this call in time: it did not run")
        }
        Status::Canceled => ("canceled", "this call was withdrawn before it ran"),
        _ => ("ended", "the action has ended"),
    };
    Failure::new(Category::Conflict, code, message)
}
