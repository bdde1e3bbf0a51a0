//! The catalogue of built-in tools and the one way to run them: under a permit.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use kernel::action::ModelUsed;
use kernel::failure::{Category, Failure};
use kernel::ids::{TenantId, ToolId};
use kernel::json::RawJson;
use kernel::permit::{Invalid, Permit};
use kernel::tool::{CallFacts, Manifest};
use kernel::units::Units;
use kernel::values::{Digest, MicroUsd, Timestamp};

use crate::address::{Resolver, SystemResolver};
use crate::breaker;
use crate::declared::Engine;
use crate::email::{self, Email, EmailConfig};
use crate::files::Files;
use crate::grants::{self, Grants};
use crate::http::{self, Http, wire};
use crate::kv::{self, KeyValues};
use crate::llm::{self, Llm, ModelsConfig};
use crate::manifests::Builtin;
use crate::mcp::Secrets;
use crate::prices::{Catalogue, TenantPrices};
use crate::schema;
use crate::transform::{Transform, Worker};
use crate::webhook::{self, Webhooks};

/// Why the tools cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A grant is malformed, or its folder cannot be opened.
    #[error(transparent)]
    Grant(#[from] grants::Error),
    /// A provider of models is malformed.
    #[error(transparent)]
    Models(#[from] llm::Error),
    /// The extra certificate authority is unusable.
    #[error("extra_ca: {0}")]
    Certificate(String),
    /// The settings of e-mail are refused.
    #[error(transparent)]
    Email(#[from] email::Error),
    /// A price for a tool that is not there, or below zero.
    #[error("{section}: `{tool}` {reason}")]
    Price {
        /// Where that is written.
        section: String,
        /// The tool named.
        tool: ToolId,
        /// What is wrong.
        reason: &'static str,
    },
    /// A manifest that ships with Tally is malformed: a fault of Tally itself.
    #[error("manifest of `{tool}`: {reason}")]
    Manifest {
        /// The tool.
        tool: String,
        /// What is wrong.
        reason: String,
    },
}

/// What the tools may do, and with what.
#[derive(Clone, Debug)]
pub struct ToolsConfig {
    /// What they may reach. Without a grant, nothing.
    pub grants: Grants,
    /// Price of one call by tool, in micro-USD; a tool that is not listed costs nothing.
    pub prices: BTreeMap<ToolId, MicroUsd>,
    /// What tenants pay that have prices of their own.
    pub tenant_prices: BTreeMap<TenantId, TenantPrices>,
    /// The providers of models; without any `llm.invoke` is not offered.
    pub models: ModelsConfig,
    /// How to start a jq worker; without it `core.json_transform` is not offered.
    pub jq_worker: Option<Worker>,
    /// The server for e-mail; without it `email.send` is not offered.
    pub email: Option<EmailConfig>,
    /// When a system that fails again and again is left alone.
    pub breaker: breaker::Settings,
    /// A PEM file's text with further certificate authorities to trust.
    pub extra_ca_pem: Option<String>,
    /// What turns host names into addresses.
    pub resolver: Arc<dyn Resolver>,
}

impl Default for ToolsConfig {
    fn default() -> Self {
        Self {
            grants: Grants::default(),
            prices: BTreeMap::new(),
            tenant_prices: BTreeMap::new(),
            models: ModelsConfig::default(),
            jq_worker: None,
            email: None,
            breaker: breaker::Settings::default(),
            extra_ca_pem: None,
            resolver: Arc::new(SystemResolver),
        }
    }
}

/// A tool as the catalogue has it.
#[derive(Debug)]
pub struct RegisteredTool {
    /// What it says of itself.
    pub manifest: Manifest,
    /// The digest of that; part of every plan.
    pub digest: Digest,
    pub(crate) builtin: Builtin,
    pub(crate) validator: schema::Validator,
    /// What knows the price of a call, where that follows from its parameters.
    pub(crate) llm: Option<Arc<Llm>>,
}

impl RegisteredTool {
    /// What a call with these parameters (already valid) is.
    pub fn facts(&self, params: &RawJson) -> CallFacts {
        let base = self.manifest.facts(params);
        match &self.llm {
            Some(llm) => llm.facts(base, params),
            None => base,
        }
    }
}

/// How an effect is about to differ from what was planned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EffectChange {
    /// The HTTP method, upper-case.
    pub method: String,
    /// `scheme://host:port` of the plan or of the hop before.
    pub from: String,
    /// `scheme://host:port` that would be called now.
    pub to: String,
}

/// Decides on an effect that differs from the plan. Asked in the middle of a call, so it must not
/// block for long.
pub trait EffectCheck: Send + Sync {
    /// Whether the changed effect may go on; the failure ends the call.
    fn allow(&self, effect: &EffectChange) -> Result<(), Failure>;
}

/// One attempt at one action.
pub struct Call<'a> {
    /// The right to run it.
    pub permit: &'a Permit,
    /// Whose prices it is paid by.
    pub tenant: &'a TenantId,
    /// The tool.
    pub tool: &'a ToolId,
    /// The digest of the plan that is about to run, computed from what will run.
    pub plan_digest: Digest,
    /// The parameters as received.
    pub params: &'a RawJson,
    /// Now.
    pub now: Timestamp,
    /// Asked when the effect differs from the plan.
    pub redirect: &'a dyn EffectCheck,
    /// The secrets of the tenant, for a tool that shows one to the system behind it.
    pub secrets: &'a dyn Secrets,
    /// The values of the workspace.
    pub store: &'a dyn KeyValues,
    /// Whether an earlier attempt was lost, so that nobody knows what became of it.
    pub in_doubt: bool,
}

