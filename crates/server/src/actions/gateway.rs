//! What is different in the way of an action that an MCP server carries out.

use std::sync::Arc;

use connectors::mcp::{self, AuthSpec, Back, Detached, Ended as Answered, Lane, RpcError};
use connectors::{Executed, Meta, Outcome as ToolOutcome};
use kernel::action::{Action, Isolation};
use kernel::decision::{Decision, Effect};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, ToolId};
use kernel::permit::Permit;
use kernel::plan;
use kernel::reservation;
use kernel::values::{Digest, Timestamp};
use tokio_util::sync::CancellationToken;

use super::prepare::{Plan, Prepared};
use crate::error::Result;
use crate::kv::Change;
use crate::mcp::auth;
use crate::sandbox::Ran;
use crate::shared::{Caller, Shared};
use crate::toolbox::{self, Found};
use crate::upstreams::McpTool;

/// What the ids of their tools begin with.
const PREFIX: &str = "mcp.";

/// How an attempt ended, with what only servers tell.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) outcome: ToolOutcome,
    pub(crate) is_error: bool,
    pub(crate) isolation: Option<Isolation>,
    pub(crate) rpc: Option<RpcError>,
    /// What ran in a sandbox.
    pub(crate) ran: Option<Box<Ran>>,
    /// What it changes of the workspace's values.
    pub(crate) change: Option<Change>,
}

impl From<ToolOutcome> for Ended {
    fn from(outcome: ToolOutcome) -> Self {
        Self { outcome, is_error: false, isolation: None, rpc: None, ran: None, change: None }
    }
}

/// Whether a server carries it out.
pub(super) fn serves(tool: &ToolId) -> bool {
    tool.as_str().starts_with(PREFIX)
}

/// Reserves the name of a call that is held, so that a repeat adopts its action.
pub(super) fn reserve(
    caller: &Caller,
    id: &ActionId,
    prepared: &Prepared,
    decision: &Decision,
    now: Timestamp,
) -> Result<Option<(String, reservation::Input)>> {
    let Some(through) = &prepared.through else { return Ok(None) };
    if !plan::gated(decision.effect) && decision.effect != Effect::Quarantine {
        return Ok(None);
    }
    let (document, request) = (&prepared.document, &prepared.request);
    let asked_for = request.routed_from.as_ref().unwrap_or(&request.tool);
    let continuation = document.continuation.as_ref();
    let name = through.adopt.name(caller, asked_for, &document.params, continuation)?;
    Ok(Some(through.adopt.reserve(name, id, now)))
}

/// One attempt at a server's tool.
pub(super) async fn call(
    shared: &Arc<Shared>,
    caller: &Caller,
    action: &Action,
    plan: Plan<'_>,
    permit: &Permit,
    plan_digest: Digest,
) -> Ended {
    let request = &action.request;
    let tool = match toolbox::find(shared, &caller.tenant, &request.tool) {
        Some(Found::Mcp(tool)) if tool.digest == request.tool_digest => tool,
        // Between the decision and here it became another one.
        _ => {
            let message = "the tool is no longer the one that was decided: ask again";
            let failure = Failure::new(Category::PolicyDenied, "tool_changed", message);
            return ToolOutcome::Failed(failure).into();
        }
    };
    let live = plan.through.map(|through| through.live.as_ref());
    // Where nobody is authorised, nobody needs a token.
    let authorised = tool.upstream.spec.auth != AuthSpec::None;
    let subject = authorised.then(|| auth::subject(shared, caller));
    let call = mcp::Call {
        permit,
        plan_digest,
        now: shared.now(),
        method: tool.method,
        tool: &tool.name,
        params: &plan.document.params,
        continuation: plan.document.continuation.as_ref(),
        idempotent: request.idempotent,
        meta: live.and_then(|live| live.meta.as_deref()),
        progress_token: live.and_then(|live| live.progress_token.as_deref()),
        lane: live.map_or(Lane::Shared, |live| live.lane.clone()),
        back: live.map_or_else(|| Arc::new(Detached) as Arc<dyn Back>, |live| live.back.clone()),
        subject: subject.as_ref(),
        cancel: live.map_or_else(CancellationToken::new, |live| live.cancel.clone()),
    };
    ended(&tool, tool.upstream.client.call(call).await)
}

fn ended(tool: &McpTool, answered: Answered) -> Ended {
    let isolation = tool.upstream.client.isolation();
    match answered {
        Answered::Result { json, is_error } => {
            let bytes_in = u64::try_from(json.as_str().len()).unwrap_or(u64::MAX);
            let cost = tool.manifest.cost.per_call_micro_usd;
            let meta = Meta { bytes_in, ..Meta::default() };
            let (prior, model) = (None, None);
            let outcome =
                ToolOutcome::Executed(Executed { result: json, cost, meta, prior, model });
            Ended { is_error, isolation, ..outcome.into() }
        }
        // The server has spoken: to ask it the same again is for whoever asked.
        Answered::Error { failure, rpc } => {
            let outcome = ToolOutcome::Failed(failure.retryable(false));
            Ended { isolation, rpc: Some(rpc), ..outcome.into() }
        }
        Answered::NotSent(failure) => ToolOutcome::Failed(failure).into(),
        Answered::Unknown(failure) => Ended { isolation, ..ToolOutcome::Unknown(failure).into() },
    }
}
