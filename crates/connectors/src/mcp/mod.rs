//! The client of MCP servers: the one place that opens sockets and starts processes for MCP.
//!
//! A call carries raw JSON both ways: neither parameters nor results are written anew. Upstreams of
//! the revisions 2025-11-25 (sessions; its older relatives count as it) and 2026-07-28 (stateless)
//! are spoken to over standard input and output or over streamable HTTP.

pub mod auth;

mod call;
mod connection;
mod endpoint;
mod error;
mod headers;
mod health;
mod http;
mod lists;
mod message;
mod pool;
mod serve;
mod slot;
mod spec;
pub(crate) mod sse;
mod stdio;
mod upstream;
mod watch;

pub use auth::{AuthSpec, Authorizer, Challenge, Subject};
pub use call::{Back, Call, Detached, Ended, Lane, Method, RpcError, SessionLane};
pub use error::Error;
pub use health::{Event, Health, State};
pub use lists::{Definition, Offer, Refused};
pub use spec::{Confine, Confined, NoSecrets, Parts, Revision, Secrets, Spec, Transport};
pub use upstream::Upstream;
