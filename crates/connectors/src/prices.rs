//! What tools cost: everybody, and a tenant that has prices of its own.
//!
//! Prices are part of what a tool is: whoever pays another price has another tool, by its digest.
//! So what was approved at one price never runs at another, and an estimate and what is paid are
//! of one price.

use std::collections::BTreeMap;
use std::sync::Arc;

use kernel::ids::{TenantId, ToolId};
use kernel::values::MicroUsd;
use serde::{Deserialize, Serialize};
use tokio_rustls::TlsConnector;

use crate::llm::{Llm, ModelPrices, ModelsConfig};
use crate::manifests::{self, Builtin};
use crate::schema;
use crate::tools::{Error, RegisteredTool, ToolsConfig};

/// The prices of one tenant, in place of those that everybody else pays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TenantPrices {
    /// Of one call of a tool, in micro-USD.
    pub tools: BTreeMap<ToolId, MicroUsd>,
    /// Of models, by their provider.
    pub models: ModelPrices,
}

/// The tools, at their prices.
#[derive(Debug)]
pub(crate) struct Catalogue {
    tools: BTreeMap<ToolId, RegisteredTool>,
    /// Those that cost a tenant something else.
    own: BTreeMap<TenantId, BTreeMap<ToolId, RegisteredTool>>,
}

impl Catalogue {
    /// Also what asks models at the prices for everybody, where there are any to ask.
    pub(crate) fn new(
        config: &ToolsConfig,
        tls: &TlsConnector,
    ) -> Result<(Self, Option<Arc<Llm>>), Error> {
        let llm = |models: &ModelsConfig| match models.providers.is_empty() {
            true => Ok(None),
            false => Llm::new(models, config.resolver.clone(), tls.clone()).map(Arc::new).map(Some),
        };
        let asks = llm(&config.models)?;
        let mut tools = BTreeMap::new();
        for builtin in offered(config) {
            let tool = register(builtin, &config.prices, &config.models, asks.as_ref())?;
            tools.insert(tool.manifest.id.clone(), tool);
        }
        check(&tools, "prices", &config.prices)?;
        let mut own = BTreeMap::new();
        for (tenant, prices) in &config.tenant_prices {
            check(&tools, &format!("tenant_prices.{tenant}.tools"), &prices.tools)?;
            let models = config.models.at(&prices.models)?;
            let asks = if prices.models.is_empty() { asks.clone() } else { llm(&models)? };
            let mut its = BTreeMap::new();
            for builtin in offered(config) {
                let of_models = builtin == Builtin::LlmInvoke && !prices.models.is_empty();
                let priced = prices.tools.keys().any(|tool| tool.as_str() == builtin.id());
                if of_models || priced {
                    let tool = register(builtin, &prices.tools, &models, asks.as_ref())?;
                    its.insert(tool.manifest.id.clone(), tool);
                }
            }
            own.insert(tenant.clone(), its);
        }
        Ok((Self { tools, own }, asks))
    }

    /// Every tool as it is for a tenant, in the order of their ids.
    pub(crate) fn all(&self, tenant: &TenantId) -> impl Iterator<Item = &RegisteredTool> {
        let own = self.own.get(tenant);
        self.tools.iter().map(move |(id, tool)| own.and_then(|own| own.get(id)).unwrap_or(tool))
    }

    /// A tool as it is for a tenant.
    pub(crate) fn get(&self, tenant: &TenantId, id: &ToolId) -> Option<&RegisteredTool> {
        let own = self.own.get(tenant).and_then(|own| own.get(id));
        own.or_else(|| self.tools.get(id))
    }

    /// A tool, at whatever price.
    pub(crate) fn any(&self, id: &ToolId) -> Option<&RegisteredTool> {
        self.tools.get(id)
    }
}

/// The tools that there are with such a configuration.
fn offered(config: &ToolsConfig) -> impl Iterator<Item = Builtin> {
    Builtin::ALL.into_iter().filter(|builtin| match builtin {
        Builtin::JsonTransform => config.jq_worker.is_some(),
        Builtin::EmailSend => config.email.is_some(),
        Builtin::LlmInvoke => !config.models.providers.is_empty(),
        _ => true,
    })
}

fn register(
    builtin: Builtin,
    prices: &BTreeMap<ToolId, MicroUsd>,
    models: &ModelsConfig,
    llm: Option<&Arc<Llm>>,
) -> Result<RegisteredTool, Error> {
    let broken = |reason: String| Error::Manifest { tool: builtin.id().to_owned(), reason };
    let mut manifest = manifests::manifest(builtin, models).map_err(|e| broken(e.to_string()))?;
    if let Some(price) = prices.get(&manifest.id) {
        manifest.cost.per_call_micro_usd = *price;
    }
    let digest = manifest.digest().map_err(|e| broken(e.to_string()))?;
    let validator = schema::Validator::new(&manifest.input_schema).map_err(broken)?;
    let llm = llm.filter(|_| builtin == Builtin::LlmInvoke).cloned();
    Ok(RegisteredTool { manifest, digest, builtin, validator, llm })
}

/// Prices are for tools that are there, and none is below nothing.
fn check(
    tools: &BTreeMap<ToolId, RegisteredTool>,
    section: &str,
    prices: &BTreeMap<ToolId, MicroUsd>,
) -> Result<(), Error> {
    for (tool, price) in prices {
        let reason = match (tools.get(tool), price.0 >= 0) {
            (Some(RegisteredTool { llm: Some(_), .. }), _) => "has its prices in models",
            (Some(_), true) => continue,
            (None, _) => "is not a tool",
            (Some(_), false) => "costs less than nothing",
        };
        return Err(Error::Price { section: section.to_owned(), tool: tool.clone(), reason });
    }
    Ok(())
}
