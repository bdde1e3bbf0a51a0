//! The MCP client against real servers: over HTTP in this process, over stdio in one of their own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

mod back;
mod child;
mod hostile;
mod lists;
mod peer;
mod questions;
mod reach;
mod sessions;
mod smoke;
mod streams;

use std::sync::Arc;

use connectors::mcp::{
    Back, Call, Detached, Ended, Lane, Method, Parts, Revision, Spec, Transport, Upstream,
};
use kernel::failure::Failure;
use kernel::json::RawJson;
use kernel::values::{Digest, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

/// What is to be called, with what most calls have filled in.
struct Ask {
    method: Method,
    tool: &'static str,
    params: String,
    continuation: Option<String>,
    idempotent: bool,
    meta: Option<&'static str>,
    token: Option<&'static str>,
    lane: Lane,
    back: Arc<dyn Back>,
    cancel: CancellationToken,
}

impl Ask {
    fn tool(tool: &'static str, params: &str) -> Self {
        Self {
            method: Method::CallTool,
            tool,
            params: params.to_owned(),
            continuation: None,
            idempotent: false,
            meta: None,
            token: None,
            lane: Lane::Shared,
            back: Arc::new(Detached),
            cancel: CancellationToken::new(),
        }
    }

    fn of(method: Method, params: &str) -> Self {
        Self { method, ..Self::tool("", params) }
    }

    async fn call(self, upstream: &Upstream) -> Ended {
        let plan = Digest::of(b"plan");
        let permit = testkit::permit(plan);
        let params = RawJson::parse(&self.params).unwrap();
        let continuation = self.continuation.map(|text| RawJson::parse(&text).unwrap());
        let (meta, token) = (self.meta.map(raw), self.token.map(raw));
        let call = Call {
            permit: &permit,
            plan_digest: plan,
            now: Timestamp(0),
            method: self.method,
            tool: self.tool,
            params: &params,
            continuation: continuation.as_ref(),
            idempotent: self.idempotent,
            meta: meta.as_deref(),
            progress_token: token.as_deref(),
            lane: self.lane,
            back: self.back,
            subject: None,
            cancel: self.cancel,
        };
        upstream.call(call).await
    }
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).unwrap()
}

fn spec(transport: Transport) -> Spec {
    Spec {
        name: "up".to_owned(),
        transport,
        timeout_ms: 30_000,
        auth: Default::default(),
        revision: None,
        sandbox: None,
    }
}

fn upstream(spec: Spec) -> Upstream {
    Upstream::new(spec, Parts::default()).unwrap()
}

/// The text of a result, verbatim.
fn result(ended: Ended) -> String {
    match ended {
        Ended::Result { json, is_error: false } => json.as_str().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn value(ended: Ended) -> Value {
    serde_json::from_str(&result(ended)).unwrap()
}

fn unknown(ended: Ended) -> Failure {
    match ended {
        Ended::Unknown(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn not_sent(ended: Ended) -> Failure {
    match ended {
        Ended::NotSent(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Waits until `holds`, which other tasks bring about.
async fn until(holds: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "it never came about");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

const BOTH: [Revision; 2] = [Revision::V2025_11_25, Revision::V2026_07_28];
