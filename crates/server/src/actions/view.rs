//! Actions as callers see them, and the content that goes with them.

use std::sync::Arc;

use connectors::mcp::RpcError;
use kernel::action::{Action, Status};
use kernel::decision::{CALL_CAP, Phase};
use kernel::failure::Failure;
use kernel::ids::ActionId;
use kernel::json::RawJson;
use kernel::machine::{Kind, State};
use kernel::receipt::LogId;
use kernel::units::{Unit, Units};
use kernel::values::Digest;
use proto::types;
use proto::wire::{Json, Timestamp};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::demand;
use super::prepare::Document;
use crate::error::{self, Refused, Result};
use crate::runs;
use crate::shared::Shared;

/// The part of an action's content that is its document.
pub(crate) const DOCUMENT: &str = "document";
/// The part of an action's content that is its result or failure.
pub(crate) const RESULT: &str = "result";

/// How an attempt ended, with its content: kept sealed beside the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Body {
    /// 128 random bits, hex: the commitment in the receipt is SHA-256(salt ‖ result).
    salt: String,
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "kept")]
    result: Option<RawJson>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// The error of an MCP server that the failure is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) rpc: Option<RpcError>,
    /// The digest of what the tool of a run's step was called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) params: Option<Digest>,
}

/// A result as it was kept: it may be longer than parameters may.
fn kept<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<RawJson>, D::Error> {
    let raw = Option::<Box<RawValue>>::deserialize(deserializer)?;
    raw.map(RawJson::result).transpose().map_err(D::Error::custom)
}

impl Body {
    pub(crate) fn result(result: RawJson) -> Result<Self> {
        Ok(Self { salt: salt()?, result: Some(result), failure: None, rpc: None, params: None })
    }

    pub(crate) fn failed(failure: Failure) -> Result<Self> {
        Ok(Self { salt: salt()?, result: None, failure: Some(failure), rpc: None, params: None })
    }

    /// A failure that has something to show all the same.
    pub(crate) fn failed_with(failure: Failure, result: RawJson) -> Result<Self> {
        Ok(Self { result: Some(result), ..Self::failed(failure)? })
    }

    /// What salts the commitments.
    pub(crate) fn salt(&self) -> &str {
        &self.salt
    }

    /// What the tool answered.
    pub(crate) fn answered(&self) -> Option<&RawJson> {
        self.result.as_ref()
    }

    pub(crate) fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// The commitment of something that goes with the result.
    pub(super) fn committed(&self, text: &RawJson) -> Digest {
        Digest::of(&[self.salt.as_bytes(), text.as_str().as_bytes()].concat())
    }

    /// The commitment and the length of the result.
    pub(crate) fn commitment(&self) -> (Option<Digest>, u64) {
        let Some(result) = &self.result else { return (None, 0) };
        let bytes = u64::try_from(result.as_str().len()).unwrap_or(u64::MAX);
        (Some(self.committed(result)), bytes)
    }
}

fn salt() -> Result<String> {
    Ok(hex::encode(ledger::keys::random::<16>()?.as_ref()))
}

/// An action with what is known of it besides its state.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) action: Action,
    pub(crate) body: Option<Body>,
    pub(crate) checkpoint: Arc<str>,
    /// Why the content is gone, where it was looked for. Lists do not look.
    pub(crate) gone: Option<fn() -> Failure>,
}

impl Answer {
    pub(crate) fn new(action: Action, checkpoint: Arc<str>) -> Self {
        Self { action, body: None, checkpoint, gone: None }
    }

    /// Adds the content where it was kept.
    pub(crate) fn opened(mut self, shared: &Shared, log: &LogId) -> Result<Self> {
        let ended = self.action.outcome.is_some();
        if self.body.is_none() && ended {
            if self.action.output_unknown() {
                self.gone = Some(unheard);
                return Ok(self);
            }
            self.body = open_result(shared, log, &self.action.id)?;
            if self.body.is_none() {
                self.gone = Some(why_gone(shared, log, &self.action)?);
            }
        }
        Ok(self)
    }

