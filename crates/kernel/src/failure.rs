//! A failure as data: what went wrong, whether trying again can help, and what to change.

use serde::{Deserialize, Serialize};

/// The kinds of failure that a program may want to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Category {
    /// Policy said no.
    PolicyDenied,
    /// The request is malformed or breaks a schema.
    Validation,
    /// The credential is absent, unknown, expired or revoked.
    Auth,
    /// The principal lacks the permission.
    Permission,
    /// Too many requests.
    RateLimited,
    /// A budget does not cover it.
    Budget,
    /// The other system answered with an error.
    Upstream,
    /// The other system could not be reached.
    Network,
    /// It took longer than allowed.
    Timeout,
    /// It contradicts the present state.
    Conflict,
    /// No such thing, or not visible to this principal.
    NotFound,
    /// Sandboxed code broke a limit or asked for what was not granted.
    Sandbox,
    /// It failed and will fail again.
    Permanent,
    /// A fault of Tally itself.
    Internal,
}

impl Category {
    /// Whether an attempt at an idempotent tool is repeated after such a failure.
    pub fn retryable(self) -> bool {
        matches!(self, Self::RateLimited | Self::Upstream | Self::Network | Self::Timeout)
    }

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyDenied => "POLICY_DENIED",
            Self::Validation => "VALIDATION",
            Self::Auth => "AUTH",
            Self::Permission => "PERMISSION",
            Self::RateLimited => "RATE_LIMITED",
            Self::Budget => "BUDGET",
            Self::Upstream => "UPSTREAM",
            Self::Network => "NETWORK",
            Self::Timeout => "TIMEOUT",
            Self::Conflict => "CONFLICT",
            Self::NotFound => "NOT_FOUND",
            Self::Sandbox => "SANDBOX",
            Self::Permanent => "PERMANENT",
            Self::Internal => "INTERNAL",
        }
    }
}

/// A failure as a caller sees it. The message names what to change; it never carries content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Failure {
    /// Stable, lower-case: `budget_exceeded`.
    pub code: String,
    /// What kind of failure.
    pub category: Category,
    /// One sentence for a person.
    pub message: String,
    /// Whether the same request may succeed later.
    pub retryable: bool,
    /// When to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// What led to it, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cause: Vec<String>,
}

impl Failure {
    /// A failure of `category`, retryable as that category is.
    pub fn new(category: Category, code: &str, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            category,
            message: message.into(),
            retryable: category.retryable(),
            retry_after_ms: None,
            cause: Vec::new(),
        }
    }

    /// The same, to be tried again after `ms`.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retryable = true;
        self.retry_after_ms = Some(ms);
        self
    }

    /// The same with `retryable` set.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }
}
