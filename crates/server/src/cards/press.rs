//! What people press on a card: their decision, by the same door as every other.

use std::sync::Arc;

use kernel::failure::{Category, Failure};
use kernel::ids::{ApprovalId, TenantId};
use kernel::principal::PrincipalKind;
use kernel::trigger::definition::{Definition, Slack, is_slack_user, slack_issuer};
use kernel::values::Digest;
use proto::approvals::{Choice, DecideApprovalRequest};
use serde_json::{Value, json};

use super::blocks::{APPROVE, REJECT, page};
use super::post;
use crate::approvals::ApprovalsApi;
use crate::error::{Refused, Result};
use crate::oidc;
use crate::shared::{Caller, Shared};
use crate::triggers;

/// The permission to decide approvals.
const DECIDE: &str = "approvals:decide";

/// A button that somebody pressed.
struct Pressed {
    user: String,
    choice: Choice,
    approval: ApprovalId,
    plan: Digest,
    /// Slack's own name for this press.
    occasion: String,
}

/// Carries out what somebody pressed. What is to be said to them alone, if anything.
pub(crate) async fn pressed(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    definition: &Definition,
    payload: &Value,
) -> Result<Option<String>> {
    let Some(slack) = &definition.slack else { return Ok(None) };
    let Some(pressed) = read(slack, payload)? else { return Ok(None) };
    let said = match decide(shared, tenant, definition, slack, &pressed).await {
        Ok(()) => return Ok(None),
        Err(Refused(failure)) if passes(&failure) => return Err(failure.into()),
        Err(Refused(failure)) => sentence(shared, &pressed, &failure),
    };
    tell(shared, tenant, definition, slack, &pressed, &said);
    Ok(Some(said))
}

/// Whether the same may go at another time: Slack shows its person that it did not.
fn passes(failure: &Failure) -> bool {
    failure.category == Category::Internal || failure.retryable
}

/// The button of ours that was pressed, if one was.
fn read(slack: &Slack, payload: &Value) -> Result<Option<Pressed>> {
    let text = |at: &str| payload.pointer(at).and_then(Value::as_str).unwrap_or_default();
    if text("/type") != "block_actions" {
        return Ok(None);
    }
    let choice = match text("/actions/0/action_id") {
        APPROVE => Choice::Approve,
        REJECT => Choice::Reject,
        _ => return Ok(None),
    };
    let invalid = |message: &str| Refused::new(Category::Validation, "payload_invalid", message);
    let team =
        if text("/user/team_id").is_empty() { text("/team/id") } else { text("/user/team_id") };
    if team != slack.team {
        return Err(invalid("the person is of another team"));
    }
    let user = text("/user/id");
    if !is_slack_user(user) {
        return Err(invalid("the payload names no person"));
    }
    let value = text("/actions/0/value").split_once(':');
    let value =
        value.and_then(|(id, plan)| Some((ApprovalId::new(id).ok()?, Digest::parse(plan)?)));
    let (approval, plan) = value.ok_or_else(|| invalid("the button has no value of ours"))?;
    let occasion = format!("{}:{}", text("/trigger_id"), text("/actions/0/action_ts"));
    Ok(Some(Pressed { user: user.to_owned(), choice, approval, plan, occasion }))
}

async fn decide(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    definition: &Definition,
    slack: &Slack,
    pressed: &Pressed,
) -> Result<()> {
    if shared.control.directory.suspended(tenant) {
        return Err(Refused(crate::credentials::suspended()));
    }
    let caller = person(shared, tenant, definition, slack, &pressed.user).await?;
    if !caller.may(DECIDE) {
        let message = "your roles do not let you decide this";
        return Err(Refused::new(Category::Permission, "permission_denied", message));
    }
    let wire = DecideApprovalRequest {
        approval_id: pressed.approval.to_string(),
        plan_digest: pressed.plan.to_string(),
        decision: pressed.choice.into(),
        ..DecideApprovalRequest::default()
    };
    let deciding = {
        let shared = shared.clone();
        // A task of its own: Slack hangs up after three seconds.
        tokio::spawn(async move { ApprovalsApi(shared).decide(&caller, wire).await.map(drop) })
    };
    deciding.await.map_err(Refused::internal)?
}

/// The principal that a person of Slack is here.
async fn person(
    shared: &Shared,
    tenant: &TenantId,
    definition: &Definition,
    slack: &Slack,
    user: &str,
) -> Result<Caller> {
    let stranger = || {
        let message = format!(
            "nobody here has your Slack user: an owner runs `tally principal link ID --provider \
             slack:{} --subject {user}`",
            slack.team
        );
        Refused::new(Category::Permission, "identity_unknown", message)
    };
    let issuer = slack_issuer(&slack.team).ok_or_else(stranger)?;
    let principal = oidc::principal_of(shared, tenant, &issuer, user).await?;
    let principal = principal.filter(|principal| principal.kind == PrincipalKind::User);
    let principal = principal.ok_or_else(stranger)?;
    let (workspace, environment) = (definition.workspace.clone(), definition.environment.clone());
    Ok(Caller::new(tenant.clone(), workspace, environment, &principal))
}

/// What is said to who pressed, where that was not carried out.
fn sentence(shared: &Shared, pressed: &Pressed, failure: &Failure) -> String {
    let id = &pressed.approval;
    let here = ["step_up_required", "step_up_not_enrolled", "signature_required"];
    if here.contains(&failure.code.as_str()) {
        return format!(
            "Not decided: {}. Slack cannot ask you for that: decide at {} or with `tally approve \
             {id}`.",
            failure.message,
            page(shared, id),
        );
    }
    format!("Not decided: {}.", failure.message)
}

/// Says it in the channel too, to them alone: Slack shows them nothing of the answer itself.
fn tell(
    shared: &Arc<Shared>,
    tenant: &TenantId,
    definition: &Definition,
    slack: &Slack,
    pressed: &Pressed,
    said: &str,
) {
    let Ok(caller) = triggers::service(shared, tenant, definition) else { return };
    let params = json!({"channel": slack.channel, "user": pressed.user, "text": said});
    let occasion =
        Digest::of([&pressed.user, &pressed.occasion].map(String::as_str).join("\n").as_bytes());
    let key = format!("card:{}:told:{}", pressed.approval, occasion.hex());
    let (shared, instance) = (shared.clone(), slack.instance.clone());
    shared.running.clone().spawn(async move {
        post::tell(&shared, &caller, &instance, &params, key).await;
    });
}