    /// Adds the content where it was kept, and the newest checkpoint where there is none.
    pub(crate) fn complete(self, shared: &Shared, log: &LogId) -> Result<Self> {
        let mut this = self.opened(shared, log)?;
        if this.checkpoint.is_empty() {
            let head = shared.ledger.store().head(log)?;
            this.checkpoint = head.map_or_else(Default::default, |head| head.checkpoint.into());
        }
        Ok(this)
    }

    /// What an MCP server answered, where that was kept.
    pub(crate) fn served(&mut self) -> (Option<RawJson>, Option<RpcError>) {
        self.body.as_mut().map_or((None, None), |body| (body.result.take(), body.rpc.take()))
    }

    /// What went wrong with it, if anything did.
    pub(crate) fn failure(&self) -> Option<Failure> {
        let kept = self.body.as_ref().and_then(|body| body.failure.clone());
        failure_of(&self.action, kept, self.gone)
    }

    /// The wire form.
    pub(crate) fn wire(self, log: &LogId) -> proto::actions::Action {
        let Self { action, body, checkpoint, gone } = self;
        let request = &action.request;
        let (result, failure) = body.map_or((None, None), |body| (body.result, body.failure));
        let error = error_of(&action, failure, gone, log);
        let kept = action.outcome.as_ref().is_some_and(|outcome| outcome.prior.is_some());
        let reversal = action.reversal.as_ref();
        proto::actions::Action {
            action_id: action.id.to_string(),
            tool: request.tool.to_string(),
            environment: request.environment.to_string(),
            state: wire_state(action.status).into(),
            decision: action.decision.as_deref().map(decision),
            risk: Some(risk(&request.risk)),
            plan_digest: request.plan_digest.to_string(),
            approval_id: action.approval.as_ref().map(ToString::to_string).unwrap_or_default(),
            result: result.map(|json| Json { text: json.as_str().to_owned() }),
            error,
            cost_micro_usd: action.spent.0,
            attempt: action.attempts,
            receipts: action.receipts.iter().map(|index| log.receipt_id(*index)).collect(),
            checkpoint: checkpoint.to_string(),
            created_at: Some(Timestamp::from_micros(action.requested_at.0)),
            updated_at: Some(Timestamp::from_micros(action.updated_at.0)),
            actor_chain: actors(&request.actors),
            broken_glass: action.broken_glass,
            units: Some(units(&action.used)),
            execution_id: request.execution.as_ref().map(ToString::to_string).unwrap_or_default(),
            reverses: request.reverses.as_ref().map(ToString::to_string).unwrap_or_default(),
            reversible: kept && reversal.is_none() && action.status == Status::Executed,
            reversal_id: reversal.map(|reversal| reversal.by.to_string()).unwrap_or_default(),
            reversed: reversal.is_some_and(|reversal| reversal.done),
        }
    }
}

fn units(used: &Units) -> types::Units {
    types::Units {
        tokens: used.get(Unit::Tokens),
        calls: used.get(Unit::Calls),
        writes: used.get(Unit::Writes),
        cpu_ms: used.get(Unit::CpuMs),
    }
}

fn error_of(
    action: &Action,
    kept: Option<Failure>,
    gone: Option<fn() -> Failure>,
    log: &LogId,
) -> Option<types::Error> {
    let receipt = action.receipts.last().map(|index| log.receipt_id(*index)).unwrap_or_default();
    let failure = failure_of(action, kept, gone)?;
    Some(types::Error { receipt_id: receipt, ..error::wire(failure) })
}

/// What went wrong with an action, if anything did: with its words where they are still kept.
fn failure_of(
    action: &Action,
    kept: Option<Failure>,
    gone: Option<fn() -> Failure>,
) -> Option<Failure> {
    // An earlier attempt may have left an outcome behind.
    let by_policy =
        action.decision.as_ref().is_some_and(|decision| decision.effect.ends(Phase::Submit));
    let denied = action.status == Status::Denied && (by_policy || action.outcome.is_none());
    let mut failure = match (&action.outcome, kept) {
        _ if denied => denial(action),
        (Some(outcome), kept) => match &outcome.failure {
            None => gone.filter(|_| action.status == Status::Executed)?(),
            Some(code) if kept.as_ref().is_some_and(|kept| kept.code == code.code) => kept?,
            Some(code) => Failure::new(code.category, &code.code, sentence(&code.code)),
        },
        (None, _) => return None,
    };
    if action.status == Status::Unknown {
        failure.retryable = false;
    }
    Some(failure)
}

