//! What Tally does to the world: tools that act only under a permit and only where granted.

pub mod address;
pub mod breaker;
pub mod declared;
pub mod egress;
pub mod email;
pub mod grants;
pub mod kv;
pub mod limits;
pub mod llm;
pub mod mcp;
pub mod schema;
pub mod tools;
pub mod transform;
pub mod yaml;

mod files;
mod http;
mod manifests;
mod prices;
#[cfg(test)]
mod tests;
mod text;
mod webhook;

pub use address::{Resolver, SystemResolver};
pub use breaker::Breakers;
pub use egress::{EgressBody, EgressError, GuardedEgress};
pub use email::EmailConfig;
pub use grants::{ConnectorGrant, Grants, HttpGrant, WebhookGrant};
pub use kv::KeyValues;
pub use prices::TenantPrices;
pub use tools::{
    Call, Charged, EffectChange, EffectCheck, Error, Executed, Meta, Outcome, RegisteredTool,
    Tools, ToolsConfig,
};
