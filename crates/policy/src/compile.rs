//! From a bundle's Rego to a program that cannot lose a rule to a failing expression.
//!
//! The virtual machine of `regorus` treats every error inside a rule's body as "the body is
//! false", also with strict builtin errors on: a failing builtin in a DENY rule would make the
//! rule vanish. [`Policy::compile`] therefore rewrites the program: each builtin call, and each
//! arithmetic or ordering instruction, goes through `guard`, which turns a failure into an error
//! that ends the evaluation. Rules that could disagree with themselves, which the machine makes
//! undefined, are refused.

use regorus::languages::rego::compiler::{Compiler, SpannedCompilerError};
use regorus::rvm::Instruction;
use regorus::rvm::instructions::BuiltinCallParams;
use regorus::rvm::program::{BuiltinInfo, Program, RuleType};
use regorus::{Engine, Value};
use std::sync::Arc;

use crate::bundle::{self, Source};
use crate::{guard, lint};

/// The entry point that decides an action.
pub const DECISIONS: &str = "data.tally.decisions";
/// The entry point that says whether a tool is callable at all.
pub const LISTING: &str = "data.tally.listing";

/// A place in a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name in the bundle.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// Why a policy is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not Rego v1.
    #[error("{0}")]
    Parse(String),
    /// Rego that the virtual machine cannot run.
    #[error("{}{message}", at(place.as_ref()))]
    Compile {
        /// Where, if the compiler said.
        place: Option<Place>,
        /// What it said.
        message: String,
    },
    /// A builtin that decisions may not use.
    #[error("{}the builtin `{name}` may not be used: {why}", at(place.as_ref()))]
    Builtin {
        /// Where.
        place: Option<Place>,
        /// Which.
        name: String,
        /// Why not.
        why: &'static str,
    },
    /// A rule whose definitions may give different values at once.
    #[error(
        "`{rule}` has {definitions} definitions that may disagree: chain them with `else`, give \
         all of them the same value, or use a set (`contains`)"
    )]
    MayDisagree {
        /// The rule's path.
        rule: String,
        /// How many.
        definitions: usize,
    },
    /// A rule that takes its value out of an iteration.
    #[error(
        "{place}: `{rule}` takes its value from an iteration and may have several: collect them \
         in a comprehension or a set (`contains`)"
    )]
    ManyValues {
        /// Where the rule stands.
        place: Place,
        /// The rule's path.
        rule: String,
    },
    /// An ALLOW that reads what the agent says.
    #[error("{place}: `{rule}` can yield ALLOW and reads {reads}: claims may only restrict")]
    AllowReadsClaims {
        /// Where the rule stands.
        place: Place,
        /// The rule's path.
        rule: String,
        /// What it reads.
        reads: String,
    },
    /// An entry point is missing.
    #[error("`{0}` is not defined: add a rule `contains` in package `tally`")]
    NoEntryPoint(&'static str),
    /// `data.json` is not what it must be.
    #[error("{0}")]
    Data(String),
}

fn at(place: Option<&Place>) -> String {
    place.map(|p| format!("{p}: ")).unwrap_or_default()
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Parse(_) => "policy_syntax",
            Self::Compile { .. } => "policy_not_compilable",
            Self::Builtin { .. } => "policy_builtin",
            Self::MayDisagree { .. } | Self::ManyValues { .. } => "policy_may_disagree",
            Self::AllowReadsClaims { .. } => "policy_allow_reads_claims",
            Self::NoEntryPoint(_) => "policy_no_entry_point",
            Self::Data(_) => "policy_data",
        }
    }
}

/// The texts that decide, from which every thread makes its own program and data: values of
/// `regorus` are reference-counted trees, and sharing them between threads costs all scaling.
#[derive(Clone, Debug)]
pub struct Policy {
    rego: Arc<[(String, String)]>,
    data: Arc<str>,
}

/// A program and the data it reads, for one thread.
pub(crate) struct Compiled {
    pub(crate) program: Arc<Program>,
    pub(crate) data: Value,
}

impl Policy {
    /// Takes what decides out of a bundle's files.
    pub fn new(source: &Source) -> Result<Self, Error> {
        let owned = |(name, text): (&str, &str)| (name.to_owned(), text.to_owned());
        let data = source.data().map_err(|e: bundle::Error| Error::Data(e.to_string()))?;
        Ok(Self { rego: source.rego().map(owned).collect(), data: data.to_string().into() })
    }

    /// Parses, checks and compiles for this thread.
    pub(crate) fn compile(&self) -> Result<Compiled, Error> {
        let mut engine = self.engine()?;
        lint::check(engine.get_modules())?;
        let data = engine.get_data();
        let compiled = engine
            .compile_with_entrypoint(&DECISIONS.into())
            .map_err(|e| Error::Parse(one_line(&e.to_string())))?;
        let program = Compiler::compile_from_policy(&compiled, &[DECISIONS, LISTING])
            .map_err(|e| spanned(&e))?;
        let program = Arc::try_unwrap(program).unwrap_or_else(|shared| (*shared).clone());
        Ok(Compiled { program: Arc::new(harden(program)?), data })
    }

