//! What an approver signs with a key of their own: the plan, the answer, and until when it holds.

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::dsse;
use crate::ids::ApprovalId;
use crate::json;
use crate::values::{Digest, Timestamp};

/// The DSSE payload type of what an approver signs.
pub const SIGNED_PAYLOAD_TYPE: &str = "application/vnd.tally.approval+json";

/// An approver's signature, as the receipt keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// The SHA-256 of the key's SubjectPublicKeyInfo in DER.
    pub key_id: Digest,
    /// That SubjectPublicKeyInfo, base64.
    pub public_key: String,
    /// Until when the approver's yes may be used.
    pub not_after: Timestamp,
    /// Over [`signed_bytes`], base64.
    pub sig: String,
}

#[derive(Serialize)]
struct Statement<'a> {
    approval_id: &'a ApprovalId,
    plan_digest: Digest,
    decision: &'static str,
    stage: &'a str,
    not_after: Timestamp,
}

/// The statement that an approver signs, in RFC 8785 form.
pub fn signed_statement(
    approval: &ApprovalId,
    plan_digest: Digest,
    verdict: Verdict,
    stage: &str,
    not_after: Timestamp,
) -> Result<Vec<u8>, json::Error> {
    let decision = verdict.as_str();
    json::canonical(&Statement { approval_id: approval, plan_digest, decision, stage, not_after })
}

/// The bytes that an approver's key signs: the DSSE PAE of the statement.
pub fn signed_bytes(statement: &[u8]) -> Vec<u8> {
    dsse::pae_of(SIGNED_PAYLOAD_TYPE, statement)
}
