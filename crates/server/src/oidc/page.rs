//! Answers to browsers: redirects, cookies, and refusals that a person can read.

use axum::response::{Html, IntoResponse as _, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use kernel::failure::Failure;
use url::Url;

use super::error::{Error, Result};
use crate::error;
use crate::limits;

/// The cookie of a login under way.
pub(super) const LOGIN_COOKIE: &str = "tally_login";
/// What may be on our pages: nothing but their own text.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'none'";

/// A redirect by GET, which nobody keeps.
pub(super) fn redirect(url: &str, cookies: &[String]) -> Result<Response> {
    let invalid = |_| Error::Invalid("a URL has characters that a header cannot carry");
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(url).map_err(invalid)?);
    for cookie in cookies {
        let mut value = HeaderValue::try_from(cookie).map_err(invalid)?;
        value.set_sensitive(true);
        headers.append(header::SET_COOKIE, value);
    }
    Ok(private(response))
}

/// Keeps an answer out of caches, and its URL out of the next page's hands.
pub(crate) fn private(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// A cookie that scripts cannot read and other sites cannot send along with a POST.
pub(super) fn cookie(name: &str, value: &str, path: &str, age_s: i64, secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path={path}; Max-Age={age_s}; HttpOnly; SameSite=Lax{secure}")
}

/// The value of a cookie of a request.
pub(super) fn cookie_of<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// A refusal: a page for browsers, the one error document for everybody else.
pub(super) fn refuse(failure: Failure, headers: &HeaderMap) -> Response {
    let mut wire = error::wire(failure);
    let text = |name: &str| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    wire.request_id = text(proto::rest::REQUEST_ID).unwrap_or_default().to_owned();
    let browser = text(header::ACCEPT.as_str()).is_some_and(|accept| accept.contains("text/html"));
    if !browser {
        return private(wire.into_response());
    }
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><title>Not logged in</title>\
         <style>body{{font:1rem/1.5 system-ui;max-width:40rem;margin:4rem auto;padding:0 1rem}}\
         </style><h1>Not logged in</h1><p>{}</p><p><small>{} · {}</small></p></html>",
        escape(&wire.message),
        escape(&wire.code),
        escape(&wire.request_id),
    );
    let status = proto::error::http_status(&wire);
    let guards = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    private((status, guards, Html(page)).into_response())
}

/// Text for HTML.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// Where a login returns to: a path of `origin` and nothing that a browser takes for more.
pub(super) fn return_to(asked: Option<&str>, origin: &str) -> Result<String> {
    let asked = asked.unwrap_or("/");
    let plain = |b: u8| b.is_ascii_graphic() && b != b'\\';
    let path = asked.len() <= limits::RETURN_TO_BYTES_MAX
        && asked.starts_with('/')
        && !asked.starts_with("//")
        && asked.bytes().all(plain);
    let base = Url::parse(origin).map_err(|_| Error::ReturnTo)?;
    // As a browser reads it: whatever it makes of the text must still be ours.
    let joined = base.join(asked).map_err(|_| Error::ReturnTo)?;
    let ours = joined.origin() == base.origin() && !joined.path().starts_with("//");
    if path && ours { Ok(asked.to_owned()) } else { Err(Error::ReturnTo) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_return_to_this_server_alone() {
        let origin = "https://tally.example";
        for good in ["/", "/console", "/a/b?c=d&e=%2F%2Fevil.example#f", "/a//b", "/@evil.example"]
        {
            assert_eq!(return_to(Some(good), origin).ok().as_deref(), Some(good));
        }
        assert_eq!(return_to(None, origin).ok().as_deref(), Some("/"));
        let long = format!("/{}", "a".repeat(limits::RETURN_TO_BYTES_MAX));
        for bad in [
            "",
            "console",
            "//evil.example",
            "///evil.example",
            "/\\evil.example",
            "\\\\evil",
            "https://evil.example",
            "https:evil.example",
            "HTTP://evil.example",
            "javascript:a()",
            "/\t/evil.example",
            "\t//evil.example",
            "/\n/evil.example",
            " //evil.example",
            "/a\r\nset-cookie: x=y",
            "/\0",
            "//evil.example/%2e%2e",
            "/..//evil.example",
            "/.//evil.example",
            "/a/..//evil.example",
            "/%2e//evil.example",
            "http:/evil.example",
            "?next=//evil.example",
            "#",
            "@evil.example",
            "/é",
            &long,
        ] {
            assert!(return_to(Some(bad), origin).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn pages_hold_text_alone() {
        assert_eq!(escape("<a b='c' d=\"e\">&"), "&lt;a b=&#39;c&#39; d=&quot;e&quot;&gt;&amp;");
    }
}
