//! The verifier for browsers and Node: one question in JSON, one answer in JSON. The checks are the
//! kernel's, the same that the command line and the server run; here are only the algorithms, in
//! crates that build for WebAssembly, and the form of questions and answers.

mod abi;
mod answer;
mod crypto;
mod limits;
mod question;

pub use crate::answer::{Answer, Finding, answer};
pub use crate::crypto::PureVerifier;
pub use crate::limits::QUESTION_BYTES_MAX;