impl fmt::Debug for Call<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Parameters are content: they stay out of logs.
        f.debug_struct("Call").field("permit", self.permit).field("tool", self.tool).finish()
    }
}

/// Figures about an execution, free of content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The status of an HTTP answer.
    pub status: Option<u16>,
    /// Bytes written to or sent with the effect.
    pub bytes_out: u64,
    /// Bytes read from it.
    pub bytes_in: u64,
    /// Redirects followed.
    pub redirects: u8,
    /// What only the tool can tell of what was used: tokens, processor time.
    pub units: Units,
}

/// What an executed call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// By the tool's output schema.
    pub result: RawJson,
    /// What it cost.
    pub cost: MicroUsd,
    /// Figures about it.
    pub meta: Meta,
    /// What was there before, where the call can be reversed.
    pub prior: Option<RawJson>,
    /// The model that was asked.
    pub model: Option<ModelUsed>,
}

/// A call that surely failed, and that is paid for all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charged {
    /// Why it failed.
    pub failure: Failure,
    /// What it cost.
    pub cost: MicroUsd,
    /// Figures about it.
    pub meta: Meta,
    /// The model that was asked.
    pub model: Option<ModelUsed>,
}

/// How one attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The effect happened and this is its result.
    Executed(Executed),
    /// There was no effect, or its failure is known, or repeating it changes nothing more.
    Failed(Failure),
    /// The same, and it cost something.
    Charged(Charged),
    /// The effect may have happened: it must be reconciled, never repeated blindly.
    Unknown(Failure),
}

/// What a tool's own code gives back.
pub(crate) struct Done {
    /// JSON text.
    pub(crate) result: String,
    pub(crate) meta: Meta,
}

/// How a tool's own code fails.
#[derive(Debug)]
pub(crate) enum Fault {
    Failed(Failure),
    Unknown(Failure),
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What a tool's own code is told of the call besides its parameters.
pub(crate) struct Context<'a> {
    /// The same for each attempt at this action, different for every other action.
    pub(crate) idempotency_key: String,
    pub(crate) now: Timestamp,
    pub(crate) redirect: &'a dyn EffectCheck,
    pub(crate) secrets: &'a dyn Secrets,
    pub(crate) store: &'a dyn KeyValues,
    /// Whether an earlier attempt was lost.
    pub(crate) in_doubt: bool,
}

/// The built-in tools.
#[derive(Debug)]
pub struct Tools {
    catalogue: Catalogue,
    http: Http,
    files: Files,
    transform: Option<Transform>,
    webhooks: Webhooks,
    email: Option<Email>,
    llm: Option<Arc<Llm>>,
    declared: Engine,
}

impl Tools {
    /// Checks the configuration and opens what it grants.
    pub fn new(config: ToolsConfig) -> Result<Self, Error> {
        let tls = wire::tls(config.extra_ca_pem.as_deref())?;
        let (catalogue, llm) = Catalogue::new(&config, &tls)?;
        let (resolver, breaker) = (config.resolver.clone(), config.breaker);
        let declared = Engine::new(&config.grants, breaker, resolver, tls.clone())?;
        let http = |rules| Http::new(rules, config.resolver.clone(), tls.clone());
        let receivers = config.grants.receivers()?;
        let rules = receivers.iter().map(|receiver| receiver.rule.clone()).collect();
        let email = config.email.as_ref();
        let email = email.map(|email| Email::new(email, config.resolver.clone(), tls.clone()));
        Ok(Self {
            catalogue,
            http: http(config.grants.http_rules()?),
            files: Files::open(&config.grants)?,
            webhooks: Webhooks::new(http(rules), receivers),
            email: email.transpose()?,
            llm,
            declared,
            transform: config.jq_worker.map(Transform::new),
        })
    }

    /// What carries out connectors.
    pub fn declared(&self) -> &Engine {
        &self.declared
    }

    /// Every tool as `tenant` has it, in the order of their ids.
    pub fn all(&self, tenant: &TenantId) -> impl Iterator<Item = &RegisteredTool> {
        self.catalogue.all(tenant)
    }

