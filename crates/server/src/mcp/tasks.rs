//! Tasks: a handle for a call that is held or runs on. A task is an action, by its id.
//!
//! 2025-11-25 has them in its core (`tasks/get`, `result`, `list`, `cancel`), 2026-07-28 as the
//! extension `io.modelcontextprotocol/tasks` (`tasks/get`, `update`, `cancel`). Whose task it is
//! not, is told that there is none.

use std::collections::HashMap;
use std::sync::Arc;

use connectors::mcp::{Revision, RpcError};
use kernel::action::{Action, Status};
use kernel::approval::Approval;
use kernel::failure::Failure;
use kernel::ids::{ActionId, ApprovalId};
use kernel::limits::RESULT_TTL_MICROS;
use kernel::machine::{Kind, State};
use kernel::values::Timestamp as Time;
use parking_lot::Mutex;
use proto::wire::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::adopt;
use super::governed::{self, Declared, Held, Outcome, Patience};
use super::{held, note};
use crate::actions;
use crate::error::Refused;
use crate::limits;
use crate::paging;
use crate::shared::{Caller, Shared};

type Reply = Result<String, RpcError>;

/// The permission to give up a call.
const CANCEL: &str = "actions:cancel";
/// What the ids of servers' tools begin with.
const SERVED: &str = "mcp.";
/// When to look again at what people decide.
const POLL_PEOPLE_MS: u32 = 2_000;
/// When to look again at what runs.
const POLL_WORK_MS: u32 = 500;

/// The approvals about which a client has answered that it told its person. It is not asked again;
/// whom a restart makes forget asks once more, under the same name.
#[derive(Default)]
pub(crate) struct Told(Mutex<HashMap<ApprovalId, Time>>);

impl Told {
    fn insert(&self, id: &ApprovalId, until: Time, now: Time) {
        let mut told = self.0.lock();
        if told.len() >= limits::TASKS_TOLD_MAX {
            told.retain(|_, until| now < *until);
        }
        if told.len() < limits::TASKS_TOLD_MAX {
            told.insert(id.clone(), until);
        }
    }

    fn contains(&self, id: &ApprovalId) -> bool {
        self.0.lock().contains_key(id)
    }
}

fn invalid(message: impl Into<String>) -> RpcError {
    RpcError::new(-32602, message)
}

fn failed(Refused(failure): Refused) -> RpcError {
    let code = match failure.category {
        kernel::failure::Category::Internal => -32603,
        _ => -32602,
    };
    RpcError::new(code, failure.message)
}

fn read<T: DeserializeOwned>(params: Option<&RawValue>) -> Result<T, RpcError> {
    let text = params.map_or("{}", RawValue::get);
    serde_json::from_str(text).map_err(|error| invalid(format!("params: {error}")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    task_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Update {
    task_id: String,
    input_responses: serde_json::Map<String, Value>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    cursor: Option<String>,
}

/// A task of the caller's own.
fn find(shared: &Shared, caller: &Caller, id: &str) -> Result<Action, RpcError> {
    let unknown = || invalid("there is no such task");
    let id = ActionId::new(id).map_err(|_| unknown())?;
    let found = adopt::own(shared, caller, &id).map_err(failed)?;
    found.filter(|action| is_task(shared, action)).ok_or_else(unknown)
}

/// Whether an action is a task: a server's, and not over for so long that its result is gone.
fn is_task(shared: &Shared, action: &Action) -> bool {
    let kept = || shared.now() < action.updated_at.plus_micros(RESULT_TTL_MICROS);
    action.request.tool.as_str().starts_with(SERVED) && (!action.status.is_final() || kept())
}

fn held_of(shared: &Shared, caller: &Caller, action: Action) -> Result<Held, RpcError> {
    let approval = governed::approval(shared, caller, &action).map_err(failed)?;
    Ok(Held { action, approval })
}

/// Puts the members of `more` into `object`.
pub(super) fn merge(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}

fn modern(declared: Declared) -> bool {
    declared.revision == Revision::V2026_07_28
}

/// What is asked of the client about this task, if anything.
fn asks<'a>(shared: &Shared, held: &'a Held, declared: Declared) -> Option<&'a Approval> {
    let waits = held.action.status == Status::AwaitingApproval;
    let approval = held.approval.as_ref().filter(|_| waits && modern(declared) && declared.url)?;
    (!shared.gateway.answered.contains(&approval.id)).then_some(approval)
}

fn status(shared: &Shared, held: &Held, declared: Declared) -> &'static str {
    let is_error = held.action.outcome.as_ref().is_some_and(|outcome| outcome.is_error);
    match held.action.status {
        Status::AwaitingApproval if asks(shared, held, declared).is_some() => "input_required",
        Status::Requested
        | Status::Quarantined
        | Status::AwaitingApproval
        | Status::Approved
        | Status::Executing => "working",
        Status::Canceled => "cancelled",
        // The older revision counts as failed what the newer one calls a result like any other.
        Status::Executed if !is_error || modern(declared) => "completed",
        _ => "failed",
    }
}

