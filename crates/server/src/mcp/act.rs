//! A call on its way: begun, waited for, and answered in the form that its client takes.
//!
//! The answer is one JSON object as long as nothing had to be said before it; the first thing
//! that is said makes it a stream.

use std::pin::Pin;
use std::task::{Context, Poll};

use connectors::mcp::{Method, Revision, RpcError};
use http::StatusCode;
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use serde_json::value::RawValue;
use tokio::task::JoinHandle;

use super::governed::{Answered, Declared, Outcome};
use super::limits;
use super::lists::Lister;
use super::revision::Era;
use super::rpc::{self, Asked, Id};
use super::state::{self, Bound, State};
use super::surface::Visit;
use super::target::Target;
use super::{errors, held, note, raw};
use crate::error::{Refused, Result};

type Called = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A call under way. It goes on where whoever waits for it goes away.
pub(super) struct Running(Option<Stage>);

enum Stage {
    /// Carried on by whoever waits for it.
    Here(Called),
    /// Carried on by itself.
    Task(JoinHandle<Outcome>),
}

impl Running {
    pub(super) fn new(call: impl Future<Output = Outcome> + Send + 'static) -> Self {
        Self(Some(Stage::Here(Box::pin(call))))
    }

    /// Has it carry on by itself.
    pub(super) fn set_off(&mut self) {
        self.0 = match self.0.take() {
            Some(Stage::Here(call)) => Some(Stage::Task(tokio::spawn(call))),
            other => other,
        };
    }
}

impl Future for Running {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = match &mut self.0 {
            Some(Stage::Here(call)) => std::task::ready!(call.as_mut().poll(context)),
            Some(Stage::Task(task)) => match std::task::ready!(Pin::new(task).poll(context)) {
                Ok(outcome) => outcome,
                Err(error) => Outcome::Failed(Refused::internal(error).0, None),
            },
            None => return Poll::Pending,
        };
        self.0 = None;
        Poll::Ready(outcome)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(Stage::Here(call)) = self.0.take() else { return };
        // A server that is ending has no runtime any more, and nothing to carry on.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(call);
        }
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

/// What the client can take in place of a result.
pub(super) fn declared(era: Era, asked: &Asked<'_>, capabilities: &RawValue) -> Declared {
    let has = |path: &[&str]| {
        let mut at = capabilities;
        path.iter().all(|name| match raw::member(at.get(), name) {
            Some(inner) => {
                at = inner;
                true
            }
            None => false,
        })
    };
    Declared {
        revision: match era {
            Era::Modern => Revision::V2026_07_28,
            Era::Legacy => Revision::V2025_11_25,
        },
        tasks: era == Era::Modern && has(&["extensions", "io.modelcontextprotocol/tasks"]),
        task: era == Era::Legacy && asked.params.task.is_some(),
        url: has(&["elicitation", "url"]),
    }
}

/// A call and whom it answers.
#[derive(Clone)]
pub(super) struct Act {
    pub(super) visit: Visit,
    pub(super) era: Era,
    pub(super) id: Id,
    pub(super) target: Target,
    pub(super) declared: Declared,
    /// The client hands in what it was asked for.
    pub(super) retried: bool,
}

/// What models must know of an outcome that nobody knows.
const UNKNOWN: &str = "; it may have happened all the same: find out before you repeat it";

