//! The MCP gateway: what is in front of an agent.

pub(crate) mod auth;
