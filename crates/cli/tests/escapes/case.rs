//! A case of the corpus: what hostile code or a hostile request tries, and what must come of it.

use proto::sandboxes::{Capabilities, ExecuteRequest, Limits, Network};
use proto::types::Json;
use serde_json::Value;

use super::guests;
use crate::sandbox::place::component;

/// A case.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) request: ExecuteRequest,
    pub(crate) want: Want,
}

/// What must come of a case.
#[derive(Clone, Debug)]
pub(crate) enum Want {
    /// The code ran, did not succeed, and that is attested: its outcome, the code of its error, and
    /// what its message names.
    Ends { outcome: &'static str, code: &'static str, says: String },
    /// The code ended over something that it was not granted: what kind, and what it wanted, both
    /// on record and in the message, which also says why.
    Denied { capability: &'static str, wanted: String, says: String },
    /// The code ran and was told that it may not, which is its result, attested: JSON, the whole of
    /// it. Nothing of it is on record as denied.
    Told { result: Value },
    /// Nothing ran, and the receipts of the action say so: the state, the error's code, and what
    /// its message names.
    Refused { state: &'static str, code: &'static str, says: String },
    /// The request itself does not read, so that there is no action: 400, as for any tool.
    Invalid { code: &'static str, says: String },
}

pub(crate) fn ends(outcome: &'static str, code: &'static str, says: &str) -> Want {
    Want::Ends { outcome, code, says: says.to_owned() }
}

pub(crate) fn crash(code: &'static str, says: &str) -> Want {
    ends("CRASH", code, says)
}

pub(crate) fn timeout(code: &'static str, says: &str) -> Want {
    ends("TIMEOUT", code, says)
}

pub(crate) fn memory(says: &str) -> Want {
    ends("MEMORY_EXCEEDED", "memory_exceeded", says)
}

pub(crate) fn denied(capability: &'static str, wanted: &str) -> Want {
    denied_for(capability, wanted, "")
}

/// The same, for a reason.
pub(crate) fn denied_for(capability: &'static str, wanted: &str, says: &str) -> Want {
    Want::Denied { capability, wanted: wanted.to_owned(), says: says.to_owned() }
}

/// What the code gives, as JSON.
pub(crate) fn told(result: Value) -> Want {
    Want::Told { result }
}

/// Refused before it ran, by what the operator lets be.
pub(crate) fn refused(code: &'static str, says: &str) -> Want {
    Want::Refused { state: "denied", code, says: says.to_owned() }
}

/// Permitted, looked at, and not run.
pub(crate) fn failed(code: &'static str, says: &str) -> Want {
    Want::Refused { state: "failed", code, says: says.to_owned() }
}

pub(crate) fn invalid(code: &'static str, says: &str) -> Want {
    Want::Invalid { code, says: says.to_owned() }
}

/// A component from its text.
pub(crate) fn wat(text: &str) -> ExecuteRequest {
    component(guests::component(text))
}

/// An agent as source text.
pub(crate) fn source(language: &str, text: &str) -> ExecuteRequest {
    let (language, source) = (language.to_owned(), text.to_owned());
    ExecuteRequest { language, source, wait_ms: Some(60_000), ..ExecuteRequest::default() }
}

/// Python whose function has this body.
pub(crate) fn python(body: &str) -> ExecuteRequest {
    let lines: Vec<String> = body.lines().map(|line| format!("    {line}")).collect();
    source("python", &format!("def run(input):\n{}\n", lines.join("\n")))
}

/// JavaScript whose function has this body.
pub(crate) fn javascript(body: &str) -> ExecuteRequest {
    source("javascript", &format!("export async function run(input) {{ {body} }}"))
}

/// A request with more to it.
pub(crate) trait With: Sized {
    fn input(self, input: &Value) -> Self;
    fn limits(self, change: impl FnOnce(&mut Limits)) -> Self;
    fn grants(self, change: impl FnOnce(&mut Capabilities)) -> Self;
    fn hosts(self, allowlist: &[&str], denylist: &[&str]) -> Self;
    fn of_type(self, name: &str) -> Self;
}

impl With for ExecuteRequest {
    fn input(mut self, input: &Value) -> Self {
        self.input = Some(Json::of(input).unwrap());
        self
    }

    fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(self.limits.get_or_insert_default());
        self
    }

    fn grants(mut self, change: impl FnOnce(&mut Capabilities)) -> Self {
        change(self.capabilities.get_or_insert_default());
        self
    }

    fn hosts(self, allowlist: &[&str], denylist: &[&str]) -> Self {
        let network = Network { allowlist: texts(allowlist), denylist: texts(denylist) };
        self.grants(|grants| grants.network = Some(network))
    }

    fn of_type(mut self, name: &str) -> Self {
        self.r#type = name.to_owned();
        self
    }
}

pub(crate) fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}
