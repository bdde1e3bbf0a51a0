//! What can go wrong in the ledger.

use kernel::failure::{Category, Failure};
use kernel::limits::TRANSITIONS_PER_RECEIPT_MAX;
use kernel::machine::Refusal;

/// The code where there is no space left.
const FULL: &str = "storage_full";
/// When to come back then.
const FULL_RETRY_MS: u64 = 2_000;

/// Why the ledger did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A state machine refused the batch; nothing of it was stored.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The receipt would be no receipt.
    #[error(transparent)]
    Receipt(#[from] kernel::receipt::Error),
    /// The store failed. Whether the commit happened is known only after reading the log.
    #[error("the store failed: {0}")]
    Store(String),
    /// There is no space left for the commit: nothing of it was stored.
    #[error("the store is full: {0}")]
    Full(String),
    /// Another server has taken over the log.
    #[error("another server writes this log now")]
    Fenced,
    /// The store's tables are not what this program makes of them.
    #[error("the store's schema: {0}")]
    Schema(String),
    /// A database's address that cannot be used. It says nothing of the password.
    #[error("the database: {0}")]
    Database(String),
    /// What is stored contradicts itself.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// A key could not be made, read or used.
    #[error("key `{name}`: {reason}")]
    Key {
        /// Which key.
        name: String,
        /// What went wrong.
        reason: String,
    },
    /// Sealed content cannot be opened: its key was destroyed or it was changed.
    #[error("the content cannot be opened: its key is gone or it was changed")]
    Sealed,
    /// There is no such thing.
    #[error("there is no {0}")]
    Absent(String),
    /// The batch has too many transitions.
    #[error("a commit makes at most {TRANSITIONS_PER_RECEIPT_MAX} transitions")]
    TooManyTransitions,
    /// The queue in front of the log is full.
    #[error("too many commits wait: try again")]
    Busy,
    /// The server is stopping.
    #[error("the ledger has stopped")]
    Stopped,
    /// A proof cannot be made or a bundle is too large.
    #[error("{0}")]
    Invalid(String),
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DiskFull) => Self::Full(error.to_string()),
            _ => Self::Store(error.to_string()),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, category, retryable) = match error {
            Error::Refused(refusal) => return refusal.into(),
            Error::Receipt(_) | Error::TooManyTransitions => {
                ("receipt_too_large", Category::Validation, false)
            }
            Error::Absent(_) => ("not_found", Category::NotFound, false),
            Error::Invalid(_) => ("invalid_argument", Category::Validation, false),
            Error::Sealed => ("result_expired", Category::NotFound, false),
            Error::Busy => ("overloaded", Category::RateLimited, true),
            Error::Fenced | Error::Stopped => ("unavailable", Category::Internal, true),
            Error::Store(_) => ("store_failed", Category::Internal, true),
            Error::Full(_) => (FULL, Category::Internal, true),
            Error::Schema(_) => ("store_schema", Category::Internal, false),
            Error::Database(_) => ("store_failed", Category::Internal, false),
            Error::Corrupt(_) => ("store_corrupt", Category::Internal, false),
            Error::Key { .. } => ("key_unavailable", Category::Internal, true),
        };
        let message = match category {
            _ if code == FULL => "there is no space left to keep it: nothing was done".to_owned(),
            // The inside of a fault is for the log, not for the caller.
            Category::Internal => "the ledger is not available".to_owned(),
            _ => error.to_string(),
        };
        let failure = Self::new(category, code, message).retryable(retryable);
        match code {
            "overloaded" => failure.retry_after_ms(100),
            // Space returns when somebody makes some.
            FULL => failure.retry_after_ms(FULL_RETRY_MS),
            _ => failure,
        }
    }
}
