//! Why a definition, an instance or a file of exchanges is refused.

use kernel::failure::{Category, Failure};

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A definition, or a file of exchanges, is malformed.
    #[error("line {line}: {reason}")]
    Definition {
        /// The line of the text, from 1.
        line: usize,
        /// What is wrong there and what to write instead.
        reason: String,
    },
    /// What makes a definition usable for a tenant does not fit it.
    #[error("{field}: {reason}")]
    Instance {
        /// The setting.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// A stable name of the kind of error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Definition { .. } => "connector_invalid",
            Self::Instance { .. } => "instance_invalid",
        }
    }

    pub(super) fn instance(field: &str, reason: impl Into<String>) -> Self {
        Self::Instance { field: field.to_owned(), reason: reason.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(Category::Validation, error.code(), error.to_string())
    }
}
