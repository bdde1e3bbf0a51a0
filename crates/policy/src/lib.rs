//! Policy: signed Rego bundles, compiled and checked, and the decision point that evaluates them.
//!
//! A bundle's way: [`Source::read_dir`] → [`check_publishable`] → [`Source::pack`] with a
//! [`Signer`] → [`open`] on the server → [`PolicyPoint::install`] and `confirm` → decisions.

mod answer;
mod baseline;
pub mod bundle;
mod cases;
pub mod compile;
mod guard;
mod input;
mod interpret;
pub mod limits;
mod lint;
mod machine;
pub mod point;
mod publish;
mod sample;
pub mod sign;
mod syntax;

pub use baseline::{baseline, itsm};
pub use bundle::{Bundle, Source, open};
pub use cases::{TestOutcome, TestReport, run_tests};
pub use machine::{BareMachine, bare_eval};
pub use point::{Clock, Config, Confirmation, ControlKey, PolicyPoint, simulate};
pub use publish::{Finding, Report, check_publishable};
pub use sign::{P256Signer, Signer, TrustedKeys};
