//! MCP servers and clients for tests to talk to; never part of what is shipped.
//!
//! [`everything`] is a well-behaved server made with the official SDK, [`misbehave`] one that does
//! what no server should, [`guarded`] one that wants a token, [`fast`] one that costs next to
//! nothing, and [`peer`] the official SDK's client. [`conformance`] is the product's own client as
//! the official suite drives it, under permits by [`testkit::permit`]. [`program`] makes servers
//! over stdio of the test program itself.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]
#![expect(deprecated, reason = "the older revisions have what the newest dropped")]

pub mod conformance;
pub mod everything;
pub mod fast;
pub mod guarded;
pub mod misbehave;
pub mod peer;
pub mod program;
mod revision;
mod running;

pub use revision::Revisions;
pub use running::Running;
