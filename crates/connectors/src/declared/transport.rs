//! What carries requests: the guarded way out, or a recording.

use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderMap, StatusCode};
use kernel::failure::{Category, Failure};

use crate::http::request::Request;
use crate::http::{Http, Progress};
use crate::tools::Fault;

/// An answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// As much of it as was wanted.
    pub(super) body: Vec<u8>,
    /// Whether there was more.
    pub(super) cut: bool,
}

/// Carries one request.
#[async_trait]
pub(super) trait Transport: Send + Sync {
    /// Sends `request` once; `progress` knows whether its host may have it.
    async fn send(&self, request: &Request, progress: &Progress) -> Result<Answer, Fault>;
}

/// The way out, through the grants and the checks of addresses.
pub(super) struct Guarded(pub(super) Http);

#[async_trait]
impl Transport for Guarded {
    async fn send(&self, request: &Request, progress: &Progress) -> Result<Answer, Fault> {
        let within = request.timeout;
        let ended = tokio::time::timeout(within, self.0.once(request, progress)).await;
        let Ok(ended) = ended else { return Err(timed_out(within, progress)) };
        let (head, body, cut) = ended?;
        Ok(Answer { status: head.status, headers: head.headers, body, cut })
    }
}

fn timed_out(within: Duration, progress: &Progress) -> Fault {
    let message = format!("no full answer within {} ms", within.as_millis());
    let failure = Failure::new(Category::Timeout, "timeout", message);
    if progress.sent() { Fault::Unknown(failure) } else { Fault::Failed(failure) }
}
