//! Bytes as text in JSON, within the bounds of a result.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::limits;

/// `bytes` as text and whether it is cut, or none where they are not UTF-8. Where they were `cut`
/// off before, a broken character at the end does not count against them.
pub(crate) fn utf8(bytes: &[u8], cut: bool) -> Option<(String, bool)> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) if cut && error.error_len().is_none() => {
            std::str::from_utf8(bytes.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    let mut room = limits::CONTENT_JSON_BYTES_MAX;
    let fits = |c: &char| {
        let left = room.checked_sub(json_bytes(*c));
        room = left.unwrap_or(room);
        left.is_some()
    };
    let kept: String = text.chars().take_while(fits).collect();
    let cut = cut || kept.len() < text.len();
    Some((kept, cut))
}

/// `bytes` in base64 and whether they are cut.
pub(crate) fn base64(bytes: &[u8], cut: bool) -> (String, bool) {
    let kept = bytes.get(..limits::CONTENT_JSON_BYTES_MAX / 4 * 3);
    (STANDARD.encode(kept.unwrap_or(bytes)), cut || kept.is_some_and(|k| k.len() < bytes.len()))
}

/// Bytes of `c` in a JSON string, at most.
fn json_bytes(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' => 2,
        c if c.is_control() => 6,
        c => c.len_utf8(),
    }
}

#[cfg(test)]
mod tests {
    use super::{base64, utf8};
    use crate::limits::CONTENT_JSON_BYTES_MAX as MAX;

    #[test]
    fn only_a_cut_excuses_a_broken_end() {
        let text = |text: &str, cut| Some((text.to_owned(), cut));
        assert_eq!(utf8("aß".as_bytes(), false), text("aß", false));
        assert_eq!(utf8(b"a\xc3", false), None);
        assert_eq!(utf8(b"a\xc3", true), text("a", true));
        assert_eq!(utf8(b"\xffa", true), None);
    }

    #[test]
    fn what_json_makes_longer_is_cut_earlier() {
        for c in ["a", "\0", "\"", "ß", "\u{7f}", "\u{85}"] {
            let (kept, cut) = utf8(c.repeat(MAX).as_bytes(), false).unwrap();
            let json = serde_json::to_string(&kept).unwrap();
            assert!(json.len() <= MAX + 2 && cut == (c != "a"), "{c:?}: {}", json.len());
        }
        assert!(base64(&vec![0; MAX], false).0.len() <= MAX && base64(&vec![0; MAX], false).1);
        assert!(!base64(&vec![0; MAX / 4 * 3], false).1);
    }
}
