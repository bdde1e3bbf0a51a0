//! What is sent to people and programs elsewhere.

use kernel::failure::Category::{
    Auth, Internal, Network, Permanent, Permission, Timeout, Upstream, Validation,
};
use kernel::tool::FailureMode;
use serde_json::{Value, json};

use super::failures::{CHANGE, failures, mode};
use super::{millis, object};
use crate::limits;

/// How a secret that the operator named cannot be had.
fn secrets() -> Vec<FailureMode> {
    vec![
        mode(
            "secret_missing",
            Permanent,
            "the tenant has no value for the secret that the configuration names",
            "have it put: tally secret put NAME",
        ),
        mode(
            "unavailable",
            Internal,
            "it is not known for the moment which secrets there are",
            "try again in a moment",
        )
        .retryable(true),
    ]
}

pub(super) fn webhook_send() -> Value {
    let mut own = super::http_failures();
    own.retain(|mode| !matches!(mode.code.as_str(), "header_refused" | "body_refused"));
    own.extend(secrets());
    own.push(mode(
        "secret_invalid",
        Permanent,
        "the signing secret is not `whsec_` and the base64 of 24 to 64 bytes",
        "have it rotated: tally secret rotate NAME",
    ));
    own.push(mode(
        "payload_too_large",
        Validation,
        "the payload is longer than a webhook's may be",
        "send less, or a link to it",
    ));
    own.push(mode(
        "webhook_refused",
        Permanent,
        "the receiver answered with a status that is not 2xx and that no repeat changes",
        "change the URL or the payload to what the receiver accepts",
    ));
    json!({
        "description": "Sends JSON to a granted URL, signed by Standard Webhooks. Repeated \
            attempts carry the same `webhook-id`, by which the receiver drops what it has.",
        "labels": ["write", "external"],
        "idempotent": true,
        "capabilities": ["network"],
        "timeout_ms": millis(limits::HTTP_TIMEOUT),
        "input_schema": object(&["url", "payload"], &json!({
            "url": {"type": "string", "minLength": 1, "maxLength": limits::URL_BYTES_MAX},
            "payload": {"description": "Any JSON value: the body."},
            "timeout_ms": {
                "type": "integer",
                "minimum": 1,
                "maximum": millis(limits::HTTP_TIMEOUT),
                "default": millis(limits::HTTP_TIMEOUT),
            },
        })),
        "output_schema": object(&["status", "webhook_id"], &json!({
            "status": {"type": "integer", "minimum": 200, "maximum": 299},
            "webhook_id": {"type": "string"},
        })),
        "failure_modes": failures(own),
    })
}

fn addresses(description: &str) -> Value {
    json!({
        "type": "array",
        "items": {"type": "string", "minLength": 3, "maxLength": limits::MAILBOX_BYTES_MAX},
        "maxItems": limits::RECIPIENTS_MAX,
        "description": description,
    })
}

pub(super) fn email_send() -> Value {
    let body = |description: &str| json!({"type": "string", "description": description});
    let mailbox = json!({"type": "string", "minLength": 3, "maxLength": limits::MAILBOX_BYTES_MAX});
    json!({
        "description": "Sends an e-mail through the operator's server, from an address that is \
            allowed. The Message-ID follows from the action.",
        "labels": ["write", "external"],
        // What a server took it may have passed on, whatever is heard of it.
        "idempotent": false,
        "capabilities": ["network"],
        "timeout_ms": millis(limits::EMAIL_TIMEOUT),
        "input_schema": object(&["to", "subject"], &json!({
            "from": mailbox,
            "to": addresses("`name@example.com` or `Name <name@example.com>`; at least one."),
            "cc": addresses("Copies, seen by all."),
            "bcc": addresses("Copies, seen by nobody else."),
            "reply_to": mailbox,
            "subject": {"type": "string", "maxLength": limits::SUBJECT_BYTES_MAX},
            "text": body("Plain text. Give text, html or both."),
            "html": body("HTML."),
        })),
        "output_schema": object(&["message_id", "recipients"], &json!({
            "message_id": {"type": "string"},
            "recipients": {"type": "integer", "minimum": 1},
        })),
        "failure_modes": failures(email_failures()),
    })
}

fn email_failures() -> Vec<FailureMode> {
    let later = "submit the action again later";
    let operator = "have the operator look at `email` of the configuration";
    let mut own = vec![
        mode("address_invalid", Validation, "an address is malformed", CHANGE),
        mode("header_refused", Validation, "a text has a control character in it", CHANGE),
        mode("body_refused", Validation, "there is no text, or too much of it", CHANGE),
        mode("too_many_recipients", Validation, "no recipient, or too many", CHANGE),
        mode(
            "sender_not_allowed",
            Permission,
            "the configuration allows no mail from this address",
            "send from an address that is allowed, or leave `from` out",
        ),
        mode("dns_failed", Network, "the mail server's name has no address", later),
        mode("connect_failed", Network, "no connection, so nothing was sent", later),
        mode("tls_failed", Network, "no trusted TLS connection, so nothing was sent", operator),
        mode("smtp_auth_failed", Auth, "the mail server refuses user and password", operator),
        mode(
            "smtp_deferred",
            Upstream,
            "the mail server refuses for now, and has not taken the mail",
            later,
        ),
        mode(
            "smtp_refused",
            Permanent,
            "the mail server refuses the sender, a recipient or the mail, and has not taken it",
            "change what the server's code is about; no recipient got it",
        ),
        mode(
            "smtp_failed",
            Upstream,
            "the mail server broke off or said what is no SMTP before it was sent the mail",
            later,
        ),
        mode(
            "smtp_unanswered",
            Upstream,
            "the mail was sent and the server's answer to it is not known",
            "look for its Message-ID at the server, then reconcile the action",
        )
        .retryable(false),
        mode(
            "timeout",
            Timeout,
            "the mail server took too long; unknown once the mail was sent",
            "if the action failed, submit it again; if it is unknown, reconcile it",
        ),
    ];
    own.extend(secrets());
    own
}
