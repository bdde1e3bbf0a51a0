//! What a model answered, whatever form it came in.

use kernel::failure::{Category, Failure};
use serde_json::Value;

use super::meter::Usage;
use crate::limits;

/// Why a model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// It was done.
    Stop,
    /// It had no more tokens.
    Length,
    /// It, or its provider, would not.
    Refused,
    /// Something else.
    Other,
}

impl Finish {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Refused => "refused",
            Self::Other => "other",
        }
    }
}

/// An answer, or as much of it as has come.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) model: Option<String>,
    pub(super) finish: Option<Finish>,
    pub(super) usage: Option<Usage>,
    /// Bytes that the model wrote, those included that are not part of the text.
    pub(super) written: usize,
    /// Whether the stream said that it is over.
    pub(super) ended: bool,
}

impl Answer {
    /// Takes text that the model wrote.
    pub(super) fn push(&mut self, text: &str) {
        self.written = self.written.saturating_add(text.len());
        self.text.push_str(text);
    }

    /// Takes what it wrote that is not for the caller: its reasoning.
    pub(super) fn pass(&mut self, text: &str) {
        self.written = self.written.saturating_add(text.len());
    }

    /// The tokens that it wrote at the least, by what has come of it.
    pub(super) fn output_at_least(&self) -> u64 {
        let by_bytes = self.written.div_ceil(limits::LLM_TOKEN_BYTES_MAX);
        let reported = self.usage.map_or(0, |usage| usage.output_tokens);
        u64::try_from(by_bytes).unwrap_or(u64::MAX).max(reported)
    }
}

/// The text at `pointer`; empty where there is none.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The number at `pointer`; 0 where there is none.
pub(super) fn count(value: &Value, pointer: &str) -> u64 {
    value.pointer(pointer).and_then(Value::as_u64).unwrap_or(0)
}

/// The items at `pointer`.
pub(super) fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// The failure that the error of a provider stands for. Its words are not passed on: providers
/// repeat what was sent in them, parts of keys included.
pub(super) fn refusal(status: u16, error: &Value) -> Failure {
    let (kind, code, message) =
        (text(error, "/error/type"), text(error, "/error/code"), text(error, "/error/message"));
    let said = |words: &[&str]| {
        let message = message.to_ascii_lowercase();
        words.iter().any(|word| message.contains(word))
    };
    let permanent = |code: &str, message: &str| Failure::new(Category::Permanent, code, message);
    let too_long = code == "context_length_exceeded"
        || (status == 400 && said(&["prompt is too long", "context length", "context window"]))
        || status == 413;
    if too_long {
        let message = "the messages are longer than the model takes: send less";
        return permanent("model_context_exceeded", message);
    }
    if matches!(code, "content_filter" | "content_policy_violation") {
        return permanent("model_refused", "the provider's filter refused the messages");
    }
    if code == "insufficient_quota" || kind == "insufficient_quota" || kind == "billing_error" {
        let message = "the provider's own budget for this key is used up";
        return permanent("provider_quota_exceeded", message);
    }
    let word = [code, kind].into_iter().find(|word| is_code(word)).unwrap_or("no code");
    match status {
        401 | 403 => {
            let message = "the provider does not accept the key: put another one into the secret";
            Failure::new(Category::Auth, "provider_auth_failed", message)
        }
        404 => {
            let message = format!("the provider does not know the model or its URL ({word})");
            permanent("model_not_found", &message)
        }
        408 | 409 => Failure::new(
            Category::Upstream,
            "upstream_error",
            format!("the provider answered {status}"),
        ),
        429 => Failure::new(Category::RateLimited, "rate_limited", "the provider answered 429"),
        status if status >= 500 => Failure::new(
            Category::Upstream,
            "upstream_error",
            format!("the provider answered {status} ({word})"),
        ),
        _ => permanent(
            "request_refused",
            &format!("the provider refused the request with {status} ({word})"),
        ),
    }
}

/// Whether it is a code and not a sentence.
fn is_code(word: &str) -> bool {
    (1..=64).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// Whether a model that answers is the one that was asked for: that very name, or the name with
/// the date of its release (`-20260114` or `-2026-01-14`), where `-latest` stands for any.
pub(super) fn is_pinned(asked: &str, answered: &str) -> bool {
    if asked == answered {
        return true;
    }
    let stem = asked.strip_suffix("-latest").unwrap_or(asked);
    let Some(rest) = answered.strip_prefix(stem) else { return false };
    if rest.is_empty() {
        return true;
    }
    let Some(date) = rest.strip_prefix('-') else { return false };
    let shape: String = date.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    matches!(shape.as_str(), "00000000" | "0000-00-00")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pinned_model_may_add_its_date() {
        for (asked, answered, good) in [
            ("m-1", "m-1", true),
            ("m-1", "m-1-20260114", true),
            ("m-1", "m-1-2026-01-14", true),
            ("m-1-latest", "m-1-20260114", true),
            ("m-1-latest", "m-1", true),
            ("m-1", "m-1-mini", false),
            ("m-1", "m-10", false),
            ("m-1", "m-1-2026", false),
            ("m-1-20260114", "m-1-20260201", false),
            ("m-1-20260114", "m-1", false),
            ("m-1", "", false),
        ] {
            assert_eq!(is_pinned(asked, answered), good, "{asked} {answered}");
        }
    }

    #[test]
    fn errors_of_providers_are_told_apart() {
        let error = |kind: &str, code: &str, message: &str| {
            let error = json!({"type": kind, "code": code, "message": message});
            json!({"error": error})
        };
        for (status, error, code, retryable) in [
            (401, error("authentication_error", "", "sk-secret"), "provider_auth_failed", false),
            (403, error("permission_error", "", ""), "provider_auth_failed", false),
            (404, error("not_found_error", "", ""), "model_not_found", false),
            (429, error("rate_limit_error", "", ""), "rate_limited", true),
            (429, error("", "insufficient_quota", ""), "provider_quota_exceeded", false),
            (500, error("api_error", "", ""), "upstream_error", true),
            (529, error("overloaded_error", "", ""), "upstream_error", true),
            (400, error("", "context_length_exceeded", ""), "model_context_exceeded", false),
            (400, error("", "", "prompt is too long: 9 > 1"), "model_context_exceeded", false),
            (400, error("", "content_filter", ""), "model_refused", false),
            (400, error("invalid_request_error", "", "sk-secret"), "request_refused", false),
            (418, json!("<html>"), "request_refused", false),
        ] {
            let failure = refusal(status, &error);
            assert_eq!((failure.code.as_str(), failure.retryable), (code, retryable), "{error}");
            assert!(!failure.message.contains("sk-secret"), "{failure}");
        }
    }
}
