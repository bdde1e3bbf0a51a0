//! What an answer means: the rules of a definition, and what holds where none does.

use http::{HeaderMap, HeaderName, StatusCode};
use kernel::failure::{Category, Failure};
use kernel::tool::FailureMode;
use kernel::values::Timestamp;
use serde_json::Value;

use super::document::{EffectDocument, RetryAfterForm, RuleDocument};
use crate::http::answer::retry_after;
use crate::limits;

/// When a rule holds. All that it names must be so.
#[derive(Clone, Debug, Default)]
struct When {
    /// From and to.
    statuses: Vec<(u16, u16)>,
    headers: Vec<(HeaderName, Vec<String>)>,
    body: Vec<(String, Vec<Value>)>,
}

/// What an answer means.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    when: When,
    code: String,
    category: Category,
    meaning: String,
    hint: String,
    retryable: bool,
    effect: Option<EffectDocument>,
    retry_after: Option<(HeaderName, RetryAfterForm)>,
}

/// A refusal, and whether what was asked for may have happened all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) unknown: bool,
}

impl Rule {
    pub(super) fn new(source: &RuleDocument) -> Result<Self, String> {
        let when = When::new(source)?;
        if !is_code(&source.code) {
            return Err(format!("code: `{}` is not 1 to 64 of a-z, 0-9 and `_`", source.code));
        }
        let known = [
            Category::Validation,
            Category::Auth,
            Category::Permission,
            Category::RateLimited,
            Category::Upstream,
            Category::Network,
            Category::Timeout,
            Category::Conflict,
            Category::NotFound,
            Category::Permanent,
        ];
        if !known.contains(&source.category) {
            return Err("category: what another system says is none of Tally's own".to_owned());
        }
        let retry_after = match &source.retry_after {
            Some(retry) => Some((header_name(&retry.header)?, retry.form)),
            None => None,
        };
        Ok(Self {
            when,
            code: source.code.clone(),
            category: source.category,
            meaning: source.meaning.clone(),
            hint: source.hint.clone(),
            retryable: source.retryable.unwrap_or(source.category.retryable()),
            effect: source.effect,
            retry_after,
        })
    }

    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// How a manifest tells of it.
    pub(super) fn mode(&self) -> FailureMode {
        FailureMode::new(&self.code, self.category, &self.meaning, &self.hint)
            .retryable(self.retryable)
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Refusal {
        let failure =
            Failure::new(self.category, &self.code, format!("{} ({status})", self.meaning));
        let mut failure = failure.retryable(self.retryable);
        let wait = match &self.retry_after {
            Some((name, form)) => wait(headers, name, *form, now),
            None => retry_after(headers, now),
        };
        if let Some(ms) = wait.filter(|_| self.retryable) {
            failure = failure.retry_after_ms(ms);
        }
        let unknown = match self.effect {
            Some(effect) => effect == EffectDocument::Unknown,
            None => unknown(status),
        };
        Refusal { failure, unknown }
    }
}

/// Whether a system that answers so may have acted before it failed.
fn unknown(status: StatusCode) -> bool {
    status.is_server_error()
        && status != StatusCode::SERVICE_UNAVAILABLE
        && status != StatusCode::NOT_IMPLEMENTED
}

impl When {
    fn new(source: &RuleDocument) -> Result<Self, String> {
        let statuses = match &source.when.status {
            None => Vec::new(),
            Some(Value::Array(all)) => all.iter().map(status).collect::<Result<_, _>>()?,
            Some(one) => vec![status(one)?],
        };
        let headers = source.when.header.iter();
        let headers = headers.map(|(name, values)| Ok((header_name(name)?, values.clone())));
        let headers = headers.collect::<Result<Vec<_>, String>>()?;
        let body: Vec<_> = source.when.body.clone().into_iter().collect();
        if let Some((pointer, _)) = body.iter().find(|(pointer, _)| !pointer.starts_with('/')) {
            return Err(format!("body: `{pointer}` is no JSON pointer: begin it with `/`"));
        }
        if statuses.is_empty() && headers.is_empty() && body.is_empty() {
            return Err("when: name a status, a header or something of the body".to_owned());
        }
        Ok(Self { statuses, headers, body })
    }

