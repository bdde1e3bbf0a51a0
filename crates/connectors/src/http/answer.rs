//! The answer of a host: a result, or a failure that says when to come back.

use http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use kernel::failure::{Category, Failure};
use kernel::values::Timestamp;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;

use super::request::Request;
use super::wire::{self, Exchange};
use crate::limits;
use crate::text;
use crate::tools::{Done, Fault, Meta};

/// Headers that are part of the result. Cookies are not: they are credentials.
const SHOWN: [&str; 13] = [
    "cache-control",
    "content-disposition",
    "content-language",
    "content-length",
    "content-type",
    "date",
    "etag",
    "last-modified",
    "link",
    "location",
    "retry-after",
    "www-authenticate",
    "x-request-id",
];

/// Reads the answer to `request` after `redirects` of them.
pub(crate) async fn read(
    request: &Request,
    exchange: Exchange,
    now: Timestamp,
    redirects: u8,
) -> Result<Done, Fault> {
    let Exchange { response, connection } = exchange;
    let (head, body) = response.into_parts();
    if let Some(fault) = refusal(head.status, &head.headers, now) {
        return Err(fault);
    }
    let (bytes, cut) = collect(body, request.max_bytes).await?;
    drop(connection);
    let mut result = Map::new();
    result.insert("status".to_owned(), json!(head.status.as_u16()));
    result.insert("headers".to_owned(), shown(&head.headers));
    let (name, (content, truncated)) = match text::utf8(&bytes, cut) {
        Some(text) => ("body", text),
        None => ("body_base64", text::base64(&bytes, cut)),
    };
    result.insert(name.to_owned(), json!(content));
    result.insert("truncated".to_owned(), json!(truncated));
    let meta = Meta {
        status: Some(head.status.as_u16()),
        bytes_out: u64::try_from(request.body.len()).unwrap_or(u64::MAX),
        bytes_in: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        redirects,
        ..Meta::default()
    };
    Ok(Done { result: Value::Object(result).to_string(), meta })
}

/// The first `max` bytes of `body`, and whether there were more.
pub(crate) async fn collect(mut body: Incoming, max: usize) -> Result<(Vec<u8>, bool), Fault> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| wire::lost(&e))?;
        let Some(data) = frame.data_ref() else { continue };
        let room = max - bytes.len();
        bytes.extend_from_slice(data.get(..room).unwrap_or(data));
        if data.len() > room {
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}

fn shown(headers: &HeaderMap) -> Value {
    let mut shown = Map::new();
    for name in SHOWN {
        let values: Vec<_> = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect();
        if !values.is_empty() {
            shown.insert(name.to_owned(), json!(values.join(", ")));
        }
    }
    Value::Object(shown)
}

/// The failure that a status stands for. Statuses below 500 are results, but for 429.
fn refusal(status: StatusCode, headers: &HeaderMap, now: Timestamp) -> Option<Fault> {
    let (category, code) = match status {
        StatusCode::TOO_MANY_REQUESTS => (Category::RateLimited, "rate_limited"),
        status if status.as_u16() >= 500 => (Category::Upstream, "upstream_error"),
        // No other protocol was asked for.
        status if status.is_informational() => (Category::Upstream, "answer_invalid"),
        _ => return None,
    };
    let mut failure = Failure::new(category, code, format!("the host answered {status}"));
    failure = match status.as_u16() {
        429 | 503 => match retry_after(headers, now) {
            Some(ms) => failure.retry_after_ms(ms),
            None => failure,
        },
        500 | 502 | 504 => failure,
        _ => failure.retryable(false),
    };
    Some(match status {
        // A gateway speaks for a host that may have acted before it was given up on.
        StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Fault::Unknown(failure),
        _ => Fault::Failed(failure),
    })
}

/// `Retry-After` in milliseconds: a number of seconds, or a date.
pub(crate) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let at = OffsetDateTime::parse(text, &Rfc2822).ok()?.unix_timestamp();
            u64::try_from(at - now.0.div_euclid(1_000_000)).unwrap_or(0)
        }
    };
    Some(seconds.min(limits::RETRY_AFTER_MAX.as_secs()) * 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: &str, expect: Option<u64>) {
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, value.parse().unwrap())]);
        // 2026-11-21T02:00:00Z.
        assert_eq!(retry_after(&headers, Timestamp(1_795_226_400_000_000)), expect, "{value}");
    }

    #[test]
    fn retry_after_in_seconds_or_as_a_date() {
        check("2", Some(2_000));
        check("999999999999", Some(3_600_000));
        check("Sat, 21 Nov 2026 02:00:30 GMT", Some(30_000));
        check("Sat, 21 Nov 2026 01:00:00 GMT", Some(0));
        check("soon", None);
        check("-1", None);
    }
}
