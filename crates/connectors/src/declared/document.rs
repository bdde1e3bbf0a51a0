//! The text of a definition: YAML, read strictly, with the line of what is wrong in it.

use std::collections::{BTreeMap, BTreeSet};

use kernel::failure::Category;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::Error;
use crate::{limits, yaml};

/// A definition as it is written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Document {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) metadata: Metadata,
    pub(super) spec: Spec,
    /// Recordings that `tally connector test` replays.
    #[serde(default)]
    pub(super) exchanges: Vec<super::replay::Exchange>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Metadata {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) title: String,
    pub(super) description: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct Spec {
    /// Where the system is, where that is the same for everybody.
    pub(super) base_url: Option<String>,
    #[serde(default)]
    pub(super) auth: Vec<AuthDocument>,
    #[serde(default)]
    pub(super) limits: LimitsDocument,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    #[serde(default)]
    pub(super) errors: Vec<RuleDocument>,
    pub(super) operations: BTreeMap<String, OperationDocument>,
}

/// How requests are authorised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuthKind {
    None,
    Bearer,
    Header,
    Basic,
    Oauth2ClientCredentials,
    Oauth2Refresh,
    Hmac,
}

/// One way of it. Which members belong to which kind, `auth` checks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct AuthDocument {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) kind: AuthKind,
    pub(super) token_path: Option<String>,
    pub(super) token_url: Option<String>,
    #[serde(default)]
    pub(super) scopes: Vec<String>,
    pub(super) client: Option<ClientAuth>,
    pub(super) header: Option<String>,
    pub(super) prefix: Option<String>,
    pub(super) encoding: Option<Encoding>,
    pub(super) signed: Option<Vec<Signed>>,
    pub(super) timestamp_header: Option<String>,
}

/// How a client shows its own credential to a token endpoint (RFC 6749, 2.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ClientAuth {
    /// As members of the body.
    #[default]
    Body,
    /// As HTTP Basic.
    Basic,
}

/// How the bytes of a signature are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Encoding {
    #[default]
    Hex,
    Base64,
}

/// A part of what is signed. Parts are joined by `.`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Signed {
    Timestamp,
    Method,
    Path,
    Body,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct LimitsDocument {
    pub(super) timeout_ms: Option<u64>,
    pub(super) response_bytes: Option<usize>,
    pub(super) in_flight: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CostDocument {
    pub(super) per_call_micro_usd: i64,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct CapsDocument {
    pub(super) per_minute: u32,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct OperationDocument {
    /// Whether only other operations use it.
    #[serde(default)]
    pub(super) internal: bool,
    pub(super) description: String,
    pub(super) labels: BTreeSet<String>,
    /// Whether it only reads although its method is not GET.
    #[serde(default)]
    pub(super) only_reads: bool,
    /// Whether repeating it changes nothing more, by itself.
    #[serde(default)]
    pub(super) idempotent: bool,
    pub(super) input: Value,
    pub(super) output: Value,
    pub(super) request: RequestDocument,
    pub(super) idempotency: Option<IdempotencyDocument>,
    pub(super) record: Option<ReadDocument>,
    pub(super) expect: Option<String>,
    pub(super) reverse: Option<String>,
    pub(super) written: Option<Value>,
    pub(super) confirm: Option<ConfirmDocument>,
    pub(super) result: Value,
    #[serde(default)]
    pub(super) errors: Vec<RuleDocument>,
    #[serde(default)]
    pub(super) cost: CostDocument,
    pub(super) caps: Option<CapsDocument>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestDocument {
    pub(super) method: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) query: BTreeMap<String, Value>,
    #[serde(default)]
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<BodyDocument>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BodyDocument {
    pub(super) json: Option<Value>,
    pub(super) form: Option<BTreeMap<String, Value>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdempotencyDocument {
    pub(super) header: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadDocument {
    pub(super) read: String,
    #[serde(rename = "with")]
    pub(super) params: BTreeMap<String, Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmDocument {
    pub(super) read: String,
    #[serde(rename = "with")]
    pub(super) params: BTreeMap<String, Value>,
    pub(super) found: String,
    pub(super) certain: String,
    pub(super) result: Value,
}

/// One rule of what an answer means.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RuleDocument {
    pub(super) when: WhenDocument,
    pub(super) code: String,
    pub(super) category: Category,
    pub(super) meaning: String,
    #[serde(default)]
    pub(super) hint: String,
    pub(super) retryable: Option<bool>,
    pub(super) effect: Option<EffectDocument>,
    pub(super) retry_after: Option<RetryAfterDocument>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhenDocument {
    /// A status, a class such as `5xx`, or several of them.
    pub(super) status: Option<Value>,
    /// By header: one of these values, or any where none is named.
    #[serde(default)]
    pub(super) header: BTreeMap<String, Vec<String>>,
    /// By JSON pointer into the body: one of these values.
    #[serde(default)]
    pub(super) body: BTreeMap<String, Vec<Value>>,
}

/// What an answer says of the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EffectDocument {
    None,
    Unknown,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RetryAfterDocument {
    pub(super) header: String,
    #[serde(rename = "as")]
    pub(super) form: RetryAfterForm,
}

/// What a header means that says when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RetryAfterForm {
    /// A number of seconds from now.
    Seconds,
    /// Seconds since 1970, in UTC.
    EpochSeconds,
}

/// Reads a definition, with the line of what is wrong in it.
pub(super) fn read<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    yaml::read(text, limits::CONNECTOR_BYTES_MAX)
        .map_err(|error| Error::Definition { line: error.line.unwrap_or(1), reason: error.reason })
}

/// The error about what stands at `path` in `text`.
pub(super) fn at(text: &str, path: &[&str], reason: impl Into<String>) -> Error {
    Error::Definition { line: yaml::line_of(text, path).unwrap_or(1), reason: reason.into() }
}
