//! A bundle's own tests: `test_*` rules and `cases.json`.

use kernel::decision::{Decision, Effect, MatchedRule, PolicyRef};
use kernel::values::Digest;
use regorus::Value;
use regorus::unstable::{Module, Ref, Rule, RuleHead};
use serde::{Deserialize, Serialize};
use std::time::Duration;

use crate::answer::matched;
use crate::bundle::{Error, Source};
use crate::compile::Policy;
use crate::interpret::Interpreter;
use crate::machine::{Entry, Failure, Machine};
use crate::{limits, lint, sample};

/// The file of cases.
const CASES: &str = "cases.json";

/// One test's outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TestOutcome {
    /// `data.tally_test.test_reads`, or the case's name.
    pub name: String,
    /// Why it failed; none where it passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// All tests' outcomes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TestReport {
    /// Each test, rules first, in order of their names.
    pub tests: Vec<TestOutcome>,
}

impl TestReport {
    /// Those that failed.
    pub fn failed(&self) -> impl Iterator<Item = &TestOutcome> {
        self.tests.iter().filter(|test| test.failure.is_some())
    }
}

/// One case of `cases.json`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    /// `decisions` or `listing`.
    #[serde(default)]
    entry: CaseEntry,
    /// Laid over the default input.
    #[serde(default)]
    input: serde_json::Map<String, serde_json::Value>,
    expect: Expectation,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum CaseEntry {
    #[default]
    Decisions,
    Listing,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Expectation {
    effect: Effect,
    /// Exactly these rules.
    rules: Option<Vec<String>>,
    /// Exactly these reasons.
    reasons: Option<Vec<String>>,
}

/// Runs every test of a bundle. `test_*` rules run on the interpreter (only it knows `with`);
/// cases run on both, and both must agree.
///
/// # Errors
/// The policy or its tests do not compile, or `cases.json` has another form.
pub fn run_tests(source: &Source) -> Result<TestReport, Error> {
    let policy = Policy::new(source)?;
    let mut report = TestReport::default();
    let mut interpreter = Interpreter::with_tests(&policy, source)?;
    let names = test_rules(interpreter.engine().get_modules());
    for name in names {
        interpreter.engine().set_input(Value::new_object());
        let failure = match interpreter.rule(&name) {
            Ok(Value::Bool(true)) => None,
            Ok(Value::Undefined) => Some("undefined".to_owned()),
            Ok(value) => Some(format!("gave {value}, not true")),
            Err(failure) => Some(failure.detail),
        };
        report.tests.push(TestOutcome { name, failure });
    }
    let mut twins = Twins::new(&policy)?;
    for case in cases(source)? {
        let failure = twins.run(&case).err();
        report.tests.push(TestOutcome { name: case.name, failure });
    }
    Ok(report)
}

fn test_rules(modules: &[Ref<Module>]) -> Vec<String> {
    let mut names = Vec::new();
    for module in modules {
        let package = lint::path(&module.package.refr);
        for rule in &module.policy {
            let Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } = rule.as_ref() else {
                continue;
            };
            let name = lint::path(refr);
            if name.starts_with("test_") {
                names.push(format!("data.{package}.{name}"));
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

fn cases(source: &Source) -> Result<Vec<Case>, Error> {
    let Some(bytes) = source.files().get(CASES) else { return Ok(Vec::new()) };
    let cases: Vec<Case> =
        serde_json::from_slice(bytes).map_err(|e| Error::Malformed(format!("`{CASES}`: {e}")))?;
    if cases.len() > limits::CASES_MAX {
        let (count, max) = (cases.len(), limits::CASES_MAX);
        return Err(Error::TooLarge(format!("`{CASES}` has {count} cases, at most {max}")));
    }
    Ok(cases)
}

/// The interpreter and the machine with the same policy.
pub(crate) struct Twins {
    interpreter: Interpreter,
    machine: Machine,
}

impl Twins {
    pub(crate) fn new(policy: &Policy) -> Result<Self, Error> {
        // The limit of tests for both: whether a decision is fast enough is not their matter.
        let limit = Duration::from_millis(limits::TEST_MS_MAX);
        let machine = Machine::new(policy, limit)?;
        Ok(Self { interpreter: Interpreter::new(policy)?, machine })
    }

    /// The rules that match, on which both must agree.
    pub(crate) fn rules(
        &mut self,
        entry: Entry,
        input: &serde_json::Value,
    ) -> Result<Vec<MatchedRule>, String> {
        let value: Value = serde_json::from_value(input.clone()).map_err(|e| e.to_string())?;
        let fast = self.machine.eval(entry, value.clone());
        let slow = self.interpreter.eval(entry, value);
        let show = |result: &Result<Value, Failure>| match result {
            Ok(value) => value.to_string(),
            Err(failure) => format!("the error `{}`", failure.detail),
        };
        match (&fast, &slow) {
            (Ok(a), Ok(b)) if a == b => matched(a).map_err(|failure| failure.detail),
            (Err(failure), Err(_)) => Err(failure.detail.clone()),
            _ => Err(format!(
                "the compiled policy gives {}, the interpreter {}",
                show(&fast),
                show(&slow)
            )),
        }
    }

    fn run(&mut self, case: &Case) -> Result<(), String> {
        let input = sample::complete(&serde_json::Value::Object(case.input.clone()));
        let entry = match case.entry {
            CaseEntry::Decisions => Entry::Decisions,
            CaseEntry::Listing => Entry::Listing,
        };
        let matched = self.rules(entry, &input)?;
        let found = Decision::combine(matched, PolicyRef::none(), Digest::of(b""));
        compare("effect", &case.expect.effect, &found.effect)?;
        if let Some(rules) = &case.expect.rules {
            compare("rules", rules, &found.rules)?;
        }
        if let Some(reasons) = &case.expect.reasons {
            compare("reasons", reasons, &found.reasons)?;
        }
        Ok(())
    }
}

fn compare<T: PartialEq + std::fmt::Debug>(
    what: &str,
    expected: &T,
    found: &T,
) -> Result<(), String> {
    if expected == found {
        return Ok(());
    }
    Err(format!("{what}: expected {expected:?}, found {found:?}"))
}
