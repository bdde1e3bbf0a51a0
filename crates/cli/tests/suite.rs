//! What is tested through the real program. One test program: linking it takes longer than
//! running it, so further tests are further modules here.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "helpers of tests fail loudly"
)]

mod approvals;
mod attest_verify;
mod budgets;
mod common;
mod concurrency;
mod conformance;
mod connectors;
mod database;
mod delegation;
mod demo;
mod emergency;
mod escapes;
mod exits;
mod factory;
mod foreign;
mod fuzz;
mod hardware;
mod hooks;
mod init;
mod itsm;
mod kill;
mod matrix;
mod mcp;
mod mcp_auth;
mod mcp_cells;
mod mcp_front;
mod mcp_held;
mod mcp_hostile;
mod mcp_light;
mod mcp_registry;
mod mcp_surface;
mod models;
mod narrowing;
mod offline;
mod oidc;
mod policy;
mod proof;
mod review;
mod revocation;
mod runs;
mod runtime;
mod sandbox;
mod second_factor;
mod secrets;
mod serve;
mod signals;
mod signing;
mod signing_keys;
mod simulation;
mod simulators;
mod skills;
mod stages;
mod surfaces;
mod takeover;
mod tenants;
mod tokens;
mod tool_registry;
mod transfers;
mod visibility;
mod witness;
