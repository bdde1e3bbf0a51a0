//! Connectors as data: a definition says how operations of a system become HTTP requests, and what
//! its answers mean; this is the one engine that carries them out.
//!
//! `document` reads a definition, `definition` checks it, `instance` makes it usable for a tenant.
//! A call goes through `call`: `request` builds what is sent, `auth` authorises it, `transport`
//! sends it to the instance's host and nowhere else, `answer` says what came of it. `replay` holds
//! a definition to recorded exchanges, without any network.

mod answer;
mod auth;
mod call;
mod catalog;
mod definition;
mod document;
mod error;
mod instance;
mod manifest;
mod replay;
mod request;
mod rules;
mod scaffold;
mod template;
mod transport;

pub use auth::Credentials;
pub use call::{ConnectorCall, Ended, Engine};
pub use catalog::{Shipped, shipped};
pub use definition::{Definition, Operation};
pub use error::Error;
pub use instance::{Instance, InstanceConfig};
pub use manifest::Offered;
pub use replay::{Exchanges, Outcome as Replayed, exchanges_of, replay};
pub use scaffold::scaffold;
