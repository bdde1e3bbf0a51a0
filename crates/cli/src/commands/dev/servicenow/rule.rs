//! The business rule "after insert" on incidents: it calls out, signed, with nothing but ids. Where
//! the other side does not answer it tries again, as the script in the guide does.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde_json::json;

use super::records::{Record, field};
use super::script::Webhook;
use crate::commands::dev::locked;
use crate::commands::dev::post::{Call, now_s, signature};

/// How often it is tried, and the first wait between two; each is twice as long as the one before.
const TRIES: u32 = 8;
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// Deliveries that are remembered.
const KEPT: usize = 10_000;

/// An attempt to deliver an event.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Delivery {
    event: String,
    number: String,
    attempt: u32,
    /// The status that came back, or none, and what came with it.
    status: Option<u16>,
    answer: Option<String>,
    error: Option<String>,
}

/// The rule.
#[derive(Debug)]
pub(super) struct Rule {
    webhook: Mutex<Option<Webhook>>,
    deliveries: Mutex<Vec<Delivery>>,
}

impl Rule {
    pub(super) fn new(webhook: Option<Webhook>) -> Arc<Self> {
        Arc::new(Self { webhook: Mutex::new(webhook), deliveries: Mutex::default() })
    }

    /// Has the rule call somebody else from now on.
    pub(super) fn set(&self, webhook: Option<Webhook>) {
        *locked(&self.webhook) = webhook;
    }

    /// What was tried so far.
    pub(super) fn deliveries(&self) -> Vec<Delivery> {
        locked(&self.deliveries).clone()
    }

    /// Tells of an incident in the background. The event has the id of the record and of the
    /// change, so that a repetition is the same event.
    pub(super) fn created(self: &Arc<Self>, record: &Record) {
        let Some(webhook) = locked(&self.webhook).clone() else { return };
        let (sys_id, number) = (field(record, "sys_id").to_owned(), field(record, "number"));
        let event = format!("{sys_id}.{}", field(record, "sys_mod_count"));
        let body = json!({
            "event_id": event,
            "event": "incident.created",
            "table": "incident",
            "sys_id": sys_id,
            "number": number,
            "priority": field(record, "priority"),
            "occurred_at": field(record, "sys_created_on"),
        });
        let (rule, number) = (self.clone(), number.to_owned());
        tokio::spawn(async move {
            rule.deliver(&webhook, &body.to_string(), &event, &number).await;
        });
    }

    async fn deliver(&self, webhook: &Webhook, body: &str, event: &str, number: &str) {
        let mut wait = FIRST_WAIT;
        for attempt in 1..=TRIES {
            let at = now_s().to_string();
            let signed = signature(&webhook.secret, &format!("{at}.{body}"));
            let headers = vec![("x-tally-timestamp", at), ("x-tally-signature", signed)];
            let (url, kind) = (webhook.url.clone(), "application/json");
            let (method, body) = (Method::POST, body.to_owned());
            let sent = Call { method, url, kind, headers, body }.send().await;
            let (status, answer, error) = match sent {
                Ok((status, answer)) => (Some(status), Some(answer), None),
                Err(error) => (None, None, Some(error)),
            };
            let (event, number) = (event.to_owned(), number.to_owned());
            self.remember(Delivery { event, number, attempt, status, answer, error });
            // A refusal stays one; what is too much, or broken, may pass.
            if status.is_some_and(|status| status < 500 && status != 429) {
                return;
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
    }

    fn remember(&self, delivery: Delivery) {
        let mut deliveries = locked(&self.deliveries);
        if deliveries.len() < KEPT {
            deliveries.push(delivery);
        }
    }
}
