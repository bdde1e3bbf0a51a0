//! How a client is told that its call is held: as a task, as a page for a person to open, or in
//! words. Whichever it is, nothing has run, and repeating the call later gives its result.

use std::time::Duration;

use connectors::mcp::{Method, Revision, RpcError};
use kernel::action::Status;
use kernel::approval::Approval;
use kernel::decision::Stage;
use proto::wire::Timestamp;
use serde_json::{Value, json};

use super::governed::{Declared, Held, note};
use super::note::KEY;
use super::state::{self, Bound, State};
use super::tasks;
use crate::approvals::named;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};

/// The code of an error that names URLs to open before the request is sent again (2025-11-25).
const URL_ELICITATION_REQUIRED: i64 = -32042;
/// The code of an error that says that a request is held, where its result has no room for that.
const HELD: i64 = -32003;
/// The name of the one thing that is asked of a client.
pub(super) const ASKED: &str = "approval";

/// What to send.
pub(crate) enum Wire {
    /// As `result`.
    Result(String),
    /// As `error`.
    Error(RpcError),
}

/// The answer to a call that is held.
pub(crate) async fn wire(
    shared: &Shared,
    caller: &Caller,
    method: Method,
    bound: Bound<'_>,
    held: &Held,
    declared: Declared,
) -> Result<Wire> {
    let tool_call = method == Method::CallTool;
    let modern = declared.revision == Revision::V2026_07_28;
    let on_page = declared.url && held.action.status == Status::AwaitingApproval;
    if tool_call && modern && declared.tasks {
        let task = tasks::task(shared, held, declared);
        let mut result = json!({"resultType": "task", "_meta": meta(caller, held)});
        tasks::merge(&mut result, task);
        return Ok(Wire::Result(result.to_string()));
    }
    if tool_call && !modern && declared.task {
        let mut meta = meta(caller, held);
        let related = json!({"taskId": held.action.id});
        tasks::merge(
            &mut meta,
            json!({
                "io.modelcontextprotocol/related-task": related,
                "io.modelcontextprotocol/model-immediate-response": sentence(shared, held),
            }),
        );
        let task = tasks::task(shared, held, declared);
        return Ok(Wire::Result(json!({"task": task, "_meta": meta}).to_string()));
    }
    // A completion is the one request that a client does not repeat with a state.
    if modern && on_page && method != Method::Complete {
        let state = State::Held { action: held.action.id.clone() };
        let state = state::seal(shared, bound, state, lasts(shared, held)).await?;
        let result = json!({
            "resultType": "input_required",
            "inputRequests": {ASKED: elicitation(shared, held)},
            "requestState": state,
            "_meta": meta(caller, held),
        });
        return Ok(Wire::Result(result.to_string()));
    }
    if !modern && on_page {
        let data = json!({
            "elicitations": [page_params(shared, held, true)],
            "dev.tally/held": ids(caller, held),
        });
        return Ok(Wire::Error(error(URL_ELICITATION_REQUIRED, sentence(shared, held), &data)?));
    }
    if !tool_call {
        let data = json!({"dev.tally/held": ids(caller, held)});
        return Ok(Wire::Error(error(HELD, sentence(shared, held), &data)?));
    }
    let mut result = json!({
        "content": [{"type": "text", "text": sentence(shared, held)}],
        "isError": true,
        "_meta": meta(caller, held),
    });
    if modern {
        tasks::merge(&mut result, json!({"resultType": "complete"}));
    }
    Ok(Wire::Result(result.to_string()))
}

fn error(code: i64, message: String, data: &Value) -> Result<RpcError> {
    let data = serde_json::value::to_raw_value(data).map_err(Refused::internal)?;
    Ok(RpcError { code, message, data: Some(data) })
}

/// The ids, for programs.
fn ids(caller: &Caller, held: &Held) -> Value {
    let mut ids = serde_json::to_value(note(caller, &held.action)).unwrap_or_default();
    tasks::merge(&mut ids, json!({"state": held.action.status.as_str()}));
    ids
}

fn meta(caller: &Caller, held: &Held) -> Value {
    json!({KEY: ids(caller, held)})
}

/// The page on which people decide.
pub(super) fn page(shared: &Shared, approval: &Approval) -> String {
    format!("{}/approvals/{}", shared.tokens.issuer(), approval.id)
}

/// A request to have a person open the page.
pub(super) fn elicitation(shared: &Shared, held: &Held) -> Value {
    json!({"method": "elicitation/create", "params": page_params(shared, held, false)})
}

fn page_params(shared: &Shared, held: &Held, with_id: bool) -> Value {
    let Some(approval) = &held.approval else { return Value::Null };
    let message = format!(
        "`{}` needs approval by {} until {}.",
        held.action.request.tool,
        electorate(approval),
        Timestamp::from_micros(approval.request.expires_at.0),
    );
    let mut params = json!({"mode": "url", "message": message, "url": page(shared, approval)});
    if with_id {
        tasks::merge(&mut params, json!({"elicitationId": approval.id}));
    }
    params
}

/// How long a state that names this action is of use.
fn lasts(shared: &Shared, held: &Held) -> Duration {
    let until = held.approval.as_ref().map_or(shared.now(), |approval| {
        approval.request.expires_at.plus_micros(kernel::limits::RESULT_TTL_MICROS)
    });
    let micros = until.0.saturating_sub(shared.now().0).clamp(0, limits::HELD_MICROS_MAX);
    Duration::from_micros(micros.unsigned_abs())
}

/// Who may approve, in words: `1 of role approver`, stage by stage.
fn electorate(approval: &Approval) -> String {
    let stage = |stage: &Stage| {
        let (roles, approvers) = named(&stage.electorate());
        let roles = roles.iter().map(|role| format!("role {role}"));
        let who: Vec<String> = roles.chain(approvers).collect();
        let who =
            if who.is_empty() { "anybody who may approve".to_owned() } else { who.join(", ") };
        match stage.name.as_str() {
            "" => format!("{} of {who}", stage.quorum),
            name => format!("{} of {who} ({name})", stage.quorum),
        }
    };
    let stages: Vec<String> = approval.request.demand.stages.iter().map(stage).collect();
    stages.join(", then ")
}

/// What a person or a model reads of it.
pub(super) fn sentence(shared: &Shared, held: &Held) -> String {
    let action = &held.action;
    let tool = &action.request.tool;
    let id = &action.id;
    let then = "Repeat the same call afterwards to get its result: it is carried out once.";
    match (&held.approval, action.status) {
        (Some(approval), Status::AwaitingApproval) => format!(
            "Held: `{tool}` has not run. It needs approval {} by {} until {}: at {} or with \
             `tally approve {}`. {then} (action {id})",
            approval.id,
            electorate(approval),
            Timestamp::from_micros(approval.request.expires_at.0),
            page(shared, approval),
            approval.id,
        ),
        (_, Status::Quarantined) => format!(
            "Held: `{tool}` has not run. Policy keeps it in quarantine until an administrator \
             releases action {id} with `tally actions release {id}`. {then}"
        ),
        (_, Status::Approved) => {
            format!("`{tool}` is approved and about to run. {then} (action {id})")
        }
        _ => format!("`{tool}` is running. {then} (action {id})"),
    }
}
