//! The door for deliveries: `POST /hooks/{tenant}/{trigger}`, without a credential.
//!
//! A delivery that is not signed as it should be is answered as one to a trigger that is not there,
//! whatever is wrong with it; the server's log says what. Only a signed one is read at all.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::failure::{Category, Failure};
use kernel::ids::TenantId;
use kernel::json::RawJson;
use kernel::trigger::Source;
use kernel::trigger::definition::{self, Definition};
use kernel::values::Digest;
use serde_json::{Value, json};

use super::verify::{Unbelieved, verify};
use super::{Known, dead};
use crate::auth::{REQUEST_ID, refuse};
use crate::cards;
use crate::error::{Refused, Result};
use crate::limits;
use crate::rate::Rates;
use crate::shared::Shared;

/// The bucket of all that is not believed.
const STRANGERS: &str = "strangers";
/// What is checked in place of a secret where there is no such trigger, so that its absence takes
/// as long as a wrong signature.
const NO_SECRET: &[u8] = b"there is no such trigger";

#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    rates: Arc<Rates>,
}

/// The route of deliveries.
pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let door = Door { shared, rates: Arc::default() };
    Router::new().route("/hooks/{tenant}/{trigger}", post(deliver)).with_state(door)
}

async fn deliver(
    State(door): State<Door>,
    Path((tenant, trigger)): Path<(String, String)>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let missing = HeaderValue::from_static("req");
    let request_id = parts.headers.get(REQUEST_ID).cloned().unwrap_or(missing);
    match door.take(&tenant, &trigger, &parts.headers, body).await {
        Ok(answer) => crate::oidc::private(answer),
        Err(Refused(failure)) => crate::oidc::private(refuse(failure, &request_id, false)),
    }
}

/// A delivery that is believed.
struct Delivery<'a> {
    tenant: &'a TenantId,
    known: &'a Arc<Known>,
    definition: &'a Definition,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

/// An event: under which name it starts one run, what it is called, and what it says.
pub(super) struct Event {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) body: Value,
}

/// The one answer to what is not believed.
fn nowhere() -> Refused {
    let message = "there is no such trigger, or this was not signed for it";
    Refused::new(Category::NotFound, "not_found", message)
}

fn invalid(code: &str, message: &str) -> Refused {
    Refused::new(Category::Validation, code, message)
}

/// An event that does not fit.
pub(super) fn unfit(error: definition::Error) -> Failure {
    Failure::new(Category::Validation, error.code(), error.to_string())
}