impl Act {
    pub(super) fn bound(&self) -> Bound<'_> {
        let Target { tool, params, .. } = &self.target;
        Bound { caller: &self.visit.caller, tool: &tool.manifest.id, params }
    }

    /// The message that answers the client, and the HTTP status where it is the whole answer.
    pub(super) async fn answer(&self, outcome: Outcome) -> (StatusCode, String) {
        let written = match outcome {
            Outcome::Result(answered) => self.result(answered).await.map_err(|Refused(failure)| {
                tracing::error!(%failure, "a result could not be answered");
                errors::rpc_error(&failure)
            }),
            // What is not there is answered like what may not be seen.
            Outcome::Error(error) if self.is_absent(&error) => Err(self.target.unknown(self.era)),
            Outcome::Error(error) => Err(errors::translated(self.era, error)),
            Outcome::Failed(failure, note) => self.failed(&failure, note.as_ref()),
            Outcome::Unknown(mut failure, note) => {
                failure.message.push_str(UNKNOWN);
                self.failed(&failure, Some(&note))
            }
            Outcome::Held(held) => {
                let (shared, caller) = (self.visit.shared(), &self.visit.caller);
                let (method, bound) = (self.target.tool.method, self.bound());
                match held::wire(shared, caller, method, bound, &held, self.declared).await {
                    Ok(held::Wire::Result(text)) => Ok(text),
                    Ok(held::Wire::Error(error)) => Err(error),
                    Err(Refused(failure)) => Err(errors::rpc_error(&failure)),
                }
            }
        };
        match written {
            Ok(result) => (StatusCode::OK, rpc::result(&self.id, &result)),
            Err(error) => {
                let status = match self.era {
                    Era::Modern => errors::status(&error),
                    Era::Legacy => StatusCode::OK,
                };
                (status, errors::text(Some(&self.id), &error))
            }
        }
    }

    /// An upstream's result, with what the client's revision wants of it.
    async fn result(&self, answered: Answered) -> Result<String> {
        let Answered { json, note } = answered;
        let text = match self.era {
            Era::Legacy => json.as_str().to_owned(),
            Era::Modern => self.modern(json).await?,
        };
        Ok(note::add(&text, &note))
    }

    async fn modern(&self, json: RawJson) -> Result<String> {
        let members = raw::members(json.as_str()).unwrap_or_default();
        let member = |name: &str| members.iter().find(|(key, _)| key == name).map(|(_, raw)| *raw);
        let kind = member("resultType");
        if kind.is_some_and(|kind| kind.get() == "\"input_required\"") {
            return self.input_required(json.as_str(), member("requestState")).await;
        }
        let mut text = json.as_str().to_owned();
        let mut added = Vec::new();
        if kind.is_none() {
            added.push(r#""resultType":"complete""#);
        }
        if self.target.tool.method == Method::ReadResource {
            if member("ttlMs").is_none() || self.retried {
                added.push(r#""ttlMs":0"#);
            }
            // What policy lets one caller read is not for another.
            match member("cacheScope") {
                None => added.push(r#""cacheScope":"private""#),
                Some(scope) => text = raw::replace(json.as_str(), scope.get(), r#""private""#),
            }
        }
        Ok(if added.is_empty() { text } else { raw::insert(&text, &added.join(",")) })
    }

    /// An upstream's question goes to the client. The upstream's state is sealed to this caller
    /// and this call: our connection would give anybody's to the upstream.
    async fn input_required(&self, text: &str, own: Option<&RawValue>) -> Result<String> {
        let Some(own) = own else { return Ok(text.to_owned()) };
        let inner: Option<String> = serde_json::from_str(own.get()).map_err(Refused::internal)?;
        let sealed = self.seal(State::Upstream { state: inner }).await?;
        Ok(raw::replace(text, own.get(), &raw::quoted(&sealed)))
    }

    pub(super) async fn seal(&self, state: State) -> Result<String> {
        state::seal(self.visit.shared(), self.bound(), state, limits::ASK).await
    }

    /// A failure of ours. What may not be seen is answered as what is not there.
    fn failed(
        &self,
        failure: &Failure,
        note: Option<&note::Note>,
    ) -> std::result::Result<String, RpcError> {
        if failure.category == Category::PolicyDenied && !self.is_listed() {
            return Err(self.target.unknown(self.era));
        }
        if failure.code == "unknown_tool" {
            return Err(self.target.unknown(self.era));
        }
        if self.target.kind != "tool" {
            return Err(errors::rpc_error(failure));
        }
        let mut text = errors::tool_result(failure);
        if self.era == Era::Modern {
            text = raw::insert(&text, r#""resultType":"complete""#);
        }
        Ok(note.map_or_else(|| text.clone(), |note| note::add(&text, note)))
    }

    /// Whether the upstream says that there is no such resource.
    fn is_absent(&self, error: &RpcError) -> bool {
        let reads = self.target.tool.method == Method::ReadResource;
        reads && matches!(error.code, errors::RESOURCE_NOT_FOUND | rpc::INVALID_PARAMS)
    }

    fn is_listed(&self) -> bool {
        let Visit { caller, view, .. } = &self.visit;
        let lister = Lister { shared: self.visit.shared(), caller, view };
        let Target { tool, params, kind, .. } = &self.target;
        let empty = RawJson::empty_object();
        lister.lists(tool, if *kind == "tool" { &empty } else { params })
    }
}