    /// An interpreter with every file that decides.
    pub(crate) fn engine(&self) -> Result<Engine, Error> {
        let mut engine = Engine::new();
        engine.set_strict_builtin_errors(true);
        for (name, text) in self.rego.iter() {
            add(&mut engine, name, text)?;
        }
        engine.add_data_json(&self.data).map_err(|e| Error::Data(one_line(&e.to_string())))?;
        Ok(engine)
    }
}

/// Parses one file into `engine`.
pub(crate) fn add(engine: &mut Engine, name: &str, text: &str) -> Result<(), Error> {
    engine
        .add_policy(name.to_owned(), text.to_owned())
        .map(|_| ())
        .map_err(|e| Error::Parse(one_line(&e.to_string())))
}

/// `regorus` draws its messages over several lines: ` --> file:3:1`, the source, `error: what`.
pub(crate) fn one_line(message: &str) -> String {
    let place = message.lines().find_map(|line| line.trim().strip_prefix("--> "));
    let what = message.lines().find_map(|line| line.trim().strip_prefix("error: "));
    match (place, what) {
        (Some(place), Some(what)) => format!("{place}: {what}"),
        _ => message.split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

fn spanned(error: &SpannedCompilerError) -> Error {
    let place = error
        .span
        .as_ref()
        .map(|span| Place { file: span.source.get_path().clone(), line: span.line });
    Error::Compile { place, message: error.error.to_string() }
}

/// Makes every failure of an expression end the evaluation.
fn harden(mut program: Program) -> Result<Program, Error> {
    refuse_disagreement(&program)?;
    for (info, resolved) in
        program.builtin_info_table.iter().zip(program.resolved_builtins.iter_mut())
    {
        resolved.0 = guard::guarded(&info.name).ok_or_else(|| not_allowed(&info.name))?;
    }
    let mut instructions = std::mem::take(&mut program.instructions);
    for instruction in &mut instructions {
        if let Some((name, dest, left, right)) = operation(*instruction) {
            *instruction = call(&mut program, name, dest, left, right)?;
        }
    }
    program.instructions = instructions;
    program.validate_limits().map_err(|message| Error::Compile { place: None, message })?;
    Ok(program)
}

fn not_allowed(name: &str) -> Error {
    Error::Builtin { place: None, name: name.to_owned(), why: guard::why_not(name) }
}

/// A complete rule (or function) with two values at once is an error in Rego, which the machine
/// turns into "undefined". Where all definitions have one constant value that cannot happen.
fn refuse_disagreement(program: &Program) -> Result<(), Error> {
    let suspect = program.rule_infos.iter().find(|rule| {
        rule.rule_type == RuleType::Complete
            && rule.definitions.len() > 1
            && !rule.early_exit_on_first_success
    });
    match suspect {
        Some(rule) => {
            Err(Error::MayDisagree { rule: rule.name.clone(), definitions: rule.definitions.len() })
        }
        None => Ok(()),
    }
}

/// The operation of an instruction that can fail: its guard's name and its registers.
fn operation(instruction: Instruction) -> Option<(&'static str, u8, u8, u8)> {
    use Instruction::{Add, Div, Ge, Gt, Le, Lt, Mod, Mul, Sub};
    match instruction {
        Add { dest, left, right } => Some((guard::ADD, dest, left, right)),
        Sub { dest, left, right } => Some((guard::SUB, dest, left, right)),
        Mul { dest, left, right } => Some((guard::MUL, dest, left, right)),
        Div { dest, left, right } => Some((guard::DIV, dest, left, right)),
        Mod { dest, left, right } => Some((guard::MOD, dest, left, right)),
        Lt { dest, left, right } => Some((guard::LT, dest, left, right)),
        Le { dest, left, right } => Some((guard::LE, dest, left, right)),
        Gt { dest, left, right } => Some((guard::GT, dest, left, right)),
        Ge { dest, left, right } => Some((guard::GE, dest, left, right)),
        _ => None,
    }
}

/// A call of an operation's guard in place of the instruction.
fn call(
    program: &mut Program,
    name: &'static str,
    dest: u8,
    left: u8,
    right: u8,
) -> Result<Instruction, Error> {
    let function = guard::guarded(name).ok_or_else(|| not_allowed(name))?;
    let known = program.builtin_info_table.iter().position(|info| info.name == name);
    let index = match known.and_then(|index| u16::try_from(index).ok()) {
        Some(index) => index,
        None => {
            let info = BuiltinInfo { name: name.to_owned(), num_args: 2 };
            program.resolved_builtins.push((function, 2));
            program.add_builtin_info(info)
        }
    };
    let args = [left, right, 0, 0, 0, 0, 0, 0];
    let params = BuiltinCallParams { dest, builtin_index: index, num_args: 2, args };
    let params_index = program.add_builtin_call_params(params);
    Ok(Instruction::BuiltinCall { params_index })
}
