//! Posting cards and changing them, as actions.
//!
//! Slack has no idempotency keys, so an action that posts is never repeated by itself: one whose
//! end nobody knows stays `unknown`, and another card is posted that says so. Which action it
//! is follows from the card's state alone: a crash at any point leads back to it.

use std::sync::Arc;

use kernel::action::{Action, FailureCode, Status};
use kernel::approval;
use kernel::card::{Card, Face, Input, Message};
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::values::Digest;
use serde_json::{Value, json};

use super::{Subject, blocks, change, wait_for};
use crate::actions::{ActionsApi, Answer, Asked, Claims, ENDPOINT, Keyed, Patience, parse_json};
use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::{Caller, Shared};
use crate::triggers;

/// The operations of a connector for Slack that cards need.
pub(super) const POST: &str = "post_approval_request";
pub(super) const UPDATE: &str = "update_message";
pub(super) const TELL: &str = "post_ephemeral";

/// The permission that the service must have.
const SUBMIT: &str = "actions:submit";

/// Posts a card.
pub(super) async fn post(
    shared: &Arc<Shared>,
    subject: &Subject<'_>,
    card: &Card,
    face: Face,
) -> Result<bool> {
    let id = &card.approval;
    let key = nth(format!("card:{id}"), card.missed);
    let caller = match caller(shared, subject) {
        Ok(caller) => caller,
        Err(Refused(failure)) => return refused(shared, subject, card, failure).await,
    };
    if face.is_last() && asked_before(shared, &caller, &key)?.is_none() {
        return change(shared, subject.log, id, Input::Withdraw {}).await;
    }
    let shown = blocks::compose(shared, subject, card.in_doubt)?;
    let params = json!({
        "channel": subject.slack.channel,
        "text": shown.text,
        "blocks": shown.blocks,
        "approval_id": id,
    });
    let answer = match act(shared, &caller, tool(subject, POST)?, &params, key).await {
        Ok(answer) => answer,
        Err(Refused(failure)) => return refused(shared, subject, card, failure).await,
    };
    let message = posted(&answer);
    match (answer.action.status, message) {
        (Status::Executed, Some(message)) => {
            let action = answer.action.id;
            // Whatever came to be since the action was asked for is shown next.
            let face = Face { status: approval::Status::Requested, votes: 0 };
            change(shared, subject.log, id, Input::Post { action, message, face }).await
        }
        (Status::Executed, None) => {
            let code =
                FailureCode { code: "card_answer_unread".to_owned(), category: Category::Upstream };
            miss(shared, subject, card, (Some(&answer.action), code, true), None).await
        }
        (status, _) if !status.is_settled() => {
            wait_for(shared, subject, card, &answer.action.id).await
        }
        _ => ended(shared, subject, card, &answer).await,
    }
}

/// Changes a card to what its approval has become.
pub(super) async fn update(
    shared: &Arc<Shared>,
    subject: &Subject<'_>,
    card: &Card,
    message: &Message,
    face: Face,
) -> Result<bool> {
    let id = &card.approval;
    let (status, votes) = (face.status.as_str(), face.votes);
    let key = nth(format!("card:{id}:{status}:{votes}"), card.missed);
    let caller = match caller(shared, subject) {
        Ok(caller) => caller,
        Err(Refused(failure)) => return refused(shared, subject, card, failure).await,
    };
    let shown = blocks::compose(shared, subject, false)?;
    let params = json!({
        "channel": message.channel,
        "ts": message.ts,
        "text": shown.text,
        "blocks": shown.blocks,
    });
    let answer = match act(shared, &caller, tool(subject, UPDATE)?, &params, key).await {
        Ok(answer) => answer,
        Err(Refused(failure)) => return refused(shared, subject, card, failure).await,
    };
    match answer.action.status {
        Status::Executed => {
            let action = answer.action.id;
            change(shared, subject.log, id, Input::Show { action, face }).await
        }
        status if !status.is_settled() => wait_for(shared, subject, card, &answer.action.id).await,
        _ => ended(shared, subject, card, &answer).await,
    }
}

/// Tells one person something in the channel, where the connector can. What cannot be told is in
/// the answer to what they pressed all the same.
pub(super) async fn tell(
    shared: &Arc<Shared>,
    caller: &Caller,
    instance: &str,
    params: &Value,
    key: String,
) {
    let told = match ToolId::new(format!("{instance}.{TELL}")) {
        Ok(tool) if crate::toolbox::find(shared, &caller.tenant, &tool).is_some() => {
            act(shared, caller, tool, params, key).await.map(drop)
        }
        _ => Ok(()),
    };
    if let Err(Refused(error)) = told {
        tracing::warn!(%error, "a person could not be told what came of their answer");
    }
}

