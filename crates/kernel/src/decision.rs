//! What policy says of an action: seven effects, the most restrictive of which wins.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

pub use crate::demand::{ApprovalDemand, Electorate, Mode, Stage};

use crate::demand::Contradiction;
use crate::ids::{
    EnvironmentId, PrincipalId, ReleaseId, RunId, StepId, TenantId, ToolId, WorkflowId, WorkspaceId,
};
use crate::json::RawJson;
use crate::limits;
use crate::principal::{Actor, PrincipalKind, Role};
use crate::risk::Risk;
use crate::values::{Digest, MicroUsd, Timestamp};
use crate::version::Version;

/// What is to happen with an action, least restrictive first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Effect {
    /// It may run.
    Allow,
    /// Another tool is to run in its place; that is decided anew.
    Route,
    /// Not now: try again after `retry_after_ms`.
    Throttle,
    /// It runs after people have approved it.
    RequireApproval,
    /// It runs after people have approved it and proven a second factor.
    RequireStepUp,
    /// It is held until an admin releases it, which decides it anew.
    Quarantine,
    /// It does not run.
    Deny,
}

impl Effect {
    /// Whether an action ends by this decision. A route is followed before the action is
    /// requested; one that is left is a loop. What is throttled just before it runs waits.
    pub fn ends(self, phase: Phase) -> bool {
        match self {
            Self::Deny | Self::Route => true,
            Self::Throttle => phase != Phase::Execute,
            _ => false,
        }
    }
}

/// How far the requester and the approver must be apart.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum SeparationOfDuties {
    /// The user who delegated may approve what their agent asks.
    #[default]
    Normal,
    /// Nobody of the actor chain may approve.
    Strict,
}

/// What must be kept beside the effect itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Obligations {
    /// Who must approve. Present with REQUIRE_APPROVAL and REQUIRE_STEP_UP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalDemand>,
    /// How far requester and approver must be apart.
    #[serde(default, skip_serializing_if = "is_normal")]
    pub sod: SeparationOfDuties,
    /// Whether somebody may let it run without those who must approve, in an emergency.
    #[serde(default, skip_serializing_if = "is_allowed")]
    pub break_glass: BreakGlass,
    /// With THROTTLE: when to try again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// With ROUTE: the tool to run in place of the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<ToolId>,
    /// The most that the action may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_micro_usd: Option<MicroUsd>,
}

/// Whether an emergency may take the place of an approval.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum BreakGlass {
    /// By a responder, with two reasons and a second factor.
    #[default]
    Allowed,
    /// By nobody.
    Forbidden,
}

fn is_allowed(glass: &BreakGlass) -> bool {
    *glass == BreakGlass::Allowed
}

fn is_normal(sod: &SeparationOfDuties) -> bool {
    *sod == SeparationOfDuties::Normal
}

/// One matched rule: an element of `data.tally.decisions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MatchedRule {
    /// What the rule wants.
    pub effect: Effect,
    /// The rule's id: `R-PROD-WRITE`.
    pub rule: String,
    /// The reason as a code: `prod_write`.
    pub reason: String,
    /// What must be kept.
    #[serde(default)]
    pub obligations: Obligations,
}

/// Which policy decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRef {
    /// The revision that control published, from 1. Zero: none.
    pub revision: u64,
    /// The digest of the bundle's bytes; of no bytes where there is no bundle.
    pub digest: Digest,
}

impl PolicyRef {
    /// No policy at all.
    pub fn none() -> Self {
        Self { revision: 0, digest: Digest::of(b"") }
    }
}

/// What policy says of an action.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// What is to happen.
    pub effect: Effect,
    /// Every rule that matched, in order of their ids.
    pub rules: Vec<String>,
    /// Why, as codes: those of the rules with the winning effect.
    pub reasons: Vec<String>,
    /// What must be kept: the union over all matched rules, the strictest of each.
    pub obligations: Obligations,
    /// Which policy decided.
    pub policy: PolicyRef,
    /// The digest of the input that was decided upon.
    pub input_digest: Digest,
}

