//! Standing by: on one database one server writes. A second has its port open, says so, and takes
//! over when the first lets go or falls silent.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use http::{HeaderValue, StatusCode, header};
use kernel::failure::{Category, Failure};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::auth;
use crate::limits;
use crate::start::Error;
use crate::stores::{Epochs, Stores};

/// What answers requests: the server once it has taken over, until then a refusal.
#[derive(Clone, Default)]
pub(crate) struct Front(Arc<OnceLock<Router>>);

impl Front {
    /// Lets the server answer from now on.
    pub(crate) fn open(&self, router: Router) {
        // Taking over happens once.
        let _first = self.0.set(router);
    }

    pub(crate) fn router(&self) -> Router {
        let front = self.clone();
        Router::new().fallback(move |request: Request| {
            let front = front.clone();
            async move {
                match front.0.get() {
                    Some(router) => router.clone().oneshot(request).await.into_response(),
                    None => refuse(&request),
                }
            }
        })
    }
}

/// The process lives, and does nothing else.
fn refuse(request: &Request) -> Response {
    if matches!(request.uri().path(), "/healthz" | "/health") {
        let json = HeaderValue::from_static("application/json");
        return (StatusCode::OK, [(header::CONTENT_TYPE, json)], r#"{"status":"ok"}"#)
            .into_response();
    }
    let message = "another server does the work: this one stands by";
    let failure = Failure::new(Category::Internal, "standby", message);
    let failure = failure.retry_after_ms(limits::STANDBY_RETRY_MS);
    let request_id = auth::request_id(request.headers());
    let mut response = auth::refuse(failure, &request_id, auth::is_grpc(request));
    response.headers_mut().insert(auth::REQUEST_ID, request_id);
    response
}

/// Waits until this server is the writer of both planes; none where it is told to stop before.
pub(crate) async fn take_over(
    stores: &Stores,
    stop: &CancellationToken,
) -> Result<Option<Epochs>, Error> {
    loop {
        for lease in &stores.leases {
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                free = lease.stand_by() => free?,
            }
        }
        match stores.acquire() {
            Ok(epochs) => return Ok(Some(epochs)),
            Err(Error::Ledger(ledger::Error::Fenced)) => {
                tracing::info!("a third server was faster: standing by");
                release(stores);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Returns when this server is not the writer of both planes any more.
pub(crate) async fn fenced(stores: &[Arc<ledger::postgres::Postgres>]) {
    match stores {
        [control, runtime] => tokio::select! {
            () = control.fenced() => {}
            () = runtime.fenced() => {}
        },
        // Files have the lock of their folder.
        _ => std::future::pending().await,
    }
}

/// Lets another server take over at once.
pub(crate) fn release(stores: &Stores) {
    for lease in stores.leases.iter().rev() {
        if let Err(error) = lease.release() {
            tracing::warn!(%error, "the lease could not be given up: a standby will wait");
        }
    }
}
