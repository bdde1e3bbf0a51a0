//! The page of one approval.

use std::collections::BTreeMap;

use axum::response::Response;
use http::StatusCode;
use kernel::approval::{Approval, Status};
use kernel::failure::Failure;
use kernel::ids::ApprovalId;
use kernel::principal::PrincipalKind;
use proto::approvals::{Approval as WireApproval, Choice, DecideApprovalRequest};
use serde_json::Value;

use super::html::{entry, escape, page, plain};
use crate::shared::Shared;

/// For whom is not logged in: the same whether or not there is such an approval.
pub(super) fn stranger(shared: &Shared, id: &ApprovalId) -> Response {
    let names = shared.config.oidc.iter().map(|provider| provider.name.as_str());
    let logins: String = names
        .map(|name| {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("provider", name)
                .append_pair("return_to", &format!("/approvals/{id}"))
                .finish();
            let (query, name) = (escape(&query), escape(name));
            format!("<p><a href=\"/auth/login?{query}\">Log in with {name}</a></p>")
        })
        .collect();
    let body = format!(
        "<p>Who may see this approval sees it after logging in.</p>{logins}\
         <p>Or decide it from a terminal, with a key of your own:</p>\
         <pre>tally approve {id}\ntally reject {id}</pre>"
    );
    page(StatusCode::UNAUTHORIZED, "Approval", &body)
}

/// For whom it is not, or where there is none.
pub(super) fn none(logged_in: bool) -> Response {
    let body = "<p>There is no such approval, or it is not for you to see.</p>";
    // To strangers an id of the wrong form is no more than one of the right.
    let status = if logged_in { StatusCode::NOT_FOUND } else { StatusCode::UNAUTHORIZED };
    page(status, "Approval", body)
}

/// The approval, and a form where the visitor may decide it.
pub(super) fn shown(
    approval: &Approval,
    wire: &WireApproval,
    refusal: Option<String>,
    token: &str,
    said: Option<&Failure>,
) -> Response {
    let mut body = String::new();
    if let Some(said) = said {
        body.push_str(&format!("<p class=said>{}</p>", escape(&said.message)));
    }
    body.push_str(&facts(approval, wire));
    if approval.status == Status::Requested {
        body.push_str(&match refusal {
            None => form(wire, token),
            Some(refusal) => format!("<p>You cannot approve this: {}.</p>", escape(&refusal)),
        });
    }
    body.push_str(&format!(
        "<p>From a terminal: <code>tally approve {0}</code> or <code>tally reject {0}</code></p>",
        escape(&wire.approval_id)
    ));
    let status = if said.is_some() { StatusCode::CONFLICT } else { StatusCode::OK };
    page(status, &format!("Approval: {}", approval.status.as_str()), &body)
}

fn facts(approval: &Approval, wire: &WireApproval) -> String {
    let code = |text: &str| format!("<code>{}</code>", plain(text));
    let document = wire.action_document.as_ref();
    let document: Option<Value> = document.and_then(|json| json.decode().ok());
    let member = |name: &str| {
        let value = document.as_ref().and_then(|document| document.get(name));
        let value = value.filter(|value| **value != Value::Object(serde_json::Map::new()));
        value.and_then(|value| serde_json::to_string_pretty(value).ok()).unwrap_or_default()
    };
    let block = |text: String| match text.as_str() {
        "" => text,
        text => format!("<pre>{}</pre>", plain(text)),
    };
    let risk = wire.risk.as_ref().map_or_else(String::new, |risk| {
        let signals = risk.signals.join(", ");
        escape(&format!("{} ({}): {signals}", risk.tier, risk.score))
    });
    let actors = approval.request.actors.actors().iter().map(|actor| {
        let kind = match actor.kind {
            PrincipalKind::User => "user",
            PrincipalKind::Agent => "agent",
            PrincipalKind::Service => "service",
        };
        format!("{kind} {}", actor.id)
    });
    let chain = actors.collect::<Vec<_>>().join(" → ");
    let expires = wire.expires_at.as_ref().map(ToString::to_string).unwrap_or_default();
    let parameters = match member("params") {
        text if text.is_empty() && document.is_some() => "{}".to_owned(),
        text => text,
    };
    [
        "<dl>".to_owned(),
        entry("Tool", &code(&wire.tool)),
        entry("Parameters", &block(parameters)),
        entry("Goes on with", &block(member("continuation"))),
        entry("What the requester says of it", &block(member("claims"))),
        entry("Asked for by", &escape(&chain)),
        entry("Environment", &escape(&wire.environment)),
        entry("Risk", &risk),
        entry("Because", &escape(&[wire.rules.join(", "), wire.reasons.join(", ")].join(": "))),
        entry("Who must approve", &stages(wire)),
        entry("So far", &votes(wire)),
        entry("Until", &escape(&expires)),
        entry("Plan", &code(&wire.plan_digest)),
        entry("Action", &code(&wire.action_id)),
        "</dl>".to_owned(),
    ]
    .concat()
}

fn stages(wire: &WireApproval) -> String {
    let stages = wire.stages.iter().map(|stage| {
        let roles = stage.roles.iter().map(|role| format!("role {role}"));
        let who: Vec<String> = roles.chain(stage.approvers.iter().cloned()).collect();
        let who =
            if who.is_empty() { "anybody who may approve".to_owned() } else { who.join(", ") };
        let name = if stage.name.is_empty() { String::new() } else { format!("{}: ", stage.name) };
        escape(&format!("{name}{} of {who} ({} so far)", stage.quorum, stage.approvals))
    });
    stages.collect::<Vec<_>>().join("<br>")
}

fn votes(wire: &WireApproval) -> String {
    let votes = wire.approvals.iter().map(|vote| {
        let said = match vote.decision() {
            Choice::Approve => "approved",
            _ => "rejected",
        };
        escape(&format!("{} {said}", vote.principal_id))
    });
    votes.collect::<Vec<_>>().join("<br>")
}

fn form(wire: &WireApproval, token: &str) -> String {
    let code = match wire.step_up_required {
        true => {
            "<label>Code of your second factor <input name=totp_code inputmode=numeric \
                 autocomplete=one-time-code pattern=\"[0-9]{6}\" maxlength=6></label>"
        }
        false => "",
    };
    format!(
        "<form method=post action=\"/approvals/{}\">\
         <input type=hidden name=token value=\"{}\">\
         <input type=hidden name=plan_digest value=\"{}\">\
         <label>Reason <input name=reason maxlength=2000 size=60></label>{code}\
         <button name=decision value=approve>Approve</button>\
         <button name=decision value=reject>Reject</button></form>",
        escape(&wire.approval_id),
        escape(token),
        escape(&wire.plan_digest),
    )
}

/// What a form says.
pub(super) fn decision(id: &ApprovalId, form: &BTreeMap<String, String>) -> DecideApprovalRequest {
    let field = |name: &str| form.get(name).cloned().unwrap_or_default();
    let decision = match field("decision").as_str() {
        "approve" => Choice::Approve,
        "reject" => Choice::Reject,
        _ => Choice::Unspecified,
    };
    DecideApprovalRequest {
        approval_id: id.to_string(),
        plan_digest: field("plan_digest"),
        decision: decision.into(),
        reason: field("reason"),
        totp_code: field("totp_code"),
        ..DecideApprovalRequest::default()
    }
}