/// The task as both revisions show it, without what it came to.
pub(super) fn task(shared: &Shared, held: &Held, declared: Declared) -> Value {
    let Held { action, approval } = held;
    let waits = governed::waits_for_people(action);
    let until = match approval {
        _ if action.status.is_settled() => action.updated_at,
        Some(approval) => approval.request.expires_at.max(action.updated_at),
        None => action.updated_at,
    };
    let micros = until.plus_micros(RESULT_TTL_MICROS).0.saturating_sub(action.requested_at.0);
    let at = |time: Time| Timestamp::from_micros(time.0).to_string();
    let mut task = json!({
        "taskId": action.id,
        "status": status(shared, held, declared),
        "statusMessage": words(shared, held),
        "createdAt": at(action.requested_at),
        "lastUpdatedAt": at(action.updated_at),
    });
    let (ttl, poll) = match declared.revision {
        Revision::V2025_11_25 => ("ttl", "pollInterval"),
        Revision::V2026_07_28 => ("ttlMs", "pollIntervalMs"),
    };
    let every = if waits { POLL_PEOPLE_MS } else { POLL_WORK_MS };
    merge(&mut task, json!({ttl: micros / 1_000, poll: every}));
    task
}

fn words(shared: &Shared, held: &Held) -> String {
    match held.action.status {
        Status::Executed => "It has run.".to_owned(),
        Status::Failed => "It failed.".to_owned(),
        Status::Denied => "It was refused: it did not run.".to_owned(),
        Status::Canceled => "It was withdrawn before it ran.".to_owned(),
        Status::Expired => "Nobody approved it in time: it did not run.".to_owned(),
        Status::Unknown => "Nobody knows whether it has run: an operator finds out.".to_owned(),
        _ => held::sentence(shared, held),
    }
}

/// `tasks/get`.
pub(crate) fn get(
    shared: &Shared,
    caller: &Caller,
    params: Option<&RawValue>,
    declared: Declared,
) -> Reply {
    let Named { task_id } = read(params)?;
    let held = held_of(shared, caller, find(shared, caller, &task_id)?)?;
    let mut shown = task(shared, &held, declared);
    if !modern(declared) {
        return Ok(shown.to_string());
    }
    merge(&mut shown, json!({"resultType": "complete"}));
    if asks(shared, &held, declared).is_some() {
        let asked = approval_key(&held);
        let asks = json!({asked: held::elicitation(shared, &held)});
        merge(&mut shown, json!({"inputRequests": asks}));
    }
    if !held.action.status.is_settled() || held.action.status == Status::Canceled {
        return Ok(shown.to_string());
    }
    let ended = governed::as_it_is(shared, caller, held.action).map_err(failed)?;
    let (status, member, text) = match ended_text(ended, declared) {
        Ok(result) => ("completed", "result", result),
        Err(error) => {
            let text =
                serde_json::to_string(&error).map_err(|error| failed(Refused::internal(error)))?;
            ("failed", "error", text)
        }
    };
    merge(&mut shown, json!({"status": status}));
    // The text of the result stays as the server wrote it.
    Ok(note::insert(&shown.to_string(), &format!("\"{member}\":{text}")))
}

/// The name under which a client is asked about this approval.
fn approval_key(held: &Held) -> String {
    let id = held.approval.as_ref().map(|approval| approval.id.as_str());
    format!("{}-{}", held::ASKED, id.unwrap_or_default())
}

/// What the call itself would have answered.
fn ended_text(ended: Outcome, declared: Declared) -> Result<String, RpcError> {
    match ended {
        Outcome::Result(answered) => {
            Ok(typed(&note::add(answered.json.as_str(), &answered.note), declared))
        }
        Outcome::Error(rpc) => Err(rpc),
        Outcome::Failed(failure, note) => Ok(refusal(&failure, note.as_ref(), declared)),
        Outcome::Unknown(failure, note) => Ok(refusal(&failure, Some(&note), declared)),
        Outcome::Held(_) => Err(RpcError::new(-32603, "the task is not over")),
    }
}

/// A result of the newer revision says of which type it is; an upstream of the older does not.
fn typed(result: &str, declared: Declared) -> String {
    if modern(declared) && !result.contains("\"resultType\"") {
        return note::insert(result, "\"resultType\":\"complete\"");
    }
    result.to_owned()
}

