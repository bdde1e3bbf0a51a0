//! From a request to a plan: the document that is decided, approved and run.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::action::Request;
use kernel::decision::{
    ApprovalDemand, Decision, DecisionInput, DecisionPoint, InputApproval, InputBudget,
    InputOperational, InputPrincipal, InputRun, InputTool, NoAnswer, Phase,
};
use kernel::failure::{Category, Failure};
use kernel::ids::{AccountId, ActionId, EnvironmentId, TenantId, ToolId, WorkspaceId};
use kernel::json::{self, RawJson};
use kernel::machine::{Kind, State};
use kernel::principal::{ActorChain, permitted};
use kernel::risk::Risk;
use kernel::run::{StepRef, TIMER};
use kernel::tool::CallFacts;
use kernel::values::{self, Digest, MicroUsd};
use kernel::workflow::{MODEL_TOOL, ModelPin};
use serde::{Deserialize, Serialize};

use crate::caps::{self, Held};
use crate::error::{Refused, Result};
use crate::limits;
use crate::mcp::Through;
use crate::policies::reviewed;
use crate::sandbox::Under;
use crate::shared::{Authority, Caller, Shared};
use crate::toolbox::{self, Found};

/// The permission to submit actions.
const SUBMIT: &str = "actions:submit";

/// The action document: everything that says what the action is. Its canonical form is what an
/// approver sees; the parameters are kept as they were received.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document {
    pub(crate) tenant: String,
    pub(crate) workspace: String,
    pub(crate) environment: String,
    pub(crate) actor_chain: ActorChain,
    pub(crate) tool: ToolId,
    pub(crate) params: RawJson,
    pub(crate) claims: RawJson,
    /// What goes on with an earlier call of the same tool: answers to what its server asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) continuation: Option<RawJson>,
    /// The execution whose code asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) execution: Option<ActionId>,
    /// The call of a run that it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<StepRef>,
    /// Who must approve it beside those whom policy names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) approval: Option<ApprovalDemand>,
    /// The action that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reverses: Option<ActionId>,
    /// 128 random bits, so that the document's digest gives nothing away.
    pub(crate) nonce: String,
}

/// The digests of a document with its tool.
pub(crate) struct Digests {
    pub(crate) canonical: Vec<u8>,
    pub(crate) action: Digest,
    pub(crate) plan: Digest,
}

impl Document {
    /// The canonical document, its digest, and the digest of document and tool together.
    pub(crate) fn digests(&self, tool: Digest) -> Result<Digests> {
        let canonical = json::canonical(self).map_err(Refused::internal)?;
        // JCS of {"action": document, "tool": digest}: the members are in order and canonical.
        let mut plan = Vec::with_capacity(canonical.len() + 96);
        plan.extend_from_slice(b"{\"action\":");
        plan.extend_from_slice(&canonical);
        plan.extend_from_slice(b",\"tool\":\"");
        plan.extend_from_slice(tool.hex().as_bytes());
        plan.extend_from_slice(b"\"}");
        Ok(Digests { action: Digest::of(&canonical), plan: Digest::of(&plan), canonical })
    }
}

/// What an agent says of its action.
#[derive(Clone)]
pub(crate) struct Claims {
    pub(crate) json: RawJson,
    pub(crate) data_types: BTreeSet<String>,
}

impl Claims {
    pub(crate) fn new(wire: Option<proto::actions::Claims>) -> Result<Self> {
        #[derive(Serialize)]
        struct Said<'a> {
            target: &'a str,
            data_types: &'a BTreeSet<String>,
            #[serde(skip_serializing_if = "Option::is_none")]
            extra: Option<RawJson>,
        }
        let wire = wire.unwrap_or_default();
        let data_types: BTreeSet<String> = wire.data_types.into_iter().collect();
        let long = |text: &String| text.len() > kernel::limits::RULE_BYTES_MAX;
        if data_types.len() > limits::DATA_TYPES_MAX || data_types.iter().any(long) {
            return Err(Refused::invalid("claims.data_types: at most 32 of at most 64 characters"));
        }
        if wire.target.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("claims.target: at most 2000 characters"));
        }
        let extra = wire.extra.map(|extra| parse("claims.extra", &extra.text)).transpose()?;
        let said = Said { target: &wire.target, data_types: &data_types, extra };
        let text = serde_json::to_string(&said).map_err(Refused::internal)?;
        Ok(Self { json: parse("claims", &text)?, data_types })
    }
}

