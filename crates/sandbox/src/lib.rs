//! Runs code that nobody trusts: WebAssembly components, and Python and JavaScript by interpreters
//! that are such components. Code reaches what it was granted and nothing else.
//!
//! There are no sockets here: what leaves a sandbox goes through [`Door`] (tools, each call an
//! action of its own) and [`Egress`] (HTTP to granted hosts), which the server provides.

mod child;
mod compile;
mod engine;
mod error;
mod execute;
mod host;
mod light;
pub mod limits;
mod loaded;
mod meter;
mod native;
mod run;
mod sandboxes;
mod staging;
mod state;
mod turns;

pub use child::compile_main;
pub use compile::Compiler;
pub use error::Error;
pub use light::{Confinement, light_main};
pub use run::{
    Code, Denial, Door, DoorAnswer, DoorFailure, Egress, EgressBody, EgressFailure, Report, Run,
    Seed, Written,
};
pub use sandboxes::{Bound, Config, Light, Sandboxes};
