//! Every state machine behind one door: `step` turns an input into changes, `apply` folds them.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::failure::{Category, Failure};
use crate::ids::AccountId;
use crate::values::{MicroUsd, Timestamp};
use crate::{
    account, action, approval, control, factor, identity, reservation, secret, session, signer,
    signing_key, upstream, upstream_tool, wasm_tool,
};

/// What kind of thing a stream is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// An action.
    Action,
    /// An approval.
    Approval,
    /// An account.
    Account,
    /// A reserved idempotency key.
    Idempotency,
    /// A tenant (in the system log).
    Tenant,
    /// A workspace.
    Workspace,
    /// A principal.
    Principal,
    /// An API key.
    Key,
    /// A drafted policy.
    Policy,
    /// The policies that were in force.
    PolicyHistory,
    /// A principal's second factor.
    Factor,
    /// A principal's signing keys.
    Signer,
    /// A key that signs the log's receipts.
    SigningKey,
    /// A session.
    Session,
    /// The key that signs tokens (in the system log).
    TokenKey,
    /// A login elsewhere and whose it is.
    Identity,
    /// A secret that upstreams are shown.
    Secret,
    /// An MCP server.
    Upstream,
    /// A tool of an MCP server.
    UpstreamTool,
    /// A tool that is run in a sandbox.
    WasmTool,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 20] = [
        Self::Action,
        Self::Approval,
        Self::Account,
        Self::Idempotency,
        Self::Tenant,
        Self::Workspace,
        Self::Principal,
        Self::Key,
        Self::Policy,
        Self::PolicyHistory,
        Self::Factor,
        Self::Signer,
        Self::SigningKey,
        Self::Session,
        Self::TokenKey,
        Self::Identity,
        Self::Secret,
        Self::Upstream,
        Self::UpstreamTool,
        Self::WasmTool,
    ];

    /// The name in streams and rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Action => "action",
            Self::Approval => "approval",
            Self::Account => "account",
            Self::Idempotency => "idempotency",
            Self::Tenant => "tenant",
            Self::Workspace => "workspace",
            Self::Principal => "principal",
            Self::Key => "key",
            Self::Policy => "policy",
            Self::PolicyHistory => "policy_history",
            Self::Factor => "factor",
            Self::Signer => "signer",
            Self::SigningKey => "signing_key",
            Self::Session => "session",
            Self::TokenKey => "token_key",
            Self::Identity => "identity",
            Self::Secret => "secret",
            Self::Upstream => "upstream",
            Self::UpstreamTool => "upstream_tool",
            Self::WasmTool => "wasm_tool",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// One thing that changes: `action/act_01…`. Its changes are numbered from 1 without a gap.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stream {
    /// What kind of thing.
    pub kind: Kind,
    /// Which.
    pub id: Arc<str>,
}

impl Stream {
    /// The stream of one thing.
    pub fn new(kind: Kind, id: impl AsRef<str>) -> Self {
        Self { kind, id: id.as_ref().into() }
    }
}

impl std::fmt::Display for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.kind.as_str(), self.id)
    }
}

impl Serialize for Stream {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Stream {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let (kind, id) = text
            .split_once('/')
            .ok_or_else(|| serde::de::Error::custom("a stream is `kind/id`"))?;
        let kind = Kind::parse(kind)
            .ok_or_else(|| serde::de::Error::custom(format!("unknown stream kind `{kind}`")))?;
        Ok(Self { kind, id: id.into() })
    }
}

/// A change of any machine, as receipts carry it: an object whose `type` says which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Change {
    /// Of an action.
    Action(action::Change),
    /// Of an approval.
    Approval(approval::Change),
    /// Of an account.
    Account(account::Change),
    /// Of a reserved idempotency key.
    Reservation(reservation::Change),
    /// Of something of the control plane.
    Control(control::Change),
    /// Of a second factor.
    Factor(factor::Change),
    /// Of a principal's signing keys.
    Signer(signer::Change),
    /// Of a key that signs the log's receipts.
    SigningKey(signing_key::Change),
    /// Of a session.
    Session(session::Change),
    /// Of a login elsewhere.
    Identity(identity::Change),
    /// Of a secret.
    Secret(secret::Change),
    /// Of an MCP server.
    Upstream(upstream::Change),
    /// Of a tool of an MCP server.
    UpstreamTool(upstream_tool::Change),
    /// Of a tool that is run in a sandbox.
    WasmTool(wasm_tool::Change),
}

