//! One thread's virtual machine with its own program and data.

use kernel::decision::{DecisionInput, MatchedRule, NoAnswer};
use regorus::Value;
use regorus::rvm::RegoVM;
use regorus::rvm::vm::VmError;
use regorus::utils::limits::ExecutionTimerConfig;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::bundle::Bundle;
use crate::compile::{self, Policy};
use crate::{answer, guard, input, limits};

/// Which of the two entry points. The order is that of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// `data.tally.decisions`
    Decisions,
    /// `data.tally.listing`
    Listing,
}

impl Entry {
    fn index(self) -> usize {
        match self {
            Self::Decisions => 0,
            Self::Listing => 1,
        }
    }

    /// The rule's path.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Decisions => compile::DECISIONS,
            Self::Listing => compile::LISTING,
        }
    }
}

/// Why an evaluation gave no rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The reason code of the refusal.
    pub(crate) why: NoAnswer,
    /// What happened, for the author of the policy. Never part of a decision.
    pub(crate) detail: String,
}

impl Failure {
    pub(crate) fn error(detail: impl Into<String>) -> Self {
        Self { why: NoAnswer::PolicyError, detail: detail.into() }
    }
}

/// A virtual machine, ready to evaluate.
pub(crate) struct Machine(RegoVM);

impl Machine {
    /// Compiles `policy` for this thread. An evaluation ends after `limit`.
    pub(crate) fn new(policy: &Policy, limit: Duration) -> Result<Self, compile::Error> {
        let compiled = policy.compile()?;
        let mut vm = RegoVM::new();
        vm.load_program(compiled.program);
        vm.set_data(compiled.data).map_err(|e| compile::Error::Data(e.to_string()))?;
        vm.set_max_instructions(limits::INSTRUCTIONS_MAX);
        // Strictness lies in the guards; the machine's own would make a rule vanish.
        vm.set_strict_builtin_errors(false);
        let check_interval = NonZeroU32::new(limits::TIMER_INTERVAL).unwrap_or(NonZeroU32::MIN);
        vm.set_execution_timer_config(Some(ExecutionTimerConfig { limit, check_interval }));
        Ok(Self(vm))
    }

    /// The value of an entry point for `input`.
    pub(crate) fn eval(&mut self, entry: Entry, input: Value) -> Result<Value, Failure> {
        guard::reset();
        self.0.set_input(input);
        let result = self.0.execute_entry_point_by_index(entry.index());
        if let Some(detail) = guard::failure() {
            return Err(Failure::error(detail));
        }
        result.map_err(|error| Failure {
            why: match error {
                VmError::TimeLimitExceeded { .. } | VmError::InstructionLimitExceeded { .. } => {
                    NoAnswer::PolicyTimeout
                }
                _ => NoAnswer::PolicyError,
            },
            detail: error.to_string(),
        })
    }

    /// The rules that match `input`.
    pub(crate) fn rules(
        &mut self,
        entry: Entry,
        input: Value,
    ) -> Result<Vec<MatchedRule>, Failure> {
        answer::matched(&self.eval(entry, input)?)
    }
}

/// A machine with an input, for measurements.
pub struct BareMachine {
    machine: Machine,
    input: Value,
}

impl std::fmt::Debug for BareMachine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BareMachine")
    }
}

impl BareMachine {
    /// Compiles the bundle for this thread and reads the input.
    pub fn new(bundle: &Bundle, input: &DecisionInput<'_>) -> Result<Self, compile::Error> {
        let limit = Duration::from_millis(limits::DECISION_MS_DEFAULT);
        let machine = Machine::new(bundle.policy(), limit)?;
        let json = serde_json::to_vec(input).map_err(|e| compile::Error::Data(e.to_string()))?;
        let input = input::parse(&json).map_err(|e| compile::Error::Data(e.detail))?;
        Ok(Self { machine, input })
    }
}

/// Evaluates `data.tally.decisions` on the machine that decides, with its guards and limits, and
/// returns how many rules matched: the floor under a decision. It includes handing the machine
/// its input, already a value, and letting go of the result. It does not include writing,
/// digesting or reading the input, freshness, reading the rules, or combining them.
///
/// # Errors
/// The evaluation failed, as a sentence.
pub fn bare_eval(machine: &mut BareMachine) -> Result<usize, String> {
    match machine.machine.eval(Entry::Decisions, machine.input.clone()) {
        Ok(Value::Set(set)) => Ok(set.len()),
        Ok(_) => Err("the result is no set".to_owned()),
        Err(failure) => Err(failure.detail),
    }
}