impl Door {
    async fn take(
        &self,
        tenant: &str,
        trigger: &str,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response> {
        let shared = &self.shared;
        if shared.control.doubt.is_open() {
            let message = "it is not known for the moment which triggers there are: try again";
            let failure = Failure::new(Category::Internal, "unavailable", message);
            return Err(failure.retry_after_ms(limits::DOUBT_RETRY_MS).into());
        }
        let body = read(body).await?;
        let tenant = TenantId::new(tenant).ok();
        let known = tenant.as_ref().and_then(|id| shared.triggers.find(id, trigger));
        let known = known.filter(|known| known.state.enabled);
        let (Some(tenant), Some(known)) = (&tenant, &known) else {
            let _takes_as_long = verify(Source::Github, NO_SECRET, headers, &body, shared.now());
            return Err(self.stranger());
        };
        let definition = known.definition()?;
        if let Err(why) = self.believe(tenant, definition, headers, &body)? {
            tracing::warn!(%tenant, trigger, %why, "a delivery is not believed");
            return Err(self.stranger());
        }
        let bucket = format!("{tenant}/{trigger}");
        self.rates.take(&bucket, limits::HOOKS_PER_MIN, shared.now()).map_err(|(_, wait_ms)| {
            let message = "more is delivered to this trigger than it takes";
            let failure = Failure::new(Category::RateLimited, "rate_limited", message);
            Refused(failure.retry_after_ms(wait_ms))
        })?;
        let delivery = Delivery { tenant, known, definition, headers, body: &body };
        match known.state.binding.source {
            Source::Github => self.github(&delivery).await,
            Source::Servicenow => self.servicenow(&delivery).await,
            Source::Slack => self.slack(&delivery).await,
            Source::Schedule => Err(nowhere()),
        }
    }

    /// Whether the delivery has the signature of whoever knows the secret.
    fn believe(
        &self,
        tenant: &TenantId,
        definition: &Definition,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<std::result::Result<(), Unbelieved>> {
        let shared = &self.shared;
        let Some(name) = &definition.secret else { return Ok(Err(Unbelieved::Source)) };
        let secret = match shared.secrets.reveal(tenant, name) {
            Ok(secret) => secret,
            Err(failure) if failure.category == Category::Permanent => {
                tracing::error!(%tenant, secret = name, "the secret of a trigger is gone");
                return Ok(Err(Unbelieved::Signature));
            }
            Err(failure) => return Err(failure.into()),
        };
        Ok(verify(definition.source, secret.as_bytes(), headers, body, shared.now()))
    }

    /// Refuses what is not believed, and after too much of it without a look.
    fn stranger(&self) -> Refused {
        let (per_min, now) = (limits::HOOKS_REFUSED_PER_MIN, self.shared.now());
        match self.rates.take(STRANGERS, per_min, now) {
            Ok(_) => nowhere(),
            Err((_, wait_ms)) => {
                let message = "too many deliveries that are not signed";
                let failure = Failure::new(Category::RateLimited, "rate_limited", message);
                Refused(failure.retry_after_ms(wait_ms))
            }
        }
    }

    async fn github(&self, delivery: &Delivery<'_>) -> Result<Response> {
        content_type(delivery.headers, "application/json")?;
        let name = header(delivery.headers, "x-github-event").unwrap_or_default();
        if name == "ping" {
            return Ok(answer(&json!({"pong": true})));
        }
        let body = parse(delivery.body)?;
        let event = github_event(name, body, delivery.body)?;
        self.event(delivery, event).await
    }

    async fn servicenow(&self, delivery: &Delivery<'_>) -> Result<Response> {
        content_type(delivery.headers, "application/json")?;
        let event = servicenow_event(parse(delivery.body)?)?;
        self.event(delivery, event).await
    }

    async fn slack(&self, delivery: &Delivery<'_>) -> Result<Response> {
        if content_type(delivery.headers, "application/x-www-form-urlencoded").is_ok() {
            let mut fields = form_urlencoded::parse(delivery.body);
            let payload = fields.find(|(name, _)| name == "payload");
            let (_, payload) =
                payload.ok_or_else(|| invalid("payload_missing", "the form has no `payload`"))?;
            let payload = parse(payload.as_bytes())?;
            let Delivery { tenant, known, definition, .. } = *delivery;
            known.reviewed()?;
            let said = cards::pressed(&self.shared, tenant, definition, &payload).await?;
            return Ok(match said {
                None => StatusCode::OK.into_response(),
                Some(text) => answer(&json!({
                    "response_type": "ephemeral",
                    "replace_original": false,
                    "text": text,
                })),
            });
        }
        content_type(delivery.headers, "application/json")?;
        let body = parse(delivery.body)?;
        if body.get("type").and_then(Value::as_str) == Some("url_verification") {
            let challenge = body.get("challenge").and_then(Value::as_str).unwrap_or_default();
            return Ok(answer(&json!({"challenge": challenge})));
        }
        if delivery.definition.workflow.is_none() {
            return Ok(ignored());
        }
        self.event(delivery, slack_event(body)?).await
    }

    /// Starts the run of an event, or says which run it has started before. What starts none, and
    /// would not at another time either, is kept.
    async fn event(&self, delivery: &Delivery<'_>, event: Event) -> Result<Response> {
        let Delivery { tenant, known, definition, .. } = *delivery;
        if !definition.takes(&event.name, &event.body) {
            return Ok(ignored());
        }
        let starting = {
            let (shared, tenant, known) = (self.shared.clone(), tenant.clone(), known.clone());
            // A task of its own: who delivers may hang up.
            tokio::spawn(async move { dead::take(&shared, &tenant, &known, event).await })
        };
        let run = starting.await.map_err(Refused::not_ended)??;
        Ok(answer(&json!({"run_id": run.as_str()})))
    }
}

/// What a sample body would be as an event of `source`; for a test of the trigger.
pub(super) fn sample(source: Source, name: &str, text: &str) -> Result<Event> {
    let body = parse(text.as_bytes())?;
    match source {
        Source::Github => github_event(name, body, text.as_bytes()),
        Source::Servicenow => servicenow_event(body),
        Source::Slack => slack_event(body),
        Source::Schedule => Ok(Event { id: String::new(), name: "schedule".to_owned(), body }),
    }
}

/// GitHub signs the body and no header. So the body says which event it is: one that is sent again
/// under another delivery id is the same.
fn github_event(name: &str, body: Value, bytes: &[u8]) -> Result<Event> {
    if name.is_empty() {
        return Err(invalid("event_unnamed", "the header `X-GitHub-Event` is missing"));
    }
    let name = match body.get("action").and_then(Value::as_str) {
        Some(action) => format!("{name}.{action}"),
        None => name.to_owned(),
    };
    Ok(Event { id: Digest::of(bytes).hex(), name, body })
}

fn servicenow_event(body: Value) -> Result<Event> {
    named(body, "/event_id", "/event")
}

fn slack_event(body: Value) -> Result<Event> {
    named(body, "/event_id", "/event/type")
}

/// An event whose signed body says which one it is, and what it is called.
fn named(body: Value, id: &str, name: &str) -> Result<Event> {
    let text = |at: &str| body.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let plain = |text: &String| {
        (1..=limits::EVENT_ID_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic())
    };
    match (text(id).filter(plain), text(name).filter(plain)) {
        (Some(id), Some(name)) => Ok(Event { id, name, body }),
        (None, _) => {
            let message = format!("`{id}`: 1 to 128 printable characters that tell one event");
            Err(invalid("event_id_missing", &message))
        }
        (_, None) => {
            let message = format!("`{name}`: what happened, as `incident.created`");
            Err(invalid("event_unnamed", &message))
        }
    }
}

/// The body, whole.
async fn read(body: Body) -> Result<axum::body::Bytes> {
    let reading = axum::body::to_bytes(body, limits::HOOK_BYTES_MAX);
    let read = tokio::time::timeout(limits::HOOK_READ, reading).await;
    let Ok(read) = read else {
        let message = "the body took too long to come in";
        return Err(Refused::new(Category::Timeout, "body_too_slow", message));
    };
    read.map_err(|_| invalid("body_too_large", "the body has more than 1 MiB, or broke off"))
}

fn parse(bytes: &[u8]) -> Result<Value> {
    let not_json = |why: String| invalid("json_syntax", &format!("the body: {why}"));
    let raw = serde_json::from_slice(bytes).map_err(|error| not_json(error.to_string()))?;
    let raw = RawJson::result(raw).map_err(|error| not_json(error.to_string()))?;
    Ok(raw.to_value())
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

fn content_type(headers: &HeaderMap, expected: &str) -> Result<()> {
    let given = header(headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    match essence.eq_ignore_ascii_case(expected) {
        true => Ok(()),
        false => Err(invalid("content_type", &format!("send the body as {expected}"))),
    }
}

fn answer(value: &Value) -> Response {
    axum::Json(value).into_response()
}

/// The answer to an event that starts nothing.
fn ignored() -> Response {
    answer(&json!({"ignored": true}))
}