/// An input to any machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// To an action.
    Action(action::Input),
    /// To an approval.
    Approval(approval::Input),
    /// To an account.
    Account(account::Input),
    /// To a reservation.
    Reserve(reservation::Input),
    /// To something of the control plane.
    Control(control::Input),
    /// To a second factor.
    Factor(factor::Input),
    /// To a principal's signing keys.
    Signer(signer::Input),
    /// To a key that signs the log's receipts.
    SigningKey(signing_key::Input),
    /// To a session.
    Session(session::Input),
    /// To a login elsewhere.
    Identity(identity::Input),
    /// To a secret.
    Secret(secret::Input),
    /// To an MCP server.
    Upstream(upstream::Input),
    /// To a tool of an MCP server.
    UpstreamTool(upstream_tool::Input),
    /// To a tool that is run in a sandbox.
    WasmTool(wasm_tool::Input),
}

/// An input and what it is for. A batch of commands is carried out whole or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// For which thing.
    pub stream: Stream,
    /// What is asked of it.
    pub input: Input,
}

impl Command {
    /// Asks `input` of `id`.
    pub fn new(kind: Kind, id: impl AsRef<str>, input: Input) -> Self {
        Self { stream: Stream::new(kind, id), input }
    }
}

/// The state of any machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Of an action.
    Action(action::Action),
    /// Of an approval.
    Approval(approval::Approval),
    /// Of an account.
    Account(account::Account),
    /// Of a reserved idempotency key.
    Reservation(reservation::Reservation),
    /// Of something of the control plane.
    Control(control::Entity),
    /// Of a second factor.
    Factor(factor::Factor),
    /// Of a principal's signing keys.
    Signer(signer::Signer),
    /// Of a key that signs the log's receipts.
    SigningKey(signing_key::SigningKey),
    /// Of a session.
    Session(session::Session),
    /// Of a login elsewhere.
    Identity(identity::Identity),
    /// Of a secret.
    Secret(secret::Secret),
    /// Of an MCP server.
    Upstream(upstream::Upstream),
    /// Of a tool of an MCP server.
    UpstreamTool(upstream_tool::UpstreamTool),
    /// Of a tool that is run in a sandbox.
    WasmTool(wasm_tool::WasmTool),
}

/// Where a change came from.
#[derive(Clone, Copy, Debug)]
pub struct Applied<'a> {
    /// The id of the stream.
    pub id: &'a str,
    /// The log index of the receipt.
    pub index: u64,
    /// The time of the receipt.
    pub time: Timestamp,
}

