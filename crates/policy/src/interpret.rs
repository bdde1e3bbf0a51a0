//! The interpreter of `regorus`: slower, but it knows `with`, so tests and comparisons run on it.

use regorus::utils::limits::ExecutionTimerConfig;
use regorus::{Engine, Value};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::bundle::Source;
use crate::compile::{self, Policy, one_line};
use crate::limits;
use crate::machine::{Entry, Failure};

/// An interpreter with a policy, strict, under the time limit of tests.
pub(crate) struct Interpreter(Engine);

impl Interpreter {
    /// With what decides.
    pub(crate) fn new(policy: &Policy) -> Result<Self, compile::Error> {
        let mut engine = policy.engine()?;
        engine.set_execution_timer_config(ExecutionTimerConfig {
            limit: Duration::from_millis(limits::TEST_MS_MAX),
            check_interval: NonZeroU32::new(limits::TIMER_INTERVAL).unwrap_or(NonZeroU32::MIN),
        });
        Ok(Self(engine))
    }

    /// With the test files too.
    pub(crate) fn with_tests(policy: &Policy, source: &Source) -> Result<Self, compile::Error> {
        let mut interpreter = Self::new(policy)?;
        for (name, text) in source.rego_tests() {
            compile::add(&mut interpreter.0, name, text)?;
        }
        Ok(interpreter)
    }

    /// The parsed files.
    pub(crate) fn engine(&mut self) -> &mut Engine {
        &mut self.0
    }

    /// The value of an entry point for `input`.
    pub(crate) fn eval(&mut self, entry: Entry, input: Value) -> Result<Value, Failure> {
        self.0.set_input(input);
        self.rule(entry.path())
    }

    /// The value of the rule at `path`.
    pub(crate) fn rule(&mut self, path: &str) -> Result<Value, Failure> {
        self.0.eval_rule(path.to_owned()).map_err(|e| Failure::error(one_line(&e.to_string())))
    }
}