    fn holds(&self, status: StatusCode, headers: &HeaderMap, body: &Value) -> bool {
        let code = status.as_u16();
        let status = self.statuses.is_empty()
            || self.statuses.iter().any(|(from, to)| (*from..=*to).contains(&code));
        let header = |(name, values): &(HeaderName, Vec<String>)| {
            let found = headers.get(name).and_then(|value| value.to_str().ok());
            found.is_some_and(|found| values.is_empty() || values.iter().any(|v| v == found))
        };
        let member = |(pointer, values): &(String, Vec<Value>)| {
            body.pointer(pointer).is_some_and(|found| values.contains(found))
        };
        status && self.headers.iter().all(header) && self.body.iter().all(member)
    }
}

/// A status, or a class of them.
fn status(source: &Value) -> Result<(u16, u16), String> {
    let wrong = || "status: a number of three digits, or a class such as `5xx`".to_owned();
    if let Some(code) = source.as_u64() {
        let code = u16::try_from(code).ok().filter(|code| (200..=599).contains(code));
        return code.map(|code| (code, code)).ok_or_else(wrong);
    }
    let class = source.as_str().and_then(|text| text.strip_suffix("xx"));
    let class = class.and_then(|digit| digit.parse::<u16>().ok()).filter(|d| (2..=5).contains(d));
    class.map(|class| (class * 100, class * 100 + 99)).ok_or_else(wrong)
}

fn header_name(text: &str) -> Result<HeaderName, String> {
    HeaderName::from_bytes(text.as_bytes()).map_err(|_| format!("header: `{text}` is no name"))
}

fn is_code(text: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    (1..=64).contains(&text.len()) && text.bytes().all(good)
}

/// When to come back, in milliseconds from now.
fn wait(
    headers: &HeaderMap,
    name: &HeaderName,
    form: RetryAfterForm,
    now: Timestamp,
) -> Option<u64> {
    let number: i64 = headers.get(name)?.to_str().ok()?.trim().parse().ok()?;
    let seconds = match form {
        RetryAfterForm::Seconds => number,
        RetryAfterForm::EpochSeconds => number.saturating_sub(now.0.div_euclid(1_000_000)),
    };
    let seconds = u64::try_from(seconds).unwrap_or(0);
    Some(seconds.min(limits::RETRY_AFTER_MAX.as_secs()) * 1_000)
}

/// Why an answer is a refusal, where it is one: by the first rule that holds, or by its status.
pub(super) fn refusal(
    rules: &[Rule],
    status: StatusCode,
    headers: &HeaderMap,
    body: &Value,
    now: Timestamp,
) -> Option<Refusal> {
    if let Some(rule) = rules.iter().find(|rule| rule.when.holds(status, headers, body)) {
        return Some(rule.refusal(status, headers, now));
    }
    if status.is_success() {
        return None;
    }
    let (category, code) = by_status(status);
    let failure = Failure::new(category, code, format!("the system answered {status}"));
    let failure = match retry_after(headers, now) {
        Some(ms) if failure.retryable => failure.retry_after_ms(ms),
        _ if status.is_redirection() => failure.retryable(false),
        _ => failure,
    };
    Some(Refusal { failure, unknown: unknown(status) })
}

fn by_status(status: StatusCode) -> (Category, &'static str) {
    match status.as_u16() {
        300..=399 => (Category::Upstream, "redirected"),
        400 | 422 => (Category::Validation, "request_invalid"),
        401 => (Category::Auth, "credential_refused"),
        403 => (Category::Permission, "access_refused"),
        404 | 410 => (Category::NotFound, "not_found"),
        409 | 412 => (Category::Conflict, "conflict"),
        408 => (Category::Timeout, "timeout"),
        429 => (Category::RateLimited, "rate_limited"),
        500..=599 => (Category::Upstream, "upstream_error"),
        _ => (Category::Permanent, "refused"),
    }
}

/// How every connector fails besides what its definition says.
pub(super) fn common_modes() -> Vec<FailureMode> {
    use Category::{
        Auth, Conflict, Network, NotFound, Permanent, Permission, RateLimited, Timeout, Upstream,
        Validation,
    };
    let change = "change what the message names";
    let again = "it is tried again where that is safe";
    let look = "look at the system itself";
    let modes = [
        ("params_invalid", Validation, "the parameters break the input schema", change),
        ("request_unmade", Validation, "no request can be made of the parameters", change),
        ("url_invalid", Validation, "no URL can be made of the parameters", change),
        ("request_invalid", Validation, "the system does not take the request", change),
        ("host_not_granted", Permission, "no grant covers the host", "have it granted"),
        ("address_not_granted", Permission, "the host's address is not public", "have it granted"),
        ("secret_missing", Permanent, "a secret that the instance names is gone", "put it"),
        ("credential_refused", Auth, "the system does not accept the credential", "rotate it"),
        ("token_unavailable", Upstream, "the issuer of tokens gives none", again),
        ("access_refused", Permission, "the system does not let this be done", look),
        ("not_found", NotFound, "the system has no such thing, or does not show it", change),
        ("conflict", Conflict, "it contradicts the state of the system", "read it again"),
        (
            "record_changed",
            Conflict,
            "the record is not what it was expected to be",
            "read it again",
        ),
        ("rate_limited", RateLimited, "the system takes no more requests for now", again),
        ("too_many_calls", RateLimited, "as many calls are under way as there may be", again),
        ("circuit_open", Upstream, "the system failed again and again", again),
        ("upstream_error", Upstream, "the system failed", again),
        ("redirected", Upstream, "the system points elsewhere: that is not followed", look),
        ("refused", Permanent, "the system refuses it", look),
        ("dns_failed", Network, "the host has no address", again),
        ("connect_failed", Network, "the system cannot be reached", again),
        ("tls_failed", Network, "there is no TLS connection to the system", look),
        ("connection_lost", Network, "the connection broke before the answer was complete", again),
        ("timeout", Timeout, "there was no answer in time", again),
        ("answer_invalid", Upstream, "the answer is not what the definition says", look),
        ("answer_too_large", Permanent, "the answer is larger than it may be", "ask for less"),
        ("effect_unknown", Upstream, "whether it was carried out cannot be told", look),
    ];
    let never = ["redirected", "answer_invalid", "effect_unknown"];
    let mode = |(code, category, meaning, hint): (&str, Category, &str, &str)| {
        let mode = FailureMode::new(code, category, meaning, hint);
        if never.contains(&code) { mode.retryable(false) } else { mode }
    };
    modes.into_iter().map(mode).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: Timestamp = Timestamp(1_800_000_000_000_000);

    fn rules() -> Vec<Rule> {
        let rules = json!([
            {"when": {"status": [403, 429], "header": {"x-left": ["0"]}}, "code": "limited",
             "category": "RATE_LIMITED", "meaning": "m",
             "retryAfter": {"header": "x-reset", "as": "epoch_seconds"}},
            {"when": {"status": 403, "header": {"retry-after": []}}, "code": "slow",
             "category": "RATE_LIMITED", "meaning": "m"},
            {"when": {"status": 200, "body": {"/ok": [false], "/error": ["a", "b"]}}, "code": "ab",
             "category": "NOT_FOUND", "meaning": "m", "effect": "unknown"},
            {"when": {"status": "4xx"}, "code": "other", "category": "PERMANENT", "meaning": "m"},
        ]);
        let rules: Vec<RuleDocument> = serde_json::from_value(rules).unwrap();
        rules.iter().map(|rule| Rule::new(rule).unwrap()).collect()
    }

    fn check(
        status: u16,
        headers: &[(&str, &str)],
        body: Value,
    ) -> Option<(String, Option<u64>, bool)> {
        let headers = headers.iter().map(|(name, value)| {
            (HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap())
        });
        let (status, headers) = (StatusCode::from_u16(status).unwrap(), headers.collect());
        let refusal = refusal(&rules(), status, &headers, &body, NOW)?;
        Some((refusal.failure.code, refusal.failure.retry_after_ms, refusal.unknown))
    }

    #[test]
    fn the_first_rule_that_holds_counts() {
        let some = |code: &str, wait, unknown| Some((code.to_owned(), wait, unknown));
        assert_eq!(check(200, &[], json!({"ok": true})), None);
        assert_eq!(check(200, &[], json!({"ok": false, "error": "c"})), None);
        assert_eq!(check(200, &[], json!({"ok": false, "error": "b"})), some("ab", None, true));
        let reset = [("x-left", "0"), ("x-reset", "1800000090")];
        assert_eq!(check(403, &reset, json!(null)), some("limited", Some(90_000), false));
        let past = [("x-left", "0"), ("x-reset", "1799999999")];
        assert_eq!(check(429, &past, json!(null)), some("limited", Some(0), false));
        assert_eq!(
            check(403, &[("retry-after", "3")], json!(null)),
            some("slow", Some(3_000), false)
        );
        assert_eq!(check(403, &[("x-left", "1")], json!(null)), some("other", None, false));
        assert_eq!(check(500, &[], json!(null)), some("upstream_error", None, true));
        assert_eq!(
            check(503, &[("retry-after", "2")], json!(null)),
            some("upstream_error", Some(2_000), false)
        );
        assert_eq!(check(302, &[], json!(null)), some("redirected", None, false));
    }
}