/// A denial by policy.
fn denial(action: &Action) -> Failure {
    let Some(decision) = &action.decision else {
        return Failure::new(kernel::failure::Category::Internal, "undecided", "not decided");
    };
    let reason = decision.reasons.first().map_or("policy_denied", String::as_str);
    if decision.is_put_off() {
        let ms = decision.obligations.retry_after_ms.unwrap_or_default();
        let message = match reason {
            CALL_CAP => "as many calls of this operation as a minute may have: try again later",
            _ => "as many writes as a minute may have: try again later",
        };
        let category = kernel::failure::Category::RateLimited;
        return Failure::new(category, reason, message).retry_after_ms(ms);
    }
    let rules = decision.rules.join(", ");
    let message = if rules.is_empty() {
        format!("policy gave no leave: {reason}")
    } else {
        format!("policy said no by {rules}: {reason}")
    };
    let failure = Failure::new(kernel::failure::Category::PolicyDenied, reason, message);
    match decision.obligations.retry_after_ms {
        Some(ms) => failure.retry_after_ms(ms),
        None => failure.retryable(decision.retryable()),
    }
}

/// Its time is over, or its run kept metadata alone.
fn why_gone(shared: &Shared, log: &LogId, action: &Action) -> Result<fn() -> Failure> {
    let Some(step) = &action.request.step else { return Ok(expired) };
    let run = shared.ledger.read(log, Kind::Run, step.run.as_str())?;
    let dropped = matches!(run, Some(State::Run(run)) if run.content_dropped);
    Ok(if dropped { runs::dropped } else { expired })
}

fn unheard() -> Failure {
    let message = "it was carried out, as people established; what it gave is not known";
    Failure::new(kernel::failure::Category::NotFound, kernel::run::OUTPUT_UNKNOWN, message)
}

fn expired() -> Failure {
    let message = "the result was kept for its time and is deleted; its digest is in the receipt";
    Failure::new(kernel::failure::Category::NotFound, "result_expired", message)
}

/// A sentence for a code whose words were not kept.
pub(crate) fn sentence(code: &str) -> String {
    match code {
        "approval_rejected" => "an approver said no",
        "attestation_level_unavailable" => "so much is not attested of a sandbox of this type",
        "attempt_lost" => "the server stopped in the middle: reconcile the outcome, if nobody has",
        "budget_exceeded" => "the budget does not cover the worst case of this action",
        "budget_account_missing" => "this tool costs money and no account pays: name `account_id`",
        "account_frozen" => "the account is frozen",
        "account_closed" => "the account is closed",
        "capability_not_grantable" => "the operator does not let all of this be granted",
        "cost_above_policy" => "policy caps the cost below the worst case of this action",
        "limit_not_grantable" => "the operator does not let code use so much",
        "runtime_missing" => "there was no interpreter for this language",
        "sandbox_type_unavailable" => "there was no sandbox of this type, and nothing weaker ran",
        "source_too_long" => "the source text was longer than code may be",
        "server_stopped" => "the server stopped in the middle: it is repeated",
        "principal_disabled" => "the principal that asked is disabled",
        "writes_exceeded" => "the run has made as many writing calls as it may",
        "run_timeout" => "the run did not end in the time that it had",
        "output_schema_mismatch" => "the output does not fit the schema that the plan has for it",
        "output_unknown" => "it reads what an earlier step gave, which nobody knows",
        "outcome_unknown" => "nobody knows how its action ended: reconcile it",
        "action_canceled" => "its action was withdrawn",
        "approval_expired" => "nobody approved it in time",
        "tool_error" => "the tool says of its own result that it is an error",
        "template_missing" => "a template reads what is not there",
        "timer_invalid" => "a timer has `seconds` or `until_us`",
        "result_expired" => "what an earlier step gave was kept for its time and is deleted",
        "tool_changed" => "the tool is no longer the one that was decided: ask again",
        other => return format!("the action ended with `{other}`"),
    }
    .to_owned()
}

