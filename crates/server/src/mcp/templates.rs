//! Which URIs a URI template (RFC 6570) can make, as far as it takes to find a resource's server.

/// Expressions of a template that are looked at.
const EXPRESSIONS_MAX: usize = 16;

enum Part<'a> {
    Text(&'a str),
    /// Whether what it stands for may have a slash in it.
    Expression(bool),
}

/// Whether `template` can make `uri`.
pub(super) fn matches(template: &str, uri: &str) -> bool {
    let Some(parts) = parts(template) else { return false };
    fits(&parts, uri)
}

fn parts(template: &str) -> Option<Vec<Part<'_>>> {
    let mut parts = Vec::new();
    let mut rest = template;
    let mut expressions = 0;
    while let Some((text, after)) = rest.split_once('{') {
        let (expression, after) = after.split_once('}')?;
        expressions += 1;
        if expressions > EXPRESSIONS_MAX {
            return None;
        }
        if !text.is_empty() {
            parts.push(Part::Text(text));
        }
        let open = expression.starts_with(['+', '#', '/', '?', '&', ';', '.']);
        parts.push(Part::Expression(open || expression.ends_with('*')));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Some(parts)
}

/// Walks through the parts once; where an expression could end in several places, the last part
/// that has text decides, so the work is at most parts × bytes.
fn fits(parts: &[Part<'_>], uri: &str) -> bool {
    // The places, in bytes, up to which the parts so far may reach.
    let mut places = vec![0_usize];
    for part in parts {
        let mut next = Vec::new();
        match part {
            Part::Text(text) => {
                for place in places {
                    if uri.get(place..).is_some_and(|rest| rest.starts_with(text)) {
                        next.push(place + text.len());
                    }
                }
            }
            Part::Expression(slashes) => {
                let Some(first) = places.first().copied() else { return false };
                let mut started = false;
                for (place, byte) in uri.bytes().enumerate().skip(first) {
                    started = started || places.binary_search(&place).is_ok();
                    if started {
                        next.push(place);
                    }
                    if byte == b'/' && !slashes {
                        started = false;
                    }
                }
                if started || places.binary_search(&uri.len()).is_ok() {
                    next.push(uri.len());
                }
            }
        }
        places = next;
    }
    places.last() == Some(&uri.len())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn templates() {
        let check = |template: &str, uri: &str, expect: bool| {
            assert_eq!(matches(template, uri), expect, "{template} {uri}");
        };
        check("test://template/{id}/data", "test://template/123/data", true);
        check("test://template/{id}/data", "test://template/1/2/data", false);
        check("test://template/{id}/data", "test://template/123/other", false);
        check("file:///{+path}", "file:///a/b/c", true);
        check("file:///{path*}", "file:///a/b", true);
        check("file:///{path}", "file:///a/b", false);
        check("x://{a}-{b}", "x://1-2-3", true);
        check("x://{a}{?q}", "x://1?q=2/3", true);
        check("x://plain", "x://plain", true);
        check("x://plain", "x://plainer", false);
        check("x://{", "x://a", false);
        check("{a}", "", true);
        check(&"{a}x".repeat(16), &"x".repeat(5_000), true);
        check(&"{a}".repeat(17), "x", false);
    }
}