    /// The tool `id` as `tenant` has it.
    pub fn get(&self, tenant: &TenantId, id: &ToolId) -> Option<&RegisteredTool> {
        self.catalogue.get(tenant, id)
    }

    /// Checks parameters before anything is decided about them. Says nothing of what is granted:
    /// that is for the execution.
    pub fn validate(&self, id: &ToolId, params: &RawJson) -> Result<(), Failure> {
        let tool = self.catalogue.any(id).ok_or_else(|| unknown_tool(id))?;
        tool.validator.check(&params.to_value())?;
        match tool.builtin {
            Builtin::HttpCall => http::check(params),
            Builtin::LlmInvoke => self.llm.as_ref().map_or(Ok(()), |llm| llm.check(params)),
            Builtin::WebhookSend => webhook::check(params),
            Builtin::EmailSend => self.email.as_ref().map_or(Ok(()), |email| email.check(params)),
            Builtin::FsRead
            | Builtin::FsWrite
            | Builtin::JsonTransform
            | Builtin::KvDelete
            | Builtin::KvGet
            | Builtin::KvSet
            | Builtin::Wait => Ok(()),
        }
    }

    /// Runs one attempt. The permit comes first: nothing happens before it is found valid.
    pub async fn execute(&self, call: Call<'_>) -> Outcome {
        if let Err(invalid) = call.permit.check(call.plan_digest, call.now) {
            return Outcome::Failed(permit_failure(invalid));
        }
        let context = Context {
            idempotency_key: call.permit.idempotency_key(),
            now: call.now,
            redirect: call.redirect,
            secrets: call.secrets,
            store: call.store,
            in_doubt: call.in_doubt,
        };
        let Some(tool) = self.get(call.tenant, call.tool) else {
            return Outcome::Failed(unknown_tool(call.tool));
        };
        self.run(tool, call.params, context).await
    }

    /// Runs a call whose permit was checked.
    pub(crate) async fn run(
        &self,
        tool: &RegisteredTool,
        params: &RawJson,
        context: Context<'_>,
    ) -> Outcome {
        let id = &tool.manifest.id;
        // Decided long ago, perhaps: what runs is checked again.
        if let Err(failure) = self.validate(id, params) {
            return Outcome::Failed(failure);
        }
        if let Some(llm) = &tool.llm {
            return llm.call(params, &context).await;
        }
        let idempotent = tool.manifest.facts(params).idempotent;
        let ended = match tool.builtin {
            Builtin::HttpCall => self.http.call(params, idempotent, &context).await,
            Builtin::FsRead => self.files.read(params).await,
            Builtin::FsWrite => self.files.write(params, idempotent, &context).await,
            Builtin::KvDelete => kv::delete(params, context.store).await,
            Builtin::KvGet => kv::get(params, context.store).await,
            Builtin::KvSet => kv::set(params, context.store).await,
            Builtin::WebhookSend => self.webhooks.send(params, idempotent, &context).await,
            // Its run has waited before it asked. When that was is no output: two runs of one plan
            // give the same.
            Builtin::Wait => {
                Ok(Done { result: "{\"ended\":true}".to_owned(), meta: Meta::default() })
            }
            Builtin::JsonTransform => match &self.transform {
                Some(transform) => transform.run(params).await,
                None => Err(unknown_tool(id).into()),
            },
            Builtin::EmailSend => match &self.email {
                Some(email) => email.send(params, &context).await,
                None => Err(unknown_tool(id).into()),
            },
            Builtin::LlmInvoke => Err(unknown_tool(id).into()),
        };
        match ended {
            Ok(done) => executed(tool, idempotent, &done),
            Err(Fault::Failed(failure)) => Outcome::Failed(failure),
            Err(Fault::Unknown(failure)) => Outcome::Unknown(failure),
        }
    }
}

fn executed(tool: &RegisteredTool, idempotent: bool, done: &Done) -> Outcome {
    match RawJson::parse(&done.result) {
        Ok(result) => Outcome::Executed(Executed {
            result,
            cost: tool.manifest.cost.per_call_micro_usd,
            meta: done.meta,
            prior: None,
            model: None,
        }),
        Err(error) => {
            let message = format!("the tool's result cannot be kept: {error}");
            let failure = Failure::new(Category::Permanent, "result_invalid", message);
            // The effect happened; only its result is unusable.
            if idempotent { Outcome::Failed(failure) } else { Outcome::Unknown(failure) }
        }
    }
}

fn unknown_tool(id: &ToolId) -> Failure {
    let message = format!("there is no tool `{id}`: list the tools to see what there is");
    Failure::new(Category::NotFound, "tool_not_found", message)
}

/// Why a permit does not let anything happen.
pub(crate) fn permit_failure(invalid: Invalid) -> Failure {
    let code = match invalid {
        Invalid::OtherPlan => "permit_other_plan",
        Invalid::Expired => "permit_expired",
    };
    Failure::new(Category::Permission, code, invalid.to_string())
}