/// Why there is no answer from policy. Each is a DENY with this reason code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoAnswer {
    /// No bundle was ever published.
    PolicyAbsent,
    /// No rule matched.
    PolicyNoMatch,
    /// The evaluation failed, or its result has another form than the contract's.
    PolicyError,
    /// The evaluation took too long.
    PolicyTimeout,
    /// Control has not confirmed the revision within its time to live.
    PolicyStale,
    /// The bundle carries no signature, or one by an unknown key.
    PolicyUnsigned,
    /// A file of the bundle differs from what was signed.
    PolicyTampered,
    /// In `prod`, a policy decides only where another principal than its author published it.
    PolicyUnreviewed,
    /// Two rules demand approvers that nobody can satisfy.
    PolicyContradiction,
}

impl NoAnswer {
    /// The reason code.
    pub fn code(self) -> &'static str {
        match self {
            Self::PolicyAbsent => "policy_absent",
            Self::PolicyNoMatch => "policy_no_match",
            Self::PolicyError => "policy_error",
            Self::PolicyTimeout => "policy_timeout",
            Self::PolicyStale => "policy_stale",
            Self::PolicyUnsigned => "policy_unsigned",
            Self::PolicyTampered => "policy_tampered",
            Self::PolicyUnreviewed => "policy_unreviewed",
            Self::PolicyContradiction => "policy_contradiction",
        }
    }
}

impl Decision {
    /// A refusal because policy gave no answer.
    pub fn deny(why: NoAnswer, policy: PolicyRef, input_digest: Digest) -> Self {
        Self {
            effect: Effect::Deny,
            rules: Vec::new(),
            reasons: vec![why.code().to_owned()],
            obligations: Obligations::default(),
            policy,
            input_digest,
        }
    }

    /// Whether the same request may be decided otherwise a little later, by itself. Such a
    /// decision is not remembered by an idempotency key.
    pub fn retryable(&self) -> bool {
        // A rule of the policy may use any reason code: that one is its own.
        let stale = self.rules.is_empty()
            && self.reasons.iter().any(|reason| reason == NoAnswer::PolicyStale.code());
        self.effect == Effect::Throttle || (self.effect == Effect::Deny && stale)
    }

    /// The same, put off by the server itself: it is beyond a bound for `ms` more. `code` says
    /// which: [`WRITE_CAP`] or [`CALL_CAP`].
    #[must_use]
    pub fn put_off(self, code: &str, ms: u64) -> Self {
        let obligations = Obligations { retry_after_ms: Some(ms), ..Obligations::default() };
        let (rules, reasons) = (Vec::new(), vec![code.to_owned()]);
        Self { effect: Effect::Throttle, rules, reasons, obligations, ..self }
    }

    /// Whether it was the server that put it off, and not a rule of policy.
    pub fn is_put_off(&self) -> bool {
        let by_server = self.effect == Effect::Throttle && self.rules.is_empty();
        by_server && self.reasons.iter().any(|reason| is_cap(reason))
    }

    /// The same, where those who ask want people to approve it besides: the stricter of both.
    /// What policy does not let through stays as it is.
    #[must_use]
    pub fn also_demanding(mut self, demand: &ApprovalDemand) -> Self {
        match self.effect {
            Effect::Allow => {
                self.effect = Effect::RequireApproval;
                self.reasons = vec![PLAN_APPROVAL.to_owned()];
                self.obligations.approval = Some(demand.clone());
                self
            }
            Effect::RequireApproval | Effect::RequireStepUp => {
                let own = self.obligations.approval.take().unwrap_or_default();
                match own.strictest(demand.clone()) {
                    Ok(both) => {
                        self.obligations.approval = Some(both);
                        self
                    }
                    Err(_) => {
                        Self::deny(NoAnswer::PolicyContradiction, self.policy, self.input_digest)
                    }
                }
            }
            _ => self,
        }
    }

