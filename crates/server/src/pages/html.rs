//! The frame of a page, and text for it.

use axum::response::{Html, IntoResponse as _, Response};
use http::{StatusCode, header};

pub(super) use crate::oidc::escape;
use crate::oidc::private;

/// What may be on our pages: their own text, and forms that go to this server.
const CONTENT_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; \
    frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const STYLE: &str = "body{font:1rem/1.5 system-ui;max-width:48rem;margin:3rem auto;padding:0 1rem}\
    dt{font-weight:600;margin-top:.6rem}dd{margin:0;overflow-wrap:anywhere}\
    pre{background:#f4f4f4;color:#111;padding:.8rem;white-space:pre-wrap;overflow-wrap:anywhere}\
    .said{border-left:.3rem solid #b00;padding-left:.8rem}\
    label{display:block;margin:.6rem 0}button{font:inherit;padding:.4rem 1.2rem;margin-right:1rem}";

/// A page with this title and this HTML.
pub(super) fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let title = escape(title);
    let text = format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let guards = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    private((status, guards, Html(text)).into_response())
}

/// Text of an agent, so that it looks like what it is: what would turn or hide the text around it
/// is written out.
pub(super) fn plain(text: &str) -> String {
    escape(&visible(text))
}

/// The same for where no character of it means anything.
pub(crate) fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        let odd = character.is_control() && character != '\n' && character != '\t';
        if odd || is_format(character) {
            shown.push_str(&format!("\\u{{{:x}}}", u32::from(character)));
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Characters that are not seen themselves: of direction, of no width, and tags.
fn is_format(character: char) -> bool {
    matches!(u32::from(character),
        0xad | 0x61c | 0x180e | 0x200b..=0x200f | 0x2028..=0x202e | 0x2060..=0x206f
        | 0xfe00..=0xfe0f | 0xfeff | 0xfff9..=0xfffb | 0xe0000..=0xe0fff)
}

/// `name` and what it is, for a description list. The value is HTML.
pub(super) fn entry(name: &str, value: &str) -> String {
    if value.is_empty() {
        return String::new();
    }
    format!("<dt>{}</dt><dd>{value}</dd>", escape(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hides() {
        assert_eq!(
            plain("pay <b>5</b>\u{202e}00001\u{200b}\u{7}\n"),
            "pay &lt;b&gt;5&lt;/b&gt;\\u{202e}00001\\u{200b}\\u{7}\n"
        );
    }
}