/// JSON of the request, with the place in the request in front of what is wrong with it.
pub(crate) fn parse(field: &str, text: &str) -> Result<RawJson> {
    RawJson::parse(text).map_err(|error| {
        Refused::new(Category::Validation, error.code(), format!("{field}: {error}"))
    })
}

/// An action ready to be decided.
pub(crate) struct Prepared {
    pub(crate) document: Document,
    pub(crate) digests: Digests,
    pub(crate) facts: CallFacts,
    pub(crate) request: values::Shared<Request>,
    pub(crate) through: Option<Arc<Through>>,
    pub(crate) under: Option<Arc<Under>>,
    pub(crate) step: Option<Arc<AsStep>>,
    /// Why it is refused whatever policy says: it asks for more than the operator lets code have,
    /// or for another model than its run works with.
    pub(crate) beyond: Option<Failure>,
}

/// What was asked, checked against the credential.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) tool: ToolId,
    pub(crate) params: RawJson,
    pub(crate) claims: Claims,
    pub(crate) account: Option<AccountId>,
    /// What comes along where it was asked for at the gateway.
    pub(crate) through: Option<Arc<Through>>,
    /// Which call it is where code in a sandbox asks for it.
    pub(crate) under: Option<Arc<Under>>,
    /// Which call of a run it is.
    pub(crate) step: Option<Arc<AsStep>>,
    /// The action that it undoes.
    pub(crate) reverses: Option<ActionId>,
}

/// What a run says of the action of its step.
#[derive(Debug)]
pub(crate) struct AsStep {
    pub(crate) step: StepRef,
    pub(crate) approval: Option<ApprovalDemand>,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) max_attempts: Option<u32>,
    /// What policy may know of the run.
    pub(crate) run: InputRun,
    /// The model that the run works with.
    pub(crate) model_pin: Option<ModelPin>,
}

impl AsStep {
    /// Why a call of a model is refused whatever policy says: the run works with another. A route
    /// of policy's to another tool is a fallback, which the workflow must allow too.
    fn other_model(&self, asked: &Asked, routed_from: Option<&ToolId>) -> Option<Failure> {
        let pin = self.model_pin.as_ref()?;
        let from = routed_from.unwrap_or(&asked.tool);
        if from.as_str() != MODEL_TOOL && asked.tool.as_str() != MODEL_TOOL {
            return None;
        }
        let routed = routed_from.is_some_and(|from| *from != asked.tool);
        if pin.is_asked(&asked.params.to_value()) && (!routed || pin.allow_fallback) {
            return None;
        }
        let message = format!("the run works with `{}/{}` alone", pin.provider, pin.model);
        Some(Failure::new(Category::PolicyDenied, "model_not_pinned", message))
    }
}

/// Finds a tool. One that does not exist and one that may not be listed answer alike.
pub(crate) fn find_tool<'a>(
    shared: &'a Shared,
    tenant: &TenantId,
    id: &ToolId,
) -> Result<Found<'a>> {
    toolbox::find(shared, tenant, id).ok_or_else(|| unknown_tool(id))
}

pub(crate) fn unknown_tool(id: &ToolId) -> Refused {
    let message = format!("there is no tool `{id}`: `GET /v1/tools` lists those there are");
    Refused::new(Category::NotFound, "unknown_tool", message)
}

