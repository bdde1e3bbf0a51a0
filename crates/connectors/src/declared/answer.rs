//! From an answer to a result.

use http::{HeaderMap, StatusCode};
use kernel::failure::{Category, Failure};
use kernel::json::RawJson;
use kernel::values::Timestamp;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::definition::Operation;
use super::rules::{self, Refusal};
use super::template::{Scope, Tree};
use super::transport::Answer;

/// What an answer came to.
pub(super) enum Judged {
    /// It was done, and this is the result.
    Done(Value),
    /// It was refused.
    Refused(Refusal),
    /// It was done, but nothing can be made of the answer.
    Unusable(Failure),
}

/// Judges an answer by the rules of `operation`.
pub(super) fn judge(
    operation: &Operation,
    answer: &Answer,
    scope: Scope,
    now: Timestamp,
) -> Judged {
    let Answer { status, headers, body, cut } = answer;
    let read = read(body, *cut);
    let none = Value::Null;
    let told = read.as_ref().unwrap_or(&none);
    if let Some(refusal) = rules::refusal(&operation.rules, *status, headers, told, now) {
        return Judged::Refused(refusal);
    }
    let body = match read {
        Ok(body) => body,
        Err(failure) => return Judged::Unusable(failure),
    };
    let scope = scope.with("response", &response(*status, headers, body));
    match made(&operation.result, &scope) {
        Ok(result) => match check(operation, &result) {
            Ok(()) => Judged::Done(result),
            Err(failure) => Judged::Unusable(failure),
        },
        Err(failure) => Judged::Unusable(failure),
    }
}

/// The body as JSON; nothing where it is empty.
/// Whether the system, by the rules of `operation`, says that it cannot serve for the moment, in
/// an answer whose status says that it is well.
pub(super) fn is_broken(operation: &Operation, answer: &Answer, now: Timestamp) -> bool {
    let Answer { status, headers, body, cut } = answer;
    let Some(body) = read(body, *cut).ok().filter(|_| status.is_success()) else { return false };
    let refusal = rules::refusal(&operation.rules, *status, headers, &body, now);
    refusal.is_some_and(|Refusal { failure, .. }| {
        let unwell = [Category::Upstream, Category::Timeout, Category::RateLimited];
        unwell.contains(&failure.category) && failure.retryable
    })
}

fn read(body: &[u8], cut: bool) -> Result<Value, Failure> {
    if cut {
        let message = "the system's answer is larger than the connector takes";
        return Err(Failure::new(Category::Permanent, "answer_too_large", message));
    }
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body).map_err(|_| invalid("it is no JSON"))
}

/// What templates see of an answer.
fn response(status: StatusCode, headers: &HeaderMap, body: Value) -> Value {
    let shown = headers.iter().filter(|(name, _)| *name != http::header::SET_COOKIE);
    let shown = shown.filter_map(|(name, value)| {
        Some((name.as_str().to_owned(), Value::from(value.to_str().ok()?)))
    });
    json!({"status": status.as_u16(), "headers": shown.collect::<Map<_, _>>(), "body": body})
}

/// The value of a template over what a system said.
pub(super) fn made(tree: &Tree, scope: &Scope) -> Result<Value, Failure> {
    tree.value(scope).map_err(|why| invalid(&why.to_string()))
}

/// Whether a result is what the operation says that its results are.
pub(super) fn check(operation: &Operation, result: &Value) -> Result<(), Failure> {
    let checked = operation.output_validator.check_at("/result", result);
    checked.map_err(|failure| invalid(&failure.message))
}

/// A result as it is kept.
pub(super) fn kept(result: &Value) -> Result<RawJson, Failure> {
    let raw = RawValue::from_string(result.to_string());
    let raw = raw.map_err(|_| invalid("its result is no JSON"))?;
    RawJson::result(raw).map_err(|error| {
        let message = format!("the system's answer cannot be kept: {error}");
        Failure::new(Category::Permanent, "answer_too_large", message)
    })
}

pub(super) fn invalid(why: &str) -> Failure {
    let message = format!("the system's answer is not what its connector says: {why}");
    Failure::new(Category::Upstream, "answer_invalid", message).retryable(false)
}
