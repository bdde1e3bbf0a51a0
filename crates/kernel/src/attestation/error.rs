//! Why an attestation is not believed.

use crate::json;
use crate::proof;
use crate::verify;

/// Why a document is not believed: a code, and the field of it that is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Refused {
    /// Stable and lower-case.
    pub code: &'static str,
    /// `attestation.limits.fuel`, `receipt` …
    pub field: String,
    /// What is wrong with it.
    pub message: String,
}

impl Refused {
    pub(super) fn new(
        code: &'static str,
        field: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { code, field: field.into(), message: message.into() }
    }

    pub(super) fn malformed(field: &str, message: impl Into<String>) -> Self {
        Self::new("attestation_malformed", field, message)
    }

    pub(super) fn json(error: &json::Error) -> Self {
        Self::new(error.code(), "", error.to_string())
    }

    pub(super) fn receipt(field: &str, error: &verify::Error) -> Self {
        Self::new(error.code(), field, error.to_string())
    }

    pub(super) fn proof(error: &proof::Error) -> Self {
        Self::new(error.code(), "proof", error.to_string())
    }

    pub(super) fn differs(field: impl Into<String>) -> Self {
        Self::new("attestation_differs", field, "it is not what the receipt says")
    }

    pub(super) fn incomplete(field: &str) -> Self {
        let message = "an attestation of level full has it";
        Self::new("attestation_incomplete", field, message)
    }
}
