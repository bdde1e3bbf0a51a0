//! Which revision of MCP a message is of.
//!
//! Modern revisions say so in every request; a legacy one is agreed on when a session begins.

use http::{HeaderMap, HeaderName};

/// The header that names the revision.
pub(super) const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// The modern revision.
pub(super) const MODERN: &str = "2026-07-28";
/// The legacy revisions, newest first. All are served as the first is.
pub(super) const LEGACY: [&str; 3] = ["2025-11-25", "2025-06-18", "2025-03-26"];

/// Every revision that is served, as JSON.
pub(super) const SUPPORTED: &str = r#"["2026-07-28","2025-11-25","2025-06-18","2025-03-26"]"#;

/// How a message is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Era {
    /// By itself: everything that matters is in the message.
    Modern,
    /// In a session.
    Legacy,
}

/// Tells the era of a message by its headers, its method and the revision that its `_meta` names.
/// Whoever names anything but a legacy revision is held to the modern rules, so that a request
/// cannot choose the laxer ones by leaving something out.
pub(super) fn era(headers: &HeaderMap, method: &str, in_meta: bool) -> Era {
    let named = headers.get(VERSION).map(|value| value.to_str().unwrap_or_default().trim());
    let legacy = named.is_none_or(|named| LEGACY.contains(&named));
    let modern_only = matches!(method, "server/discover" | "subscriptions/listen");
    if in_meta || !legacy || (modern_only && named.is_none()) { Era::Modern } else { Era::Legacy }
}

/// The legacy revision that a session speaks where its client asks for `asked`.
pub(super) fn negotiated(asked: &str) -> &'static str {
    let [newest, ..] = LEGACY;
    LEGACY.into_iter().find(|known| *known == asked).unwrap_or(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eras() {
        let check = |named: Option<&'static str>, method: &str, in_meta: bool, era_is: Era| {
            let mut headers = HeaderMap::new();
            if let Some(named) = named {
                headers.insert(VERSION, named.parse().unwrap());
            }
            assert_eq!(era(&headers, method, in_meta), era_is, "{named:?} {method} {in_meta}");
        };
        check(None, "initialize", false, Era::Legacy);
        check(None, "tools/list", false, Era::Legacy);
        check(Some("2025-06-18"), "tools/list", false, Era::Legacy);
        check(Some("2026-07-28"), "tools/list", false, Era::Modern);
        check(Some("1900-01-01"), "tools/list", false, Era::Modern);
        check(Some("2025-06-18"), "tools/list", true, Era::Modern);
        check(None, "tools/list", true, Era::Modern);
        check(None, "server/discover", false, Era::Modern);
        assert_eq!(negotiated("2025-06-18"), "2025-06-18");
        assert_eq!(negotiated("2024-11-05"), "2025-11-25");
    }
}