pub(crate) fn wire_state(status: Status) -> proto::actions::action::State {
    use proto::actions::action::State as Wire;
    match status {
        Status::Requested => Wire::Requested,
        Status::Denied => Wire::Denied,
        Status::Quarantined => Wire::Quarantined,
        Status::AwaitingApproval => Wire::AwaitingApproval,
        Status::Approved => Wire::Approved,
        Status::Executing => Wire::Executing,
        Status::Executed => Wire::Executed,
        Status::Failed => Wire::Failed,
        Status::Unknown => Wire::Unknown,
        Status::Canceled => Wire::Canceled,
        Status::Expired => Wire::Expired,
    }
}

pub(crate) fn effect(effect: kernel::decision::Effect) -> types::decision::Effect {
    use kernel::decision::Effect;
    use types::decision::Effect as Wire;
    match effect {
        Effect::Allow => Wire::Allow,
        Effect::Route => Wire::Route,
        Effect::Throttle => Wire::Throttle,
        Effect::RequireApproval => Wire::RequireApproval,
        Effect::RequireStepUp => Wire::RequireStepUp,
        Effect::Quarantine => Wire::Quarantine,
        Effect::Deny => Wire::Deny,
    }
}

pub(crate) fn decision(decision: &kernel::decision::Decision) -> types::Decision {
    let retry = decision.obligations.retry_after_ms;
    types::Decision {
        effect: effect(decision.effect).into(),
        rules: decision.rules.clone(),
        reasons: decision.reasons.clone(),
        policy_revision: u32::try_from(decision.policy.revision).unwrap_or(u32::MAX),
        policy_digest: decision.policy.digest.to_string(),
        input_digest: decision.input_digest.to_string(),
        retry_after_ms: retry.map(|ms| u32::try_from(ms).unwrap_or(u32::MAX)),
        approval: demand::wire(&decision.obligations),
    }
}

pub(crate) fn risk(risk: &kernel::risk::Risk) -> types::Risk {
    use kernel::risk::Tier;
    let tier = match risk.tier {
        Tier::Low => "low",
        Tier::Medium => "medium",
        Tier::High => "high",
        Tier::Critical => "critical",
    };
    types::Risk { score: risk.score.into(), tier: tier.to_owned(), signals: risk.signals.clone() }
}

pub(crate) fn actors(chain: &kernel::principal::ActorChain) -> Vec<types::Actor> {
    use kernel::principal::PrincipalKind;
    let kind = |kind| match kind {
        PrincipalKind::User => "user",
        PrincipalKind::Agent => "agent",
        PrincipalKind::Service => "service",
    };
    let wire = |actor: &kernel::principal::Actor| types::Actor {
        id: actor.id.to_string(),
        kind: kind(actor.kind).to_owned(),
    };
    chain.actors().iter().map(wire).collect()
}

/// The document of an action, while it is kept.
pub(crate) fn open_document(
    shared: &Shared,
    log: &LogId,
    id: &ActionId,
) -> Result<Option<Document>> {
    let bytes = shared.vault.open(log.tenant(), id.as_str(), DOCUMENT)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(Refused::internal)).transpose()
}

/// The content of an action's outcome, while it is kept.
pub(crate) fn open_result(shared: &Shared, log: &LogId, id: &ActionId) -> Result<Option<Body>> {
    let bytes = shared.vault.open(log.tenant(), id.as_str(), RESULT)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(Refused::internal)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_is_kept_that_is_longer_than_parameters() {
        let text = format!("{{\"text\":\"{}\"}}", "x".repeat(2 << 20));
        let raw = RawValue::from_string(text.clone()).unwrap();
        let body = Body::result(RawJson::result(raw).unwrap()).unwrap();
        let kept: Body = serde_json::from_slice(&serde_json::to_vec(&body).unwrap()).unwrap();
        assert_eq!(kept.result.unwrap().as_str(), text);
        let failure = Failure::new(kernel::failure::Category::Upstream, "upstream_error", "no");
        let mut body = Body::failed(failure).unwrap();
        body.rpc = Some(RpcError::new(-32000, "no"));
        let kept: Body = serde_json::from_slice(&serde_json::to_vec(&body).unwrap()).unwrap();
        assert_eq!((kept.result, kept.rpc.unwrap().code), (None, -32000));
    }
}
