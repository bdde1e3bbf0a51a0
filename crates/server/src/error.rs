//! Failures on their way to the wire, in one place.

use kernel::failure::{Category, Failure};
use kernel::machine::Refusal;
use proto::types::{Error as WireError, error::Category as WireCategory};
use tokio::task::JoinError;
use tonic::Status;

/// A failure as the wire has it.
pub(crate) fn wire(failure: Failure) -> WireError {
    WireError {
        code: failure.code,
        category: category(failure.category).into(),
        message: failure.message,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
        cause: failure.cause,
        request_id: String::new(),
        receipt_id: String::new(),
    }
}

fn category(category: Category) -> WireCategory {
    match category {
        Category::PolicyDenied => WireCategory::PolicyDenied,
        Category::Validation => WireCategory::Validation,
        Category::Auth => WireCategory::Auth,
        Category::Permission => WireCategory::Permission,
        Category::RateLimited => WireCategory::RateLimited,
        Category::Budget => WireCategory::Budget,
        Category::Upstream => WireCategory::Upstream,
        Category::Network => WireCategory::Network,
        Category::Timeout => WireCategory::Timeout,
        Category::Conflict => WireCategory::Conflict,
        Category::NotFound => WireCategory::NotFound,
        Category::Sandbox => WireCategory::Sandbox,
        Category::Permanent => WireCategory::Permanent,
        Category::Internal => WireCategory::Internal,
    }
}

/// A request that is refused.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl From<ledger::Error> for Refused {
    fn from(error: ledger::Error) -> Self {
        let text = error.to_string();
        let failure = Failure::from(error);
        // What the caller did wrong is told to the caller; a fault is for the log.
        if failure.category == Category::Internal {
            tracing::error!(error = text, "the ledger failed");
        }
        Self(failure)
    }
}

impl From<Refused> for Status {
    fn from(refused: Refused) -> Self {
        wire(refused.0).into()
    }
}

impl Refused {
    pub(crate) fn new(category: Category, code: &str, message: impl Into<String>) -> Self {
        Self(Failure::new(category, code, message))
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(Category::Validation, "invalid_argument", message)
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(Category::NotFound, "not_found", format!("there is no such {what}"))
    }

    pub(crate) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "internal fault");
        Self::new(Category::Internal, "internal", "an internal fault; see the server's log")
    }

    /// A task that was to be waited for did not end: a server that stops ends its tasks.
    pub(crate) fn not_ended(error: JoinError) -> Self {
        if error.is_cancelled() { ledger::Error::Stopped.into() } else { Self::internal(error) }
    }
}

pub(crate) type Result<T> = std::result::Result<T, Refused>;
