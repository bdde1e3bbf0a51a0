//! Every state machine behind one door: `step` turns an input into changes, `apply` folds them.

mod stream;

pub use stream::Stream;

use serde::{Deserialize, Serialize};

use crate::values::Timestamp;
use crate::{
    account, action, approval, card, connector, control, delivery, factor, identity, meter,
    release, reservation, run, secret, session, signer, signing_key, transfer, trigger, upstream,
    upstream_tool, use_case, wasm_tool, workflow_registry,
};

mod refusal;

pub use refusal::Refusal;

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
    /// Sums over actions. Follows from their changes and has none of its own.
    Meter,
    /// A run.
    Run,
    /// An instance of a connector.
    Connector,
    /// A workflow that is kept.
    Workflow,
    /// A release of a workflow.
    Release,
    /// What a workflow is for.
    UseCase,
    /// What starts runs.
    Trigger,
    /// Where people are asked outside of Tally.
    Card,
    /// A delivery that started no run.
    Delivery,
    /// Money on its way from or to another workspace.
    Transfer,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 30] = [
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
        Self::Meter,
        Self::Run,
        Self::Connector,
        Self::Workflow,
        Self::Release,
        Self::UseCase,
        Self::Trigger,
        Self::Card,
        Self::Delivery,
        Self::Transfer,
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
            Self::Meter => "meter",
            Self::Run => "run",
            Self::Connector => "connector",
            Self::Workflow => "workflow",
            Self::Release => "release",
            Self::UseCase => "use_case",
            Self::Trigger => "trigger",
            Self::Card => "card",
            Self::Delivery => "delivery",
            Self::Transfer => "transfer",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
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
    /// Of a run.
    Run(run::Change),
    /// Of an instance of a connector.
    Connector(connector::Change),
    /// Of a workflow that is kept.
    Workflow(workflow_registry::Change),
    /// Of a release.
    Release(release::Change),
    /// Of a use case.
    UseCase(use_case::Change),
    /// Of a trigger.
    Trigger(trigger::Change),
    /// Of a card.
    Card(card::Change),
    /// Of a delivery that started no run.
    Delivery(delivery::Change),
    /// Of a transfer.
    Transfer(transfer::Change),
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
    /// To a run.
    Run(run::Input),
    /// To an instance of a connector.
    Connector(connector::Input),
    /// To a workflow that is kept.
    Workflow(workflow_registry::Input),
    /// To a release.
    Release(release::Input),
    /// To a use case.
    UseCase(use_case::Input),
    /// To a trigger.
    Trigger(trigger::Input),
    /// To a card.
    Card(card::Input),
    /// To a delivery that started no run.
    Delivery(delivery::Input),
    /// To a transfer.
    Transfer(transfer::Input),
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
    /// Sums over actions.
    Meter(meter::Meter),
    /// Of a run.
    Run(run::Run),
    /// Of an instance of a connector.
    Connector(connector::Connector),
    /// Of a workflow that is kept.
    Workflow(workflow_registry::Workflow),
    /// Of a release.
    Release(release::Release),
    /// Of a use case.
    UseCase(use_case::UseCase),
    /// Of a trigger.
    Trigger(trigger::Trigger),
    /// Of a card.
    Card(card::Card),
    /// Of a delivery that started no run.
    Delivery(delivery::Delivery),
    /// Of a transfer.
    Transfer(transfer::Transfer),
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
    macro_rules! one {
        ($module:ident, $variant:ident, $input:expr) => {
            Ok(vec![Change::$variant($module::step(of!($variant), $input)?)])
        };
    }
    match input {
        Input::Action(input) => Ok(all(action::step(of!(Action), input, now)?, Change::Action)),
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
        Input::Control(input) => one!(control, Control, input),
        Input::Factor(input) => {
            let change = factor::step(of!(Factor), input, now)?;
            Ok(vec![Change::Factor(change)])
        }
        Input::Signer(input) => one!(signer, Signer, input),
        Input::SigningKey(input) => one!(signing_key, SigningKey, input),
        Input::Session(input) => {
            let change = session::step(of!(Session), input, now)?;
            Ok(vec![Change::Session(change)])
        }
        Input::Identity(input) => one!(identity, Identity, input),
        Input::Secret(input) => one!(secret, Secret, input),
        Input::Upstream(input) => one!(upstream, Upstream, input),
        Input::UpstreamTool(input) => {
            let change = upstream_tool::step(of!(UpstreamTool), input)?;
            Ok(change.map(Change::UpstreamTool).into_iter().collect())
        }
        Input::WasmTool(input) => one!(wasm_tool, WasmTool, input),
        Input::Run(input) => Ok(all(run::step(of!(Run), input, now)?, Change::Run)),
        Input::Connector(input) => one!(connector, Connector, input),
        Input::Workflow(input) => one!(workflow_registry, Workflow, input),
        Input::Release(input) => one!(release, Release, input),
        Input::UseCase(input) => one!(use_case, UseCase, input),
        Input::Trigger(input) => one!(trigger, Trigger, input),
        Input::Card(input) => one!(card, Card, input),
        Input::Delivery(input) => one!(delivery, Delivery, input),
        Input::Transfer(input) => one!(transfer, Transfer, input),
    }
}

fn all<T>(changes: Vec<T>, change: impl Fn(T) -> Change) -> Vec<Change> {
    changes.into_iter().map(change).collect()
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
        Change::Run(change) => fold!(run, Run, change),
        Change::Connector(change) => fold!(connector, Connector, change),
        Change::Workflow(change) => fold!(workflow_registry, Workflow, change),
        Change::Release(change) => fold!(release, Release, change),
        Change::UseCase(change) => fold!(use_case, UseCase, change),
        Change::Trigger(change) => fold!(trigger, Trigger, change),
        Change::Card(change) => fold!(card, Card, change),
        Change::Delivery(change) => fold!(delivery, Delivery, change),
        Change::Transfer(change) => fold!(transfer, Transfer, change),
    }
}

impl State {
    /// A short word for where it stands, for lists.
    pub fn status(&self) -> &'static str {
        match self {
            Self::Action(action) => action.status.as_str(),
            Self::Approval(approval) => approval.status.as_str(),
            Self::Account(account) if account.closed => "closed",
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
            Self::Run(run) => run.status.as_str(),
            Self::Connector(connector) => connector.status().as_str(),
            Self::Release(release) => release.status.as_str(),
            Self::UseCase(case) => case.status(),
            Self::Trigger(trigger) => trigger.status(),
            Self::Card(card) => card.status(),
            Self::Delivery(delivery) => delivery.status.as_str(),
            Self::Transfer(transfer) => transfer.status.as_str(),
            _ => "active",
        }
    }

    /// When somebody must look at it again, if ever: the queue of work is made of this.
    pub fn due(&self) -> Option<Timestamp> {
        match self {
            Self::Action(action) => action.due(),
            Self::Approval(approval) => approval.due(),
            Self::Account(account) => account.due(),
            Self::Run(run) => run.due(),
            Self::Trigger(trigger) => trigger.due(),
            Self::Card(card) => card.due(),
            Self::Transfer(transfer) => transfer.due(),
            _ => None,
        }
    }
}
