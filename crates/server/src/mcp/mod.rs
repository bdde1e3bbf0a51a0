//! The MCP gateway: what is in front of an agent.

mod act;
mod adopt;
pub(crate) mod auth;
mod back;
mod errors;
pub(crate) mod governed;
mod greeting;
mod headers;
pub(crate) mod held;
mod keys;
mod lanes;
mod legacy;
mod limits;
mod listen;
mod lists;
mod modern;
pub(crate) mod note;
mod parked;
mod raw;
mod revision;
mod rpc;
mod sessions;
pub(crate) mod state;
mod stream;
mod surface;
mod target;
pub(crate) mod tasks;
mod templates;
mod watch;

pub(crate) use governed::{Gateway, Through};
pub(crate) use surface::{Surface, router};
pub(crate) use watch::serve;