    /// Combines every matched rule: the most restrictive effect wins, obligations are united.
    /// No rule, too many rules, or one without what its effect needs is a DENY.
    pub fn combine(mut matched: Vec<MatchedRule>, policy: PolicyRef, input_digest: Digest) -> Self {
        let deny = |why| Self::deny(why, policy.clone(), input_digest);
        if matched.is_empty() {
            return deny(NoAnswer::PolicyNoMatch);
        }
        if matched.len() > limits::RULES_PER_DECISION_MAX || !matched.iter().all(well_formed) {
            return deny(NoAnswer::PolicyError);
        }
        matched.sort_by(|a, b| (&a.rule, &a.reason, a.effect).cmp(&(&b.rule, &b.reason, b.effect)));
        let effect = matched.iter().map(|m| m.effect).max().unwrap_or(Effect::Deny);
        let mut rules: Vec<String> = matched.iter().map(|m| m.rule.clone()).collect();
        rules.dedup();
        let mut reasons: Vec<String> =
            matched.iter().filter(|m| m.effect == effect).map(|m| m.reason.clone()).collect();
        reasons.dedup();
        let Ok(mut obligations) = unite(matched) else {
            return deny(NoAnswer::PolicyContradiction);
        };
        match effect {
            Effect::RequireApproval | Effect::RequireStepUp => {
                obligations.approval.get_or_insert_default();
            }
            _ => obligations.approval = None,
        }
        if effect != Effect::Throttle {
            obligations.retry_after_ms = None;
        }
        if effect != Effect::Route {
            obligations.route = None;
        }
        Self { effect, rules, reasons, obligations, policy, input_digest }
    }
}

/// The reason of a decision that a bound on writes puts off.
pub const WRITE_CAP: &str = "write_cap";
/// The reason of a decision that the bound on calls of one operation puts off, which is in the
/// definition of its connector.
pub const CALL_CAP: &str = "call_cap";

/// Whether a code says that there was no room.
pub fn is_cap(code: &str) -> bool {
    [WRITE_CAP, CALL_CAP].contains(&code)
}

/// The reason of a decision that waits for people because the plan says so.
const PLAN_APPROVAL: &str = "plan_approval";

/// Whether a rule carries what its effect needs, within the limits.
fn well_formed(rule: &MatchedRule) -> bool {
    let named = |text: &str| !text.is_empty() && text.len() <= limits::RULE_BYTES_MAX;
    let demand = rule.obligations.approval.as_ref().is_none_or(ApprovalDemand::well_formed);
    let complete = match rule.effect {
        Effect::Throttle => rule.obligations.retry_after_ms.is_some(),
        Effect::Route => rule.obligations.route.is_some(),
        _ => true,
    };
    named(&rule.rule) && named(&rule.reason) && demand && complete
}

/// The union of all obligations, the strictest of each.
fn unite(matched: Vec<MatchedRule>) -> Result<Obligations, Contradiction> {
    let mut all = Obligations::default();
    for rule in matched {
        let one = rule.obligations;
        all.approval = match (all.approval.take(), one.approval) {
            (Some(a), Some(b)) => Some(a.strictest(b)?),
            (a, b) => a.or(b),
        };
        all.sod = all.sod.max(one.sod);
        all.break_glass = all.break_glass.max(one.break_glass);
        all.retry_after_ms = all.retry_after_ms.max(one.retry_after_ms);
        all.route = all.route.or(one.route);
        all.max_cost_micro_usd = match (all.max_cost_micro_usd, one.max_cost_micro_usd) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
    Ok(all)
}

/// When in an action's life it is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// When it is submitted.
    Submit,
    /// Just before it runs.
    Execute,
    /// When the tool changed it (a redirect, a host call).
    Effect,
    /// Without parameters: is the tool callable at all?
    List,
}

