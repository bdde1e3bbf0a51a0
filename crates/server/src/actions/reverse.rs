//! Undoing an action: what was there before is kept sealed with the outcome, and put back by
//! another action of the same tool, which is decided and approved like every action.

use std::sync::Arc;

use connectors::Outcome as ToolOutcome;
use kernel::action::{Action, Status};
use kernel::failure::{Category, Failure};
use kernel::ids::{ActionId, ToolId};
use kernel::json::RawJson;
use kernel::machine::{Kind, Refusal, State};
use kernel::receipt::LogId;
use kernel::reservation;
use kernel::values::{Digest, Timestamp};
use ledger::store::{Class, SideRow};
use prost::Message;
use proto::actions::{Claims as WireClaims, ReverseActionRequest};
use proto::types::Json;
use serde::{Deserialize, Serialize};

use super::prepare::{Asked, Claims, find_tool};
use super::service::{ActionsApi, Patience, payer};
use super::submit::{ENDPOINT, Keyed, find};
use super::view::Answer;
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};
use crate::toolbox::Found;

/// The part of an action's content that it is undone with.
const PRIOR: &str = "prior";

/// What an action is undone with.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Prior {
    /// What it was called with.
    params: RawJson,
    /// What the fields that it wrote were before.
    prior: RawJson,
}

/// What there was before, where an attempt left that.
pub(super) fn prior_of(outcome: &ToolOutcome) -> Option<RawJson> {
    match outcome {
        ToolOutcome::Executed(done) => done.prior.clone(),
        _ => None,
    }
}

/// The row that keeps what an action is undone with.
pub(super) async fn row(
    shared: &Shared,
    log: &LogId,
    id: &ActionId,
    (params, prior): (&RawJson, RawJson),
    now: Timestamp,
) -> Result<SideRow> {
    let kept = Prior { params: params.clone(), prior };
    let text = serde_json::to_vec(&kept).map_err(Refused::internal)?;
    let tenant = log.tenant();
    Ok(shared.vault.seal(tenant, id.as_str(), PRIOR, Class::Prior, &text, now).await?)
}

/// The parameters of the call that puts back what was there, as the tool is now.
fn undoing(shared: &Shared, caller: &Caller, tool: &ToolId, kept: &Prior) -> Result<RawJson> {
    let params = match find_tool(shared, &caller.tenant, tool)? {
        Found::Http(tool) => tool.offered.reversal(&kept.params, &kept.prior),
        _ => None,
    };
    params.ok_or_else(|| Refusal::NotReversible.into())
}

/// Whether an action can be undone, as far as its state tells.
fn check(caller: &Caller, action: &Action) -> Result<()> {
    let kept = action.outcome.as_ref().is_some_and(|outcome| outcome.prior.is_some());
    if action.status != Status::Executed || !kept {
        return Err(Refusal::NotReversible.into());
    }
    if let Some(reversal) = &action.reversal {
        let by = reversal.by.clone();
        let refusal = match reversal.done {
            true => Refusal::AlreadyReversed { by },
            false => Refusal::ReversalPending { by },
        };
        return Err(refusal.into());
    }
    if action.request.environment != caller.environment {
        let own = action.request.environment.as_str();
        let message = format!("the action was in `{own}`: undo it with a credential for that");
        return Err(Refused::new(Category::Permission, "credential_binding", message));
    }
    Ok(())
}

/// The action that the same request made before, under the caller's idempotency key.
fn made_before(shared: &Shared, caller: &Caller, body: Digest) -> Result<Option<ActionId>> {
    let now = shared.now();
    let Some((key, input)) = caller.reserve(ENDPOINT, body, "", now) else { return Ok(None) };
    let held = match shared.ledger.read(&caller.log(), Kind::Idempotency, &key)? {
        Some(State::Reservation(held)) => Some(held),
        _ => None,
    };
    match reservation::step(held.as_ref(), input, now) {
        Err(Refusal::Duplicate { target }) => {
            ActionId::new(target).map(Some).map_err(Refused::internal)
        }
        Err(refusal) => Err(refusal.into()),
        Ok(_) => Ok(None),
    }
}

/// Undoes an action by another one, and waits for its end.
pub(super) async fn reverse(
    api: &ActionsApi,
    caller: &Caller,
    mut wire: ReverseActionRequest,
) -> Result<Answer> {
    let shared = &api.0;
    let patience = Patience::new(wire.wait_ms.take())?;
    if wire.reason.len() > limits::TEXT_BYTES_MAX {
        return Err(Refused::invalid("reason: at most 2000 characters"));
    }
    let body = Digest::of(&[b"reverse\n", wire.encode_to_vec().as_slice()].concat());
    let action = find(shared, caller, &wire.action_id)?;
    if let Some(id) = made_before(shared, caller, body)? {
        let made = find(shared, caller, id.as_str())?;
        return api.wait(caller, Answer::new(made, Arc::default()), patience).await;
    }
    check(caller, &action)?;
    let id = action.id.as_str();
    let Some(kept) = shared.vault.open(caller.tenant.as_str(), id, PRIOR)? else {
        let message = "what was there before was kept for its time and is deleted";
        return Err(Refused(Failure::new(Category::Conflict, "prior_expired", message)));
    };
    let kept: Prior = serde_json::from_slice(&kept).map_err(Refused::internal)?;
    let claims = (!wire.reason.is_empty()).then(|| rationale(&wire.reason)).transpose()?;
    let asked = Asked {
        tool: action.request.tool.clone(),
        params: undoing(shared, caller, &action.request.tool, &kept)?,
        claims: Claims::new(claims)?,
        account: payer(caller, &wire.account_id)?,
        through: None,
        under: None,
        step: None,
        reverses: Some(action.id.clone()),
    };
    api.carry_out(caller, asked, Keyed::action(body), patience).await
}

/// Why, for those who approve it.
fn rationale(reason: &str) -> Result<WireClaims> {
    let extra = Json::of(&serde_json::json!({ "rationale": reason })).map_err(Refused::internal)?;
    Ok(WireClaims { extra: Some(extra), ..WireClaims::default() })
}
