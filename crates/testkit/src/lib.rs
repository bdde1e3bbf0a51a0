//! What the tests of several crates share; never part of what is shipped.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail loudly")]

mod permit;
mod postgres;

pub use permit::permit;
pub use postgres::{Cluster, Database};