/// Makes the plan of an action.
pub(crate) fn prepare(
    shared: &Shared,
    caller: &Caller,
    asked: &Asked,
    routed_from: Option<ToolId>,
) -> Result<Prepared> {
    let tool = find_tool(shared, &caller.tenant, &asked.tool)?;
    if asked.step.is_none() && asked.tool.as_str() == TIMER {
        return Err(Refused::invalid("a timer is a step of a run: it does nothing by itself"));
    }
    let beyond = match tool.validate(shared, caller, &asked.params) {
        // It was understood and is refused: that is on record. What does not read is no action.
        Err(failure) if tool.is_sandboxed() && failure.category == Category::Sandbox => {
            Some(failure)
        }
        checked => checked.map(|()| None)?,
    };
    if let Some(under) = asked.under.as_ref().filter(|_| tool.is_sandboxed()) {
        under.check_depth(shared, &caller.log())?;
    }
    let step = asked.step.as_ref();
    let other_model = step.and_then(|step| step.other_model(asked, routed_from.as_ref()));
    let beyond = beyond.or(other_model);
    let facts = tool.facts(&asked.params);
    let execution = asked.under.as_ref().map(|under| under.execution.clone());
    let environment = caller.environment.as_str();
    let risk = Risk::assess(&facts.labels, environment, &asked.claims.data_types);
    let nonce = ledger::keys::random::<16>()?;
    let document = Document {
        tenant: caller.tenant.to_string(),
        workspace: caller.workspace.to_string(),
        environment: environment.to_owned(),
        actor_chain: caller.actors(),
        tool: asked.tool.clone(),
        params: asked.params.clone(),
        claims: asked.claims.json.clone(),
        continuation: asked.through.as_ref().and_then(|through| through.continuation.clone()),
        execution: execution.clone(),
        step: asked.step.as_ref().map(|step| step.step.clone()),
        approval: asked.step.as_ref().and_then(|step| step.approval.clone()),
        reverses: asked.reverses.clone(),
        nonce: hex::encode(nonce.as_ref()),
    };
    let digests = document.digests(tool.digest())?;
    let sooner = asked.step.as_ref().and_then(|step| step.timeout_ms).unwrap_or(u64::MAX);
    let request = Request {
        tool: asked.tool.clone(),
        tool_digest: tool.digest(),
        routed_from,
        environment: caller.environment.clone(),
        actors: caller.actors(),
        action_digest: digests.action,
        plan_digest: digests.plan,
        risk,
        estimate: facts.estimate,
        units: facts.units,
        account: asked.account.clone(),
        idempotent: facts.idempotent,
        timeout_ms: tool.timeout_ms(&shared.config, &asked.params).min(sooner),
        execution,
        step: asked.step.as_ref().map(|step| step.step.clone()),
        within: asked.under.as_ref().and_then(|under| under.run.clone()),
        max_attempts: asked.step.as_ref().and_then(|step| step.max_attempts),
        reverses: asked.reverses.clone(),
    };
    let (through, under) = (asked.through.clone(), asked.under.clone());
    let (request, step) = (request.into(), asked.step.clone());
    Ok(Prepared { document, digests, facts, request, through, under, step, beyond })
}

/// Asks policy about a plan.
pub(crate) fn decide(
    shared: &Shared,
    caller: &Caller,
    plan: Plan<'_>,
    phase: Phase,
    approval: Option<InputApproval>,
) -> Decision {
    let run = match run_of(shared, caller, &plan) {
        Ok(run) => run,
        Err(Refused(error)) => {
            tracing::warn!(%error, "the run of a step cannot be read");
            let policy = shared.policy.current(&caller.tenant);
            return Decision::deny(NoAnswer::PolicyError, policy, Digest::of(b""));
        }
    };
    let remaining = plan.request.account.as_ref().and_then(|id| remaining(shared, caller, id));
    // What has begun has its place already.
    let before = matches!(phase, Phase::Submit | Phase::Execute);
    let within = !before || caps::within(shared, caller, &plan.held());
    let input = DecisionInput {
        phase,
        tenant: &caller.tenant,
        workspace: &caller.workspace,
        environment: &plan.request.environment,
        principal: InputPrincipal { id: &caller.id, kind: caller.kind, roles: &caller.roles },
        actor_chain: plan.request.actors.actors(),
        tool: InputTool {
            id: &plan.request.tool,
            labels: &plan.facts.labels,
            digest: plan.request.tool_digest,
        },
        params: &plan.document.params,
        claims: &plan.document.claims,
        risk: &plan.request.risk,
        budget: InputBudget {
            remaining_micro_usd: remaining,
            estimate_micro_usd: plan.request.estimate,
        },
        approval,
        operational: InputOperational { within_write_caps: within },
        now: shared.now().into(),
        run: run.as_deref(),
    };
    let mut decision = reviewed(shared, caller, shared.policy.decide(&input));
    if let Some(demand) = &plan.document.approval {
        decision = decision.also_demanding(demand);
    }
    shared.metrics.decision(decision.effect);
    decision
}

