//! One call: what is asked for, for whom, and how it ends.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use kernel::failure::Failure;
use kernel::json::RawJson;
use kernel::permit::Permit;
use kernel::values::{Digest, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use super::auth::Subject;

/// An error of JSON-RPC, as it came or as it goes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RpcError {
    /// Its code.
    pub code: i64,
    /// A sentence. It is content: it belongs in no log and no receipt.
    pub message: String,
    /// More, as raw JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl RpcError {
    /// An error without data.
    pub fn new(code: i64, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), data: None }
    }

    /// There is no such method, or none here.
    pub fn method_not_found(method: &str) -> Self {
        Self::new(-32601, format!("the method {method} is not offered here"))
    }
}

/// The caller's side of one call.
#[async_trait]
pub trait Back: Send + Sync {
    /// The capabilities that the client declared (an object with sampling, elicitation, roots), or
    /// nothing: nobody can be asked.
    fn capabilities(&self) -> Option<&RawValue>;

    /// Whether the client itself handles `input_required`: it is handed through, nobody is asked.
    fn rounds(&self) -> bool;

    /// Asks the client `sampling/createMessage`, `elicitation/create` or `roots/list`, and gives
    /// the result that goes to the upstream.
    async fn ask(&self, method: &str, params: &RawValue) -> Result<Box<RawValue>, RpcError>;

    /// Tells the client `notifications/progress` (with its own progress token restored),
    /// `notifications/message` and the like. Must not block.
    fn notify(&self, method: &str, params: &RawValue);
}

/// Nobody: the caller is not there any more.
#[derive(Clone, Copy, Debug)]
pub struct Detached;

#[async_trait]
impl Back for Detached {
    fn capabilities(&self) -> Option<&RawValue> {
        None
    }

    fn rounds(&self) -> bool {
        false
    }

    async fn ask(&self, method: &str, _params: &RawValue) -> Result<Box<RawValue>, RpcError> {
        Err(RpcError::method_not_found(method))
    }

    fn notify(&self, _method: &str, _params: &RawValue) {}
}

/// Over which connection a call goes.
#[derive(Clone, Debug)]
pub enum Lane {
    /// The one for all; over it nobody can be asked.
    Shared,
    /// One of its own.
    Session(SessionLane),
}

/// A connection for one session of a client. It matters to upstreams of 2025-11-25 alone: a
/// stateless upstream is told the capabilities with each request.
#[derive(Clone, Debug)]
pub struct SessionLane {
    /// Tells lanes apart.
    pub id: String,
    /// The client's `clientInfo`.
    pub client: Box<RawValue>,
    /// What the client can be asked.
    pub capabilities: Box<RawValue>,
}

impl Lane {
    /// Its id, unless it is the shared one.
    pub fn id(&self) -> Option<&str> {
        match self {
            Self::Shared => None,
            Self::Session(lane) => Some(&lane.id),
        }
    }
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `tools/call`.
    CallTool,
    /// `resources/read`.
    ReadResource,
    /// `prompts/get`.
    GetPrompt,
    /// `completion/complete`.
    Complete,
}

impl Method {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CallTool => "tools/call",
            Self::ReadResource => "resources/read",
            Self::GetPrompt => "prompts/get",
            Self::Complete => "completion/complete",
        }
    }
}

/// One attempt at one action.
pub struct Call<'a> {
    /// The right to run it.
    pub permit: &'a Permit,
    /// The digest of the plan that is about to run.
    pub plan_digest: Digest,
    /// Now.
    pub now: Timestamp,
    /// What is called.
    pub method: Method,
    /// The upstream's own name of the tool; empty for the other methods.
    pub tool: &'a str,
    /// The tool's `arguments`, or the parameters of the other methods.
    pub params: &'a RawJson,
    /// `inputResponses` and `requestState` of a repeated request of 2026-07-28.
    pub continuation: Option<&'a RawJson>,
    /// Whether repeating it changes nothing more.
    pub idempotent: bool,
    /// The client's `_meta` without the protocol's keys and without its progress token.
    pub meta: Option<&'a RawValue>,
    /// The client's progress token, if it wants to hear of progress.
    pub progress_token: Option<&'a RawValue>,
    /// Over which connection.
    pub lane: Lane,
    /// The caller's side.
    pub back: Arc<dyn Back>,
    /// For whom.
    pub subject: Option<&'a Subject>,
    /// Ends the call.
    pub cancel: CancellationToken,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Parameters are content: they stay out of logs.
        f.debug_struct("Call")
            .field("permit", self.permit)
            .field("method", &self.method)
            .field("tool", &self.tool)
            .finish_non_exhaustive()
    }
}

/// How a call ended.
#[derive(Clone, Debug)]
pub enum Ended {
    /// The upstream answered with a result.
    Result {
        /// Verbatim.
        json: RawJson,
        /// Whether the result says of itself that the tool failed.
        is_error: bool,
    },
    /// The upstream answered with an error.
    Error {
        /// What receipts say of it.
        failure: Failure,
        /// Verbatim; content.
        rpc: RpcError,
    },
    /// There was no effect, or repeating the call changes nothing more.
    NotSent(Failure),
    /// The effect may have happened: it must be reconciled, never repeated blindly.
    Unknown(Failure),
}
