//! Which requests are sent again, and when.

use std::time::Duration;

use http::{HeaderMap, StatusCode, header};
use proto::client::HttpCall;
use proto::routes::{Idempotency, ROUTES, Route};

use crate::limits;

/// Whether a request may be sent twice without a second effect.
pub(crate) fn is_repeatable(call: &HttpCall) -> bool {
    call.method == "GET" || call.idempotency_key.is_some()
}

/// Whether the rpc of this call is refused without an Idempotency-Key.
pub(crate) fn needs_key(call: &HttpCall) -> bool {
    let path = call.path_and_query.split('?').next().unwrap_or_default();
    let is_called = |route: &&Route| route.http_method == call.method && matches(route.path, path);
    // A literal segment comes before a variable one, so the route with the fewest of these counts.
    let called =
        ROUTES.iter().filter(is_called).min_by_key(|route| route.path.matches('{').count());
    called.is_some_and(|route| route.idempotency == Idempotency::Required)
}

/// Whether `path` is one of those that `template` (`/v1/a/{id}/b`, `/v1/t/{*rest}`) stands for.
fn matches(template: &str, path: &str) -> bool {
    let mut given = path.split('/');
    for part in template.split('/') {
        let Some(segment) = given.next() else { return false };
        if part.starts_with("{*") {
            return !segment.is_empty();
        }
        let is_variable = part.starts_with('{') && !segment.is_empty();
        if !is_variable && part != segment {
            return false;
        }
    }
    given.next().is_none()
}

/// The pause before attempt `next` (2 is the first repetition) after no connection.
pub(crate) fn backoff(next: u32) -> Duration {
    limits::BACKOFF_FIRST * 2_u32.saturating_pow(next.saturating_sub(2))
}

/// The pause that an answer of 429 or 503 asks for, where it is short enough to be waited for.
pub(crate) fn pause(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    if status != StatusCode::TOO_MANY_REQUESTS && status != StatusCode::SERVICE_UNAVAILABLE {
        return None;
    }
    let seconds: u64 = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds)).filter(|pause| *pause <= limits::RETRY_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_needed_where_the_routes_say_so() {
        let check = |method, path: &str, expected| {
            let call = HttpCall {
                method,
                path_and_query: path.to_owned(),
                body: Vec::new(),
                content_type: None,
                idempotency_key: None,
            };
            assert_eq!(needs_key(&call), expected, "{method} {path}");
        };
        check("POST", "/v1/principals", true);
        check("POST", "/v1/principals/p%2F1/roles", true);
        check("POST", "/v1/policies/rollback", true);
        check("POST", "/v1/policies/simulate", false);
        check("POST", "/v1/policies/p_1/publish?x=1", true);
        check("POST", "/v1/actions", false);
        check("GET", "/v1/principals", false);
        check("GET", "/v1/ledger/main/tile/0/001", false);
        check("POST", "/v1/keys/", false);
        check("POST", "/nowhere", false);
    }

    #[test]
    fn only_short_pauses_that_are_asked_for() {
        let check = |status: u16, after: Option<&'static str>, expected: Option<u64>| {
            let mut headers = HeaderMap::new();
            if let Some(after) = after {
                headers.insert(header::RETRY_AFTER, http::HeaderValue::from_static(after));
            }
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(pause(status, &headers), expected.map(Duration::from_secs), "{after:?}");
        };
        check(429, Some("2"), Some(2));
        check(503, Some("0"), Some(0));
        check(503, None, None);
        check(429, Some("3600"), None);
        check(429, Some("Wed, 21 Oct 2026 07:28:00 GMT"), None);
        check(500, Some("1"), None);
    }
}
