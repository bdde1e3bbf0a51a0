//! The builtins that decisions may use, each wrapped so that its failure ends the evaluation.

use regorus::LimitError;
use regorus::Value;
use regorus::unstable::{ArithOp, BUILTINS, BoolOp, Expr, Ref, Span, comparison, numbers, sets};
use std::cell::RefCell;
use std::mem::discriminant;

/// A builtin of `regorus`.
type Builtin = fn(&Span, &[Ref<Expr>], &[Value], bool) -> anyhow::Result<Value>;

pub(crate) const ADD: &str = "__tally.add";
pub(crate) const SUB: &str = "__tally.sub";
pub(crate) const MUL: &str = "__tally.mul";
pub(crate) const DIV: &str = "__tally.div";
pub(crate) const MOD: &str = "__tally.mod";
pub(crate) const LT: &str = "__tally.lt";
pub(crate) const LE: &str = "__tally.le";
pub(crate) const GT: &str = "__tally.gt";
pub(crate) const GE: &str = "__tally.ge";

thread_local! {
    /// The first failure of the evaluation that this thread is at.
    static FAILURE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Forgets the last evaluation's failure.
pub(crate) fn reset() {
    FAILURE.with_borrow_mut(|failure| *failure = None);
}

/// The first failure since [`reset`].
pub(crate) fn failure() -> Option<String> {
    FAILURE.with_borrow(Clone::clone)
}

/// Records a failure and returns the error that no rule can swallow: the machine lets errors of
/// its limits through, and only those. It also reads [`failure`] after each evaluation, so that
/// nothing hangs on this alone.
fn fail(name: &str, why: &str) -> anyhow::Error {
    let why = crate::compile::one_line(why);
    FAILURE.with_borrow_mut(|failure| {
        failure.get_or_insert_with(|| format!("`{name}` failed: {why}"));
    });
    anyhow::Error::new(LimitError::MemoryLimitExceeded { usage: 0, limit: 0 })
}

/// Calls `name` with strict errors.
fn call_strictly(
    name: &'static str,
    span: &Span,
    exprs: &[Ref<Expr>],
    args: &[Value],
) -> anyhow::Result<Value> {
    let Some((function, _)) = BUILTINS.get(name) else {
        return Err(fail(name, "it does not exist"));
    };
    match function(span, exprs, args, true) {
        Ok(value) => Ok(value),
        Err(error) => Err(fail(name, &error.to_string())),
    }
}

macro_rules! allowed {
    ($($name:literal)*) => {
        /// The wrapped builtin `name`, or none where decisions may not use it.
        fn builtin(name: &str) -> Option<Builtin> {
            match name {
                $($name => {
                    fn call(
                        span: &Span,
                        exprs: &[Ref<Expr>],
                        args: &[Value],
                        _strict: bool,
                    ) -> anyhow::Result<Value> {
                        call_strictly($name, span, exprs, args)
                    }
                    Some(call)
                })*
                _ => None,
            }
        }
    };
}

// Pure functions of their arguments whose cost is bounded by the size of their arguments. Not
// here: what reads clocks, entropy, the network or the process, what can make much out of little
// (`numbers.range`, `net.cidr_expand`, `bits.lsh`), and `print` and `trace`.
allowed! {
    "__builtin_sets.union" "__builtin_sets.intersection" "intersection" "union"
    "abs" "ceil" "floor" "round" "format_int" "to_number"
    "count" "max" "min" "sum" "product" "sort"
    "array.concat" "array.reverse" "array.slice"
    "base64.decode" "base64.encode" "base64.is_valid" "base64url.decode" "base64url.encode"
    "base64url.encode_no_pad" "hex.decode" "hex.encode"
    "bits.and" "bits.negate" "bits.or" "bits.xor"
    "concat" "contains" "endswith" "indexof" "indexof_n" "lower" "replace" "split" "sprintf"
    "startswith" "strings.any_prefix_match" "strings.any_suffix_match" "strings.count"
    "strings.reverse" "substring" "trim" "trim_left" "trim_prefix" "trim_right" "trim_space"
    "trim_suffix" "upper"
    "glob.match" "glob.quote_meta"
    "is_array" "is_boolean" "is_null" "is_number" "is_object" "is_set" "is_string" "type_name"
    "json.is_valid" "json.marshal" "json.unmarshal" "json.filter" "json.remove"
    "net.cidr_contains" "net.cidr_is_valid"
    "object.filter" "object.get" "object.keys" "object.remove" "object.subset" "object.union"
    "object.union_n" "walk"
    "regex.find_n" "regex.is_valid" "regex.match" "regex.replace" "regex.split"
    "semver.compare" "semver.is_valid"
    "time.add_date" "time.clock" "time.date" "time.diff" "time.parse_duration_ns"
    "time.parse_rfc3339_ns" "time.weekday"
    "units.parse" "units.parse_bytes"
    "urlquery.decode" "urlquery.encode"
}

/// The wrapped builtin or operation `name`, or none where decisions may not use it.
pub(crate) fn guarded(name: &str) -> Option<Builtin> {
    match name {
        ADD => Some(|span, exprs, args, _| arithmetic(&ArithOp::Add, span, exprs, args)),
        SUB => Some(subtract),
        MUL => Some(|span, exprs, args, _| arithmetic(&ArithOp::Mul, span, exprs, args)),
        DIV => Some(|span, exprs, args, _| arithmetic(&ArithOp::Div, span, exprs, args)),
        MOD => Some(|span, exprs, args, _| arithmetic(&ArithOp::Mod, span, exprs, args)),
        LT => Some(|_, _, args, _| order(&BoolOp::Lt, args)),
        LE => Some(|_, _, args, _| order(&BoolOp::Le, args)),
        GT => Some(|_, _, args, _| order(&BoolOp::Gt, args)),
        GE => Some(|_, _, args, _| order(&BoolOp::Ge, args)),
        _ => builtin(name),
    }
}

/// Why a builtin is not among the allowed.
pub(crate) fn why_not(name: &str) -> &'static str {
    match name {
        "time.now_ns" => "a decision's only clock is `input.now`",
        "rand.intn" | "uuid.rfc4122" => "the same input must always decide the same",
        "http.send" | "opa.runtime" => "a decision depends on its input and bundle alone",
        "numbers.range" | "numbers.range_step" | "net.cidr_expand" | "bits.lsh" => {
            "it can take unbounded memory"
        }
        _ => "it is not among the builtins that Tally allows",
    }
}

