//! The form of `run.json`. Times are microseconds since 1970; `receipt` is the index of the receipt
//! that says so.

use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

use super::Governance;
use crate::action::{self, FailureCode};
use crate::approval;
use crate::decision::{ApprovalDemand, Effect, Phase, PolicyRef};
use crate::ids::{
    AccountId, ActionId, ApprovalId, EnvironmentId, PrincipalId, RunId, StepId, ToolId,
};
use crate::principal::{ActorChain, Role};
use crate::risk::Risk;
use crate::run::{self, Pinned, StepStatus, Trigger};
use crate::units::Units;
use crate::values::{Digest, MicroUsd, Timestamp};

/// All that a run did.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// [`super::TYPE`].
    #[serde(rename = "type")]
    pub form: &'static str,
    /// The origin of the log.
    pub log: String,
    /// The run itself.
    pub run: RunPart,
    /// What it was bound to.
    pub pins: Pins,
    /// Its steps, in their order.
    pub steps: Vec<StepPart>,
    /// Its actions, those of the code that they ran, and those that undid any of them, in the order
    /// in which they were asked for.
    pub actions: Vec<ActionPart>,
    /// Their approvals.
    pub approvals: Vec<ApprovalPart>,
    /// What the control log says of the workflow, its release and the policies that decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub governance: Option<Governance>,
    /// The idempotency keys that were used up for it.
    pub idempotency_keys: Vec<KeyPart>,
    /// What its steps came to: what its meters and its own account say too.
    pub total: Total,
    /// What the actions of code came to that its steps ran.
    pub total_of_code: Total,
    /// What the actions came to that undid others of these.
    pub total_of_reversals: Total,
    /// The receipts that tell of it.
    pub receipts: Vec<u64>,
}

/// The run itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct RunPart {
    /// Which.
    pub id: RunId,
    /// Where it stands.
    pub status: run::Status,
    /// What started it.
    pub trigger: Trigger,
    /// The run that it repeats.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<RunId>,
    /// Where it acts.
    pub environment: EnvironmentId,
    /// Who acts for whom.
    pub actors: ActorChain,
    /// The digest of its document: plan, input and 128 random bits.
    pub document: Digest,
    /// The account that its steps pay from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account: Option<AccountId>,
    /// What it could spend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget_micro_usd: Option<MicroUsd>,
    /// How many of its calls could write.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writes_max: Option<u32>,
    /// How many did.
    pub writes: u32,
    /// How often it was replayed.
    pub replays: u32,
    /// When it was asked for.
    pub requested_us: Timestamp,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<Timestamp>,
    /// Why it failed, or is about to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// Whether its content was deleted.
    pub content_dropped: bool,
}

/// What a run was bound to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pins {
    /// The workflow, by version and digest, the release and the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<Pinned>,
    /// The digests of the manifests of its tools.
    pub tools: BTreeMap<String, BTreeSet<Digest>>,
    /// The digests of the policies that decided, by revision.
    pub policies: BTreeMap<u64, Digest>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct StepPart {
    /// Its name.
    pub step: StepId,
    /// What it ran together with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<StepId>,
    /// How often it was to call its tool.
    pub iterations: u32,
    /// Where it stands.
    pub status: StepStatus,
    /// Whether it did not have to run.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// What its actions cost.
    pub cost_micro_usd: MicroUsd,
    /// Its actions, in their order.
    pub actions: Vec<ActionId>,
}

/// What policy said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DecisionPart {
    /// Where that is.
    pub receipt: u64,
    /// When.
    pub at_us: Timestamp,
    /// When in the action's life.
    pub phase: Phase,
    /// What was to happen.
    pub effect: Effect,
    /// What followed.
    pub status: action::Status,
    /// Every rule that matched.
    pub rules: Vec<String>,
    /// Why, as codes.
    pub reasons: Vec<String>,
    /// Which policy.
    pub policy: PolicyRef,
    /// The digest of what was decided upon.
    pub input_digest: Digest,
}