/// What policy decides upon. Every field is always present, so that an expression on it can
/// never be undefined for want of a field.
#[derive(Clone, Debug, Serialize)]
pub struct DecisionInput<'a> {
    /// When in its life.
    pub phase: Phase,
    /// From the credential.
    pub tenant: &'a TenantId,
    /// From the credential.
    pub workspace: &'a WorkspaceId,
    /// From the credential.
    pub environment: &'a EnvironmentId,
    /// Who acts.
    pub principal: InputPrincipal<'a>,
    /// Who acts for whom.
    pub actor_chain: &'a [Actor],
    /// With which tool.
    pub tool: InputTool<'a>,
    /// With which parameters.
    pub params: &'a RawJson,
    /// What the agent says of it. Can raise risk, never lower it.
    pub claims: &'a RawJson,
    /// How risky.
    pub risk: &'a Risk,
    /// What it may cost and what is left.
    pub budget: InputBudget,
    /// The approval that it has, if any.
    pub approval: Option<InputApproval>,
    /// How the server itself stands to it.
    pub operational: InputOperational,
    /// When.
    pub now: InputTime,
    /// The run whose step it is; `null` outside runs.
    pub run: Option<&'a InputRun>,
}

/// The acting principal, as policy sees it.
#[derive(Clone, Debug, Serialize)]
pub struct InputPrincipal<'a> {
    /// Who.
    pub id: &'a PrincipalId,
    /// What it is.
    pub kind: PrincipalKind,
    /// Its roles.
    pub roles: &'a BTreeSet<Role>,
}

/// The tool, as policy sees it.
#[derive(Clone, Debug, Serialize)]
pub struct InputTool<'a> {
    /// Which.
    pub id: &'a ToolId,
    /// Its labels for these parameters.
    pub labels: &'a BTreeSet<String>,
    /// The digest of its manifest.
    pub digest: Digest,
}

/// The budget, as policy sees it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InputBudget {
    /// What the account has left; `null` where no account applies.
    pub remaining_micro_usd: Option<MicroUsd>,
    /// The worst case of this action.
    pub estimate_micro_usd: MicroUsd,
}

/// An approval, as policy sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputApproval {
    /// How many approved.
    pub approvals: u32,
    /// Whether each proved a second factor.
    pub step_up: bool,
}

/// How the server itself stands to an action, as policy sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InputOperational {
    /// Whether the bounds on writes leave room for it now. Of what does not count as a write, they
    /// always do.
    pub within_write_caps: bool,
}

impl Default for InputOperational {
    fn default() -> Self {
        Self { within_write_caps: true }
    }
}

/// A run, as policy sees it. None of it comes from who started the run: an inline plan is of no
/// workflow, whatever it is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InputRun {
    /// Which.
    pub id: RunId,
    /// The kept workflow that it is of.
    pub workflow: Option<WorkflowId>,
    /// Which version of it.
    pub version: Option<Version>,
    /// By which release.
    pub release: Option<ReleaseId>,
    /// `canary` or `all`.
    pub ring: Option<&'static str>,
    /// The steps that succeeded, of which people approved every call.
    pub approved_steps: Vec<StepId>,
}

/// The time, as policy sees it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct InputTime {
    /// Microseconds since 1970.
    pub epoch_us: i64,
    /// 0 to 23.
    pub hour_utc: u8,
    /// 1 (Monday) to 7.
    pub weekday: u8,
}

impl From<Timestamp> for InputTime {
    fn from(at: Timestamp) -> Self {
        Self { epoch_us: at.0, hour_utc: at.hour_utc(), weekday: at.weekday() }
    }
}

/// Where decisions come from. It never fails: what goes wrong is a DENY that says so.
pub trait DecisionPoint: Send + Sync {
    /// Decides one action.
    fn decide(&self, input: &DecisionInput<'_>) -> Decision;

    /// Decides whether a tool is callable at all, from an input without parameters
    /// (`data.tally.listing`).
    fn list(&self, input: &DecisionInput<'_>) -> Decision;

    /// The policy that would decide for `tenant` now.
    fn current(&self, tenant: &TenantId) -> PolicyRef;
}
