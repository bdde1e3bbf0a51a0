//! The daemon: identity, decisions, approvals, actions and proof behind REST and gRPC.

mod accounts;
mod actions;
mod agents;
mod approvals;
mod auth;
mod caps;
mod cards;
mod clock;
mod config;
mod credentials;
mod directory;
mod doubt;
mod error;
mod evidence;
mod experience;
mod factory;
mod folder;
mod follow;
mod grpc;
mod identity;
mod identity_api;
mod instances;
mod keys;
mod kv;
mod ledger_api;
mod lifecycle;
pub mod limits;
mod listen;
mod mcp;
mod me;
mod metering;
mod metrics;
mod oauth;
mod oidc;
mod open;
mod pages;
mod paging;
mod policies;
mod rate;
mod receipts;
mod recent;
mod recovery;
mod runs;
mod runtime;
mod sandbox;
mod secrets;
mod sessions;
mod shared;
mod signing_keys;
mod standby;
mod start;
mod stores;
mod system;
mod tokens;
mod toolbox;
mod tools;
mod transfers;
mod triggers;
mod upstreams;
mod waiters;
pub mod witness;
mod witnesses;

pub use crate::sandbox::{
    AttestationConfig, LightConfig, SandboxConfig, SandboxPolicies, TeeConfig, Variables,
    WasmConfig,
};
pub use caps::{CapsConfig, Counted};
pub use config::{
    Config, DatabaseUrl, Error as ConfigError, Overrides, Policy as PolicyConfig, Tls,
};
pub use folder::{Serving, serving};
pub use instances::ConnectorsConfig;
pub use keys::{Keys as KeysConfig, Provider as KeyProviderConfig, open_keys};
pub use oidc::OidcProvider;
pub use runs::RunsConfig;
pub use start::{Credentials, Error as StartError, Running, start};
pub use upstreams::{McpConfig, ToolSettings, UpstreamConfig};
pub use witnesses::WitnessConfig;

use crate::shared::Caller;

/// Who asks: the middleware has put it there.
fn caller<T>(request: &tonic::Request<T>) -> Result<Caller, tonic::Status> {
    let caller = request.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| error::Refused::internal("a route without a caller").into())
}