/// One attempt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AttemptPart {
    /// From 1.
    pub number: u32,
    /// Where its permit is.
    pub receipt: u64,
    /// When it began.
    pub began_us: Timestamp,
    /// Where its end is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_receipt: Option<u64>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_us: Option<Timestamp>,
    /// `executed`, `failed` or `unknown`; `approved` where another followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<action::Status>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// The salted commitment of what it gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<Digest>,
    /// The bytes of what it gave.
    pub output_bytes: u64,
    /// What it cost, as the attempt told it.
    pub cost_micro_usd: MicroUsd,
    /// What it used.
    #[serde(skip_serializing_if = "Units::is_empty")]
    pub units: Units,
}

/// One action: a line of the transcript, without its content.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActionPart {
    /// Which.
    pub action: ActionId,
    /// The call of the run that it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<StepId>,
    /// Which of the step's calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iteration: Option<u32>,
    /// The execution whose code asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub execution: Option<ActionId>,
    /// The tool.
    pub tool: ToolId,
    /// The digest of its manifest.
    pub tool_digest: Digest,
    /// The tool that was asked for, where policy routed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routed_from: Option<ToolId>,
    /// Who acts for whom.
    pub actors: ActorChain,
    /// The digest of its document, in which the parameters stand.
    pub action_digest: Digest,
    /// What was approved and ran.
    pub plan_digest: Digest,
    /// How risky.
    pub risk: Risk,
    /// The worst case of its cost.
    pub estimate_micro_usd: MicroUsd,
    /// When it was asked for.
    pub requested_us: Timestamp,
    /// What policy said, each time.
    pub decisions: Vec<DecisionPart>,
    /// The approvals that it asked for.
    pub approvals: Vec<ApprovalId>,
    /// Its attempts.
    pub attempts: Vec<AttemptPart>,
    /// Where it stands.
    pub status: action::Status,
    /// Why it did not go well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
    /// Who established an outcome that was not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reconciled_by: Option<PrincipalId>,
    /// Who withdrew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub canceled_by: Option<PrincipalId>,
    /// What it cost in all.
    pub cost_micro_usd: MicroUsd,
    /// What it used in all.
    #[serde(skip_serializing_if = "Units::is_empty")]
    pub units: Units,
    /// The action that it undoes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverses: Option<ActionId>,
    /// What came of undoing it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reversals: Vec<ReversalPart>,
}

/// Where undoing an action stood at one time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReversalPart {
    /// Where that is.
    pub receipt: u64,
    /// When.
    pub at_us: Timestamp,
    /// The action that undoes it.
    pub by: ActionId,
    /// What became of that.
    pub state: Undone,
}

/// What became of undoing an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// It is under way.
    Begun,
    /// The action is undone.
    Reversed,
    /// It came to nothing: the action stands.
    Ended,
}

/// What one person said.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct VotePart {
    /// Where that is.
    pub receipt: u64,
    /// When.
    pub at_us: Timestamp,
    /// Who.
    pub by: PrincipalId,
    /// With which roles.
    pub roles: BTreeSet<Role>,
    /// What.
    pub verdict: approval::Verdict,
    /// In which stage.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stage: String,
    /// Whose say it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delegated_by: Option<PrincipalId>,
    /// Whether a second factor was proven.
    pub step_up: bool,
    /// Why not, as a code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason_code: Option<String>,
    /// The key of the approver's own signature, which is in the receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signed_by: Option<Digest>,
}

/// One approval.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ApprovalPart {
    /// Which.
    pub approval: ApprovalId,
    /// The action that asked.
    pub action: ActionId,
    /// What people saw.
    pub plan_digest: Digest,
    /// What was needed.
    pub demand: ApprovalDemand,
    /// Whether each had to prove a second factor.
    pub step_up: bool,
    /// When it was asked for.
    pub requested_us: Timestamp,
    /// Where it stands.
    pub status: approval::Status,
    /// What people said.
    pub votes: Vec<VotePart>,
    /// Who broke glass in their place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub glass_broken_by: Option<PrincipalId>,
    /// When it was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_us: Option<Timestamp>,
}

/// An idempotency key that was reserved.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct KeyPart {
    /// The digest of the key within its scope.
    pub key: String,
    /// What it was used for: the run, or an action.
    pub target: String,
    /// The digest of the request.
    pub body: Digest,
}

/// What some actions came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Total {
    /// How many.
    pub actions: u64,
    /// What they cost.
    pub cost_micro_usd: MicroUsd,
    /// What they used.
    pub units: Units,
}
