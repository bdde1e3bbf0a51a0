//! What Tally does to the world: tools that act only under a permit and only where granted.

pub mod address;
pub mod egress;
pub mod grants;
pub mod limits;
pub mod mcp;
pub mod schema;
pub mod tools;
pub mod transform;

mod files;
mod http;
mod manifests;
#[cfg(test)]
mod tests;
mod text;

pub use address::{Resolver, SystemResolver};
pub use egress::{EgressBody, EgressError, GuardedEgress};
pub use grants::{Grants, HttpGrant};
pub use tools::{
    Call, EffectChange, EffectCheck, Error, Executed, Meta, Outcome, RegisteredTool, Tools,
    ToolsConfig,
};