/// A failure as the result of a tool, for whoever called it to read.
fn refusal(failure: &Failure, note: Option<&note::Note>, declared: Declared) -> String {
    let text = format!("{} ({})", failure.message, failure.code);
    let result = json!({"content": [{"type": "text", "text": text}], "isError": true}).to_string();
    let result = note.map_or_else(|| result.clone(), |note| note::add(&result, note));
    typed(&result, declared)
}

/// `tasks/update` (2026-07-28): the client has answered what it was asked. It was asked to have a
/// person look, so whatever it says changes nothing but that it is not asked again.
pub(crate) fn update(shared: &Shared, caller: &Caller, params: Option<&RawValue>) -> Reply {
    let Update { task_id, input_responses } = read(params)?;
    let held = held_of(shared, caller, find(shared, caller, &task_id)?)?;
    if let Some(approval) = &held.approval
        && input_responses.contains_key(&approval_key(&held))
    {
        let until = approval.request.expires_at;
        shared.gateway.answered.insert(&approval.id, until, shared.now());
    }
    Ok(json!({"resultType": "complete"}).to_string())
}

/// `tasks/cancel`: what has not run is withdrawn.
pub(crate) async fn cancel(
    shared: &Shared,
    caller: &Caller,
    params: Option<&RawValue>,
    declared: Declared,
) -> Reply {
    let Named { task_id } = read(params)?;
    let action = find(shared, caller, &task_id)?;
    if !caller.may(CANCEL) {
        return Err(invalid(format!("this takes the permission `{CANCEL}`")));
    }
    let over = action.status.is_settled();
    let withdrawn = match over || action.status == Status::Executing {
        true => None,
        // It may have begun to run meanwhile.
        false => actions::cancel(shared, caller, &action).await.ok(),
    };
    if modern(declared) {
        return Ok(json!({"resultType": "complete"}).to_string());
    }
    match withdrawn {
        Some(answer) => {
            let held = held_of(shared, caller, answer.action)?;
            Ok(task(shared, &held, declared).to_string())
        }
        None if over => Err(invalid("the task is over: it cannot be cancelled")),
        None => Err(invalid("the task is being carried out: it cannot be cancelled any more")),
    }
}

/// `tasks/result` (2025-11-25): waits for the end, and answers as the call would have.
pub(crate) async fn result(
    shared: &Arc<Shared>,
    caller: &Caller,
    params: Option<&RawValue>,
    declared: Declared,
    cancel: &CancellationToken,
) -> Reply {
    let Named { task_id } = read(params)?;
    let action = find(shared, caller, &task_id)?;
    let id = action.id.clone();
    let end = Instant::now() + limits::TASK_RESULT_WAIT;
    let patience = Patience { people: end, work: end };
    let action = governed::wait(shared, caller, action, patience, cancel).await.map_err(failed)?;
    if !action.status.is_settled() {
        return Err(RpcError::new(-32603, "the task is not over yet: ask again"));
    }
    let ended = governed::as_it_is(shared, caller, action).map_err(failed)?;
    let text = ended_text(ended, declared)?;
    let related = json!({"taskId": id});
    Ok(note::with_meta(&text, "io.modelcontextprotocol/related-task", &related.to_string()))
}

/// `tasks/list` (2025-11-25).
pub(crate) fn list(
    shared: &Shared,
    caller: &Caller,
    params: Option<&RawValue>,
    declared: Declared,
) -> Reply {
    let Listed { cursor } = read(params)?;
    let cursor = cursor.unwrap_or_default();
    if !cursor.is_empty() && ActionId::new(&cursor).is_err() {
        return Err(invalid("cursor: this is none"));
    }
    let actors = caller.actors();
    let sees = |state: &State| match state {
        State::Action(action) => {
            let request = &action.request;
            let own = request.actors == actors && request.environment == caller.environment;
            own && is_task(shared, action)
        }
        _ => false,
    };
    let page = paging::page(0, &cursor, None);
    let (states, next) = paging::visible(&shared.ledger, &caller.log(), Kind::Action, page, sees)
        .map_err(|error| failed(error.into()))?;
    let mut tasks = Vec::with_capacity(states.len());
    for state in states {
        if let State::Action(action) = state {
            tasks.push(task(shared, &held_of(shared, caller, action)?, declared));
        }
    }
    let mut listed = json!({"tasks": tasks});
    if !next.is_empty() {
        merge(&mut listed, json!({"nextCursor": next}));
    }
    Ok(listed.to_string())
}