/// The service that posts.
fn caller(shared: &Shared, subject: &Subject<'_>) -> Result<Caller> {
    let caller = triggers::service(shared, tenant(subject)?, subject.known.definition()?)?;
    if !caller.may(SUBMIT) {
        let message = format!("the service of this trigger lacks the permission `{SUBMIT}`");
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    Ok(caller)
}

fn tenant<'a>(subject: &Subject<'a>) -> Result<&'a TenantId> {
    match subject.log {
        LogId::Workspace(tenant, _) => Ok(tenant),
        _ => Err(Refused::internal("a card outside of a workspace")),
    }
}

fn tool(subject: &Subject<'_>, operation: &str) -> Result<ToolId> {
    let id = format!("{}.{operation}", subject.slack.instance);
    ToolId::new(id).map_err(Refused::internal)
}

/// The key of the try after so many that came to nothing.
fn nth(key: String, missed: u32) -> String {
    if missed == 0 { key } else { format!("{key}:{}", missed.saturating_add(1)) }
}

/// What tells a request from another under the same key: nothing does, the key says it all.
fn body(key: &str) -> Digest {
    Digest::of(key.as_bytes())
}

/// Whether an action was asked for under this key.
fn asked_before(shared: &Shared, caller: &Caller, key: &str) -> Result<Option<String>> {
    let caller = caller.clone().once(key.to_owned());
    let Some((id, _)) = caller.reserve(ENDPOINT, body(key), "", shared.now()) else {
        return Ok(None);
    };
    match shared.ledger.read(&caller.log(), Kind::Idempotency, &id)? {
        Some(State::Reservation(held)) => Ok(Some(held.target)),
        _ => Ok(None),
    }
}

/// Asks for an action, once for each key, and waits for a while.
async fn act(
    shared: &Arc<Shared>,
    caller: &Caller,
    tool: ToolId,
    params: &Value,
    key: String,
) -> Result<Answer> {
    let asked = Asked {
        tool,
        params: parse_json("params", &params.to_string())?,
        claims: Claims::new(None)?,
        account: caller.account.clone(),
        through: None,
        under: None,
        step: None,
        reverses: None,
    };
    let keyed = Keyed::action(body(&key));
    let caller = caller.clone().once(key);
    let patience = Patience::new(None)?;
    ActionsApi(shared.clone()).carry_out(&caller, asked, keyed, patience).await
}

/// Where a card was posted.
fn posted(answer: &Answer) -> Option<Message> {
    let result = answer.body.as_ref()?.answered()?.to_value();
    let text = |name: &str| result.get(name).and_then(Value::as_str).map(str::to_owned);
    Some(Message { channel: text("channel")?, ts: text("ts")? })
}

/// An action that could not even be asked for.
async fn refused(
    shared: &Shared,
    subject: &Subject<'_>,
    card: &Card,
    failure: Failure,
) -> Result<bool> {
    if failure.category == Category::Internal || failure.code == "decision_stale" {
        return Err(failure.into());
    }
    let code = FailureCode { code: failure.code, category: failure.category };
    miss(shared, subject, card, (None, code, false), failure.retry_after_ms).await
}

/// An action that did not succeed, or of which nobody knows.
async fn ended(
    shared: &Shared,
    subject: &Subject<'_>,
    card: &Card,
    answer: &Answer,
) -> Result<bool> {
    let action = &answer.action;
    let known = action.outcome.as_ref().and_then(|outcome| outcome.failure.clone());
    let other = || FailureCode {
        code: format!("action_{}", action.status.as_str()),
        category: Category::PolicyDenied,
    };
    let in_doubt = action.status == Status::Unknown && card.message.is_none();
    let failure = answer.body.as_ref().and_then(|body| body.failure());
    let wait_ms = failure.and_then(|failure| failure.retry_after_ms);
    let code = known.unwrap_or_else(other);
    miss(shared, subject, card, (Some(action), code, in_doubt), wait_ms).await
}

/// Notes that a try came to nothing, and when the next one is.
async fn miss(
    shared: &Shared,
    subject: &Subject<'_>,
    card: &Card,
    (action, failure, in_doubt): (Option<&Action>, FailureCode, bool),
    wait_ms: Option<u64>,
) -> Result<bool> {
    let tries = card.missed.saturating_add(1);
    let own = limits::CARD_RETRY_MS.saturating_mul(1_i64.checked_shl(tries).unwrap_or(i64::MAX));
    let wanted = wait_ms.and_then(|ms| i64::try_from(ms).ok()).unwrap_or(0);
    let retry_at = shared.now().plus_millis(own.max(wanted));
    let retry_at = Some(retry_at).filter(|_| tries < limits::CARD_TRIES_MAX);
    let (approval, code) = (&card.approval, &failure.code);
    match retry_at {
        Some(_) => tracing::warn!(%approval, code, "a card was not posted or changed"),
        None => tracing::error!(%approval, code, "a card is given up"),
    }
    let action = action.map(|action| action.id.clone());
    let input = Input::Miss { action, failure, in_doubt, retry_at };
    change(shared, subject.log, &card.approval, input).await
}
