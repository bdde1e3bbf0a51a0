//! How tools fail, as their manifests tell it.

use kernel::failure::Category::{self, Permanent, Permission, Timeout, Validation};
use kernel::tool::FailureMode;

/// A way of failing: its code and category, what it means, and what helps.
pub(crate) fn mode(code: &str, category: Category, meaning: &str, hint: &str) -> FailureMode {
    FailureMode::new(code, category, meaning, hint)
}

/// The ways in which every tool fails, and those of its own.
pub(crate) fn failures(own: Vec<FailureMode>) -> Vec<FailureMode> {
    let again = "submit the action again";
    let mut all = vec![
        mode("params_invalid", Validation, "the parameters break the input schema", CHANGE),
        mode("permit_expired", Permission, "the effect began too late", again),
        mode("permit_other_plan", Permission, "the permit is for another plan", again),
        mode(
            "result_invalid",
            Permanent,
            "the result is not JSON that Tally accepts, such as nested too deep",
            "ask for less, or for another form",
        ),
    ];
    // A tool that says more exactly what it means by a timeout says so itself.
    if !own.iter().any(|mode| mode.code == "timeout") {
        all.push(mode("timeout", Timeout, "it took too long", "ask for less, or try again"));
    }
    all.extend(own);
    all
}

/// What helps where the request is wrong.
pub(crate) const CHANGE: &str = "change what the message names";
