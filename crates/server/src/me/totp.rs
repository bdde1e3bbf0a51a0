//! Codes by time, RFC 6238: HMAC-SHA-1, six digits, thirty seconds.

use aws_lc_rs::hmac;
use kernel::factor::{self, DIGITS, STEP_S};
use kernel::values::Timestamp;
use subtle::ConstantTimeEq;

/// Bytes of a secret: as many as SHA-1 gives (RFC 4226, 4).
pub(super) const SECRET_BYTES: usize = 20;

/// The code of a counter.
fn code(secret: &[u8], counter: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &counter.to_be_bytes());
    let tag = tag.as_ref();
    // Dynamic truncation, RFC 4226, 5.3: four bytes from where the last one's low bits say.
    let offset = usize::from(tag.last().copied().unwrap_or_default() & 0x0f);
    let mut word = [0; 4];
    for (to, from) in word.iter_mut().zip(tag.iter().skip(offset)) {
        *to = *from;
    }
    let number = (u32::from_be_bytes(word) & 0x7fff_ffff) % 10_u32.pow(DIGITS);
    format!("{number:0width$}", width = usize::try_from(DIGITS).unwrap_or(6))
}

/// Whether a text has the form of a code.
pub(super) fn is_code(text: &str) -> bool {
    text.len() == 6 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The counter that `given` is the code of at `now`, if any. Every counter is tried, so that the
/// time that it takes says nothing.
pub(super) fn counter(secret: &[u8], given: &str, now: Timestamp) -> Option<u64> {
    let good =
        |counter: &u64| bool::from(code(secret, *counter).as_bytes().ct_eq(given.as_bytes()));
    let found: Vec<u64> = factor::counters(now).filter(good).collect();
    // Where two steps have one code by chance, the later one: it is the fresher.
    found.into_iter().max()
}

/// What an authenticator app reads (the Key URI format).
pub(super) fn uri(secret: &str, principal: &str, tenant: &str) -> String {
    format!(
        "otpauth://totp/Tally:{principal}%40{tenant}?secret={secret}&issuer=Tally\
         &algorithm=SHA1&digits={DIGITS}&period={STEP_S}"
    )
}

/// Base32 (RFC 4648) without padding.
pub(super) fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let mut text = String::with_capacity(bytes.len().saturating_mul(8).div_ceil(5));
    for group in bytes.chunks(5) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().skip(3).zip(group) {
            *to = *from;
        }
        let bits = u64::from_be_bytes(word);
        let digits = group.len().saturating_mul(8).div_ceil(5);
        for digit in 0..digits {
            let shift = 35_usize.saturating_sub(digit.saturating_mul(5));
            let at = usize::try_from((bits >> shift) & 31).unwrap_or_default();
            text.extend(ALPHABET.get(at).map(|byte| char::from(*byte)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6238, appendix B, the last six of its eight digits; and RFC 4226, appendix D.
    #[test]
    fn the_examples_of_the_standards() {
        let secret = b"12345678901234567890";
        for (second, expect) in [
            (59, "287082"),
            (1_111_111_109, "081804"),
            (1_111_111_111, "050471"),
            (1_234_567_890, "005924"),
            (2_000_000_000, "279037"),
            (20_000_000_000_u64, "353130"),
        ] {
            assert_eq!(code(secret, second / 30), expect, "{second}");
        }
        for (counter, expect) in [(0, "755224"), (1, "287082"), (9, "520489")] {
            assert_eq!(code(secret, counter), expect, "{counter}");
        }
    }

    #[test]
    fn one_step_before_and_after_is_taken() {
        let secret = b"12345678901234567890";
        let at = |second: i64| Timestamp(second * 1_000_000);
        for (second, expect) in
            [(29, Some(1)), (59, Some(1)), (89, Some(1)), (90, None), (-1, None), (119, None)]
        {
            assert_eq!(counter(secret, "287082", at(second)), expect, "{second}");
        }
        assert_eq!(counter(secret, "287083", at(59)), None);
        assert!(is_code("012345"));
        for text in ["", "12345", "1234567", "12345a", "１２３４５６"] {
            assert!(!is_code(text), "{text}");
        }
    }

    /// RFC 4648, 10.
    #[test]
    fn base32_as_the_standard_has_it() {
        for (bytes, expect) in [
            ("", ""),
            ("f", "MY"),
            ("fo", "MZXQ"),
            ("foo", "MZXW6"),
            ("foob", "MZXW6YQ"),
            ("fooba", "MZXW6YTB"),
            ("foobar", "MZXW6YTBOI"),
        ] {
            assert_eq!(base32(bytes.as_bytes()), expect);
        }
    }
}