/// What policy may know of the run whose step is to be decided; nothing outside runs.
fn run_of<'a>(
    shared: &Shared,
    caller: &Caller,
    plan: &Plan<'a>,
) -> Result<Option<Cow<'a, InputRun>>> {
    let step = match (plan.run, &plan.document.step) {
        (Some(run), _) => return Ok(Some(Cow::Borrowed(run))),
        (None, None) => return Ok(None),
        (None, Some(step)) => step,
    };
    match shared.ledger.read(&caller.log(), Kind::Run, step.run.as_str())? {
        Some(State::Run(run)) => Ok(Some(Cow::Owned(run.facts()))),
        _ => Err(Refused::internal("a step without its run")),
    }
}

/// A plan as policy is asked about it.
#[derive(Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub(crate) document: &'a Document,
    pub(crate) facts: &'a CallFacts,
    pub(crate) request: &'a Request,
    /// What came along with the call; nothing once its caller is not waiting any more.
    pub(crate) through: Option<&'a Through>,
    /// The run whose step it is, where it is at hand; it is read where it is not.
    pub(crate) run: Option<&'a InputRun>,
}

impl<'a> Plan<'a> {
    /// What it is to the bounds on writes.
    pub(super) fn held(&self) -> Held<'a> {
        let Self { facts, request, .. } = *self;
        Held { tool: &request.tool, facts, step: request.step.as_ref() }
    }

    /// The plan of an action that was asked for earlier.
    pub(crate) fn stored(
        document: &'a Document,
        facts: &'a CallFacts,
        request: &'a Request,
    ) -> Self {
        Self { document, facts, request, through: None, run: None }
    }
}

impl Prepared {
    pub(crate) fn plan(&self) -> Plan<'_> {
        let Self { document, facts, request, through, step, .. } = self;
        let run = step.as_ref().map(|step| &step.run);
        Plan { document, facts, request, through: through.as_deref(), run }
    }
}

/// What an account has left; nothing where it cannot be read.
pub(crate) fn remaining(shared: &Shared, caller: &Caller, id: &AccountId) -> Option<MicroUsd> {
    match shared.ledger.read(&caller.log(), Kind::Account, id.as_str()) {
        Ok(Some(State::Account(account))) if !account.frozen && !account.closed => {
            Some(account.available())
        }
        Ok(_) => Some(MicroUsd::ZERO),
        Err(error) => {
            tracing::warn!(%error, "an account cannot be read");
            Some(MicroUsd::ZERO)
        }
    }
}

/// The environment and workspace of a request must be those of the credential.
pub(crate) fn check_place(caller: &Caller, workspace: &str, environment: &str) -> Result<()> {
    let other = |what: &str, own: &str| {
        let message = format!("the credential is bound to {what} `{own}`: leave `{what}` out");
        Err(Refused::new(Category::Permission, "credential_binding", message))
    };
    if !workspace.is_empty() && workspace != caller.workspace.as_str() {
        return other("workspace", caller.workspace.as_str());
    }
    if !environment.is_empty() && environment != caller.environment.as_str() {
        return other("environment", caller.environment.as_str());
    }
    Ok(())
}

/// The caller as it is now, for an action that was asked for earlier. None where any principal of
/// its chain is gone or disabled, or one that delegated may not submit any more.
pub(crate) fn present_caller(shared: &Shared, document: &Document) -> Option<Caller> {
    let place = [&document.tenant, &document.workspace, &document.environment];
    present(shared, place.map(String::as_str), &document.actor_chain)
}

/// The same, for what was asked for in `place`: tenant, workspace and environment.
pub(crate) fn present(shared: &Shared, place: [&str; 3], chain: &ActorChain) -> Option<Caller> {
    let [tenant, workspace, environment] = place;
    let tenant = TenantId::new(tenant).ok()?;
    let principals = shared.control.directory.chain(&tenant, chain)?;
    let (acting, delegators) = principals.split_last()?;
    if !delegators.iter().all(|principal| permitted(&principal.roles, SUBMIT)) {
        return None;
    }
    let workspace = WorkspaceId::new(workspace).ok()?;
    let environment = EnvironmentId::new(environment).ok()?;
    let caller = Caller::new(tenant, workspace, environment, acting);
    if delegators.is_empty() {
        return Some(caller);
    }
    Some(caller.under(Authority::new(chain.clone(), &principals, None)))
}
