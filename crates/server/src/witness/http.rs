//! The witness's routes: one to add a checkpoint, as C2SP tlog-witness has it, and what its
//! operator reads.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use http::{HeaderValue, StatusCode, header};
use kernel::limits;
use kernel::note::Checkpoint;
use kernel::tree::SIZE_MAX;
use kernel::verify::verify_checkpoint;
use kernel::witness::{AddCheckpoint, Alarm, Answer};
use ledger::keys::NativeVerifier;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::{Error, Witness};

/// What a conflict's body is, as tlog-witness says.
const SIZE_TYPE: HeaderValue = HeaderValue::from_static("text/x.tlog.size");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByStatus {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByKind {
    kind: &'static str,
}

/// What Prometheus scrapes.
pub(super) struct Metrics {
    requests: Family<ByStatus, Counter>,
    alarms: Family<ByKind, Gauge>,
}

impl Metrics {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let requests = Family::<ByStatus, Counter>::default();
        let help = "Checkpoints by the HTTP status of the answer";
        registry.register("checkpoints", help, requests.clone());
        let alarms = Family::<ByKind, Gauge>::default();
        registry.register("alarms", "Alarms that are not resolved", alarms.clone());
        Self { requests, alarms }
    }
}

/// The routes.
pub(super) fn router(witness: Arc<Witness>) -> Router {
    Router::new()
        .route("/add-checkpoint", post(add_checkpoint))
        .route("/alarms", get(alarms))
        .route("/healthz", get(|| async { answer(StatusCode::OK, JSON, r#"{"status":"ok"}"#) }))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(limits::WITNESS_REQUEST_BYTES_MAX))
        .with_state(witness)
}

fn answer(status: StatusCode, content_type: HeaderValue, body: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, content_type)], body.into()).into_response()
}

fn say(status: StatusCode, sentence: impl std::fmt::Display) -> Response {
    answer(status, TEXT, format!("{sentence}\n"))
}

/// A fault of the witness itself: nothing was cosigned.
fn fault(error: &dyn std::fmt::Display) -> Response {
    tracing::error!(%error, "the witness failed");
    say(StatusCode::INTERNAL_SERVER_ERROR, "the witness failed: nothing was cosigned")
}

async fn add_checkpoint(State(witness): State<Arc<Witness>>, body: Bytes) -> Response {
    let working = witness.clone();
    let judged = tokio::task::spawn_blocking(move || add(&working, &body)).await;
    let response = match judged {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => fault(&error),
        Err(error) => fault(&error),
    };
    let status = response.status().as_u16();
    witness.metrics.requests.get_or_create(&ByStatus { status }).inc();
    response
}

fn add(witness: &Witness, body: &[u8]) -> Result<Response, Error> {
    let request = match AddCheckpoint::parse(body) {
        Ok(request) => request,
        Err(error) => return Ok(say(StatusCode::BAD_REQUEST, error)),
    };
    let claimed = match Checkpoint::parse(request.checkpoint.text()) {
        Ok(claimed) if claimed.size <= SIZE_MAX => claimed,
        Ok(_) => return Ok(say(StatusCode::BAD_REQUEST, "no log has so many entries")),
        Err(error) => return Ok(say(StatusCode::BAD_REQUEST, error)),
    };
    let Some(keys) = witness.logs.get(&claimed.origin) else {
        return Ok(say(StatusCode::NOT_FOUND, "this witness does not watch this log"));
    };
    let signed = keys
        .iter()
        .find_map(|key| verify_checkpoint(&request.checkpoint, key, &NativeVerifier).ok());
    let Some(checkpoint) = signed else {
        let message = "no key of this log that the witness knows signed this checkpoint";
        return Ok(say(StatusCode::FORBIDDEN, message));
    };
    let added = witness.store.add(&request, &checkpoint, Witness::now())?;
    if let Some(alarm) = added.verdict.alarm {
        sound(alarm, added.new_alarm, &checkpoint, &request);
    }
    let fork = added.verdict.alarm == Some(Alarm::Fork);
    Ok(match added.verdict.answer {
        Answer::Cosign => {
            let line = witness.cosign(added.time_s, request.checkpoint.text())?;
            answer(StatusCode::OK, TEXT, line.to_string())
        }
        Answer::OldAboveNew => {
            say(StatusCode::BAD_REQUEST, "the old size is larger than the checkpoint's")
        }
        Answer::Conflict(size) => answer(StatusCode::CONFLICT, SIZE_TYPE, format!("{size}\n")),
        Answer::OtherRoot => {
            let size = checkpoint.size;
            let message = format!(
                "fork: this log has signed another root at size {size}; both checkpoints are kept"
            );
            say(StatusCode::CONFLICT, message)
        }
        Answer::BadProof if fork => say(
            StatusCode::UNPROCESSABLE_ENTITY,
            "fork: the proof shows that this tree does not continue the one cosigned before; \
             both checkpoints are kept",
        ),
        Answer::BadProof => say(
            StatusCode::UNPROCESSABLE_ENTITY,
            "the proof does not show that this tree continues the one cosigned before",
        ),
    })
}

/// Tells the operator. What is new is an error: somebody has to look at it.
fn sound(alarm: Alarm, new: bool, checkpoint: &Checkpoint, request: &AddCheckpoint) {
    let Checkpoint { origin, size, root } = checkpoint;
    let (kind, old) = (alarm.as_str(), request.old);
    if new {
        tracing::error!(kind, origin, size, %root, old, "ALARM: a log does not keep its word");
    } else {
        tracing::warn!(kind, origin, size, %root, old, "the alarm about a log stands");
    }
}

async fn alarms(State(witness): State<Arc<Witness>>) -> Response {
    let read = tokio::task::spawn_blocking(move || witness.store.alarms()).await;
    let rows = match read {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return fault(&error),
        Err(error) => return fault(&error),
    };
    let body = serde_json::json!({ "alarms": rows });
    answer(StatusCode::OK, JSON, body.to_string())
}

async fn metrics(State(witness): State<Arc<Witness>>) -> Response {
    let written = tokio::task::spawn_blocking(move || {
        for alarm in [Alarm::Fork, Alarm::Unproven] {
            let label = ByKind { kind: alarm.as_str() };
            let open = witness.store.open_alarms(alarm)?;
            witness.metrics.alarms.get_or_create(&label).set(open);
        }
        let mut text = String::new();
        encode(&mut text, &witness.registry).map_err(|error| Error::Store(error.to_string()))?;
        Ok::<_, Error>(text)
    });
    match written.await {
        Ok(Ok(text)) => answer(StatusCode::OK, METRICS, text),
        Ok(Err(error)) => fault(&error),
        Err(error) => fault(&error),
    }
}