/// Why a machine refuses an input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such thing.
    #[error("there is no such thing")]
    Absent,
    /// There is one already.
    #[error("it exists already")]
    Exists,
    /// Its present state does not allow it.
    #[error("its state is `{0}`, which does not allow this")]
    State(&'static str),
    /// The input itself is wrong.
    #[error("{0}")]
    InvalidInput(&'static str),
    /// The action was retried: this outcome is of an earlier attempt.
    #[error("a later attempt has replaced this one")]
    Fenced,
    /// The attempt is still under way.
    #[error("the attempt is still under way")]
    LeaseHeld,
    /// Too early.
    #[error("it is not due yet")]
    NotDue,
    /// A revision changed or time passed since the decision.
    #[error("the decision is no longer fresh: decide again")]
    DecisionStale,
    /// The approval that the decision demands is not used in this commit.
    #[error("the approval that the decision demands is missing")]
    ApprovalMissing,
    /// The action waits for another approval.
    #[error("the action waits for another approval")]
    OtherApproval,
    /// Nothing was held for an action that costs something.
    #[error("the worst case of the cost is not held")]
    HoldMissing,
    /// The requester may not approve.
    #[error("who asked for an action may not approve it")]
    SelfApproval,
    /// Not among those who may approve this.
    #[error("this principal is not among those who may approve this")]
    NotAnApprover,
    /// Nobody speaks twice.
    #[error("this principal has already decided")]
    AlreadyDecided,
    /// A second factor must be proven.
    #[error("approving this takes a second factor")]
    StepUpRequired,
    /// A second factor must be taken into use first.
    #[error("this principal has no confirmed second factor: enroll one")]
    StepUpNotEnrolled,
    /// A code is good once.
    #[error("this code, or a later one, has been used: wait for the next")]
    StepUpReplayed,
    /// Too many wrong codes.
    #[error("too many wrong codes: the second factor is locked for some minutes")]
    StepUpLocked,
    /// The stage is complete, or waits for one before it.
    #[error("the stage in which this principal may speak is not open")]
    StageNotOpen,
    /// The say is somebody else's now.
    #[error("this principal has handed over their say")]
    SayDelegated,
    /// A say cannot be handed over like this.
    #[error("{0}")]
    DelegationRefused(&'static str),
    /// Approving less must be less.
    #[error("narrow: only a shorter time and fewer attempts than the approval would allow")]
    NarrowWidens,
    /// The approver must sign.
    #[error("approving this takes a signature by a registered key of the approver's own")]
    SignatureRequired,
    /// Policy lets no emergency take the place of this approval.
    #[error("policy lets nobody break glass here")]
    GlassForbidden,
    /// An approval is used once.
    #[error("the approval has been used")]
    ApprovalUsed,
    /// An approval ends.
    #[error("the approval has expired")]
    ApprovalExpired,
    /// The digest is not that of the plan.
    #[error("the plan digest is not the one that was requested: read the approval again")]
    OtherPlan,
    /// The budget does not cover it.
    #[error("account `{account}` has {available} left, {needed} are needed")]
    BudgetExceeded {
        /// Which account.
        account: AccountId,
        /// What it has left.
        available: MicroUsd,
        /// What was needed.
        needed: MicroUsd,
    },
    /// The account pays for nothing.
    #[error("the account is frozen after a charge beyond its hold")]
    AccountFrozen,
    /// Too many actions hold money of one account.
    #[error("the account has too many open holds")]
    TooManyHolds,
    /// A sum would leave the range.
    #[error("the amount is out of range: 1 to 10^15 micro-USD, sums below 2^63")]
    Overflow,
    /// The same request came before.
    #[error("the same request came before and made `{target}`")]
    Duplicate {
        /// What it made.
        target: String,
    },
    /// The same key came before with another body.
    #[error("the idempotency key came before with another body: use a new key")]
    KeyReused,
    /// Somebody else was faster.
    #[error("it has changed since it was read: read it again")]
    Moved,
    /// An input for one kind of thing was sent to another.
    #[error("the input does not fit the kind of thing")]
    KindMismatch,
}

impl Refusal {
    /// Its stable code and category.
    pub fn code(&self) -> (&'static str, Category) {
        match self {
            Self::Absent => ("not_found", Category::NotFound),
            Self::Exists => ("already_exists", Category::Conflict),
            Self::State(_) => ("state_conflict", Category::Conflict),
            Self::InvalidInput(_) => ("invalid_argument", Category::Validation),
            Self::Fenced => ("attempt_fenced", Category::Conflict),
            Self::LeaseHeld => ("lease_held", Category::Conflict),
            Self::NotDue => ("not_due", Category::Conflict),
            Self::DecisionStale => ("decision_stale", Category::Conflict),
            Self::ApprovalMissing => ("approval_missing", Category::Conflict),
            Self::OtherApproval => ("other_approval", Category::Conflict),
            Self::HoldMissing => ("hold_missing", Category::Budget),
            Self::SelfApproval => ("self_approval", Category::Permission),
            Self::NotAnApprover => ("not_an_approver", Category::Permission),
            Self::AlreadyDecided => ("already_decided", Category::Conflict),
            Self::StepUpRequired => ("step_up_required", Category::Permission),
            Self::StepUpNotEnrolled => ("step_up_not_enrolled", Category::Permission),
            Self::StepUpReplayed => ("step_up_replayed", Category::Permission),
            Self::StepUpLocked => ("step_up_locked", Category::Permission),
            Self::StageNotOpen => ("stage_not_open", Category::Conflict),
            Self::SayDelegated => ("say_delegated", Category::Conflict),
            Self::DelegationRefused(_) => ("delegation_refused", Category::Permission),
            Self::NarrowWidens => ("narrow_widens", Category::Validation),
            Self::SignatureRequired => ("signature_required", Category::Permission),
            Self::GlassForbidden => ("break_glass_forbidden", Category::Permission),
            Self::ApprovalUsed => ("approval_used", Category::Conflict),
            Self::ApprovalExpired => ("approval_expired", Category::Conflict),
            Self::OtherPlan => ("plan_digest_mismatch", Category::Conflict),
            Self::BudgetExceeded { .. } => ("budget_exceeded", Category::Budget),
            Self::AccountFrozen => ("account_frozen", Category::Budget),
            Self::TooManyHolds => ("too_many_holds", Category::RateLimited),
            Self::Overflow => ("amount_out_of_range", Category::Validation),
            Self::Duplicate { .. } => ("duplicate", Category::Conflict),
            Self::KeyReused => ("idempotency_conflict", Category::Conflict),
            Self::Moved => ("version_conflict", Category::Conflict),
            Self::KindMismatch => ("kind_mismatch", Category::Internal),
        }
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let (code, category) = refusal.code();
        Self::new(category, code, refusal.to_string())
    }
}

/// The changes that `input` makes to a thing in `state`, or why it makes none. Pure.
pub fn step(state: Option<&State>, input: Input, now: Timestamp) -> Result<Vec<Change>, Refusal> {
    macro_rules! of {
        ($variant:ident) => {
            match state {
                None => None,
                Some(State::$variant(state)) => Some(state),
                Some(_) => return Err(Refusal::KindMismatch),
            }
        };
    }
    match input {
        Input::Action(input) => {
            let changes = action::step(of!(Action), input, now)?;
            Ok(changes.into_iter().map(Change::Action).collect())
        }
        Input::Approval(input) => {
            let change = approval::step(of!(Approval), input, now)?;
            Ok(vec![Change::Approval(change)])
        }
        Input::Account(input) => {
            let changes = account::step(of!(Account), input)?;
            Ok(changes.into_iter().map(Change::Account).collect())
        }
        Input::Reserve(input) => {
            let change = reservation::step(of!(Reservation), input, now)?;
            Ok(vec![Change::Reservation(change)])
        }
        Input::Control(input) => {
            let change = control::step(of!(Control), input)?;
            Ok(vec![Change::Control(change)])
        }
        Input::Factor(input) => {
            let change = factor::step(of!(Factor), input, now)?;
            Ok(vec![Change::Factor(change)])
        }
        Input::Signer(input) => {
            let change = signer::step(of!(Signer), input)?;
            Ok(vec![Change::Signer(change)])
        }
        Input::SigningKey(input) => {
            let change = signing_key::step(of!(SigningKey), input)?;
            Ok(vec![Change::SigningKey(change)])
        }
        Input::Session(input) => {
            let change = session::step(of!(Session), input, now)?;
            Ok(vec![Change::Session(change)])
        }
        Input::Identity(input) => {
            let change = identity::step(of!(Identity), input)?;
            Ok(vec![Change::Identity(change)])
        }
        Input::Secret(input) => {
            let change = secret::step(of!(Secret), input)?;
            Ok(vec![Change::Secret(change)])
        }
        Input::Upstream(input) => {
            let change = upstream::step(of!(Upstream), input)?;
            Ok(vec![Change::Upstream(change)])
        }
        Input::UpstreamTool(input) => {
            let change = upstream_tool::step(of!(UpstreamTool), input)?;
            Ok(change.map(Change::UpstreamTool).into_iter().collect())
        }
        Input::WasmTool(input) => {
            let change = wasm_tool::step(of!(WasmTool), input)?;
            Ok(vec![Change::WasmTool(change)])
        }
    }
}

/// Folds one change into a state. Total: a change that does not fit leaves it as it was.
pub fn apply(state: &mut Option<State>, change: &Change, applied: &Applied<'_>) {
    macro_rules! fold {
        ($module:ident, $variant:ident, $change:expr) => {{
            let mut inner = match state.take() {
                None => None,
                Some(State::$variant(inner)) => Some(inner),
                Some(other) => {
                    *state = Some(other);
                    return;
                }
            };
            $module::apply(&mut inner, $change, applied);
            *state = inner.map(State::$variant);
        }};
    }
    match change {
        Change::Action(change) => fold!(action, Action, change),
        Change::Approval(change) => fold!(approval, Approval, change),
        Change::Account(change) => fold!(account, Account, change),
        Change::Reservation(change) => fold!(reservation, Reservation, change),
        Change::Control(change) => fold!(control, Control, change),
        Change::Factor(change) => fold!(factor, Factor, change),
        Change::Signer(change) => fold!(signer, Signer, change),
        Change::SigningKey(change) => fold!(signing_key, SigningKey, change),
        Change::Session(change) => fold!(session, Session, change),
        Change::Identity(change) => fold!(identity, Identity, change),
        Change::Secret(change) => fold!(secret, Secret, change),
        Change::Upstream(change) => fold!(upstream, Upstream, change),
        Change::UpstreamTool(change) => fold!(upstream_tool, UpstreamTool, change),
        Change::WasmTool(change) => fold!(wasm_tool, WasmTool, change),
    }
}

impl State {
    /// A short word for where it stands, for lists.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Action(action) => action.status.as_str(),
            Self::Approval(approval) => approval.status.as_str(),
            Self::Account(account) if account.frozen => "frozen",
            Self::Factor(factor) => factor.status.as_str(),
            Self::Control(control::Entity::Principal(p)) if p.disabled => "disabled",
            Self::Control(control::Entity::Key(key)) if key.revoked => "revoked",
            Self::Control(control::Entity::Tenant(t)) if t.suspended => "suspended",
            Self::Session(session) if session.ended => "ended",
            Self::Identity(identity) if identity.principal.is_none() => "unlinked",
            Self::Secret(secret) if secret.removed => "removed",
            Self::Upstream(upstream) if upstream.removed => "removed",
            Self::UpstreamTool(tool) => tool.status.as_str(),
            Self::WasmTool(tool) => tool.status().as_str(),
            _ => "active",
        }
    }

    /// When somebody must look at it again, if ever: the queue of work is made of this.
    pub fn due(&self) -> Option<Timestamp> {
        match self {
            Self::Action(action) => action.due(),
            Self::Approval(approval) => approval.due(),
            _ => None,
        }
    }
}