fn arithmetic(
    op: &ArithOp,
    span: &Span,
    exprs: &[Ref<Expr>],
    args: &[Value],
) -> anyhow::Result<Value> {
    let ([e1, e2, ..], [v1, v2, ..]) = (exprs, args) else {
        return Err(fail("arithmetic", "two operands are needed"));
    };
    numbers::arithmetic_operation(span, op, e1, e2, v1.clone(), v2.clone(), true)
        .map_err(|error| fail("arithmetic", &error.to_string()))
}

/// `-` is also the difference of sets.
fn subtract(
    span: &Span,
    exprs: &[Ref<Expr>],
    args: &[Value],
    _strict: bool,
) -> anyhow::Result<Value> {
    match (exprs, args) {
        ([e1, e2, ..], [v1 @ Value::Set(_), v2 @ Value::Set(_)]) => {
            sets::difference(e1, e2, v1.clone(), v2.clone())
                .map_err(|error| fail("-", &error.to_string()))
        }
        _ => arithmetic(&ArithOp::Sub, span, exprs, args),
    }
}

/// `<`, `<=`, `>` and `>=`: only between values of one type. Rego orders types too (`null` below
/// every number), which makes a limit on a parameter of the wrong type say nothing.
fn order(op: &BoolOp, args: &[Value]) -> anyhow::Result<Value> {
    let [left, right, ..] = args else {
        return Err(fail("comparison", "two operands are needed"));
    };
    if discriminant(left) != discriminant(right) {
        return Err(fail("comparison", "the operands have different types"));
    }
    comparison::compare(op, left, right).map_err(|e| fail("comparison", &e.to_string()))
}
