//! What a bundle must pass before it is published.

use serde::Serialize;

use crate::bundle::Source;
use crate::cases::{TestReport, Twins, run_tests};
use crate::compile::Policy;
use crate::machine::Entry;
use crate::{limits, lint, sample};

/// One reason against publishing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// What is wrong and where: `tally.rego:12: …`.
    pub message: String,
}

/// What was checked and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Empty where the bundle may be published.
    pub findings: Vec<Finding>,
    /// Its own tests.
    pub tests: TestReport,
    /// On how many generated inputs it was evaluated.
    pub generated: usize,
}

impl Report {
    /// Whether the bundle may be published.
    pub fn publishable(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, code: &'static str, message: String) {
        if self.findings.len() < limits::FINDINGS_MAX {
            self.findings.push(Finding { code, message });
        }
    }
}

/// Checks that a bundle compiles, keeps to the rules for ALLOW, passes its own tests, and that on
/// generated valid inputs nothing fails and the compiled policy and the interpreter agree.
pub fn check_publishable(source: &Source) -> Report {
    let mut report = Report::default();
    let policy = match Policy::new(source).and_then(|policy| policy.compile().map(|_| policy)) {
        Ok(policy) => policy,
        Err(error) => {
            report.find(error.code(), error.to_string());
            return report;
        }
    };
    match run_tests(source) {
        Ok(tests) => report.tests = tests,
        Err(error) => report.find(error.code(), error.to_string()),
    }
    let failed: Vec<_> = report.tests.failed().cloned().collect();
    for test in failed {
        let why = test.failure.unwrap_or_default();
        report.find("policy_test_failed", format!("{}: {why}", test.name));
    }
    try_generated(&policy, &mut report);
    report
}

fn try_generated(policy: &Policy, report: &mut Report) {
    let twins = Twins::new(policy).and_then(|twins| Ok((twins, policy.engine()?)));
    let (mut twins, mut engine) = match twins {
        Ok(both) => both,
        Err(error) => return report.find(error.code(), error.to_string()),
    };
    let words = lint::words(engine.get_modules());
    for (nth, input) in sample::generate(&words, limits::GENERATED_INPUTS).iter().enumerate() {
        for entry in [Entry::Decisions, Entry::Listing] {
            if let Err(why) = twins.rules(entry, input) {
                let message =
                    format!("{} on generated input {nth}: {why}; input {input}", entry.path());
                report.find("policy_fails_on_valid_input", message);
                return;
            }
        }
        report.generated = nth + 1;
    }
}
