//! What a step says of itself, for policy and for those who approve it: claims, never facts.

use serde::{Deserialize, Serialize};

use super::template::{self, Context, Unrendered};
use crate::json::{self, RawJson};
use crate::limits;

/// What a step says of its action. Texts may be templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// What it acts on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub target: String,
    /// Which types of data it touches.
    #[serde(default, alias = "dataTypes", skip_serializing_if = "Vec::is_empty")]
    pub data_types: Vec<String>,
    /// Why it should be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rationale: String,
}

/// Why claims cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A template stands for nothing.
    #[error("{0}")]
    Unrendered(#[from] Unrendered),
    /// What a template stands for is no text, or too long.
    #[error("a claim is a text within its limit")]
    Invalid,
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unrendered(error) => error.code(),
            Self::Invalid => "claims_invalid",
        }
    }
}

impl From<json::Error> for Error {
    fn from(error: json::Error) -> Self {
        Self::Unrendered(error.into())
    }
}

impl Claims {
    /// Every text of them.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        let singles = [&self.target, &self.rationale];
        singles.into_iter().chain(&self.data_types).map(String::as_str)
    }

    /// Whether nothing is too long or too many.
    pub fn is_within_limits(&self) -> bool {
        let texts = [&self.target, &self.rationale];
        let fits = |text: &&String| text.len() <= limits::CLAIM_TEXT_BYTES_MAX;
        texts.iter().all(fits)
            && self.data_types.len() <= limits::CLAIMED_DATA_TYPES_MAX
            && self.data_types.iter().all(|text| text.len() <= limits::RULE_BYTES_MAX)
    }

    /// The claims with what their templates stand for: texts alone.
    pub fn render(&self, context: &Context<'_>) -> Result<Self, Error> {
        let form = serde_json::to_string(self).map_err(|_| Error::Invalid)?;
        let rendered = template::render(&RawJson::parse(&form)?, context)?;
        let claims: Self =
            serde_json::from_value(rendered.to_value()).map_err(|_| Error::Invalid)?;
        if claims.is_within_limits() { Ok(claims) } else { Err(Error::Invalid) }
    }
}
